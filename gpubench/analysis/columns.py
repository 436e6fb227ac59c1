"""The names of every column of every frame, declared once."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["CELL", "FIGURE", "FRONTIER", "INNER", "KERNEL", "MEMORY", "RESERVED", "SAMPLE", "SUMMARY", "axis_columns"]

RUN_ID = "run_id"
CELL_ID = "cell_id"
INDEX = "index"
KEY = "key"
WORKLOAD = "workload"
BACKEND = "backend"
OUTCOME = "outcome"
STAGE = "stage"
REASON = "reason"

METRIC = "metric"
UNIT = "unit"
TIMER = "timer"
PASS = "pass"  # noqa: S105
RANGE = "range"

NUM_SAMPLES = "num_samples"
TRIALS = "trials"
MEDIAN = "median"
LOW = "low"
HIGH = "high"
P10 = "p10"
P90 = "p90"
P99 = "p99"
MIN = "min"
MAX = "max"
IQR = "iqr"
WARNINGS = "warnings"

TRIAL = "trial"
POSITION = "position"
VALUE = "value"
THROTTLED = "throttled"

SHARE = "share"
NESTED = "nested"

GROUP = "group"
ON_FRONTIER = "on_frontier"
ON_GROUP_FRONTIER = "on_group_frontier"
NEAR = "near"
DOMINATED_BY = "dominated_by"
DOMINATED_BY_RUN = "dominated_by_run"
MARGIN = "margin"

CELL = (RUN_ID, CELL_ID, INDEX, KEY, WORKLOAD, BACKEND, OUTCOME, STAGE, REASON)
"""What is true of a cell whatever was measured."""
FIGURE = (METRIC, UNIT, TIMER, PASS, RANGE)
"""What a figure is of."""
SUMMARY = (NUM_SAMPLES, TRIALS, MEDIAN, LOW, HIGH, P10, P90, P99, MIN, MAX, IQR, WARNINGS)
"""What is said of a figure's samples."""
SAMPLE = (TRIAL, POSITION, VALUE, THROTTLED)
KERNEL = (RUN_ID, CELL_ID, "kernel", "kind", "count", "total_s", "median_s", SHARE)
INNER = (RUN_ID, CELL_ID, RANGE, NESTED, "kernel_sum", "busy", "span", "gap", SHARE)
MEMORY = (
    RUN_ID,
    CELL_ID,
    "step",
    "bucket",
    *("capture_time", "replay_time", "eager_time"),
    *("device", "reserved", "allocated", "pool", "driver"),
    *("capture_time_total", "device_total", "reserved_total", "allocated_total", "pool_total", "driver_total"),
)
FRONTIER = (GROUP, ON_FRONTIER, ON_GROUP_FRONTIER, NEAR, DOMINATED_BY, DOMINATED_BY_RUN, MARGIN)
RESERVED = frozenset((*CELL, *FIGURE, *SUMMARY, *SAMPLE, *FRONTIER))


def axis_columns(axes: Iterable[str], metrics: Iterable[str] = ()) -> dict[str, str]:
    """The column of each axis: its own name, or `<name>_axis` where a column or a metric has that name already.

    `backend` is a column of every cell and needs none of its own.
    """
    names, taken = dict.fromkeys(axes), RESERVED.union(metrics)
    columns: dict[str, str] = {}
    for name in names:
        if name == BACKEND:
            continue
        column = name
        while column in taken or column in columns.values() or (column != name and column in names):
            column += "_axis"
        columns[name] = column
    return columns
