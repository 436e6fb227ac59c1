"""What CUDA graphs cost: the memory that they took and the time of their capture, by bucket and of all together."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.memory import CAPTURE_TIME, MEMORY_PARTS, MEMORY_PREFIX, REPLAY_TIMES, is_of_bucket
from gpubench.analysis.metrics import format_value
from gpubench.report.content import Content

__all__ = ["memory", "memory_table"]

_WORDS = {"pool": "graphs' pool", "driver": "driver overhead"}


def memory(content: Content) -> dict[str, Any]:
    """`parts`: the figures' names, without their prefix; `rows`: by row of `cells`, a list per bucket, as captured.

    It is [step, bucket, seconds of its capture, bytes of each part]; what was not measured is null. Of each step, which
    is empty where a cell captures but one, the largest bucket comes first.
    """
    found = content.frame[is_of_bucket(content.frame) & ~content.frame[c.METRIC].isin(REPLAY_TIMES)]
    parts = [name.removeprefix(MEMORY_PREFIX) for name in found[c.METRIC].unique() if name != CAPTURE_TIME]
    place = content.places()
    rows: dict[int, dict[tuple[str, int], list[Any]]] = {}
    columns = [c.RUN_ID, c.CELL_ID, c.RANGE, c.METRIC, c.MEDIAN]
    for run_id, cell_id, name, metric, median in found[columns].itertuples(index=False):
        step, _, number = name.rpartition("bucket ")
        bucket = (step.strip(), int(number))
        figures = rows.setdefault(place[run_id, cell_id], {}).setdefault(bucket, [None] * (len(parts) + 1))
        figures[0 if metric == CAPTURE_TIME else 1 + parts.index(metric.removeprefix(MEMORY_PREFIX))] = float(
            f"{median:.6g}"
        )
    return {
        "parts": parts,
        "rows": {
            row: [
                [*bucket, *by_bucket[bucket]] for bucket in sorted(by_bucket, key=lambda found: (found[0], -found[1]))
            ]
            for row, by_bucket in sorted(rows.items())
        },
    }


def memory_table(content: Content) -> tuple[list[str], list[list[str]]]:
    """A head and a row per cell that captured: its buckets, and what all of them took; both empty without any."""
    captured = content.captures()
    if captured.empty:
        return [], []
    body = []
    for (run_id, cell_id), rows in captured.groupby([c.RUN_ID, c.CELL_ID], sort=False):
        total = rows[[CAPTURE_TIME, *MEMORY_PARTS]].sum(min_count=1)  # a part that nobody measured has no total
        figures = [format_value(total[part], "B") for part in MEMORY_PARTS]
        body.append(
            [
                content.cell_name(str(run_id), str(cell_id)),
                _buckets(rows),
                format_value(total[CAPTURE_TIME], "s"),
                *figures,
            ]
        )
    return ["cell", "buckets", "captured in", *(_WORDS.get(part, part) for part in MEMORY_PARTS)], body


def _buckets(rows: pd.DataFrame) -> str:
    """Those of a cell, `1, 2, 4; prefill 1,024`: numbers of sequences, and of a chunk's tokens, are two things."""
    found = []
    for step, of_step in rows.groupby("step", sort=True):
        numbers = ", ".join(f"{bucket:,}" for bucket in sorted(of_step["bucket"]))
        found.append(f"{step} {numbers}".strip())
    return "; ".join(found)
