"""A run as a notebook has it: its header, its cells, and the frames that follow from them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.breakdown import kernel_frame, range_frame
from gpubench.analysis.frames import NOT_RUN, cell_frame, samples_frame, series_metrics, wide_frame
from gpubench.analysis.frontier import frontier
from gpubench.analysis.memory import memory_frame
from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.analysis.metrics import Metric, definitions
from gpubench.catalogue import WorkloadInfo
from gpubench.errors import UsageError
from gpubench.records import Outcome
from gpubench.store import RunHeader, StoredRun, find_run, read_run

__all__ = ["RESULTS", "Run", "define_series", "load_run"]

RESULTS = Path("results")
"""Where runs are looked for by their id."""


@dataclass(frozen=True)
class Run:
    """One run, read from disk. What is computed from it is computed once; frames are the caller's to change."""

    stored: StoredRun

    @property
    def header(self) -> RunHeader:
        return self.stored.header

    @property
    def run_id(self) -> str:
        return self.header.run_id

    @property
    def path(self) -> Path:
        return self.stored.path

    @cached_property
    def cells(self) -> list[CellResult]:
        """One result per cell, in the grid's order."""
        return merge_cells(self.stored)

    @cached_property
    def _frame(self) -> pd.DataFrame:
        return cell_frame(
            self.run_id,
            self.cells,
            self.stored.ceilings,
            measures_itself=self.header.workload.measures_itself,
            why_not_run="not run yet: the sweep was stopped before it, or is still running; to run it: gpubench sweep "
            f"{shlex.quote(self.header.sweep_file)} --resume, with the flags that it was started with",
        )

    def frame(self) -> pd.DataFrame:
        """A row per cell and figure; see `frames.cell_frame`."""
        return self._frame.copy()

    def samples(self) -> pd.DataFrame:
        """A row per sample; see `frames.samples_frame`."""
        return samples_frame(self.run_id, self.cells)

    def wide(self) -> pd.DataFrame:
        """A row per cell; see `frames.wide_frame`."""
        return wide_frame(self._frame)

    def kernels(self) -> pd.DataFrame:
        """A row per cell and kernel of the profiled pass; see `breakdown.kernel_frame`."""
        return kernel_frame(self.run_id, self.cells)

    def ranges(self) -> pd.DataFrame:
        """A row per cell and inner range of the profiled pass; see `breakdown.range_frame`."""
        return range_frame(self._frame, self.cells)

    def memory(self) -> pd.DataFrame:
        """A row per cell and bucket of captured graphs; see `memory.memory_frame`."""
        return memory_frame(self._frame)

    def metrics(self) -> dict[str, Metric]:
        """The definition of each series of `wide()`, by its key."""
        return define_series(self._frame, [self.header.workload])

    def frontier(
        self, x: str = "tok_s_user", y: str = "tok_s_gpu", group: str | Sequence[str] = (c.BACKEND,)
    ) -> pd.DataFrame:
        """The frontier of two metrics, per value of a column or of several together; see `frontier.frontier`."""
        group = [group] if isinstance(group, str) else group
        known, wide = self.metrics(), self.wide()
        for key in (x, y):
            _require(key, list(known), f"{self.run_id}: no metric {key!r} in this run")
        for name in group:
            _require(name, [str(column) for column in wide.columns], f"{self.run_id}: no column {name!r} to group by")
        return frontier(wide, known[x], known[y], group)

    def outcomes(self) -> dict[str, int]:
        """How many cells ended how: ok first, then as often as they occur; cells without a record are `not run`."""
        counts = Counter(str(cell.outcome or NOT_RUN) for cell in self.cells)
        return dict(sorted(counts.items(), key=lambda item: (item[0] != Outcome.OK, -item[1], item[0])))

    def devices(self) -> list[str]:
        """The GPUs that cells ran on, without their numbers: `NVIDIA H200`."""
        names = {record.gpu.split(" ", 1)[-1] for record in self.stored.records if record.gpu}
        return sorted(names)

    def profilers(self) -> list[str]:
        """What the profiled pass was made with: `nsys 2025.3.1.0`."""
        said = (record.details.get("profiler") for record in self.stored.records)
        return sorted({name for name in said if isinstance(name, str)})

    def timers(self) -> list[str]:
        """Who produced this run's figures."""
        names = {timer for timers in self._frame[c.TIMER].unique() for timer in timers.split(", ")}
        return sorted(names - {""})

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.outcomes().items())
        device = ", ".join(self.devices()) or "no device yet"
        return f"<Run {self.run_id}: {len(self.cells)} cells: {counts or 'none'}; {device}>"


def define_series(frame: pd.DataFrame, workloads: Iterable[WorkloadInfo]) -> dict[str, Metric]:
    """The definition of each series of a cell frame, of one run or several; gpubench's own metrics come first."""
    present = frame[[c.METRIC, c.UNIT]].drop_duplicates()
    pairs = [(metric, unit) for metric, unit in present.itertuples(index=False) if metric]
    known = definitions(pairs, workloads)
    order = {metric: place for place, metric in enumerate(known)}
    found: dict[str, Metric] = {}
    for series, metric in sorted(series_metrics(frame).items(), key=lambda item: order[item[1]]):
        timer = series.removeprefix(metric).partition("@")[2]
        label = known[metric].label + (f", by {timer}" if timer else "")
        found[series] = replace(known[metric], key=series, label=label)
    return found


def load_run(run: str | Path | None = None, results: Path = RESULTS) -> Run:
    """Read a run: a folder, the id of a run in `results`, or with None the newest one there.

    Raises StoreError when there is no such run or it can't be read.
    """
    return Run(read_run(find_run(None if run is None else str(run), results)))


def _require(name: str, known: list[str], message: str) -> None:
    if name in known:
        return
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise UsageError(f"{message}{hint} known: {', '.join(known) or 'none'}")
