"""What the parent and its workers say to each other: frozen, a line of JSON each.

A `Job` is the file that a worker is started with, a `Task` a line of its standard input, an `Event` a line of its event
file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from gpubench.records import FROZEN, Ceilings, Cell, CellRecord, Hazard, Measurement, Outcome, Pass, Stage
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings

__all__ = [
    "CANNOT_WRITE",
    "TAKE_BACK",
    "CellEnded",
    "Event",
    "FiguresTaken",
    "HazardsFound",
    "Job",
    "StageEntered",
    "Task",
    "WorkerReady",
    "parse_event",
    "parse_job",
    "parse_task",
]

CANNOT_WRITE = 74
"""The exit status of a worker that can't write its files (sysexits.h: EX_IOERR): no cell's fault."""

TAKE_BACK = b"\n"
"""The line of a worker's standard input that is no task: it ends after the one that it is in."""


@dataclass(frozen=True, config=FROZEN)
class Task:
    """What a worker is asked: these trials of one cell. A line of its standard input."""

    cell: Cell
    trials: list[int]
    pass_: Annotated[Pass, Field(alias="pass")]
    attempt: int
    measure: MeasureSettings
    check: CheckSettings
    timeout: TimeoutSettings
    artifacts: str
    """The cell's own folder: its stdout, its stderr, what a workload leaves."""
    kin: str = ""
    """The same in cells that may share what they build (`gpubench.shared`); "" in one that shares with nobody."""

    def record(self, trial: int, outcome: Outcome, stage: Stage, **found: Any) -> CellRecord:
        """The record of one of its trials; `found` are the record's other fields."""
        return CellRecord(
            **vars(self.cell),
            trial=trial,
            pass_=self.pass_,
            attempt=self.attempt,
            outcome=outcome,
            stage=stage,
            **found,
        )


@dataclass(frozen=True, config=FROZEN)
class Job:
    """What a worker is started with: a file named by its only argument."""

    number: int
    gpu: str
    """What to call the device in records; "" for the worker's own words."""
    needs_cuda: bool
    """Without CUDA the worker refuses to start, instead of measuring something else."""
    plugins: list[str]
    events: str
    """The event file, appended to."""
    is_traced: bool = False
    """A profiler is around the worker and writes its last events when the process ends in the ordinary way."""
    measure_ceilings: bool = False
    """Find out what the GPU can do at best before the first cell."""


@dataclass(frozen=True, config=FROZEN)
class WorkerReady:
    """The worker has imported everything and has its device."""

    pid: int
    gpu: str
    ceilings: Ceilings | None = None
    """What the GPU can do at best, if the job asked for it."""
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, config=FROZEN)
class StageEntered:
    """A cell went on to its next stage."""

    cell_id: str
    trial: int
    stage: Stage
    at: float
    """Unix time in seconds."""
    kind: Literal["stage"] = "stage"


@dataclass(frozen=True, config=FROZEN)
class HazardsFound:
    """A cell's CUDA graphs hold stale addresses: told before it goes on, for it may not live to tell."""

    cell_id: str
    hazards: list[Hazard]
    kind: Literal["hazards"] = "hazards"


@dataclass(frozen=True, config=FROZEN)
class FiguresTaken:
    """A trial's figures, of which it is yet to be seen whether they are right: told first, for it may not live to."""

    cell_id: str
    measurements: list[Measurement]
    kind: Literal["figures"] = "figures"


@dataclass(frozen=True, config=FROZEN)
class CellEnded:
    """One trial of a cell is over; `is_last` when the task it belongs to is."""

    record: CellRecord
    is_last: bool
    context_lost: bool = False
    """Nothing more can run in this worker: its CUDA context is dead, or a failed capture spoiled it. It ends now."""
    kind: Literal["ended"] = "ended"


Event = WorkerReady | StageEntered | HazardsFound | FiguresTaken | CellEnded
"""What a worker tells its parent."""

_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])
_TASK = TypeAdapter(Task)
_JOB = TypeAdapter(Job)


def parse_event(line: bytes) -> Event:
    """Read one line of an event file; `ValidationError` if it isn't one."""
    return _EVENT.validate_json(line)


def parse_task(line: bytes) -> Task:
    """Read one line of a worker's standard input."""
    return _TASK.validate_json(line)


def parse_job(text: bytes) -> Job:
    """Read a worker's job file."""
    return _JOB.validate_json(text)
