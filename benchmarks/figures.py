"""The plots and tables of the README and docs/, made again from the runs in results/.

    make figures        or: python benchmarks/figures.py [--docs DIR]

docs/pareto-h200.png     the page of results/h200-pareto, its upper part, by a Chromium
docs/timers.png          likewise, and the table in docs/measuring.md, from results/h200-timers
docs/comparing.md        the tables of benchmarks/compare_resampling.py

Without a Chromium the tables are made and the pictures stay as they are; the exit status says so (3).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import compare_resampling
import pandas as pd
import pictures
import timer_table

from gpubench.analysis.run import load_run
from gpubench.report import write_report

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGE_SIZE, SCALE = (1240, 1560), 1.5
_ONLY = '[["isl",[8192]],["model",["qwen3.5-35b-a3b"]]]'
PARETO_VIEW = urlencode({"logx": "1", "group": '["backend"]', "only": _ONLY})
"""One model at one length, a frontier for each mode."""
NO_BROWSER = 3
REPEATS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the files are that are made again")
    docs: Path = parser.parse_args().docs
    with tempfile.TemporaryDirectory() as scratch:
        drawn = [pareto(docs, Path(scratch)), timers(docs, Path(scratch))]
    resampling(docs)
    sys.exit(0 if all(drawn) else NO_BROWSER)


def pareto(docs: Path, scratch: Path) -> bool:
    """Whether the picture of the Pareto page was taken."""
    (page,) = write_report([load_run(RESULTS / "h200-pareto")], ["html"], scratch)
    return pictures.take(page, docs / "pareto-h200.png", PAGE_SIZE, SCALE, PARETO_VIEW) is not None


def timers(docs: Path, scratch: Path) -> bool:
    """Whether the plot of the timers was drawn; their table is made in any case."""
    source = RESULTS / "h200-timers"
    readings = pd.read_csv(source / "timers.csv").sort_values(timer_table.TRUTH, kind="stable")
    image = timer_table.draw(timer_table.plot(readings), scratch / "timers.html")
    timer_table.put(docs / "measuring.md", timer_table.describe_table(readings, source), image)
    return image is not None


def resampling(docs: Path) -> None:
    samples = compare_resampling.read_samples()
    compare_resampling.put(docs / "comparing.md", compare_resampling.tables(samples, REPEATS))


if __name__ == "__main__":
    main()
