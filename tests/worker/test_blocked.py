"""Timers that leave the host out, on a GPU that is only a clock: what they read, and what they say when they can't."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_cells import prepare

from gpubench.errors import UsageError
from gpubench.records import Timer
from gpubench.registry import Step
from gpubench.settings import MeasureSettings
from gpubench.worker.blocked import BlockedTimer, GraphTimer, graph_size
from gpubench.worker.device import Device
from gpubench.worker.timer_choice import choose_timer, explain_choice

CYCLES_PER_S = 2e9
LAUNCH_S = 5e-6


class PretendedGpu:
    """A host and a GPU with a clock each: launching moves the host's on, and running the GPU's."""

    def __init__(self) -> None:
        self.host_s = 0.0
        self.gpu_s = 0.0
        self.captured: list[float] | None = None

    def clock(self) -> float:
        return self.host_s

    def launch(self, seconds: float) -> None:
        """One kernel that runs for so long; or that will, while a graph is captured."""
        if self.captured is not None:
            self.captured.append(seconds)
            return
        self.host_s += LAUNCH_S
        self.gpu_s = max(self.gpu_s, self.host_s) + seconds

    def synchronize(self) -> None:
        self.host_s = self.gpu_s = max(self.host_s, self.gpu_s)

    def spin(self, cycles: int) -> None:
        self.launch(cycles / CYCLES_PER_S)

    def event(self) -> Any:
        return PretendedEvent(self)


class PretendedEvent:
    def __init__(self, gpu: PretendedGpu) -> None:
        self._gpu = gpu
        self.at_s = 0.0

    def record(self) -> None:
        self.at_s = self._gpu.gpu_s = max(self._gpu.gpu_s, self._gpu.host_s)

    def query(self) -> bool:
        return self._gpu.host_s >= self.at_s

    def synchronize(self) -> None:
        self._gpu.host_s = max(self._gpu.host_s, self.at_s)

    def elapsed_time(self, end: PretendedEvent) -> float:
        return (end.at_s - self.at_s) * 1e3


def blocked(gpu: PretendedGpu) -> BlockedTimer:
    return BlockedTimer(gpu, gpu.clock)


def kernels(gpu: PretendedGpu, count: int, seconds: float) -> Step:
    def step() -> None:
        for _ in range(count):
            gpu.launch(seconds)

    return step


@given(st.integers(1, 400), st.floats(1e-7, 1e-4))
def test_a_blocked_step_is_timed_without_the_hosts_launching(count: int, seconds: float) -> None:
    gpu = PretendedGpu()
    timer, step = blocked(gpu), kernels(gpu, count, seconds)

    repeats = timer.calibrate(step)

    assert (repeats, timer.kind) == (1, Timer.CUDA_EVENT)
    assert timer.time(step, 1) == pytest.approx(count * seconds)
    assert timer.account().launch.startswith("blocked: ")
    assert timer.account().warnings == []


def test_a_step_that_waits_for_the_gpu_is_timed_from_idle_and_says_so() -> None:
    gpu = PretendedGpu()

    def step() -> None:
        gpu.launch(10e-6)
        gpu.synchronize()
        gpu.launch(10e-6)

    timer = blocked(gpu)
    timer.calibrate(step)

    assert timer.time(step, 1) == pytest.approx(2 * (LAUNCH_S + 10e-6)), "the host's part is in it"
    assert timer.account().launch.startswith("idle, for it can't be blocked: the step waits for the GPU")
    assert len(timer.account().warnings) == 1


@pytest.mark.parametrize(("late", "warned"), [(1, False), (10, True)])
def test_samples_that_the_host_queued_too_late_are_counted(late: int, warned: bool) -> None:
    gpu = PretendedGpu()
    delays: list[float] = []

    def step() -> None:
        gpu.host_s += delays.pop() if delays else 0.0
        gpu.launch(10e-6)

    timer = blocked(gpu)
    timer.calibrate(step)
    delays[:] = [1.0] * late
    for _ in range(100):
        timer.time(step, 1)

    told = f"{late} of 100 samples hold some of the host's part"
    assert told in timer.account().launch
    assert [told in warning for warning in timer.account().warnings] == [True] * warned


def captures(gpu: PretendedGpu, counts: list[int]) -> Callable[[Step, int], Step]:
    """What captures a graph, and notes of how many steps: a replay is one launch, whatever it runs."""

    def capture(step: Step, count: int) -> Step:
        counts.append(count)
        gpu.captured = held = []
        for _ in range(count):
            step()
        gpu.captured = None
        return lambda: gpu.launch(sum(held))

    return capture


@pytest.mark.parametrize(("turns", "is_restored", "steps"), [(1, False, 34), (7, False, 35), (7, True, 7)])
def test_a_short_kernel_is_timed_by_the_many_in_a_graph(turns: int, is_restored: bool, steps: int) -> None:
    gpu = PretendedGpu()
    counts: list[int] = []
    timer = GraphTimer(blocked(gpu), captures(gpu, counts), turns, is_restored)
    step = kernels(gpu, 1, 3e-6)

    assert timer.calibrate(step) == steps
    assert counts == [1, steps]
    assert timer.time(step, steps) == pytest.approx(3e-6)
    assert timer.account().launch.startswith(f"graph: a sample is one replay of {steps} steps")
    assert "blocked: " in timer.account().launch


def test_a_step_that_lasts_is_alone_in_its_graph() -> None:
    gpu = PretendedGpu()
    counts: list[int] = []
    timer = GraphTimer(blocked(gpu), captures(gpu, counts))

    assert timer.calibrate(kernels(gpu, 1, 1e-3)) == 1
    assert counts == [1]
    assert timer.time(lambda: None, 1) == pytest.approx(1e-3)
    assert "one replay of 1 step;" in timer.account().launch


@given(st.floats(1e-9, 1), st.integers(1, 200), st.integers(1, 200))
def test_a_graph_holds_whole_turns_and_no_more_than_it_may_or_needs(step_s: float, turns: int, most: int) -> None:
    steps = graph_size(step_s, turns, most)

    assert steps % turns == 0
    assert turns <= steps <= max(turns, most)
    if steps > turns:
        assert (steps - turns) * step_s < 100e-6, "one turn less would not last long enough"


PRETENDED = Device("cuda:0 pretended", 1 << 30, 1 << 20, (9, 0))


def test_a_step_that_replays_a_graph_cannot_be_captured_into_another() -> None:
    def step() -> None:
        raise AssertionError("it is refused before anything runs")

    step.eager = step
    prepared = prepare(step)
    on_gpu = replace(prepared, subject=replace(prepared.subject, device=PRETENDED))

    with pytest.raises(UsageError, match=r"a graph of its own.*use launch: blocked"):
        choose_timer(MeasureSettings(launch="graph"), on_gpu)


def test_the_wall_clock_cannot_leave_the_host_out() -> None:
    settings = MeasureSettings(timer="wall", launch="blocked")

    with pytest.raises(UsageError, match=r"measure\.launch: blocked is timed by CUDA events.*measure\.timer is wall"):
        explain_choice(settings, PRETENDED)
