"""A comparison for other programs; docs/comparing.md names every key."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from gpubench.analysis.compare import ComparedCell, RunComparison
from gpubench.analysis.movement import Movement
from gpubench.analysis.pairing import Pair
from gpubench.analysis.statistics import Ratio
from gpubench.analysis.verdicts import CERTAINTY, Figure, Judgement

__all__ = ["compare_json"]


def compare_json(comparison: RunComparison) -> str:
    """`{before, after, threshold, certainty, is_regression, cells: […], frontiers: […], differences, notes}`."""
    found = {
        "before": comparison.before.run_id,
        "after": comparison.after.run_id,
        "threshold": comparison.threshold,
        "certainty": CERTAINTY,
        "is_regression": comparison.has_regression,
        "metrics": [metric.key for metric in comparison.metrics],
        "cells": [_cell(cell) for cell in comparison.cells],
        "frontiers": [_movement(found) for found in comparison.movements],
        "differences": list(comparison.differences),
        "notes": list(comparison.notes),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n"
    return text.encode("utf-8", "backslashreplace").decode()


def _cell(cell: ComparedCell) -> dict[str, Any]:
    return {
        "before": _side(cell.pair, "before"),
        "after": _side(cell.pair, "after"),
        "arguments": dict(cell.pair.arguments),
        "verdict": cell.fate,
        "why": cell.why,
        "metrics": {judgement.metric.key: _judgement(judgement) for judgement in cell.judgements},
    }


def _side(pair: Pair, name: str) -> dict[str, Any] | None:
    cell = pair.before if name == "before" else pair.after
    return {"cell": cell.cell.cell_id, "outcome": cell.outcome} if cell else None


def _judgement(judgement: Judgement) -> dict[str, Any]:
    return {
        "verdict": judgement.verdict,
        "unit": judgement.metric.unit,
        "before": _figure(judgement.before),
        "after": _figure(judgement.after),
        "ratio": _ratio(judgement.change),
        "why": judgement.why,
    }


def _figure(figure: Figure | None) -> dict[str, Any] | None:
    return asdict(figure) if figure else None


def _ratio(ratio: Ratio | None) -> dict[str, float | None] | None:
    """An infinite end of an interval is null: JSON has no infinity."""
    if ratio is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in asdict(ratio).items()}


def _movement(found: Movement) -> dict[str, Any]:
    return {
        "group": found.group,
        "x": found.x.key,
        "y": found.y.key,
        "cells": found.cells,
        "area_ratio": _ratio(found.area),
        "at": [asdict(level) for level in found.levels],
    }
