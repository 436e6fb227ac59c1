"""What the parent and its workers say to each other, and what stays on disk: frozen, and read back as written.

`CellRecord` is a line of `cells.jsonl`, `Event` a line of a worker's event file, `Task` a line of its standard input.
Names are stable: a change that breaks a reader raises `SCHEMA`, and `store` keeps reading the older ones.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings

__all__ = [
    "CANNOT_WRITE",
    "SCHEMA",
    "TAKE_BACK",
    "Ceilings",
    "Cell",
    "CellEnded",
    "CellRecord",
    "CheckResult",
    "Crash",
    "Event",
    "FaultingKernel",
    "Frame",
    "Hazard",
    "HazardsFound",
    "Job",
    "KernelShare",
    "Measurement",
    "Outcome",
    "Pass",
    "PointerState",
    "Scalar",
    "Stage",
    "StageEntered",
    "Task",
    "Timer",
    "WorkerReady",
    "dump_line",
    "parse_event",
    "parse_job",
    "parse_record",
    "parse_task",
]

SCHEMA = 1

CANNOT_WRITE = 74
"""The exit status of a worker that can't write its files (sysexits.h: EX_IOERR): no cell's fault."""

TAKE_BACK = b"\n"
"""The line of a worker's standard input that is no task: it ends after the one that it is in."""

Scalar = bool | int | float | str | None
"""A value an axis can take; lists and mappings are allowed in `params` only."""

_FROZEN = ConfigDict(extra="ignore", validate_by_name=True, validate_by_alias=True, ser_json_inf_nan="constants")


class Outcome(StrEnum):
    """How a cell ended. Only `ok` can be on a frontier; only `ok` and `skipped` are not failures."""

    OK = "ok"
    SKIPPED = "skipped"
    MISMATCH = "mismatch"
    INVALID = "invalid"
    ERROR = "error"
    OOM = "oom"
    TIMEOUT = "timeout"
    CRASH = "crash"

    @property
    def is_failure(self) -> bool:
        return self not in (Outcome.OK, Outcome.SKIPPED)


class Stage(StrEnum):
    """Where in its life a cell was; the last one entered says where a dead cell died."""

    QUEUED = "queued"
    START = "start"
    SETUP = "setup"
    CHECK = "check"
    WARMUP = "warmup"
    MEASURE = "measure"
    PROFILE = "profile"
    DONE = "done"


class Timer(StrEnum):
    """Who produced a figure."""

    NSYS = "nsys"
    CUPTI = "cupti"
    CUDA_EVENT = "cuda_event"
    WALL = "wall"


class Pass(StrEnum):
    """Unprofiled first, then a short profiled one."""

    TIMING = "timing"
    PROFILE = "profile"


@dataclass(frozen=True, config=_FROZEN)
class Cell:
    """One point of the grid.

    `cell_id` names it within its grid and is safe as a file name; `key` is a hash of workload, axes and params, the
    same in every run that asks the same question. `axes` holds what varies (also `backend`, if it does), `params`
    the constants; together, less `backend`, they are the workload's arguments.
    """

    index: int
    cell_id: str
    key: str
    workload: str
    backend: str
    axes: dict[str, Scalar]
    params: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The workload's arguments: params and axes without `backend`."""
        merged = {**self.params, **self.axes}
        merged.pop("backend", None)
        return merged


@dataclass(frozen=True, config=_FROZEN)
class Measurement:
    """One metric of one trial, with every sample.

    `unit` is SI without a prefix (`s`, `B`, `FLOP`, `1/s`) or a plain word; `range` is the NVTX range the figure
    belongs to ("" for the whole step).
    """

    metric: str
    unit: str
    timer: Timer | None
    samples: list[float]
    range: str = ""


@dataclass(frozen=True, config=_FROZEN)
class CheckResult:
    """What an output was compared with, and how far off it was."""

    against: str
    passed: bool
    rtol: float | None = None
    atol: float | None = None
    relative_error: float | None = None
    """‖out − ref‖ / ‖ref‖ over all outputs."""
    worst: str = ""
    """The worst element in words: `out[3, 17]: got 1.25, want 1.5 (allowed ±0.02)`."""


@dataclass(frozen=True, config=_FROZEN)
class Frame:
    """A frame of a Python stack."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, config=_FROZEN)
class FaultingKernel:
    """The kernel that the GPU caught, from its core dump: not always the one that did the damage."""

    kernel: str = ""
    """As the debugger spells it, template arguments included; "" where the core could not be read."""
    file: str = ""
    """The source file, as compiled in: Triton's kernels have one, most of a library's don't."""
    line: int | None = None
    block: list[int] | None = None
    """The three indices of the thread block that raised …"""
    thread: list[int] | None = None
    """… and of the thread within it, so far as the GPU can tell."""
    exception: str = ""
    """In the debugger's words: `Warp Illegal Address`."""
    core: str = ""
    """The core file, from the run's folder: `artifacts/cell_013_C008/gpu.812.core`; "" where none was kept."""
    note: str = ""
    """Why something above is not known, and how to get it."""


