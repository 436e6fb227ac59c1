"""What a rung of the ladder answers, read from its rerun's record and from a sanitizer's log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpubench.records import CellRecord, Outcome
from gpubench.run.sanitizer import Finding, SanitizerReport
from gpubench.triage import CLASSES, Answer, Rung, Signature, signature_of
from gpubench.triage.verdicts import Blame

__all__ = ["Told", "read_audit", "read_rerun", "read_sanitizer"]

_BLAMING = (Answer.INVALID_ACCESS, Answer.RACE, Answer.BARRIER)
"""What a kernel does itself. Who asserts checks another's data, who reads what was never written is its victim."""


@dataclass(frozen=True)
class Told:
    """An answer, its details in words, and whom it blames."""

    answer: Answer
    detail: str = ""
    blame: Blame | None = None


def read_rerun(rung: Rung, before: Signature, again: CellRecord, after: str = "") -> Told:
    """Whether a cell with that signature fails again; `after` says what ran before it."""
    if not again.outcome.is_failure:
        return Told(Answer.PASSES, after)
    found = signature_of(again)
    # without a core dump the place is another one: then only the kinds of fault can be compared
    is_same = found.is_like(before) if rung in (Rung.ALONE, Rung.AFTER_OTHERS) else _are_alike(before, found)
    if is_same:
        return Told(Answer.SAME, _join(found.title, after))
    # at one line it can be another thing that is said, or another stage
    told = found.title if found.title != before.title else f"in {found.stage}: {again.reason}"
    return Told(Answer.OTHERWISE, _join(told, after))


def read_audit(before: CellRecord, again: CellRecord) -> Told:
    """Of several kernels with a stale address the one is blamed that the GPU caught `before`, if it is among them."""
    looked = str(again.details.get("graph_pointers", ""))
    hazards = [hazard for hazard in again.hazards if hazard.is_certain]
    if hazards:
        culprit = signature_of(replace(again, crash=before.crash)).culprit
        blame = Blame(culprit.kernel, culprit.basis, culprit.file, culprit.line) if culprit else None
        more = f"{len(hazards) - 1:,} more" if hazards[1:] else ""
        return Told(Answer.STALE, _join(hazards[0].text, more), blame)
    if looked.startswith("not checked"):
        return Told(Answer.NONE, looked)
    if not looked and not again.outcome.is_failure:
        return Told(Answer.NOT_APPLICABLE, "the cell captures no CUDA graph")
    return Told(Answer.NOTHING, looked)


def read_sanitizer(rung: Rung, again: CellRecord, report: SanitizerReport | None, after: str = "") -> Told:
    """By the first of the tool's findings; without one by how the rerun ended. No report: it has written no log."""
    if report is not None and report.findings:
        return _found(rung, report.findings)
    if again.outcome is Outcome.TIMEOUT:
        return Told(Answer.NONE, again.reason)
    if report is None or report.problem:
        return Told(Answer.NONE, report.problem if report else "it has written no log")
    ended = f"the cell ends in {signature_of(again).title}" if again.outcome.is_failure else "the cell passes"
    return Told(Answer.NOTHING, _join(ended, after))


def _found(rung: Rung, findings: Sequence[Finding]) -> Told:
    first = findings[0]
    launched = first.launched_at
    detail = _join(
        f"{first.told} at {first.place}" if first.kernel else first.told,
        first.note,
        f"launched at {Path(launched.file).name}:{launched.line} in {launched.function}" if launched else "",
        f"{len(findings) - 1:,} more" if findings[1:] else "",
    )
    if first.answer not in _BLAMING or not first.kernel:
        return Told(first.answer, detail)
    basis = f"{rung}: {', '.join(filter(None, [first.told, first.note]))}"
    return Told(first.answer, detail, Blame(first.kernel, basis, first.file, first.line))


def _are_alike(before: Signature, after: Signature) -> bool:
    both_late = CLASSES[before.class_].is_asynchronous and CLASSES[after.class_].is_asynchronous
    return before.class_ == after.class_ or both_late


def _join(*parts: str) -> str:
    return "; ".join(filter(None, parts))
