"""What is still to be run: cells without an answer, and failed ones that the user wants tried again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpubench.analysis.merge import CellResult
from gpubench.catalogue import WorkloadInfo
from gpubench.protocol import Task
from gpubench.records import Outcome, Pass
from gpubench.run.kin import kin_together
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings

__all__ = ["TaskSettings", "plan_tasks"]


@dataclass(frozen=True)
class TaskSettings:
    """What every task of a pass has in common."""

    pass_: Pass
    measure: MeasureSettings
    check: CheckSettings
    timeout: TimeoutSettings
    artifacts: Path
    workload: WorkloadInfo
    order: Literal["cells", "interleaved"] = "cells"

    @property
    def trials(self) -> int:
        """The profiled pass is one trial: its repetitions are its samples."""
        return self.measure.trials if self.pass_ is Pass.TIMING else 1


def plan_tasks(results: Sequence[CellResult], settings: TaskSettings, retry: frozenset[Outcome]) -> list[Task]:
    """The tasks that give every cell its records, in the order in which they are to run.

    A cell whose outcome is in `retry` starts over as a new attempt. Cells that share what they build come next to each
    other, else the grid's order holds. `order: interleaved` makes one task per trial, trials outermost, so that a GPU
    that slowly warms up does so for all cells alike.
    """
    missing = [(result, _attempt(result, retry), _trials(result, settings, retry)) for result in results]
    if settings.order == "cells":
        return kin_together(_task(result, attempt, trials, settings) for result, attempt, trials in missing if trials)
    return list(_interleave(missing, settings))


def _interleave(missing: Sequence[tuple[CellResult, int, list[int]]], settings: TaskSettings) -> Iterator[Task]:
    for trial in range(settings.trials):
        yield from kin_together(
            _task(result, attempt, [trial], settings) for result, attempt, trials in missing if trial in trials
        )


def _attempt(result: CellResult, retry: frozenset[Outcome]) -> int:
    return result.attempt + 1 if result.outcome in retry else result.attempt


def _trials(result: CellResult, settings: TaskSettings, retry: frozenset[Outcome]) -> list[int]:
    if result.outcome in retry:
        return list(range(settings.trials))
    return result.missing_trials(settings.pass_, settings.trials)


def _task(result: CellResult, attempt: int, trials: list[int], settings: TaskSettings) -> Task:
    return Task(
        cell=result.cell,
        trials=trials,
        pass_=settings.pass_,
        attempt=attempt,
        measure=settings.measure,
        check=settings.check,
        timeout=settings.timeout,
        artifacts=str(settings.artifacts / result.cell.cell_id),
        kin=settings.workload.kin(result.cell.arguments),
    )
