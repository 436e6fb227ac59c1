"""Faults that need no GPU: wrong answers, exceptions, deaths, a hang, and memory that runs out."""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

import gpubench
from gpubench.registry import Step
from gpubench.workloads.fault.planting import plant

NOBODYS_ADDRESS = 8
FOREVER_S = 10_000
ROOM_BYTES = 256 << 20
"""How much more address space a process gets that is to run out of it; it asks for four times as much."""


@plant("mismatch")
def _(x: Tensor) -> Step:
    return lambda: x + 2


@plant("nan")
def _(x: Tensor) -> Step:
    return lambda: (x + 1).index_fill(-1, torch.tensor([3], device=x.device), float("nan"))


@plant("unwritten")
def _(x: Tensor) -> Step:
    out = torch.empty_like(x)

    def step() -> Tensor:
        out[..., 1:] = x[..., 1:] + 1
        return out

    return step


@plant("setup_error")
def _(x: Tensor) -> Step:
    raise ValueError(f"the set-up has a fault, with x of {x.numel()} elements")


@plant("import_error")
def _(x: Tensor) -> Step:
    importlib.import_module("gpubench_has_no_such_module")
    return lambda: x + 1


@plant("exit_3")
def _(x: Tensor) -> Step:
    return lambda: os._exit(3)


@plant("sigkill")
def _(x: Tensor) -> Step:
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


@plant("segfault")
def _(x: Tensor) -> Step:
    def step() -> Tensor:
        with gpubench.annotate("attention"):
            ctypes.string_at(NOBODYS_ADDRESS)
        return x + 1

    return step


@plant("host_hang")
def _(x: Tensor) -> Step:
    def step() -> Tensor:
        with gpubench.annotate("collective"):
            time.sleep(FOREVER_S)
        return x + 1

    return step


@plant("host_oom")
def _(x: Tensor) -> Step:
    def step() -> Tensor:
        with _little_room():
            held = bytearray(4 * ROOM_BYTES)
        return x + len(held)

    return step


@contextmanager
def _little_room() -> Iterator[None]:
    """Bound this process's address space meanwhile, so that it runs out of memory and the machine does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    room = psutil.Process().memory_info().vms + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
