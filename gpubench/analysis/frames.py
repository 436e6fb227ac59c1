"""Cells in, tidy frames out. Every cell is in them, whatever became of it; column names are in `columns`.

`cell_frame`     a row per cell and figure (metric, timer, pass, range), the samples of all trials summarised
`samples_frame`  a row per sample, as measured
`wide_frame`     a row per cell, a column per figure of the whole step: what plots and tables are made of
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpubench.analysis import columns as c
from gpubench.analysis.conditions import throttled_spans
from gpubench.analysis.derived import ACROSS_PASSES, across_passes, rates
from gpubench.analysis.merge import CellResult
from gpubench.analysis.statistics import summarise_all
from gpubench.records import FIGURE_PARTS, Ceilings, CellRecord, Measurement, Outcome, Pass, Timer, plain_metric_name

__all__ = ["NOT_RUN", "axes_of", "cell_frame", "field", "samples_frame", "series_metrics", "series_of", "wide_frame"]

NOT_RUN = "not run"
"""The outcome of a cell that has no record yet."""

_PREFERENCE = {Pass.TIMING: 0, Pass.PROFILE: 1}
_TIMERS = {timer: rank for rank, timer in enumerate([Timer.NSYS, Timer.CUPTI, Timer.CUDA_EVENT, Timer.WALL])}


@dataclass(frozen=True, order=True)
class _Figure:
    """What a row of the cell frame is of."""

    metric: str
    unit: str
    timer: str
    pass_: str
    range: str


_NOTHING = _Figure("", "", "", "", "")


def cell_frame(
    run_id: str,
    cells: Sequence[CellResult],
    ceilings: Mapping[str, Ceilings] = MappingProxyType({}),
    *,
    measures_itself: bool = False,
    why_not_run: str = "",
) -> pd.DataFrame:
    """A row per cell and figure: columns `CELL`, the axes, `FIGURE`, `SUMMARY`.

    Statistics are null for a cell that is not ok or has not been run, and it has a row for each metric of the whole
    step that any cell of the run has, so that choosing a metric never loses a cell. What `derived` adds is among the
    figures; the roofline only where the GPU, as records name it, has `ceilings`. A workload that `measures_itself`
    warms up as it likes, and its first sample may be of another kind: that it is slow is no warning. `why_not_run` is
    the reason of cells without a record.
    """
    figures = [_figures(cell, ceilings) if cell.outcome is Outcome.OK else {} for cell in cells]
    whole_step = {figure.metric: figure.unit for found in figures for figure in sorted(found) if not figure.range}
    rows: list[int] = []
    labels: list[_Figure] = []
    samples: list[list[list[float]]] = []
    repeats: list[float] = []
    for index, found in enumerate(figures):
        have = {figure.metric for figure in found if not figure.range}
        absent = [_Figure(metric, unit, "", "", "") for metric, unit in whole_step.items() if metric not in have]
        for figure in [*found, *absent] or [_NOTHING]:
            rows.append(index)
            labels.append(figure)
            trials = found.get(figure, [])
            samples.append([trial.samples for trial in trials])
            repeats.append(_repeats(trials) or _older_repeats(figure, found))
    is_time = [label.unit == "s" and not measures_itself for label in labels]
    stats = summarise_all(samples, is_time, repeats)
    stats.loc[stats[c.NUM_SAMPLES] == 0, c.WARNINGS] = ""
    described = _describe_cells(run_id, cells, [*whole_step, *ACROSS_PASSES])
    described.loc[described[c.OUTCOME] == NOT_RUN, c.REASON] = why_not_run
    frame = pd.concat([described.iloc[rows].reset_index(drop=True), _describe_figures(labels), stats], axis=1)
    return _with_both_passes(frame, across_passes(frame, cells), described)


def _repeats(trials: Sequence[Measurement]) -> float | None:
    """How often one reading is among the samples of all trials, on average; None where no record says so."""
    readings = sum(len(trial.samples) / trial.repeats for trial in trials if trial.repeats)
    samples = sum(len(trial.samples) for trial in trials if trial.repeats)
    return samples / readings if readings else None


def _older_repeats(figure: _Figure, found: Mapping[_Figure, Sequence[Measurement]]) -> float:
    """The same of records of a gpubench that didn't say it.

    In its loop's, ITL has an iteration's time once for each sequence that decoded in it: they are no more readings than
    there were such iterations.
    """
    if figure.metric != "itl" or figure.range:
        return 1.0
    own = (trials for other, trials in found.items() if other.metric == "decoding" and not other.range)
    decoding = [count for trials in own for trial in trials for count in trial.samples if count > 0]
    return sum(decoding) / len(decoding) if decoding else 1.0


def _with_both_passes(frame: pd.DataFrame, both: pd.DataFrame, described: pd.DataFrame) -> pd.DataFrame:
    """The same with what takes both passes: where any cell has such a metric, a row of it for every cell."""
    parts = [frame]
    for metric, rows in both.groupby(c.METRIC, sort=False):
        absent = described[~described[c.CELL_ID].isin(rows[c.CELL_ID])]
        labels = _describe_figures([_Figure(str(metric), rows[c.UNIT].iloc[0], "", "", "")] * len(absent))
        nothing = summarise_all([[]] * len(absent))
        parts += [rows, pd.concat([absent.reset_index(drop=True), labels, nothing], axis=1)]
    if len(parts) == 1:
        return frame
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    place = whole[c.CELL_ID].map({cell_id: row for row, cell_id in enumerate(described[c.CELL_ID])})
    return whole.iloc[place.argsort(kind="stable")].reset_index(drop=True)


def samples_frame(run_id: str, cells: Sequence[CellResult]) -> pd.DataFrame:
    """A row per sample, of cells that failed too: run_id, cell_id, trial, outcome, `FIGURE`, position, value.

    `throttled` is true where NVML saw the GPU hold itself back just before or after the sample.
    """
    found = [
        (cell.cell.cell_id, record, measurement)
        for cell in cells
        for record in cell.records
        for measurement in record.measurements
    ]
    count = np.array([len(measurement.samples) for _, _, measurement in found], dtype=np.intp)
    frame = pd.DataFrame(
        [
            (cell_id, record.trial, str(record.outcome), m.metric, m.unit, m.timer or "", str(record.pass_), m.range)
            for cell_id, record, m in found
        ],
        columns=[c.CELL_ID, c.TRIAL, c.OUTCOME, *c.FIGURE],
    )
    frame.insert(0, c.RUN_ID, run_id)
    frame = frame.iloc[np.repeat(np.arange(len(found)), count)].reset_index(drop=True)
    frame[c.POSITION] = np.concatenate([np.arange(size) for size in count]) if found else []
    frame[c.VALUE] = np.array([value for _, _, m in found for value in m.samples], dtype=np.float64)
    frame[c.THROTTLED] = np.concatenate([_throttled(record, len(m.samples)) for _, record, m in found]) if found else []
    return frame


def _throttled(record: CellRecord, count: int) -> NDArray[np.bool_]:
    flags = np.zeros(count, dtype=bool)
    for start, end in throttled_spans(record):
        flags[start:end] = True
    return flags


def wide_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per cell of a cell frame (of one run or of several laid over one another), in its order.

    Columns `CELL` and the axes, and for each series `<series>` (its median) and `field(series, name)` for low, high,
    p10, p90, p99, num_samples, timer and warnings. A series is a metric of the whole step; where a cell has it from
    several timers, the unprofiled one has the plain name and the others are `<metric>@<timer>`. (A metric named like a
    column of cells is the series `<metric>_metric`.)
    """
    figures = {*c.FIGURE, *c.SUMMARY}
    of_cell = [name for name in frame.columns if name not in figures]
    cells = frame[of_cell].drop_duplicates([c.RUN_ID, c.CELL_ID], ignore_index=True)
    keys = pd.MultiIndex.from_frame(cells[[c.RUN_ID, c.CELL_ID]])
    parts = [cells]
    whole_step = _whole_step(frame)
    for series, rows in whole_step.groupby(_series(whole_step), sort=False):
        columns = rows.set_index([c.RUN_ID, c.CELL_ID])[list(_FIELDS)].reindex(keys)
        columns.columns = pd.Index([str(series) if name == c.MEDIAN else field(str(series), name) for name in _FIELDS])
        parts.append(columns.reset_index(drop=True))
    return pd.concat(parts, axis=1)


