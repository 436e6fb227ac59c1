"""Two runs, cell by cell and frontier by frontier: what got faster, slower, lost or broken.

`compare_runs` pairs the cells (`pairing`), judges each metric (`verdicts`) and follows each frontier (`movement`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from gpubench.analysis import columns as c
from gpubench.analysis.caveats import caveats_of
from gpubench.analysis.conditions import launch_of
from gpubench.analysis.differences import differences
from gpubench.analysis.frames import field, series_metrics
from gpubench.analysis.frontier import label
from gpubench.analysis.merge import CellResult
from gpubench.analysis.metrics import SERVED_TIMES, Metric, compared_times
from gpubench.analysis.movement import Movement, Point, move
from gpubench.analysis.pairing import Pair, one_sided, pair_cells, varied
from gpubench.analysis.run import Run
from gpubench.analysis.verdicts import Figure, Judgement, Verdict, judge
from gpubench.errors import UsageError
from gpubench.records import SCHEMA, Outcome

__all__ = ["THRESHOLD", "ComparedCell", "RunComparison", "compare_runs"]

THRESHOLD = 0.02


@dataclass(frozen=True)
class ComparedCell:
    """One question and its two answers."""

    pair: Pair
    fate: Verdict | None
    """What became of the cell as a whole; None where it is ok in both runs, and `judgements` tell the rest."""
    why: str
    judgements: tuple[Judgement, ...] = ()

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        return (self.fate,) if self.fate else tuple(judgement.verdict for judgement in self.judgements)

    @property
    def is_regression(self) -> bool:
        return any(verdict.is_regression for verdict in self.verdicts)


@dataclass(frozen=True)
class RunComparison:
    """The second run against the first."""

    before: Run
    after: Run
    threshold: float
    metrics: tuple[Metric, ...]
    axes: tuple[str, ...]
    """What varies among the cells, `backend` included."""
    cells: tuple[ComparedCell, ...]
    movements: tuple[Movement, ...]
    differences: tuple[str, ...]
    """What else differs between the runs, in words: `driver 580.65 → 590.10`."""
    notes: tuple[str, ...]

    @property
    def has_regression(self) -> bool:
        return any(cell.is_regression for cell in self.cells)

    @property
    def devices(self) -> str:
        """`NVIDIA H200`, or of unlike ones `NVIDIA H200 → NVIDIA B200`; "" where neither run names any."""
        sides = [", ".join(run.devices()) for run in (self.before, self.after)]
        return " → ".join(dict.fromkeys(filter(None, sides)))

    @property
    def dates(self) -> str:
        """The days on which the runs were made: `2026-11-20 → 2026-11-21`."""
        return " → ".join(run.header.created_at[:10] for run in (self.before, self.after))

    def fates(self) -> Counter[Verdict]:
        """How many cells were lost, found, broken and mended."""
        return Counter(cell.fate for cell in self.cells if cell.fate)

    def verdicts(self, metric: Metric) -> Counter[Verdict]:
        """How many cells that are ok in both runs got which verdict in a metric."""
        found = (judgement for cell in self.cells for judgement in cell.judgements)
        return Counter(judgement.verdict for judgement in found if judgement.metric.key == metric.key)


def compare_runs(
    before: Run, after: Run, metrics: Sequence[str] = (), threshold: float = THRESHOLD, force: bool = False
) -> RunComparison:
    """Compare the second run with the first.

    Metrics are series as in `Run.wide`; without any, step time and kernel sum where both runs have them, else what the
    second run's plot shows, else all that both have. Raises UsageError where nothing can be compared: no cells in
    common, a metric that a run lacks, and, unless `force`, other GPUs or other timers.
    """
    pairs = pair_cells(before, after)
    if not any(pair.before and pair.after for pair in pairs):
        raise UsageError(_nothing_shared(before, after))
    figures = _Figures(before), _Figures(after)
    chosen = _choose(before, after, metrics)
    unlike = [*_other_gpus(before, after), *_other_timers(figures, before, after, chosen)]
    if unlike and not force:
        raise UsageError(f"{'; '.join(unlike)}. Such figures can't be compared; --force does it all the same")
    cells = tuple(_compare(pair, figures, chosen, threshold) for pair in pairs)
    names = [
        c.BACKEND,
        *dict.fromkeys(name for run in (after, before) for cell in run.header.cells for name in cell.axes),
    ]
    return RunComparison(
        before,
        after,
        threshold,
        tuple(chosen),
        tuple(varied(pairs, list(dict.fromkeys(names)))),
        cells,
        tuple(_movements(before, after, pairs, figures)),
        tuple(differences(before, after)),
        (*[f"Forced: {text}." for text in unlike], *_notes(before, after, pairs, cells)),
    )


class _Figures:
    """A run's figures, by series and cell."""

    def __init__(self, run: Run) -> None:
        frame, wide = run.frame(), run.wide()
        self.metrics = run.metrics()
        whole = frame[(frame[c.RANGE] == "") & (frame[c.NUM_SAMPLES] > 0)]
        trials = whole[[c.CELL_ID, c.METRIC, c.TIMER, c.TRIALS]].itertuples(index=False, name=None)
        self._trials = {(cell, metric, timer): int(count) for cell, metric, timer, count in trials}
        self._metric_of = series_metrics(frame)
        rows = wide.to_dict(orient="records")
        self._rows = {str(row[c.CELL_ID]): row for row in rows}

    def get(self, cell: CellResult, series: str) -> Figure | None:
        row = self._rows[cell.cell.cell_id]
        if not float(row.get(field(series, c.NUM_SAMPLES), 0) or 0) > 0:
            return None
        timer = str(row[field(series, c.TIMER)])
        said = str(row[field(series, c.WARNINGS)] or "")
        return Figure(
            median=float(row[series]),
            low=float(row[field(series, c.LOW)]),
            high=float(row[field(series, c.HIGH)]),
            timer=timer,
            num_samples=int(row[field(series, c.NUM_SAMPLES)]),
            trials=self._trials.get((cell.cell.cell_id, self._metric_of[series], timer), 1),
            warnings=tuple(filter(None, said.split(", "))),
        )

    def timers(self, series: str) -> list[str]:
        column = field(series, c.TIMER)
        said = {str(row.get(column) or "") for row in self._rows.values() if row[c.OUTCOME] == Outcome.OK}
        return sorted(said - {"", "nan"})