@dataclass(frozen=True, config=_FROZEN)
class Crash:
    """The evidence of a cell that did not end well; signatures are computed from it when it is read."""

    exception: str = ""
    """The exception's type, qualified: `torch.OutOfMemoryError`."""
    message: str = ""
    frames: list[Frame] = Field(default_factory=list)
    exit_status: int | None = None
    signal: str = ""
    """`SIGSEGV`, if a signal ended the worker, or the command that it ran."""
    cuda_error: str = ""
    """`cudaErrorIllegalAddress` and its like, by name."""
    stderr_tail: str = ""
    memory: dict[str, float] = Field(default_factory=dict)
    """Bytes, whichever are known: device_free, device_total, reserved, allocated, asked; of the control group that a
    worker died in: host_used, host_peak, host_limit."""
    open_range: str = ""
    """The ranges that were open, of those that the workload annotates, outermost first: `layer_03/attention`."""
    faulting: FaultingKernel | None = None
    """What the GPU's core dump says, if the GPU raised and dumped one."""
    host_frames: list[Frame] = Field(default_factory=list)
    """The Python stack at a death or a hang that no exception tells of, innermost first, as faulthandler wrote it."""
    xid: list[str] = Field(default_factory=list)
    """The driver's own lines about this process, where the kernel's log can be read: `NVRM: Xid (…): 31, pid=…`."""


@dataclass(frozen=True, config=_FROZEN)
class KernelShare:
    """One kernel's part in a cell's profiled repetitions; copies and fills are named in brackets."""

    name: str
    kind: str
    count: float
    """Per repetition."""
    total_s: float
    """Per repetition, on average."""
    median_s: float
    """Of one execution."""
    share: float
    """Of the durations of all the cell's operations."""


class PointerState(StrEnum):
    """What is at an address that a CUDA graph remembers, if it is not what was there when the graph was captured."""

    FREED = "freed"
    """Memory that was given back: whoever asks next gets it."""
    REUSED = "reused"
    """Memory that was given back, and is somebody else's now."""
    UNMAPPED = "unmapped"
    """No memory any more: a replay that goes there dies."""
    UNKNOWN = "unknown"
    """Nobody's memory, and it never was while anyone looked."""

    @property
    def meaning(self) -> str:
        """What lies at the address, in words."""
        return _LIES_THERE[self]


_LIES_THERE = {
    PointerState.FREED: "memory that was given back",
    PointerState.REUSED: "memory that was given back and is somebody else's now",
    PointerState.UNMAPPED: "memory that was given back and is not mapped any more",
    PointerState.UNKNOWN: "no memory that anybody had",
}


_LONGEST_NAME = 60
"""Of a kernel, in a sentence."""


@dataclass(frozen=True, config=_FROZEN)
class Hazard:
    """A stale address in a captured CUDA graph: a replay will use memory that isn't its own."""

    kernel: str
    """Demangled; `[memcpy]` and `[memset]` for a copy and a fill."""
    parameter: str
    """By name where it has one that is known, else by number: `scratch`, `argument 3`, `argument 0 + 16 B`."""
    address: int
    state: PointerState
    nodes: int = 1
    """How many nodes of the cell's graphs are like this one."""
    file: str = ""
    """Where the kernel's source is, where that is known …"""
    line: int | None = None
    """… and the line that it begins in."""
    allocated_at: Frame | None = None
    """Who asked for the memory that was there at the capture …"""
    freed_at: Frame | None = None
    """… and where it was given back."""
    certain: bool | None = None
    """False if it may be a leftover in a struct; None in records of a gpubench that didn't tell."""

    @property
    def is_certain(self) -> bool:
        """Whether a culprit may be named for it. Of an older record, not if it is in a struct."""
        return " + " not in self.parameter if self.certain is None else self.certain

    @property
    def text(self) -> str:
        """`fill_scratch (faulty.py:54): scratch = 0x7f…, memory that was given back (taken at …; given back at …)`."""
        name = self.kernel if len(self.kernel) <= _LONGEST_NAME else f"{self.kernel[: _LONGEST_NAME - 1]}…"
        place = f" ({Path(self.file).name}:{self.line})" if self.file else ""
        sites = (("taken", self.allocated_at), ("given back", self.freed_at))
        told = "; ".join(f"{word} at {Path(at.file).name}:{at.line} in {at.function}" for word, at in sites if at)
        where = f" ({told})" if told else ""
        times = f", in {self.nodes:,} nodes" if self.nodes > 1 else ""
        doubt = "" if self.is_certain else "; perhaps a leftover in a struct"
        return f"{name}{place}: {self.parameter} = {self.address:#x}, {self.state.meaning}{where}{times}{doubt}"