_FIELDS = (c.MEDIAN, *FIGURE_PARTS)


def field(series: str, name: str) -> str:
    """The wide frame's column of a series' low, high, p10, p90, p99, num_samples, timer or warnings."""
    return f"{series}.{name}"


def series_metrics(frame: pd.DataFrame) -> dict[str, str]:
    """The metric that each series of a cell frame is of."""
    rows = _whole_step(frame)
    pairs = pd.DataFrame({"series": _series(rows), "metric": rows[c.METRIC]}).drop_duplicates()
    return dict(zip(pairs["series"], pairs["metric"], strict=True))


def series_of(wide: pd.DataFrame) -> list[str]:
    """The series that a wide frame has, in its order."""
    ending = f".{c.TIMER}"
    return [str(name).removesuffix(ending) for name in wide.columns if str(name).endswith(ending)]


def axes_of(wide: pd.DataFrame) -> list[str]:
    """The columns of a wide frame that hold axes, in its order; `backend` is not among them."""
    series = series_of(wide)
    known = {*c.CELL, *series, *(field(key, name) for key in series for name in _FIELDS)}
    return [str(name) for name in wide.columns if name not in known]


def _whole_step(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame[c.RANGE] == "") & (frame[c.METRIC] != "")]


def _series(rows: pd.DataFrame) -> pd.Series:
    """The series of each row: the metric's own name for a cell's first figure of it, with the timer for the rest."""
    rank = rows[c.PASS].map(_PREFERENCE).fillna(0) * len(_TIMERS) + rows[c.TIMER].map(_TIMERS).fillna(0)
    order = rank.sort_values(kind="stable").index
    place = rows.loc[order].groupby([c.RUN_ID, c.CELL_ID, c.METRIC]).cumcount().reindex(rows.index)
    metric = rows[c.METRIC].map(_free_names(rows[c.METRIC].unique()))
    return metric.where(place == 0, metric + "@" + rows[c.TIMER])


