"""A worker that keeps the protocol and measures nothing, for what a scheduler must do whatever its workers do.

Run as a program it is the worker; imported, it is the launcher that starts it and what it is to be asked.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpubench.machine import Gpu
from gpubench.protocol import CellEnded, HazardsFound, StageEntered, Task, WorkerReady, parse_job
from gpubench.records import Cell, CellRecord, Hazard, Outcome, Pass, PointerState, Stage, dump_line
from gpubench.run.launcher import Launch, PlainLauncher
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings
from gpubench.worker.__main__ import Inbox

DEATHS: dict[str, Callable[[], object]] = {
    "dies": lambda: os._exit(5),
    "exits with 139": lambda: os._exit(128 + signal.SIGSEGV),
    "dies of a signal": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}
HAZARD = Hazard("fill_scratch", "scratch", 0x7F00, PointerState.UNMAPPED)


@dataclass
class PretendLauncher(PlainLauncher):
    """Starts pretend workers; `habit` is what they do apart from their tasks."""

    habit: str = "none"
    goodbye_s: float = 10.0
    wrapper: tuple[str, ...] = ()
    """A program to start them with, as a profiler is."""

    def launch(self, job: Path, gpu: Gpu | None) -> Launch:
        return Launch([*self.wrapper, sys.executable, __file__, str(job), self.habit], dict(os.environ))


def task(index: int, artifacts: Path, does: str = "well", trials: int = 1) -> Task:
    """A task of a cell that goes as `does` says."""
    cell = Cell(index, f"cell_{index:03d}", f"key{index}", "pretend", does, {"backend": does}, {})
    return Task(
        cell=cell,
        trials=list(range(trials)),
        pass_=Pass.TIMING,
        attempt=0,
        measure=MeasureSettings(),
        check=CheckSettings(),
        timeout=TimeoutSettings(),
        artifacts=str(artifacts / cell.cell_id),
    )


def answer(asked: Task, trial: int, worker: int, outcome: Outcome = Outcome.OK) -> CellRecord:
    """The record of one trial."""
    return asked.record(trial, outcome, Stage.DONE if outcome is Outcome.OK else Stage.MEASURE, worker=worker)


def work(job_file: str, habit: str) -> None:
    job = parse_job(Path(job_file).read_bytes())
    if habit == "dies at birth":
        sys.exit("no room in this inn")
    if habit == "is never ready":
        time.sleep(1000)
    with Path(job.events).open("ab") as events:
        events.write(dump_line(WorkerReady(os.getpid(), "pretended")))
        events.flush()
        inbox = Inbox()
        if habit == "begins nothing" and job.number == 0:
            time.sleep(1000)
        for asked in inbox:
            if not serve(asked, job.number, events.fileno()):
                return
            inbox.task_ended()
    if habit == "never leaves":
        time.sleep(1000)


def serve(asked: Task, worker: int, events: int) -> bool:
    """One task; False when the worker must end after it."""
    for trial in asked.trials:
        if asked.cell.backend == "scribbles":
            os.write(
                events,
                b'\xff\x00 no event\n{"kind": "stage"}\n' + dump_line(StageEntered("cell_999", 0, Stage.DONE, 0)),
            )
        os.write(events, dump_line(StageEntered(asked.cell.cell_id, trial, Stage.MEASURE, time.time())))
        if asked.cell.backend == "dies of what it told":
            os.write(events, dump_line(HazardsFound(asked.cell.cell_id, [HAZARD])))
            os.write(events, dump_line(StageEntered(asked.cell.cell_id, trial, Stage.PROFILE, time.time())))
            os._exit(5)
        DEATHS.get(asked.cell.backend, lambda: None)()
        if asked.cell.backend == "reads its input":
            assert sys.stdin.read() == "", "a task is not a cell's to take"
        if asked.cell.backend == "forks":
            child = multiprocessing.get_context("fork").Process(target=os.getpid)
            child.start()
            child.join()
        if asked.cell.backend == "is slow":
            time.sleep(1)
        is_lost = asked.cell.backend == "loses its context"
        outcome = Outcome.CRASH if is_lost else Outcome.OK
        is_last = is_lost or trial == asked.trials[-1]
        ended = CellEnded(answer(asked, trial, worker, outcome), is_last=is_last, context_lost=is_lost)
        os.write(events, dump_line(ended))
        if is_lost:
            return False
    return True


if __name__ == "__main__":
    work(*sys.argv[1:])
    os._exit(0)  # like the real one: the inbox's thread may still wait for a line
