"""What users saw of a run: latencies of the requests that were answered in its window, and how its iterations went.

    TTFT = first token − sent      E2E = last token − sent      TPOT = (E2E − TTFT) / (osl − 1)
    ITL = the gap between two tokens of a request: an iteration's time, once for each sequence that decoded in it

The window is from the last user's last warm-up answer to the first user's last answer, so that all users have a request
all through it. Its requests are those whose last token arrived in it, its gaps, iterations and tokens those that ended
or arrived in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpubench.records import Timer
from gpubench.registry import OwnMeasurement
from gpubench.serving.loop import Served
from gpubench.serving.scheduler import NOT_YET, Window

__all__ = ["measure", "steady_requests", "write_requests"]

DECIMALS = 9
"""Of seconds: the clock's own."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Requests:
    """Some requests' figures, an entry each."""

    ttft: Floats
    e2e: Floats
    tpot: Floats
    """NaN for an answer of one token."""


def measure(served: Served, window: Window) -> list[OwnMeasurement]:
    """The figures of the window, with every sample; an iteration's time is the step time."""
    inside = slice(window.begin, window.end)
    iterations, decoding, prefilled = served.iterations[inside], served.decoding[inside], served.prefilled[inside]
    requests = _requests(served, steady_requests(served, window))
    tpot = requests.tpot[~np.isnan(requests.tpot)]
    length = float(served.moments[window.end] - served.moments[window.begin])
    first = served.progress.first
    tokens = int(decoding.sum() + np.count_nonzero((first > window.begin) & (first <= window.end)))
    found: list[tuple[str, str, Floats | Ints]] = [
        ("step_time", "s", iterations),
        ("ttft", "s", requests.ttft),
        ("tpot", "s", tpot),
        ("itl", "s", np.repeat(iterations, decoding)),
        ("e2e", "s", requests.e2e),
        ("tok_s_user", "1/s", 1 / tpot),
        ("tok_s_gpu", "1/s", np.array([tokens / length])),
        ("loop_overhead", "s", served.own[inside]),
        ("loop_overhead_share", "share", served.own[inside] / iterations),
        ("prefill_share", "share", np.array([np.count_nonzero(prefilled) / len(prefilled)])),
        ("decoding", "sequences", decoding),
        ("iterations", "iterations", np.array([len(iterations)])),
        ("window", "s", np.array([length])),
    ]
    repeats = {"itl": decoding.sum() / max(1, np.count_nonzero(decoding))}
    return [
        OwnMeasurement(
            name,
            unit,
            values.astype(float).round(DECIMALS).tolist(),
            timer=Timer.WALL,
            repeats=float(repeats.get(name, 1.0)),
        )
        for name, unit, values in found
        if values.size
    ]


def steady_requests(served: Served, window: Window) -> Ints:
    """[requests, 2]: user and number of those that were answered in the window."""
    last = served.progress.last
    return np.argwhere((last > window.begin) & (last <= window.end))


def write_requests(path: Path, served: Served, window: Window) -> None:
    """Add a line of JSON for every request that was sent, by the time of sending; runs are numbered as they come.

    Other workers may have written the runs before: a cell's trials can be tasks of their own.
    """
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rpartition(b"\n")[0]
        file.truncate(len(whole) + 1 if whole else 0)  # a worker that was killed may have left half a line
        run = json.loads(whole.rpartition(b"\n")[2])["run"] + 1 if whole else 0
        file.writelines(json.dumps({"run": run, **line}).encode() + b"\n" for line in _lines(served, window))


def _lines(served: Served, window: Window) -> Iterator[dict[str, Any]]:
    progress, lengths = served.progress, served.lengths
    sent = np.argwhere(progress.sent != NOT_YET)
    order = np.lexsort((sent[:, 0], progress.sent[tuple(sent.T)]))
    figures = _requests(served, sent[order])
    for row, (user, number) in enumerate(sent[order].tolist()):
        first, last = int(progress.first[user, number]), int(progress.last[user, number])
        end = last if last != NOT_YET else len(served.moments) - 1
        gaps = served.iterations[first:end] if first != NOT_YET else np.empty(0)
        isl = int(lengths.isl[user, number])
        yield {
            "user": user,
            "request": number,
            "isl": isl,
            "osl": int(lengths.osl[user, number]),
            "phase": _phase(last, window),
            "sent_s": _seconds(served.moments[progress.sent[user, number]]),
            "ttft_s": _seconds(figures.ttft[row]),
            "e2e_s": _seconds(figures.e2e[row]),
            "tpot_s": _seconds(figures.tpot[row]),
            "itl_s": _percentiles(gaps),
            "chunks": -(-isl // served.prefill_chunk),
            "tokens": end - first + 1 if first != NOT_YET else 0,
        }


def _phase(last: int, window: Window) -> str:
    if last == NOT_YET or last > window.end:
        return "after"
    return "steady" if last > window.begin else "warm-up"


def _percentiles(gaps: Floats) -> dict[str, float | None]:
    names = ("p50", "p90", "p99", "max")
    if not gaps.size:
        return dict.fromkeys(names)
    return dict(zip(names, map(_seconds, np.quantile(gaps, [0.5, 0.9, 0.99, 1.0])), strict=True))


def _seconds(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DECIMALS)


def _requests(served: Served, which: Ints) -> _Requests:
    """The figures of these requests, [n, 2]; NaN for what hasn't come."""
    progress, users = served.progress, tuple(which.T)
    sent, first, last = (_times(served, moments[users]) for moments in (progress.sent, progress.first, progress.last))
    gaps = (served.lengths.osl[users] - 1).astype(float)
    gaps[gaps == 0] = np.nan
    return _Requests(ttft=first - sent, e2e=last - sent, tpot=(last - first) / gaps)


def _times(served: Served, moments: Ints) -> Floats:
    return np.where(moments == NOT_YET, np.nan, served.moments[moments])
