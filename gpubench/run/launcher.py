"""How a worker is started: plainly, or wrapped in a profiler. The one seam between running and profiling."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from gpubench.machine import Gpu
from gpubench.records import CellRecord
from gpubench.run.coredump import dump_environment

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

    @property
    def lost(self) -> Collection[str]:
        """Ids of the cells whose trace the profiler lost: `complete` leaves them out once, for them to run again."""
        ...

    def launch(self, job: Path, gpu: Gpu | None) -> Launch: ...

    def complete(self, folder: Path, records: Sequence[CellRecord]) -> list[CellRecord]: ...


class PlainLauncher:
    """The worker by itself: nothing between it and the GPU, and nothing to add to its records."""

    goodbye_s = 10.0
    has_trace = False
    withheld: Mapping[str, CellRecord] = MappingProxyType({})
    lost: Collection[str] = ()

    def __init__(self, *, has_dumps: bool = True, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self._has_dumps = has_dumps
        self._variables = variables

    def launch(self, job: Path, gpu: Gpu | None) -> Launch:
        environment = worker_environment(job, gpu, has_dumps=self._has_dumps)
        return Launch(worker_command(job), environment | dict(self._variables))

    def complete(self, folder: Path, records: Sequence[CellRecord]) -> list[CellRecord]:
        return list(records)


def worker_command(job: Path) -> list[str]:
    # -P: a queue.py or a random.py in the current folder must not take the place of Python's own
    return [sys.executable, "-P", "-m", "gpubench.worker", str(job)]


def worker_environment(job: Path, gpu: Gpu | None, *, has_dumps: bool) -> dict[str, str]:
    """This process's environment with the worker's GPU as its only one (or none), and Python's output unbuffered.

    With `has_dumps` the GPU's exceptions leave a core file beside the job's.
    """
    environment = dict(os.environ)
    # by UUID: an index would mean another GPU under another CUDA_DEVICE_ORDER
    environment["CUDA_VISIBLE_DEVICES"] = gpu.uuid if gpu else ""
    environment["PYTHONUNBUFFERED"] = "1"
    if gpu is not None and has_dumps:
        environment |= dump_environment(job.parent)
    return environment
