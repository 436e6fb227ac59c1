"""How long the triage of 10,000 cells takes: 1,000 of them failed, in many ways, by rules and by chance.

    python benchmarks/triage_10k.py [--cells N]

The target is under 5 s, from the records on disk to the table as JSON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from made_grid import BACKENDS, make_cell, make_record, write_grid

from gpubench.analysis.run import load_run
from gpubench.records import Cell, CellRecord, Crash, FaultingKernel, Frame, Measurement, Outcome, Timer
from gpubench.report.triage import triage_json
from gpubench.triage import triage_run

TARGET_S = 5.0
FAILED_SHARE = 0.1
NUM_PLACES = 60
"""Functions in which cells fail by chance; each is a signature without an exact rule."""


def make_run(results: Path, count: int) -> Path:
    """A run of `count` cells on disk; a tenth of them failed."""
    generator = np.random.default_rng(0)
    cells = [_cell(index) for index in range(count)]
    by_rule = [cell for cell in cells if cell.backend == "triton" and int(cell.axes["concurrency"] or 0) >= 256]
    dead = {cell.index: Crash() for cell in by_rule[: int(count * FAILED_SHARE / 2)]}
    for index in generator.permutation(count).tolist():
        if len(dead) >= count * FAILED_SHARE:
            break
        dead.setdefault(index, _chance(index))
    dead = {index: _planted(index) if crash == Crash() else crash for index, crash in dead.items()}
    return write_grid(results, "triage-10k", cells, (_record(cell, dead.get(cell.index)) for cell in cells))


def _cell(index: int) -> Cell:
    axes = {
        "backend": BACKENDS[index % 4],
        "concurrency": 1 << index // 4 % 10,
        "gvr": bool(index // 40 % 2),
        "parallel": ["TEP", "DEP"][index // 80 % 2],
        "isl": 128 * (1 + index // 160),
    }
    return make_cell(index, axes)


def _planted(index: int) -> Crash:
    """One kernel that the GPU caught: its cells have a rule."""
    kernel = FaultingKernel("void radix_topk<8>(int*)", "topk.py", 31, exception="Warp Illegal Address")
    stack = f"Fatal Python error: Aborted\n\nThread 0x{index:016x} (most recent call first):\n"
    stack += '  File "/u/engine.py", line 3 in go\n'
    return Crash(signal="SIGABRT", stderr_tail=stack * 8, faulting=kernel)


def _chance(index: int) -> Crash:
    function = f"stage_{index * 7919 % NUM_PLACES}"
    message = f"CUDA error: an illegal memory access was encountered at 0x{index:x}"
    return Crash("torch.AcceleratorError", message, [Frame("/u/engine.py", index % 500, function)])


def _record(cell: Cell, crash: Crash | None) -> CellRecord:
    if crash:
        return make_record(cell, Outcome.CRASH, crash=crash)
    return make_record(cell, Outcome.OK, measurements=[Measurement("step_time", "s", Timer.CUDA_EVENT, [1e-5] * 30)])


def time_triage(path: Path) -> float:
    """Load and triage a run; prints what it took and what was found."""
    started = time.perf_counter()
    run = load_run(path)
    outcomes = Counter(result.outcome for result in run.cells)
    loaded = time.perf_counter()
    found = triage_run(run)
    told_apart = time.perf_counter()
    triage_json(found)
    ended = time.perf_counter()
    exact = sum(row.rule.is_exact for row in found.rows)
    print(
        f"{outcomes[Outcome.CRASH]:,} of {len(run.cells):,} cells failed: "
        f"{len(found.rows)} signatures, {exact} of them with an exact rule"
    )
    print(f"load {loaded - started:.2f} s, triage {told_apart - loaded:.2f} s, write {ended - told_apart:.2f} s")
    return ended - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--triage", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.triage:
        took = time_triage(arguments.triage)
        print(f"together {took:.2f} s; the target is {TARGET_S:g} s: {'met' if took < TARGET_S else 'missed'}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = make_run(Path(folder), arguments.cells)
        # A process of its own, as for a user: nothing is in its caches.
        subprocess.run([sys.executable, __file__, "--triage", path], check=True)


if __name__ == "__main__":
    main()
