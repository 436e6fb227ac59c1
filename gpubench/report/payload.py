"""The data a page carries: every cell once, in columns, with nothing that could end the script element it lies in."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.breakdown import kernels_of, nested_ranges
from gpubench.analysis.conditions import group_cautions
from gpubench.analysis.frames import field
from gpubench.analysis.memory import is_of_bucket
from gpubench.analysis.run import Run
from gpubench.analysis.statistics import SampleWarning
from gpubench.records import Ceilings, Outcome
from gpubench.report import theme
from gpubench.report.coded import coded
from gpubench.report.conditions import conditions
from gpubench.report.content import Content, day
from gpubench.report.starts import is_of_start
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
    warnings = content.warnings()
    places = {run.run_id: number for number, run in enumerate(content.runs)}
    return {
        "runs": [_run(run) for run in content.runs],
        "axes": [_axis(content, name) for name in content.axes],
        "series": [asdict(metric) for metric in content.series.values()],
        "choice": asdict(content.choice),
        "cells": {
            "run": [places[run_id] for run_id in wide[c.RUN_ID]],
            "id": wide[c.CELL_ID].tolist(),
            "index": wide[c.INDEX].tolist(),
            "outcome": coded(wide[c.OUTCOME]),
            "stage": coded(wide[c.STAGE]),
            "reason": coded(wide[c.REASON]),
        },
        "values": {key: _values(wide, key) for key in content.series},
        "ranges": _ranges(content),
        "kernels": _kernels(content),
        "checks": _checks(content),
        "tails": _tails(content),
        "conditions": conditions(content),
        "ceilings": _ceilings(content),
        "recorded": {row: texts for row, texts in enumerate(warnings) if texts},
        "cautions": [[caution.text, list(caution.places)] for caution in group_cautions(warnings)],
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


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "name": run.header.name,
        "path": str(run.path),
        "devices": run.devices(),
        "date": day(run.header.created_at),
    }


def _axis(content: Content, name: str) -> dict[str, Any]:
    labels = {c.RUN_ID: "run"}
    return {
        "key": name,
        "label": labels.get(name, name),
        "numeric": name in content.numeric_axes,
        "values": coded(content.wide[name]),
    }


def _values(wide: pd.DataFrame, key: str) -> dict[str, Any]:
    numbers = {c.MEDIAN: _floats(wide[key])} | {name: _floats(wide[field(key, name)]) for name in _STATISTICS}
    count = wide[field(key, c.NUM_SAMPLES)].fillna(0).astype(int).tolist()
    texts = {name: coded(wide[field(key, name)].fillna("")) for name in (c.TIMER, c.WARNINGS)}
    return {**numbers, c.NUM_SAMPLES: count, **texts}


def _floats(values: pd.Series) -> list[float | None]:
    numbers = values.to_numpy(dtype=np.float64)
    return [value if math.isfinite(value) else None for value in numbers.tolist()]


def _ranges(content: Content) -> dict[str, Any]:
    """What inner ranges took: by row of `cells`, [name's number, metric's number, median, low, high] each."""
    of_captures = is_of_bucket(content.frame) | is_of_start(content.frame)
    inner = content.frame[(content.frame[c.RANGE] != "") & ~of_captures]
    rows: dict[int, list[list[Any]]] = {}
    if len(inner) > MAX_RANGES:
        return {"names": [], "metrics": [], "rows": rows, "nested": {}, "left_out": len(inner)}
    place = content.places()
    names: dict[str, int] = {}
    metrics: dict[tuple[str, str, str], int] = {}
    columns = [c.RUN_ID, c.CELL_ID, c.RANGE, c.METRIC, c.TIMER, c.UNIT, c.MEDIAN, c.LOW, c.HIGH]
    for run_id, cell_id, name, *metric, median, low, high in inner[columns].itertuples(index=False):
        number = metrics.setdefault((metric[0], metric[1], metric[2]), len(metrics))
        figures = [_short(value) for value in (median, low, high)]
        rows.setdefault(place[run_id, cell_id], []).append([names.setdefault(name, len(names)), number, *figures])
    cells = content.cells()
    nested = {row: sorted(names[name] for name in nested_ranges(cells[row]) if name in names) for row in rows}
    return {
        "names": list(names),
        "metrics": [list(metric) for metric in metrics],
        "rows": rows,
        "nested": {row: found for row, found in nested.items() if found},
        "left_out": 0,
    }


def _short(value: float) -> float:
    """To six digits: more of them only make the page large."""
    return float(f"{value:.6g}")


def _kernels(content: Content) -> dict[str, Any]:
    """What a profiled repetition ran, by row of `cells`: [name's number, count, seconds, share] each, longest first."""
    names: dict[str, int] = {}
    rows: dict[int, list[list[Any]]] = {}
    for row, cell in enumerate(content.cells()):
        found = kernels_of(cell)[:MAX_KERNELS]
        if found:
            rows[row] = [
                [names.setdefault(kernel.name, len(names)), kernel.count, kernel.total_s, kernel.share]
                for kernel in found
            ]
    return {"names": list(names), "rows": rows, "most": MAX_KERNELS}


def _ceilings(content: Content) -> dict[str, Any]:
    """What the GPUs can do at best, each kind once, and its number by row of `cells`: null where there is none."""
    numbers: dict[tuple[str, Ceilings], int] = {}
    codes: list[int | None] = []
    for run in content.runs:
        for cell in run.cells:
            gpu = next((record.gpu for record in cell.records), "")
            found = run.stored.ceilings.get(gpu)
            name = gpu.split(" ", 1)[-1]
            codes.append(numbers.setdefault((name, found), len(numbers)) if found else None)
    kinds = [
        {"gpu": gpu, "bytes_per_s": each.copy_bytes_per_s, "flop_per_s": each.matmul_flop_per_s, "dtype": each.dtype}
        for gpu, each in numbers
    ]
    return {"kinds": kinds, "codes": codes}


def _checks(content: Content) -> dict[int, list[Any]]:
    """What outputs were compared with, by row of `cells`: [against, passed, relative error, the worst element]."""
    found: dict[int, list[Any]] = {}
    for row, cell in enumerate(content.cells()):
        checks = [check for record in cell.records for check in record.checks if check.against != "none"]
        if checks:
            check = min(checks, key=lambda check: check.passed)
            found[row] = [check.against, check.passed, check.relative_error, check.worst]
    return found


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
