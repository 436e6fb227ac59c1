"""Samples in, one honest line out: median, percentiles, and an interval of the median that trials can't fool.

A figure is a cell's metric over all its trials. Its median and percentiles are those of all samples together.

**The interval** covers the median in 95 % of repetitions. It has two parts.

1. *Within trials.* Order statistics: of n sorted samples, the l-th and the (n + 1 − l)-th enclose the median unless
   fewer than l samples fall on one side of it, which has the probability P(Binomial(n, ½) < l) on each side; l is the
   largest rank for which that stays under 2.5 %. It is exact for any continuous distribution and needs no seed (David
   and Nagaraja, Order Statistics, 7.1). Under six samples no rank does, and the interval is min to max.
2. *Between trials.* Samples of one trial share its clocks, its addresses and its luck, so that more of them can't say
   where the next trial will lie. With s² the variance of k trials' medians and σ² the mean variance that the noise
   within them explains (each trial's own interval of order statistics, as a standard error), τ² = max(0, s² − σ²) is
   what trials add (the moment estimator of a random-effects model), and t₀.₉₇₅(k − 1)·τ/√k its half-width.

The half-widths add in quadrature, on each side for itself. Positive samples are treated on a log scale, so that a time
and its rate get the same interval. Where trials agree, τ is 0 and part 1 is left; where they don't, no number of
samples narrows the interval, but more trials do. It ends at half the least and at twice the greatest sample at the
latest: where trials differ by multiples, the tails of a normal model are no longer to be believed. (Simulated with
three trials it covers 90 % at the worst, where trials add about as much as the noise within them, and with two 86 %;
part 1 alone goes down to 20 %.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpubench.analysis import columns as c

__all__ = [
    "MIN_SAMPLES",
    "Interval",
    "Ratio",
    "SampleWarning",
    "Summary",
    "difference",
    "ratio",
    "summarise",
    "summarise_all",
]

Floats = NDArray[np.float64]
Ranks = NDArray[np.intp]

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
MIN_SAMPLES = 6
NOISY_IQR = 0.10
SLOW_FIRST = 1.10
DISAGREE_SPAN = 0.02
MAX_REACH = 2.0
"""How many times beyond the extreme samples an interval may end."""


class SampleWarning(StrEnum):
    """What a reader must know before trusting a figure."""

    NOISY = "noisy"
    FIRST_SAMPLE_SLOW = "first sample slow"
    TOO_FEW_SAMPLES = "too few samples"
    TRIALS_DISAGREE = "trials disagree"

    @property
    def explanation(self) -> str:
        return _EXPLANATIONS[self]

    @property
    def sentence(self) -> str:
        """What follows the metric's name: `is noisy: the interquartile range …`."""
        return f"{_VERBS[self]}: {_EXPLANATIONS[self]}"


_VERBS = {
    SampleWarning.NOISY: "is noisy",
    SampleWarning.FIRST_SAMPLE_SLOW: "has a slow first sample",
    SampleWarning.TOO_FEW_SAMPLES: "has too few samples",
    SampleWarning.TRIALS_DISAGREE: "has trials that disagree",
}
_EXPLANATIONS = {
    SampleWarning.NOISY: f"the interquartile range is more than {NOISY_IQR:.0%} of the median",
    SampleWarning.FIRST_SAMPLE_SLOW: "in most trials the first sample is the slowest by more than 10%: "
    "warm up for longer with measure.warmup_time_s",
    SampleWarning.TOO_FEW_SAMPLES: f"under {MIN_SAMPLES} samples have no 95% interval, so it spans min to max: "
    "raise measure.min_samples or measure.trials",
    SampleWarning.TRIALS_DISAGREE: "the trials' medians lie further apart than the noise within trials explains: "
    "raise measure.trials and look at clocks and temperature",
}


@dataclass(frozen=True)
class Summary:
    """What the samples of one figure say; the same names as the columns of a frame."""

    num_samples: int
    trials: int
    median: float
    low: float
    high: float
    p10: float
    p90: float
    p99: float
    min: float
    max: float
    iqr: float
    warnings: tuple[SampleWarning, ...]