@dataclass(frozen=True, config=_FROZEN)
class CellRecord:
    """One cell, trial, pass and attempt: a line of `cells.jsonl`."""

    cell_id: str
    index: int
    key: str
    workload: str
    backend: str
    axes: dict[str, Scalar]
    params: dict[str, Any]
    trial: int
    pass_: Annotated[Pass, Field(alias="pass")]
    attempt: int
    outcome: Outcome
    stage: Stage
    """The last stage entered: `done` when all went well."""
    reason: str = ""
    """One sentence: why it was skipped, how it failed, or why sampling stopped."""
    measurements: list[Measurement] = Field(default_factory=list)
    kernels: list[KernelShare] = Field(default_factory=list)
    """What a profiled repetition ran on the GPU, most time first."""
    checks: list[CheckResult] = Field(default_factory=list)
    work: dict[str, float] = Field(default_factory=dict)
    """What the workload declares that a step must do at least: `bytes`, `flop`."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What else is true of the cell: `l2`, `stopped`, `timer_choice`, `layers`, `clocks` …"""
    crash: Crash | None = None
    hazards: list[Hazard] = Field(default_factory=list)
    """Stale addresses in the cell's CUDA graphs, found before a replay could use them."""
    warnings: list[str] = Field(default_factory=list)
    gpu: str = ""
    """Which device: `cuda:0 NVIDIA H200`, or `cpu`."""
    started_at: str = ""
    """UTC, ISO 8601."""
    duration_s: float = 0.0
    measured_s: float = 0.0
    """The part of `duration_s` that the step itself ran: warm-up and samples."""
    worker: int = 0
    schema: int = SCHEMA


@dataclass(frozen=True, config=_FROZEN)
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


@dataclass(frozen=True, config=_FROZEN)
class Ceilings:
    """What a GPU can do at best, measured once per run: the roofline that figures are held against."""

    copy_bytes_per_s: float
    """Read and written, of a large copy within the device's memory."""
    matmul_flop_per_s: float
    dtype: str = "bfloat16"
    """The matmul's."""


@dataclass(frozen=True, config=_FROZEN)
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


@dataclass(frozen=True, config=_FROZEN)
class WorkerReady:
    """The worker has imported everything and has its device."""

    pid: int
    gpu: str
    ceilings: Ceilings | None = None
    """What the GPU can do at best, if the job asked for it."""
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, config=_FROZEN)
class StageEntered:
    """A cell went on to its next stage."""

    cell_id: str
    trial: int
    stage: Stage
    at: float
    """Unix time in seconds."""
    kind: Literal["stage"] = "stage"


@dataclass(frozen=True, config=_FROZEN)
class HazardsFound:
    """A cell's CUDA graphs hold stale addresses: told before it goes on, for it may not live to tell."""

    cell_id: str
    hazards: list[Hazard]
    kind: Literal["hazards"] = "hazards"


@dataclass(frozen=True, config=_FROZEN)
class CellEnded:
    """One trial of a cell is over; `is_last` when the task it belongs to is."""

    record: CellRecord
    is_last: bool
    context_lost: bool = False
    """Nothing more can run in this worker: its CUDA context is dead, or a failed capture spoiled it. It ends now."""
    kind: Literal["ended"] = "ended"


Event = Annotated[WorkerReady | StageEntered | HazardsFound | CellEnded, Field(discriminator="kind")]

_EVENT: TypeAdapter[WorkerReady | StageEntered | HazardsFound | CellEnded] = TypeAdapter(Event)
_RECORD = TypeAdapter(CellRecord)
_TASK = TypeAdapter(Task)
_JOB = TypeAdapter(Job)
_LINE: TypeAdapter[Any] = TypeAdapter(Any)


def parse_event(line: bytes) -> WorkerReady | StageEntered | HazardsFound | CellEnded:
    """Read one line of an event file; `ValidationError` if it isn't one."""
    return _EVENT.validate_json(line)


def parse_record(line: bytes) -> CellRecord:
    """Read one line of `cells.jsonl`; `ValidationError` if it isn't one."""
    return _RECORD.validate_json(line)


def parse_task(line: bytes) -> Task:
    """Read one line of a worker's standard input."""
    return _TASK.validate_json(line)


def parse_job(text: bytes) -> Job:
    """Read a worker's job file."""
    return _JOB.validate_json(text)


def dump_line(value: CellRecord | Job | Task | WorkerReady | StageEntered | HazardsFound | CellEnded) -> bytes:
    """One line of JSON, newline included."""
    return _LINE.dump_json(value, by_alias=True) + b"\n"
