"""What a cell costs in a profiled pass beyond its own time: 50 short cells under nsys, beside the pass before it.

    python benchmarks/nsys_overhead.py OUT_DIR [--cells N]        the run stays in OUT_DIR

The target is at most 0.5 s per cell on a GPU: (wall of the pass − Σ warm-up and repetitions) / cells.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpubench.profilers.names import repetition_range
from gpubench.profilers.projection import project
from gpubench.protocol import CellEnded, Event, StageEntered, parse_event
from gpubench.records import CellRecord, Pass

TARGET_S = 0.5
SWEEP = """
name: nsys-overhead
workload: rmsnorm
axes:
  rows: [{rows}]
params: {{dim: 1024, dtype: float32, backend: torch}}
measure: {{timer: nsys, trials: 1, warmup_time_s: 0.01, min_samples: 10, max_samples: 10}}
"""


@dataclass(frozen=True)
class Heard:
    """An event of the sweep and when it was heard."""

    at: float
    """Unix time in seconds."""
    name: str
    pass_: str
    """Of a record; else empty."""


@dataclass(frozen=True)
class Costs:
    """Where a pass spent its time, in seconds."""

    start: float
    """From its beginning until its first cell: nsys, Python, torch, CUDA."""
    cells: float
    """In cells, less what their steps ran."""
    between: float
    """From the end of a cell to the beginning of the next; other workers' starts too."""
    end: float
    """From the last cell's end to the last record: under nsys its report, export and projection."""
    steps: float
    """Warm-up, samples and repetitions, which are no overhead."""

    @property
    def overhead(self) -> float:
        return self.start + self.cells + self.between + self.end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cells", type=int, default=50)
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    heard = sweep(out, arguments.cells)
    run = max((out / "results").iterdir(), key=lambda path: path.stat().st_mtime)
    workers = [read_events(path) for path in sorted(run.glob("artifacts/worker_*/events.jsonl"))]
    timing = costs(heard, workers, Pass.TIMING, began="sweep_started", steps_s=0.0)
    profile = costs(heard, workers, Pass.PROFILE, began="pass_started", steps_s=repetitions_s(run, workers))
    told = table(timing, profile, arguments.cells)
    (out / "nsys_overhead.md").write_text(told)
    print(told, end="")


def sweep(out: Path, cells: int) -> list[Heard]:
    """Run the sweep as a user does, and note when each event is heard."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "nsys_overhead.yaml"
    file.write_text(SWEEP.format(rows=", ".join(str(1 + row) for row in range(cells))))
    heard = []
    command = [sys.executable, "-m", "gpubench", "sweep", str(file), "--json"]
    with subprocess.Popen(command, cwd=out, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it was asked for as a pipe"
        for line in process.stdout:
            event = json.loads(line)
            heard.append(Heard(time.time(), event["event"], event.get("record", {}).get("pass", "")))
    if process.returncode:
        sys.exit(f"the sweep ended with status {process.returncode}")
    return heard


def read_events(path: Path) -> list[Event]:
    return [parse_event(line) for line in path.read_bytes().splitlines()]


def costs(heard: Sequence[Heard], workers: Sequence[list[Event]], pass_: Pass, began: str, steps_s: float) -> Costs:
    """The costs of a pass; `steps_s` is what its steps ran besides the `measured_s` of its records."""
    mine = [events for events in workers if any(record.pass_ is pass_ for record in records_of(events))]
    stages = sorted((event for events in mine for event in events if isinstance(event, StageEntered)), key=at)
    measured_s = steps_s + sum(record.measured_s for events in mine for record in records_of(events))
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for stage in stages:
        first.setdefault(stage.cell_id, stage.at)
        last[stage.cell_id] = stage.at
    in_cells = sum(last[cell] - first[cell] for cell in first)
    began_at = next(event.at for event in heard if event.name == began)
    ended_at = max(event.at for event in heard if event.pass_ == pass_)
    return Costs(
        start=stages[0].at - began_at,
        cells=in_cells - measured_s,
        between=stages[-1].at - stages[0].at - in_cells,
        end=ended_at - stages[-1].at,
        steps=measured_s,
    )


def at(stage: StageEntered) -> float:
    return stage.at


def records_of(events: Sequence[Event]) -> list[CellRecord]:
    return [event.record for event in events if isinstance(event, CellEnded)]


def repetitions_s(run: Path, workers: Sequence[list[Event]]) -> float:
    """How long the host was in the profiled repetitions, by the traces themselves."""
    names = {repetition_range(record.cell_id) for events in workers for record in records_of(events)}
    total = 0
    for trace in run.glob("artifacts/worker_*/trace.sqlite"):
        instances = project(trace, may_be_empty=True).instances
        total += int(instances[instances["range"].isin(names)]["host_ns"].sum())
    return total * 1e-9


def table(timing: Costs, profile: Costs, cells: int) -> str:
    rows = [
        ("until the first cell", timing.start, profile.start),
        ("in cells, but not in steps", timing.cells, profile.cells),
        ("between cells", timing.between, profile.between),
        ("after the last cell", timing.end, profile.end),
        ("overhead", timing.overhead, profile.overhead),
        ("steps", timing.steps, profile.steps),
    ]
    lines = ["| s, of the whole pass | timing | under nsys |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {unprofiled:.3f} | {profiled:.3f} |" for name, unprofiled, profiled in rows]
    per_cell = profile.overhead / cells
    verdict = "met" if per_cell <= TARGET_S else "MISSED"
    lines += [
        "",
        f"{cells} cells: {timing.overhead / cells:.3f} s of overhead per cell unprofiled, {per_cell:.3f} s under nsys "
        f"(target {TARGET_S:g} s: {verdict})",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
