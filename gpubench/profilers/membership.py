"""Which operation belongs to which range.

An operation belongs to a range when the API call that launched it lies within the range, on the same thread. The GPU's
timestamps decide nothing. Calls and ranges are sorted per thread and met by binary search, so that the cost follows
the number of answers and not calls × ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gpubench.profilers.export import NOTHING, Ints
from gpubench.profilers.trace import GRAPH, THREAD_BITS, Calls, Operations, Ranges

__all__ = [
    "Intervals",
    "Launched",
    "Pairs",
    "by_name",
    "launch_order",
    "nest",
    "nesting_order",
    "pair_codes",
    "within",
]

_CORRELATION_BITS = 32


@dataclass(frozen=True)
class Intervals:
    """Spans of host time, each on a thread, sorted by thread and start."""

    thread: Ints
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Pairs:
    """Members of groups: `item[i]` belongs to `group[i]`; sorted by group, then by item."""

    group: Ints
    item: Ints

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True)
class Launched:
    """Operations in the order in which they were launched, thread by thread, each with its call.

    What no recorded call launched comes last, with a call of -1: it belongs to no range, but it did run.
    """

    start: Ints
    end: Ints
    kind: Ints
    name: Ints
    device: Ints
    process: Ints
    node: Ints
    call: Ints
    """Index of the call in launch order, or -1."""
    calls: Intervals
    """Per operation with a call: when and where it was made."""

    def __len__(self) -> int:
        return len(self.start)

    @property
    def duration(self) -> Ints:
        return self.end - self.start

    @property
    def opens_call(self) -> npt.NDArray[np.bool_]:
        """Whether an operation is the first that its call launched."""
        opens: npt.NDArray[np.bool_] = np.diff(self.call, prepend=-1) != 0
        return opens


def nesting_order(ranges: Ranges) -> Ints:
    """The order in which a parent comes before its children: by thread, start, longest first, as recorded."""
    return np.lexsort((np.negative(ranges.end), ranges.start, ranges.thread))


def nest(ranges: Intervals) -> Pairs:
    """Every ancestor of every range, as pairs of (ancestor, descendant)."""
    pairs = within(ranges, ranges)
    proper = pairs.group < pairs.item
    return Pairs(pairs.group[proper], pairs.item[proper])


def within(outer: Intervals, inner: Intervals) -> Pairs:
    """All pairs of an outer interval and an inner one on the same thread that lies wholly within it."""
    low, high = np.zeros(len(outer), np.int64), np.zeros(len(outer), np.int64)
    for thread in np.unique(outer.thread):
        theirs = slice(*np.searchsorted(outer.thread, [thread, thread + 1]))
        first, last = np.searchsorted(inner.thread, [thread, thread + 1])
        starts = inner.start[first:last]
        low[theirs] = first + np.searchsorted(starts, outer.start[theirs], side="left")
        high[theirs] = first + np.searchsorted(starts, outer.end[theirs], side="right")
    counts = high - low
    group = np.repeat(np.arange(len(outer)), counts)
    item = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts - low, counts)
    whole = inner.end[item] <= outer.end[group]
    return Pairs(group, item) if whole.all() else Pairs(group[whole], item[whole])


def by_name(members: Pairs, name: Ints, ranges: Intervals) -> Pairs:
    """Pairs of a range's name and an item, each once, however often the name is nested in itself; in no order."""
    tangled = _tangled(name, ranges)[members.group]
    names = name[members.group]
    if not tangled.any():
        return Pairs(names, members.item)
    items = int(members.item.max()) + 1
    once = np.unique(names[tangled] * items + members.item[tangled])
    plain = ~tangled
    return Pairs(np.concatenate([names[plain], once // items]), np.concatenate([members.item[plain], once % items]))


def _tangled(name: Ints, ranges: Intervals) -> npt.NDArray[np.bool_]:
    """Which ranges overlap another one of their name and thread."""
    order = np.lexsort((ranges.start, name, ranges.thread))
    lane = pair_codes(ranges.thread[order], name[order])
    reached = pd.Series(ranges.end[order]).groupby(lane).cummax().to_numpy()
    overlaps = np.zeros(len(order), np.bool_)
    overlaps[1:] = (lane[1:] == lane[:-1]) & (ranges.start[order][1:] <= reached[:-1])
    cluster = np.cumsum(~overlaps)
    tangled = np.empty(len(order), np.bool_)
    tangled[order] = np.bincount(cluster)[cluster] > 1
    return tangled


def pair_codes(left: Ints, right: Ints) -> Ints:
    """The same small number for the same pair."""
    left_codes, _ = pd.factorize(left)
    right_codes, right_values = pd.factorize(right)
    codes, _ = pd.factorize(left_codes * len(right_values) + right_codes)
    return codes.astype(np.int64)


def launch_order(operations: Operations, calls: Calls) -> Launched:
    """Join operations with the calls that launched them, by process and correlation id, and sort them by these.

    A graph whose kernels were traced one by one is left out, for it would count them twice. Where calls with one
    correlation id lie in one another, the outer one counts: it is the one the program made.
    """
    launched, made = _keys(operations, calls)
    outer_first = np.lexsort((np.negative(calls.end), calls.start, calls.thread))
    position = _find(made[outer_first], launched)
    sequence = np.argsort(np.where(position < 0, len(made), position), kind="stable")
    twice = _counted_twice(operations.kind, launched)
    if twice.any():
        sequence = sequence[~twice[sequence]]

    call = position[sequence]
    known = outer_first[call[: np.count_nonzero(call >= 0)]]
    return Launched(
        start=operations.start[sequence],
        end=operations.end[sequence],
        kind=operations.kind[sequence],
        name=operations.name[sequence],
        device=operations.device[sequence],
        process=operations.process[sequence],
        node=operations.node[sequence],
        call=call,
        calls=Intervals(calls.thread[known], calls.start[known], calls.end[known]),
    )


def _keys(operations: Operations, calls: Calls) -> tuple[Ints, Ints]:
    """One number per process and correlation id, for operations and for calls; negative where there is none."""
    processes, _ = pd.factorize(np.concatenate([operations.process, calls.thread >> THREAD_BITS]))
    correlation = np.concatenate([operations.correlation, calls.correlation])
    keys = processes.astype(np.int64) << _CORRELATION_BITS | correlation & (1 << _CORRELATION_BITS) - 1
    count = len(operations.process)
    keys[:count][operations.correlation == NOTHING] = -1
    keys[count:][calls.correlation == NOTHING] = -2
    return keys[:count], keys[count:]


def _find(sorted_calls: Ints, wanted: Ints) -> Ints:
    """Where each wanted key first stands among the calls' keys, -1 for nowhere."""
    if not len(sorted_calls):
        return np.full(len(wanted), -1, np.int64)
    by_key = np.argsort(sorted_calls, kind="stable")
    keys = sorted_calls[by_key]
    nearest = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[nearest] == wanted, by_key[nearest], -1)


def _counted_twice(kind: Ints, keys: Ints) -> npt.NDArray[np.bool_]:
    is_graph = kind == GRAPH
    twice = np.zeros(len(kind), np.bool_)
    twice[is_graph] = np.isin(keys[is_graph], keys[~is_graph & (keys >= 0)])
    return twice
