"""What GPU core dumps cost a sweep in which nothing goes wrong: the same cells with them and without, in turns.

    python benchmarks/dump_overhead.py [--rounds N]

A run with dumps is compared with the one without that follows it, and, to know how far apart two runs are anyway, each
with the next of its own kind. Needs a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from gpubench.store import read_run

SWEEP = """
name: dump-overhead
workload: rmsnorm
axes: {backend: [torch, triton], rows: [1, 256, 4096, 65536]}
params: {dim: 4096}
measure: {trials: 1, max_time_s: 0.3, min_samples: 50, max_samples: 400}
"""


@dataclass(frozen=True)
class Ran:
    """One sweep."""

    with_dumps: bool
    wall_s: float
    step_s: dict[str, float]
    """The median step time by cell."""


def run(folder: Path, with_dumps: bool) -> Ran:
    file = folder / "sweep.yaml"
    file.write_text(SWEEP)
    out = folder / f"{time.time_ns()}"
    setting = f"triage.coredump={str(with_dumps).lower()}"
    command = [sys.executable, "-m", "gpubench", "sweep", str(file), "--no-profile", "--quiet", "--set", setting]
    began = time.perf_counter()
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    wall_s = time.perf_counter() - began
    samples: dict[str, list[float]] = {}
    for record in read_run(next(path.parent for path in out.glob("*/run.json"))).records:
        for measurement in record.measurements:
            if measurement.metric == "step_time":
                samples.setdefault(record.cell_id, []).extend(measurement.samples)
    return Ran(with_dumps, wall_s, {cell: median(values) for cell, values in samples.items()})


def differences(one: Ran, other: Ran) -> list[float]:
    """By how much `one` is slower, cell by cell, as a share."""
    return [one.step_s[cell] / other.step_s[cell] - 1 for cell in one.step_s]


def show(runs: list[Ran]) -> None:
    pairs = {
        "with dumps, against without": [
            differences(*sorted(pair, key=lambda ran: not ran.with_dumps)) for pair in pairwise(runs)
        ],
        "without, against without": [differences(*pair) for pair in pairwise(r for r in runs if not r.with_dumps)],
        "with, against with": [differences(*pair) for pair in pairwise(r for r in runs if r.with_dumps)],
    }
    print(f"step time, {len(runs[0].step_s)} cells of {len(runs)} sweeps")
    for name, found in pairs.items():
        shares = [share for pair in found for share in pair]
        print(f"  {name:<30} median {median(shares):+.2%}, from {min(shares):+.2%} to {max(shares):+.2%}")
    for with_dumps, name in ((True, "with dumps"), (False, "without")):
        print(f"wall {name:<12} {median(ran.wall_s for ran in runs if ran.with_dumps is with_dumps):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        turns = [with_dumps for _ in range(arguments.rounds) for with_dumps in (True, False)]
        run(Path(folder), with_dumps=False)  # Triton compiles, the page cache fills
        show([run(Path(folder), with_dumps) for with_dumps in turns])


if __name__ == "__main__":
    main()
