"""The tables of a projection: their columns, declared once, and how they are filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from gpubench.profilers.export import Ints
from gpubench.profilers.figures import Figures
from gpubench.profilers.membership import Launched, Pairs

__all__ = [
    "CAPTURED_COLUMNS",
    "INSTANCE_COLUMNS",
    "KERNEL_COLUMNS",
    "KINDS",
    "OPEN_COLUMNS",
    "RANGE_COLUMNS",
    "figure_columns",
    "kernel_table",
    "nullable",
    "range_table",
    "spread",
    "take_names",
]

INSTANCE_COLUMNS = (
    "range",
    "start_ns",
    "span_ns",
    "busy_ns",
    "kernel_sum_ns",
    "gap_ns",
    "operations",
    "launches",
    "host_ns",
    "launch_delay_ns",
    "queued_behind",
    "unattributed_share",
    "exclusive_span_ns",
    "exclusive_busy_ns",
    "exclusive_kernel_sum_ns",
    "exclusive_gap_ns",
    "exclusive_operations",
    "exclusive_launches",
    "host_start_ns",
    "pid",
    "tid",
    "device",
    "depth",
    "parent",
    "recursive",
)
"""One row per range that was opened and closed, by thread and then host start, a parent before its children.

`start_ns` and `span_ns` are the range's projection onto the GPU; what begins with `exclusive_` leaves out what belongs
to a child. `parent` is the row of the innermost range around it, and a `recursive` range lies in one of its own name.
Without operations the figures are null; so is the kernel sum where a graph was traced as a whole, and `device` where
several were used.
"""

RANGE_COLUMNS = (
    "range",
    "instances",
    "span_ns_median",
    "busy_ns_median",
    "kernel_sum_ns_median",
    "gap_ns_median",
    "operations",
    "launches",
    "host_ns_median",
    "launch_delay_ns_median",
    "queued_behind",
)
"""One row per name: medians over its instances; `operations` and `launches` over all of them, each counted once."""

KERNEL_COLUMNS = ("range", "kernel", "kind", "count", "total_ns", "median_ns")
"""One row per range and kernel, most time first; copies, fills and whole graphs are named in brackets."""

CAPTURED_COLUMNS = (
    "range",
    "captured",
    "instance",
    "times",
    "start_ns",
    "span_ns",
    "busy_ns",
    "kernel_sum_ns",
    "gap_ns",
    "operations",
)
"""One row per range instance and name of a range in which some of its replayed kernels were captured.

A name that was captured `times` times, say once per layer, has the sum of its figures.
"""

OPEN_COLUMNS = ("range", "host_start_ns", "pid", "tid", "depth", "operations")
"""One row per range that was never closed, outermost first: where a crash happened."""

KINDS = ("kernel", "memcpy", "memset", "graph")
"""The kinds of operation, by their number."""


def nullable(values: Ints, known: npt.NDArray[np.bool_]) -> pd.api.extensions.ExtensionArray:
    """Integers of which some are unknown, exact to the nanosecond."""
    return pd.arrays.IntegerArray(values, ~known)


def spread(
    rows: Ints, values: Ints, count: int, known: npt.NDArray[np.bool_] | bool = True
) -> pd.api.extensions.ExtensionArray:
    """The values of some rows as a column of `count`, null in the others and where they are not `known`."""
    column, is_known = np.zeros(count, np.int64), np.zeros(count, np.bool_)
    column[rows] = values
    is_known[rows] = known
    return nullable(column, is_known)


def take_names(names: Sequence[str], codes: Ints) -> npt.NDArray[np.object_]:
    """The name of each code."""
    return np.asarray([*names, ""], dtype=object)[codes]


def figure_columns(found: Figures, count: int, prefix: str = "") -> dict[str, pd.api.extensions.ExtensionArray]:
    """Figures as columns of `count` rows; null in rows without operations, but for the counts, which are zero."""
    rows = found.group
    columns = {
        "start_ns": spread(rows, found.start, count),
        "span_ns": spread(rows, found.span, count),
        "busy_ns": spread(rows, found.busy, count),
        "kernel_sum_ns": spread(rows, found.kernel_sum, count, ~found.has_graph),
        "gap_ns": spread(rows, found.span - found.busy, count),
        "operations": spread(rows, found.operations, count).fillna(0),
        "launches": spread(rows, found.launches, count).fillna(0),
    }
    return {f"{prefix}{name}": column for name, column in columns.items()}


def range_table(instances: pd.DataFrame, named: Pairs, names: Sequence[str], launched: Launched) -> pd.DataFrame:
    """The instances of each name, summed up, in the order in which the names first appear."""
    grouped = instances.groupby("range", sort=False)
    timings = ["span_ns", "busy_ns", "kernel_sum_ns", "gap_ns", "host_ns", "launch_delay_ns"]
    table = grouped[timings].median().add_suffix("_median")
    table["instances"] = grouped.size()
    table["queued_behind"] = grouped["queued_behind"].sum()
    code = pd.Index(names).get_indexer(table.index)
    opened = named.group[launched.opens_call[named.item]]  # the operations of a call are all in the same ranges
    table["operations"] = np.bincount(named.group, minlength=len(names))[code]
    table["launches"] = np.bincount(opened, minlength=len(names))[code]
    return table.reset_index()[list(RANGE_COLUMNS)]


def kernel_table(named: Pairs, names: Sequence[str], launched: Launched, kernels: Sequence[str]) -> pd.DataFrame:
    """Count, total and median duration of every kernel of every range name."""
    group, duration = _sorted(named.group * len(kernels) + launched.name[named.item], launched.duration[named.item])
    first = np.flatnonzero(np.diff(group, prepend=-1))
    count = np.diff(np.append(first, len(group)))
    middle = duration[first + count // 2] + duration[first + (count - 1) // 2]
    kind = np.zeros(len(kernels), np.int64)
    kind[launched.name] = launched.kind
    range_code, kernel_code = np.divmod(group[first], max(len(kernels), 1))
    table = pd.DataFrame(
        {
            "range": take_names(names, range_code),
            "kernel": take_names(kernels, kernel_code),
            "kind": take_names(KINDS, kind[kernel_code]),
            "count": count,
            "total_ns": np.add.reduceat(duration, first) if len(first) else count,
            "median_ns": middle / 2,
        },
        columns=list(KERNEL_COLUMNS),
    )
    by_total = np.lexsort((-table["total_ns"].to_numpy(), range_code))
    return table.iloc[by_total].reset_index(drop=True)


def _sorted(group: Ints, value: Ints) -> tuple[Ints, Ints]:
    """Groups in order, and the values in order within each: as one number each where they fit, which sorts fastest."""
    bits = int(value.max(initial=0)).bit_length()
    if value.min(initial=0) < 0 or int(group.max(initial=0)).bit_length() + bits > 63:
        order = np.lexsort((value, group))
        return group[order], value[order]
    keys = np.sort(group << bits | value)
    return keys >> bits, keys & ((1 << bits) - 1)
