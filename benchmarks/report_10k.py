"""How long a report of 10,000 cells takes, and how much memory: 3 trials of 30 samples each, one cell in twenty dead.

    python benchmarks/report_10k.py [--cells N] [--profiled] [--keep FOLDER]

The target is under 10 s and under 1 GB, from the records on disk to the page on disk; profiled cells, with twenty
kernels and six inner ranges each, have three times the figures and take longer.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from made_grid import BACKENDS, make_cell, make_record, write_grid

from gpubench.analysis.run import load_run
from gpubench.records import Cell, CellRecord, KernelShare, Measurement, Outcome, Pass, Timer
from gpubench.report import write_report

TRIALS, SAMPLES = 3, 30
REPETITIONS, KERNELS = 10, 20
RANGES = ["", "attention", "mlp", "head", "sampling", "embedding", "norm"]


def make_run(results: Path, count: int, *, is_profiled: bool) -> Path:
    """A run of `count` cells on disk."""
    generator = np.random.default_rng(0)
    cells = [_cell(index) for index in range(count)]

    def records() -> Iterator[CellRecord]:
        for cell in cells:
            timed = _records(cell, generator)
            yield from timed
            if is_profiled and timed[0].outcome is Outcome.OK:
                yield _profiled(cell, generator)

    return write_grid(results, "report-10k", cells, records())


def _cell(index: int) -> Cell:
    axes = {"backend": BACKENDS[index % 4], "concurrency": 1 << index // 4 % 10, "isl": 128 * (1 + index // 40)}
    return make_cell(index, axes)


def _records(cell: Cell, generator: np.random.Generator) -> list[CellRecord]:
    outcome = Outcome.CRASH if cell.index % 20 == 0 else Outcome.OK
    concurrency, isl = float(cell.axes["concurrency"] or 1), float(cell.axes["isl"] or 1)
    seconds = (30e-6 + 1e-9 * concurrency * isl) * (1 + 0.1 * (cell.index % 4))
    records = []
    for trial in range(TRIALS):
        samples = seconds * generator.lognormal(0, 0.01, SAMPLES)
        measurements = [
            Measurement("step_time", "s", Timer.CUDA_EVENT, samples.tolist()),
            Measurement("tok_s_user", "1/s", Timer.CUDA_EVENT, (1 / samples).tolist()),
            Measurement("tok_s_gpu", "1/s", Timer.CUDA_EVENT, (concurrency / 8 / samples).tolist()),
        ]
        if outcome is Outcome.OK:
            records.append(make_record(cell, outcome, trial=trial, measurements=measurements))
        else:
            records.append(
                make_record(cell, outcome, trial=trial, reason=f"SIGSEGV in trial {trial} of {cell.cell_id}")
            )
    return records


def _profiled(cell: Cell, generator: np.random.Generator) -> CellRecord:
    measurements = [
        Measurement(metric, "s", Timer.NSYS, (2e-5 * generator.lognormal(0, 0.01, REPETITIONS)).tolist(), range=name)
        for name in RANGES
        for metric in ("kernel_sum", "busy", "span", "gap")
    ]
    kernels = [
        KernelShare(
            f"void kernel_{(cell.index + n) % 60}<{'T, ' * 20}>", "kernel", 32, 2e-5 / KERNELS, 3e-8, 1 / KERNELS
        )
        for n in range(KERNELS)
    ]
    return make_record(cell, Outcome.OK, pass_=Pass.PROFILE, measurements=measurements, kernels=kernels)


def render(path: Path, out: Path) -> None:
    """From the records on disk to the page on disk, with what it took."""
    started = time.perf_counter()
    run = load_run(path)
    loaded = time.perf_counter()
    (page,) = write_report([run], ["html"], out)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"load {loaded - started:.2f} s, render {ended - loaded:.2f} s, together {ended - started:.2f} s")
    print(f"peak memory {peak / 1e9:.2f} GB, page {page.stat().st_size / 1e6:.1f} MB: {page}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--profiled", action="store_true", help="cells with a profiled pass")
    parser.add_argument("--keep", type=Path, help="make run and page here, and leave them")
    parser.add_argument("--render", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, arguments.keep)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        path = make_run(folder, arguments.cells, is_profiled=arguments.profiled)
        # A process of its own: the peak is then the report's, not that of making up its records.
        subprocess.run([sys.executable, __file__, "--render", path, "--keep", folder], check=True)


if __name__ == "__main__":
    main()
