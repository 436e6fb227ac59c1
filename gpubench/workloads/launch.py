"""How a kernel workload's step is launched, as an axis: by its Python launcher, or replayed from a CUDA graph."""

from __future__ import annotations

from typing import Literal

import torch

from gpubench.errors import Unsupported
from gpubench.graphs.whole import capture_step
from gpubench.registry import Step

__all__ = ["Launch", "launched"]

Launch = Literal["eager", "graph"]


def launched(step: Step, launch: Launch) -> Step:
    """The step as it is, or captured: what a backend's set-up returns.

    A captured step runs a few times here, first to warm up. Unsupported without a GPU.
    """
    if launch == "eager":
        return step
    if not torch.cuda.is_available():
        raise Unsupported("launch: graph needs cuda: a CUDA GPU; launch: eager runs on a CPU")
    return capture_step(step).bind()
