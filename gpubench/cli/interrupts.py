"""Ctrl-C once: let the running cell end, write, say how to resume. Twice: now."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gpubench.run.scheduler import StopSignal

__all__ = ["stop_on_interrupt"]


@contextmanager
def stop_on_interrupt() -> Iterator[StopSignal]:
    """Turn SIGINT and SIGTERM into a StopSignal while a sweep runs."""
    stop = StopSignal()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.is_urgent = stop.is_requested
        stop.is_requested = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
