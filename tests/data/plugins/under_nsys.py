"""A workload whose backends get on with nsys, or don't."""

import os
import signal
from pathlib import Path

import psutil
import torch

import gpubench


@gpubench.workload("under_nsys")
def under_nsys(size: int = 64):
    """Adds one to a vector."""
    return {"x": torch.randn(size)}


@under_nsys.backend("healthy", baseline=True)
def _(x):
    def step():
        with gpubench.annotate("add"):
            return x + 1

    return step


@under_nsys.backend("dies_under_nsys")
def _(x):
    is_profiled = any(process.name().startswith("nsys") for process in psutil.Process().parents())

    def step():
        if is_profiled:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x + 1

    return step


@under_nsys.backend("lives_only_once")
def _(x, *, artifacts):
    mark = Path(artifacts, "has_lived")
    has_lived = mark.exists()
    mark.touch()

    def step():
        if has_lived:
            os.kill(os.getpid(), signal.SIGSEGV)
        return x + 1

    return step
