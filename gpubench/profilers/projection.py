"""Projecting NVTX ranges onto the GPU: what ran because of a range, and when.

`project` reads an nsys export and gives back tables; `docs/measuring.md` says what each figure means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from gpubench.errors import TraceError
from gpubench.profilers.captured import captured_pairs, captured_table
from gpubench.profilers.export import NOTHING, Ints
from gpubench.profilers.figures import Figures, figures
from gpubench.profilers.membership import (
    Intervals,
    Launched,
    Pairs,
    by_name,
    launch_order,
    nest,
    nesting_order,
    pair_codes,
    within,
)
from gpubench.profilers.tables import (
    INSTANCE_COLUMNS,
    OPEN_COLUMNS,
    figure_columns,
    kernel_table,
    nullable,
    range_table,
    spread,
    take_names,
)
from gpubench.profilers.trace import GRAPH, OPEN_END, THREAD_BITS, Ranges, Trace, read_trace

__all__ = ["Projection", "project", "project_trace"]

_ID_MASK = (1 << THREAD_BITS) - 1


@dataclass(frozen=True)
class Projection:
    """What a trace says of its ranges. The tables' columns are declared in `tables`."""

    path: Path
    mode: str
    """How replays of CUDA graphs were traced: `graph` (as a whole), `node` (kernel by kernel), or `none` ran."""
    instances: pd.DataFrame
    ranges: pd.DataFrame
    kernels: pd.DataFrame
    captured: pd.DataFrame
    captured_kernels: pd.DataFrame
    """As `kernels`, where `range` is the range that the replayed kernels were captured in."""
    open_ranges: pd.DataFrame
    operations: int
    unattributed_share: float
    """Of the GPU's time, the share of operations that no range accounts for; 0 where nothing ran."""
    about: dict[str, str]
    """The exporter's own words: EXPORT_PRODUCT_VERSION, EXPORT_SCHEMA_VERSION and the like."""


def project(path: Path, *, may_be_empty: bool = False) -> Projection:
    """Project an sqlite export of nsys; `TraceError` in one sentence if that can't be done.

    A trace without ranges, or in which nothing ran on a GPU, is refused unless it `may_be_empty`; then its tables are
    empty, or its figures null.
    """
    trace = read_trace(path)
    if not may_be_empty and not len(trace.ranges.start):
        raise TraceError(
            f"{path}: no NVTX ranges were recorded; open some around what counts, and record with nsys profile "
            "-t cuda,nvtx"
        )
    if not may_be_empty and not len(trace.operations.start):
        raise TraceError(
            f"{path}: nothing ran on a GPU while recording was on; record with nsys profile -t cuda,nvtx, and with "
            "--capture-range=cudaProfilerApi call cudaProfilerStart before the work"
        )
    return project_trace(trace)


def project_trace(trace: Trace) -> Projection:
    """Project what has been read."""
    ranges = _sort_ranges(trace.ranges)
    intervals = Intervals(ranges.thread, ranges.start, ranges.end)
    launched = launch_order(trace.operations, trace.calls)
    members = within(intervals, launched.calls)
    ancestry = nest(intervals)
    innermost = np.full(len(launched), -1, np.int64)
    innermost[members.item] = members.group  # children come later, so that the innermost is written last

    closed = np.flatnonzero(ranges.end != OPEN_END)
    everything = _instances(ranges, launched, members, ancestry, innermost)
    row = np.full(len(everything) + 1, -1, np.int64)  # the last stands for -1: no range
    row[closed] = np.arange(len(closed))
    instances = _keep_closed(everything, closed, row)
    members = _of_closed(members, ranges)
    named = by_name(members, ranges.name, intervals)
    captured = captured_pairs(launched, trace.nodes, intervals)
    captured_names = by_name(captured, ranges.name, intervals)
    total = int(launched.duration.sum())
    return Projection(
        path=trace.path,
        mode=_mode(launched),
        instances=instances,
        ranges=range_table(instances, named, ranges.names, launched),
        kernels=kernel_table(named, ranges.names, launched, trace.operations.names),
        captured=captured_table(members, captured, launched, everything, row),
        captured_kernels=kernel_table(captured_names, ranges.names, launched, trace.operations.names),
        open_ranges=_open_ranges(everything, ranges),
        operations=len(launched),
        unattributed_share=int(launched.duration[innermost < 0].sum()) / total if total else 0.0,
        about=trace.about,
    )


def _sort_ranges(ranges: Ranges) -> Ranges:
    order = nesting_order(ranges)
    return replace(
        ranges,
        start=ranges.start[order],
        end=ranges.end[order],
        thread=ranges.thread[order],
        name=ranges.name[order],
    )


