"""`GPUBENCH_GRAPHS=off`: steps run eagerly that would be captured, to find out whether a fault is the graph's."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import torch

from gpubench.errors import Unsupported
from gpubench.settings import GRAPHS

__all__ = ["are_graphs_off", "forbid_captures"]


def are_graphs_off() -> bool:
    """Whether this process is to capture no CUDA graph."""
    return os.environ.get(GRAPHS) == "off"


def forbid_captures() -> None:
    """From now on, code that captures by itself raises Unsupported: a rerun without graphs must not have one."""

    def refuse(_graph: torch.cuda.CUDAGraph, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise Unsupported(f"{GRAPHS}=off, and this captures a CUDA graph by itself, not through capture_step")

    setattr(torch.cuda.CUDAGraph, "capture_begin", refuse)  # noqa: B010  # mypy: a method is no variable
