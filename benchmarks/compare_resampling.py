"""How often `gpubench compare` cries wolf, and how often it sees a wolf, resampled from samples of an H200.

    python benchmarks/compare_resampling.py [--repeats 200] [--docs docs/comparing.md]

False alarms: each cell's samples are cut in two halves, trial by trial, and the halves compared: nothing changed
between them, so that `faster` and `slower` are wrong. Cut at random; and once each at the middle, where a drift within
a trial is in the difference and an alarm not altogether false. Power: two draws with replacement of the size of the
original, one of them slowed down by 5 %. The threshold is 2 %. With --docs, the tables replace what stands between the
file's two comments that name this program. The seed is fixed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpubench.analysis import columns as c
from gpubench.analysis.metrics import METRICS
from gpubench.analysis.run import load_run
from gpubench.analysis.statistics import summarise_all
from gpubench.analysis.verdicts import Figure, Verdict, judge
from gpubench.records import Outcome, Pass

RESULTS = Path(__file__).parents[1] / "results"
RUNS = ("h200-dense-decode", "h200-timers/nsys", "h200-timers/cupti", "h200-timers/graph")
COMPARED = {"step_time": Pass.TIMING, "kernel_sum": Pass.PROFILE}
THRESHOLD, PLANTED, SEED = 0.02, 1.05, 20261121
NOISE = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
"""Bounds of the levels of noise: half the width of a figure's own 95 % interval, as a share of its median."""
BEGIN, END = "<!-- benchmarks/compare_resampling.py begins -->\n", "<!-- benchmarks/compare_resampling.py ends -->\n"

Trials = list[NDArray[np.float64]]
Cut = Callable[[Trials, np.random.Generator], tuple[Trials, Trials]]


@dataclass(frozen=True)
class Samples:
    """One metric of one cell."""

    run: str
    metric: str
    timer: str
    trials: Trials


def read_samples(names: Sequence[str] = RUNS) -> list[Samples]:
    return [samples for name in names for samples in _read(name)]


def _read(name: str) -> Iterator[Samples]:
    path = RESULTS / name
    run = load_run(path if (path / "run.json").is_file() else next(path.glob("*/run.json")).parent)
    for cell in run.cells:
        if cell.outcome is not Outcome.OK:
            continue
        for metric, pass_ in COMPARED.items():
            found = [m for record in cell.of(pass_) for m in record.measurements if m.metric == metric and not m.range]
            if found:
                yield Samples(name, metric, str(found[0].timer), [np.array(m.samples) for m in found])


def halves(trials: Trials, generator: np.random.Generator) -> tuple[Trials, Trials]:
    """Each trial's samples in two random halves, in the order in which they were taken."""
    cut = []
    for samples in trials:
        places, half = generator.permutation(samples.size), samples.size // 2
        cut.append((samples[np.sort(places[:half])], samples[np.sort(places[half : 2 * half])]))
    return [first for first, _ in cut], [second for _, second in cut]


