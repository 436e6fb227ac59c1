"""What the worker measures on: the first CUDA device that it sees, or the CPU."""

from __future__ import annotations

import contextlib
import resource
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psutil
import torch

from gpubench.errors import WorkerError
from gpubench.graphs.switch import are_graphs_off, forbid_captures

__all__ = ["Device", "host_memory", "open_device"]

CUDA = "cuda:0"
"""The parent shows each worker one GPU, so that its number is always this one."""


@dataclass(frozen=True)
class Device:
    """One device; its methods do what is right on a GPU and what is left of it on a CPU."""

    name: str
    """As records call it: `cuda:0 NVIDIA H200`, or `cpu`."""
    total_bytes: int
    l2_bytes: int
    """0 on a CPU, whose caches nobody empties."""
    capability: tuple[int, int] | None
    """CUDA's compute capability; None on a CPU."""
    uuid: str = ""
    """As NVML knows it: `GPU-…`."""

    @property
    def is_cuda(self) -> bool:
        return self.capability is not None

    def default(self) -> AbstractContextManager[object]:
        """A block in which torch's factories allocate here.

        A block rather than a setting for good: while it is open, every torch call passes through a Python hook, a
        microsecond each. Inputs, set-ups and oracles run inside it, timed steps don't.
        """
        return torch.device(CUDA) if self.is_cuda else contextlib.nullcontext()

    def synchronize(self) -> None:
        """Wait until the device is idle; an asynchronous error surfaces here at the latest."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def seed(self, seed: int) -> None:
        """Seed torch's generators, the device's and the host's.

        torch.manual_seed would do, but without a GPU it queues a call for every device that may yet appear, at a
        millisecond each, and keeps them all.
        """
        torch.default_generator.manual_seed(seed)
        if self.is_cuda:
            torch.cuda.manual_seed(seed)

    def memory(self, *, is_alive: bool = True) -> dict[str, float]:
        """Bytes free, total, and on a GPU those that torch holds, by the names that `Crash.memory` uses.

        A device whose context is lost no longer says what is free.
        """
        if not self.is_cuda:
            free, total = host_memory()
            return {"device_free": free, "device_total": total}
        held = {"reserved": torch.cuda.memory_reserved(), "allocated": torch.cuda.memory_allocated()}
        if not is_alive:
            return {"device_total": self.total_bytes, **held}
        free, total = torch.cuda.mem_get_info()
        return {"device_free": free, "device_total": total, **held}

    def available_bytes(self) -> int:
        """What a cell can have: what is free, and what this process holds itself, to reuse it or to share it.

        On a GPU that is torch's reserve. What others hold is left out, and what CUDA needs for itself.
        """
        if not self.is_cuda:
            return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()

    def allocated_bytes(self) -> int:
        """What live tensors hold; 0 on a CPU, where torch doesn't count."""
        return torch.cuda.memory_allocated() if self.is_cuda else 0

    def find_damage(self) -> str:
        """Why nothing more can be run here, in the device's own words; "" while something can.

        A library's error (`CUBLAS_STATUS_INTERNAL_ERROR`) says nothing about the context; asking it does.
        """
        if not self.is_cuda:
            return ""
        try:
            if torch.cuda.is_current_stream_capturing():
                return "a stream capture was left open"
            torch.cuda.synchronize()
        except RuntimeError as error:
            return str(error)
        return ""

    def is_spoiled(self) -> bool:
        """Whether a cell that failed has left a process in which the cells after it would fail for no fault of theirs.

        The context may be alive and well. But a capture that fails leaves torch on the capture's stream and, up to
        2.11 at least, its random numbers tied to the capture. Asked when nothing runs, after the cell let go.
        """
        if not self.is_cuda:
            return False
        try:
            torch.rand(1, device=CUDA)
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return torch.cuda.current_stream() != torch.cuda.default_stream()


def host_memory() -> tuple[int, int]:
    """Bytes free and total of the host's memory, so far as this process may have them."""
    host = psutil.virtual_memory()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return host.available, host.total
    left = max(0, limit - psutil.Process().memory_info().vms)  # of what `ulimit -v` allows
    return min(host.available, left), min(host.total, limit)


def open_device(needs_cuda: bool = False) -> Device:
    """Find the device and make it ready (on a GPU: create the context); WorkerError if CUDA is needed and not there."""
    if not torch.cuda.is_available():
        if needs_cuda:
            how = "is built without CUDA" if torch.version.cuda is None else "finds no usable GPU"
            raise WorkerError(
                f"a GPU is to be measured, but torch {torch.__version__} {how}; "
                "install a CUDA build of torch that the driver serves (gpubench doctor says more)"
            )
        return Device("cpu", psutil.virtual_memory().total, l2_bytes=0, capability=None)
    if are_graphs_off():
        forbid_captures()
    torch.cuda.set_device(0)
    torch.zeros(1, device=CUDA)
    torch.cuda.synchronize()
    properties = torch.cuda.get_device_properties(0)
    return Device(
        name=f"{CUDA} {properties.name}",
        total_bytes=properties.total_memory,
        l2_bytes=properties.L2_cache_size,
        capability=(properties.major, properties.minor),
        uuid=f"GPU-{properties.uuid}",
    )
