"""Which timer a timing pass gets, by what was asked for and what there is."""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.errors import UsageError
from gpubench.settings import MeasureSettings
from gpubench.worker.blocked import BlockedTimer, CudaQueue, GraphTimer, capture_steps
from gpubench.worker.device import Device
from gpubench.worker.subject import Prepared
from gpubench.worker.timers import CudaEventTimer, StepTimer, WallTimer

__all__ = ["ChosenTimer", "choose_timer", "explain_choice"]


@dataclass(frozen=True)
class ChosenTimer:
    """The timer of the timing pass, and in words why it is this one."""

    timer: StepTimer
    why: str


def choose_timer(settings: MeasureSettings, prepared: Prepared) -> ChosenTimer:
    """The timer for `measure.timer` and `measure.launch`; UsageError where they ask for what can't be had."""
    device = prepared.subject.device
    why = explain_choice(settings, device)
    if settings.timer == "wall" or not device.is_cuda:
        return ChosenTimer(WallTimer(device.synchronize), why)
    if settings.launch == "idle":
        return ChosenTimer(CudaEventTimer(device), why)
    if settings.launch == "blocked":
        return ChosenTimer(BlockedTimer(CudaQueue(device)), why)
    if prepared.eager is not None:
        raise UsageError(
            "measure.launch: graph: this step replays a graph of its own, and a graph can't be captured into another; "
            "use launch: blocked"
        )
    blocked = BlockedTimer(CudaQueue(device))
    return ChosenTimer(GraphTimer(blocked, capture_steps, prepared.turns, prepared.can_restore), why)


def explain_choice(settings: MeasureSettings, device: Device) -> str:
    """Why the timer will be what it will be; UsageError where the device hasn't what is asked for."""
    wanted = settings.timer
    if wanted == "wall":
        if device.is_cuda and settings.launch != "idle":
            raise UsageError(
                f"measure.launch: {settings.launch} is timed by CUDA events, and measure.timer is wall; "
                "use timer: cuda_event, or launch: idle"
            )
        return "wall was asked for"
    if device.is_cuda:
        why = {"auto": "auto, on a GPU", "cuda_event": "cuda_event was asked for"}
        return why.get(wanted, f"{wanted} times the profile pass; the timing pass runs without a profiler")
    why = {"auto": "auto, on a CPU", "nsys": "nsys times the profile pass; the timing pass is a CPU's"}
    if wanted in why:
        return why[wanted]
    raise UsageError(f"measure.timer: {wanted} needs a CUDA GPU, and this is {device.name}; use wall or auto")
