"""Under what cells were measured, and what a reader is told to beware of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.conditions import (
    Caution,
    clocks_of,
    compiled_of,
    group_cautions,
    labels_of,
    replay_of,
    shared_of,
    warnings_of,
)
from gpubench.analysis.run import load_run

RESULTS = Path(__file__).parents[2] / "results"
TIMES = {"step_time": [[1.0] * 10] * 2}


def clocks(low: float = 1980, high: float = 1980, **more) -> dict[str, Any]:
    read = {
        "sm_hz": [low * 1e6, high * 1e6],
        "memory_hz": [3201e6, 3201e6],
        "temperature_c": [35, 42],
        "readings": 4,
        "throttled_by": [],
        "throttled_samples": [],
    }
    return {"clocks": {**read, **more}}


THROTTLED = clocks(1410, 1980, throttled_by=["power cap"], throttled_samples=[[2, 5], [7, 8]])


def cells_of(tmp_path, *made):
    return load_run(make_run(tmp_path, made)).cells


def test_the_clocks_of_a_cell_are_those_of_all_its_trials(tmp_path):
    (cell,) = cells_of(tmp_path, MadeCell({}, TIMES, details=THROTTLED))
    found = clocks_of(cell)
    assert found.sm_hz == (1410e6, 1980e6)
    assert found.temperature_c == (35, 42)
    assert (found.throttled, found.samples, found.throttled_by) == (8, 20, ("power cap",))


@pytest.mark.parametrize("details", [{}, {"clocks": "1.98 GHz"}, {"clocks": {"sm_hz": [1, 2]}}])
def test_a_cell_whose_clocks_nobody_read_has_none(tmp_path, details):
    (cell,) = cells_of(tmp_path, MadeCell({}, TIMES, details=details))
    assert clocks_of(cell) is None


def test_samples_that_ran_throttled_are_labelled_and_kept(tmp_path):
    run = load_run(make_run(tmp_path, [MadeCell({}, TIMES, details=THROTTLED, profile={"busy": [1.0] * 10})]))
    samples = run.samples()
    timed = samples[samples["metric"] == "step_time"]
    assert timed[timed["throttled"]]["position"].tolist() == [2, 3, 4, 7, 2, 3, 4, 7]
    assert not samples[samples["metric"] == "busy"]["throttled"].any()
    assert run.frame().query("metric == 'step_time'")["num_samples"].tolist() == [20]


def backends(tmp_path, *details):
    names = ["torch", "triton", "mine"]
    made = [MadeCell({"backend": names[n], "batch": 1}, TIMES, details=found) for n, found in enumerate(details)]
    return cells_of(tmp_path, *made, MadeCell({"backend": "torch", "batch": 2}, TIMES, details=clocks(990, 990)))


def test_backends_at_different_clocks_are_told_of_at_the_shape_where_they_were(tmp_path):
    found = warnings_of(backends(tmp_path, clocks(1755, 1800), clocks()))
    told = "backends ran at different SM clocks at this shape: torch 1,755–1,800 MHz, triton 1,980 MHz"
    assert found == [[told], [told], []]


def test_backends_at_the_same_clocks_within_three_percent_are_not(tmp_path):
    assert warnings_of(backends(tmp_path, clocks(1950, 1980), clocks(), {})) == [[], [], [], []]


def test_a_replay_of_other_kernels_is_warned_of_and_one_of_the_same_is_not(tmp_path):
    same = MadeCell({"n": 1}, TIMES, profile={"busy": [1.0]}, profile_details={"replay_kernels": "as eager"})
    other = MadeCell({"n": 2}, TIMES, profile={"busy": [1.0]}, profile_details={"replay_kernels": "2 more memcpy"})
    told = MadeCell({"n": 3}, TIMES, details={"replay_kernels": "no gemm"}, warnings=["replay: no gemm"])
    cells = cells_of(tmp_path, same, other, told, MadeCell({"n": 4}, TIMES))
    assert [replay_of(cell) for cell in cells] == ["as eager", "2 more memcpy", "no gemm", ""]
    assert warnings_of(cells) == [
        [],
        ["the replay of the graph ran other kernels than the step without it: 2 more memcpy"],
        ["replay: no gemm"],
        [],
    ]


def test_warnings_that_differ_in_numbers_alone_are_one_worded_as_in_the_first_cell(tmp_path):
    warnings = [["3 of 20 samples ran throttled"], [], ["12 of 20 samples ran throttled", "too hot"], ["too hot"]]
    assert group_cautions(warnings) == [
        Caution("3 of 20 samples ran throttled (the first cell's numbers)", (0, 2)),
        Caution("too hot", (2, 3)),
    ]


def test_addresses_are_numbers_too():
    warnings = [["a stale address: 0x7fff6857b890, in 3 nodes"], ["a stale address: 0x7fff6857bfc0, in 29 nodes"]]
    (caution,) = group_cautions(warnings)
    assert caution.places == (0, 1)


def test_what_a_cell_shared_is_told_with_its_size_and_who_built_it(tmp_path):
    shared = [
        {"what": "weights", "bytes": 69_321_225_216, "from": "cell_000_C001"},
        {"what": "compiled step", "bytes": 0, "built_s": 0.25},
    ]
    built = MadeCell({"n": 1}, TIMES, details={"shared": shared, "compiled": {"graphs": 2, "seconds": 12.34}})
    first, second, odd = cells_of(
        tmp_path, built, MadeCell({"n": 2}, TIMES), MadeCell({"n": 3}, TIMES, details={"shared": "all", "compiled": 1})
    )
    assert shared_of(first) == "weights, 69.3 GB, from cell_000_C001; compiled step, built in 250 ms"
    assert compiled_of(first) == "2 graphs in 12.3 s"
    assert shared_of(second) == shared_of(odd) == compiled_of(second) == compiled_of(odd) == ""


def test_what_a_workload_says_of_its_cell_is_told_from_what_is_noted_of_every_cell(tmp_path):
    noted = {"seed": 7, "l2": "cold", "launch": "idle: all of it", "stopped": "known", "warmup_steps": 9, **clocks()}
    said = {"model": "deepseek-v3.2", "rank": "one rank of 16, no communication"}
    labelled, plain = cells_of(
        tmp_path, MadeCell({"n": 1}, TIMES, details=said | noted), MadeCell({"n": 2}, TIMES, details=noted)
    )
    assert labels_of(labelled) == said
    assert labels_of(plain) == {}


@pytest.mark.parametrize(
    ("run", "labels"),
    [
        ("h200-gated-delta-block-v", set()),
        ("h200-faults", set()),
        ("h200-pareto", {"model", "layers", "rank"}),
        ("h200-closed-loop", {"model", "layers", "each_user", "window"}),
        ("h200-sparse-gqa-rotate", {"heads", "sparse attention"}),
    ],
)
def test_runs_that_were_measured_have_the_labels_of_their_workloads(run, labels):
    assert {name for cell in load_run(RESULTS / run).cells for name in labels_of(cell)} == labels
