"""One GPU, or the CPU, with the worker that is on it now and the task that the worker is in."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gpubench.machine import Gpu
from gpubench.protocol import Task
from gpubench.records import CellRecord, Hazard, Measurement, Stage
from gpubench.run.worker import LOG_NAMES, WorkerProcess
from gpubench.settings import TimeoutSettings

__all__ = ["Lane", "Running"]


@dataclass
class Running:
    """The task that a worker is in, as its events tell."""

    task: Task
    trial: int
    stage: Stage
    began: float
    stage_began: float
    hazards: list[Hazard]
    """What the worker has found in the cell's CUDA graphs."""
    measured: list[Measurement] = field(default_factory=list)
    """What it has measured in this trial, and is checking."""

    def overdue(self, timeout: TimeoutSettings, now: float) -> str:
        """Which limit has passed, in words; "" while none has."""
        limit = getattr(timeout, self.stage, None)
        if limit is not None and now - self.stage_began > limit:
            return f"after {limit:g} s (timeout_s.{self.stage})"
        if now - self.began > timeout.cell:
            return f"when the cell's {timeout.cell:g} s were over (timeout_s)"
        return ""


@dataclass
class Lane:
    """One GPU, or the CPU, and the worker on it now."""

    gpu: Gpu | None
    worker: WorkerProcess | None = None
    running: Running | None = None
    is_ready: bool = False
    idle_since: float = 0.0
    """When it became ready or its last task ended; of no meaning while a task runs."""
    is_finishing: float | None = None
    """When the worker was told that no more will come."""
    is_context_lost: bool = False
    """It said so: it ends by itself, and what it holds is the next one's."""
    is_winding_down: bool = False
    """The user wants it to end: it was told to begin no more."""
    is_stopping: bool = False
    """The user wants it to end: what it was in is no death of a cell."""
    timed_out: str = ""
    """Which limit it was killed for, in words."""
    tasks_given: int = 0
    kin: str = ""
    """Of the task that it was given last: what cells of that kin share is there, or about to be."""
    held: list[CellRecord] = field(default_factory=list)
    """Records that wait for the worker's trace."""
    printed_before: dict[str, int] = field(default_factory=dict)
    """By cell, of those that the worker was given: how long in bytes its standard error was, of what came before."""
    stillbirths: int = 0
    next_reason: str = ""

    @property
    def name(self) -> str:
        """The device as records name it; "" for the worker's own words."""
        return f"cuda:{self.gpu.index} {self.gpu.name}" if self.gpu else ""

    def begin(self, worker: WorkerProcess) -> None:
        """A fresh worker is on it."""
        self.worker = worker
        self.is_ready, self.is_finishing, self.is_context_lost = False, None, False
        self.is_winding_down, self.is_stopping = False, False
        self.running, self.tasks_given, self.kin, self.timed_out = None, 0, "", ""
        self.printed_before = {}

    def give(self, task: Task) -> None:
        """Hand a task to its worker."""
        assert self.worker is not None, "only a lane with a worker is given tasks"
        cell_id = task.cell.cell_id
        if all(other.cell.cell_id != cell_id for other in self.worker.sent):  # else it may be printing already
            log = Path(task.artifacts) / LOG_NAMES[1]
            self.printed_before[cell_id] = log.stat().st_size if log.exists() else 0
        self.worker.send(task)
        self.tasks_given += 1
        self.kin = task.kin
