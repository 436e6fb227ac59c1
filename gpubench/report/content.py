"""What a report is of: one run or several laid over one another, read once for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.caveats import Caveat, caveats_of
from gpubench.analysis.conditions import Caution, group_cautions, warnings_of
from gpubench.analysis.differences import differences
from gpubench.analysis.frames import axes_of, field, wide_frame
from gpubench.analysis.frontier import axis_text, frontier
from gpubench.analysis.merge import CellResult
from gpubench.analysis.metrics import Metric, format_value
from gpubench.analysis.run import Run, define_series
from gpubench.errors import UsageError
from gpubench.records import Outcome, Scalar
from gpubench.triage import Triage, triage_run

__all__ = ["Against", "Choice", "Content", "day", "read_content"]


@dataclass(frozen=True)
class Choice:
    """What the plot shows first."""

    x: str
    """A series, an axis, or `index`."""
    y: str
    """A series; "" when nothing was measured."""
    group: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was asked for and could not be shown, in sentences."""


@dataclass(frozen=True)
class Against:
    """What all cells are held against that differ from it in this axis alone."""

    axis: str
    value: str
    """As tables show it."""

    @property
    def name(self) -> str:
        """`torch`; of other axes than the backend, `streams=1`."""
        return self.name_of(self.value)

    def name_of(self, value: str) -> str:
        """The same of another value."""
        return value if self.axis == c.BACKEND else f"{self.axis}={value}"


