"""An allocator of a few pages that does what torch's does, writes the same snapshots, and knows who owns what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpubench.graphs.audit import Captured
from gpubench.graphs.memory import Memory, Pool, read_memory
from gpubench.graphs.nodes import Argument, GraphNodes, Node

BASE = 0x7F00_1000_0000
PAGE = 512
SEGMENT_PAGES = 8
SEGMENT = PAGE * SEGMENT_PAGES
OWN_POOL: Pool = (1, 0)


def address_of(segment: int, page: int, within: int = 0) -> int:
    return BASE + segment * SEGMENT + page * PAGE + within


@dataclass
class MadeMemory:
    """Segments of eight pages side by side; an allocation is one to three pages of one of them."""

    num_segments: int = 3
    pools: dict[int, Pool] = field(default_factory=dict)
    mapped: set[int] = field(default_factory=set)
    owner: dict[tuple[int, int], int] = field(default_factory=dict)
    """Of each page that somebody has, the allocation's number."""
    trace: list[dict[str, Any]] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self.mapped = set(range(self.num_segments))

    def allocate(self, segment: int, page: int, pages: int, function: str = "allocate") -> int | None:
        """Take these pages if they are free; the allocation's number."""
        wanted = [(segment, number) for number in range(page, page + pages)]
        if segment not in self.mapped or page + pages > SEGMENT_PAGES or any(each in self.owner for each in wanted):
            return None
        self._number += 1
        self.owner.update(dict.fromkeys(wanted, self._number))
        self._record("alloc", segment, page, pages, function)
        return self._number

    def free(self, allocation: int, function: str = "free") -> None:
        pages = sorted(where for where, number in self.owner.items() if number == allocation)
        for where in pages:
            del self.owner[where]
        segment, page = pages[0]
        self._record("free_requested", segment, page, len(pages), function)
        self._record("free_completed", segment, page, len(pages), function)

    def unmap(self, segment: int) -> None:
        """Give a segment back if nobody has a page of it."""
        if not any(where == segment for where, _ in self.owner):
            self.mapped.discard(segment)

    def map(self, segment: int) -> None:
        self.mapped.add(segment)

    @property
    def state(self) -> Memory:
        return read_memory(self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        return {"segments": [self._segment(number) for number in self.mapped], "device_traces": [list(self.trace)]}

    def _segment(self, segment: int) -> dict[str, Any]:
        blocks: list[dict[str, Any]] = []
        page = 0
        while page < SEGMENT_PAGES:
            allocation = self.owner.get((segment, page))
            last = page + 1
            while last < SEGMENT_PAGES and self.owner.get((segment, last)) == allocation:
                last += 1
            state = "inactive" if allocation is None else "active_allocated"
            size = (last - page) * PAGE
            blocks.append({"address": address_of(segment, page), "size": size, "state": state})
            page = last
        return {
            "device": 0,
            "address": address_of(segment, 0),
            "total_size": SEGMENT,
            "segment_pool_id": self.pools.get(segment, (0, 0)),
            "blocks": blocks,
        }

    def _record(self, action: str, segment: int, page: int, pages: int, function: str) -> None:
        frames = [
            {"filename": "/x/site-packages/torch/functional.py", "line": 1, "name": "einsum"},
            {"filename": "/home/me/mine.py", "line": 7, "name": function},
        ]
        entry = {"action": action, "addr": address_of(segment, page), "size": pages * PAGE, "frames": frames}
        self.trace.append(entry)


def whole(value: int, parameter: int | str = 0) -> Argument:
    return Argument(parameter, 0, 8, value)


def member(value: int, offset: int = 8, size: int = 24) -> Argument:
    """Of a struct; of a few pointers, if its size isn't given."""
    return Argument(0, offset, size, value)


def kernel(*arguments: Argument, name: str = "kernel") -> Node:
    return Node(name, tuple(arguments), len(arguments))


def captured(memory: MadeMemory, *nodes: Node, own: tuple[tuple[int, int], ...] = ()) -> Captured:
    """A graph of these nodes, captured now, in a moment."""
    now = memory.state.without_trace()
    return Captured(GraphNodes(list(nodes), list(own)), OWN_POOL, now, now)
