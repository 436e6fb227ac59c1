"""What became of a cell whose worker died under it: from the exit status, the last stage and what it printed."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gpubench.machine import PACKAGE
from gpubench.records import CellRecord, Crash, Outcome, Stage, Task
from gpubench.run.logs import read_tail

__all__ = ["Death", "OomKillCounter", "record_death"]

# As CUDA's runtime and torch spell them; the first that a cell printed is the one it died of.
_CUDA_ERROR = re.compile(
    r"\b(cudaError[A-Z]\w+|CUDA_ERROR_[A-Z_]+|CUBLAS_STATUS_[A-Z_]+|NCCL\w*Error)\b|CUDA error: ([^\n]+)"
)


_STACK_LINE = re.compile(r'File "([^"<]+)", line (\d+) in ')
_LIBRARIES = ("site-packages", "dist-packages", f"lib/python{sys.version_info[0]}.", str(PACKAGE))


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
    timed_out: str = ""
    """Which limit it ran into, in words: then it was this program that killed it."""
    killed_by_host: bool = False
    """The host's out-of-memory killer has counted a victim meanwhile."""


def record_death(death: Death) -> CellRecord:
    """The record of a cell that could not write its own."""
    evidence = _evidence(death)
    outcome, reason = _judge(death, evidence)
    started = datetime.now(UTC).timestamp() - death.lived_s
    return death.task.record(
        death.trial,
        outcome,
        death.stage,
        reason=reason,
        crash=evidence,
        gpu=death.gpu,
        started_at=datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds"),
        duration_s=round(death.lived_s, 6),
        worker=death.worker,
    )


def _evidence(death: Death) -> Crash:
    tail = read_tail(Path(death.task.artifacts) / "stderr.txt")
    found = _CUDA_ERROR.search(tail)
    return Crash(
        exit_status=death.exit_status,
        signal="" if death.timed_out else _signal_name(death.exit_status),
        cuda_error=(found.group(1) or found.group(2)).strip() if found else "",
        stderr_tail=tail,
    )


def _judge(death: Death, evidence: Crash) -> tuple[Outcome, str]:
    stage = f"{death.stage}{_place(evidence.stderr_tail)}"
    if death.timed_out:
        return Outcome.TIMEOUT, f"still in {stage} {death.timed_out}; the worker was killed"
    where = f"during {stage}"
    if evidence.signal == "SIGKILL" and death.killed_by_host:
        return Outcome.OOM, f"the host ran out of memory {where}: its out-of-memory killer ended the worker"
    if evidence.signal == "SIGKILL":
        return Outcome.CRASH, f"killed by SIGKILL {where}, not by gpubench; often the host's out-of-memory killer"
    what = f"killed by {evidence.signal}" if evidence.signal else f"the worker exited with status {death.exit_status}"
    error = f": {evidence.cuda_error}" if evidence.cuda_error else ""
    return Outcome.CRASH, f"{what} {where}{error}"


def _place(stderr: str) -> str:
    """` (mine.py:12)`: the innermost line of the stack that faulthandler left which is neither a library's nor ours."""
    for file, line in _STACK_LINE.findall(stderr):
        if not any(part in file for part in _LIBRARIES):
            return f" ({Path(file).name}:{line})"
    return ""


def _signal_name(exit_status: int) -> str:
    # 128 + n is how a shell, and a profiler around the worker, report the signal n
    number = -exit_status if exit_status < 0 else exit_status - 128 if 128 < exit_status < 160 else 0
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


class OomKillCounter:
    """Tells whether the host's out-of-memory killer struck in this process's cgroup since the last look."""

    def __init__(self) -> None:
        self._path = _memory_events()
        self._seen = self._read()

    def has_struck(self) -> bool:
        count = self._read()
        struck = count > self._seen
        self._seen = count
        return struck

    def _read(self) -> int:
        try:
            lines = self._path.read_text().splitlines() if self._path else []
        except OSError:
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _memory_events() -> Path | None:
    """This process's memory.events under cgroup v2, where there is one."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    groups = (line.removeprefix("0::") for line in lines if line.startswith("0::"))
    candidates = (Path("/sys/fs/cgroup") / group.lstrip("/") / "memory.events" for group in groups)
    return next((path for path in candidates if path.is_file()), None)
