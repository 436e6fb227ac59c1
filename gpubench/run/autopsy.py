"""What is still to be found where a cell failed: the GPU's core, the ranges that were open, the driver's and the
kernel's own accounts."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from gpubench.marks import name_ranges
from gpubench.records import CellRecord, FaultingKernel
from gpubench.run.coredump import CoreReader, cuda_error_of
from gpubench.run.worker import WorkerProcess

__all__ = ["ControlGroup", "OomKillCounter", "Remains", "attach_core", "find_group", "find_remains", "read_xid"]

KERNEL_LOG = Path("/dev/kmsg")
MOST_LINES = 8
"""There may be one for every multiprocessor."""
NO_LIMIT_BYTES = 1 << 60
"""What a control group may use that has no limit, or more: v1 says a number, v2 says `max`."""

_INITIAL_NAMESPACE = "pid:[4026531836]"
"""Linux's constant for the namespace in which the driver, too, counts processes (PROC_PID_INIT_INO)."""
_XID = re.compile(r"NVRM: Xid \(([^)]*)\).*")
_XID_PID = re.compile(r"\bpid='?(\d+)")


@dataclass(frozen=True)
class Remains:
    """Evidence from outside of a dead worker."""

    faulting: FaultingKernel | None = None
    open_range: str = ""
    xid: list[str] = field(default_factory=list)
    memory: dict[str, float] = field(default_factory=dict)


def find_remains(
    worker: WorkerProcess, cell: Path, cores: CoreReader, lived_s: float, *, is_hang: bool = False
) -> Remains:
    """Examine a worker that has died in a cell and is closed; reading a core takes about a second."""
    return Remains(
        faulting=cores.collect(worker.folder, cell, is_hang=is_hang),
        open_range=name_ranges(worker.last_ranges),
        xid=read_xid(worker.pid, lived_s),
        memory=_host_memory(),
    )


def attach_core(record: CellRecord, worker: Path, cell: Path, cores: CoreReader) -> CellRecord:
    """The record of a cell that its worker survived, with the core that a program of the cell's has left."""
    if record.crash is None or not record.outcome.is_failure:
        return record
    faulting = cores.collect(worker, cell)
    if faulting is None:
        return record
    error = record.crash.cuda_error or cuda_error_of(faulting.exception)
    return replace(record, crash=replace(record.crash, faulting=faulting, cuda_error=error))


def read_xid(pid: int | None, since_s: float, log: Path = KERNEL_LOG) -> list[str]:
    """The driver's Xid lines of the last `since_s` seconds about a process; none where the log can't be read.

    First those that name it, then those that name no process, about a GPU that is named together with it. A container's
    processes have other numbers for the driver: there, all lines of that time are given.
    """
    recent = [line for at, line in _read_kernel_log(log) if at >= time.monotonic() - since_s - 1]
    lines = [found for line in recent if (found := _XID.search(line))]
    by_process = [(line, found) for line in lines if (found := _XID_PID.search(line.group()))]
    if not _sees_all_processes() and not any(int(found[1]) == pid for _, found in by_process):
        return [line.group() for line in lines][:MOST_LINES]
    own = [line for line, found in by_process if int(found[1]) == pid]
    gpus, attributed = {line[1] for line in own}, {line for line, _ in by_process}
    about_gpu = [line for line in lines if line[1] in gpus and line not in attributed]
    return [line.group() for line in own + about_gpu][:MOST_LINES]


def _read_kernel_log(log: Path) -> list[tuple[float, str]]:
    """Each line with its time in seconds since the machine started: `4,1234,5678901,-;NVRM: Xid …`."""
    lines = []
    for line in _read_what_is_there(log).decode(errors="replace").splitlines():
        header, _, text = line.partition(";")
        fields = header.split(",")
        if len(fields) > 2 and fields[2].isascii() and fields[2].isdecimal():
            lines.append((int(fields[2][:18]) * 1e-6, text))
    return lines


def _read_what_is_there(log: Path) -> bytes:
    """All that can be read without waiting; nothing where it isn't ours to read."""
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    found = bytearray()
    try:
        while part := _read_on(descriptor):
            found += part
    finally:
        os.close(descriptor)
    return bytes(found)


def _read_on(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, 8192)
        except BrokenPipeError:
            continue  # the next line has been overwritten meanwhile: on with the one behind it
        except OSError:
            return b""


def _sees_all_processes() -> bool:
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _INITIAL_NAMESPACE
    except OSError:
        return False


def _host_memory() -> dict[str, float]:
    """The host's memory in bytes: what is free of it, and this process's control group's share."""
    group = find_group()
    return {"host_free": float(psutil.virtual_memory().available)} | (group.read() if group else {})


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@dataclass(frozen=True)
class ControlGroup:
    """What a control group of Linux counts of its memory: the paths of its files, which v1 and v2 call differently."""

    events: Path
    used: Path
    peak: Path
    limit: Path

    def count_kills(self) -> int:
        """How many of its processes the out-of-memory killer has ended so far."""
        lines = _read_text(self.events).splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def read(self) -> dict[str, float]:
        """Bytes: host_used, host_peak and host_limit, whichever it tells and has."""
        files = {"host_used": self.used, "host_peak": self.peak, "host_limit": self.limit}
        texts = {name: _read_text(path).strip() for name, path in files.items()}
        found = {name: float(text) for name, text in texts.items() if text.isdecimal()}
        return {name: size for name, size in found.items() if size < NO_LIMIT_BYTES}


def find_group(told: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> ControlGroup | None:
    """This process's control group, under v2 or v1, if it counts memory and can be seen from here."""
    lines = [line.split(":", 2) for line in _read_text(told).splitlines() if line.count(":") >= 2]
    for _, controllers, path in lines:
        if not controllers:
            names = ("memory.events", "memory.current", "memory.peak", "memory.max")
            mount = root
        elif "memory" in controllers.split(","):
            names = (
                "memory.oom_control",
                "memory.usage_in_bytes",
                "memory.max_usage_in_bytes",
                "memory.limit_in_bytes",
            )
            mount = root / "memory"
        else:
            continue
        # a container may be told its path on the host, and see its own group as the root
        for folder in (mount / path.lstrip("/"), mount):
            if (folder / names[0]).is_file():
                return ControlGroup(*(folder / name for name in names))
    return None


class OomKillCounter:
    """Tells whether the host's out-of-memory killer struck in this process's control group since the last look."""

    def __init__(self) -> None:
        self._group = find_group()
        self._seen = self._count()

    def has_struck(self) -> bool:
        count = self._count()
        struck = count > self._seen
        self._seen = count
        return struck

    def _count(self) -> int:
        return self._group.count_kills() if self._group else 0
