"""What each cell is and under what it was measured, in words for its page."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pandas as pd

from gpubench.analysis.conditions import Clocks, clocks_of, compiled_of, labels_of, launch_of, replay_of, shared_of
from gpubench.analysis.merge import CellResult
from gpubench.records import Pass
from gpubench.report.coded import coded
from gpubench.report.content import Content

__all__ = ["conditions"]


def conditions(content: Content) -> list[dict[str, Any]]:
    """`{label, values}` each, the values coded by row of `cells`; those that are not known of any cell are left out."""
    told = [{**labels_of(cell), **_of(cell)} for cell in content.cells()]
    columns = {label: [texts.get(label, "") for texts in told] for label in dict.fromkeys(chain(*told))}
    known = {label: texts for label, texts in columns.items() if any(texts)}
    return [{"label": label, "values": coded(pd.Series(texts, dtype=object))} for label, texts in known.items()]


def _of(cell: CellResult) -> dict[str, str]:
    clocks = clocks_of(cell)
    l2 = (record.details.get("l2") for record in cell.of(Pass.TIMING))
    return {
        "L2 cache": next((text for text in l2 if isinstance(text, str)), ""),
        "launch": launch_of(cell),
        "SM clock": _between(clocks.sm_hz, 1e6, "MHz") if clocks else "",
        "memory clock": _between(clocks.memory_hz, 1e6, "MHz") if clocks else "",
        "temperature": _between(clocks.temperature_c, 1, "°C") if clocks else "",
        "throttled": _throttled(clocks) if clocks else "",
        "replay's kernels": replay_of(cell),
        "shared": shared_of(cell),
        "compiled": compiled_of(cell),
    }


def _between(span: tuple[float, float], unit: float, name: str) -> str:
    low, high = (f"{end / unit:,.6g}" for end in span)
    return f"{low} {name}" if low == high else f"{low}–{high} {name}"


def _throttled(clocks: Clocks) -> str:
    if not clocks.throttled:
        return "no sample"
    return f"{clocks.throttled} of {clocks.samples} samples ({', '.join(clocks.throttled_by)})"
