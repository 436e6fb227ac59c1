"""Where a profiled step's time went, by kernel and by range."""

from __future__ import annotations

import math

from made_runs import MadeCell, make_run

from gpubench.analysis import columns
from gpubench.analysis.run import load_run
from gpubench.records import KernelShare, Outcome

TIMES = {"step_time": [[2.0] * 6]}
KERNELS = [
    KernelShare("gemm", "kernel", 2, 3e-6, 1.5e-6, 0.75),
    KernelShare("[CUDA memset]", "memset", 1, 1e-6, 1e-6, 0.25),
]


def run_of(tmp_path, *cells):
    return load_run(make_run(tmp_path, cells))


def test_kernels_are_a_row_each_of_the_cells_that_are_ok(tmp_path):
    good = MadeCell({"n": 1}, TIMES, profile={"busy": [1.0] * 6}, kernels=KERNELS)
    dead = MadeCell({"n": 2}, profile={"busy": [1.0] * 6}, kernels=KERNELS, outcome=Outcome.CRASH)
    run = run_of(tmp_path, good, dead, MadeCell({"n": 3}, TIMES))
    frame = run.kernels()
    assert tuple(frame.columns) == columns.KERNEL
    assert frame["cell_id"].tolist() == ["cell_000", "cell_000"]
    assert frame["kernel"].tolist() == ["gemm", "[CUDA memset]"]
    assert frame.loc[0, ["count", "total_s", "median_s", "share"]].tolist() == [2, 3e-6, 1.5e-6, 0.75]


def test_inner_ranges_are_a_row_each_with_their_share_of_the_steps_busy_time(tmp_path):
    profile = {"busy": [2.0] * 3, "busy|mlp": [1.0, 1.5, 2.0], "span|mlp": [3.0] * 3, "busy|layer": [1.8] * 3}
    cell = MadeCell({}, TIMES, profile=profile, profile_details={"nested_ranges": ["mlp"]})
    frame = run_of(tmp_path, cell).ranges()
    assert tuple(frame.columns) == columns.INNER
    assert frame["range"].tolist() == ["mlp", "layer"]
    assert frame["nested"].tolist() == [True, False]
    assert frame["busy"].tolist() == [1.5, 1.8]
    assert frame["span"].tolist()[0] == 3.0
    assert math.isnan(frame["span"].tolist()[1])
    assert frame["share"].tolist() == [0.75, 0.9]


def test_ranges_of_another_program_have_no_share_for_its_step_has_no_busy_time(tmp_path):
    frame = run_of(tmp_path, MadeCell({}, TIMES, profile={"busy|gemm": [1.0] * 3})).ranges()
    assert frame["busy"].tolist() == [1.0]
    assert frame["share"].isna().all()


def test_without_a_profiled_pass_both_frames_are_empty_with_all_columns(tmp_path):
    run = run_of(tmp_path, MadeCell({}, TIMES), MadeCell({"n": 1}, outcome=Outcome.OOM))
    assert run.kernels().empty
    assert run.ranges().empty
    assert tuple(run.ranges().columns) == columns.INNER
    assert run.profilers() == []
