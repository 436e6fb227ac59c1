"""The GPU that a launch goes to, as far as launchers ask for it: looked up once, for a launch has microseconds."""

from __future__ import annotations

import functools

import torch

from gpubench.kernels.interpreter import is_interpreted

__all__ = ["gpu_name", "sm_count"]


def gpu_name() -> str:
    """The current GPU as torch names it, `NVIDIA H200`: the key of tables of block sizes. `interpreter` in there."""
    return "interpreter" if is_interpreted() else _name(torch.cuda.current_device())


def sm_count() -> int:
    """How many multiprocessors the current GPU has: what a launch can keep busy. 1 in the interpreter."""
    return 1 if is_interpreted() else _sms(torch.cuda.current_device())


@functools.cache
def _name(device: int) -> str:
    return str(torch.cuda.get_device_name(device))


@functools.cache
def _sms(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