@dataclass(frozen=True)
class Interval:
    """A median and its 95 % interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """How many times one median is another, with its interval: of 95 %, unless another one was asked for."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """The interval leaves 1 out: one of the two is greater beyond the noise."""
        return self.low > 1 or self.high < 1


def summarise(trials: Sequence[Sequence[float]], *, is_time: bool = False) -> Summary:
    """The summary of one figure: its samples by trial, in the order in which they were taken.

    `is_time` allows the warning about a slow first sample. Without a sample every figure is NaN.
    """
    row = summarise_all([trials], is_time=[is_time]).iloc[0]
    warnings = tuple(SampleWarning(text) for text in row[c.WARNINGS].split(", ") if text)
    numbers = {name: float(row[name]) for name in c.SUMMARY[2:-1]}
    return Summary(num_samples=int(row[c.NUM_SAMPLES]), trials=int(row[c.TRIALS]), warnings=warnings, **numbers)


def summarise_all(
    figures: Sequence[Sequence[Sequence[float]]],
    is_time: Sequence[bool] | None = None,
    repeats: Sequence[float] | None = None,
) -> pd.DataFrame:
    """One row of `columns.SUMMARY` per figure, in their order; vectorised over all of them.

    `warnings` is a text: the `SampleWarning`s, joined by a comma and a space. `repeats` says of each figure how often
    one reading is among its samples, on average: an interval is as wide as that many fewer samples make it.
    """
    trials = [(figure, np.asarray(trial, dtype=np.float64)) for figure, all_ in enumerate(figures) for trial in all_]
    trials = [(figure, samples) for figure, samples in trials if samples.size]
    pooled: list[list[Floats]] = [[] for _ in figures]
    for figure, samples in trials:
        pooled[figure].append(samples)
    owner = np.array([figure for figure, _ in trials], dtype=np.intp)
    often = np.ones(len(figures)) if repeats is None else np.asarray(repeats, dtype=np.float64)
    whole = _describe([np.concatenate(parts) if parts else np.empty(0) for parts in pooled], often)
    single = _describe([samples for _, samples in trials], often[owner])
    count = np.array([len(parts) for parts in pooled], dtype=np.int64)

    spread = _between(whole, single, owner, count)
    low, high = _widen(whole, spread.half_width, spread.is_log)
    frame = pd.DataFrame(
        {
            c.NUM_SAMPLES: whole.n,
            c.TRIALS: count,
            c.MEDIAN: whole.median,
            c.LOW: low,
            c.HIGH: high,
            c.P10: whole.p10,
            c.P90: whole.p90,
            c.P99: whole.p99,
            c.MIN: whole.min,
            c.MAX: whole.max,
            c.IQR: whole.iqr,
        }
    )
    times = np.zeros(len(figures), dtype=bool) if is_time is None else np.asarray(is_time, dtype=bool)
    slow = times & (_mean(single.first_is_slowest.astype(float), owner, count) > 0.5)
    frame[c.WARNINGS] = _warnings(whole, slow, spread.disagree)
    return frame


def ratio(numerator: Interval | Summary, denominator: Interval | Summary, confidence: float = CONFIDENCE) -> Ratio:
    """numerator / denominator of two positive medians measured apart.

    The interval is recovered from both their intervals on a log scale (MOVER; Zou and Donner, Statistics in Medicine
    27, 2008): the distances to the bounds that matter add in quadrature. For another confidence than 95 % they are
    multiplied as a normal error's would be. NaN where a median isn't positive.
    """
    if not (numerator.median > 0 and denominator.median > 0):
        return Ratio(math.nan, math.nan, math.nan)
    value = numerator.median / denominator.median
    down = math.hypot(_log_ratio(numerator.median, numerator.low), _log_ratio(denominator.high, denominator.median))
    up = math.hypot(_log_ratio(numerator.high, numerator.median), _log_ratio(denominator.median, denominator.low))
    wider = 1.0 if confidence == CONFIDENCE else _z(confidence) / _z(CONFIDENCE)
    return Ratio(value, value * math.exp(-down * wider), value * math.exp(up * wider))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(1 - (1 - confidence) / 2)


def difference(minuend: Interval | Summary, subtrahend: Interval | Summary) -> Interval:
    """minuend − subtrahend of two medians measured apart, by the same method on a linear scale."""
    value = minuend.median - subtrahend.median
    down = math.hypot(minuend.median - minuend.low, subtrahend.high - subtrahend.median)
    up = math.hypot(minuend.high - minuend.median, subtrahend.median - subtrahend.low)
    return Interval(value, value - down, value + up)


def _log_ratio(upper: float, lower: float) -> float:
    return math.log(upper / lower) if lower > 0 else math.inf


@dataclass(frozen=True)
class _Description:
    """The order statistics of many sets of samples, an entry per set."""

    n: NDArray[np.int64]
    readings: Floats
    """How many samples there are without repetitions; NaN where there are none."""
    median: Floats
    low: Floats
    high: Floats
    z: Floats
    """How many standard errors the interval's half-width stands for; NaN where it stands for none."""
    p10: Floats
    p90: Floats
    p99: Floats
    min: Floats
    max: Floats
    iqr: Floats
    first_is_slowest: NDArray[np.bool_]


