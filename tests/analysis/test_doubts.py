"""Figures that contradict each other or lie below a clock's grain are doubted, in words."""

from __future__ import annotations

import pytest
from made_runs import MadeCell, make_run

from gpubench.analysis.conditions import group_cautions, warnings_of
from gpubench.analysis.doubts import doubts_of
from gpubench.analysis.run import load_run
from gpubench.records import Outcome


def steady(seconds: float) -> list[float]:
    return [seconds * (1 + 0.0002 * n) for n in range(10)]


def doubts(tmp_path, step: float, **kind) -> list[str]:
    (cell,) = load_run(make_run(tmp_path, [MadeCell({}, {"step_time": [steady(step)]}, **kind)])).cells
    return list(doubts_of(cell))


def test_a_gpu_that_is_busier_than_the_step_is_long_shows_that_the_passes_disagree(tmp_path) -> None:
    assert doubts(tmp_path, 1e-3, profile={"busy": steady(1.04e-3)}) == [
        "profiled and unprofiled passes disagree: the GPU was busy for 1.04 ms of a profiled step, and a whole "
        "unprofiled one takes 1.00 ms"
    ]


@pytest.mark.parametrize("busy", [0.5e-3, 1.0e-3, 1.01e-3])
def test_passes_that_agree_within_two_percent_are_left_alone(tmp_path, busy: float) -> None:
    assert doubts(tmp_path, 1e-3, profile={"busy": steady(busy)}) == []


def test_noise_is_no_disagreement(tmp_path) -> None:
    assert doubts(tmp_path, 1e-3, profile={"busy": [0.8e-3, 1.2e-3] * 5}) == []


def test_a_kernel_of_few_ticks_is_near_the_profilers_resolution(tmp_path) -> None:
    (told,) = doubts(tmp_path, 1e-3, profile={"kernel_sum": steady(0.96e-6)})
    assert told == "kernel time near the profiler's resolution: 961 ns are 30 of its ticks of 32.0 ns"
    assert doubts(tmp_path, 1e-3, profile={"kernel_sum": steady(1.7e-6)}) == []


def test_kernels_that_run_beside_each_other_are_compared_by_busy(tmp_path) -> None:
    (told,) = doubts(tmp_path, 1e-3, profile={"busy": steady(0.9e-3), "kernel_sum": steady(1.2e-3)})
    assert told == (
        "kernels overlap: their times add up to 1.20 ms, and the GPU was busy for 901 µs; "
        "compare by busy, not by kernel sum"
    )
    assert doubts(tmp_path, 1e-3, profile={"busy": steady(0.9e-3), "kernel_sum": steady(0.93e-3)}) == []


def test_a_cell_that_is_not_ok_has_no_figures_to_doubt(tmp_path) -> None:
    kind = {"profile": {"busy": steady(2e-3)}, "outcome": Outcome.MISMATCH}
    assert doubts(tmp_path, 1e-3, **kind) == []


def test_doubts_are_among_a_runs_warnings_and_counted_once(tmp_path) -> None:
    made = [
        MadeCell({"n": n}, {"step_time": [steady(1e-3)]}, profile={"kernel_sum": steady(seconds)})
        for n, seconds in enumerate((0.96e-6, 1.3e-6))
    ]
    (caution,) = group_cautions(warnings_of(load_run(make_run(tmp_path, made)).cells))
    assert caution.places == (0, 1)
    assert caution.text.endswith("32.0 ns (the first cell's numbers)")
