"""What a user may set about one cell's measuring, checking and stopping.

The sweep file's `measure`, `check` and `timeout_s` are read into these, and they travel to the worker unchanged, so
that both sides mean the same by a key. Every field has the default that a user who writes nothing gets.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["GRAPHS", "CheckSettings", "MeasureSettings", "TimeoutSettings", "TriageSettings", "uses_interpreter"]

GRAPHS = "GPUBENCH_GRAPHS"
"""The environment variable that has workers run steps eagerly that would be captured, if it is `off`."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # strictly, YAML's list is no tuple


class MeasureSettings(_Settings):
    """How samples are taken (`measure:` in a sweep)."""

    timer: Literal["auto", "nsys", "cupti", "cuda_event", "wall"] = "auto"
    trials: Annotated[int, Field(ge=1, le=1000)] = 3
    warmup_time_s: Annotated[float, Field(ge=0)] = 0.1
    min_samples: Annotated[int, Field(ge=1)] = 10
    max_samples: Annotated[int, Field(ge=1)] = 200
    target_rel_ci: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Stop once the 95 % interval of the median is within ± this share of it."""
    max_time_s: Annotated[float, Field(gt=0)] = 5.0
    """Per trial, warm-up apart."""
    launch: Literal["idle", "blocked", "graph"] = "idle"
    """What of launching is in the timing pass's samples on a GPU. `idle`: all of it, for the step is called when the
    GPU has nothing to do, as in a loop that waits for each step. `blocked`: nothing, for the GPU is kept busy until the
    whole step is queued. `graph`: nothing either, and a sample is a CUDA graph of many steps, for short kernels."""
    l2: Literal["cold", "hot", "rotate"] = "cold"
    """What a step finds in the GPU's L2. `cold`: nothing, for it is overwritten before each sample. `hot`: what the
    step before left. `rotate`: nothing of its inputs, for copies of the step take turns that don't fit in together."""
    seed: Annotated[int, Field(ge=0)] = 0
    pass_environment: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Variables that a profiled worker needs besides the usual ones: a trace keeps the environment, so it gets few."""


class CheckSettings(_Settings):
    """Against what an output is checked, and how closely (`check:` in a sweep)."""

    against: str = "auto"
    """`auto`: the workload's oracle, else its baseline; `oracle`; a backend's name; or `none`."""
    rtol: Annotated[float, Field(ge=0)] | None = None
    """None: by the output's dtype."""
    atol: Annotated[float, Field(ge=0)] | None = None
    """None: rtol × the reference's root mean square."""
    graph_pointers: Literal["off", "warn", "error"] = "warn"


class TimeoutSettings(_Settings):
    """Wall-clock limits in seconds (`timeout_s:` in a sweep; one number is `cell`)."""

    cell: Annotated[float, Field(gt=0)] = 120.0
    start: Annotated[float, Field(gt=0)] = 180.0
    """From the launch of a worker until it is ready: importing torch, plugins, a CUDA context."""
    setup: Annotated[float, Field(gt=0)] | None = None
    check: Annotated[float, Field(gt=0)] | None = None
    warmup: Annotated[float, Field(gt=0)] | None = None
    measure: Annotated[float, Field(gt=0)] | None = None
    profile: Annotated[float, Field(gt=0)] | None = None


class TriageSettings(_Settings):
    """What is kept of a crash (`triage:` in a sweep)."""

    coredump: bool = True


def uses_interpreter() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "on", "yes"}
