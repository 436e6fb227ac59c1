"""What the GPU reaches at best: the bandwidth of a large copy, and the rate of a large matrix product.

Data sheets give peaks that no kernel sees. These are what torch's own operations get on this very GPU, now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from gpubench.records import Ceilings
from gpubench.worker.device import Device
from gpubench.worker.timers import CudaEventTimer

__all__ = ["measure_ceilings"]

COPY_BYTES = 2 << 30
MEMORY_SHARE = 1 / 8
"""Of the free memory, what the copy's source may take …"""
LEAST_PER_L2 = 8
"""… as long as it is so many times the L2, which would lend it its own bandwidth."""
MATRIX_SIZE = 8192
WARM_UP_S = 0.05
"""Clocks rise within this time."""
SAMPLES = 10
IN_A_ROW = 4
"""Steps per sample, so that the launch of the first is no visible part of it."""


def measure_ceilings(device: Device) -> Ceilings | None:
    """Measure both within half a second; None on a CPU, and where the GPU has no room. What it took is given back."""
    if not device.is_cuda:
        return None
    copy_bytes = int(min(COPY_BYTES, MEMORY_SHARE * device.memory()["device_free"]))
    if copy_bytes < LEAST_PER_L2 * device.l2_bytes:
        return None
    try:
        copied = _copy_bytes_per_s(device, copy_bytes)
        torch.cuda.empty_cache()  # or cuBLAS gets its workspace, which it never gives back, in those gigabytes' midst
        return Ceilings(copied, _matmul_flop_per_s(device))
    except torch.OutOfMemoryError:
        return None
    finally:
        torch.cuda.empty_cache()


def _copy_bytes_per_s(device: Device, size_bytes: int) -> float:
    """Bytes read and written by a copy on the device, per second."""
    with device.default():
        source = torch.rand(size_bytes // 4)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median_s(lambda: target.copy_(source), device)


def _matmul_flop_per_s(device: Device) -> float:
    """2·n³ operations per product of n × n matrices of bfloat16; of zeros it would be faster than any real one."""
    with device.default():
        a, b = (torch.randn(MATRIX_SIZE, MATRIX_SIZE, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * MATRIX_SIZE**3 / _median_s(lambda: torch.mm(a, b, out=out), device)


def _median_s(step: Callable[[], object], device: Device) -> float:
    step()  # loads the kernel, or the library
    device.synchronize()
    began = time.perf_counter()
    while time.perf_counter() - began < WARM_UP_S:
        step()
        device.synchronize()
    timer = CudaEventTimer(device)
    return median(timer.time(step, IN_A_ROW) for _ in range(SAMPLES))
