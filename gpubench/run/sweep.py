"""The main job, in verbs: open the run, plan what is missing, run it, say how it went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.catalogue import WorkloadInfo
from gpubench.machine import Gpu, Machine, describe_environment, fingerprint
from gpubench.records import Cell, Outcome, Pass
from gpubench.run.events import SweepEnded, SweepEvent, SweepStarted
from gpubench.run.launcher import PlainLauncher
from gpubench.run.plan import TaskSettings, plan_tasks
from gpubench.run.resume import differences, find_resumable, question_hash, refuse
from gpubench.run.scheduler import Scheduler, StopSignal, WorkerSettings
from gpubench.store import (
    ARTIFACTS,
    RunHeader,
    RunStore,
    Session,
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
    warnings: Sequence[str] = ()
    """What planning noticed."""
    results: Path = Path("results")
    resume: bool = False
    force: bool = False
    retry: frozenset[Outcome] = frozenset()


def run_sweep(request: SweepRequest, stop: StopSignal) -> Iterator[SweepEvent]:
    """Run a sweep to its end, or until `stop` says so. What was recorded stays, whatever happens."""
    path, session = _open_run(request)
    with RunStore(path) as store:
        add_session(path, session)
        asked = {cell.key for cell in request.cells}
        results = [result for result in merge_cells(read_run(path)) if result.cell.key in asked]
        tasks = plan_tasks(results, _task_settings(request, path), request.retry)
        device = ", ".join(gpu.name for gpu in request.gpus) or "cpu"
        todo = len({task.cell.cell_id for task in tasks})
        yield SweepStarted(path.name, str(path), len(results), todo, device)
        scheduler = Scheduler(store, _worker_settings(request, path), stop, request.gpus or [None])
        yield from scheduler.run(tasks)
    yield SweepEnded(count_outcomes(merge_cells(read_run(path))), stop.is_requested, str(path))


def count_outcomes(results: Sequence[CellResult]) -> dict[str, int]:
    """Cells by outcome, the cells without one as `not run`; no zeros."""
    return dict(Counter(result.outcome.value if result.outcome else "not run" for result in results))


def _open_run(request: SweepRequest) -> tuple[Path, Session]:
    """The folder to write to, new or resumed, and what to note about this start."""
    header = _header(request)
    forced: list[str] = []
    if request.resume:
        run = find_resumable(request.results, header)
        forced = differences(run.header, header)
        if forced and not request.force:
            raise refuse(run, forced)
        path = run.path
    else:
        path = request.results / create_run(request.results, header).run_id
    return path, Session(header.created_at, header.environment, header.fingerprint, forced)


def _header(request: SweepRequest) -> RunHeader:
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
        environment=environment,
        fingerprint=fingerprint(environment, question_hash(resolved), request.plugin_files),
    )


def _task_settings(request: SweepRequest, path: Path) -> TaskSettings:
    sweep = request.sweep.spec
    # absolute: a cell may change its working directory
    artifacts = (path / ARTIFACTS).resolve()
    return TaskSettings(Pass.TIMING, sweep.measure, sweep.check, sweep.timeout_s, artifacts, sweep.order)


def _worker_settings(request: SweepRequest, path: Path) -> WorkerSettings:
    sweep = request.sweep.spec
    return WorkerSettings(
        plugins=sweep.plugins,
        launcher=PlainLauncher(),
        timeout=sweep.timeout_s,
        tasks_per_worker=1 if sweep.isolation == "cell" else None,
        first_number=len(list((path / ARTIFACTS).glob("worker_*"))),
    )
