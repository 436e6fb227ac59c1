"""The profiled pass: which profiler there is, workers wrapped in it, and its figures put into their records."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpubench.catalogue import WorkloadInfo
from gpubench.errors import GpubenchError, ProfilerError, ReportLost
from gpubench.machine import Gpu
from gpubench.profilers.names import repetition_range
from gpubench.profilers.nsys import (
    Nsys,
    check_ranges,
    export_report,
    find_nsys,
    find_report,
    profile_command,
    try_nsys,
)
from gpubench.profilers.nsys import worker_environment as reduce_environment
from gpubench.records import CellRecord, Outcome, Pass, Stage, Timer
from gpubench.run.launcher import Launch, PlainLauncher, worker_command, worker_environment
from gpubench.run.logs import read_tail
from gpubench.settings import MeasureSettings

if TYPE_CHECKING:
    from gpubench.profilers.join import CellProfile
    from gpubench.profilers.projection import Projection

__all__ = ["CELLS_PER_TRACE", "NsysLauncher", "Profiler", "UnprofiledRetry", "choose_profiler", "discard_unread"]

CELLS_PER_TRACE = 50
"""A session of nsys costs seconds, and a trace grows with every cell: this many share one."""

TRACE = "trace"


@dataclass(frozen=True)
class Profiler:
    """What the profiled pass is made with: nsys around the worker, CUPTI inside it, or nothing."""

    timer: Timer | None
    """`nsys`, `cupti`, or None: there is no profiled pass."""
    why: str
    """Why this one, in a sentence that goes into the run."""
    nsys: Nsys | None = None


def choose_profiler(
    measure: MeasureSettings, gpus: Sequence[Gpu], workload: WorkloadInfo, *, wanted: bool = True
) -> Profiler:
    """By `measure.timer`; `auto` takes nsys where it works, else CUPTI, else none, if there is a GPU to trace.

    ProfilerError if one was asked for by name and doesn't work: a figure labelled nsys is made by nothing else.
    A workload that is another program can't be traced from within this one's process; one that measures itself in the
    worker has a step of its own for each sample, so that no repetition could be profiled.
    """
    if measure.timer == "cuda_event" and not gpus:
        raise ProfilerError("CUDA events time a GPU's work, and there is no GPU here: use --timer wall")
    if unprofiled := _why_unprofiled(measure, workload, wanted=wanted):
        return Profiler(None, f"unprofiled{unprofiled}")
    if measure.timer == "nsys":
        return _take_nsys()
    if measure.timer == "cupti":
        if not gpus:
            raise ProfilerError("CUPTI records a GPU's work, and there is no GPU here: use --timer wall")
        return _take_cupti(workload.is_program)
    if not gpus:
        return Profiler(None, "unprofiled: there is no GPU to trace")
    refusals = []
    for take in (_take_nsys, partial(_take_cupti, workload.is_program)):
        try:
            found = take()
        except ProfilerError as error:
            refusals.append(str(error))
        else:
            return replace(found, why="; ".join([found.why, *refusals]))
    return Profiler(None, f"unprofiled: {'; '.join(refusals)}")


def _why_unprofiled(measure: MeasureSettings, workload: WorkloadInfo, *, wanted: bool) -> str:
    """What settles it, whatever profilers there are; "" if there is to be a profiled pass."""
    if not wanted:
        return ", as asked for with --no-profile"
    if measure.timer in ("cuda_event", "wall"):
        return f": measure.timer is {measure.timer}"
    if not workload.in_process:
        return ""
    if measure.timer != "auto":
        raise ProfilerError(f"{workload.name} measures itself and has no profiled pass: leave measure.timer out")
    return f": {workload.name} measures itself"


def _take_nsys() -> Profiler:
    nsys = find_nsys()
    try_nsys(nsys)
    return Profiler(Timer.NSYS, str(nsys), nsys)


def _take_cupti(is_program: bool) -> Profiler:
    if is_program:
        raise ProfilerError("CUPTI sees its own process only, and this workload is another program: use nsys")
    try:
        version = importlib.metadata.version("cupti-python")
    except importlib.metadata.PackageNotFoundError:
        raise ProfilerError("no cupti-python: pip install 'gpubench[cupti]'") from None
    return Profiler(Timer.CUPTI, f"CUPTI in the worker (cupti-python {version})")


@dataclass(frozen=True)
class NsysLauncher:
    """A worker inside nsys; its trace gives the records their kernel times once both have ended.

    The record of a cell that died there is withheld: whether nsys was the cause, only a run without it can tell.
    """

    nsys: Nsys
    pass_environment: Sequence[str]
    keep_traces: bool
    is_program: bool
    """The cell is another program: recording is on from the start, and the ranges are the program's own."""
    withheld: dict[str, CellRecord] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    """By cell id, how nsys lost its trace; the second time the cell's record says so."""

    goodbye_s = 600.0
    has_trace = True

    def launch(self, job: Path, gpu: Gpu | None) -> Launch:
        output = job.with_name(TRACE)
        has_range = gpu is not None and not self.is_program
        command = profile_command(self.nsys, worker_command(job), output, has_gpu=has_range)
        environment = worker_environment(job, gpu, has_dumps=False)  # beside a profiler the driver makes none
        # a report keeps the environment for good, so that the worker gets no more of it than it needs
        return Launch(command, reduce_environment(environment, also=self.pass_environment))

    def complete(self, folder: Path, records: Sequence[CellRecord]) -> list[CellRecord]:
        """Add what the trace in a worker's folder says; where it says nothing, the reason as a warning."""
        self.withheld.update({record.cell_id: record for record in records if record.outcome.is_failure})
        alive = [record for record in records if not record.outcome.is_failure]
        try:
            return self._join(self._export(folder), alive) if alive else []
        except ReportLost as error:
            return self._give_up(alive, str(error))
        except GpubenchError as error:
            return [_without_figures(record, str(error)) for record in alive]
        finally:
            self._discard(folder)

    def _give_up(self, alive: Sequence[CellRecord], reason: str) -> list[CellRecord]:
        """What is left to say of cells without a trace: nothing yet of those that can be profiled once more."""
        again = {r.cell_id: reason for r in alive if r.outcome is Outcome.OK and r.cell_id not in self.lost}
        told = [_without_figures(record, reason) for record in alive if record.cell_id not in again]
        self.lost.update(again)
        return told

    def _export(self, folder: Path) -> Path:
        from gpubench.profilers.scrub import scrub

        log = "\n".join(read_tail(folder / name) for name in ("stdout.txt", "stderr.txt"))
        report = find_report(folder / TRACE, log)
        raw = export_report(self.nsys, report, folder / f"{TRACE}.raw.sqlite")
        clean = scrub(raw, folder / f"{TRACE}.sqlite")
        raw.unlink()
        return clean

    def _discard(self, folder: Path) -> None:
        """Remove nsys's own report, whatever became of the cells: it holds the worker's environment."""
        if not self.keep_traces:
            for left in folder.glob(f"{TRACE}.*"):
                if left.name != f"{TRACE}.sqlite":
                    left.unlink()

    def _join(self, export: Path, records: Sequence[CellRecord]) -> list[CellRecord]:
        from gpubench.profilers.projection import project

        projection = project(export, may_be_empty=True)
        if not self.is_program:
            expected = [repetition_range(record.cell_id) for record in records if record.outcome is Outcome.OK]
            found = set(projection.instances["range"])
            check_ranges(found, expected, self.nsys.version, importlib.metadata.version("nvtx"))
        source = {"profiler": str(self.nsys), "trace": f"{export.parent.name}/{export.name}"}
        return [
            _add_profile(record, self._profile_of(record, projection), source)
            if record.outcome is Outcome.OK
            else record
            for record in records
        ]

    def _profile_of(self, record: CellRecord, projection: Projection) -> CellProfile:
        from gpubench.profilers.join import join_cell, join_program

        return join_program(projection) if self.is_program else join_cell(projection, record.cell_id)


