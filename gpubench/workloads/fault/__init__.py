"""Faults on purpose: what a sweep records of each, and what triage makes of it, is tried on these.

    workload: fault
    axes: {kind: [segfault], concurrency: [1, 8, 32], parallel: [TEP, DEP]}
    params: {only: {parallel: TEP, concurrency: ">=8"}}

Any axes may be swept besides; `only` says of which of their values the fault is, as `exclude` would say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

import gpubench
from gpubench.errors import ArgumentError
from gpubench.predicates import PredicateError, parse_predicate
from gpubench.registry import Step
from gpubench.workloads.fault import device, graphs, host, story
from gpubench.workloads.fault.planting import PLANTS

__all__ = ["device", "fault", "graphs", "host", "story"]

COLUMNS = 1024

Kind = Literal[
    "none",
    "mismatch",
    "nan",
    "unwritten",
    "setup_error",
    "import_error",
    "exit_3",
    "sigkill",
    "segfault",
    "host_hang",
    "host_oom",
    "illegal_address",
    "device_assert",
    "device_hang",
    "device_oom",
    "compile_error",
    "shared_memory",
    "illegal_address_in_graph",
    "stale_scratch",
    "unmapped_scratch",
    "undersized_scratch",
    "moved_cache",
    "allocation_in_capture",
    "sync_in_capture",
    "stale_topk",
]


@gpubench.workload("fault", open_axes=True)
def fault(kind: Kind = "none", batch: int = 1, only: Any = None, **axes: Any) -> dict[str, Any]:
    """Adds one to every element of x [batch, 1024], or comes to grief as `kind` says, in the cells that `only` names.

    `only` is a mapping of axes to what their values must be, or a list of those of which one must hold; without it, all
    cells are meant.
    """
    return {"x": torch.randn(batch, COLUMNS), "is_faulty": _is_meant(only, {"kind": kind, "batch": batch, **axes})}


@fault.backend("planted", baseline=True)
def _(x: Tensor, kind: Kind, is_faulty: bool) -> Step:
    plant = PLANTS[kind]
    return plant.grow(kind, x) if is_faulty else plant.healthy(x)


@fault.oracle
def _(x: Tensor) -> Tensor:
    return x.double() + 1


def _is_meant(only: Any, values: Mapping[str, Any]) -> bool:
    if only is None:
        return True
    try:
        predicates = [parse_predicate(each) for each in (only if isinstance(only, list) else [only])]
    except (PredicateError, TypeError, AttributeError) as error:
        raise ArgumentError(f"only: {error}") from None
    return any(predicate.matches(values) for predicate in predicates)
