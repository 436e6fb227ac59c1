"""The figures of a group of operations: span, busy, kernel sum, gap and what they are counted from.

span        = last end − first start
busy        = length of the union of the intervals
kernel_sum  = Σ durations of the kernels; unknown where a graph was traced as a whole
gap         = span − busy
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gpubench.profilers.export import Ints
from gpubench.profilers.membership import Launched, Pairs
from gpubench.profilers.trace import GRAPH, KERNEL

__all__ = ["Figures", "figures"]


@dataclass(frozen=True)
class Figures:
    """A row per group that has operations; times in ns."""

    group: Ints
    start: Ints
    span: Ints
    busy: Ints
    kernel_sum: Ints
    has_graph: npt.NDArray[np.bool_]
    """A graph was traced as a whole: `kernel_sum` means nothing."""
    operations: Ints
    launches: Ints
    """Calls that launched something."""
    duration: Ints
    """Σ durations of all operations."""
    launch_delay: Ints
    """From the call that launched the first operation to start, to that start."""
    device: Ints
    """-1 where several were used."""


def figures(members: Pairs, launched: Launched) -> Figures:
    """The figures of each group of launched operations."""
    group, item = members.group, members.item
    first = np.flatnonzero(np.diff(group, prepend=-1))
    calls = launched.call[item]
    new_call = np.diff(calls, prepend=-1) != 0
    new_call[first] = True

    start, end = launched.start[item], launched.end[item]
    if ((np.diff(start) < 0) & (np.diff(group) == 0)).any():  # several streams, or threads that took turns
        by_start = np.lexsort((start, group))
        item, start, end = item[by_start], start[by_start], end[by_start]
    reached = pd.Series(end).groupby(group).cummax().to_numpy()
    before = np.concatenate([start[:1], reached[:-1]])
    before[first] = start[first]
    last = np.append(first[1:], len(group)) - 1 if len(first) else first

    duration, kind, device = end - start, launched.kind[item], launched.device[item]
    least, most = _reduce(np.minimum, device, first), _reduce(np.maximum, device, first)
    return Figures(
        group=group[first],
        start=start[first],
        span=reached[last] - start[first],
        busy=_reduce(np.add, np.maximum(end - np.maximum(start, before), 0), first),
        kernel_sum=_reduce(np.add, np.where(kind == KERNEL, duration, 0), first),
        has_graph=_reduce(np.add, (kind == GRAPH).astype(np.int64), first) > 0,
        operations=last - first + 1,
        launches=_reduce(np.add, new_call.astype(np.int64), first),
        duration=_reduce(np.add, duration, first),
        launch_delay=start[first] - launched.calls.start[item[first]],
        device=np.where(least == most, least, -1),
    )


def _reduce(by: np.ufunc, values: Ints, first: Ints) -> Ints:
    """One value per group, whose first members are at `first`."""
    reduced: Ints = by.reduceat(values, first) if len(first) else values[:0]
    return reduced
