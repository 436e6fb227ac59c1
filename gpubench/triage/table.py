"""The triage table: a run's failed cells, a row per signature, the gravest first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpubench.analysis.merge import CellResult
from gpubench.analysis.run import Run
from gpubench.records import CellRecord, Hazard, Outcome
from gpubench.triage.classes import CLASSES, FaultClass
from gpubench.triage.diagnosis import Diagnosis, diagnose
from gpubench.triage.grid import Grid, Mask
from gpubench.triage.rules import Rule, find_rule
from gpubench.triage.signature import Culprit, Signature, signature_of
from gpubench.triage.twins import Twin, find_twins
from gpubench.triage.verdicts import Answer, Rung, Verdict, read_verdicts

__all__ = ["Row", "Triage", "triage_run"]

MOST_NAMED = 3
"""Cells in a note."""

_GRAVITY = (Outcome.CRASH, Outcome.TIMEOUT, Outcome.OOM, Outcome.ERROR, Outcome.INVALID, Outcome.MISMATCH)


@dataclass(frozen=True)
class Row:
    """One signature: the cells that have it and what they have in common."""

    signature: Signature
    """The first cell's; its line numbers are those that are shown."""
    cells: tuple[CellResult, ...]
    rule: Rule
    twins: tuple[Twin, ...]
    """Of each cell; none where no cell is clean."""
    verdicts: tuple[Verdict, ...]
    victims: tuple[str, ...]
    """Where it surfaced: several, if it was not the same line each time."""
    is_new: bool | None
    """Whether the baseline lacks it; None without a baseline."""

    @property
    def fault(self) -> FaultClass:
        return CLASSES[self.signature.class_]

    @property
    def cell_ids(self) -> list[str]:
        return [result.cell.cell_id for result in self.cells]

    @property
    def outcomes(self) -> list[Outcome]:
        """The gravest first."""
        return sorted({record.outcome for record in self.records}, key=_GRAVITY.index)

    @property
    def records(self) -> list[CellRecord]:
        """The one of each cell that gave it its outcome."""
        return [_decisive(result) for result in self.cells]

    @property
    def hazards(self) -> list[tuple[str, Hazard]]:
        """The stale addresses in its cells' CUDA graphs, each with its cell."""
        return [(record.cell_id, hazard) for record in self.records for hazard in record.hazards]

    @property
    def first_seen(self) -> str:
        """When the first of its cells began: UTC, ISO 8601."""
        return min(record.started_at for record in self.records)

    @property
    def last_seen(self) -> str:
        return max(record.started_at for record in self.records)

    @property
    def diagnosis(self) -> Diagnosis | None:
        return diagnose(self.signature, self.rule, self.twins, self.verdicts)

    @property
    def rule_text(self) -> str:
        return self.rule.text("crashed" if self.outcomes == [Outcome.CRASH] else "failed")


@dataclass(frozen=True)
class Triage:
    """A run's failed cells, told apart."""

    run: Run
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    """What a reader has to know, in sentences."""
    baseline: str = ""
    """The run that `is_new` refers to; "" for none."""

    @property
    def num_failed(self) -> int:
        return sum(len(row.cells) for row in self.rows)

    @property
    def num_clean(self) -> int:
        return sum(result.outcome is Outcome.OK for result in self.run.cells)

    @property
    def new(self) -> list[Row]:
        return [row for row in self.rows if row.is_new]


def triage_run(run: Run, baseline: Run | None = None) -> Triage:
    """Group a run's failed cells by signature, and find for each group the rule, the twins, and what reruns said.

    Works on any run: one that was interrupted, one that an older gpubench made. With a baseline, rows say whether it
    had the same signature.
    """
    verdicts = read_verdicts(run.path)
    groups = _group(run.cells, verdicts.found)
    known = None if baseline is None else set(_group(baseline.cells, read_verdicts(baseline.path).found))
    grid = Grid([result.cell for result in run.cells])
    place = {result.cell.cell_id: number for number, result in enumerate(run.cells)}
    clean = grid.mask([number for number, result in enumerate(run.cells) if result.outcome is Outcome.OK])
    dead = grid.mask([place[member.cell_id] for members in groups.values() for member in members])
    rows = []
    for key, members in groups.items():
        failed = grid.mask([place[member.cell_id] for member in members])
        rows.append(
            Row(
                signature=members[0].signature,
                cells=tuple(member.result for member in members),
                rule=_find_rule(grid, failed, clean, dead),
                twins=tuple(find_twins(grid, failed, clean)),
                verdicts=tuple(_of(verdicts.found, [member.cell_id for member in members])),
                victims=tuple(dict.fromkeys(member.signature.victim for member in members if member.signature.victim)),
                is_new=None if known is None else key not in known,
            )
        )
    rows.sort(key=lambda row: (_GRAVITY.index(row.outcomes[0]), -len(row.cells), row.cells[0].cell.index))
    late = [row for row in rows if row.fault.is_asynchronous and row.signature.culprit is None]
    anywhere = grid.mask([place[cell_id] for row in late for cell_id in row.cell_ids])
    together = _together_note(find_rule(grid, anywhere, clean), len(late)) if len(late) > 1 else ""
    notes = [verdicts.note, _unknown_note(run.cells), _hazard_note(run.cells), together]
    return Triage(run, tuple(rows), tuple(filter(None, notes)), baseline.run_id if baseline else "")


