"""One trial of the profile pass: a few repetitions for a profiler around this process to record, each in its range.

Nothing is timed here. Events and clocks read several times too much under a profiler; its own figures don't.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from gpubench.ranges import annotate
from gpubench.records import Stage
from gpubench.settings import MeasureSettings
from gpubench.worker.cache_flush import L2Flush
from gpubench.worker.device import Device
from gpubench.worker.measure import Trial, warm_up
from gpubench.worker.subject import Prepared

__all__ = ["capture_range", "profile_trial", "recording"]

REPETITIONS = 10


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
    """Warm up, then run `cell=ID/rep` up to ten times inside `cell=ID`, each from an idle device."""
    device = prepared.subject.device
    flush = L2Flush(device, settings.l2 == "cold")
    enter(Stage.WARMUP)
    warmed = warm_up(prepared, settings.warmup_time_s)
    repetitions = max(1, min(REPETITIONS, int(settings.max_time_s / warmed.step_s)))
    enter(Stage.PROFILE)
    with recording(device), annotate(f"cell={cell_id}"):
        for _ in range(repetitions):
            prepared.restore()
            flush()
            device.synchronize()
            with annotate(f"cell={cell_id}/rep"):
                prepared.step()
            device.synchronize()
    return Trial(
        measurements=[],
        stopped=f"{repetitions} repetitions recorded",
        measured_s=warmed.elapsed_s,
        details={"l2": flush.state, "repetitions": repetitions, "warmup_steps": warmed.steps},
    )
