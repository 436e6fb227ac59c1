"""The samples behind a cell's figures, small enough for a page: as many as a strip can show, on a scale of 64 steps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from gpubench.analysis import columns as c
from gpubench.analysis.frames import field, series_metrics
from gpubench.analysis.merge import CellResult
from gpubench.records import Outcome, Pass
from gpubench.report.content import Content

__all__ = ["DIGITS", "MOST_SAMPLES", "samples"]

MOST_SAMPLES = 64
"""Of a figure, over all its trials; of more than these every n-th is shown."""
DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""A sample's step on the scale from its figure's least to its greatest: the page's scripts read the same ones."""

_CODES = np.frombuffer(DIGITS.encode("ascii"), dtype=np.uint8)

Trials = list[Sequence[float]]


def samples(content: Content) -> dict[str, dict[int, list[Any]]]:
    """By series and row of `cells`: [least, greatest, a text per trial with a character per sample].

    Figures that are worked out from others have none of their own. Least and greatest are of all samples, also of
    those that are left out.
    """
    metric_of = series_metrics(content.frame)
    found: list[tuple[str, int, Trials]] = []
    figures = [_figures(cell) for cell in content.cells()]
    for series in content.series:
        timers = content.wide[field(series, c.TIMER)].fillna("").tolist()
        metric = metric_of[series]
        for row, timer in enumerate(timers):
            if trials := figures[row].get((metric, timer)):
                found.append((series, row, trials))
    return _quantise(found)


def _figures(cell: CellResult) -> dict[tuple[str, str], Trials]:
    """The samples of an ok cell's whole step by metric and timer; where both passes have them, the unprofiled one's."""
    if cell.outcome is not Outcome.OK:
        return {}
    found: dict[tuple[str, str], Trials] = {}
    for pass_ in (Pass.TIMING, Pass.PROFILE):
        of_pass: dict[tuple[str, str], Trials] = defaultdict(list)
        for record in cell.of(pass_):
            for measured in record.measurements:
                if not measured.range and measured.samples:
                    of_pass[measured.metric, measured.timer or ""].append(measured.samples)
        found = of_pass | found
    return found


def _quantise(found: Sequence[tuple[str, int, Trials]]) -> dict[str, dict[int, list[Any]]]:
    """All at once, for a report has a hundred thousand figures."""
    picked = [[_thin(trial, max(1, MOST_SAMPLES // len(trials))) for trial in trials] for _, _, trials in found]
    ends = [_ends(trials) for _, _, trials in found]
    counts = [sum(map(len, trials)) for trials in picked]
    values = np.fromiter(chain.from_iterable(chain.from_iterable(picked)), dtype=np.float64, count=sum(counts))
    low, high = (np.repeat([end[place] for end in ends], counts) for place in (0, 1))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        place = np.rint((values - low) / (high - low) * (len(DIGITS) - 1))
    steps = np.nan_to_num(place, nan=0, posinf=len(DIGITS) - 1, neginf=0).clip(0, len(DIGITS) - 1)
    text = _CODES[steps.astype(np.intp)].tobytes().decode("ascii")
    shown: dict[str, dict[int, list[Any]]] = {}
    start = 0
    for (series, row, _), trials, (least, greatest) in zip(found, picked, ends, strict=True):
        texts = []
        for trial in trials:
            texts.append(text[start : start + len(trial)])
            start += len(trial)
        shown.setdefault(series, {})[row] = [_short(least), _short(greatest), " ".join(texts)]
    return shown


def _thin(trial: Sequence[float], most: int) -> Sequence[float]:
    return trial if len(trial) <= most else trial[:: math.ceil(len(trial) / most)]


def _ends(trials: Trials) -> tuple[float, float]:
    return min(map(min, trials)), max(map(max, trials))


def _short(value: float) -> float:
    return float(f"{value:.4g}")
