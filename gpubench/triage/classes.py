"""What kind of fault a cell died of: by name where CUDA, a library or Python gave one, by text where they did not.

Numbers of CUDA's errors have moved over the years and are not looked at. Tables come first, in order of what is
believed first; `classify` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpubench.records import CellRecord, Crash, Frame, Outcome, Stage
from gpubench.triage.normalise import normalise_function
from gpubench.triage.skip_lists import COMPILING, REPORTING

__all__ = ["CLASSES", "Fault", "FaultClass", "classify", "classify_text", "is_command"]


@dataclass(frozen=True)
class FaultClass:
    """A kind of fault, in a word and in a sentence."""

    name: str
    meaning: str
    is_asynchronous: bool = False
    """It surfaces at whatever call looks next: the stack names the victim."""


@dataclass(frozen=True)
class Fault:
    """A cell's kind of fault, and which of its kind: `python exception`, `RuntimeError`."""

    name: str
    detail: str = ""

    @property
    def text(self) -> str:
        """`RuntimeError`, `exit status 3`, `segfault`."""
        is_name = bool(self.detail) and not self.detail.lstrip("-").isdecimal()
        return self.detail if is_name else f"{self.name} {self.detail}".strip()


_CLASSES = (
    FaultClass("illegal address", "a kernel read or wrote memory that is not mapped", True),
    FaultClass("misaligned address", "a kernel's access was not aligned to its size", True),
    FaultClass("out-of-range address", "a kernel left its shared or local memory", True),
    FaultClass("device assert", "an assertion in a kernel failed, often an index out of bounds", True),
    FaultClass("illegal instruction", "a kernel ran into what is no instruction for this GPU", True),
    FaultClass("device stack overflow", "a kernel's call stack ran over", True),
    FaultClass("invalid address space", "a kernel used an address of another memory space", True),
    FaultClass("invalid program counter", "a kernel jumped to where there is no code", True),
    FaultClass("launch timeout", "the driver ended a kernel that ran for too long", True),
    FaultClass("launch failure", "a kernel died of something that CUDA gives no name", True),
    FaultClass("gpu exception", "the GPU raised and dumped a core, but it is not known what", True),
    FaultClass("hardware error", "memory, NVLink or the GPU itself failed: ECC, contained, fallen off the bus", True),
    FaultClass("cuda error", "another error of the CUDA runtime or driver", True),
    FaultClass("capture error", "something that a CUDA graph can't capture was done while one was"),
    FaultClass("graph error", "a CUDA graph could not be updated, instantiated or launched"),
    FaultClass("no device", "CUDA found no GPU that it can use, or too old a driver"),
    FaultClass("no kernel image", "code was built for another GPU, or the kernel is not in it"),
    FaultClass("launch resources", "a launch asks for more threads, registers or another grid than the GPU allows"),
    FaultClass("shared-memory overflow", "a kernel needs more shared memory than the GPU has per block"),
    FaultClass("compile error", "Triton, nvcc, ptxas or torch.compile could not build a kernel"),
    FaultClass("import error", "a module or a library's symbol is missing"),
    FaultClass("device oom", "the GPU had no more memory to give"),
    FaultClass("host oom", "the host had no more memory to give"),
    FaultClass("cublas error", "cuBLAS refused, or met an earlier kernel's fault", True),
    FaultClass("cudnn error", "cuDNN refused, or met an earlier kernel's fault", True),
    FaultClass("cusparse error", "cuSPARSE refused, or met an earlier kernel's fault", True),
    FaultClass("cusolver error", "cuSOLVER refused, or met an earlier kernel's fault", True),
    FaultClass("cufft error", "cuFFT refused, or met an earlier kernel's fault", True),
    FaultClass("nccl error", "a collective failed: here, at a peer, or on the way", True),
    FaultClass("device hang", "time ran out while the host waited for the GPU", True),
    FaultClass(
        "compile timeout", "time ran out while a kernel was being compiled: give timeout_s more, or run it again"
    ),
    FaultClass("host hang", "time ran out in code of the host"),
    FaultClass("timeout", "time ran out, and nothing says in what"),
    FaultClass("segfault", "the process touched memory of the host that is not its own (SIGSEGV)"),
    FaultClass("bus error", "memory of the host could not be delivered, often a full /dev/shm (SIGBUS)"),
    FaultClass("heap corruption", "the C library found the host's heap overwritten, and aborted"),
    FaultClass("abort", "a library gave up and aborted the process (SIGABRT)"),
    FaultClass("arithmetic fault", "an impossible operation of the processor (SIGFPE)"),
    FaultClass("host illegal instruction", "code built for another processor (SIGILL)"),
    FaultClass("killed", "SIGKILL from outside: the host's out-of-memory killer until shown otherwise"),
    FaultClass("signal", "another signal ended the process"),
    FaultClass("exit status", "the process ended itself, with a status of its own"),
    FaultClass("set-up exception", "Python raised before there was a step"),
    FaultClass("python exception", "Python raised"),
    FaultClass("stale address", "a CUDA graph holds the address of memory that was given back; no replay was risked"),
    FaultClass("nan", "the output holds NaN where the reference doesn't"),
    FaultClass("unwritten output", "elements still hold what was put there before the step"),
    FaultClass("zero output", "the output is zero throughout, and the reference's is not"),
    FaultClass("invalid figure", "a sample or a metric is no number that can be"),
    FaultClass(
        "unrepeatable output", "right once, and wrong when run again: the step reads memory not its own, or keeps state"
    ),
    FaultClass("mismatch", "the output is not what the reference computes"),
    FaultClass("unknown", "nothing that was left behind says what happened"),
)
CLASSES: Mapping[str, FaultClass] = {found.name: found for found in _CLASSES}