def _add_profile(record: CellRecord, profile: CellProfile, source: Mapping[str, str]) -> CellRecord:
    details, warnings = {**record.details, **source}, [*record.warnings, *profile.warnings]
    if profile.nested_ranges:
        details["nested_ranges"] = profile.nested_ranges
    if profile.has_eager:
        details["replay_kernels"] = profile.replay_difference or "as eager"
    if profile.replay_difference:
        warnings.append(f"the graph doesn't hold what its step runs eagerly: {profile.replay_difference}")
    return replace(
        record, measurements=profile.measurements, kernels=profile.kernels, details=details, warnings=warnings
    )


def _without_figures(record: CellRecord, reason: str) -> CellRecord:
    if record.outcome is not Outcome.OK:
        return record
    # a program's own figures, taken while it was profiled, are no timings
    return replace(record, measurements=[], warnings=[*record.warnings, f"no kernel times: {reason}"])


def discard_unread(artifacts: Path, records: Sequence[CellRecord]) -> None:
    """Remove the traces that no record is of: a sweep that was killed leaves nsys to write its report all the same."""
    read = {record.worker for record in records if record.pass_ is Pass.PROFILE}
    for left in artifacts.glob(f"worker_*/{TRACE}.*"):
        if int(left.parent.name.removeprefix("worker_")) not in read:
            left.unlink()


class UnprofiledRetry(PlainLauncher):
    """Runs cells that died under nsys once more without it, and rewrites their profiled records with the verdict."""

    has_trace = True

    def __init__(self, dead: Mapping[str, CellRecord], *, has_dumps: bool = True) -> None:
        super().__init__(has_dumps=has_dumps)
        self._dead = dead

    def complete(self, folder: Path, records: Sequence[CellRecord]) -> list[CellRecord]:
        return [_verdict(self._dead[record.cell_id], record) for record in records]


def _verdict(dead: CellRecord, unprofiled: CellRecord) -> CellRecord:
    if unprofiled.outcome is not Outcome.OK:
        reason = f"{dead.reason}; and without nsys, once more: {unprofiled.reason}"
        # without a profiler there is a core dump, and an exit status that is the worker's own
        return replace(dead, reason=reason, crash=unprofiled.crash or dead.crash)
    told = f"no kernel times: under nsys, {dead.reason}; without it the cell then ran, so nsys is the likely cause"
    return replace(dead, outcome=Outcome.OK, stage=Stage.DONE, reason="", warnings=[*dead.warnings, told])
