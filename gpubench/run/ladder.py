"""The ladder: a failed cell is run again, each time with one thing changed, and every answer is written down.

    for event in climb(run, cells, StopSignal()): …

Each rung is a small sweep of its own, in a fresh worker, under the sweep's limits or a sanitizer's; its records lie in
`reproduced/<cell>/` of the run's folder, and nothing of the run itself changes but `triage.jsonl`, which grows.
The rungs that take long, compute-sanitizer's others, are asked last, and only if memcheck and the audit find nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gpubench.analysis.merge import CellResult
from gpubench.analysis.run import Run, load_run
from gpubench.errors import WorkerError
from gpubench.records import CellRecord, Outcome, Stage
from gpubench.run.answers import Told, read_audit, read_rerun, read_sanitizer
from gpubench.run.events import CellStarted, SweepStarted
from gpubench.run.rerun import rerun_request
from gpubench.run.rungs import (
    SANITIZER_RUNGS,
    Tools,
    cells_before,
    change_request,
    choose_extra_rungs,
    find_tools,
    why_not,
)
from gpubench.run.sanitizer import LOG, SanitizerReport, parse_sanitizer, read_log
from gpubench.run.scheduler import StopSignal
from gpubench.run.sweep import SweepRequest, run_sweep
from gpubench.store import ARTIFACTS
from gpubench.triage import Answer, Rung, Signature, Verdict, signature_of
from gpubench.triage.verdicts import append_verdict

__all__ = ["CellBegun", "CellClimbed", "LadderEvent", "RungAnswered", "RungBegun", "RungWorks", "climb"]

_AGAIN = (Rung.ALONE, Rung.AFTER_OTHERS)


@dataclass(frozen=True)
class CellBegun:
    """The first of a cell's rungs is about to be asked."""

    cell_id: str
    signature: Signature


@dataclass(frozen=True)
class RungBegun:
    """A rerun is about to start."""

    rung: Rung


@dataclass(frozen=True)
class RungWorks:
    """The rerun's cell, or one before it, has entered a stage."""

    rung: Rung
    cell_id: str
    stage: Stage


@dataclass(frozen=True)
class RungAnswered:
    """An answer is on disk."""

    verdict: Verdict
    took_s: float


@dataclass(frozen=True)
class CellClimbed:
    """There is no more to ask about a cell."""

    cell_id: str


LadderEvent = CellBegun | CellClimbed | RungBegun | RungWorks | RungAnswered


def climb(run: Run, cells: Sequence[CellResult], stop: StopSignal) -> Iterator[LadderEvent]:
    """Ask every rung about every one of these failed cells; returns early once the stop signal says so.

    UsageError, before anything is run, if the cells had a GPU and there is none.
    """
    tools = find_tools()
    for cell in cells[:1]:
        rerun_request(run, cell)
    for cell in cells:
        if stop.is_requested:
            return
        yield from _Climb(run, cell, tools, stop).answers()
        yield CellClimbed(cell.cell.cell_id)