def _instances(ranges: Ranges, launched: Launched, members: Pairs, ancestry: Pairs, innermost: Ints) -> pd.DataFrame:
    """Every range, the open ones too, with its figures."""
    count = len(ranges.start)
    found = figures(members, launched)
    exclusive = found if len(members) == np.count_nonzero(innermost >= 0) else figures(_grouped(innermost), launched)
    parent = np.full(count, -1, np.int64)
    parent[ancestry.item] = ancestry.group  # ancestors come outermost first, so that the innermost is written last
    recursive = np.zeros(count, np.bool_)
    recursive[ancestry.item[ranges.name[ancestry.group] == ranges.name[ancestry.item]]] = True
    columns = {
        "range": take_names(ranges.names, ranges.name),
        **figure_columns(found, count),
        "host_ns": nullable(ranges.end - ranges.start, ranges.end != OPEN_END),
        "launch_delay_ns": spread(found.group, found.launch_delay, count),
        "queued_behind": _queued_behind(ranges, found),
        "unattributed_share": _unattributed_shares(ranges, launched, found),
        **figure_columns(exclusive, count, "exclusive_"),
        "host_start_ns": ranges.start,
        "pid": ranges.thread >> THREAD_BITS & _ID_MASK,
        "tid": ranges.thread & _ID_MASK,
        "device": spread(found.group, found.device, count, found.device >= 0),
        "depth": np.bincount(ancestry.item, minlength=count),
        "parent": nullable(parent, parent >= 0),
        "recursive": recursive,
    }
    return pd.DataFrame(columns, columns=list(INSTANCE_COLUMNS))


def _grouped(group_of_item: Ints) -> Pairs:
    """Pairs from the group of each item, where -1 means none."""
    order = np.argsort(group_of_item, kind="stable")
    order = order[np.count_nonzero(group_of_item < 0) :]
    return Pairs(group_of_item[order], order)


def _keep_closed(instances: pd.DataFrame, closed: Ints, row: Ints) -> pd.DataFrame:
    """The rows of closed ranges, `parent` renumbered to them; null where the parent is still open."""
    kept = instances.iloc[closed].reset_index(drop=True)
    parent = row[kept["parent"].fillna(-1).to_numpy(np.int64)]
    return kept.assign(parent=nullable(parent, parent >= 0))


def _of_closed(members: Pairs, ranges: Ranges) -> Pairs:
    kept = ranges.end[members.group] != OPEN_END
    return members if kept.all() else Pairs(members.group[kept], members.item[kept])


def _queued_behind(ranges: Ranges, found: Figures) -> npt.NDArray[np.bool_]:
    """Whether a range's first operation was launched before the last one of an earlier range of its thread had ended.

    Such a range waited for the GPU: its launch delay is a queue's, not the launch's. Only ranges that were closed
    before it was opened, and that used the same device, count as earlier.
    """
    queued = np.zeros(len(ranges.start), np.bool_)
    launched_at = found.start - found.launch_delay
    lane = pair_codes(ranges.thread[found.group], found.device)
    for code in np.unique(lane[found.device >= 0]):
        mine = np.flatnonzero(lane == code)
        rows = found.group[mine]
        by_end = np.argsort(ranges.end[rows], kind="stable")
        done = np.maximum.accumulate((found.start + found.span)[mine][by_end])
        earlier = np.searchsorted(ranges.end[rows][by_end], ranges.start[rows], side="left")
        queued[rows] = (earlier > 0) & (launched_at[mine] < done[np.maximum(earlier - 1, 0)])
    return queued


def _unattributed_shares(ranges: Ranges, launched: Launched, found: Figures) -> npt.NDArray[np.float64]:
    """Of the GPU time that a range's process launched while it was open, the share that it doesn't see.

    That is other threads' work, whether these have ranges of their own or not.
    """
    total = np.zeros(len(ranges.start), np.int64)
    made = launched.process[: len(launched.calls)]
    for process in np.unique(made):
        mine = np.flatnonzero(made == process)
        mine = mine[np.argsort(launched.calls.start[mine], kind="stable")]
        starts = launched.calls.start[mine]
        so_far = np.concatenate([[0], launched.duration[mine].cumsum()])
        rows = np.flatnonzero(ranges.thread >> THREAD_BITS == process)
        first = np.searchsorted(starts, ranges.start[rows], side="left")
        last = np.searchsorted(starts, ranges.end[rows], side="right")
        total[rows] = so_far[last] - so_far[first]
    own = np.zeros(len(total), np.int64)
    own[found.group] = found.duration
    shares: npt.NDArray[np.float64] = (total - own) / np.maximum(total, 1)
    return shares


def _mode(launched: Launched) -> str:
    if (launched.kind == GRAPH).any():
        return "graph"
    return "node" if (launched.node != NOTHING).any() else "none"


def _open_ranges(instances: pd.DataFrame, ranges: Ranges) -> pd.DataFrame:
    still_open: pd.DataFrame = instances[ranges.end == OPEN_END].sort_values("host_start_ns", kind="stable")
    return still_open[list(OPEN_COLUMNS)].reset_index(drop=True)
