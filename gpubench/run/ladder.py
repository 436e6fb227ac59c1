"""The ladder: a failed cell is run again, each time with one thing changed, and every answer is written down.

    for event in climb(run, cells, StopSignal()): …

Each rung is a small sweep of its own, in a fresh worker, under the sweep's limits or a sanitizer's; its records lie in
`reproduced/<cell>/` of the run's folder, and nothing of the run itself changes but `triage.jsonl`, which grows.
The rungs that take long, compute-sanitizer's others, are asked last, and only if memcheck and the audit find nothing.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from gpubench.analysis.merge import CellResult
from gpubench.analysis.run import Run, load_run
from gpubench.errors import WorkerError
from gpubench.records import CellRecord, Outcome, Stage
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
from gpubench.run.sanitizer import LOG, Finding, parse_sanitizer, read_log
from gpubench.run.scheduler import StopSignal
from gpubench.run.sweep import SweepRequest, run_sweep
from gpubench.store import ARTIFACTS
from gpubench.triage import Signature, signature_of
from gpubench.triage.classes import CLASSES
from gpubench.triage.verdicts import Answer, Blame, Rung, Verdict, append_verdict

__all__ = ["CellBegun", "CellClimbed", "LadderEvent", "RungAnswered", "RungBegun", "RungWorks", "climb"]

_AGAIN = (Rung.ALONE, Rung.AFTER_OTHERS)
_BLAMING = (Answer.INVALID_ACCESS, Answer.RACE, Answer.BARRIER)
"""What a kernel does itself. Who asserts checks another's data, who reads what was never written is its victim."""


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
            for rung in choose_extra_rungs(self.signature):
                yield from self._ask(rung)
                if self._has_found(rung):
                    break

    def _ask_again(self) -> Iterator[LadderEvent]:
        """Alone; and if it doesn't fail so, after those that were before it."""
        yield from self._ask(Rung.ALONE)
        if self._given.get(Rung.ALONE) != Answer.PASSES:
            return
        before = cells_before(self.cell, self.run.cells)
        if not before:
            yield from self._write(Rung.AFTER_OTHERS, Answer.NOT_APPLICABLE, "it was its worker's first cell")
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
        is_program = self.run.header.workload.measures_itself
        unable = why_not(rung, self.signature, self.record, self.tools, is_program=is_program) or why_not_now
        if unable:
            yield from self._write(rung, Answer.NOT_APPLICABLE, unable)
            return
        yield RungBegun(rung)
        began = time.monotonic()
        request = change_request(rung, rerun_request(self.run, self.cell, before=self.before), self.tools)
        try:
            path = yield from self._rerun(rung, request)
        except WorkerError as error:
            yield from self._write(rung, Answer.NONE, str(error).splitlines()[0], time.monotonic() - began)
            return
        again = next(
            result for result in load_run(path).cells if result.cell.cell_id == self.cell.cell.cell_id
        ).decisive
        if again is None or self._is_cut_short(again):
            return
        verdict = replace(self._read(rung, again, path), records=str(path.relative_to(self.run.path)))
        yield self._append(verdict, time.monotonic() - began)

    def _is_cut_short(self, again: CellRecord) -> bool:
        """Whether the user has ended a rerun that might still have failed."""
        return self.stop.is_requested and not again.outcome.is_failure

    def _rerun(self, rung: Rung, request: SweepRequest) -> Generator[LadderEvent, None, Path]:
        """Gives back the folder of the small run."""
        path = Path()
        for event in run_sweep(request, self.stop):
            if isinstance(event, SweepStarted):
                path = Path(event.path)
            elif isinstance(event, CellStarted):
                yield RungWorks(rung, event.cell_id, event.stage)
        return path

    def _write(self, rung: Rung, answer: Answer, detail: str, took_s: float = 0.0) -> Iterator[LadderEvent]:
        yield self._append(self._verdict(rung, answer, detail), took_s)

    def _append(self, verdict: Verdict, took_s: float) -> RungAnswered:
        verdict = replace(verdict, at=datetime.now(UTC).isoformat(timespec="seconds"))
        append_verdict(self.run.path, verdict)
        self._given[Rung(verdict.rung)] = Answer(verdict.verdict)
        return RungAnswered(verdict, took_s)

    def _verdict(self, rung: Rung, answer: Answer, detail: str = "", culprit: Blame | None = None) -> Verdict:
        return Verdict(self.cell.cell.cell_id, rung.value, answer.value, detail, culprit=culprit)

    def _read(self, rung: Rung, again: CellRecord, path: Path) -> Verdict:
        """What the rerun's record says, and a sanitizer's log."""
        if again.outcome is Outcome.SKIPPED:
            return self._verdict(rung, Answer.NOT_APPLICABLE, again.reason)
        if rung in SANITIZER_RUNGS:
            return self._read_sanitizer(rung, again, path)
        if rung is Rung.AUDIT:
            return self._read_audit(again)
        if not again.outcome.is_failure:
            return self._verdict(rung, Answer.PASSES, self._after())
        after = signature_of(again)
        # without a core dump the place is another one: then only the kind of fault can be compared
        is_same = after.key == self.signature.key if rung in _AGAIN else _are_alike(self.signature, after)
        told = ", ".join(filter(None, [after.title, self._after()]))
        return self._verdict(rung, Answer.SAME if is_same else Answer.OTHERWISE, told)

    def _after(self) -> str:
        return f"after {_count(len(self.before), 'cell')} in one worker" if self.before else ""

    def _read_audit(self, again: CellRecord) -> Verdict:
        looked = str(again.details.get("graph_pointers", ""))
        if again.hazards:
            # of several kernels with a stale address it is the one that the GPU caught in the run, if that is known
            culprit = signature_of(replace(again, crash=self.record.crash)).culprit
            blame = Blame(culprit.kernel, culprit.basis, culprit.file, culprit.line) if culprit else None
            more = len(again.hazards) - 1
            told = again.hazards[0].text + (f"; and {more:,} more" if more else "")
            return self._verdict(Rung.AUDIT, Answer.STALE, told, blame)
        if looked.startswith("not checked"):
            return self._verdict(Rung.AUDIT, Answer.NONE, looked)
        if not looked and not again.outcome.is_failure:
            return self._verdict(Rung.AUDIT, Answer.NOT_APPLICABLE, "the cell captures no CUDA graph")
        return self._verdict(Rung.AUDIT, Answer.NOTHING, looked)

    def _read_sanitizer(self, rung: Rung, again: CellRecord, path: Path) -> Verdict:
        logs = sorted((path / ARTIFACTS).glob(f"*/{LOG}"))
        report = parse_sanitizer("\n".join(map(read_log, logs)))
        if report.findings:
            return self._found(rung, report.findings)
        if again.outcome is Outcome.TIMEOUT:
            return self._verdict(rung, Answer.NONE, again.reason)
        if not logs or (report.problem and again.outcome.is_failure):
            return self._verdict(rung, Answer.NONE, report.problem or "it has written no log")
        ended = f"the cell ends in {signature_of(again).title}" if again.outcome.is_failure else "the cell passes"
        return self._verdict(rung, Answer.NOTHING, ", ".join(filter(None, [ended, self._after()])))

    def _found(self, rung: Rung, findings: Sequence[Finding]) -> Verdict:
        first = findings[0]
        launched = first.launched_at
        told = f"{first.told} at {first.place}" if first.kernel else first.told
        parts = [
            told,
            first.note,
            f"launched at {Path(launched.file).name}:{launched.line} in {launched.function}" if launched else "",
            f"{len(findings) - 1:,} more like it" if len(findings) > 1 else "",
        ]
        blame = None
        if first.answer in _BLAMING and first.kernel:
            basis = f"{rung}: {': '.join(filter(None, [first.told, first.note]))}"
            blame = Blame(first.kernel, basis, first.file, first.line)
        return self._verdict(rung, first.answer, "; ".join(filter(None, parts)), blame)


def _are_alike(before: Signature, after: Signature) -> bool:
    both_late = CLASSES[before.class_].is_asynchronous and CLASSES[after.class_].is_asynchronous
    return before.class_ == after.class_ or both_late


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
