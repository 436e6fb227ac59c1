"""How often an interval holds the true median, and how often two equal runs are told apart: simulated, as Markdown.

    python benchmarks/coverage.py [--figures 2000]

Every figure is of samples whose true median is 1, in trials × samples. `stopped` has as many samples as the stopping
rule with its defaults takes. An alarm is `faster` or `slower`, at a threshold of 2 %, of two runs that are drawn alike,
trials and all. The seed is fixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpubench.analysis import columns as c
from gpubench.analysis.metrics import METRICS
from gpubench.analysis.statistics import summarise_all
from gpubench.analysis.verdicts import Figure, Verdict, judge
from gpubench.settings import MeasureSettings
from gpubench.worker.sampling import StoppingRule

Floats = NDArray[np.float64]
Shape = tuple[int, int, int]
"""Figures, trials, samples."""
Draw = Callable[[np.random.Generator, Shape], Floats]

SEED = 20261121
NOISE = 0.03
FAST_SHARE, MODES_APART, MODE_WIDTH = 0.55, 0.2, 0.002
COVERED = ((1, 3), (1, 5), (1, 10), (1, 30), (2, 10), (3, 3), (3, 10), (3, 30), (5, 10))
STOPPED = (1, 3)
ALARMED = ((1, 10), (1, 30), (2, 10), (3, 3), (3, 10), (3, 30), (5, 10))
THRESHOLD = 0.02


def normal(between: float) -> Draw:
    """Normal noise on a log scale, with trials' own levels `between` apart."""

    def draw(generator: np.random.Generator, shape: Shape) -> Floats:
        levels = generator.normal(0.0, between, (*shape[:2], 1))
        return np.asarray(np.exp(levels + generator.normal(0.0, NOISE, shape)))

    return draw


def heavy(generator: np.random.Generator, shape: Shape) -> Floats:
    return np.asarray(np.exp(NOISE * generator.standard_t(2, shape)))


def ticks(generator: np.random.Generator, shape: Shape) -> Floats:
    return np.asarray(normal(0.0)(generator, shape).round(2))


def modes(generator: np.random.Generator, shape: Shape) -> Floats:
    centre = 1 - MODE_WIDTH * NormalDist().inv_cdf(0.5 / FAST_SHARE)  # so that the median is 1
    slow = MODES_APART * (generator.random(shape) > FAST_SHARE)
    return np.asarray(centre + slow + generator.normal(0.0, MODE_WIDTH, shape))


KINDS: dict[str, Draw] = {
    "normal noise of 3 %": normal(0.0),
    "heavy tails (Student's t, 2 degrees)": heavy,
    "normal noise, read in ticks of 1 %": ticks,
    "two modes, 55 % and 45 %, 20 % apart": modes,
    "trials differ by 1 %, and noise of 3 %": normal(0.01),
    "trials differ by 3 %, and noise of 3 %": normal(0.03),
    "trials differ by 10 %, and noise of 3 %": normal(0.10),
}


def stop(samples: Floats) -> Floats:
    """Of one trial's samples, those that would have been taken."""
    rule = StoppingRule(MeasureSettings())
    return next((samples[: n + 1] for n, seconds in enumerate(samples) if rule.add(float(seconds), 0.0)), samples)


def covers(figures: Sequence[Sequence[Floats]]) -> float:
    """The share of figures whose interval holds the truth."""
    found = summarise_all(figures)
    return float(((found[c.LOW] <= 1 + 1e-12) & (found[c.HIGH] >= 1 - 1e-12)).mean())


def alarms(draw: Draw, shape: Shape, generator: np.random.Generator) -> float:
    """The share of pairs of equal figures that are told apart."""
    before, after = (_figures(summarise_all(list(draw(generator, shape)))) for _ in range(2))
    told = [judge(METRICS["step_time"], *pair, THRESHOLD).verdict for pair in zip(before, after, strict=True)]
    return sum(verdict in (Verdict.FASTER, Verdict.SLOWER) for verdict in told) / len(told)


def _figures(found: pd.DataFrame) -> list[Figure]:
    rows = found[[c.MEDIAN, c.LOW, c.HIGH, c.NUM_SAMPLES, c.TRIALS]].itertuples(index=False, name=None)
    return [Figure(median, low, high, "cuda_event", count, trials) for median, low, high, count, trials in rows]


def coverage_table(count: int) -> str:
    generator, most = np.random.default_rng(SEED), MeasureSettings().max_samples
    heads = [*(f"{trials} × {n}" for trials, n in COVERED), *(f"{trials}, stopped" for trials in STOPPED)]
    lines = [f"| coverage | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, draw in KINDS.items():
        shares = [covers(list(draw(generator, (count, trials, n)))) for trials, n in COVERED]
        for trials in STOPPED:
            drawn = draw(generator, (count // 2, trials, most))
            shares.append(covers([[stop(trial) for trial in figure] for figure in drawn]))
        lines.append(f"| {name} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return "\n".join(lines)


def alarm_table(count: int) -> str:
    generator = np.random.default_rng(SEED)
    heads = [f"{trials} × {n}" for trials, n in ALARMED]
    lines = [f"| alarms | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name, draw in KINDS.items():
        shares = [alarms(draw, (count, trials, n), generator) for trials, n in ALARMED]
        lines.append(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=int, default=2000, help="how many are drawn for each entry of a table")
    count: int = parser.parse_args().figures
    print(coverage_table(count), alarm_table(count), sep="\n\n")


if __name__ == "__main__":
    main()
