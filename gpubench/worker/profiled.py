"""One trial of the profile pass: a few repetitions for a profiler around this process to record, each in its range.

No clock is read here: events and clocks read several times too much under a profiler, whose own figures don't.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch

from gpubench.ranges import annotate
from gpubench.records import Stage
from gpubench.registry import Step
from gpubench.settings import MeasureSettings
from gpubench.worker.cache_flush import L2Flush
from gpubench.worker.cupti import BETWEEN, CuptiRecorder, kernel_shares, measurements, open_recorder
from gpubench.worker.device import Device
from gpubench.worker.measure import Trial, warm_up
from gpubench.worker.subject import Prepared

__all__ = ["capture_range", "profile_trial", "recording"]

FEWEST_REPETITIONS, MOST_REPETITIONS = 10, 40
ENOUGH_S = 0.01
"""Short steps are repeated more often, as often as fits in this: of a few µs, the median of ten is some ticks off."""


@contextlib.contextmanager
def recording(device: Device) -> Iterator[None]:
    """Tell the profiler to record meanwhile (cudaProfilerStart and Stop); a profiler that isn't there doesn't mind."""
    if not device.is_cuda:
        yield
        return
    torch.cuda.profiler.start()  # type: ignore[no-untyped-call]
    try:
        yield
    except BaseException:
        # What went wrong is the cell's; with the context gone, stopping fails too and must not hide it.
        with contextlib.suppress(RuntimeError):
            torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]
        raise
    torch.cuda.profiler.stop()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def capture_range(device: Device, cell_id: str) -> Iterator[None]:
    """Around a set-up: kernels that a graph captures here are known by this range when they are replayed."""
    with recording(device), annotate(f"cell={cell_id}/capture"):
        yield
        device.synchronize()


def profile_trial(prepared: Prepared, cell_id: str, settings: MeasureSettings, enter: Callable[[Stage], None]) -> Trial:
    """Warm up, then run `cell=ID/rep` 10 to 40 times inside `cell=ID`, each from an idle device.

    A step that replays a graph and says what it holds is then run without it, once, in `cell=ID/eager`. Under
    `timer: cupti` the process records itself and the trial has measurements and kernels; else the profiler has them.
    """
    device = prepared.subject.device
    recorder = open_recorder() if settings.timer == "cupti" else None
    flush = L2Flush(device, settings.l2)
    enter(Stage.WARMUP)
    warmed = warm_up(prepared, settings.warmup_time_s)
    repetitions = count_repetitions(warmed.step_s, settings.max_time_s)
    enter(Stage.PROFILE)
    with recording(device) if recorder is None else recorder.recording(), annotate(f"cell={cell_id}"):
        for number in range(1, repetitions + 1):
            with _tagged(recorder, BETWEEN):
                prepared.restore()
                flush()
                device.synchronize()
            with annotate(f"cell={cell_id}/rep"), _tagged(recorder, number):
                prepared.step()
            device.synchronize()
        if prepared.eager is not None and recorder is None:
            _run_eagerly(prepared, prepared.eager, cell_id)
    found = [] if recorder is None else recorder.repetitions()
    is_short = recorder is not None and len(found) < repetitions
    return Trial(
        measurements=measurements(found),
        stopped=f"{repetitions} repetitions recorded",
        measured_s=warmed.elapsed_s,
        details={"l2": flush.state, "repetitions": repetitions, **warmed.details},
        warnings=[f"CUPTI saw GPU work in {len(found)} of {repetitions} repetitions"] if is_short else [],
        kernels=kernel_shares(found),
    )


def _run_eagerly(prepared: Prepared, eager: Step, cell_id: str) -> None:
    """Once what the repetitions replay, so that a join can tell whether the graph still holds the same kernels."""
    prepared.restore()
    prepared.subject.device.synchronize()
    with annotate(f"cell={cell_id}/eager"):
        eager()
    prepared.subject.device.synchronize()


def _tagged(recorder: CuptiRecorder | None, tag: int) -> AbstractContextManager[None]:
    return contextlib.nullcontext() if recorder is None else recorder.tagged(tag)


def count_repetitions(step_s: float, max_time_s: float) -> int:
    """How often a step of that length is recorded: 10 to 40 times, fewer if these don't fit in `max_time_s`."""
    wanted = min(MOST_REPETITIONS, max(FEWEST_REPETITIONS, int(ENOUGH_S / step_s)))
    return max(1, min(wanted, int(max_time_s / step_s)))
