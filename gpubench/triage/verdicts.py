"""What was found out about a cell after its run: `triage.jsonl` in the run's folder, a line per answer, appended to.

    {"cell_id": "cell_013_C008_TEP_GVRF", "rung": "memcheck", "verdict": "wild write", "detail": "Invalid __global__
     write of size 16 bytes at wild_store in faults.py:7", "at": "2026-11-21T10:12:00+00:00",
     "culprit": {"kernel": "wild_store", "file": "faults.py", "line": 7, "basis": "core: …"}}

`culprit` is there only where the answer names one, and its basis begins with core, audit, contrast or the name of the
compute-sanitizer tool that says so.
"""

from __future__ import annotations

import os
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gpubench.errors import StoreError

__all__ = ["VERDICTS", "Answer", "Blame", "Rung", "Verdict", "Verdicts", "append_verdict", "read_verdicts"]

VERDICTS = "triage.jsonl"

_READ = ConfigDict(extra="ignore")
_Name = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


class Rung(StrEnum):
    """Who is asked when a failed cell is run again (`gpubench triage --escalate`)."""

    ALONE = "alone"
    """As it was, with nothing before it in its worker."""
    AFTER_OTHERS = "after others"
    """As it was, after the cells that its worker had run before it."""
    BLOCKING = "blocking"
    """CUDA_LAUNCH_BLOCKING=1: each launch waits for its kernel."""
    GRAPHS_OFF = "graphs off"
    MEMCHECK = "memcheck"
    AUDIT = "audit"
    """The addresses in its CUDA graphs, before a replay."""
    INITCHECK = "initcheck"
    RACECHECK = "racecheck"
    SYNCCHECK = "synccheck"


class Answer(StrEnum):
    """What a rung says, in a word or two; others may write other words."""

    SAME = "fails the same"
    OTHERWISE = "fails otherwise"
    PASSES = "passes"
    INVALID_ACCESS = "invalid access"
    DEVICE_ASSERT = "device assert"
    UNINITIALISED = "uninitialised read"
    RACE = "race"
    BARRIER = "barrier misuse"
    STALE = "stale pointer"
    NOTHING = "finds nothing"
    NOT_APPLICABLE = "not applicable"
    NONE = "no answer"
    """It was asked, and could not be run to its end."""


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
    records: str = ""
    """The small run that the answer is from, within the run's folder."""

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


def append_verdict(run: Path, verdict: Verdict) -> None:
    """Write one answer down, on disk when this returns. StoreError if it can't be written."""
    line = _VERDICT.dump_json(verdict, exclude_none=True) + b"\n"
    path = run / VERDICTS
    try:
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END) and not _ends_line(path):
                line = b"\n" + line  # what a crash has torn stays, on a line of its own
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path}: can't write here: {error.strerror}") from error


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


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
