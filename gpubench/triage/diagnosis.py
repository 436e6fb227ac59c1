"""What the answers about a signature come to, in a line, with what says so; computed whenever the table is.

    stale pointer: _radix_kernel (topk_rows.py:146): its scratch points to memory that was given back (audit);
    parallel = TEP ∧ gvr = false ∧ concurrency ≥ 8

A line that has no basis says what is known, and what can still be tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpubench.triage.classes import CLASSES
from gpubench.triage.rules import Rule
from gpubench.triage.signature import Culprit, Signature
from gpubench.triage.twins import Twin
from gpubench.triage.verdicts import Answer, Rung, Verdict

__all__ = ["Diagnosis", "diagnose"]

_KINDS = {
    "audit": "stale pointer",
    "memcheck": "invalid access",
    "racecheck": "race",
    "synccheck": "barrier misuse",
}
"""What a culprit has done, by who says so; else it is the signature's kind of fault."""

_SANITIZERS = (Rung.MEMCHECK, Rung.INITCHECK, Rung.RACECHECK, Rung.SYNCCHECK)


@dataclass(frozen=True)
class Diagnosis:
    """What is known of why the cells of a signature failed."""

    told: str
    basis: str
    """`audit`, `memcheck` …, `core`, `contrast` of what fails with what passes, `rerun`; "" if nothing shows it."""
    rule: str = ""
    """The conditions under which it happens, if they are exact and chance doesn't explain them."""
    next: str = ""
    """What to try by hand, where it isn't known."""

    @property
    def text(self) -> str:
        """All of it in a line."""
        told = f"{self.told} ({self.basis})" if self.basis else self.told
        tried = f"next: {self.next}" if self.next else ""
        return "; ".join(filter(None, [told, self.rule, tried]))


def diagnose(signature: Signature, rule: Rule, twins: Sequence[Twin], verdicts: Sequence[Verdict]) -> Diagnosis | None:
    """The diagnosis of a signature by the answers about its cells; None if nothing was asked and nobody is blamed."""
    words = rule.words if rule.is_exact and rule.is_telling else ""
    culprit = signature.culprit
    if culprit is not None:
        return Diagnosis(_blame(signature, culprit), culprit.basis.partition(":")[0], words)
    if not verdicts:
        return None
    case = _Case(signature, verdicts, twins)
    told, basis = next(case.explanations(), (case.unexplained, ""))
    return Diagnosis(told, basis, words, "" if basis else next(case.suggestions(), ""))


def _blame(signature: Signature, culprit: Culprit) -> str:
    who, _, why = culprit.basis.partition(":")
    kind = _KINDS.get(who, signature.fault.text)
    return ": ".join(filter(None, [kind, culprit.text, why.strip()]))


class _Case:
    """The answers about one signature: the last one of each rung counts, but for running it again, where all do."""

    def __init__(self, signature: Signature, verdicts: Sequence[Verdict], twins: Sequence[Twin]) -> None:
        self._signature = signature
        self._twins = twins
        self._last = {verdict.rung: verdict for verdict in verdicts if verdict.verdict != Answer.NONE}
        self._unanswered = {verdict.rung: verdict for verdict in verdicts if verdict.verdict == Answer.NONE}
        self._alone = Counter(verdict.verdict for verdict in verdicts if verdict.rung == Rung.ALONE)

    @property
    def _num_failed(self) -> int:
        return self._alone[Answer.SAME] + self._alone[Answer.OTHERWISE]

    def _is(self, rung: Rung, *answers: Answer) -> bool:
        return rung in self._last and self._last[rung].verdict in answers

    def _detail(self, rung: Rung) -> str:
        return self._last[rung].detail if rung in self._last else ""

    def explanations(self) -> Iterator[tuple[str, str]]:
        """What the answers show, each with its basis, the most certain first."""
        title, passed = self._signature.title, self._alone[Answer.PASSES]
        if self._num_failed and self._is(Rung.BLOCKING, Answer.PASSES):
            order = "a kernel may run before what it needs, on another stream"
            yield f"a matter of order: {title} only where launches don't wait for each other: {order}", "contrast"
        if self._num_failed and self._is(Rung.GRAPHS_OFF, Answer.PASSES):
            yield f"{title} only when replayed from a CUDA graph: without graphs the cell passes", "contrast"
        if self._is(Rung.INITCHECK, Answer.UNINITIALISED):
            yield f"{title}: memory is read that nobody has written: {self._detail(Rung.INITCHECK)}", "initcheck"
        if self._is(Rung.MEMCHECK, Answer.DEVICE_ASSERT):
            yield f"{title}: {self._detail(Rung.MEMCHECK)}", "memcheck"
        if passed and self._is(Rung.AFTER_OTHERS, Answer.SAME, Answer.OTHERWISE):
            yield f"needs the cells before it: alone it passes; {self._detail(Rung.AFTER_OTHERS)}", "contrast"
        if passed:
            again = f"{passed} of {passed + self._num_failed}"
            yield f"flaky: {title} in the run, but it passed {again} times alone", "rerun"
        is_launch = self._is(Rung.BLOCKING, Answer.SAME) and self._is(Rung.GRAPHS_OFF, Answer.SAME)
        if is_launch and self._detail(Rung.BLOCKING) != title:
            yield (
                f"the launch that fails is known, not whose data it fails on: {self._detail(Rung.BLOCKING)}",
                "blocking",
            )
        if self._alone[Answer.SAME] and not self._may_be_another():
            yield f"{title}: {self._repeated}", "rerun"

    @property
    def _repeated(self) -> str:
        same, tried = self._alone[Answer.SAME], self._alone.total()
        return "repeats alone" if tried == 1 else f"repeats alone, {same} of {tried} times"

    def _may_be_another(self) -> bool:
        """Whether it surfaced, or was caught, in what may be a mere victim."""
        was_asked = not self._is(Rung.MEMCHECK, Answer.NOT_APPLICABLE) or "here: " in self._detail(Rung.MEMCHECK)
        return CLASSES[self._signature.class_].is_asynchronous or was_asked

    @property
    def unexplained(self) -> str:
        """What is known, where the answers show no more than that it fails."""
        silent = [rung for rung in (*_SANITIZERS, Rung.AUDIT) if self._is(rung, Answer.NOTHING)]
        found = f"; {', '.join(silent)} found nothing" if silent else ""
        return f"{self._signature.title}: who did it is not known{found}"

    def suggestions(self) -> Iterator[str]:
        """What may tell more, the likeliest first."""
        for rung in (Rung.AUDIT, Rung.MEMCHECK):
            detail = self._detail(rung)
            if self._is(rung, Answer.NOT_APPLICABLE) and "here: " in detail:
                yield f"{detail.partition('here: ')[2]}, and escalate again, for {rung}"
        for verdict in self._unanswered.values():
            if verdict.rung not in self._last:
                yield f"{verdict.rung}, by hand: it had no answer ({verdict.detail})"
        if self._twins:
            nearest = min(self._twins, key=lambda twin: len(twin.differs))
            yield f"compare {nearest.cell} with {nearest.text}"
