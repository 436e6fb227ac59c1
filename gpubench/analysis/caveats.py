"""What to know of a whole run before reading its figures: how it was resumed, and what of it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpubench.analysis.merge import CellResult
from gpubench.records import Outcome, Pass
from gpubench.store import StoredRun

__all__ = ["Caveat", "caveats_of"]

MOST_NAMED = 8
"""Cells that a caveat names; the others it counts."""


@dataclass(frozen=True)
class Caveat:
    """A sentence about a run, and what it lists, if anything."""

    text: str
    details: tuple[str, ...] = ()


def caveats_of(stored: StoredRun, cells: Sequence[CellResult]) -> list[Caveat]:
    """What is amiss with a run, the gravest first; the cells are its own, merged."""
    return [*_forced(stored), *_torn(stored), *_too_few_trials(stored, cells)]


def _forced(stored: StoredRun) -> Iterator[Caveat]:
    differences = dict.fromkeys(text for session in stored.sessions for text in session.forced)
    if differences:
        yield Caveat("This run was resumed with --force although these had changed:", tuple(differences))


def _torn(stored: StoredRun) -> Iterator[Caveat]:
    if stored.torn_bytes:
        yield Caveat(
            "The last line of cells.jsonl was cut off: what it told of its cell counts as not measured. "
            "Measure it with --resume."
        )


def _too_few_trials(stored: StoredRun, cells: Sequence[CellResult]) -> Iterator[Caveat]:
    """Cells that are ok so far, but whose figures lack trials: a sweep that was interrupted leaves them."""
    trials = stored.header.sweep.get("measure", {}).get("trials", 0)
    missing = [
        (cell.cell.cell_id, len(cell.missing_trials(Pass.TIMING, trials)))
        for cell in cells
        if cell.outcome is Outcome.OK
    ]
    short = [f"{cell_id} has {trials - number} of {trials} trials" for cell_id, number in missing if number]
    if short:
        rest = len(short) - MOST_NAMED
        named = (*short[:MOST_NAMED], *([f"and {rest:,} more"] if rest > 0 else []))
        yield Caveat(
            "Some cells lack trials, so that their intervals say too little. Measure them with --resume:", named
        )
