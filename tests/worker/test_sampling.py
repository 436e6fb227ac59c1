"""When sampling stops, and that every sample is kept."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_cells import prepare

from gpubench.errors import UsageError
from gpubench.records import Outcome, Timer
from gpubench.settings import MeasureSettings
from gpubench.worker.failure import CellStopped
from gpubench.worker.sampling import StoppingRule, median_interval, take_samples
from gpubench.worker.timer_choice import choose_timer
from gpubench.worker.timers import WallTimer

seconds = st.floats(min_value=1e-7, max_value=1e3)


class PrescribedTimer:
    """Reads what it was told to, and runs the step as a timer does."""

    kind = Timer.WALL

    def __init__(self, readings: Iterator[float]) -> None:
        self._readings = readings

    def calibrate(self, step: Callable[[], Any]) -> int:
        return 1

    def time(self, step: Callable[[], Any], repeats: int) -> float:
        for _ in range(repeats):
            step()
        return next(self._readings)


def nothing() -> None:
    return None


def sample(readings: Any, **settings: Any) -> Any:
    return take_samples(nothing, PrescribedTimer(iter(readings)), 1, lambda _: None, MeasureSettings(**settings))


def test_equal_samples_stop_as_soon_as_there_are_enough() -> None:
    samples = sample(cycle([2e-3]), min_samples=9)

    assert samples.seconds == [2e-3] * 9
    assert samples.stopped == "the median is known within ± 0.00% after 9 samples"
    assert not samples.is_short


def test_scattered_samples_go_on_to_the_limit_and_say_how_well_the_median_is_known() -> None:
    samples = sample(cycle([1.0, 2.0]), max_samples=30, target_rel_ci=0.02, max_time_s=60)

    assert samples.seconds == [1.0, 2.0] * 15
    assert samples.stopped == "30 samples taken (max_samples); the median is known within ± 33.33%, target ± 2.00%"


def test_the_time_cap_ends_a_slow_cell_before_it_has_min_samples() -> None:
    samples = sample(cycle([1.0]), max_time_s=1e-9)

    assert samples.seconds == [1.0]
    assert samples.is_short
    assert samples.stopped == "1e-09 s over (max_time_s) after 1 sample; target ± 1.00%"


def test_fewer_than_six_samples_bound_no_median() -> None:
    assert len(sample(cycle([1.0]), min_samples=1).seconds) == 6


@pytest.mark.parametrize("wrong", [0.0, -1e-6, math.nan, math.inf])
def test_a_sample_that_is_no_time_makes_the_cell_invalid(wrong: float) -> None:
    with pytest.raises(CellStopped) as stopped:
        sample([1.0, wrong])

    assert stopped.value.outcome is Outcome.INVALID
    assert "sample 1 of wall is" in stopped.value.reason
    assert gc.isenabled()


def test_every_sample_is_prepared_for_and_nothing_is_collected_meanwhile() -> None:
    trace: list[str] = []
    timer = PrescribedTimer(cycle([1.0]))

    samples = take_samples(
        lambda: trace.append("step" if not gc.isenabled() else "step beside garbage collection"),
        timer,
        2,
        lambda samples: trace.append(f"prepare {samples}"),
        MeasureSettings(max_samples=6),
    )

    assert trace == [entry for n in range(len(samples.seconds)) for entry in (f"prepare {n}", "step", "step")]
    assert gc.isenabled()


@given(st.lists(seconds, min_size=40, max_size=40), st.integers(1, 40), st.integers(1, 40), st.floats(1e-4, 0.9))
def test_it_never_stops_before_min_samples_and_always_by_max_samples(
    readings: list[float], least: int, most: int, target: float
) -> None:
    settings = MeasureSettings(min_samples=least, max_samples=most, target_rel_ci=target, max_time_s=1e9)
    rule = StoppingRule(settings)

    count = next(n for n, reading in enumerate(readings, start=1) if rule.add(reading, elapsed_s=0.0))

    assert min(least, most) <= count <= most


@given(st.lists(seconds, min_size=1, max_size=60), st.floats(1e-4, 0.9))
def test_it_says_known_only_if_the_interval_is_within_the_target(readings: list[float], target: float) -> None:
    rule = StoppingRule(MeasureSettings(min_samples=1, max_samples=10_000, target_rel_ci=target, max_time_s=1e9))

    reasons = [rule.add(reading, 0.0) for reading in readings]

    ordered = sorted(readings)
    interval = median_interval(ordered)
    median = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    is_known = interval is not None and (interval[1] - interval[0]) / 2 <= target * median
    assert bool(reasons[-1]) == is_known


def test_the_interval_of_the_median_covers_95_percent_by_the_binomial() -> None:
    for count in range(6, 400):
        interval = median_interval([float(rank) for rank in range(1, count + 1)])

        assert interval is not None
        low, high = int(interval[0]), int(interval[1])
        assert low + high == count + 1, "as many samples are left out below as above"
        tail = sum(math.comb(count, successes) for successes in range(low)) / 2**count
        assert 1 - 2 * tail >= 0.945, count
        next_tail = tail + math.comb(count, low) / 2**count
        assert 1 - 2 * next_tail < 0.96, f"of {count} samples, one more on either side could be left out"


class Clock:
    """Ticks on by what the step takes."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def step_of(self, duration_ns: int) -> Callable[[], None]:
        def step() -> None:
            self.now_ns += duration_ns

        return step


@pytest.mark.parametrize(("duration_ns", "repeats"), [(5_000, 1), (1_000, 1), (999, 11), (100, 100), (0, 1000)])
def test_a_step_too_short_for_the_clock_is_timed_several_at_a_time(duration_ns: int, repeats: int) -> None:
    clock = Clock()
    timer = WallTimer(nothing, clock)
    step = clock.step_of(duration_ns)

    assert timer.calibrate(step) == repeats
    assert timer.time(step, repeats) == pytest.approx(duration_ns * 1e-9)


def test_the_wall_clock_waits_for_the_device_on_both_sides() -> None:
    trace: list[str] = []

    WallTimer(lambda: trace.append("wait")).time(lambda: trace.append("step"), 2)

    assert trace == ["wait", "step", "step", "wait"]


def test_a_cpu_is_timed_by_the_wall_clock() -> None:
    for wanted in ("auto", "wall", "nsys"):
        assert choose_timer(MeasureSettings(timer=wanted), prepare(nothing)).timer.kind is Timer.WALL


@pytest.mark.parametrize("wanted", ["cuda_event", "cupti"])
def test_what_needs_a_gpu_is_refused_on_a_cpu_with_the_way_out(wanted: Any) -> None:
    with pytest.raises(UsageError, match=rf"{wanted} needs a CUDA GPU, and this is cpu; use wall or auto"):
        choose_timer(MeasureSettings(timer=wanted), prepare(nothing))
