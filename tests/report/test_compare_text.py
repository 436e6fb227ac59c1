"""A comparison in words: each cell counted once, each figure with its timer, no note cut short."""

from __future__ import annotations

from made_runs import MadeCell, make_run

from gpubench.analysis.compare import RunComparison, compare_runs
from gpubench.analysis.run import load_run
from gpubench.report.compare_html import compare_html
from gpubench.report.compare_markdown import compare_markdown
from gpubench.report.compare_text import show_comparison


def steady(seconds: float) -> list[float]:
    return [seconds * (1 + 0.001 * n) for n in range(10)]


def cell(batch: int, step: float, kernels: float) -> MadeCell:
    return MadeCell({"batch": batch}, {"step_time": [steady(step)]}, profile={"kernel_sum": steady(kernels)})


def compared(tmp_path, before: list[MadeCell], after: list[MadeCell], gpu: str = "NVIDIA H200") -> RunComparison:
    paths = [make_run(tmp_path, cells, name=name) for name, cells in (("before", before), ("after", after))]
    records = paths[1] / "cells.jsonl"
    records.write_text(records.read_text().replace("NVIDIA H200", gpu))
    return compare_runs(*map(load_run, paths), force=True)


def test_a_cell_that_is_slower_in_one_metric_and_faster_in_another_counts_once(tmp_path):
    before = [cell(batch, 1e-3, 1e-4) for batch in (1, 2, 4)]
    after = [cell(1, 2e-3, 5e-5), cell(2, 5e-4, 5e-5), cell(4, 2e-3, 1e-4)]
    shown = show_comparison(compared(tmp_path, before, after))
    assert shown.headline == "Of 3 cells: 2 slower (1 of them faster in another metric), 1 faster."
    assert shown.tallies[0].startswith("step time, by cuda_event: 2 slower (worst 2×), 1 faster (best 0.5×);")
    assert shown.tallies[1].startswith("kernel sum, by nsys: 2 faster (best 0.5×), 1 same;")


def test_both_gpus_and_both_days_are_told_and_no_note_is_cut(tmp_path):
    cells = [cell(1, 1e-3, 1e-4)]
    found = compared(tmp_path, cells, cells, gpu="NVIDIA B200")
    for text in (compare_markdown(found), compare_html(found)):
        assert "NVIDIA H200 → NVIDIA B200" in text
        assert "2026-11-21 → 2026-11-21" in text
        assert "measure.trials: 3 shows it." in text.replace("\\", "")
