"""What a cell's exception says: its outcome, one sentence, and the evidence that a signature is made of later."""

from __future__ import annotations

import gc
import re
import traceback
from dataclasses import dataclass, field

import torch

from gpubench.errors import CommandFailed, GpubenchError, Unsupported
from gpubench.marks import name_ranges
from gpubench.ranges import left_ranges
from gpubench.records import CellRecord, CheckResult, Crash, Frame, Outcome
from gpubench.stacks import is_in_app, name_place
from gpubench.worker.cuda_errors import find_cuda_error
from gpubench.worker.device import Device, host_memory

__all__ = [
    "CellStopped",
    "Failure",
    "HookFailed",
    "clean",
    "describe_failure",
    "find_cause",
    "is_context_lost",
    "is_out_of_memory",
    "release",
]

REASON_LENGTH = 400
MESSAGE_LENGTH = 20_000
"""Longer messages keep their beginning and their end: a compiler's says most on its last lines."""


class CellStopped(Exception):
    """A cell that ends early with an outcome of its own and no error: skipped, mismatch, invalid."""

    def __init__(self, outcome: Outcome, reason: str, checks: list[CheckResult] | None = None) -> None:
        self.outcome = outcome
        self.reason = reason
        self.checks = checks or []
        super().__init__(reason)


class HookFailed(Exception):
    """A hook raised, as its cause says; what was measured before is as good as ever."""

    def __init__(self, where: str) -> None:
        self.where = where
        """Which hook, and what that leaves undone."""
        super().__init__(where)


@dataclass(frozen=True)
class Failure:
    """How a cell that was not ok ended."""

    outcome: Outcome
    reason: str
    crash: Crash | None = None
    checks: list[CheckResult] = field(default_factory=list)


def is_context_lost(ended: CellRecord | Failure) -> bool:
    """Whether nothing more can be run in this process, asked of a cell that it survived.

    Then `crash` means a dead context, unless it names a signal: that one ended a process which the cell had started.
    """
    is_elsewhere = ended.crash is not None and ended.crash.signal != ""
    return ended.outcome is Outcome.CRASH and not is_elsewhere


def describe_failure(error: BaseException, device: Device) -> Failure:
    """Turn what a cell raised into data; asks the device whether it can go on."""
    if isinstance(error, CellStopped):
        return Failure(error.outcome, clean(error.reason), checks=error.checks)
    if isinstance(error, Unsupported):
        return Failure(Outcome.SKIPPED, clean(str(error)))
    blamed = f"{error.where} raised " if isinstance(error, HookFailed) else ""
    error = find_cause(error.__cause__ if isinstance(error, HookFailed) and error.__cause__ else error)
    evidence = _Evidence(error, device)
    outcome, reason = _judge(evidence)
    reason = blamed + reason
    command = error if isinstance(error, CommandFailed) and not evidence.is_context_lost else None
    crash = Crash(
        exception=_qualified_name(error),
        message=clean(_shorten(evidence.message)),
        frames=evidence.frames,
        exit_status=command.exit_status if command else None,
        signal=command.signal if command else "",
        cuda_error=evidence.cuda_error,
        stderr_tail=clean(command.stderr_tail) if command else "",
        memory=evidence.memory,
        open_range=name_ranges(left_ranges(error)),
    )
    return Failure(outcome, clean(_one_line(reason)), crash)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no more memory to give; torch says so in several ways."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = _text(error)
    cuda_error = find_cuda_error(message)
    is_cuda = cuda_error is not None and cuda_error.name == "cudaErrorMemoryAllocation"
    return is_cuda or _is_out_of_host_memory(error) or "CUBLAS_STATUS_ALLOC_FAILED" in message


def _is_out_of_host_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(text in _text(error) for text in _OUT_OF_HOST_MEMORY)


def find_cause(error: BaseException) -> BaseException:
    """The first error of a failed graph capture: what ends the capture afterwards only says that it failed."""
    found = find_cuda_error(_text(error))
    earlier = error.__context__
    if found is not None and found.name == "cudaErrorStreamCaptureInvalidated" and earlier is not None:
        return find_cause(earlier)
    return error


def release(error: BaseException | None, device: Device) -> None:
    """Give back what a failed cell held: the locals of its frames, cycles, and torch's cached blocks."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
    if device.is_cuda:
        torch.cuda.empty_cache()


def clean(text: str) -> str:
    """Text that UTF-8 can encode: a file name in a message may hold bytes that aren't characters."""
    return text.encode("utf-8", "replace").decode("utf-8")


_OUT_OF_HOST_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "not enough memory: you tried")
_MIXED_DEVICES = ("Expected all tensors to be on the same device", "cannot be accessed from Triton (cpu tensor?)")
_ON_THE_HOST = "; inputs and set-ups are on the GPU by default, but what a step allocates needs its own device=…"
_ASKED = re.compile(r"(?:allocate|tried to allocate)\s+([\d.]+)\s*([KMGTP]?i?B|bytes)", re.IGNORECASE)
_LIBRARY_STATUS = re.compile(r"\b(?:CUBLAS|CUDNN|CUSPARSE|CUSOLVER|CUFFT)_STATUS_[A-Z_]+|\bnccl\w*Error\b")
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


