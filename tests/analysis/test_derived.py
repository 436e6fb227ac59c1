"""What follows from what was measured: rates, the roofline, launch overhead, the profiler's tax."""

from __future__ import annotations

import math

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.derived import shortest_time
from gpubench.analysis.run import load_run
from gpubench.records import Ceilings, Outcome

WORK = {"bytes": 8e9, "flop": 4e12}
CEILINGS = Ceilings(copy_bytes_per_s=16e9, matmul_flop_per_s=1e12)
PROFILE = {"busy": [1.0, 1.1, 0.9, 1.0, 1.0, 1.0], "span": [1.5] * 6, "profiled_step": [3.0] * 6}


def figures(tmp_path, *cells, **options):
    frame = load_run(make_run(tmp_path, cells, **options)).frame()
    return frame[frame["range"] == ""].set_index(["metric", "timer"])


def two_passes(**kind) -> MadeCell:
    return MadeCell({}, {"step_time": [[1.8, 1.9, 2.0, 2.0, 2.1, 2.2]] * 2}, profile=PROFILE, work=WORK, **kind)


def test_declared_work_gives_rates_over_step_time_and_under_a_profiler_over_busy(tmp_path):
    median = figures(tmp_path, two_passes())["median"]
    assert median["bytes_per_s", "cuda_event"] == 4e9
    assert median["bytes_per_s", "nsys"] == 8e9
    assert median["flop_per_s", "cuda_event"] == 2e12
    assert median["flop_per_s", "nsys"] == 4e12


def test_a_rate_that_was_measured_is_not_derived_again(tmp_path):
    cell = MadeCell({}, {"step_time": [[2.0] * 6], "bytes_per_s": [[7.0] * 6]}, work={"bytes": 8e9})
    assert figures(tmp_path, cell)["median"]["bytes_per_s", "cuda_event"] == 7.0


def test_where_graphs_were_traced_as_a_whole_there_is_no_rate_under_the_profiler(tmp_path):
    cell = MadeCell({}, {"step_time": [[2.0] * 6]}, profile={"span": [1.5] * 6}, work=WORK)
    assert ("bytes_per_s", "nsys") not in figures(tmp_path, cell).index


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        ({"bytes": 8e9}, 0.5),
        ({"flop": 0.25e12}, 0.25),
        ({"bytes": 8e9, "flop": 0.25e12}, 0.5),
        ({"bytes": 8e9, "flop": 0.75e12}, 0.75),
    ],
    ids=["bytes alone", "FLOP alone", "bound by memory", "bound by compute"],
)
def test_the_roofline_is_the_share_of_the_time_that_the_work_takes_at_best(tmp_path, work, seconds):
    assert shortest_time(work.get("bytes", 0), work.get("flop", 0), CEILINGS) == seconds
    cell = MadeCell({}, {"step_time": [[2.0] * 6]}, profile={"busy": [1.0] * 6}, work=work)
    median = figures(tmp_path, cell, ceilings=CEILINGS)["median"]
    assert median["roofline", "cuda_event"] == seconds / 2.0
    assert median["roofline", "nsys"] == seconds / 1.0


def test_without_ceilings_or_without_declared_work_there_is_no_roofline(tmp_path):
    assert "roofline" not in figures(tmp_path, two_passes()).index.get_level_values(0)
    bare = MadeCell({}, {"step_time": [[2.0] * 6]}, profile=PROFILE)
    assert "roofline" not in figures(tmp_path, bare, ceilings=CEILINGS).index.get_level_values(0)


def test_launch_overhead_is_step_time_less_busy_with_the_noise_of_both(tmp_path):
    row = figures(tmp_path, two_passes()).loc[("launch_overhead", "cuda_event, nsys")]
    assert row["median"] == pytest.approx(1.0)
    assert row["low"] == pytest.approx(1.0 - math.hypot(0.1, 0.1))
    assert row["high"] == pytest.approx(1.0 + math.hypot(0.1, 0.1))
    assert (row["unit"], row["pass"], row["num_samples"], row["trials"]) == ("s", "timing, profile", 6, 1)
    assert math.isnan(row["p90"])


def test_a_launch_overhead_below_nothing_is_shown_as_it_is(tmp_path):
    cell = MadeCell({}, {"step_time": [[1.0] * 6]}, profile={"busy": [1.25] * 6})
    assert figures(tmp_path, cell)["median"]["launch_overhead"].tolist() == [-0.25]


@pytest.mark.parametrize(
    ("launch", "has_both"),
    [
        ("idle: the step is called when the GPU has nothing to do", True),
        ("idle, for it can't be blocked: the step waits", True),
        ("blocked: queued behind a kernel", False),
        ("graph: a sample is one replay of 9 steps; blocked: queued", False),
    ],
)
def test_a_step_timed_without_its_launches_has_no_launch_overhead_and_no_tax(tmp_path, launch, has_both):
    metrics = figures(tmp_path, two_passes(details={"launch": launch})).index.get_level_values(0)
    assert ("launch_overhead" in metrics, "tax" in metrics) == (has_both, has_both)


def test_the_tax_is_how_much_longer_a_step_takes_under_the_profiler(tmp_path):
    row = figures(tmp_path, two_passes()).loc[("tax", "cuda_event, nsys")]
    assert row["median"] == pytest.approx(1.5)
    assert row["low"] < 1.5 < row["high"]
    assert row["unit"] == "×"


def test_the_warnings_of_either_pass_are_those_of_what_takes_both(tmp_path):
    noisy = MadeCell({}, {"step_time": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]}, profile={"busy": [0.5] * 3})
    row = figures(tmp_path, noisy).loc["launch_overhead"].iloc[0]
    assert row["warnings"] == "noisy, too few samples"


def test_every_cell_has_a_row_of_what_any_cell_has_from_both_passes(tmp_path):
    timed = MadeCell({"n": 2}, {"step_time": [[2.0] * 6]})
    dead = MadeCell({"n": 3}, outcome=Outcome.CRASH)
    frame = load_run(make_run(tmp_path, [dead, two_passes(), timed])).frame()
    rows = frame[frame["metric"] == "launch_overhead"]
    assert rows["cell_id"].tolist() == ["cell_000", "cell_001", "cell_002"]
    assert rows["median"].isna().tolist() == [True, False, True]
    assert rows["num_samples"].tolist() == [0, 6, 0]
    assert frame["cell_id"].is_monotonic_increasing


def test_an_overhead_that_a_workload_measures_itself_is_left_alone(tmp_path):
    cell = MadeCell({}, {"step_time": [[2.0] * 6], "launch_overhead": [[0.5] * 6]}, profile=PROFILE)
    assert figures(tmp_path, cell)["median"]["launch_overhead"].tolist() == [0.5]


def test_the_time_under_the_profiler_is_there_for_its_tax_and_no_figure_of_a_report(tmp_path):
    run = load_run(make_run(tmp_path, [two_passes()]))
    assert run.wide()["profiled_step"].tolist() == [3.0]
    assert [key for key, metric in run.metrics().items() if not metric.is_reported] == ["profiled_step"]


def test_timers_are_named_one_by_one(tmp_path):
    assert load_run(make_run(tmp_path, [two_passes()])).timers() == ["cuda_event", "nsys"]
