"""A workload whose backends end in every way that a cell can end; real ones, each in a real worker."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

import gpubench


@gpubench.workload("bad_luck")
def bad_luck(size: int = 64, seconds: float = 0.0):
    """Adds one to a vector, or comes to grief."""
    return {"x": torch.randn(size)}


@bad_luck.backend("healthy", baseline=True)
def _(x, *, seconds=0.0):
    def step():
        if seconds:
            time.sleep(seconds)
        return x + 1

    return step


@bad_luck.backend("raises_in_setup")
def _(x):
    raise ValueError("set-up has a fault")


@bad_luck.backend("raises_in_step")
def _(x):
    def step():
        raise RuntimeError("the step has a fault")

    return step


@bad_luck.backend("calls_sys_exit")
def _(x):
    return lambda: sys.exit(3)


@bad_luck.backend("exits_3")
def _(x):
    return lambda: os._exit(3)


@bad_luck.backend("killed")
def _(x):
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


@bad_luck.backend("segfaults")
def _(x):
    import ctypes

    return lambda: ctypes.string_at(8)


@bad_luck.backend("hangs")
def _(x):
    def step():
        time.sleep(10_000)

    return step


@bad_luck.backend("hangs_with_children")
def _(x):
    import subprocess

    def step():
        # its own session: a plain kill of the worker's process group would miss it
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(10000)"], start_new_session=True)
        Path(os.environ["BAD_LUCK_PID_FILE"]).write_text(str(child.pid))
        time.sleep(10_000)

    return step


@bad_luck.backend("returns_nan")
def _(x):
    return lambda: x * float("nan")


@bad_luck.backend("is_wrong")
def _(x):
    return lambda: x + 2


@bad_luck.backend("leaves_a_hole")
def _(x):
    out = torch.empty_like(x)

    def step():
        out[1:] = x[1:] + 1
        return out

    return step


@bad_luck.backend("closes_its_output")
def _(x):
    def step():
        sys.stdout.close()
        sys.stderr = None
        return x + 1

    return step


@bad_luck.backend("prints_100_mb")
def _(x):
    def step():
        if not getattr(step, "done", False):
            step.done = True
            line = "x" * 1023 + "\n"
            for _ in range(100 * 1024):
                sys.stdout.write(line)
            sys.stdout.write("the last line\n")
        return x + 1

    return step


@bad_luck.backend("needs_the_moon", requires=["lunar-lander:lunar_lander"])
def _(x):
    return lambda: x + 1


@bad_luck.backend("out_of_memory")
def _(x):
    return lambda: torch.empty(1 << 60, dtype=torch.uint8)
