"""What each timer reads for the same steps: events, nsys, CUPTI, and other projects' timers, from 2 µs to 10 ms.

    python benchmarks/timers.py OUT_DIR        on a machine with an NVIDIA GPU, nsys and cupti-python; about 3 minutes

Runs sweeps/timers.yaml three times (its runs stay in OUT_DIR), times the same steps with triton.testing and
torch.profiler in this process, and writes OUT_DIR/timers.csv: a line per cell, a column per timer, medians in seconds.
benchmarks/timer_table.py makes a table and a plot of it.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from gpubench.analysis.merge import merge_cells
from gpubench.records import Cell, Outcome, Pass
from gpubench.store import list_runs, read_run

if TYPE_CHECKING:
    from gpubench.worker.device import Device
    from gpubench.worker.subject import Prepared

ROOT = Path(__file__).parents[1]
SWEEP = ROOT / "sweeps" / "timers.yaml"
REPETITIONS = 20
SOME_FAILED = 3
SEED = 0

Readings = dict[str, dict[str, float]]
"""Cell id → timer → median in seconds."""


@dataclass(frozen=True)
class OurRun:
    """A run of the sweep, and which of its figures goes by which name in the table."""

    name: str
    flags: tuple[str, ...]
    figures: dict[str, tuple[Pass, str]]


OUR_RUNS = (
    OurRun(
        "nsys",
        ("--timer=nsys", "--set=measure.launch=idle"),
        {"nsys": (Pass.PROFILE, "kernel_sum"), "events_idle": (Pass.TIMING, "step_time")},
    ),
    OurRun(
        "cupti",
        ("--timer=cupti", "--set=measure.launch=blocked"),
        {"cupti": (Pass.PROFILE, "kernel_sum"), "events_blocked": (Pass.TIMING, "step_time")},
    ),
    OurRun(
        "graph",
        ("--timer=cuda_event", "--set=measure.launch=graph", "--set=measure.l2=hot"),
        {"events_graph_hot": (Pass.TIMING, "step_time")},
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    readings: Readings = defaultdict(dict)
    cells: list[Cell] = []
    for ours in OUR_RUNS:
        sweep(ours, out)
        cells = add_figures(ours, out, readings)
    add_peers(cells, readings)
    write(out / "timers.csv", cells, readings)
    print(out / "timers.csv")


def sweep(ours: OurRun, out: Path) -> None:
    command = [sys.executable, "-m", "gpubench", "sweep", str(SWEEP), *ours.flags, f"--out={out / ours.name}"]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status not in (0, SOME_FAILED):
        sys.exit(f"the sweep for {ours.name} ended with status {status}")


def add_figures(ours: OurRun, out: Path, readings: Readings) -> list[Cell]:
    """Put the newest run's medians into the readings; gives its cells."""
    results = merge_cells(read_run(list_runs(out / ours.name)[-1]))
    for result in results:
        if result.outcome is not Outcome.OK:
            print(f"{ours.name}: {result.cell.cell_id}: {result.outcome}: {result.reason}", file=sys.stderr)
            continue
        for name, (pass_, metric) in ours.figures.items():
            samples = [
                sample
                for record in result.of(pass_)
                for measurement in record.measurements
                if measurement.metric == metric and not measurement.range
                for sample in measurement.samples
            ]
            if samples:
                readings[result.cell.cell_id][name] = median(samples)
    return [result.cell for result in results]


def add_peers(cells: list[Cell], readings: Readings) -> None:
    """Time each cell's step by other projects' means, those by events first: a profiler leaves traces in a process."""
    import torch

    from gpubench.worker.device import open_device
    from gpubench.workloads import load_builtin

    load_builtin()
    device = open_device(needs_cuda=True)
    for peers in (triton_testing, torch_profiler):
        for cell in cells:
            found = peers(prepare(cell, device), device)
            torch.cuda.empty_cache()
            readings[cell.cell_id].update(found)
            print(cell.cell_id, *(f"{name} {seconds * 1e6:.2f} µs" for name, seconds in found.items()))


def prepare(cell: Cell, device: Device) -> Prepared:
    """A cell's step, warm."""
    from gpubench.worker.subject import find_subject

    subject = find_subject(cell, SEED, device)
    prepared = subject.set_up(subject.backend, subject.make_inputs())
    for _ in range(3):
        prepared.run()
    return prepared


def triton_testing(prepared: Prepared, device: Device) -> dict[str, float]:
    """Triton's two: events around each step behind the flush of a cache, and a graph of many steps, with a hot L2."""
    from triton.testing import do_bench, do_bench_cudagraph

    return {
        "do_bench": do_bench(prepared.step, return_mode="median") * 1e-3,
        "do_bench_cudagraph_hot": do_bench_cudagraph(prepared.step, return_mode="median") * 1e-3,
    }


def torch_profiler(prepared: Prepared, device: Device) -> dict[str, float]:
    """The kernels of each step, as torch.profiler has them, with a cold L2."""
    from gpubench.worker.cache_flush import L2Flush

    flush = L2Flush(device, "cold")

    def flushed_step() -> None:
        flush()
        device.synchronize()
        prepared.step()

    flushing = {name for name, _ in kernels_of(flush, device)}
    durations = [seconds for name, seconds in kernels_of(flushed_step, device) if name not in flushing]
    per_step, rest = divmod(len(durations), REPETITIONS)
    if rest or not per_step:
        print(f"torch.profiler saw {len(durations)} kernels in {REPETITIONS} steps", file=sys.stderr)
        return {}
    steps = [sum(durations[first : first + per_step]) for first in range(0, len(durations), per_step)]
    return {"torch_profiler": median(steps)}


def kernels_of(function: Callable[[], object], device: Device) -> list[tuple[str, float]]:
    """Name and seconds of every kernel of so many calls, in the order in which they ran."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(REPETITIONS):
            function()
            device.synchronize()
    events = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    events.sort(key=lambda event: event.time_range.start)
    return [(event.name, event.time_range.elapsed_us() * 1e-6) for event in events]


def write(path: Path, cells: list[Cell], readings: Readings) -> None:
    timers = list(dict.fromkeys(name for found in readings.values() for name in found))
    axes = list(cells[0].axes)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["cell_id", *axes, *timers])
        writer.writeheader()
        for cell in cells:
            writer.writerow({"cell_id": cell.cell_id, **cell.axes, **readings[cell.cell_id]})


if __name__ == "__main__":
    main()