def middle(trials: Trials, generator: np.random.Generator) -> tuple[Trials, Trials]:
    """Each trial's first half and its second."""
    del generator
    return [s[: s.size // 2] for s in trials], [s[s.size // 2 : s.size // 2 * 2] for s in trials]


def redraw(trials: Trials, generator: np.random.Generator) -> tuple[Trials, Trials]:
    """Two runs like this one: as many samples in each trial, drawn with replacement."""
    first, second = ([generator.choice(samples, samples.size) for samples in trials] for _ in range(2))
    return first, second


def verdicts(
    samples: Sequence[Samples], cut: Cut, generator: np.random.Generator, slowdown: float = 1.0
) -> list[Verdict]:
    """The verdict on each cell's two parts, the second of them slowed down."""
    parts = [cut(one.trials, generator) for one in samples]
    figures = summarise_all([first for first, _ in parts] + [[s * slowdown for s in second] for _, second in parts])
    rows = figures[[c.MEDIAN, c.LOW, c.HIGH, c.NUM_SAMPLES, c.TRIALS]].itertuples(index=False, name=None)
    timers = [one.timer for one in samples] * 2
    found = [
        Figure(median, low, high, timer, count, trials)
        for (median, low, high, count, trials), timer in zip(rows, timers, strict=True)
    ]
    pairs = zip(samples, found[: len(samples)], found[len(samples) :], strict=True)
    return [judge(METRICS[one.metric], before, after, THRESHOLD).verdict for one, before, after in pairs]


def noise(samples: Sequence[Samples]) -> list[float]:
    """Of each figure: half the width of its interval, as a share of its median."""
    rows = summarise_all([one.trials for one in samples])
    return [float(share) for share in (rows[c.HIGH] - rows[c.LOW]) / (2 * rows[c.MEDIAN])]


def false_alarms(samples: Sequence[Samples], repeats: int) -> str:
    """A line per run and metric: alarms among cells, and how many cells are known to be the same."""
    generator = np.random.default_rng(SEED)
    random = [verdicts(samples, halves, generator) for _ in range(repeats)]
    redrawn = [verdicts(samples, redraw, generator) for _ in range(repeats)]
    drift = [verdicts(samples, middle, generator)]
    places: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, one in enumerate(samples):
        places[one.run, one.metric, one.timer].append(place)
    places["all", "", ""] = list(range(len(samples)))
    lines = [
        "| run | metric, timer | cells | alarms, random halves | alarms, redrawn | same, redrawn | cut at the middle |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (run, metric, timer), members in places.items():
        alarms, again = _count(random, members, _ALARMS), _count(redrawn, members, _ALARMS)
        same = _count(redrawn, members, (Verdict.SAME,))
        total = len(members) * repeats
        lines.append(
            f"| {run} | {', '.join(filter(None, (metric, timer)))} | {len(members)} | "
            f"{alarms:,} of {total:,} ({alarms / total:.2%}) | {again:,} ({again / total:.2%}) | "
            f"{same / total:.0%} | {_count(drift, members, _ALARMS)} of {len(members)} |"
        )
    return "\n".join(lines) + "\n"


_ALARMS = (Verdict.FASTER, Verdict.SLOWER)


def _count(rounds: Sequence[Sequence[Verdict]], members: Sequence[int], wanted: Sequence[Verdict]) -> int:
    return sum(found[place] in wanted for found in rounds for place in members)


def power(samples: Sequence[Samples], repeats: int) -> str:
    """A line per level of noise: how often the planted slowdown is found, and what is said where it isn't."""
    generator = np.random.default_rng(SEED)
    rounds = [verdicts(samples, redraw, generator, PLANTED) for _ in range(repeats)]
    level = np.searchsorted(NOISE, noise(samples))
    lines = [
        "| noise: ± of the figure's own interval | cells | `slower` | `unclear` | anything else |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    ends = [0.0, *NOISE]
    for number, low in enumerate(ends):
        members = [int(place) for place in np.flatnonzero(level == number)]
        if not members:
            continue
        total = len(members) * repeats
        found, unclear = (_count(rounds, members, (verdict,)) for verdict in (Verdict.SLOWER, Verdict.UNCLEAR))
        name = f"{low:.1%} to {ends[number + 1]:.1%}" if number + 1 < len(ends) else f"over {low:.1%}"
        rest = (total - found - unclear) / total
        lines.append(f"| {name} | {len(members)} | {found / total:.1%} | {unclear / total:.1%} | {rest:.1%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--docs", type=Path, help="a Markdown file to put the tables into")
    arguments = parser.parse_args()
    text = tables(read_samples(), arguments.repeats)
    print(text)
    if arguments.docs:
        put(arguments.docs, text)


def tables(samples: Sequence[Samples], repeats: int) -> str:
    """The study's results, as Markdown."""
    return (
        f"Nothing changed: two parts of the same samples, {repeats} times, at a threshold of {THRESHOLD:.0%}:\n\n"
        f"{false_alarms(samples, repeats)}\n"
        f"A slowdown of {PLANTED - 1:.0%}, planted {repeats} times in each cell:\n\n"
        f"{power(samples, repeats)}\n"
        f"{single_trials(samples)}\n"
    )


def single_trials(samples: Sequence[Samples]) -> str:
    """What single trials of the same cell say of each other, as if each were a run."""
    whole = [one for one in samples if len(one.trials) > 1]
    generator, alarms, total = np.random.default_rng(SEED), 0, 0
    for first, second in combinations(range(min(len(one.trials) for one in whole)), 2):
        told = verdicts(whole, lambda trials, _, i=first, j=second: ([trials[i]], [trials[j]]), generator)
        alarms, total = alarms + _count([told], range(len(told)), _ALARMS), total + len(told)
    return (
        f"One trial of a cell against another of the same cell, as if each were a run of its own: {alarms} of {total} "
        f"({alarms / total:.0%}) are called faster or slower ({', '.join(dict.fromkeys(one.run for one in whole))})."
    )


def put(docs: Path, text: str) -> None:
    """Replace what stands between the two comments."""
    page = docs.read_text()
    if BEGIN not in page or END not in page:
        sys.exit(f"{docs}: there are no lines {BEGIN.strip()} and {END.strip()} to put the tables between")
    between = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    docs.write_text(between.sub(lambda _: f"{BEGIN}{text}{END}", page))


if __name__ == "__main__":
    main()
