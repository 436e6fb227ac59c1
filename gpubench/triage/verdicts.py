"""What was found out about a cell after its run: `triage.jsonl` in the run's folder, a line per answer, appended to.

    {"cell_id": "cell_013_C008_TEP_GVRF", "rung": "memcheck", "verdict": "wild write", "detail": "Invalid __global__
     write of size 16 bytes at wild_store in faults.py:7", "at": "2026-11-21T10:12:00+00:00",
     "culprit": {"kernel": "wild_store", "file": "faults.py", "line": 7, "basis": "core: …"}}

`culprit` is there only where the answer names one, and its basis begins with core, audit or contrast.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

__all__ = ["VERDICTS", "Blame", "Verdict", "Verdicts", "read_verdicts"]

VERDICTS = "triage.jsonl"

_READ = ConfigDict(extra="ignore")
_Name = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


@dataclass(frozen=True, config=_READ)
class Blame:
    """The kernel that an answer names as the one that did the damage."""

    kernel: str
    basis: str
    file: str = ""
    line: int | None = None


@dataclass(frozen=True, config=_READ)
class Verdict:
    """One answer about one cell."""

    cell_id: str
    rung: _Name
    """Who was asked: a rung of the ladder, by name or number, or the audit."""
    verdict: str
    """The answer in a word or two."""
    detail: str = ""
    at: str = ""
    """UTC, ISO 8601."""
    culprit: Blame | None = None

    @property
    def text(self) -> str:
        return f"{self.rung}: {self.verdict}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Verdicts:
    """The answers that are there, in the order in which they came."""

    found: list[Verdict] = field(default_factory=list)
    note: str = ""
    """What of the file could not be read, in a sentence; it stays where it is."""


_VERDICT = TypeAdapter(Verdict)


def read_verdicts(run: Path) -> Verdicts:
    """The answers in a run's folder. A line that can't be read, as one torn by a crash, is counted and left alone."""
    path = run / VERDICTS
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return Verdicts()
    except OSError as error:
        return Verdicts(note=f"{VERDICTS} can't be read: {error.strerror}")
    found: list[Verdict] = []
    unreadable: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                found.append(_VERDICT.validate_json(line))
        except ValidationError:
            unreadable.append(number)
    note = f"{VERDICTS}: {len(unreadable)} lines can't be read, the first is line {unreadable[0]}" if unreadable else ""
    return Verdicts(found, note)
