"""Keeps one worker busy per GPU until every task has a record: feeds, listens, times out, buries, replaces."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpubench.errors import StoreError, WorkerError
from gpubench.machine import Gpu
from gpubench.protocol import (
    CANNOT_WRITE,
    CellEnded,
    Event,
    FiguresTaken,
    HazardsFound,
    Job,
    StageEntered,
    Task,
    WorkerReady,
)
from gpubench.records import CellRecord, Outcome
from gpubench.run.autopsy import OomKillCounter, attach_core, find_remains
from gpubench.run.classify import Death, record_death
from gpubench.run.coredump import CoreReader, find_cuda_gdb
from gpubench.run.events import CellRecorded, CellStarted, StopNoticed, SweepEvent, WorkerStarted
from gpubench.run.kin import best_for, is_full
from gpubench.run.lane import Lane, Running
from gpubench.run.launcher import Launcher
from gpubench.run.logs import settle
from gpubench.run.worker import EVENTS, LOG_NAMES, WorkerProcess
from gpubench.settings import TimeoutSettings
from gpubench.store import RunStore

__all__ = ["Scheduler", "StopSignal", "WorkerSettings"]

POLL_S = 0.005
LOG_CHECK_S = 0.05
PREFETCH = 2
"""Tasks a worker holds: the one it runs and the next, so that it never waits for this process."""
STILLBIRTHS = 2
"""Workers in a row that die before they begin a cell; then the fault isn't a cell's."""


@dataclass
class StopSignal:
    """What the user's Ctrl-C has asked for so far."""

    is_requested: bool = False
    """Begin no more cells; let the running ones end."""
    is_told: bool = False
    """The user has been told that it was noticed."""
    is_urgent: bool = False
    """End the running ones too."""


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a sweep is started with."""

    plugins: Sequence[str]
    launcher: Launcher
    timeout: TimeoutSettings
    tasks_per_worker: int | None = None
    """1 under `isolation: cell`; None for as many as it lives through. It may take as many again to end with a kin."""
    first_number: int = 0
    measure_ceilings: bool = True
    known_ceilings: set[str] = field(default_factory=set)
    """The GPUs, as records name them, whose ceilings the run has."""


@dataclass
class Scheduler:
    """Runs tasks to records. One thread, one loop; every record is on disk before its event is yielded."""

    store: RunStore
    settings: WorkerSettings
    stop: StopSignal
    gpus: Sequence[Gpu | None]
    """One lane each; [None] runs on the CPU."""
    todo: deque[Task] = field(default_factory=deque)
    _number: int = 0
    _lanes: list[Lane] = field(default_factory=list)
    _tasks_left: Counter[str] = field(default_factory=Counter)
    _oom_kills: OomKillCounter = field(default_factory=OomKillCounter)
    _cores: CoreReader = field(default_factory=lambda: CoreReader(find_cuda_gdb()))
    _logs_checked: float = 0.0

    def run(self, tasks: Iterable[Task]) -> Iterator[SweepEvent]:
        """Run every task; returns early, with nothing left running, once the stop signal says so."""
        self.todo = deque(tasks)
        self._tasks_left = Counter(task.cell.cell_id for task in self.todo)
        self._number = self.settings.first_number
        self._lanes = lanes = [Lane(gpu) for gpu in self.gpus]
        try:
            while any(self._is_busy(lane) for lane in lanes) and not self.stop.is_urgent:
                if self.stop.is_requested and not self.stop.is_told:
                    self.stop.is_told = True
                    yield StopNoticed()
                for lane in lanes:
                    yield from self._advance(lane)
                self._bound_logs(lanes)
                time.sleep(POLL_S)
        finally:
            for lane in lanes:
                if lane.worker is not None:
                    lane.worker.close()
                    self.settings.launcher.complete(lane.worker.folder, [])  # a trace that nobody reads must not stay

    def _is_busy(self, lane: Lane) -> bool:
        return lane.worker is not None or (bool(self.todo) and not self.stop.is_requested)

    def _advance(self, lane: Lane) -> Iterator[SweepEvent]:
        if lane.worker is None:
            if self.todo and not self.stop.is_requested:
                yield self._start(lane)
                self._feed(lane)
            return
        # The status first: events read after a death was seen are then all that there will ever be.
        status = lane.worker.exit_status()
        for event in lane.worker.poll():
            yield from self._hear(lane, event)
        if status is not None:
            yield from self._bury(lane, status)
        elif overdue := self._overdue(lane):
            self._kill_overdue(lane, overdue)
        elif self.stop.is_requested:
            self._wind_down(lane)
        else:
            self._feed(lane)

    def _start(self, lane: Lane) -> SweepEvent:
        number = self._number
        self._number += 1
        try:
            folder = self.store.artifacts(f"worker_{number:03d}")
            lane.begin(WorkerProcess(folder, self._job(lane, number, folder), lane.gpu, self.settings.launcher))
        except OSError as error:
            raise StoreError(
                f"{self.store.path}: can't start worker {number}: {error.strerror}; what was recorded before is safe: "
                "mend that and run the same command with --resume"
            ) from error
        return WorkerStarted(number, lane.gpu.name if lane.gpu else "cpu", lane.next_reason)

    def _job(self, lane: Lane, number: int, folder: Path) -> Job:
        is_traced = self.settings.launcher.has_trace
        return Job(
            number=number,
            gpu=lane.name,
            needs_cuda=lane.gpu is not None,
            plugins=list(self.settings.plugins),
            events=str(folder / EVENTS),
            is_traced=is_traced,
            # once per GPU and run, and never while a profiler slows it down
            measure_ceilings=self._are_ceilings_wanted(lane) and not is_traced,
        )

    def _are_ceilings_wanted(self, lane: Lane) -> bool:
        return self.settings.measure_ceilings and lane.gpu is not None and lane.name not in self.settings.known_ceilings

    def _feed(self, lane: Lane) -> None:
        worker, limit = lane.worker, self.settings.tasks_per_worker
        assert worker is not None, "only a lane with a worker is fed"
        if lane.is_finishing is not None:
            return
        while self.todo and not self.stop.is_requested and len(worker.sent) < self._share():
            place = best_for(lane.kin, [other.kin for other in self._lanes if other is not lane], self.todo)
            task = self.todo[place]
            if is_full(lane.tasks_given, limit, has_kin=bool(task.kin) and task.kin == lane.kin):
                break
            del self.todo[place]
            lane.give(task)
        if not worker.sent:
            worker.finish()
            lane.is_finishing = time.monotonic()

    def _share(self) -> int:
        """How many tasks a worker may hold now: the spare one must not be missing on another GPU."""
        return PREFETCH if len(self.todo) > len(self.gpus) else 1

    def _hear(self, lane: Lane, event: Event) -> Iterator[SweepEvent]:
        assert lane.worker is not None, "events come from a worker"
        now = time.monotonic()
        match event:
            case _ if not _is_from(lane.worker, event):
                lane.worker.num_unreadable += 1  # of a cell that it isn't in: not the worker's own words either
            case WorkerReady():
                lane.is_ready, lane.idle_since = True, now
                if event.ceilings is not None:
                    self.store.add_ceilings(lane.name, event.ceilings)
                    self.settings.known_ceilings.add(lane.name)
            case StageEntered():
                lane.stillbirths = 0
                began, hazards = (lane.running.began, lane.running.hazards) if lane.running else (now, [])
                lane.running = Running(lane.worker.sent[0], event.trial, event.stage, began, now, hazards)
                yield CellStarted(event.cell_id, event.trial, event.stage, lane.worker.number)
            case HazardsFound():
                assert lane.running is not None, "hazards are found in a cell"
                lane.running.hazards.extend(event.hazards)
            case FiguresTaken():
                assert lane.running is not None, "figures are taken in a cell"
                lane.running.measured.extend(event.measurements)
            case CellEnded():
                lane.is_context_lost = event.context_lost
                cell = Path(lane.worker.sent[0].artifacts)
                record = attach_core(lane.worker.warn(event.record), lane.worker.folder, cell, self._cores)
                if event.is_last:
                    self._task_ended(lane)
                yield from self._record(lane, record, event.is_last)

    def _record(self, lane: Lane, record: CellRecord, is_last: bool) -> Iterator[SweepEvent]:
        """Write a record down, or keep it until its worker's trace can be read."""
        if is_last:
            self._tasks_left[record.cell_id] -= 1
        if record.outcome is not Outcome.OK and self._tasks_left[record.cell_id]:
            # its further trials, where they are tasks of their own, would only fail again
            self.todo = deque(task for task in self.todo if task.cell.cell_id != record.cell_id)
            self._tasks_left[record.cell_id] = 0
        if self.settings.launcher.has_trace:
            lane.held.append(record)
        else:
            yield self._write(record, is_last)

    def _write(self, record: CellRecord, is_last: bool) -> SweepEvent:
        self.store.append(record)
        return CellRecorded(record, is_last and not self._tasks_left[record.cell_id])

    def _task_ended(self, lane: Lane) -> None:
        assert lane.worker is not None, "a task ends in a worker"
        task = lane.worker.sent.popleft()
        settle(Path(task.artifacts), *LOG_NAMES)
        lane.running, lane.idle_since = None, time.monotonic()

    def _overdue(self, lane: Lane) -> str:
        assert lane.worker is not None, "only a worker can be late"
        now = time.monotonic()
        if lane.is_finishing is not None:
            return "after its last cell" if now - lane.is_finishing > self.settings.launcher.goodbye_s else ""
        if lane.running is not None:
            return lane.running.overdue(self.settings.timeout, now)
        # a worker that is ready begins what it holds at once, unless a cell took that from its input, or its memory
        since = lane.idle_since if lane.is_ready else lane.worker.started_at
        if (lane.worker.sent or not lane.is_ready) and now - since > self.settings.timeout.start:
            return f"after {self.settings.timeout.start:g} s (timeout_s.start)"
        return ""

    def _kill_overdue(self, lane: Lane, overdue: str) -> None:
        """End a worker that is late; its burial follows, once it and a profiler around it have ended."""
        worker = lane.worker
        assert worker is not None, "only a worker can be late"
        if self.settings.launcher.has_trace and not lane.timed_out and worker.pid is not None:
            worker.ask_for_stacks()
            worker.kill_inside()  # the profiler lives on, to write down what it has
            lane.is_finishing, lane.timed_out = time.monotonic(), overdue
            return
        worker.ask_for_stacks()
        worker.ask_for_core()
        worker.kill()
        lane.timed_out = lane.timed_out or overdue

    def _wind_down(self, lane: Lane) -> None:
        """End a worker at the user's wish: the cell it is in may end, the one it may hold must not begin."""
        assert lane.worker is not None, "only a worker can be wound down"
        if lane.is_finishing is not None or lane.is_stopping:
            return
        if not lane.is_winding_down:
            lane.is_winding_down = True
            lane.worker.take_back()
        if lane.running is not None:
            return
        lane.is_stopping = True
        if self.settings.launcher.has_trace:
            lane.worker.finish()  # it ends by itself, and the profiler writes its report
            lane.is_finishing = time.monotonic()
        else:
            lane.worker.kill()

    def _bury(self, lane: Lane, status: int) -> Iterator[SweepEvent]:
        """Record the cell a dead worker was in, take back what it had not begun, and clear the lane."""
        worker, running = lane.worker, lane.running
        assert worker is not None, "only a worker can die"
        if status == CANNOT_WRITE:
            raise worker.cannot_write()
        lane.worker, lane.running = None, None
        worker.close()
        if lane.is_stopping:
            running = None
        if running is not None:
            worker.sent.popleft()
            record = worker.warn(record_death(self._death(lane, running, worker, status)))
            lane.next_reason = f"{record.cell_id}: {record.outcome}"
            yield from self._record(lane, record, is_last=True)
        self.todo.extendleft(reversed(worker.sent))
        held, lane.held = lane.held, []
        for record in self.settings.launcher.complete(worker.folder, held):
            yield self._write(record, is_last=True)
        if running is None and not lane.is_stopping:
            self._explain(lane, worker, status)

    def _death(self, lane: Lane, running: Running, worker: WorkerProcess, status: int) -> Death:
        lived_s = time.monotonic() - running.began
        cell = Path(running.task.artifacts)
        return Death(
            task=running.task,
            trial=running.trial,
            stage=running.stage,
            exit_status=status,
            is_wrapped=worker.is_wrapped,
            worker=worker.number,
            gpu=lane.name or "cpu",
            lived_s=lived_s,
            timed_out=lane.timed_out,
            killed_by_host=self._oom_kills.has_struck(),
            hazards=running.hazards,
            measured=running.measured,
            printed_before=lane.printed_before[running.task.cell.cell_id],
            remains=find_remains(worker, cell, self._cores, lived_s, is_hang=bool(lane.timed_out)),
        )

    def _explain(self, lane: Lane, worker: WorkerProcess, status: int) -> None:
        """Say why a worker ended outside of any cell; WorkerError if it keeps happening."""
        if lane.is_ready and status == 0:
            share = "the one before had run its share of cells"
            lane.next_reason = "nothing more could run in the one before" if lane.is_context_lost else share
            return
        if not worker.sent:
            return
        lane.stillbirths += 1
        how = "had begun none of the cells it held" if lane.is_ready else "was still starting"
        how = f"{how} {lane.timed_out}" if lane.timed_out else "died outside of any cell"
        lane.next_reason = f"worker {worker.number} {how}"
        if lane.stillbirths >= STILLBIRTHS:
            how = how if lane.timed_out else f"ended with status {status}"
            tail = worker.stderr_tail() or "(nothing)"
            raise WorkerError(
                f"{lane.stillbirths} workers in a row died before they began a cell; the last {how}. "
                f"What is recorded is safe. It printed:\n{tail}\nits files: {worker.folder}"
            )

    def _bound_logs(self, lanes: Sequence[Lane]) -> None:
        now = time.monotonic()
        if now - self._logs_checked < LOG_CHECK_S:
            return
        self._logs_checked = now
        for lane in lanes:
            if lane.worker is not None:
                lane.worker.bound_logs()


def _is_from(worker: WorkerProcess, event: Event) -> bool:
    """Whether an event is of the cell that the worker is in, or its own."""
    if isinstance(event, WorkerReady):
        return True
    told = event.record.cell_id if isinstance(event, CellEnded) else event.cell_id
    return bool(worker.sent) and worker.sent[0].cell.cell_id == told
