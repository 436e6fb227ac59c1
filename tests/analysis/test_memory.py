"""The memory of captured graphs as a frame: by cell and bucket, with what had been taken by then."""

from __future__ import annotations

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis import columns as c
from gpubench.analysis.memory import MEMORY_PARTS
from gpubench.analysis.metrics import METRICS
from gpubench.analysis.run import load_run


def bucket(number: int, reserved: float, seconds: float) -> dict[str, list[float]]:
    return {
        f"memory_reserved|bucket {number}": [reserved],
        f"memory_driver|bucket {number}": [1.0],
        f"capture_time|bucket {number}": [seconds],
        f"replay_time|bucket {number}": [seconds / 100],
    }


@pytest.fixture
def run(tmp_path):
    captured = {**bucket(8, 64.0, 0.5), **bucket(128, 1024.0, 2.0), "memory_pool|layer": [7.0]}
    captured["memory_driver|prefill bucket 512"] = [3.0]
    times = {"step_time": [[1e-5] * 6]}
    return load_run(make_run(tmp_path, [MadeCell({"n": 1}, times), MadeCell({"n": 2}, times, profile=captured)]))


def test_each_bucket_has_a_row_the_largest_first_and_what_was_taken_by_then(run):
    found = run.memory()
    assert tuple(found.columns) == c.MEMORY
    assert found[c.CELL_ID].tolist() == ["cell_001"] * 3
    assert found["driver_total"].tolist() == [1.0, 2.0, 5.0]
    assert found["step"].tolist() == ["", "", "prefill"]
    found = found[found["step"] == ""]
    assert found["bucket"].tolist() == [128, 8]
    assert found["reserved"].tolist() == [1024.0, 64.0]
    assert found["reserved_total"].tolist() == [1024.0, 1088.0]
    assert found["capture_time_total"].tolist() == [2.0, 2.5]
    assert found["replay_time"].tolist() == [0.02, 0.005]
    assert found["pool"].isna().all(), "it was not measured"


def test_a_run_without_graphs_has_no_rows(tmp_path):
    found = load_run(make_run(tmp_path, [MadeCell({"n": 1}, {"step_time": [[1e-5] * 6]})])).memory()
    assert tuple(found.columns) == c.MEMORY
    assert found.empty


def test_every_part_is_defined_and_none_is_a_series_of_the_whole_step(run):
    assert {f"memory_{part}" for part in MEMORY_PARTS} <= set(METRICS)
    assert not any(metric.startswith("memory_") for metric in run.metrics())
