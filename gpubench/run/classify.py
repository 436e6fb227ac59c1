"""What became of a cell whose worker died under it: from the exit status, the last stage and what it printed."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gpubench.protocol import Task
from gpubench.records import CellRecord, Crash, FaultingKernel, Hazard, Measurement, Outcome, Stage
from gpubench.run.autopsy import Remains
from gpubench.run.coredump import cuda_error_of
from gpubench.run.logs import read_tail
from gpubench.stacks import name_place, parse_stack

__all__ = ["Death", "record_death"]

# As CUDA's runtime and torch spell them; the first that a cell printed is the one it died of.
_CUDA_ERROR = re.compile(
    r"\b(cudaError[A-Z]\w+|CUDA_ERROR_[A-Z_]+|CUBLAS_STATUS_[A-Z_]+|NCCL\w*Error)\b|CUDA error: ([^\n]+)"
)

_SEARCHED_BYTES, _SEARCHED_OF_HANG_BYTES = 64 << 10, 16 << 20
"""Of the end of a cell's standard error: a deep stack is longer than the tail that is kept. And what hangs may go on
printing after it was asked for its stack."""


@dataclass(frozen=True)
class Death:
    """How a worker ended while a cell was running."""

    task: Task
    trial: int
    stage: Stage
    exit_status: int
    """Negative: minus the number of the signal."""
    worker: int
    gpu: str
    lived_s: float
    """From the task's first stage until the end was noticed."""
    is_wrapped: bool = False
    """The status is that of a profiler around the worker, which reports the signal n as 128 + n, as shells do."""
    timed_out: str = ""
    """Which limit it ran into, in words: then it was this program that killed it."""
    killed_by_host: bool = False
    """The host's out-of-memory killer has counted a victim meanwhile."""
    remains: Remains = field(default_factory=Remains)
    hazards: list[Hazard] = field(default_factory=list)
    """Stale addresses that the worker found in the cell's CUDA graphs while it lived."""
    printed_before: int = 0
    """How long in bytes the cell's standard error was when the task was given out: earlier attempts, another pass."""
    measured: list[Measurement] = field(default_factory=list)
    """The trial's figures, if it died while they were checked."""


def record_death(death: Death) -> CellRecord:
    """The record of a cell that could not write its own."""
    evidence = _evidence(death)
    outcome, reason = _judge(death, evidence)
    started = datetime.now(UTC).timestamp() - death.lived_s
    return death.task.record(
        death.trial,
        outcome,
        death.stage,
        reason=f"{reason}; measured, but not checked" if death.measured else reason,
        measurements=death.measured,
        crash=evidence,
        hazards=death.hazards,
        gpu=death.gpu,
        started_at=datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
        duration_s=round(death.lived_s, 6),
        worker=death.worker,
    )


def _evidence(death: Death) -> Crash:
    log = Path(death.task.artifacts) / "stderr.txt"
    remains = death.remains
    raised = cuda_error_of(remains.faulting.exception) if remains.faulting else ""
    tail = read_tail(log, start=death.printed_before)
    searched = read_tail(log, _SEARCHED_BYTES, death.printed_before)
    stack = parse_stack(searched)
    if death.timed_out and not stack:
        stack = parse_stack(read_tail(log, _SEARCHED_OF_HANG_BYTES, death.printed_before))
    found = None if death.gpu == "cpu" else _CUDA_ERROR.search(searched)  # there it can be but text
    printed = (found.group(1) or found.group(2)).strip() if found else ""
    return Crash(
        exit_status=death.exit_status,
        signal="" if death.timed_out else _signal_name(death),
        cuda_error=raised or printed,
        stderr_tail=tail,
        memory=remains.memory,
        open_range=remains.open_range,
        faulting=remains.faulting,
        host_frames=stack,
        xid=remains.xid,
    )


def _judge(death: Death, evidence: Crash) -> tuple[Outcome, str]:
    stage = f"{death.stage}{name_place(evidence.host_frames)}"
    if death.timed_out:
        faulting = evidence.faulting
        running = f", the GPU in {_name_kernel(faulting)}," if faulting is not None and faulting.kernel else ""
        return Outcome.TIMEOUT, f"still in {stage}{running} {death.timed_out}; the worker was killed"
    where = f"during {stage}"
    if evidence.signal == "SIGKILL":
        used = _describe_memory(evidence.memory)
        if death.killed_by_host:
            return Outcome.OOM, f"the host ran out of memory {where}: its out-of-memory killer ended the worker{used}"
        return Outcome.CRASH, f"killed by SIGKILL {where}, not by gpubench; often the host's out-of-memory killer{used}"
    if evidence.faulting is not None:
        return Outcome.CRASH, f"{_describe(evidence.faulting, evidence.cuda_error)}; the host was in {stage}"
    what = f"killed by {evidence.signal}" if evidence.signal else f"the worker exited with status {death.exit_status}"
    error = f": {evidence.cuda_error}" if evidence.cuda_error else ""
    return Outcome.CRASH, f"{what} {where}{error}"


def _describe_memory(memory: Mapping[str, float]) -> str:
    """How near its control group came to its limit, so far as that is counted."""
    if "host_peak" not in memory:
        return ""
    limit = f" of {memory['host_limit'] / 2**30:.2f}" if "host_limit" in memory else ""
    return f"; its control group has used up to {memory['host_peak'] / 2**30:.2f}{limit} GiB"


def _describe(faulting: FaultingKernel, cuda_error: str) -> str:
    if not faulting.kernel:
        return f"the GPU raised {cuda_error or faulting.exception or 'an exception'} ({faulting.note})"
    return f"{cuda_error or faulting.exception or 'an exception'} raised by {_name_kernel(faulting)}"


def _name_kernel(faulting: FaultingKernel) -> str:
    """`kernel wild_store (faults.py:7)`, without template arguments."""
    name = faulting.kernel.partition("<")[0].partition("(")[0] or faulting.kernel
    place = f" ({Path(faulting.file).name}:{faulting.line})" if faulting.file else ""
    return f"kernel {name}{place}"


def _signal_name(death: Death) -> str:
    status = death.exit_status
    number = -status if status < 0 else status - 128 if death.is_wrapped and 128 < status < 160 else 0
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if status < 0 else ""  # a real-time one has no name