_EXCEPTIONS = (
    ("Misaligned", "misaligned address"),
    ("Out-of-range", "out-of-range address"),
    ("Assert", "device assert"),
    ("Stack Overflow", "device stack overflow"),
    ("Address Space", "invalid address space"),
    ("Invalid PC", "invalid program counter"),
    ("Illegal Instruction", "illegal instruction"),
    ("Illegal Address", "illegal address"),
    ("Invalid Managed Memory Access", "illegal address"),
)
"""What cuda-gdb says within a core's exception."""

_NAMES = (
    ("device assert", r"cudaErrorAssert|CUDA_ERROR_ASSERT|block: \[\d+,\d+,\d+\], thread: \[\d+,\d+,\d+\] Assertion"),
    ("illegal address", r"cudaErrorIllegalAddress|CUDA_ERROR_ILLEGAL_ADDRESS|Invalid __(?:global|shared|local)__"),
    ("misaligned address", r"cudaErrorMisalignedAddress|CUDA_ERROR_MISALIGNED_ADDRESS"),
    ("illegal instruction", r"cudaErrorIllegalInstruction|CUDA_ERROR_ILLEGAL_INSTRUCTION"),
    ("device stack overflow", r"cudaErrorHardwareStackError|CUDA_ERROR_HARDWARE_STACK_ERROR"),
    ("invalid address space", r"cudaErrorInvalidAddressSpace|CUDA_ERROR_INVALID_ADDRESS_SPACE"),
    ("invalid program counter", r"cudaErrorInvalidPc|CUDA_ERROR_INVALID_PC"),
    ("launch timeout", r"cudaErrorLaunchTimeout|CUDA_ERROR_LAUNCH_TIMEOUT"),
    ("launch failure", r"cudaErrorLaunchFailure|CUDA_ERROR_LAUNCH_FAILED"),
    (
        "hardware error",
        r"cudaError(?:ECC|Nvlink)Uncorrectable|cudaErrorContained|CUDA_ERROR_(?:ECC|NVLINK)_UNCORRECTABLE",
    ),
    ("hardware error", r"CUDA_ERROR_CONTAINED|fallen off the bus|uncorrectable (?:ECC|NVLink) error"),
    (
        "capture error",
        r"cudaErrorStreamCapture\w+|cudaErrorCapturedEvent|CUDA_ERROR_(?:STREAM_CAPTURE_\w+|CAPTURED_EVENT)",
    ),
    ("graph error", r"cudaErrorGraphExecUpdateFailure|CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE"),
    ("shared-memory overflow", r"out of resource: shared memory|uses too much shared data"),
    ("launch resources", r"out of resource: |cudaErrorLaunchOutOfResources|CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
    ("launch resources", r"cudaErrorInvalidConfiguration"),
    ("device oom", r"CUDA out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED"),
    ("device oom", r"OutOfMemoryError: CUDA|NVML_ERROR_MEMORY\b"),
    ("host oom", r"DefaultCPUAllocator: |std::bad_alloc|Cannot allocate memory|unable to mmap \d+ bytes"),
    ("host oom", r"not enough memory: you tried|^MemoryError\b"),
    ("no kernel image", r"cudaErrorNoKernelImageForDevice|CUDA_ERROR_NO_BINARY_FOR_GPU|cudaErrorInvalidDeviceFunction"),
    (
        "no device",
        r"cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|cudaErrorInsufficientDriver|no NVIDIA driver on your system",
    ),
    ("no device", r"Torch not compiled with CUDA enabled|Unexpected error from cudaGetDeviceCount"),
    ("compile error", r"triton\.compiler\.errors\.\w+|PTXASError|CompileTimeAssertionFailure|PassManager::run failed"),
    ("compile error", r"ptxas (?:fatal|error)|nvcc (?:fatal|error)|LLVM ERROR|Error building extension|InductorError"),
    ("compile error", r"BackendCompilerFailed|cudaErrorInvalidPtx|CUDA_ERROR_INVALID_PTX|PTX JIT compil\w+ fail"),
    ("compile error", r"cudaErrorJitCompil\w+|CUDA_ERROR_UNSUPPORTED_PTX_VERSION|nvrtc: error|NVRTC_ERROR_\w+"),
    ("compile error", r"^\S+\.(?:cuh?|cpp|cc)\(\d+\): error:|`ptxas` failed with error code"),
    ("bus error", r"killed by signal: Bus error|insufficient shared memory \(shm\)"),
)
"""Names that only one who means them writes. They are looked for in the whole text, in this order."""

_TEXTS = (
    ("device assert", r"device-side assert triggered"),
    ("illegal address", r"an illegal memory access was encountered"),
    ("misaligned address", r"misaligned address"),
    ("illegal instruction", r"an illegal instruction was encountered"),
    ("device stack overflow", r"hardware stack error"),
    ("invalid address space", r"operation not supported on global/shared address space"),
    ("invalid program counter", r"invalid program counter"),
    ("launch timeout", r"the launch timed out and was terminated"),
    ("launch failure", r"unspecified launch failure"),
    ("hardware error", r"contained error|GPU is lost"),
    ("capture error", r"stream is capturing|error during capture|capturing (?:blocking )?stream|capture sequence"),
    ("capture error", r"uncaptured work|capture was not ended|Capture must end on the same stream"),
    ("graph error", r"graph update was not performed"),
    ("launch resources", r"too many resources requested for launch|invalid configuration argument"),
    ("no kernel image", r"no kernel image is available|invalid device function|device kernel image is invalid"),
    (
        "no device",
        r"no CUDA-capable device is detected|driver version is insufficient|all CUDA-capable devices are busy",
    ),
    ("compile error", r"a PTX JIT compilation failed|unsupported toolchain"),
    ("device oom", r"(?:CUDA|cuda)\S* (?:driver |runtime )?error:? out of memory|[Ee]rror \[CUDA\]: out of memory"),
    ("cuda error", r"CUDA (?:driver |runtime )?error|Triton Error \[CUDA\]|cudaError[A-Z]\w+|CUDA_ERROR_\w+"),
)
"""What cudaGetErrorString says, believed only of a text in which CUDA speaks."""
_FROM_CUDA = re.compile(r"\bCUDA\b|\bCuda failure|cudaError|cuda runtime|Triton Error|NCCL|nccl")

_LIBRARIES = (
    ("cublas error", r"CUBLAS_STATUS_[A-Z_]+"),
    ("cudnn error", r"CUDNN_STATUS_[A-Z_]+"),
    ("cusparse error", r"CUSPARSE_STATUS_[A-Z_]+"),
    ("cusolver error", r"CUSOLVER_STATUS_[A-Z_]+"),
    ("cufft error", r"CUFFT_[A-Z_]+"),
    ("nccl error", r"nccl(?:System|UnhandledCuda|Internal|InvalidArgument|InvalidUsage|Remote)Error"),
    ("nccl error", r"NCCL error|DistBackendError|Watchdog caught collective operation timeout"),
)
_HEAP = re.compile(
    r"double free or corruption|(?:free|malloc|realloc|munmap_chunk)\(\): |corrupted (?:size vs|double-linked)"
    r"|stack smashing detected|malloc_consolidate\(\)"
)
_SIGNALS = {
    "SIGSEGV": "segfault",
    "SIGBUS": "bus error",
    "SIGFPE": "arithmetic fault",
    "SIGILL": "host illegal instruction",
    "SIGKILL": "killed",
}
_FATAL = (
    ("segfault", r"Fatal Python error: Segmentation fault|^Segmentation fault\b"),
    ("bus error", r"Fatal Python error: Bus error|^Bus error\b"),
    ("arithmetic fault", r"Fatal Python error: Floating.point exception"),
    ("host illegal instruction", r"Fatal Python error: Illegal instruction"),
    ("abort", r"Fatal Python error: Aborted|^Aborted\b|terminate called "),
)
_IMPORTS = re.compile(
    r"\b(?:ModuleNotFoundError|ImportError)\b|undefined symbol: |cannot open shared object file|version `\S+' not found"
)
_RAISED = re.compile(
    r"^(?:\[rank\d+\]:\s*)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failure|Failed|Interrupt|Exit|Unsupported|OutOfResources))"
    r"(?::|\s*$)",
    re.MULTILINE,
)
_COMMAND_FAILED = "CommandFailed"
_PYTHONS_OWN = ("python exception", "import error", "exit status")
_RESULTS = (
    ("holds a stale address", "stale address"),
    ("unwritten output", "unwritten output"),
    ("holds NaN", "nan"),
    ("all zeros", "zero output"),
)
"""What the reason of an invalid cell says."""
_AGAIN = "wrong when run again"
"""What the reason of a mismatch says that only the second run of a check showed."""
_DUMPED = "Starting GPU coredump generation"


def _compile(table: Iterable[tuple[str, str]]) -> list[tuple[str, re.Pattern[str]]]:
    return [(name, re.compile(pattern, re.MULTILINE)) for name, pattern in table]


_NAME_PATTERNS, _TEXT_PATTERNS = _compile(_NAMES), _compile(_TEXTS)
_LIBRARY_PATTERNS, _FATAL_PATTERNS = _compile(_LIBRARIES), _compile(_FATAL)


def classify(record: CellRecord, frames: list[Frame]) -> Fault:
    """The kind of fault of a failed record; `frames` is the stack it died in, innermost first."""
    if record.outcome in (Outcome.INVALID, Outcome.MISMATCH):
        return _classify_result(record)
    crash = record.crash or Crash()
    if record.outcome is Outcome.TIMEOUT:
        return _classify_hang(record, crash, frames)
    if crash.faulting is not None and (name := _find_exception(crash.faulting.exception)):
        return Fault(name)
    if record.outcome is Outcome.OOM:
        return Fault(_classify_memory(record, crash))
    is_dead = bool(crash.signal) and (not crash.exception or is_command(crash))
    if is_dead and crash.signal in _SIGNALS:
        return Fault(_SIGNALS[crash.signal])
    found = _classify_words(crash)
    if is_dead and found.name in _PYTHONS_OWN:
        found = Fault("unknown")  # what a program printed and lived on
    if found.name == "python exception" and record.stage in (Stage.START, Stage.SETUP):
        return Fault("set-up exception", found.detail)
    return _classify_death(record, crash) if found.name == "unknown" else found


def is_command(crash: Crash) -> bool:
    """Whether it tells of another program, which a cell ran: what that printed is then the evidence."""
    return _bare(crash.exception) == _COMMAND_FAILED


def classify_text(text: str, exception: str = "") -> Fault:
    """The kind of fault that a message, or what a process printed before it died, tells of.

    `exception` is the type of a Python exception whose message the text is; without one it is looked for in the text.
    """
    if _is_import(exception):
        return Fault("import error", _bare(exception))
    spoken = f"{exception}: {text}" if exception else text
    if name := _find(spoken):
        return Fault(name)
    for name, pattern in _LIBRARY_PATTERNS:
        if match := pattern.search(spoken):
            return Fault(name, match.group())
    if _HEAP.search(text):
        return Fault("heap corruption")
    raised = exception or next((match[1] for match in reversed(list(_RAISED.finditer(text)))), "")
    if not exception and (_is_import(raised) or _IMPORTS.search(text)):
        return Fault("import error", _bare(raised))
    fatal = "" if exception else _find_fatal(text)
    if fatal in ("", "abort") and _DUMPED in text:
        return Fault("gpu exception")  # the driver aborts the process once it has dumped
    if fatal or not raised:
        return Fault(fatal or "unknown")
    return (
        Fault("exit status", "sys.exit") if _bare(raised) == "SystemExit" else Fault("python exception", _bare(raised))
    )


def _classify_result(record: CellRecord) -> Fault:
    if record.outcome is Outcome.MISMATCH:
        return Fault("unrepeatable output" if _AGAIN in record.reason else "mismatch")
    return Fault(next((name for words, name in _RESULTS if words in record.reason), "invalid figure"))


def _classify_hang(record: CellRecord, crash: Crash, frames: list[Frame]) -> Fault:
    if crash.faulting is not None and crash.faulting.kernel:
        return Fault("device hang")
    if not frames:
        return Fault("timeout")
    if any(part in frames[0].file for part in COMPILING):
        return Fault("compile timeout")
    waits = normalise_function(frames[0].function) in REPORTING and record.gpu != "cpu"
    return Fault("device hang" if waits else "host hang")


def _classify_memory(record: CellRecord, crash: Crash) -> str:
    is_hosts = record.gpu == "cpu" or crash.signal == "SIGKILL" or crash.exception == "MemoryError"
    return "host oom" if is_hosts or _find(_own_words(crash)) == "host oom" else "device oom"


def _classify_words(crash: Crash) -> Fault:
    """By what the cell said; of a command that failed, by what it printed."""
    if not is_command(crash):
        return classify_text(_own_words(crash), crash.exception)
    found = classify_text(crash.stderr_tail)
    is_silent = found.name == "unknown" and not crash.signal and crash.exit_status is None
    return Fault("python exception", _COMMAND_FAILED) if is_silent else found


def _classify_death(record: CellRecord, crash: Crash) -> Fault:
    """Of a process that left no name for what it died of: by how it ended."""
    if crash.faulting is not None or _DUMPED in crash.stderr_tail:
        return Fault("gpu exception")
    if crash.signal:
        return Fault("abort") if crash.signal == "SIGABRT" else Fault("signal", crash.signal)
    if crash.exit_status is not None:
        return Fault("exit status", str(crash.exit_status))
    return Fault("set-up exception" if record.stage is Stage.SETUP else "unknown")


def _own_words(crash: Crash) -> str:
    """What the cell itself said, and printed if it could say no more."""
    return "\n".join(filter(None, [crash.cuda_error, crash.message, crash.stderr_tail]))


def _find(text: str) -> str:
    """The class of the first name that is in a text, else of the first of CUDA's sentences; "" if none is."""
    patterns = [*_NAME_PATTERNS, *(_TEXT_PATTERNS if _FROM_CUDA.search(text) else [])]
    if any(pattern.search(text) for _, pattern in _LIBRARY_PATTERNS):
        # torch puts "CUDA error:" before a library's status as well
        patterns = [(name, pattern) for name, pattern in patterns if name != "cuda error"]
    return next((name for name, pattern in patterns if pattern.search(text)), "")


def _find_exception(exception: str) -> str:
    return next((name for words, name in _EXCEPTIONS if words.lower() in exception.lower()), "")


def _find_fatal(text: str) -> str:
    return next((name for name, pattern in _FATAL_PATTERNS if pattern.search(text)), "")


def _is_import(exception: str) -> bool:
    return _bare(exception) in ("ModuleNotFoundError", "ImportError")


def _bare(exception: str) -> str:
    return exception.rpartition(".")[2]