def _describe(sets: Sequence[Floats], repeats: Floats) -> _Description:
    numbers = {name: np.full(len(sets), np.nan) for name in _NUMBERS}
    first_is_slowest = np.zeros(len(sets), dtype=bool)
    for rows, samples in _by_length(sets, repeats):
        size = samples.shape[1]
        readings = max(1, round(size / repeats[rows[0]]))
        first_is_slowest[rows] = (
            (size > 1)
            & (samples[:, 0] >= samples.max(axis=1))
            & (samples[:, 0] > SLOW_FIRST * np.median(samples, axis=1))
        )
        ordered = np.sort(samples, axis=1)
        quantiles = np.quantile(ordered, [0.5, 0.1, 0.9, 0.99, 0.25, 0.75], axis=1)
        for name, values in zip(("median", "p10", "p90", "p99"), quantiles, strict=False):
            numbers[name][rows] = values
        numbers["iqr"][rows] = quantiles[5] - quantiles[4]
        numbers["readings"][rows] = readings
        rank, z = _median_rank(readings)
        place = (rank - 1) * size // readings
        numbers["low"][rows], numbers["high"][rows] = ordered[:, place], ordered[:, size - 1 - place]
        numbers["z"][rows] = z if readings > 1 else np.nan
        numbers["min"][rows], numbers["max"][rows] = ordered[:, 0], ordered[:, -1]
    n = np.array([samples.size for samples in sets], dtype=np.int64)
    return _Description(n=n, first_is_slowest=first_is_slowest, **numbers)


_NUMBERS = ("readings", "median", "low", "high", "z", "p10", "p90", "p99", "min", "max", "iqr")


def _by_length(sets: Sequence[Floats], repeats: Floats) -> Iterator[tuple[Ranks, Floats]]:
    """Sets of one length and `repeats` as a matrix, with their places: what makes ragged samples quick to sort."""
    places: dict[tuple[int, float], list[int]] = defaultdict(list)
    for place, (samples, often) in enumerate(zip(sets, repeats.tolist(), strict=True)):
        places[samples.size, often].append(place)
    for (size, _), rows in places.items():
        if size:
            yield np.array(rows, dtype=np.intp), np.stack([sets[row] for row in rows])


