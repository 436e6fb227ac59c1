"""How a worker is started: plainly, or wrapped in a profiler. The one seam between running and profiling."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from gpubench.machine import Gpu
from gpubench.records import CellRecord

__all__ = ["Launch", "Launcher", "PlainLauncher", "worker_command", "worker_environment"]


@dataclass(frozen=True)
class Launch:
    """A command line and the environment it runs in."""

    command: list[str]
    environment: Mapping[str, str]


class Launcher(Protocol):
    """Turns a job file into the process to start, and what its worker said into records."""

    goodbye_s: float
    """How long a worker may take to end after its last cell."""
    has_trace: bool
    """Records wait for the worker's end, for `complete` to add what the profiler recorded."""

    @property
    def withheld(self) -> Mapping[str, CellRecord]:
        """By cell id: records that `complete` kept back until it is known what the cell died of."""
        ...

    def launch(self, job: Path, gpu: Gpu | None) -> Launch: ...

    def complete(self, folder: Path, records: Sequence[CellRecord]) -> list[CellRecord]: ...


class PlainLauncher:
    """The worker by itself: nothing between it and the GPU, and nothing to add to its records."""

    goodbye_s = 10.0
    has_trace = False
    withheld: Mapping[str, CellRecord] = MappingProxyType({})

    def launch(self, job: Path, gpu: Gpu | None) -> Launch:
        return Launch(worker_command(job), worker_environment(gpu))

    def complete(self, folder: Path, records: Sequence[CellRecord]) -> list[CellRecord]:
        return list(records)


def worker_command(job: Path) -> list[str]:
    # -P: a queue.py or a random.py in the current folder must not take the place of Python's own
    return [sys.executable, "-P", "-m", "gpubench.worker", str(job)]


def worker_environment(gpu: Gpu | None) -> dict[str, str]:
    """This process's environment with the worker's GPU as its only one (or none), and Python's output unbuffered."""
    environment = dict(os.environ)
    # by UUID: an index would mean another GPU under another CUDA_DEVICE_ORDER
    environment["CUDA_VISIBLE_DEVICES"] = gpu.uuid if gpu else ""
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
