"""What torch's allocator has handed out on a GPU, and since when: the map in which a graph's addresses are looked up.

Made of `torch.cuda.memory._snapshot()`: segments are what the allocator got from CUDA, blocks what it gave to tensors,
and the trace, as far as its recording was on, who took and gave back what, in order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from gpubench.records import Frame
from gpubench.stacks import first_in_app

__all__ = ["COMMON_POOL", "Block", "Freed", "Memory", "Pool", "Segment", "read_memory"]

Pool = tuple[int, int]
"""The id of a graph's memory pool, or another's."""
COMMON_POOL: Pool = (0, 0)


class Block(NamedTuple):
    """A piece of a segment: somebody's, or free."""

    start: int
    end: int
    is_live: bool


@dataclass(frozen=True)
class Segment:
    """A range of addresses that the allocator got from CUDA."""

    start: int
    end: int
    pool: Pool
    blocks: tuple[Block, ...]
    """By address."""
    _starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [block.start for block in self.blocks])

    def find(self, address: int) -> Block | None:
        """The block that an address lies in; None in a gap, which is not mapped."""
        place = bisect_right(self._starts, address) - 1
        return self.blocks[place] if place >= 0 and address < self.blocks[place].end else None


@dataclass(frozen=True)
class Freed:
    """A block that was given back while the trace was recorded."""

    start: int
    end: int
    allocated_at: Frame | None
    """The innermost line of the cell's own code that asked for it; None where no stacks were recorded …"""
    freed_at: Frame | None
    """… and that gave it back."""


@dataclass(frozen=True)
class Memory:
    """The allocator's state at one moment."""

    segments: tuple[Segment, ...]
    """By address."""
    position: int = 0
    """How much had been recorded by then."""
    trace: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """What had been; the trace of a later state begins with it, unless that `is_cut`."""
    is_cut: bool = False
    """The record was full, and its beginning is lost."""
    _starts: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", [segment.start for segment in self.segments])

    def segment_of(self, address: int) -> Segment | None:
        """The segment that an address lies in."""
        place = bisect_right(self._starts, address) - 1
        return self.segments[place] if place >= 0 and address < self.segments[place].end else None

    def is_live(self, address: int) -> bool:
        """Whether an address lies in a block that somebody has."""
        segment = self.segment_of(address)
        block = segment.find(address) if segment else None
        return block is not None and block.is_live

    def without_trace(self) -> Memory:
        """The same, with what its position means but not what was recorded."""
        return replace(self, trace=())

    def freed_since(self, position: int, addresses: Iterable[int]) -> dict[int, Freed]:
        """Of these addresses the ones that lay in a block which was given back since then, and that block: the first.

        Nothing where the trace doesn't reach back so far.
        """
        if self.is_cut:
            return {}
        wanted = sorted(set(addresses))
        found: dict[int, Freed] = {}
        taken: dict[int, Mapping[str, Any]] = {}
        for number, entry in enumerate(self.trace):
            start = entry["addr"]
            if entry["action"] == "alloc":
                taken[start] = entry
            if entry["action"] != "free_requested" or number < position:
                continue
            end = start + entry["size"]
            for address in wanted[bisect_left(wanted, start) : bisect_left(wanted, end)]:
                if address not in found:
                    took = taken.get(start)
                    found[address] = Freed(start, end, _site(took) if took else None, _site(entry))
        return found


def read_memory(snapshot: Mapping[str, Any], device: int = 0, most_entries: int | None = None) -> Memory:
    """A device's state, from a snapshot with its segments and traces; `most_entries` is what the record can hold."""
    segments = [_read_segment(segment) for segment in snapshot["segments"] if segment["device"] == device]
    traces: Sequence[Sequence[Mapping[str, Any]]] = snapshot.get("device_traces", ())
    trace = tuple(traces[device]) if device < len(traces) else ()
    return Memory(
        tuple(sorted(segments, key=lambda segment: segment.start)),
        len(trace),
        trace,
        is_cut=most_entries is not None and len(trace) >= most_entries,
    )


def _read_segment(segment: Mapping[str, Any]) -> Segment:
    blocks = sorted(
        Block(block["address"], block["address"] + block["size"], block["state"] == "active_allocated")
        for block in segment["blocks"]
    )
    start = segment["address"]
    pool = tuple(segment.get("segment_pool_id", COMMON_POOL))
    return Segment(start, start + segment["total_size"], (pool[0], pool[1]), tuple(blocks))


def _site(entry: Mapping[str, Any]) -> Frame | None:
    return first_in_app([Frame(f["filename"], f["line"], f["name"]) for f in entry.get("frames", ())])
