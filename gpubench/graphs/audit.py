"""Which addresses in a captured CUDA graph are stale: its nodes and the allocator's states in, the stale ones out.

A replay may use the graph's own pool, and what was somebody's when the graph was captured and has been his since. An
address is stale if it is of neither kind, and one was meant:

- it lay in somebody's block at the capture, and that block has been given back since, whoever has the place now; or
- it is all there is of a parameter, and lay in a free block already at the capture, or in memory that came later, or
  near the allocator's memory where CUDA knows of none: an address that a launcher remembered.

A word in the midst of a larger parameter is held to the first alone: structs have members that nobody filled in, and
what a stack's earlier tenant left there often is an old address, whole or with a number in its lower half. So it is
certain only in a struct of a few pointers, or at the head of a tensor map. Elsewhere it is possible, if it is aligned
as pointers in structs are and its block is known to have been given back; else it is a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpubench.graphs.memory import Freed, Memory, Pool
from gpubench.graphs.nodes import LOWEST_ADDRESS, Argument, GraphNodes
from gpubench.records import PointerState

__all__ = ["Audit", "Captured", "Stale", "audit"]

NEAR_BYTES = 1 << 37
"""So far around the allocator's memory, a word that is a whole parameter is taken for an address: 128 GiB."""
MOST_STRUCT_BYTES = 64
"""A larger struct holds tables, of which a launch fills the beginning and the rest is what was there before."""
TENSOR_MAP_BYTES = 128
"""Of a CUtensorMap; its first word is the address."""
MEMBER_ALIGNMENT = 16
"""A tensor map's address must be aligned so, and the tensors that torch passes in structs begin at multiples of 512."""
MOST_PACKED = 1 << 16
"""An address whose lower half is below this may be two integers, of which only the lower was filled in."""


@dataclass(frozen=True)
class Captured:
    """A graph, and what the allocator had handed out when its capture began and when it ended."""

    nodes: GraphNodes
    pool: Pool
    before: Memory
    after: Memory


class Stale(NamedTuple):
    """An address that the graph should not use."""

    kernel: str
    argument: Argument
    state: PointerState
    freed: Freed | None
    """The block that was there and was given back, if that was recorded."""
    num_parameters: int
    """The kernel's."""
    nodes: int
    """How many nodes are alike in kernel, parameter and address."""
    is_certain: bool = True
    """Else it may be what was left in a struct's member that nobody filled in."""


@dataclass(frozen=True)
class Audit:
    """What became of a graph's addresses."""

    nodes: int
    pointers: int
    """Words that are addresses of the GPU's memory, good and stale."""
    stale: tuple[Stale, ...]
    """In the order of the nodes that hold them."""
    unread: Mapping[str, int]
    """How many nodes could not be looked into, by their type."""


def audit(captured: Captured, now: Memory, pools: Collection[Pool], is_valid: Callable[[int], bool]) -> Audit:
    """Judge every address of a graph.

    `pools` are those of all graphs that are alive: memory in them is nobody else's. `is_valid` asks CUDA about an
    address that isn't torch's.
    """
    judge = _Judge(captured, now, pools, is_valid)
    held: Counter[tuple[str, Argument, int]] = Counter()
    pointers = 0
    for node in captured.nodes.nodes:
        for argument in node.arguments:
            verdict = judge.verdict(argument)
            pointers += verdict is not _NO_POINTER
            if isinstance(verdict, PointerState):
                held[node.kernel, argument, node.num_parameters] += 1
    stale = []
    for (kernel, argument, num_parameters), nodes in held.items():
        state = judge.verdict(argument)
        assert isinstance(state, PointerState), "it was judged stale before"
        freed = judge.freed.get(argument.value)
        stale.append(Stale(kernel, argument, state, freed, num_parameters, nodes, _is_certain(argument)))
    return Audit(len(captured.nodes.nodes), pointers, tuple(stale), captured.nodes.unread)


def _is_certain(argument: Argument) -> bool:
    """Whether a word that equals an old address was meant as one."""
    if argument.is_whole:
        return True
    if argument.value % MEMBER_ALIGNMENT:
        return False
    if argument.size == TENSOR_MAP_BYTES and argument.offset == 0:
        return True
    return argument.size <= MOST_STRUCT_BYTES and argument.value % (1 << 32) >= MOST_PACKED


_NO_POINTER = "no pointer"
_GOOD = "good"


class _Judge:
    """Judges words, each once in each of its roles."""

    def __init__(
        self, captured: Captured, now: Memory, pools: Collection[Pool], is_valid: Callable[[int], bool]
    ) -> None:
        self._captured = captured
        self._now = now
        self._own = {captured.pool, *pools}
        self._is_valid = is_valid
        self._near = _surroundings([captured.before, captured.after, now])
        words = (argument.value for node in captured.nodes.nodes for argument in node.arguments)
        self.freed = now.freed_since(captured.before.position, words)
        self._known: dict[tuple[int, bool, bool], PointerState | str] = {}

    def verdict(self, argument: Argument) -> PointerState | str:
        """Its state if it is stale, else good, or no pointer."""
        key = (argument.value, argument.is_whole, _is_certain(argument))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._judge(*key)
        return found

    def _judge(self, word: int, is_whole: bool, is_certain: bool) -> PointerState | str:
        segment = self._now.segment_of(word)
        if segment is not None and segment.pool in self._own:
            return _GOOD
        if any(start <= word < end for start, end in self._captured.nodes.own):
            return _GOOD
        if self._captured.before.is_live(word) or self._captured.after.is_live(word):
            is_same = word not in self.freed and self._now.is_live(word)
            if is_same:
                return _GOOD
            is_possible = word in self.freed and word % MEMBER_ALIGNMENT == 0
            return self._state_now(word) if is_certain or is_possible else _NO_POINTER
        if not is_whole:
            return _NO_POINTER
        if segment is not None or self._was_mapped(word):
            return self._state_now(word)
        if not any(low <= word < high for low, high in self._near):
            return _NO_POINTER
        return _GOOD if self._is_valid(word) else PointerState.UNKNOWN

    def _was_mapped(self, word: int) -> bool:
        captured = self._captured
        return captured.before.segment_of(word) is not None or captured.after.segment_of(word) is not None

    def _state_now(self, word: int) -> PointerState:
        if self._now.is_live(word):
            return PointerState.REUSED
        if self._now.segment_of(word) is not None:
            return PointerState.FREED
        return PointerState.REUSED if self._is_valid(word) else PointerState.UNMAPPED


def _surroundings(states: Sequence[Memory]) -> list[tuple[int, int]]:
    """The ranges around all memory that torch has or had, each range once."""
    ends = sorted({(segment.start, segment.end) for state in states for segment in state.segments})
    return list(_merge((max(LOWEST_ADDRESS, start - NEAR_BYTES), end + NEAR_BYTES) for start, end in ends))


def _merge(ranges: Iterable[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    last: tuple[int, int] | None = None
    for start, end in ranges:
        if last is not None and start <= last[1]:
            last = (last[0], max(last[1], end))
            continue
        if last is not None:
            yield last
        last = (start, end)
    if last is not None:
        yield last
