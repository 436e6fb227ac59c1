"""A workload whose backends end one way in a sweep and, some of them, another when they are run again."""

import ctypes
import os
import time

import torch

import gpubench

LATER = os.environ.get("MOOD") == "later"
"""What is run again finds another world."""
LEFT_BEHIND = []


@gpubench.workload("moody")
def moody(size: int = 8):
    return {"x": torch.ones(size)}


@moody.backend("healthy", baseline=True)
def _(x):
    return lambda: x + 1


@moody.backend("segfaults")
def _(x):
    return lambda: ctypes.string_at(8)


@moody.backend("hangs")
def _(x):
    return lambda: time.sleep(1000)


def pick(x):
    if x.numel() > 8:
        raise RuntimeError(f"no tile for {x.numel()} at {id(x):#x}")
    return x + 1


@moody.backend("raises")
def _(x):
    return lambda: pick(x)


@moody.backend("fails_once")
def _(x):
    def fails():
        if not LATER:
            raise RuntimeError("the first time")
        return x + 1

    return fails


@moody.backend("fails_later")
def _(x):
    def step():
        if LATER:
            os._exit(7)
        return x + 1

    return step


@moody.backend("fails_otherwise")
def _(x):
    def step():
        raise (KeyError if LATER else ValueError)("x")

    return step


@moody.backend("leaves_something")
def _(x):
    def step():
        LEFT_BEHIND.append(1)
        return x + 1

    return step


@moody.backend("minds")
def _(x):
    def minds():
        if LEFT_BEHIND:
            raise RuntimeError("somebody was here")
        return x + 1

    return minds


def launch(x):
    is_late = os.environ.get("CUDA_LAUNCH_BLOCKING") != "1"
    place = "at whatever looks next" if is_late else "at the launch"
    raise RuntimeError(f"CUDA error: an illegal memory access was encountered {place}")


@moody.backend("replays")
def _(x):
    def replays():
        if os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") == "1":
            assert "CUDA_ENABLE_COREDUMP_ON_EXCEPTION" not in os.environ
        return x + 1 if os.environ.get("GPUBENCH_GRAPHS") == "off" else launch(x)

    return replays


@moody.backend("launches")
def _(x):
    return lambda: launch(x)
