"""Which samples ran while the GPU was throttled, and that a GPU that won't tell is measured all the same."""

from __future__ import annotations

import pynvml
import pytest

from gpubench.worker.clocks import INTERVAL_S, ClockWatch, Reading, watch_clocks
from gpubench.worker.device import open_device

COOL = Reading(sm_hz=1.98e9, memory_hz=3.2e9, temperature_c=40, throttled_by=frozenset())
HOT = Reading(sm_hz=1.2e9, memory_hz=3.2e9, temperature_c=88, throttled_by=frozenset({"power cap"}))


def watch_over(*readings: Reading) -> ClockWatch:
    """A watch that sees these, one after every ten samples."""
    watch = ClockWatch(iter(readings).__next__)
    for number in range(len(readings)):
        watch.look(10 * number, at_once=True)
    return watch


def test_an_even_run_is_described_without_a_warning() -> None:
    summary = watch_over(COOL, COOL).summarise()

    assert summary is not None
    assert (summary.sm_hz, summary.temperature_c, summary.readings) == ((1.98e9, 1.98e9), (40, 40), 2)
    assert summary.throttled_samples == []
    assert list(summary.warnings(10)) == []


@pytest.mark.parametrize(
    ("readings", "spans"),
    [
        ((HOT, COOL, COOL), [(0, 10)]),
        ((COOL, HOT, COOL, COOL), [(0, 20)]),
        ((COOL, COOL, HOT), [(10, 20)]),
        ((HOT, COOL, COOL, HOT), [(0, 10), (20, 30)]),
        ((HOT, HOT, HOT), [(0, 20)]),
    ],
)
def test_samples_beside_a_throttled_reading_are_labelled(
    readings: tuple[Reading, ...], spans: list[tuple[int, int]]
) -> None:
    summary = watch_over(*readings).summarise()

    assert summary is not None
    assert summary.throttled_samples == spans


def test_the_warning_says_how_many_why_and_how_slow() -> None:
    summary = watch_over(COOL, HOT).summarise()

    assert summary is not None
    assert list(summary.warnings(10)) == [
        "10 of 10 samples ran throttled (power cap): SM clock 1,200 to 1,980 MHz, up to 88 °C"
    ]


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (0, []),
        (1, []),
        (2, ["1 other process had the GPU open after the last sample"]),
        (3, ["2 other processes had the GPU open after the last sample"]),
    ],
)
def test_a_gpu_that_others_have_open_is_told_of(processes: int, said: list[str]) -> None:
    watch = ClockWatch(lambda: COOL, count_processes=lambda: processes)
    watch.look(0)
    summary = watch.summarise()

    assert summary is not None
    assert summary.processes == processes
    assert list(summary.warnings(10)) == said


def test_it_looks_no_more_often_than_its_interval() -> None:
    now = [0.0]
    watch = ClockWatch(lambda: COOL, lambda: now[0])

    for number in range(100):
        watch.look(number)
        now[0] += INTERVAL_S / 10

    summary = watch.summarise()
    assert summary is not None
    assert summary.readings == pytest.approx(10, abs=1)


def test_a_gpu_that_will_not_tell_is_asked_once() -> None:
    asked: list[int] = []

    def refuse() -> Reading:
        asked.append(1)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    watch = ClockWatch(refuse)
    watch.look(0)
    watch.look(1, at_once=True)

    assert asked == [1]
    assert watch.summarise() is None
    assert watch.problem == "NVML says: Not Supported"


def test_a_cpu_has_no_clocks_to_watch() -> None:
    assert watch_clocks(open_device()) is None