@dataclass(frozen=True)
class Content:
    """The runs of a report and the frames that all its formats are made from."""

    runs: tuple[Run, ...]
    frame: pd.DataFrame
    """A row per cell and figure, of all runs."""
    wide: pd.DataFrame
    """A row per cell, of all runs."""
    series: dict[str, Metric]
    """The definition of each series of `wide` that is reported; its key is the series'."""
    choice: Choice
    against: Against

    @property
    def title(self) -> str:
        return " and ".join(dict.fromkeys(run.header.name for run in self.runs))

    @property
    def axes(self) -> list[str]:
        """What can be grouped and filtered by: every axis, and the run and the backend where there are several."""
        return [name for name in (c.RUN_ID, c.BACKEND) if self.wide[name].nunique() > 1] + axes_of(self.wide)

    @property
    def numeric_axes(self) -> list[str]:
        return _numeric_axes(self.wide)

    @property
    def is_pareto(self) -> bool:
        """The plot's two axes are metrics with a better way each, so that it has a frontier."""
        ends = [self.series.get(key) for key in (self.choice.x, self.choice.y)]
        return all(metric is not None and metric.higher_is_better is not None for metric in ends)

    def cell_name(self, run_id: str, cell_id: str) -> str:
        """What a cell is called: by its run, too, where there are several."""
        return f"{run_id}/{cell_id}" if len(self.runs) > 1 else cell_id

    def places(self) -> dict[tuple[str, str], int]:
        """Where a cell's row is in the wide frame, by run and cell."""
        keys = zip(self.wide[c.RUN_ID], self.wide[c.CELL_ID], strict=True)
        return {key: row for row, key in enumerate(keys)}

    def captures(self) -> pd.DataFrame:
        """A row per cell and bucket of captured graphs, of all runs; see `memory.memory_frame`."""
        return pd.concat([run.memory() for run in self.runs], ignore_index=True)

    def frontier(self) -> pd.DataFrame:
        """The frontier of the chosen metrics, grouped as chosen; see `analysis.frontier`."""
        assert self.is_pareto, f"{self.choice.x} or {self.choice.y} has no better way: there is no frontier"
        return frontier(self.wide, self.series[self.choice.x], self.series[self.choice.y], self.choice.group)

    def outcomes(self) -> dict[str, int]:
        """How many cells ended how, over all runs: ok first, then as often as they occur."""
        counts = self.wide[c.OUTCOME].value_counts()
        pairs = [(str(outcome), int(number)) for outcome, number in counts.items()]
        return dict(sorted(pairs, key=lambda item: (item[0] != Outcome.OK, -item[1], item[0])))

    def devices(self) -> list[str]:
        return list(dict.fromkeys(device for run in self.runs for device in run.devices()))

    def timers(self) -> list[str]:
        return list(dict.fromkeys(timer for run in self.runs for timer in run.timers()))

    def timers_of(self, *series: str) -> str:
        """Who produced the figures of these series: `cuda_event and nsys`; "" where nobody is named."""
        said = pd.concat([self.wide[field(key, c.TIMER)] for key in series])
        return " and ".join(dict.fromkeys(str(timer) for timer in said.dropna() if timer))

    def cells(self) -> list[CellResult]:
        """The cells of all runs, in the order of the wide frame's rows."""
        return [cell for run in self.runs for cell in run.cells]

    def caveats(self) -> list[Caveat]:
        """What to know of whole runs before reading their figures; where there are several, each says its run."""
        found = [(run.run_id, caveat) for run in self.runs for caveat in caveats_of(run.stored, run.cells)]
        if len(self.runs) == 1:
            return [caveat for _, caveat in found]
        return [replace(caveat, text=f"{run_id}: {caveat.text}") for run_id, caveat in found]

    def warnings(self) -> list[list[str]]:
        """What to beware of, by row of the wide frame; see `conditions.warnings_of`."""
        return [texts for run in self.runs for texts in warnings_of(run.cells)]

    def cautions(self) -> list[Caution]:
        """The same by warning, with the rows that have it; warnings that differ in numbers alone are one."""
        return group_cautions(self.warnings())

    def ceilings(self) -> dict[tuple[str, str], str]:
        """What the GPUs can do at best, in words, by run and GPU: `copy 4.30 TB/s, bfloat16 matmul 780 TFLOP/s`."""
        return {
            (run.run_id, gpu): f"copy {format_value(found.copy_bytes_per_s, 'B/s')}, {found.dtype} matmul "
            f"{format_value(found.matmul_flop_per_s, 'FLOP/s')}"
            for run in self.runs
            for gpu, found in run.stored.ceilings.items()
        }

    def triages(self) -> list[Triage]:
        """The failed cells told apart, run by run; of runs in which none failed, nothing."""
        return [found for found in map(triage_run, self.runs) if found.rows]

    def run_words(self) -> list[tuple[str, str]]:
        """Each run and what it was made on, when, and with what else than the first; none where there is but one."""
        first, *others = self.runs
        if not others:
            return []
        unlike = [
            "",
            *(f"; unlike the first: {', '.join(found)}" if (found := _unlike(first, run)) else "" for run in others),
        ]
        return [(run.run_id, _made(run) + text) for run, text in zip(self.runs, unlike, strict=True)]

    def dates(self) -> list[str]:
        """The days on which the runs were made: `21 November 2026`."""
        return list(dict.fromkeys(day(run.header.created_at) for run in self.runs))


def _made(run: Run) -> str:
    """`decode_step on NVIDIA H200, 21 November 2026`."""
    devices = " and ".join(run.devices())
    return f"{run.header.workload.name}{f' on {devices}' if devices else ''}, {day(run.header.created_at)}"


def _unlike(first: Run, other: Run) -> list[str]:
    is_other_gpu = first.devices() and other.devices() and first.devices() != other.devices()
    return [*(["the GPU"] if is_other_gpu else []), *differences(first, other)]


def read_content(runs: Sequence[Run], against: Mapping[str, Scalar] | None = None) -> Content:
    """Lay runs over one another. The first one decides which axes are shown first.

    It decides what the others are compared with, too, unless `against` has one axis and its value. UsageError if the
    runs have no such axis or value.
    """
    if not runs:
        raise UsageError("a report needs at least one run; make one with: gpubench sweep configs/pareto.yaml")
    ids = [run.run_id for run in runs]
    twice = next((run_id for run_id in ids if ids.count(run_id) > 1), None)
    if twice:
        raise UsageError(f"{twice}: given twice; name each run once")
    frame = pd.concat([run.frame() for run in runs], ignore_index=True) if len(runs) > 1 else runs[0].frame()
    wide = wide_frame(frame)
    defined = define_series(frame, [run.header.workload for run in runs])
    series = {key: _as_phrase(metric) for key, metric in defined.items() if metric.is_reported}
    content = Content(tuple(runs), frame, wide, series, Choice("", "", ()), _against(runs[0], wide, against))
    return replace(content, choice=_choose(content))


