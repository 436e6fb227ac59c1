"""What captured graphs cost: a row per cell and bucket, with what had been taken when the bucket was captured.

Buckets are captured largest first, so that a cell's last row, its smallest bucket, has the totals.
"""

from __future__ import annotations

import pandas as pd

from gpubench.analysis import columns as c

__all__ = ["BUCKET", "CAPTURE_TIME", "MEMORY_PARTS", "MEMORY_PREFIX", "REPLAY_TIMES", "is_of_bucket", "memory_frame"]

BUCKET = r"(?:(?P<step>\w+) )?bucket (?P<bucket>\d+)"
"""The range of a figure that is of one bucket; where a cell captures several steps, it says of which."""
CAPTURE_TIME = "capture_time"
REPLAY_TIMES = ("replay_time", "eager_time")
MEMORY_PREFIX = "memory_"
MEMORY_PARTS = ("device", "reserved", "allocated", "pool", "driver")


def is_of_bucket(frame: pd.DataFrame) -> pd.Series:
    """The rows of a cell frame that tell of a bucket of captured graphs: their range is no range of the step."""
    metric = frame[c.METRIC]
    is_memory = metric.str.startswith(MEMORY_PREFIX) & (frame[c.UNIT] == "B")
    return (is_memory | metric.isin([CAPTURE_TIME, *REPLAY_TIMES])) & frame[c.RANGE].str.fullmatch(BUCKET)


def memory_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns `MEMORY`, from a run's cell frame: seconds and bytes, in the order of the captures within a cell.

    `step` is empty where a cell captures but one, or where it decodes. `<part>_total` adds up the bucket's and those of
    all that were captured before it.
    """
    found = frame[is_of_bucket(frame)]
    keys = [c.RUN_ID, c.CELL_ID, "step", "bucket"]
    named = found[c.RANGE].str.extract(BUCKET)
    rows = found.assign(step=named["step"].fillna("").astype("str"), bucket=named["bucket"].astype("int64"))
    order = {cell_id: place for place, cell_id in enumerate(rows[c.CELL_ID].unique())}
    wide = rows.drop_duplicates([*keys, c.METRIC]).set_index([*keys, c.METRIC])[c.MEDIAN].unstack(c.METRIC)
    wide = wide.reindex(
        columns=[CAPTURE_TIME, *REPLAY_TIMES, *(MEMORY_PREFIX + part for part in MEMORY_PARTS)]
    ).reset_index()
    wide.columns = [str(name).removeprefix(MEMORY_PREFIX) for name in wide.columns]
    place = wide[c.CELL_ID].map(order)
    by_capture = ["place", "step", "bucket"]
    wide = wide.assign(place=place).sort_values(by_capture, ascending=[True, True, False], ignore_index=True)
    for part in (CAPTURE_TIME, *MEMORY_PARTS):
        wide[f"{part}_total"] = wide.groupby([c.RUN_ID, c.CELL_ID], sort=False)[part].cumsum()
    return wide[list(c.MEMORY)]
