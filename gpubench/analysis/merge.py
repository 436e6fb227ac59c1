"""Many lines to one answer per cell: the latest attempt, all its trials and passes, the worst of their outcomes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from gpubench.records import Cell, CellRecord, Outcome, Pass
from gpubench.store import StoredRun

__all__ = ["CellResult", "merge_cells", "worst"]

_SEVERITY = {
    outcome: rank
    for rank, outcome in enumerate(
        [
            Outcome.OK,
            Outcome.SKIPPED,
            Outcome.MISMATCH,
            Outcome.INVALID,
            Outcome.ERROR,
            Outcome.OOM,
            Outcome.TIMEOUT,
            Outcome.CRASH,
        ]
    )
}


@dataclass(frozen=True)
class CellResult:
    """What a run knows of one cell. `outcome` is None while it has not been run."""

    cell: Cell
    outcome: Outcome | None
    attempt: int
    """The attempt that counts: the last one."""
    records: list[CellRecord]
    """That attempt's records, one per pass and trial, the timing pass first."""

    @property
    def decisive(self) -> CellRecord | None:
        """The record that gave the cell its outcome: of several that did, the first."""
        return max(self.records, key=lambda record: _SEVERITY[record.outcome], default=None)

    @property
    def reason(self) -> str:
        decisive = self.decisive
        return decisive.reason if decisive else ""

    def of(self, pass_: Pass) -> list[CellRecord]:
        """The records of one pass, by trial."""
        return [record for record in self.records if record.pass_ is pass_]

    def missing_trials(self, pass_: Pass, trials: int) -> list[int]:
        """The trials still to be run: none once one of them was not ok, for its cell is then decided."""
        if self.outcome not in (None, Outcome.OK):
            return []
        done = {record.trial for record in self.of(pass_)}
        return [trial for trial in range(trials) if trial not in done]


def worst(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The outcome that decides; None of none."""
    return max(outcomes, key=_SEVERITY.__getitem__, default=None)


def merge_cells(run: StoredRun) -> list[CellResult]:
    """One result per cell of the run's header, in the grid's order."""
    by_cell: dict[str, dict[tuple[int, Pass, int], CellRecord]] = defaultdict(dict)
    for record in run.records:
        by_cell[record.cell_id][record.attempt, record.pass_, record.trial] = record
    return [_merge(cell, by_cell.get(cell.cell_id, {})) for cell in run.header.cells]


def _merge(cell: Cell, records: dict[tuple[int, Pass, int], CellRecord]) -> CellResult:
    attempt = max((number for number, _, _ in records), default=0)
    ordered = sorted(records.items(), key=lambda item: (item[0][1] is not Pass.TIMING, item[0][2]))
    latest = [record for (number, _, _), record in ordered if number == attempt]
    return CellResult(cell, worst(record.outcome for record in latest), attempt, latest)
