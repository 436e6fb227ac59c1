"""Ctrl-C once: let the running cell end, write, say how to resume. Twice, or a terminal that is closed: now."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpubench.run.scheduler import StopSignal

__all__ = ["stop_on_interrupt"]


@contextmanager
def stop_on_interrupt() -> Iterator[StopSignal]:
    """Turn SIGINT, SIGTERM and SIGHUP into a StopSignal while a sweep runs; under nohup SIGHUP stays ignored."""
    stop = StopSignal()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.is_urgent = stop.is_requested
        stop.is_requested = True

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        stop.is_requested = stop.is_urgent = True  # nobody is left to ask a second time

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, hang_up)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
