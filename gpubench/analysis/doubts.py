"""What a cell's own figures say against themselves: passes that contradict each other, times below a clock's grain,
kernels that run beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from gpubench.analysis.merge import CellResult
from gpubench.analysis.metrics import format_value
from gpubench.analysis.statistics import MIN_SAMPLES, summarise
from gpubench.records import Outcome, Pass

__all__ = ["TICK_S", "doubts_of"]

TICK_S = 32e-9
"""What kernel durations tick in, by nsys and CUPTI alike."""
COARSE = 0.02
"""From what share of a kernel time on a tick is too much to compare by."""
OVERLAPPING = 1.05
"""From how many times the busy time on the kernels' sum tells of more than one kernel's work at a time."""
CONTRADICTED = 1.02
"""From how many times the unprofiled step on a profiled step's work contradicts it."""


def doubts_of(cell: CellResult) -> Iterator[str]:
    """Sentences about an ok cell; about others there are no figures to doubt."""
    if cell.outcome is Outcome.OK:
        yield from _contradicted(cell)
        yield from _coarse(cell)
        yield from _overlapping(cell)


def _contradicted(cell: CellResult) -> Iterator[str]:
    """The GPU can't work for longer within a step than the step takes: if it seems to, the two passes differ."""
    step, busy = _samples(cell, "step_time", Pass.TIMING), _samples(cell, "busy", Pass.PROFILE)
    if not step or not busy or _median(busy) <= CONTRADICTED * _median(step):
        return
    if summarise(busy).low > summarise(step).high:
        yield (
            f"profiled and unprofiled passes disagree: the GPU was busy for {format_value(_median(busy), 's')} of a "
            f"profiled step, and a whole unprofiled one takes {format_value(_median(step), 's')}"
        )


def _coarse(cell: CellResult) -> Iterator[str]:
    kernels = _samples(cell, "kernel_sum", Pass.PROFILE)
    if kernels and 0 < _median(kernels) < TICK_S / COARSE:
        yield (
            f"kernel time near the profiler's resolution: {format_value(_median(kernels), 's')} are "
            f"{_median(kernels) / TICK_S:.0f} of its ticks of {format_value(TICK_S, 's')}"
        )


def _overlapping(cell: CellResult) -> Iterator[str]:
    """Streams side by side, or a launch that begins while the one before it ends and waits for it: both count twice."""
    kernels, busy = _samples(cell, "kernel_sum", Pass.PROFILE), _samples(cell, "busy", Pass.PROFILE)
    if kernels and busy and _median(kernels) > OVERLAPPING * _median(busy):
        yield (
            f"kernels overlap: their times add up to {format_value(_median(kernels), 's')}, and the GPU was busy for "
            f"{format_value(_median(busy), 's')}; compare by busy, not by kernel sum"
        )


def _samples(cell: CellResult, metric: str, pass_: Pass) -> list[list[float]]:
    """A metric of the whole step, by trial; none where fewer samples than an interval takes tell of it."""
    found = [
        measurement.samples
        for record in cell.of(pass_)
        for measurement in record.measurements
        if measurement.metric == metric and not measurement.range
    ]
    return found if sum(map(len, found)) >= MIN_SAMPLES else []


def _median(trials: list[list[float]]) -> float:
    return median(sample for trial in trials for sample in trial)
