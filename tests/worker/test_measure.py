"""What goes before samples and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import chain, repeat
from types import SimpleNamespace

import pytest
from worker_cells import QUICK, bare, prepare, run_cell

from gpubench.records import Pass
from gpubench.worker.measure import warm_up
from gpubench.worker.profiled import FEWEST_REPETITIONS, count_repetitions


class SteppedClock:
    """Stands still, but for what the step takes."""

    def __init__(self, durations_s: Iterator[float]) -> None:
        self.now_s = 0.0
        self._durations_s = durations_s

    def __call__(self) -> float:
        return self.now_s

    def step(self) -> None:
        self.now_s += next(self._durations_s)


def test_a_first_step_that_compiles_is_no_part_of_the_warm_up() -> None:
    clock = SteppedClock(chain([15.0], repeat(0.125)))

    warmed = warm_up(prepare(clock.step), 1.0, clock)

    assert (warmed.steps, warmed.first_step_s, warmed.step_s) == (9, 15.0, 0.125)
    assert warmed.elapsed_s == clock.now_s
    assert warmed.details == {"warmup_steps": 9, "first_step_s": 15.0}


@pytest.mark.parametrize("durations_s", [(2e-6, 1e-6), (5e-3, 1e-6), (0.5, 0.25)])
def test_a_first_step_like_the_others_or_too_short_to_matter_is_not_spoken_of(durations_s: tuple[float, float]) -> None:
    clock = SteppedClock(iter(durations_s))

    assert warm_up(prepare(clock.step), 0.0, clock).details == {"warmup_steps": 2}


def slow_at_first(seconds: float) -> Callable[[], None]:
    waits = chain([seconds], repeat(0.0))
    return lambda: time.sleep(next(waits))


def test_a_slow_first_step_costs_the_profile_pass_no_repetitions() -> None:
    measure = QUICK.model_copy(update={"max_time_s": 0.1})

    record = run_cell(bare(slow_at_first(0.11)).name, "tested", measure=measure, pass_=Pass.PROFILE).record

    # Counted in, the first step alone would leave one. A busy machine makes the others slower, not that slow.
    assert record.details["repetitions"] >= FEWEST_REPETITIONS
    assert record.details["first_step_s"] >= 0.11


def test_figures_have_no_digits_that_mean_nothing() -> None:
    workload = bare(lambda: time.sleep(1e-4))

    @workload.metric("rate", unit="1/s")
    def _(cell: SimpleNamespace, seconds: float) -> float:
        return 1 / seconds

    @workload.metric("tokens", unit="")
    def _(cell: SimpleNamespace, seconds: float) -> float:
        return 123_456_789_012

    step_time, rate, tokens = run_cell(workload.name, "tested").record.measurements

    assert all(seconds >= 1e-4 and len(f"{Decimal(repr(seconds)):f}") <= 14 for seconds in step_time.samples)
    assert rate.samples == pytest.approx([1 / seconds for seconds in step_time.samples], rel=1e-7)
    assert all(len(Decimal(repr(value)).as_tuple().digits) <= 9 for value in rate.samples)
    assert set(tokens.samples) == {123_456_789_012}


def test_short_steps_are_recorded_more_often_than_long_ones_and_within_the_time_there_is() -> None:
    assert [count_repetitions(step_s, 5.0) for step_s in (1e-6, 5e-4, 1e-2, 0.1, 1.0, 60.0)] == [40, 20, 10, 10, 5, 1]