@dataclass
class _Climb:
    """One cell's way up."""

    run: Run
    cell: CellResult
    tools: Tools
    stop: StopSignal
    before: Sequence[CellResult] = ()
    """The cells that it needs before it, if it does."""
    _given: dict[Rung, str] = field(default_factory=dict)
    _path: Path = Path()
    """The small run of the last rung."""

    def __post_init__(self) -> None:
        record = self.cell.decisive
        assert record is not None, "a cell that failed has a record"
        self.record: CellRecord = record
        self.signature = signature_of(record)

    def answers(self) -> Iterator[LadderEvent]:
        """Ask, write down, tell."""
        yield CellBegun(self.cell.cell.cell_id, self.signature)
        yield from self._ask_again()
        for rung in (Rung.BLOCKING, Rung.GRAPHS_OFF):
            yield from self._ask(rung, self._why_incomparable())
        for rung in (Rung.MEMCHECK, Rung.AUDIT):
            yield from self._ask(rung)
        if not self._has_found(Rung.MEMCHECK) and not self._has_found(Rung.AUDIT):
            did_fail = self._given.get(Rung.MEMCHECK) == Answer.NONE
            for rung in choose_extra_rungs(self.signature):
                yield from self._ask(rung, "compute-sanitizer had no answer to memcheck" if did_fail else "")
                if self._has_found(rung):
                    break

    def _ask_again(self) -> Iterator[LadderEvent]:
        """Alone; and if it doesn't fail so, after those that were before it."""
        yield from self._ask(Rung.ALONE)
        if self._given.get(Rung.ALONE) != Answer.PASSES:
            return
        before = cells_before(self.cell, self.run.cells)
        if not before:
            yield self._write(Rung.AFTER_OTHERS, Told(Answer.NOT_APPLICABLE, "it was its worker's first cell"))
            return
        self.before = before
        yield from self._ask(Rung.AFTER_OTHERS)
        if self._given.get(Rung.AFTER_OTHERS) not in (Answer.SAME, Answer.OTHERWISE):
            self.before = ()

    def _why_incomparable(self) -> str:
        fails_again = {Answer.SAME, Answer.OTHERWISE} & {self._given.get(rung) for rung in _AGAIN}
        return "" if fails_again else "it does not fail again, so that nothing can be told from it passing"

    def _has_found(self, rung: Rung) -> bool:
        silent = (Answer.NOTHING, Answer.NOT_APPLICABLE, Answer.NONE)
        return rung in self._given and self._given[rung] not in silent

    def _ask(self, rung: Rung, why_not_now: str = "") -> Iterator[LadderEvent]:
        if self.stop.is_requested:
            return
        is_program = self.run.header.workload.is_program
        unable = why_not(rung, self.signature, self.record, self.tools, is_program=is_program) or why_not_now
        if unable:
            yield self._write(rung, Told(Answer.NOT_APPLICABLE, unable))
            return
        yield RungBegun(rung)
        began = time.monotonic()
        request = change_request(rung, rerun_request(self.run, self.cell, before=self.before), self.tools)
        try:
            yield from self._rerun(rung, request)
        except WorkerError as error:
            report = _read_logs(self._path)
            why = (report.problem if report else "") or str(error).partition(". ")[0]
            yield self._write(rung, Told(Answer.NONE, why), time.monotonic() - began)
            return
        again = next(
            result for result in load_run(self._path).cells if result.cell.cell_id == self.cell.cell.cell_id
        ).decisive
        if again is None or self._is_cut_short(again):
            return
        records = str(self._path.relative_to(self.run.path))
        yield self._write(rung, self._read(rung, again), time.monotonic() - began, records)

    def _is_cut_short(self, again: CellRecord) -> bool:
        """Whether the user has ended a rerun that might still have failed."""
        return self.stop.is_requested and not again.outcome.is_failure

    def _rerun(self, rung: Rung, request: SweepRequest) -> Iterator[LadderEvent]:
        for event in run_sweep(request, self.stop):
            if isinstance(event, SweepStarted):
                self._path = Path(event.path)
            elif isinstance(event, CellStarted):
                yield RungWorks(rung, event.cell_id, event.stage)

    def _write(self, rung: Rung, told: Told, took_s: float = 0.0, records: str = "") -> RungAnswered:
        verdict = Verdict(
            cell_id=self.cell.cell.cell_id,
            rung=rung.value,
            verdict=told.answer.value,
            detail=told.detail,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            culprit=told.blame,
            records=records,
        )
        append_verdict(self.run.path, verdict)
        self._given[rung] = told.answer
        return RungAnswered(verdict, took_s)

    def _read(self, rung: Rung, again: CellRecord) -> Told:
        """What the rerun's record says, and a sanitizer's log."""
        after = f"after {_count(len(self.before), 'cell')} in one worker" if self.before else ""
        if again.outcome is Outcome.SKIPPED:
            return Told(Answer.NOT_APPLICABLE, again.reason)
        if rung in SANITIZER_RUNGS:
            return read_sanitizer(rung, again, _read_logs(self._path), after)
        if rung is Rung.AUDIT:
            return read_audit(self.record, again)
        return read_rerun(rung, self.signature, again, after)


def _read_logs(path: Path) -> SanitizerReport | None:
    """What a sanitizer has said of a small run; None if it has said nothing."""
    logs = sorted((path / ARTIFACTS).glob(f"*/{LOG}"))
    return parse_sanitizer("\n".join(map(read_log, logs))) if logs else None


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
