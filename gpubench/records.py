"""What is known of a cell and stays on disk: frozen, and read back as written.

`CellRecord` is a line of `cells.jsonl`. Names are stable: a change that breaks a reader raises `SCHEMA`, and `store`
keeps reading the older ones.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from gpubench.units import CONVERSIONS

__all__ = [
    "FIGURE_PARTS",
    "FROZEN",
    "SCHEMA",
    "Ceilings",
    "Cell",
    "CellRecord",
    "CheckResult",
    "Crash",
    "FaultingKernel",
    "Frame",
    "Hazard",
    "KernelShare",
    "Measurement",
    "Outcome",
    "Pass",
    "PointerState",
    "Scalar",
    "Stage",
    "Timer",
    "dump_line",
    "parse_record",
    "plain_metric_name",
]

SCHEMA = 1

FIGURE_PARTS = ("low", "high", "p10", "p90", "p99", "num_samples", "timer", "warnings")
"""What tables add to a metric's name, behind a dot: `ttft.p99`. Behind an @ they add its timer: `busy@nsys`."""


def plain_metric_name(name: str) -> str:
    """A metric's name, or one like it where tables have it for something else: `ttft_p99`, `busy_at_nsys`."""
    name = name.replace("@", "_at_")
    base, _, part = name.rpartition(".")
    return f"{base}_{part}" if base and part in FIGURE_PARTS else name


Scalar = bool | int | float | str | None
"""A value an axis can take; lists and mappings are allowed in `params` only."""

FROZEN = ConfigDict(extra="ignore", validate_by_name=True, validate_by_alias=True, ser_json_inf_nan="constants")
"""Of every dataclass that becomes a line of JSON. A reader passes over keys of a newer gpubench."""


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


@dataclass(frozen=True, config=FROZEN)
class Cell:
    """One point of the grid.

    `cell_id` names it within its grid and is safe as a file name; `key` is a hash of workload, axes and params, the
    same in every run that asks the same question. `axes` holds what varies (also `backend`, if it does), `params`
    the constants; together, less `backend`, they are the workload's arguments. Where a list or mapping varies, `axes`
    has its text, by which tables and plots tell the cells apart, and `params` the value itself.
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
        merged = {**self.axes, **self.params}
        merged.pop("backend", None)
        return merged


@dataclass(frozen=True, config=FROZEN)
class Measurement:
    """One metric of one trial, with every sample.

    `unit` is SI without a prefix (`s`, `B`, `FLOP`, `1/s`) or a plain word: what is given in milliseconds becomes
    seconds, also when an older record is read. `range` is the NVTX range the figure belongs to ("" for the whole step).
    """

    metric: str
    unit: str
    timer: Timer | None
    samples: list[float]
    range: str = ""
    repeats: float | None = None
    """How often one reading is among the samples, on average: of a loop, ITL has an iteration's time once for each
    sequence that decoded in it. Then they are that many times fewer readings than samples. None: nobody said."""
    higher_is_better: bool | None = None
    """What the one who reported it says; None leaves it to the metric's definition, or else to its unit."""

    def __post_init__(self) -> None:
        conversion = CONVERSIONS.get(self.unit)
        if conversion is not None:
            object.__setattr__(self, "unit", conversion.unit)
            object.__setattr__(self, "samples", [conversion(value) for value in self.samples])


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
class Frame:
    """A frame of a Python stack."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
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
    """Bytes, whichever are known: device_free, device_total, reserved, allocated, asked; where the host ran out of
    them, host_free and host_total; of the control group that a worker died in, host_used, host_peak, host_limit."""
    open_range: str = ""
    """The ranges that were open, of those that the workload annotates, outermost first: `layer_03/attention`."""
    faulting: FaultingKernel | None = None
    """What the GPU's core dump says, if the GPU raised and dumped one."""
    host_frames: list[Frame] = Field(default_factory=list)
    """The Python stack at a death or a hang that no exception tells of, innermost first, as faulthandler wrote it."""
    xid: list[str] = Field(default_factory=list)
    """The driver's own lines about this process, where the kernel's log can be read: `NVRM: Xid (…): 31, pid=…`."""


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
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


@dataclass(frozen=True, config=FROZEN)
class Ceilings:
    """What a GPU can do at best, measured once per run: the roofline that figures are held against."""

    copy_bytes_per_s: float
    """Read and written, of a large copy within the device's memory."""
    matmul_flop_per_s: float
    dtype: str = "bfloat16"
    """The matmul's."""


_RECORD = TypeAdapter(CellRecord)
_LINE: TypeAdapter[Any] = TypeAdapter(Any)


def parse_record(line: bytes) -> CellRecord:
    """Read one line of `cells.jsonl`; `ValidationError` if it isn't one."""
    return _RECORD.validate_json(line)


def dump_line(value: object) -> bytes:
    """A frozen dataclass as one line of JSON, newline included."""
    return _LINE.dump_json(value, by_alias=True) + b"\n"
