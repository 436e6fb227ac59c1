"""What to know of a whole run before reading its figures: how it was resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpubench.store import StoredRun

__all__ = ["Caveat", "caveats_of"]


@dataclass(frozen=True)
class Caveat:
    """A sentence about a run, and what it lists, if anything."""

    text: str
    details: tuple[str, ...] = ()


def caveats_of(stored: StoredRun) -> list[Caveat]:
    """What is amiss with a run, the gravest first."""
    return list(_forced(stored))


def _forced(stored: StoredRun) -> Iterator[Caveat]:
    differences = dict.fromkeys(text for session in stored.sessions for text in session.forced)
    if differences:
        yield Caveat("This run was resumed with --force although these had changed:", tuple(differences))