def _against(run: Run, wide: pd.DataFrame, given: Mapping[str, Scalar] | None) -> Against:
    """What is asked for; else what the sweep names, else the workload's baseline."""
    asked: Mapping[str, Any] = given or run.header.sweep.get("against") or {c.BACKEND: run.header.workload.baseline}
    ((axis, value),) = asked.items()
    found = Against(axis, axis_text(value))
    if given:
        known = [c.BACKEND, *axes_of(wide)]
        if axis not in known:
            raise UsageError(f"--against: no axis {axis!r} in these runs; known: {', '.join(known)}")
        values = list(dict.fromkeys(wide[axis].dropna().map(axis_text)))
        if found.value not in values:
            raise UsageError(f"--against: no cell has {axis}={found.value}; {axis} is {', '.join(values)}")
    return found


def _as_phrase(metric: Metric) -> Metric:
    """The formula goes on within sentences; a workload's own is the first line of a docstring, which ends one."""
    return replace(metric, formula=metric.formula.removesuffix("."))


def _choose(content: Content) -> Choice:
    asked: dict[str, Any] = content.runs[0].header.sweep.get("pareto") or {}
    group, notes = _choose_group(content, asked)
    offered = {**content.series, **dict.fromkeys(content.numeric_axes)}
    x, y = str(asked.get("x", "")), str(asked.get("y", ""))
    missing = [f"pareto.{end}" for end, key, known in (("x", x, offered), ("y", y, content.series)) if key not in known]
    if x and y and not missing:
        return Choice(x, y, group, notes)
    if x or y:
        absent = " and ".join(f"{end} ({asked.get(end.partition('.')[2], 'not set')})" for end in missing)
        notes = (*notes, f"The sweep asks for a plot over {absent}, which no cell has: another one is shown.")
    return Choice(*_default_axes(content), group, notes)


def _default_axes(content: Content) -> tuple[str, str]:
    """The main plot where its metrics are known; else how the step time grows along the longest axis of numbers."""
    series = list(content.series)
    if "tok_s_user" in series and "tok_s_gpu" in series:
        return "tok_s_user", "tok_s_gpu"
    y = "step_time" if "step_time" in series else next(iter(series), "")
    if content.numeric_axes:
        return max(content.numeric_axes, key=lambda name: content.wide[name].nunique()), y
    return next((key for key in series if key != y), c.INDEX), y


def _choose_group(content: Content, asked: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    names = asked.get("group")
    wanted = [names] if isinstance(names, str) else list(names or [])
    group = [name for name in wanted if name in content.wide.columns]
    unknown = [str(name) for name in wanted if name not in group]
    notes = tuple(f"The sweep groups by {name} (pareto.group), which is not an axis of it." for name in unknown)
    if not wanted and content.wide[c.BACKEND].nunique() > 1:
        group = [c.BACKEND]
    if len(content.runs) > 1 and c.RUN_ID not in group:
        group = [c.RUN_ID, *group]
    return tuple(group), notes


def _numeric_axes(wide: pd.DataFrame) -> list[str]:
    """The axes with two numbers at least and nothing but numbers; the runs that lack the axis don't count."""
    found = []
    for name in axes_of(wide):
        values = wide[name].dropna()
        is_number = values.map(lambda value: isinstance(value, int | float) and not isinstance(value, bool))
        if is_number.all() and values.nunique() > 1:
            found.append(name)
    return found


def day(created_at: str) -> str:
    """`21 November 2026`, of a time in ISO 8601; as it is if it is none."""
    try:
        at = datetime.fromisoformat(created_at)
    except ValueError:
        return created_at
    return f"{at.day} {at:%B %Y}"
