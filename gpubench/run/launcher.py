"""How a worker is started: plainly, or wrapped in a profiler. The one seam between running and profiling."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpubench.machine import Gpu

__all__ = ["Launch", "Launcher", "PlainLauncher"]


@dataclass(frozen=True)
class Launch:
    """A command line and the environment it runs in."""

    command: list[str]
    environment: Mapping[str, str]


class Launcher(Protocol):
    """Turns a job file into the process to start."""

    goodbye_s: float
    """How long a worker may take to end after its last cell."""

    def launch(self, job: Path, gpu: Gpu | None) -> Launch: ...


class PlainLauncher:
    """The worker by itself: nothing between it and the GPU."""

    goodbye_s = 10.0

    def launch(self, job: Path, gpu: Gpu | None) -> Launch:
        return Launch([sys.executable, "-m", "gpubench.worker", str(job)], worker_environment(gpu))


def worker_environment(gpu: Gpu | None) -> dict[str, str]:
    """This process's environment with the worker's GPU as its only one (or none), and Python's safe defaults."""
    environment = dict(os.environ)
    # by UUID: an index would mean another GPU under another CUDA_DEVICE_ORDER
    environment["CUDA_VISIBLE_DEVICES"] = gpu.uuid if gpu else ""
    environment["PYTHONUNBUFFERED"] = "1"
    return environment
