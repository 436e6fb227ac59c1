"""What a sweep costs beyond measuring: 200 cells of matmul on the CPU, and where the time goes.

    python benchmarks/overhead.py [--cells N] [--isolation cell]

The target is under 50 ms per cell: (wall of the whole command - what the steps themselves ran) / cells.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

TARGET_MS = 50.0
SWEEP = """
name: overhead
workload: matmul
axes:
  m: [{sizes}]
params: {{n: 64, k: 64, dtype: float32, backend: torch}}
measure: {{trials: 1, warmup_time_s: 0, min_samples: 10, max_samples: 10, l2: hot}}
isolation: {isolation}
"""


@dataclass
class Heard:
    """The events of one sweep, each with the time at which it was heard, in seconds since the command began."""

    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    wall_s: float = 0.0

    def first(self, name: str) -> float:
        return next(at for at, event in self.events if event["event"] == name)

    def last(self, name: str) -> float:
        return next(at for at, event in reversed(self.events) if event["event"] == name)

    def records(self) -> list[dict[str, Any]]:
        return [event["record"] for _, event in self.events if event["event"] == "cell_recorded"]


def sweep(folder: Path, cells: int, isolation: str) -> Heard:
    """Run the sweep as a user does, listening."""
    file = folder / "overhead.yaml"
    file.write_text(SWEEP.format(sizes=", ".join(str(8 + size) for size in range(cells)), isolation=isolation))
    command = [sys.executable, "-m", "gpubench", "sweep", str(file), "--gpus", "none", "--json"]
    heard = Heard()
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            heard.events.append((time.perf_counter() - started, json.loads(line)))
    heard.wall_s = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"the sweep ended with status {process.returncode}")
    return heard


def stage_means_ms(run: Path) -> dict[str, float]:
    """How long a cell stays in each stage, on average, by the workers' own clocks."""
    spent: dict[str, list[float]] = defaultdict(list)
    for file in run.glob("artifacts/worker_*/events.jsonl"):
        events = [json.loads(line) for line in file.read_bytes().splitlines()]
        stages = [event for event in events if event["kind"] == "stage"]
        for stage, following in pairwise(stages):
            name = stage["stage"] if stage["cell_id"] == following["cell_id"] else f"{stage['stage']} → next cell"
            spent[name].append(following["at"] - stage["at"])
    return {name: 1e3 * sum(times) / len(times) for name, times in spent.items()}


def show(heard: Heard, run: Path) -> None:
    records = heard.records()
    cells = len(records)
    measured_s = sum(record["measured_s"] for record in records)
    in_cells_s = sum(record["duration_s"] for record in records)
    between_s = heard.last("cell_recorded") - heard.first("cell_started")
    parts = {
        "command until the sweep starts": heard.first("sweep_started"),
        "first worker until its first cell": heard.first("cell_started") - heard.first("sweep_started"),
        "cells: set-up, check, statistics": in_cells_s - measured_s,
        "between cells: tasks, records, fsync": between_s - in_cells_s,
        "after the last cell: report and goodbye": heard.wall_s - heard.last("cell_recorded"),
    }
    for name, seconds in parts.items():
        print(f"{name:<42} {seconds:7.3f} s  {1e3 * seconds / cells:7.2f} ms per cell")
    print("\nin the worker, per cell:")
    for name, milliseconds in stage_means_ms(run).items():
        print(f"  {name:<40} {milliseconds:28.2f} ms")
    per_cell = 1e3 * (heard.wall_s - measured_s) / cells
    healthy = 1e3 * (between_s - measured_s) / cells
    print(f"\n{cells} cells in {heard.wall_s:.2f} s, of which {measured_s:.2f} s were measured")
    print(f"overhead {per_cell:.1f} ms per cell, {healthy:.1f} ms without start and report", end="  ")
    print(f"(target {TARGET_MS:.0f} ms{'' if per_cell < TARGET_MS else ', MISSED'})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--isolation", choices=["worker", "cell"], default="worker")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        heard = sweep(folder, arguments.cells, arguments.isolation)
        show(heard, next(folder.glob("results/*")))


if __name__ == "__main__":
    main()
