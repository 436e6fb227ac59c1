"""Failed records made up for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from gpubench.catalogue import AxisInfo, BackendInfo, WorkloadInfo
from gpubench.records import Cell, CellRecord, Crash, FaultingKernel, Frame, Outcome, Pass, Scalar, Stage, dump_line
from gpubench.store import RunHeader, create_run
from gpubench.sweep.identity import CellNamer
from gpubench.triage import VERDICTS

HOSTILE = "</script><img src=x onerror=alert(1)>|`$(reboot)`\x1b[31m\u202e\n[link](http://x) *b*"
GPU = "cuda:0 NVIDIA H200"


def failed(
    crash: Crash | None, outcome: Outcome = Outcome.CRASH, stage: Stage = Stage.MEASURE, **found: object
) -> CellRecord:
    """The record of a cell that ended so; `found` are its other fields."""
    fields = {
        "cell_id": "cell_000",
        "index": 0,
        "key": "k",
        "workload": "topk",
        "backend": "triton",
        "axes": {},
        "params": {},
        "trial": 0,
        "pass_": Pass.TIMING,
        "attempt": 0,
        "gpu": GPU,
        **found,
    }
    return CellRecord(outcome=outcome, stage=stage, crash=crash, **fields)


def write_run(results: Path, name: str, cells: Sequence[Cell], records: Sequence[CellRecord]) -> Path:
    """A run on disk of these cells, in one write."""
    header = RunHeader(
        run_id=name,
        name=name,
        created_at="2026-11-21T09:30:00+00:00",
        sweep={"name": name, "workload": "topk"},
        sweep_file=f"{name}.yaml",
        cells=list(cells),
        workload=WorkloadInfo(
            "topk",
            "",
            [AxisInfo(axis, "any", True) for axis in cells[0].axes],
            [BackendInfo("triton", True, [], "")],
            [],
            "",
        ),
        environment={"gpus": [{"name": "NVIDIA H200"}]},
        fingerprint={},
    )
    path = results / create_run(results, header).run_id
    (path / "cells.jsonl").write_bytes(b"".join(map(dump_line, records)))
    return path


def grid_cells(**axes: Sequence[Scalar]) -> list[Cell]:
    """The product of these axes, called as a sweep calls its cells."""
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    namer = CellNamer(axes, len(points))
    return [
        Cell(number, namer.name(number, point), f"key{number}", "topk", str(point.get("backend", "triton")), point, {})
        for number, point in enumerate(points)
    ]


def ended(cell: Cell, outcome: Outcome | None, crash: Crash | None = None, **found: object) -> list[CellRecord]:
    """The one record of a cell, or none if it was not run."""
    if outcome is None:
        return []
    stage = Stage.DONE if outcome is Outcome.OK else Stage.MEASURE
    return [failed(crash, outcome, stage, **{**vars(cell), "started_at": "2026-11-21T09:30:00.000+00:00", **found})]


STORY_DEAD = ("cell_013_C008_TEP_GVRF", "cell_017_C016_TEP_GVRF", "cell_021_C032_TEP_GVRF")


def story(results: Path, name: str = "topk-story", crash: Crash | None = None) -> Path:
    """The case that gpubench was begun for: of 24 cells three died, with one stack in an innocent GEMM."""
    cells = grid_cells(concurrency=[1, 2, 4, 8, 16, 32], parallel=["TEP", "DEP"], gvr=[True, False])
    evidence = crash or Crash(
        exception="torch.AcceleratorError",
        message="CUDA error: an illegal memory access was encountered",
        frames=[
            Frame("/home/user/engine/fp8_gemm.py", 88, "pack_tensor_map"),
            Frame("/home/user/engine/moe.py", 40, "run"),
        ],
    )
    records = []
    for cell in cells:
        is_dead = cell.cell_id in STORY_DEAD
        records += ended(cell, Outcome.CRASH if is_dead else Outcome.OK, evidence if is_dead else None)
    return write_run(results, name, cells, records)


def say(path: Path, *lines: dict[str, object] | bytes) -> None:
    """Answers of reruns, as they are appended to a run; bytes are lines as they are."""
    text = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    (path / VERDICTS).write_bytes(text + b"\n")


def hostile_run(results: Path) -> Path:
    """A run in which everything that a user can name or print is meant to break out of its place."""
    cells = grid_cells(word=[HOSTILE, "calm"])
    frames = [Frame(HOSTILE, 1, HOSTILE)]
    kernel = FaultingKernel(HOSTILE, HOSTILE, 1, exception=HOSTILE)
    crash = Crash(HOSTILE, HOSTILE, frames, stderr_tail=HOSTILE, faulting=kernel, open_range=HOSTILE, xid=[HOSTILE])
    records = [*ended(cells[0], Outcome.CRASH, crash, reason=HOSTILE), *ended(cells[1], Outcome.OK)]
    path = write_run(results, "hostile", cells, records)
    say(path, {"cell_id": cells[0].cell_id, "rung": HOSTILE, "verdict": HOSTILE, "detail": HOSTILE})
    return path