_Both = tuple[_Figures, _Figures]


def _choose(before: Run, after: Run, asked: Sequence[str]) -> list[Metric]:
    known = [run.metrics() for run in (before, after)]
    shared = {key: metric for key, metric in known[1].items() if key in known[0] and metric.is_reported}
    for key in asked:
        for run, metrics in zip((before, after), known, strict=True):
            if key not in metrics:
                close = get_close_matches(key, list(shared), n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ";"
                both = ", ".join(shared) or "none"
                raise UsageError(f"--metric {key}: {run.run_id} has no such metric{hint} both runs have: {both}")
    if asked:
        return [known[1][key] for key in dict.fromkeys(asked)]
    plotted = [shared[key] for key in dict.fromkeys(_plotted(after)) if key in shared]
    return compared_times(shared) or plotted or list(shared.values())


def _plotted(run: Run) -> tuple[str, str]:
    asked: Mapping[str, Any] = run.header.sweep.get("pareto") or {}
    return str(asked.get("x") or "tok_s_user"), str(asked.get("y") or "tok_s_gpu")


def _compare(pair: Pair, figures: _Both, metrics: Sequence[Metric], threshold: float) -> ComparedCell:
    fate, why = _fate(pair)
    if fate is not None:
        return ComparedCell(pair, fate, why)
    assert pair.before is not None, "without a fate, both runs have the cell"
    assert pair.after is not None, "without a fate, both runs have the cell"
    both = [(figures[0].get(pair.before, metric.key), figures[1].get(pair.after, metric.key)) for metric in metrics]
    judged = [judge(metric, *sides, threshold) for metric, sides in zip(metrics, both, strict=True)]
    return ComparedCell(pair, None, "", tuple(found for found in judged if found.before or found.after))


def _fate(pair: Pair) -> tuple[Verdict | None, str]:
    before = pair.before.outcome if pair.before else None
    after = pair.after.outcome if pair.after else None
    if before is Outcome.OK and after is Outcome.OK:
        return None, ""
    if after is Outcome.OK:
        is_mended = before is not None and before.is_failure
        return (Verdict.NEWLY_OK if is_mended else Verdict.NEW), _said(pair.before, "not in the first run's grid")
    if after is not None and after.is_failure:
        is_old = before is not None and before.is_failure
        return (Verdict.STILL_FAILING if is_old else Verdict.NEWLY_FAILING), _said(pair.after, "")
    return Verdict.MISSING, _said(pair.after, "not in the second run's grid")


def _said(cell: CellResult | None, absent: str) -> str:
    """`crash: illegal address`."""
    if cell is None:
        return absent
    if cell.outcome is None:
        return "not run"
    return f"{cell.outcome}: {cell.reason}" if cell.reason and cell.outcome is not Outcome.OK else str(cell.outcome)


def _movements(before: Run, after: Run, pairs: Sequence[Pair], figures: _Both) -> Iterator[Movement]:
    """Of each group that the second run's plot has; nothing where a run lacks one of its metrics, or one has no better
    way."""
    keys = _plotted(after)
    if not all(key in side.metrics for key in keys for side in figures):
        return
    x, y = (figures[1].metrics[key] for key in keys)
    if None in (x.higher_is_better, y.higher_is_better):
        return
    groups: defaultdict[str, list[tuple[Point, Point]]] = defaultdict(list)
    names = _grouping(after)
    for pair in pairs:
        if pair.before is None or pair.after is None:
            continue
        sides = [(source.get(cell, x.key), source.get(cell, y.key)) for source, cell in _sides(pair, figures)]
        points = [(first, second) for first, second in sides if first and second]
        if len(points) == 2:
            groups[label({name: pair.arguments.get(name) for name in names})].append((points[0], points[1]))
    for name, members in groups.items():
        found = move(name, x, y, members)
        if found is not None:
            yield found


def _sides(pair: Pair, figures: _Both) -> Iterator[tuple[_Figures, CellResult]]:
    for source, cell in zip(figures, (pair.before, pair.after), strict=True):
        if cell is not None:
            yield source, cell


def _grouping(run: Run) -> list[str]:
    asked = (run.header.sweep.get("pareto") or {}).get("group", [c.BACKEND])
    names = [asked] if isinstance(asked, str) else list(asked or [])
    return [str(name) for name in names]


def _other_gpus(before: Run, after: Run) -> Iterator[str]:
    one, other = before.devices(), after.devices()
    if one and other and one != other:
        yield f"{before.run_id} ran on {', '.join(one)}, {after.run_id} on {', '.join(other)}"


def _other_timers(figures: _Both, before: Run, after: Run, metrics: Sequence[Metric]) -> Iterator[str]:
    for metric in metrics:
        one, other = (side.timers(metric.key) for side in figures)
        if one and other and one != other:
            yield (
                f"{metric.label} was timed by {', '.join(one)} in {before.run_id}, by {', '.join(other)} in "
                f"{after.run_id}"
            )


def _notes(before: Run, after: Run, pairs: Sequence[Pair], cells: Sequence[ComparedCell]) -> Iterator[str]:
    """What to know before believing a verdict, the gravest first."""
    yield from _unlike_steps(pairs)
    yield from one_sided(before, after)
    for run in (before, after):
        left = sum(cell.outcome is None for cell in run.cells)
        if left:
            yield f"{run.run_id} is not complete: {left:,} of {len(run.cells):,} cells have not been run."
        for caveat in caveats_of(run.stored, run.cells):
            yield " ".join([f"{run.run_id}: {caveat.text}", ", ".join(caveat.details)]).strip()
        if run.header.schema < SCHEMA:
            yield f"{run.run_id} was recorded by an older gpubench (schema {run.header.schema} of {SCHEMA})."
    yield from _single_trials(before, after, cells)


def _unlike_steps(pairs: Sequence[Pair]) -> Iterator[str]:
    """Step times that hold the host's launching can't be held against those that don't."""
    kinds = {(launch_of(pair.before), launch_of(pair.after)) for pair in pairs if pair.before and pair.after}
    unlike = sorted({(one, other) for one, other in kinds if one and other and one != other})
    for one, other in unlike:
        yield f"Step times are of different things: launched {one} in the first run, {other} in the second."


def _single_trials(before: Run, after: Run, cells: Sequence[ComparedCell]) -> Iterator[str]:
    unprofiled = {"step_time", *SERVED_TIMES}
    judged = [found for cell in cells for found in cell.judgements if found.metric.key in unprofiled]
    sides = {
        before.run_id: [found.before.trials for found in judged if found.before],
        after.run_id: [found.after.trials for found in judged if found.after],
    }
    single = [run_id for run_id, trials in sides.items() if 1 in trials]
    if single:
        yield (
            f"One trial of a cell, as {' and '.join(single)} {'have' if len(single) > 1 else 'has'} it, doesn't show "
            "what differs from one start of the cell to the next: a change may be that. measure.trials: 3 shows it."
        )


def _nothing_shared(before: Run, after: Run) -> str:
    if not before.cells or not after.cells:
        empty = before if not before.cells else after
        return f"{empty.run_id} has no cells: there is nothing to compare"
    names = [run.header.workload.name for run in (before, after)]
    if names[0] != names[1]:
        return f"{before.run_id} is of {names[0]}, {after.run_id} of {names[1]}: they have no cell in common"
    hints = " ".join(one_sided(before, after))
    return (
        f"{before.run_id} and {after.run_id} have no cell in common, of the same arguments and backend. {hints}".strip()
    )
