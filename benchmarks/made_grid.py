"""A run of many made-up cells on disk, for the benchmarks of what reads runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpubench.catalogue import AxisInfo, BackendInfo, WorkloadInfo
from gpubench.records import Cell, CellRecord, Outcome, Pass, Scalar, Stage, dump_line
from gpubench.store import RunHeader, create_run

__all__ = ["BACKENDS", "make_cell", "make_record", "write_grid"]

BACKENDS = ["torch", "triton", "flashinfer", "mine"]
_AT = "2026-11-21T09:30:00+00:00"


def make_cell(index: int, axes: dict[str, Scalar]) -> Cell:
    """A cell at these axes, its backend among them."""
    key = hashlib.sha256(repr(axes).encode()).hexdigest()[:16]
    return Cell(index, f"cell_{index:05d}", key, "mla_decode", str(axes["backend"]), axes, {"tp": 8})


def make_record(cell: Cell, outcome: Outcome, **found: Any) -> CellRecord:
    """The record of a trial that ended so; `found` are its other fields."""
    fields: dict[str, Any] = {
        "trial": 0,
        "pass_": Pass.TIMING,
        "attempt": 1,
        "stage": Stage.DONE if outcome is Outcome.OK else Stage.MEASURE,
        "gpu": "cuda:0 NVIDIA H200",
        "started_at": _AT,
    }
    return CellRecord(**vars(cell), outcome=outcome, **{**fields, **found})


def write_grid(results: Path, name: str, cells: Sequence[Cell], records: Iterable[CellRecord]) -> Path:
    """A run of these cells in one write: waiting for the disk after each of many thousand records takes minutes."""
    header = create_run(results, _header(name, cells))
    path = results / header.run_id
    with (path / "cells.jsonl").open("wb") as file:
        file.writelines(map(dump_line, records))
    return path


def _header(name: str, cells: Sequence[Cell]) -> RunHeader:
    return RunHeader(
        run_id=name,
        name=name,
        created_at=_AT,
        sweep={"name": name},
        sweep_file=f"{name}.yaml",
        cells=list(cells),
        workload=WorkloadInfo(
            name="mla_decode",
            description="",
            axes=[AxisInfo(axis, "any", True) for axis in cells[0].axes],
            backends=[BackendInfo(backend, number == 0, [], "") for number, backend in enumerate(BACKENDS)],
            metrics=[],
            origin="",
        ),
        environment={},
        fingerprint={},
    )