class _Evidence:
    """What can be told from an error, and from the device just after it."""

    def __init__(self, error: BaseException, device: Device) -> None:
        self.error = error
        self.device = device
        self.message = _text(error)
        self.frames = _read_frames(error)
        self.damage = device.find_damage()
        found = find_cuda_error(self.message) or find_cuda_error(self.damage)
        status = _LIBRARY_STATUS.search(self.message)
        self.cuda_error = found.name if found else status.group() if status else ""
        is_own = device.is_cuda and not isinstance(error, CommandFailed)  # a command quotes its own context's errors
        self.is_context_lost = bool(self.damage) or (is_own and found is not None and found.kills_context)
        self.summary = found.text if found else ""
        self.memory = self._read_memory()

    @property
    def place(self) -> str:
        return name_place(self.frames)

    def _read_memory(self) -> dict[str, float]:
        asked = _ASKED.search(self.message)
        memory = self.device.memory(is_alive=not self.is_context_lost)
        if self.device.is_cuda and _is_out_of_host_memory(self.error):
            memory["host_free"], memory["host_total"] = host_memory()
        if asked:
            unit = asked[2].lower()
            power = 0 if unit == "bytes" else _UNITS[unit.rstrip("b").rstrip("i")]
            base = 1000 if len(unit) == 2 and power and "i" not in unit else 1024
            memory["asked"] = float(asked[1]) * base**power
        return memory


def _judge(evidence: _Evidence) -> tuple[Outcome, str]:
    error, place = evidence.error, evidence.place
    if evidence.is_context_lost:
        what = f"{evidence.cuda_error}: {evidence.summary}" if evidence.summary else _headline(error)
        state = "" if evidence.summary else f"; then the device said: {_first_line(evidence.damage)}"
        return Outcome.CRASH, f"{what}{state}; surfaced{place or ' in a library'}"
    if is_out_of_memory(error):
        return Outcome.OOM, _describe_memory(evidence.memory) + place
    if isinstance(error, SystemExit):
        return Outcome.ERROR, f"called sys.exit({'' if error.code is None else repr(error.code)}){place}"
    if isinstance(error, CommandFailed):
        return Outcome.CRASH if error.signal else Outcome.ERROR, str(error)
    if isinstance(error, GpubenchError):
        return Outcome.ERROR, str(error)
    hint = _ON_THE_HOST if any(text in evidence.message for text in _MIXED_DEVICES) else ""
    return Outcome.ERROR, (_describe_triton(error, evidence.message) or _headline(error)) + hint + place


def _describe_memory(memory: dict[str, float]) -> str:
    asked = f"asked for {_gib(memory['asked'])} with " if "asked" in memory else ""
    if "host_free" in memory:
        return f"the host is out of memory: {asked}{_gib(memory['host_free'])} free of {_gib(memory['host_total'])}"
    return f"out of memory: {asked}{_gib(memory['device_free'])} free of {_gib(memory['device_total'])}"


def _describe_triton(error: BaseException, message: str) -> str:
    """A compilation's message starts with source and ends with the fault; an overflow's names the limit."""
    if not type(error).__module__.startswith("triton"):
        return ""
    name = type(error).__name__
    if name == "OutOfResources":
        return f"Triton kernel too big for this GPU: {_first_line(message)}"
    if "Compil" not in name:
        return ""
    kernel = re.search(r"\bdef (\w+)\(", message)
    what = f"Triton could not compile {kernel[1]}" if kernel else "Triton could not compile a kernel"
    cause = error.__cause__ or error.__context__
    fault = _headline(cause) if cause is not None else message.strip().splitlines()[-1].strip()
    return f"{what}: {fault}"


def _read_frames(error: BaseException) -> list[Frame]:
    """The traceback's frames, the user's own before libraries', each innermost first."""
    walked = traceback.walk_tb(error.__traceback__)
    frames = [Frame(clean(f.f_code.co_filename), line, clean(f.f_code.co_qualname)) for f, line in walked]
    frames.reverse()
    return sorted(frames, key=lambda frame: not is_in_app(frame.file))


def _qualified_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _headline(error: BaseException) -> str:
    text = _first_line(_text(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as fault:  # the cell's own class, which may do anything
        return f"(its __str__ raised {type(fault).__name__})"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REASON_LENGTH else f"{line[: REASON_LENGTH - 1]}…"


def _shorten(text: str) -> str:
    half = MESSAGE_LENGTH // 2
    return text if len(text) <= MESSAGE_LENGTH else f"{text[:half]}\n…\n{text[-half:]}"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:,.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:,.2f} MiB"
