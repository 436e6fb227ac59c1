"""Runs made up for tests, written to disk by the same code that writes real ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpubench.catalogue import AxisInfo, BackendInfo, MetricInfo, WorkloadInfo
from gpubench.records import (
    Ceilings,
    Cell,
    CellRecord,
    CheckResult,
    Hazard,
    KernelShare,
    Measurement,
    Outcome,
    Pass,
    Scalar,
    Stage,
    Timer,
    dump_line,
)
from gpubench.store import RunHeader, RunStore, create_run

GPU = "cuda:0 NVIDIA H200"


@dataclass(frozen=True)
class MadeCell:
    """A cell to be and how it ends: samples by metric, a list per trial; no outcome is a cell that never ran."""

    axes: dict[str, Scalar]
    samples: dict[str, list[list[float]]] = field(default_factory=dict)
    """By metric and trial; `metric|range` is of a range within the step, or of a bucket."""
    outcome: Outcome | None = Outcome.OK
    reason: str = ""
    profile: dict[str, list[float]] = field(default_factory=dict)
    """Of the profiled pass, by metric."""
    work: dict[str, float] = field(default_factory=dict)
    stderr: str = ""
    kernels: list[KernelShare] = field(default_factory=list)
    check: CheckResult | None = None
    details: dict[str, Any] = field(default_factory=dict)
    profile_details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    hazards: list[Hazard] = field(default_factory=list)


UNITS = {
    "tok_s_user": "1/s",
    "tok_s_gpu": "1/s",
    "bytes_per_s": "B/s",
    "flop_per_s": "FLOP/s",
    "rows_per_s": "1/s",
    "goodput": "1/s",
    "decoding": "sequences",
}


def make_run(
    results: Path,
    cells: Iterable[MadeCell],
    *,
    name: str = "mla-decode",
    sweep: dict[str, Any] | None = None,
    metrics: Sequence[MetricInfo] = (),
    ceilings: Ceilings | None = None,
) -> Path:
    """A run folder on disk with these cells; gives back its path. The ceilings are those of the GPU they all ran on."""
    made = list(cells)
    header = create_run(results, _header(name, made, sweep or {}, metrics))
    path = results / header.run_id
    with RunStore(path) as store:
        if ceilings:
            store.add_ceilings(GPU, ceilings)
        for cell, plan in zip(header.cells, made, strict=True):
            if plan.stderr:
                (store.artifacts(cell.cell_id) / "stderr.txt").write_text(plan.stderr, encoding="utf-8")
            for record in _records(cell, plan):
                store.append(record)
    return path


def make_large_run(results: Path, cells: Sequence[MadeCell]) -> Path:
    """As `make_run`, in one write: waiting for the disk after each of many thousand records would take minutes."""
    header = create_run(results, _header("large", cells, {}, ()))
    path = results / header.run_id
    with (path / "cells.jsonl").open("wb") as file:
        for cell, plan in zip(header.cells, cells, strict=True):
            file.writelines(dump_line(record) for record in _records(cell, plan))
    return path


def _header(name: str, made: Sequence[MadeCell], sweep: dict[str, Any], metrics: Sequence[MetricInfo]) -> RunHeader:
    axes = list(dict.fromkeys(axis for plan in made for axis in plan.axes))
    backends = list(dict.fromkeys(str(plan.axes.get("backend", "torch")) for plan in made)) or ["torch"]
    return RunHeader(
        run_id=f"{name}-20261121-093000",
        name=name,
        created_at="2026-11-21T09:30:00+00:00",
        sweep={"name": name, "workload": "mla_decode", **sweep},
        sweep_file=f"configs/{name}.yaml",
        cells=[_cell(index, plan) for index, plan in enumerate(made)],
        workload=WorkloadInfo(
            name="mla_decode",
            description="One decode step of multi-head latent attention.",
            axes=[AxisInfo(axis, "any", True) for axis in axes if axis != "backend"],
            backends=[BackendInfo(backend, number == 0, [], "mla.py") for number, backend in enumerate(backends)],
            metrics=list(metrics),
            origin="mla.py",
        ),
        environment={"gpu": "NVIDIA H200", "driver": "580.65", "torch": "2.11.0", "triton": "3.6.0", "host": "bench-1"},
        fingerprint={"sweep": "a1b2c3", "torch": "2.11.0"},
    )


def _cell(index: int, plan: MadeCell) -> Cell:
    axes = json.dumps(plan.axes, sort_keys=True, default=str)
    return Cell(
        index=index,
        cell_id=f"cell_{index:03d}",
        key=hashlib.sha256(axes.encode("utf-8", "surrogatepass")).hexdigest()[:12],
        workload="mla_decode",
        backend=str(plan.axes.get("backend", "torch")),
        axes=plan.axes,
        params={"tp": 8},
    )


def _records(cell: Cell, plan: MadeCell) -> list[CellRecord]:
    if plan.outcome is None:
        return []
    trials = max([len(samples) for samples in plan.samples.values()], default=1)
    records = []
    for trial in range(trials):
        measured = [
            Measurement(name, _unit(name), Timer.CUDA_EVENT, samples[trial], range=inner)
            for (name, _, inner), samples in ((metric.partition("|"), found) for metric, found in plan.samples.items())
            if trial < len(samples)
        ]
        records.append(_record(cell, plan, trial, Pass.TIMING, measured))
    if plan.profile:
        measured = [
            Measurement(name, _unit(name), Timer.NSYS, samples, range=inner)
            for (name, _, inner), samples in ((metric.partition("|"), found) for metric, found in plan.profile.items())
        ]
        records.append(_record(cell, plan, 0, Pass.PROFILE, measured))
    return records


def _unit(metric: str) -> str:
    return "B" if metric.startswith("memory_") else UNITS.get(metric, "s")


def _record(cell: Cell, plan: MadeCell, trial: int, pass_: Pass, measured: list[Measurement]) -> CellRecord:
    assert plan.outcome is not None
    return CellRecord(
        **vars(cell),
        trial=trial,
        pass_=pass_,
        attempt=1,
        outcome=plan.outcome,
        stage=Stage.DONE if plan.outcome is Outcome.OK else Stage.MEASURE,
        reason=plan.reason,
        measurements=measured,
        work=plan.work,
        kernels=plan.kernels if pass_ is Pass.PROFILE else [],
        details=plan.profile_details if pass_ is Pass.PROFILE else plan.details,
        warnings=plan.warnings,
        hazards=plan.hazards,
        checks=[plan.check] if plan.check else [],
        gpu=GPU,
        started_at="2026-11-21T09:30:00+00:00",
        duration_s=1.0,
    )
