"""Every cell is in the frames, and figures are those of its records."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis import columns
from gpubench.analysis.frames import axes_of, field, series_of
from gpubench.analysis.run import Run, load_run
from gpubench.records import Outcome

TIMES = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def run_of(tmp_path, *cells):
    return load_run(make_run(tmp_path, cells))


def test_a_figure_is_over_the_samples_of_all_trials(tmp_path):
    frame = run_of(tmp_path, MadeCell({"batch": 1}, {"step_time": TIMES})).frame()
    row = frame[frame["metric"] == "step_time"].iloc[0]
    assert (row["num_samples"], row["trials"], row["median"], row["min"], row["max"]) == (6, 2, 3.5, 1.0, 6.0)
    assert (row["timer"], row["pass"], row["unit"], row["batch"]) == ("cuda_event", "timing", "s", 1)


def test_a_slow_first_sample_is_no_warning_of_a_workload_that_measures_itself(tmp_path):
    run = run_of(tmp_path, MadeCell({"batch": 1}, {"step_time": [[9.0, *[1.0] * 9]]}))
    warned = run.frame()["warnings"].tolist()
    itself = replace(run.header, workload=replace(run.header.workload, measures_itself=True))
    other = Run(replace(run.stored, header=itself)).frame()["warnings"].tolist()
    assert "first sample slow" in warned[0]
    assert "first sample slow" not in other[0]


def test_gaps_of_many_sequences_in_one_iteration_are_one_reading_to_an_interval(tmp_path):
    iterations = [1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0]
    gaps = [seconds for seconds in iterations for _ in range(64)]
    served = MadeCell({"users": 64}, {"step_time": [iterations], "itl": [gaps], "decoding": [[64.0] * 8]})
    reported = MadeCell({"users": 1}, {"step_time": [iterations], "itl": [gaps]})
    found = run_of(tmp_path, served, reported).wide()
    ends = list(zip(found["itl.low"], found["itl.high"], strict=True))
    assert ends[0] == (found["step_time.low"][0], found["step_time.high"][0]) == (1.0, 9.0)
    assert ends[1] == (4.0, 6.0), "nothing says that these are the same readings"


def test_metrics_of_older_records_may_be_named_as_parts_of_others(tmp_path):
    names = ["ttft", "ttft.p99", "ttft.timer", "ttft_p99", "gap@nsys", "reason", "reason_metric"]
    run = run_of(tmp_path, MadeCell({}, {name: [[float(value)]] for value, name in enumerate(names)}))
    wide = run.wide()
    keys = ["ttft", "ttft_p99_metric", "ttft_timer", "ttft_p99", "gap_at_nsys", "reason_metric_metric", "reason_metric"]
    assert sorted(series_of(wide)) == sorted(keys) == sorted(run.metrics())
    assert [wide[key][0] for key in keys] == list(range(len(names)))


def test_a_measurement_says_how_often_its_readings_are_among_its_samples(tmp_path):
    waits = [seconds for seconds in (1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0, 6.0) for _ in range(64)]
    run = run_of(tmp_path, MadeCell({}, {"waits": [waits]}))
    (record,) = run.stored.records
    saying = [replace(record, measurements=[replace(record.measurements[0], repeats=64.0)])]
    both = [each.frame().iloc[0] for each in (run, Run(replace(run.stored, records=saying)))]
    assert [(row["low"], row["high"]) for row in both] == [(4.0, 6.0), (1.0, 9.0)]
    assert both[1]["num_samples"] == 512, "they are samples all the same"


@pytest.mark.parametrize("outcome", [*[o for o in Outcome if o is not Outcome.OK], None])
def test_a_cell_that_is_not_ok_stays_under_every_metric_without_figures(tmp_path, outcome):
    good = MadeCell({"batch": 1}, {"step_time": TIMES, "tok_s_user": TIMES})
    bad = MadeCell({"batch": 2}, {"step_time": TIMES}, outcome=outcome, reason="as it happens")
    frame = run_of(tmp_path, good, bad).frame()
    rows = frame[frame["batch"] == 2]
    assert sorted(rows["metric"]) == ["step_time", "tok_s_user"]
    assert rows["median"].isna().all()
    assert (rows["num_samples"] == 0).all()
    assert (rows["outcome"] == (outcome or "not run")).all()


def test_a_run_without_any_figure_still_has_a_row_per_cell(tmp_path):
    frame = run_of(
        tmp_path, MadeCell({"batch": 1}, outcome=Outcome.CRASH), MadeCell({"batch": 2}, outcome=None)
    ).frame()
    assert frame["outcome"].tolist() == ["crash", "not run"]
    assert "gpubench sweep configs/mla-decode.yaml --resume" in frame["reason"].iloc[1]
    assert frame["median"].isna().all()


def test_a_run_without_cells_has_an_empty_frame_with_all_columns(tmp_path):
    run = run_of(tmp_path)
    assert run.frame().empty
    assert set(columns.CELL + columns.FIGURE + columns.SUMMARY) <= set(run.frame().columns)
    assert run.wide().empty
    assert run.samples().empty


def test_columns_come_in_the_order_cell_axes_figure_summary(tmp_path):
    frame = run_of(tmp_path, MadeCell({"batch": 1, "isl": 2}, {"step_time": TIMES})).frame()
    assert tuple(frame.columns) == (*columns.CELL, "batch", "isl", *columns.FIGURE, *columns.SUMMARY)


def test_an_axis_that_would_hide_a_column_is_renamed(tmp_path):
    axes = {"median": 1, "pass": "x", "median_axis": 2}
    frame = run_of(tmp_path, MadeCell(axes, {"step_time": TIMES})).frame()
    row = frame.iloc[0]
    assert row["median_axis_axis"] == 1
    assert row["median_axis"] == 2
    assert row["pass_axis"] == "x"
    assert row["median"] == 3.5


def test_axes_of_a_matrix_product_keep_their_names(tmp_path):
    run = run_of(tmp_path, MadeCell({"m": 1, "n": 2, "k": 3}, {"step_time": TIMES}))
    assert run.frame()[["m", "n", "k", "num_samples"]].values.tolist() == [[1, 2, 3, 6]]
    assert axes_of(run.wide()) == ["m", "n", "k"]


def test_axes_of_mixed_kinds_keep_their_values(tmp_path):
    cells = [MadeCell({"tile": value}, {"step_time": TIMES}) for value in (64, "auto", True, None, 0.5)]
    values = run_of(tmp_path, *cells).frame()["tile"].tolist()
    assert values[:3] == [64, "auto", True]
    assert pd.isna(values[3])
    assert values[4] == 0.5


def test_the_samples_frame_has_every_sample_of_failed_cells_too(tmp_path):
    bad = MadeCell({"batch": 1}, {"step_time": TIMES}, outcome=Outcome.MISMATCH)
    samples = run_of(tmp_path, bad).samples()
    assert samples["value"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert samples["trial"].tolist() == [0, 0, 0, 1, 1, 1]
    assert samples["position"].tolist() == [0, 1, 2, 0, 1, 2]
    assert (samples["outcome"] == "mismatch").all()
    assert not samples["throttled"].any()


def test_the_wide_frame_has_a_row_per_cell_and_no_inner_ranges(tmp_path):
    profile = {"span": [1.0] * 6, "span|attention": [0.5] * 6}
    good = MadeCell({"batch": 1}, {"step_time": TIMES}, profile=profile)
    wide = run_of(tmp_path, good, MadeCell({"batch": 2}, outcome=Outcome.OOM)).wide()
    assert wide["batch"].tolist() == [1, 2]
    assert series_of(wide) == ["step_time", "span"]
    assert wide["step_time"].tolist()[0] == 3.5
    assert math.isnan(wide["span"].tolist()[1])
    assert wide.loc[0, field("span", "timer")] == "nsys"


def test_a_metric_of_two_timers_is_two_series_and_the_unprofiled_one_has_the_plain_name(tmp_path):
    cell = MadeCell({}, {"step_time": [[2.0] * 6]}, profile={"busy": [1.0] * 6}, work={"bytes": 8e9})
    wide = run_of(tmp_path, cell).wide()
    assert wide.loc[0, "bytes_per_s"] == 4e9
    assert wide.loc[0, "bytes_per_s@nsys"] == 8e9


def test_warnings_stand_beside_the_figures_they_are_about(tmp_path):
    frame = run_of(tmp_path, MadeCell({}, {"step_time": [[1.0, 2.0, 3.0]]})).frame()
    assert frame["warnings"].tolist() == ["noisy, too few samples"]
