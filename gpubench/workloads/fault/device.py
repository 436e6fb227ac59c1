"""Faults of kernels that are launched one by one: wild accesses, an assertion, a hang, too much of something."""

from __future__ import annotations

import torch
from torch import Tensor

from gpubench.registry import Step
from gpubench.workloads.fault.planting import plant

FAR = 1 << 36
"""Elements: 256 GiB from where a store belongs, where no GPU has memory mapped."""
MOST_LOOKS = 1 << 31
"""A spinning kernel gives up after so many, some minutes, if nobody ends it before."""


@plant("illegal_address", needs_gpu=True)
def _(x: Tensor) -> Step:
    from gpubench.kernels.faulty import BLOCK, wild_store

    def step() -> Tensor:
        wild_store[(1,)](x, FAR, BLOCK, BLOCK=BLOCK)
        return look_at(x)

    return step


@plant("device_assert", needs_gpu=True)
def _(x: Tensor) -> Step:
    beyond = torch.tensor([x.numel() + 5])
    return lambda: look_at(x.flatten()[beyond])


@plant("device_hang", needs_gpu=True)
def _(x: Tensor) -> Step:
    from gpubench.kernels.faulty import spin

    never_set, looks = torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)

    def step() -> Tensor:
        spin[(1,)](never_set, looks, MOST_LOOKS)
        return look_at(x)

    return step


@plant("device_oom", needs_gpu=True)
def _(x: Tensor) -> Step:
    quarter = torch.cuda.get_device_properties(x.device).total_memory // 4

    def step() -> Tensor:
        held = [torch.empty(quarter, dtype=torch.uint8, device=x.device) for _ in range(5)]
        return x + len(held)

    return step


@plant("compile_error", needs_gpu=True)
def _(x: Tensor) -> Step:
    from gpubench.kernels.faulty import no_power

    def step() -> Tensor:
        no_power[(1,)](x)
        return x

    return step


@plant("shared_memory", needs_gpu=True)
def _(x: Tensor) -> Step:
    from gpubench.kernels.faulty import too_big

    operands, out = torch.zeros(128 * 512, dtype=torch.float16), torch.empty(128, 128)

    def step() -> Tensor:
        too_big[(1,)](operands, out, num_warps=16)
        return x

    return step


def look_at(x: Tensor) -> Tensor:
    """An innocent step after a faulty one, which waits for the GPU: what went wrong before surfaces here."""
    out = x + 1
    torch.cuda.synchronize()
    return out
