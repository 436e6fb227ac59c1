"""Which timer a timing pass gets, by what was asked for and what there is."""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.errors import UsageError
from gpubench.settings import MeasureSettings
from gpubench.worker.blocked import BlockedTimer, CudaQueue, GraphTimer, capture_steps
from gpubench.worker.device import Device
from gpubench.worker.timers import CudaEventTimer, StepTimer, WallTimer

__all__ = ["ChosenTimer", "choose_timer"]


@dataclass(frozen=True)
class ChosenTimer:
    """The timer of the timing pass, and in words why it is this one."""

    timer: StepTimer
    why: str


def choose_timer(settings: MeasureSettings, device: Device, turns: int = 1, is_restored: bool = False) -> ChosenTimer:
    """The timer for `measure.timer` and `measure.launch`; UsageError where they ask for what can't be had.

    `turns` and `is_restored` say of the step what a GraphTimer wants to know.
    """
    wanted = settings.timer
    if wanted == "wall":
        if device.is_cuda and settings.launch != "idle":
            raise UsageError(
                f"measure.launch: {settings.launch} is timed by CUDA events, and measure.timer is wall; "
                "use timer: cuda_event, or launch: idle"
            )
        return ChosenTimer(WallTimer(device.synchronize), "wall was asked for")
    if device.is_cuda:
        why = {"auto": "auto, on a GPU", "cuda_event": "cuda_event was asked for"}
        profiled = f"{wanted} times the profile pass; the timing pass runs without a profiler"
        return ChosenTimer(_event_timer(settings, device, turns, is_restored), why.get(wanted, profiled))
    if wanted in ("auto", "nsys"):
        why = {"auto": "auto, on a CPU", "nsys": "nsys times the profile pass; the timing pass is a CPU's"}
        return ChosenTimer(WallTimer(device.synchronize), why[wanted])
    raise UsageError(f"measure.timer: {wanted} needs a CUDA GPU, and this is {device.name}; use wall or auto")


def _event_timer(settings: MeasureSettings, device: Device, turns: int, is_restored: bool) -> StepTimer:
    if settings.launch == "idle":
        return CudaEventTimer(device)
    blocked = BlockedTimer(CudaQueue(device))
    return blocked if settings.launch == "blocked" else GraphTimer(blocked, capture_steps, turns, is_restored)
