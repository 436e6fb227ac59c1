"""The main job, in verbs: open the run, plan what is missing, run it, say how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.catalogue import WorkloadInfo
from gpubench.machine import Gpu, Machine, describe_environment, fingerprint
from gpubench.protocol import Task
from gpubench.records import Cell, CellRecord, Outcome, Pass
from gpubench.run.events import PassStarted, SweepEnded, SweepEvent, SweepStarted
from gpubench.run.kin import describe_order
from gpubench.run.launcher import Launcher, PlainLauncher
from gpubench.run.plan import TaskSettings, plan_tasks
from gpubench.run.profiling import (
    CELLS_PER_TRACE,
    NsysLauncher,
    Profiler,
    UnprofiledRetry,
    choose_profiler,
    discard_unread,
)
from gpubench.run.resume import find_resumable, question_hash, refuse
from gpubench.run.scheduler import Scheduler, StopSignal, WorkerSettings
from gpubench.settings import uses_interpreter
from gpubench.store import (
    ARTIFACTS,
    RunHeader,
    RunStore,
    Session,
    StoredRun,
    add_session,
    create_run,
    new_run_id,
    read_run,
)
from gpubench.sweep import Sweep

__all__ = ["SweepRequest", "run_sweep"]


@dataclass(frozen=True)
class SweepRequest:
    """A sweep and how the user wants it run."""

    sweep: Sweep
    cells: Sequence[Cell]
    workload: WorkloadInfo
    plugin_files: Sequence[str]
    machine: Machine
    gpus: Sequence[Gpu]
    """One worker each; none: one worker on the CPU."""
    overlay: str = ""
    """The overlay that was merged into the sweep; "" for none."""
    warnings: Sequence[str] = ()
    """What planning noticed."""
    results: Path = Path("results")
    resume: bool = False
    force: bool = False
    retry: frozenset[Outcome] = frozenset()
    profile: bool = True
    keep_traces: bool = False
    launcher: Launcher | None = None
    """How workers of the unprofiled pass are started; None: plainly."""
    ceilings: bool = True
    """Find out what each GPU can do at best."""


def run_sweep(request: SweepRequest, stop: StopSignal) -> Generator[SweepEvent]:
    """Run a sweep to its end, or until `stop` says so. What was recorded stays, whatever happens."""
    measure = request.sweep.spec.measure
    profiler = choose_profiler(measure, request.gpus, request.workload, wanted=request.profile)
    path, session = _open_run(request, profiler)
    with RunStore(path) as store:
        add_session(path, session)
        run = read_run(path)
        passes = _Passes(request, profiler, store, stop, set(run.ceilings))
        yield from passes.timing(run)
        yield from passes.profile()
        unprofiled = len(passes.tasks_to_profile()) if stop.is_requested else 0
        ended = read_run(path)
        if not request.keep_traces:
            discard_unread(path / ARTIFACTS, ended.records)
        results = merge_cells(ended)
        asked = count_outcomes(passes.asked(results))
    warned = sum(any(record.warnings for record in result.records) for result in results)
    yield SweepEnded(count_outcomes(results), asked, warned, unprofiled, stop.is_requested, str(path))


def count_outcomes(results: Sequence[CellResult]) -> dict[str, int]:
    """Cells by outcome, the cells without one as `not run`; no zeros."""
    return dict(Counter(result.outcome.value if result.outcome else "not run" for result in results))


@dataclass(frozen=True)
class _Passes:
    """The passes of one sweep over one run."""

    request: SweepRequest
    profiler: Profiler
    store: RunStore
    stop: StopSignal
    known_ceilings: set[str]
    """The GPUs whose ceilings the run has; workers add theirs."""

    @property
    def _has_dumps(self) -> bool:
        return self.request.sweep.spec.triage.coredump

    def timing(self, run: StoredRun) -> Iterator[SweepEvent]:
        """Every cell that has no answer yet, unprofiled."""
        results = self.asked(merge_cells(run))
        tasks = plan_tasks(results, self._task_settings(Pass.TIMING), self.request.retry)
        device = ", ".join(gpu.name for gpu in self.request.gpus) or "cpu"
        if self.request.overlay:
            device += f" (overlay {self.request.overlay})"
        by_triton = {backend.name for backend in run.header.workload.backends if "triton" in backend.requires}
        if uses_interpreter() and any(result.cell.backend in by_triton for result in results):
            device += " (Triton in its interpreter, whose times say nothing of a GPU)"
        todo = len({task.cell.cell_id for task in tasks})
        yield SweepStarted(run.path.name, str(run.path), len(results), todo, device, self.profiler.why)
        launcher = self.request.launcher or PlainLauncher(has_dumps=self._has_dumps)
        yield from self._scheduler(launcher).run(tasks)

    def profile(self) -> Iterator[SweepEvent]:
        """The cells that are ok once more, under the profiler; those that die there once more without it, and those
        whose trace it loses again.
        """
        if self.stop.is_requested or not (tasks := self.tasks_to_profile()):
            return
        yield PassStarted(Pass.PROFILE, len(tasks), self.profiler.why)
        launcher, cells_per_worker = self._profiled()
        yield from self._scheduler(launcher, cells_per_worker).run(tasks)
        dead = dict(launcher.withheld)
        yield from self._retry_unprofiled(dead, tasks)
        if lost := [task for task in tasks if task.cell.cell_id in launcher.lost]:
            yield PassStarted(Pass.PROFILE, len(lost), self.profiler.why, is_again=True)
            yield from self._scheduler(launcher, cells_per_worker).run(lost)
            died_now = {name: record for name, record in launcher.withheld.items() if name not in dead}
            yield from self._retry_unprofiled(died_now, lost)

    def tasks_to_profile(self) -> list[Task]:
        """One for each cell that is ok and has no profile yet; none if nothing profiles."""
        if self.profiler.timer is None:
            return []
        ok = [result for result in self.asked(merge_cells(read_run(self.store.path))) if result.outcome is Outcome.OK]
        return plan_tasks(ok, self._task_settings(Pass.PROFILE), frozenset())

    def _profiled(self) -> tuple[Launcher, int | None]:
        """The launcher of the profiled pass, and how many cells a worker of its may take."""
        if self.profiler.nsys is None:
            return PlainLauncher(has_dumps=False), None  # CUPTI and core dumps exclude each other
        is_program = self.request.workload.is_program
        launcher = NsysLauncher(
            self.profiler.nsys,
            pass_environment=self.request.sweep.spec.measure.pass_environment,
            keep_traces=self.request.keep_traces,
            is_program=is_program,
        )
        return launcher, 1 if is_program else CELLS_PER_TRACE

    def _retry_unprofiled(self, dead: Mapping[str, CellRecord], tasks: Sequence[Task]) -> Iterator[SweepEvent]:
        again = [replace(task, pass_=Pass.TIMING) for task in tasks if task.cell.cell_id in dead]
        yield from self._scheduler(UnprofiledRetry(dead, has_dumps=self._has_dumps)).run(again)

    def asked(self, results: Sequence[CellResult]) -> list[CellResult]:
        """Those of a run's cells that this start of it is to run."""
        asked = {cell.key for cell in self.request.cells}
        return [result for result in results if result.cell.key in asked]

    def _task_settings(self, pass_: Pass) -> TaskSettings:
        spec = self.request.sweep.spec
        # absolute: a cell may change its working directory
        artifacts = (self.store.path / ARTIFACTS).resolve()
        measure = spec.measure
        if pass_ is Pass.PROFILE:
            measure = measure.model_copy(update={"timer": self.profiler.timer})
        workload = self.request.workload
        return TaskSettings(pass_, measure, spec.check, spec.timeout_s, artifacts, workload, spec.order)

    def _scheduler(self, launcher: Launcher, cells_per_worker: int | None = None) -> Scheduler:
        spec = self.request.sweep.spec
        settings = WorkerSettings(
            plugins=spec.plugins,
            launcher=launcher,
            timeout=spec.timeout_s,
            tasks_per_worker=1 if spec.isolation == "cell" else cells_per_worker,
            first_number=len(list((self.store.path / ARTIFACTS).glob("worker_*"))),
            measure_ceilings=self.request.ceilings,
            known_ceilings=self.known_ceilings,
        )
        return Scheduler(self.store, settings, self.stop, self.request.gpus or [None])


def _open_run(request: SweepRequest, profiler: Profiler) -> tuple[Path, Session]:
    """The folder to write to, new or resumed, and what to note about this start."""
    header = _header(request, profiler)
    forced: list[str] = []
    if request.resume:
        run, forced = find_resumable(request.results, header)
        if forced and not request.force:
            raise refuse(run, forced)
        path = run.path
    else:
        path = request.results / create_run(request.results, header).run_id
    order = describe_order(request.workload, request.cells, request.sweep.spec.order)
    return path, Session(header.created_at, header.environment, header.fingerprint, forced, order)


def _header(request: SweepRequest, profiler: Profiler) -> RunHeader:
    now = datetime.now(UTC)
    environment = describe_environment(replace(request.machine, gpus=tuple(request.gpus)))
    resolved = request.sweep.resolved
    return RunHeader(
        run_id=new_run_id(request.sweep.name, now),
        name=request.sweep.name,
        created_at=now.isoformat(timespec="milliseconds"),
        sweep=resolved,
        sweep_file=str(request.sweep.path),
        cells=list(request.cells),
        workload=request.workload,
        environment={**environment, "profiler": profiler.why},
        fingerprint=fingerprint(environment, question_hash(resolved), request.plugin_files),
    )
