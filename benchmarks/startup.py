"""How soon gpubench answers when it has nothing to measure: best of N, in wall-clock seconds.

    python benchmarks/startup.py [--runs N]

Targets: help within 0.3 s, the plan of a known sweep within 0.5 s. "Known" is a sweep whose catalogue of workloads
has been asked for before: the first time costs an import of torch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Case:
    """A command line, and how long it may take."""

    arguments: list[str]
    target_s: float | None = None


CASES = {
    "python, nothing imported": Case(["-c", "pass"]),
    "--help": Case(["-m", "gpubench", "--help"], 0.3),
    "sweep --help": Case(["-m", "gpubench", "sweep", "--help"], 0.3),
    "list": Case(["-m", "gpubench", "list"]),
    "sweep --dry-run": Case(["-m", "gpubench", "sweep", str(ROOT / "configs" / "pareto.yaml"), "--dry-run"], 0.5),
}


def best_s(arguments: list[str], runs: int) -> float:
    """The shortest of several runs: what else the machine does can only make one longer."""
    return min(_time(arguments) for _ in range(runs))


def _time(arguments: list[str], **variables: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **variables}
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - started


def first_time_s() -> float:
    """A plan with an empty cache: the catalogue's own process imports torch and every workload."""
    with tempfile.TemporaryDirectory() as cache:
        return _time(CASES["sweep --dry-run"].arguments, XDG_CACHE_HOME=cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    _time(CASES["sweep --dry-run"].arguments)  # fills the cache
    for name, case in CASES.items():
        seconds = best_s(case.arguments, runs)
        target = f"target {case.target_s:.2f} s" if case.target_s else ""
        missed = "  MISSED" if case.target_s and seconds > case.target_s else ""
        print(f"{name:<28} {seconds:6.3f} s  {target}{missed}")
    print(f"{'sweep --dry-run, first time':<28} {first_time_s():6.3f} s")


if __name__ == "__main__":
    main()
