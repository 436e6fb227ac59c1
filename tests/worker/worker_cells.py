"""Small workloads for the worker's tests, and what runs one cell of them as a worker would."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import gpubench
from gpubench.protocol import Task
from gpubench.records import Cell, CellRecord, Pass, Stage
from gpubench.registry import Step, Workload, get_workload
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings
from gpubench.worker.cell import run_task
from gpubench.worker.device import Device, open_device
from gpubench.worker.shelf import WorkerShelf
from gpubench.worker.subject import Prepared, find_subject

QUICK = MeasureSettings(warmup_time_s=0, min_samples=6, max_samples=8, max_time_s=1)
"""Enough samples for an interval, and no time spent on them."""

_numbers = itertools.count()


@dataclass
class Ran:
    """A task that has been run: its records, and the stages that were announced."""

    records: list[CellRecord]
    stages: list[tuple[int, Stage]] = field(default_factory=list)

    @property
    def record(self) -> CellRecord:
        assert len(self.records) == 1, f"one record was expected: {[record.outcome for record in self.records]}"
        return self.records[0]


def run_cell(
    workload: str,
    backend: str,
    trials: Sequence[int] = (0,),
    measure: MeasureSettings = QUICK,
    check: CheckSettings | None = None,
    pass_: Pass = Pass.TIMING,
    device: Device | None = None,
    **axes: Any,
) -> Ran:
    """Run one cell in this process, on the CPU if nothing else is said."""
    cell = Cell(0, "cell_000", "key", workload, backend, {"backend": backend, **axes}, {})
    task = Task(cell, list(trials), pass_, 0, measure, check or CheckSettings(), TimeoutSettings(), "artifacts")
    stages: list[tuple[int, Stage]] = []
    device = device or open_device()
    records = list(run_task(task, device, WorkerShelf(device), lambda trial, stage: stages.append((trial, stage))))
    return Ran(records, stages)


def doubling(step: Callable[[torch.Tensor], Any], **kwargs: Any) -> str:
    """Register a workload of its own whose oracle doubles x; its backend `tested` runs `step(x)`. Gives its name."""
    name = f"doubling_{next(_numbers)}"

    @gpubench.workload(name)
    def make(rows: int = 4, columns: int = 8) -> dict[str, torch.Tensor]:
        return {"x": torch.rand(rows, columns) + 1}

    @make.oracle
    def _(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @make.backend("tested", **kwargs)
    def _(x: torch.Tensor) -> Step:
        return lambda: step(x)

    return name


def _nothing() -> dict[str, Any]:
    return {}


def bare(step: Callable[[], Any], make: Callable[[], dict[str, Any]] = _nothing, **kwargs: Any) -> Workload:
    """Register a workload of its own with one backend, `tested`, and no reference."""
    name = f"bare_{next(_numbers)}"
    gpubench.workload(name)(make)
    created = get_workload(name)

    @created.backend("tested", **kwargs)
    def _() -> Step:
        return step

    return created


def prepare(step: Callable[[], Any]) -> Prepared:
    """A step that has been set up, as the worker holds it; without inputs."""
    return set_up(bare(step).name)


def set_up(workload: str, backend: str = "tested", **axes: Any) -> Prepared:
    """A workload's step with its inputs, as the worker holds it."""
    cell = Cell(0, "cell_000", "key", workload, backend, axes, {})
    subject = find_subject(cell, 0, open_device())
    return subject.set_up(subject.backend, subject.make_inputs())
