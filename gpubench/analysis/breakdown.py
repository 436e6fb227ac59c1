"""Where a profiled step's time went: by kernel, and by the ranges that its code opened.

`kernel_frame`   a row per cell and kernel, most time first
`range_frame`    a row per cell and inner range, in the order in which they came
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.merge import CellResult
from gpubench.records import KernelShare, Outcome, Pass

__all__ = ["INNER_METRICS", "kernel_frame", "kernels_of", "nested_ranges", "range_frame"]

INNER_METRICS = ("kernel_sum", "busy", "span", "gap")


def kernels_of(cell: CellResult) -> list[KernelShare]:
    """What a profiled repetition of an ok cell ran, most time first; nothing where no profiler saw it."""
    if cell.outcome is not Outcome.OK:
        return []
    return next((record.kernels for record in cell.of(Pass.PROFILE) if record.kernels), [])


def nested_ranges(cell: CellResult) -> set[str]:
    """The inner ranges that lie in other inner ranges, so that their times are part of those."""
    said = (record.details.get("nested_ranges") for record in cell.of(Pass.PROFILE))
    return {str(name) for names in said if isinstance(names, list) for name in names}


def kernel_frame(run_id: str, cells: Sequence[CellResult]) -> pd.DataFrame:
    """Columns `KERNEL`: `count` and `total_s` are per repetition, `median_s` of one execution.

    `share` is of the durations of all the cell's operations: copies and fills are among them, named in brackets.
    """
    rows = [
        (run_id, cell.cell.cell_id, k.name, k.kind, k.count, k.total_s, k.median_s, k.share)
        for cell in cells
        for k in kernels_of(cell)
    ]
    return pd.DataFrame(rows, columns=list(c.KERNEL))


def range_frame(frame: pd.DataFrame, cells: Sequence[CellResult]) -> pd.DataFrame:
    """Columns `INNER`, from a run's cell frame: medians in s over the repetitions, in each of which a range is summed.

    `share` is busy's, of the step's busy time. A `nested` range is part of another one: adding it up counts it twice.
    """
    inner = frame[(frame[c.RANGE] != "") & frame[c.METRIC].isin(INNER_METRICS)]
    keys = [c.RUN_ID, c.CELL_ID, c.RANGE]
    by_metric = inner.drop_duplicates([*keys, c.METRIC]).set_index([*keys, c.METRIC])[c.MEDIAN].unstack(c.METRIC)
    order = pd.MultiIndex.from_frame(inner[keys].drop_duplicates())
    found = by_metric.reindex(index=order, columns=list(INNER_METRICS)).reset_index()
    whole = frame[(frame[c.RANGE] == "") & (frame[c.METRIC] == "busy")].drop_duplicates(c.CELL_ID)
    nested = {cell.cell.cell_id: nested_ranges(cell) for cell in cells}
    found[c.SHARE] = found["busy"] / found[c.CELL_ID].map(whole.set_index(c.CELL_ID)[c.MEDIAN]).astype(float)
    found[c.NESTED] = [name in nested[cell_id] for cell_id, name in zip(found[c.CELL_ID], found[c.RANGE], strict=True)]
    return found.rename_axis(columns=None)[list(c.INNER)]