def _find_rule(grid: Grid, failed: Mask, clean: Mask, dead: Mask) -> Rule:
    """What tells the cells of a signature from the clean ones; if none is clean, from those that failed otherwise."""
    others = dead & ~failed
    if clean.any() or not others.any():
        return find_rule(grid, failed, clean)
    return replace(find_rule(grid, failed, others), against="that failed otherwise")


@dataclass(frozen=True)
class _Member:
    result: CellResult
    signature: Signature

    @property
    def cell_id(self) -> str:
        return self.result.cell.cell_id


def _group(results: Sequence[CellResult], verdicts: Sequence[Verdict]) -> Mapping[str, list[_Member]]:
    """Failed cells by the key of their signature.

    What was found out about one cell of a signature holds for all of them: a culprit named afterwards is theirs, and
    brings together what only its victims kept apart.
    """
    found: defaultdict[str, list[_Member]] = defaultdict(list)
    for result in results:
        if result.outcome is not None and result.outcome.is_failure:
            signature = signature_of(_decisive(result))
            found[signature.key].append(_Member(result, signature))
    regrouped: defaultdict[str, list[_Member]] = defaultdict(list)
    for members in found.values():
        culprit = _culprit(_of(verdicts, [member.cell_id for member in members]))
        for member in members:
            signature = member.signature.blaming(culprit) if culprit else member.signature
            regrouped[signature.key].append(_Member(member.result, signature))
    return {key: sorted(members, key=lambda member: member.result.cell.index) for key, members in regrouped.items()}


def _culprit(verdicts: Sequence[Verdict]) -> Culprit | None:
    """The last one that was named; but what fails without graphs, too, is not blamed on a graph's stale address where
    somebody else was named.
    """
    named = [verdict for verdict in verdicts if verdict.culprit is not None]
    if any(verdict.rung == Rung.GRAPHS_OFF and verdict.verdict == Answer.SAME for verdict in verdicts):
        named = [verdict for verdict in named if verdict.rung != Rung.AUDIT] or named
    blame = named[-1].culprit if named else None
    return Culprit(blame.kernel, blame.file, blame.line, blame.basis) if blame else None


def _of(verdicts: Iterable[Verdict], cell_ids: Sequence[str]) -> list[Verdict]:
    wanted = set(cell_ids)
    return [verdict for verdict in verdicts if verdict.cell_id in wanted]


def _decisive(result: CellResult) -> CellRecord:
    record = result.decisive
    assert record is not None, "a cell that failed has a record"
    return record if record.hazards else replace(record, hazards=_hazards(result))  # one pass knows for both


def _unknown_note(results: Sequence[CellResult]) -> str:
    not_run = sum(result.outcome is None for result in results)
    skipped = sum(result.outcome is Outcome.SKIPPED for result in results)
    parts = [f"{number:,} {word}" for number, word in ((not_run, "not run"), (skipped, "skipped")) if number]
    return f"{' and '.join(parts)}: such cells count as unknown, not as clean" if parts else ""


def _together_note(rule: Rule, number: int) -> str:
    """One kernel's damage may surface at several calls, and each of them be a signature with a rule of its own."""
    if not (rule.is_exact and rule.is_telling):
        return ""
    return (
        f"{number} signatures are of what surfaces at any call, and may be one fault: together, {rule.text('failed')}"
    )


def _hazard_note(results: Sequence[CellResult]) -> str:
    """Cells that came through and should not be trusted: a replay may do another harm next time."""
    clean = [result for result in results if result.outcome is Outcome.OK]
    certain = {result.cell.cell_id: [each for each in _hazards(result) if each.is_certain] for result in clean}
    held = {cell: hazards for cell, hazards in certain.items() if hazards}
    if not held:
        return ""
    cells = list(held)
    named = ", ".join(cells[:MOST_NAMED]) + (f" and {len(cells) - MOST_NAMED:,} more" if cells[MOST_NAMED:] else "")
    who = "1 cell that is ok holds" if len(cells) == 1 else f"{len(cells):,} cells that are ok hold"
    return f"{who} stale addresses in CUDA graphs ({named}): {held[cells[0]][0].text}"


def _hazards(result: CellResult) -> list[Hazard]:
    return next((record.hazards for record in result.records if record.hazards), [])
