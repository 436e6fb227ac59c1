"""What a sweep tells while it runs: the command line draws it, `--json` prints it, tests read it."""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.records import CellRecord, Pass, Stage

__all__ = [
    "CellRecorded",
    "CellStarted",
    "PassStarted",
    "StopNoticed",
    "SweepEnded",
    "SweepEvent",
    "SweepStarted",
    "WorkerStarted",
]


@dataclass(frozen=True)
class SweepStarted:
    """The run exists on disk and the first worker is about to start."""

    run_id: str
    path: str
    cells: int
    todo: int
    """How many cells still need an answer: fewer than `cells` after a resume."""
    device: str
    profiler: str
    """What the profiled pass will be made with, or why there is none."""


@dataclass(frozen=True)
class PassStarted:
    """One more pass over the cells that are ok."""

    pass_: Pass
    todo: int
    profiler: str
    is_again: bool = False
    """Over the cells whose traces the profiler lost in the pass before."""


@dataclass(frozen=True)
class WorkerStarted:
    """A worker process was launched; the reason says why it isn't the one before, "" for a device's first."""

    worker: int
    device: str
    reason: str


@dataclass(frozen=True)
class StopNoticed:
    """The user has asked for an end; the running cells may still end by themselves."""


@dataclass(frozen=True)
class CellStarted:
    """A cell entered a stage."""

    cell_id: str
    trial: int
    stage: Stage
    worker: int


@dataclass(frozen=True)
class CellRecorded:
    """A record is on disk; `is_last` when nothing more of its cell will follow in this pass."""

    record: CellRecord
    is_last: bool


@dataclass(frozen=True)
class SweepEnded:
    """Nothing runs any more."""

    outcomes: dict[str, int]
    """Cells by outcome over the whole run, `not run` among them."""
    asked: dict[str, int]
    """The same of the cells that this start of it was to run: `--only` leaves others out."""
    warned: int
    """Cells whose records hold warnings."""
    unprofiled: int
    """Cells that are ok and that the profiled pass did not come to, for the user stopped it."""
    is_interrupted: bool
    path: str


SweepEvent = SweepStarted | PassStarted | WorkerStarted | StopNoticed | CellStarted | CellRecorded | SweepEnded
