"""The order of cells that share what they build: kin next to each other, and where there are several workers, each to
the one that has built it already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from gpubench.catalogue import WorkloadInfo
from gpubench.protocol import Task
from gpubench.records import Cell

__all__ = ["best_for", "describe_order", "is_full", "kin_together"]


def kin_together(tasks: Iterable[Task]) -> list[Task]:
    """The tasks kin by kin, each kin where its first task was, and within it as they were."""
    by_kin: dict[str, list[Task]] = {}
    for task in tasks:
        by_kin.setdefault(task.kin, []).append(task)
    return [task for kin in by_kin.values() for task in kin]


def describe_order(workload: WorkloadInfo, cells: Sequence[Cell], order: Literal["cells", "interleaved"]) -> str:
    """In what order cells run, and why, in words; "" where it is the grid's."""
    kinds = len({workload.kin(cell.arguments) for cell in cells})
    if not workload.shares or kinds < 2:
        return ""
    within = "within each trial, " if order == "interleaved" else ""
    names = ", ".join(workload.shares)
    return f"{within}cells of equal {names} run next to each other, for they share what they build: {kinds} kinds"


def best_for(kin: str, others: Collection[str], todo: Sequence[Task]) -> int:
    """The place in `todo` of the task that a worker takes next which has built what cells of `kin` share.

    One of those, else one that none of the `others` is at, else the first. A trial that others have still to begin
    isn't run ahead of them.
    """
    first = todo[0]
    if not first.kin or first.kin == kin:
        return 0
    ranks = ((_rank(task, kin, others), place) for place, task in enumerate(todo) if task.trials[0] == first.trials[0])
    return min(ranks)[1]


def _rank(task: Task, kin: str, others: Collection[str]) -> int:
    return 0 if task.kin == kin else 1 if task.kin not in others else 2


def is_full(given: int, limit: int | None, *, has_kin: bool) -> bool:
    """Whether a worker that may take `limit` tasks has taken enough.

    It may take as many again to end with a kin: what they share would have to be built once more for the rest of them.
    """
    if limit is None:
        return False
    return given >= (2 * limit if has_kin and limit > 1 else limit)
