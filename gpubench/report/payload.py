"""The data a page carries: every cell once, in columns, with nothing that could end the script element it lies in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field
from gpubench.analysis.merge import CellResult
from gpubench.analysis.statistics import SampleWarning
from gpubench.records import Outcome, Pass
from gpubench.report import theme
from gpubench.report.content import Content
from gpubench.run.logs import read_tail

__all__ = ["page_data", "script_json"]

TAIL_BYTES = 4096
ALL_TAILS_BYTES = 4 << 20
"""Logs beyond this are left out of the page, which says so; they stay in the run's folder."""
MAX_RANGES = 200_000
MAX_KERNELS = 20

_STATISTICS = (c.LOW, c.HIGH, c.P10, c.P90, c.P99)


def page_data(content: Content) -> dict[str, Any]:
    """All that the page's scripts read, as plain lists and mappings.

    `cells` and `values` are columns with an entry per cell; texts are `{values, codes}`, which repeat little.
    """
    wide = content.wide
    places = {run.run_id: number for number, run in enumerate(content.runs)}
    return {
        "runs": [{"id": run.run_id, "name": run.header.name, "path": str(run.path)} for run in content.runs],
        "axes": [_axis(content, name) for name in content.axes],
        "series": [asdict(metric) for metric in content.series.values()],
        "choice": asdict(content.choice),
        "cells": {
            "run": [places[run_id] for run_id in wide[c.RUN_ID]],
            "id": wide[c.CELL_ID].tolist(),
            "index": wide[c.INDEX].tolist(),
            "outcome": _coded(wide[c.OUTCOME]),
            "stage": _coded(wide[c.STAGE]),
            "reason": _coded(wide[c.REASON]),
        },
        "values": {key: _values(wide, key) for key in content.series},
        "ranges": _ranges(content),
        "kernels": _kernels(content),
        "checks": _checks(content),
        "tails": _tails(content),
        "recorded": _recorded_warnings(content),
        "warnings": {warning: warning.explanation for warning in SampleWarning},
        "theme": {
            "symbols": theme.SYMBOLS,
            "font": theme.FONT,
            "light": asdict(theme.LIGHT),
            "dark": asdict(theme.DARK),
            "outcomes": {str(outcome): asdict(style) for outcome, style in theme.OUTCOMES.items()},
        },
    }


def script_json(data: object) -> str:
    """JSON that is safe within a script element: no `<`, `>` or `&` in it, and no line separator JavaScript knows."""
    text = json.dumps(_plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(value: Any) -> Any:
    """The same without NaN and infinities, which JSON doesn't have."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _axis(content: Content, name: str) -> dict[str, Any]:
    labels = {c.RUN_ID: "run"}
    return {
        "key": name,
        "label": labels.get(name, name),
        "numeric": name in content.numeric_axes,
        "values": _coded(content.wide[name]),
    }


def _coded(values: pd.Series) -> dict[str, list[Any]]:
    """Each distinct value once, in order of appearance, and its number per row. 1, 1.0 and True stay apart."""
    numbers: dict[tuple[type, Any], int] = {}
    codes = []
    for value in values.tolist():
        known = None if value is None or value != value else value  # noqa: PLR0124 (NaN is not itself)
        codes.append(numbers.setdefault((type(known), known), len(numbers)))
    return {"values": [_whole(value) for _, value in numbers], "codes": codes}


def _whole(value: Any) -> Any:
    """An integer that a frame had to keep as a float, because some row has none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _values(wide: pd.DataFrame, key: str) -> dict[str, Any]:
    numbers = {c.MEDIAN: _floats(wide[key])} | {name: _floats(wide[field(key, name)]) for name in _STATISTICS}
    count = wide[field(key, c.N)].fillna(0).astype(int).tolist()
    texts = {name: _coded(wide[field(key, name)].fillna("")) for name in (c.TIMER, c.WARNINGS)}
    return {**numbers, c.N: count, **texts}


def _floats(values: pd.Series) -> list[float | None]:
    numbers = values.to_numpy(dtype=np.float64)
    return [value if math.isfinite(value) else None for value in numbers.tolist()]


def _ranges(content: Content) -> dict[str, Any]:
    """What inner ranges took, by row of `cells`: [metric, timer, range, median, low, high] each."""
    inner = content.frame[content.frame[c.RANGE] != ""]
    rows: dict[int, list[list[Any]]] = {}
    if len(inner) > MAX_RANGES:
        return {"rows": rows, "left_out": len(inner)}
    place = {key: row for row, key in enumerate(_row_keys(content.wide))}
    names = [c.METRIC, c.TIMER, c.RANGE, c.UNIT, c.MEDIAN, c.LOW, c.HIGH]
    for key, figures in zip(_row_keys(inner), inner[names].itertuples(index=False), strict=True):
        rows.setdefault(place[key], []).append(list(figures))
    return {"rows": rows, "left_out": 0}


def _kernels(content: Content) -> dict[str, Any]:
    """What a profiled repetition ran, by row of `cells`: [name's number, count, seconds, share] each, longest first."""
    names: dict[str, int] = {}
    rows: dict[int, list[list[Any]]] = {}
    for row, cell in enumerate(_cells(content)):
        found = [kernel for record in cell.of(Pass.PROFILE) for kernel in record.kernels]
        if found and cell.outcome is Outcome.OK:
            rows[row] = [
                [names.setdefault(kernel.name, len(names)), kernel.count, kernel.total_s, kernel.share]
                for kernel in found[:MAX_KERNELS]
            ]
    return {"names": list(names), "rows": rows, "most": MAX_KERNELS}


def _checks(content: Content) -> dict[int, list[Any]]:
    """What outputs were compared with, by row of `cells`: [against, passed, relative error, the worst element]."""
    found: dict[int, list[Any]] = {}
    for row, cell in enumerate(_cells(content)):
        checks = [check for record in cell.records for check in record.checks if check.against != "none"]
        if checks:
            check = min(checks, key=lambda check: check.passed)
            found[row] = [check.against, check.passed, check.relative_error, check.worst]
    return found


def _cells(content: Content) -> Iterator[CellResult]:
    """The cells of all runs, in the order of the wide frame's rows."""
    for run in content.runs:
        yield from run.cells


def _row_keys(frame: pd.DataFrame) -> Iterable[tuple[str, str]]:
    return zip(frame[c.RUN_ID], frame[c.CELL_ID], strict=True)


def _tails(content: Content) -> dict[str, Any]:
    """The end of what cells that are not ok wrote to stderr, by row of `cells`, up to a limit over all of them."""
    texts: dict[int, str] = {}
    left_out, size = 0, 0
    row = -1
    for run in content.runs:
        for cell in run.cells:
            row += 1
            if cell.outcome in (None, Outcome.OK, Outcome.SKIPPED):
                continue
            text = read_tail(run.path / "artifacts" / cell.cell.cell_id / "stderr.txt", TAIL_BYTES)
            crash = cell.decisive.crash if cell.decisive else None
            text = text or (crash.stderr_tail[-TAIL_BYTES:] if crash else "")
            if text and size >= ALL_TAILS_BYTES:
                left_out += 1
            elif text:
                texts[row] = text
                size += len(text)
    return {"rows": texts, "left_out": left_out}


def _recorded_warnings(content: Content) -> dict[int, list[str]]:
    """What cells' own records warn of, by row of `cells`."""
    found: dict[int, list[str]] = {}
    for row, cell in enumerate(_cells(content)):
        texts = list(dict.fromkeys(text for record in cell.records for text in record.warnings))
        if texts:
            found[row] = texts
    return found
