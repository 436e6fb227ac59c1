"""How a sweep went, in a line."""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.records import Outcome
from gpubench.report.content import Content
from gpubench.report.theme import OUTCOMES

__all__ = ["Verdict", "verdict"]


@dataclass(frozen=True)
class Verdict:
    """A sentence, and another one on what is not ok: "" when all is."""

    headline: str
    rest: str


def verdict(content: Content) -> Verdict:
    """How many cells are ok, and what became of the others: `63 of 72 cells are ok. 2 crashed, 1 timed out.`"""
    outcomes = content.outcomes()
    total, ok = sum(outcomes.values()), outcomes.get(Outcome.OK, 0)
    others = {outcome: number for outcome, number in outcomes.items() if outcome != Outcome.OK}
    if not total:
        return Verdict("This run has no cells.", "")
    if not others:
        return Verdict(f"All {total:,} cells are ok." if total > 1 else "The one cell is ok.", "")
    words = ", ".join(f"{number:,} {OUTCOMES[outcome].phrase}" for outcome, number in others.items())
    if ok:
        return Verdict(f"{ok:,} of {total:,} cells {'is' if ok == 1 else 'are'} ok.", f"{words}.")
    return Verdict(f"None of {total:,} cells is ok." if total > 1 else "The one cell is not ok.", f"{words}.")