@lru_cache(maxsize=4096)
def _median_rank(n: int) -> tuple[int, float]:
    """The rank l of n samples' interval of the median (1 at least), and the normal quantile of what it covers."""
    if n > 1000:  # the binomial is normal to within a fraction of a rank
        rank = math.floor((n - NormalDist().inv_cdf(1 - TAIL) * math.sqrt(n)) / 2)
        return rank, NormalDist().inv_cdf(1 - TAIL)
    below = 0.5**n
    rank, tail = 1, below
    for successes in range(1, n // 2 + 1):
        below += math.comb(n, successes) * 0.5**n
        if below > TAIL:
            break
        rank, tail = successes + 1, below
    return rank, NormalDist().inv_cdf(1 - tail)


@dataclass(frozen=True)
class _Spread:
    """What trials add to each figure."""

    half_width: Floats
    is_log: NDArray[np.bool_]
    disagree: NDArray[np.bool_]


def _between(whole: _Description, single: _Description, owner: Ranks, count: NDArray[np.int64]) -> _Spread:
    is_log = whole.min > 0
    use_log = is_log[owner]
    median, low, high = (_scale(values, use_log) for values in (single.median, single.low, single.high))
    error = np.where(np.isnan(single.z), 0.0, (high - low) / (2 * np.nan_to_num(single.z, nan=1.0)))
    within = _mean(error**2, owner, count)
    centre = _mean(median, owner, count)
    freedom = np.maximum(count - 1, 1)
    variance = _sum((median - centre[owner]) ** 2, owner, count.size) / freedom
    tau = np.sqrt(np.maximum(variance - within, 0.0))
    half_width = np.where(count > 1, _t_quantile(freedom) * tau / np.sqrt(np.maximum(count, 1)), 0.0)

    statistic = (count - 1) * variance
    span = _span(single.median, owner, count)
    # Of samples in two modes a median jumps from one to the other, further than its interval tells of a normal error;
    # but then the trials' intervals hold both modes.
    is_apart = _extremes(single.low, owner, count.size)[1] > _extremes(single.high, owner, count.size)[0]
    disagree = (within > 0) & (statistic > _chi2_99(freedom) * within) & (span > DISAGREE_SPAN) & is_apart
    return _Spread(half_width, is_log, disagree)


def _widen(whole: _Description, half_width: Floats, is_log: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    median = _scale(whole.median, is_log)
    low = median - np.hypot(median - _scale(whole.low, is_log), half_width)
    high = median + np.hypot(_scale(whole.high, is_log) - median, half_width)
    low = np.where(is_log, np.maximum(_unscale(low, is_log), whole.min / MAX_REACH), low)
    high = np.where(is_log, np.minimum(_unscale(high, is_log), whole.max * MAX_REACH), high)
    # Where trials add nothing, the bounds are samples and stay so to the last bit.
    untouched = half_width == 0
    return np.where(untouched, whole.low, low), np.where(untouched, whole.high, high)


def _scale(values: Floats, is_log: NDArray[np.bool_]) -> Floats:
    return np.where(is_log, np.log(np.where(is_log, values, 1.0)), values)


def _unscale(values: Floats, is_log: NDArray[np.bool_]) -> Floats:
    return np.where(is_log, np.exp(np.minimum(np.where(is_log, values, 0.0), 700.0)), values)


def _sum(values: Floats, owner: Ranks, size: int) -> Floats:
    return np.bincount(owner, weights=values, minlength=size).astype(np.float64)


def _mean(values: Floats, owner: Ranks, count: NDArray[np.int64]) -> Floats:
    return _sum(values, owner, count.size) / np.maximum(count, 1)


def _span(medians: Floats, owner: Ranks, count: NDArray[np.int64]) -> Floats:
    """How far the greatest of a figure's trial medians lies above the least, as a share of it."""
    least, greatest = _extremes(medians, owner, count.size)
    is_known = (count > 0) & (least != 0) & np.isfinite(least)
    return np.where(is_known, (greatest - least) / np.where(is_known, np.abs(least), 1.0), 0.0)


def _extremes(values: Floats, owner: Ranks, size: int) -> tuple[Floats, Floats]:
    """The least and the greatest value of each figure."""
    least, greatest = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(least, owner, values)
    np.maximum.at(greatest, owner, values)
    return least, greatest


def _t_quantile(freedom: NDArray[np.int64]) -> Floats:
    """Student's t at 97.5 %: tabulated to 10 degrees of freedom, beyond by Fisher's expansion (within 0.0005)."""
    z = NormalDist().inv_cdf(1 - TAIL)
    expansion = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom.astype(float) ** 2)
    table = np.array([12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281])
    return np.where(freedom <= table.size, table[np.minimum(freedom, table.size) - 1], expansion)


def _chi2_99(freedom: NDArray[np.int64]) -> Floats:
    """χ² at 99 %, after Wilson and Hilferty (within 3 % of it, at one degree of freedom)."""
    share = 2 / (9 * freedom.astype(float))
    return freedom * (1 - share + NormalDist().inv_cdf(0.99) * np.sqrt(share)) ** 3


def _warnings(whole: _Description, slow: NDArray[np.bool_], disagree: NDArray[np.bool_]) -> list[str]:
    flags = {
        SampleWarning.NOISY: whole.iqr > NOISY_IQR * np.abs(whole.median),
        SampleWarning.FIRST_SAMPLE_SLOW: slow,
        SampleWarning.TOO_FEW_SAMPLES: whole.readings < MIN_SAMPLES,
        SampleWarning.TRIALS_DISAGREE: disagree,
    }
    codes = sum(flag.astype(np.int64) << bit for bit, flag in enumerate(flags.values()))
    texts = [", ".join(kind for bit, kind in enumerate(flags) if code >> bit & 1) for code in range(1 << len(flags))]
    return [texts[code] for code in np.asarray(codes, dtype=np.int64).reshape(-1)]