def _free_names(metrics: Iterable[str]) -> dict[str, str]:
    """The name of each metric's series; older records may have metrics with the name of something else."""
    names: dict[str, str] = {}
    for metric in sorted(metrics, key=lambda metric: (_series_name(metric) != metric, metric)):
        name = _series_name(metric)
        while name in names.values():
            name += "_metric"
        names[metric] = name
    return names


def _series_name(metric: str) -> str:
    return f"{metric}_metric" if metric in c.CELL else plain_metric_name(metric)


def _describe_cells(run_id: str, cells: Sequence[CellResult], metrics: Iterable[str]) -> pd.DataFrame:
    axes = c.axis_columns((axis for cell in cells for axis in cell.cell.axes), metrics)
    columns: dict[str, list[object]] = {
        c.RUN_ID: [run_id] * len(cells),
        c.CELL_ID: [cell.cell.cell_id for cell in cells],
        c.INDEX: [cell.cell.index for cell in cells],
        c.KEY: [cell.cell.key for cell in cells],
        c.WORKLOAD: [cell.cell.workload for cell in cells],
        c.BACKEND: [cell.cell.backend for cell in cells],
        c.OUTCOME: [str(cell.outcome or NOT_RUN) for cell in cells],
        c.STAGE: [str(cell.decisive.stage) if cell.decisive else "" for cell in cells],
        c.REASON: [cell.reason for cell in cells],
    }
    frame = pd.DataFrame(columns)
    for axis, column in axes.items():
        frame[column] = pd.Series([cell.cell.axes.get(axis) for cell in cells], dtype=object).infer_objects()
    return frame


def _describe_figures(labels: Sequence[_Figure]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            c.METRIC: [label.metric for label in labels],
            c.UNIT: [label.unit for label in labels],
            c.TIMER: [label.timer for label in labels],
            c.PASS: [label.pass_ for label in labels],
            c.RANGE: [label.range for label in labels],
        },
        dtype=str,
    )


def _figures(cell: CellResult, ceilings: Mapping[str, Ceilings]) -> dict[_Figure, list[Measurement]]:
    """What an ok cell's records have of each figure, by trial."""
    found: dict[_Figure, list[Measurement]] = {}
    for record in [*cell.of(Pass.TIMING), *cell.of(Pass.PROFILE)]:
        for measurement in [*record.measurements, *rates(record, ceilings.get(record.gpu))]:
            figure = _Figure(
                measurement.metric, measurement.unit, measurement.timer or "", record.pass_, measurement.range
            )
            found.setdefault(figure, []).append(measurement)
    return found
