"""The triage table in words: what every format and the terminal show of a signature, and its rows for programs."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpubench.records import Scalar
from gpubench.run.logs import read_tail
from gpubench.stacks import WAITING
from gpubench.store import ARTIFACTS
from gpubench.triage import Answer, Culprit, Kernel, Row, Triage, Verdict

__all__ = [
    "ShownRow",
    "ShownTriage",
    "escalate_command",
    "name_run",
    "reproduce_command",
    "show",
    "triage_csv",
    "triage_json",
]

MOST_CELLS = 6
MOST_TWINS = 3
"""Per kind of difference; and kinds of difference."""
LOG_LINES = 12
TAIL_BYTES = 4096

_NOISE = ("Extension modules: ", "Starting GPU coredump generation")
_THREAD = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+\b.*\(most recent call first\):")
_WAITING = f" in {WAITING}"


@dataclass(frozen=True)
class ShownRow:
    """A row of the table as texts; what is not known is "" or says so."""

    id: str
    is_new: bool
    class_: str
    meaning: str
    title: str
    stage: str
    reason: str
    """The first cell's, in its own words."""
    faulting: str
    culprit: str
    basis: str
    victim: str
    within: str
    """The workload's range that was open."""
    num_cells: int
    cells: str
    seen: str
    rule: str
    twins: tuple[str, ...]
    verdicts: tuple[str, ...]
    """Answers of reruns; those that have nothing to say for one reason are one."""
    diagnosis: str
    core: str
    """Why the GPU's core dump tells less than it could, and how to get the rest."""
    xid: str
    """What the driver said of it."""
    command: str
    log: str
    log_path: str
    """Of the cell that the log is of, within the run's folder."""


@dataclass(frozen=True)
class ShownTriage:
    """A run's table."""

    run_id: str
    headline: str
    notes: tuple[str, ...]
    rows: tuple[ShownRow, ...]


def show(triage: Triage, run_name: str = "", log_lines: int = LOG_LINES) -> ShownTriage:
    """The table as texts; commands call the run `run_name`, or by where it lies. Logs are cut to so many lines."""
    name = run_name or name_run(triage.run.path)
    rows = tuple(_show_row(triage, row, name, log_lines) for row in triage.rows)
    return ShownTriage(triage.run.run_id, _headline(triage), triage.notes, rows)


def name_run(path: Path, results: Path = Path("results")) -> str:
    """What a user types to mean a run: its folder's name, if that is where it would be looked for, else its path."""
    is_default = results == Path("results") and path == results / path.name
    return path.name if is_default else str(path)


def reproduce_command(run_name: str, cell_id: str) -> str:
    """What to type, quoted for a shell."""
    return shlex.join(["gpubench", "reproduce", run_name, cell_id])


def escalate_command(run_name: str) -> str:
    """What to type to have failed cells run again up the ladder."""
    return shlex.join(["gpubench", "triage", run_name, "--escalate"])


def triage_json(triage: Triage, run_name: str = "") -> str:
    """`{run, baseline, notes, signatures: [{id, class, title, …}]}`; docs/triage.md names every key."""
    name = run_name or name_run(triage.run.path)
    found = {
        "run": triage.run.run_id,
        "baseline": triage.baseline or None,
        "cells": {"all": len(triage.run.cells), "failed": triage.num_failed, "clean": triage.num_clean},
        "notes": list(triage.notes),
        "signatures": [_data(triage, row, name) for row in triage.rows],
    }
    return json.dumps(found, indent=1, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace").decode()


_TEXTS = ("id", "title", "stage", "reason", "victim", "num_cells", "rule")
_COLUMNS = (
    *_TEXTS,
    "class",
    "is_new",
    *("faulting_kernel", "faulting_file", "faulting_line"),
    *("culprit_kernel", "culprit_file", "culprit_line", "culprit_basis"),
    *("cells", "first_seen", "last_seen"),
    *("precision", "coverage", "twins", "verdicts", "diagnosis", "reproduce"),
)


def triage_csv(triage: Triage, run_name: str = "") -> str:
    """A line per signature; lists are joined by a space (cells) or by `; `."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    shown = show(triage, run_name).rows
    writer.writerows(_flat(row, texts) for row, texts in zip(triage.rows, shown, strict=True))
    return text.getvalue().encode("utf-8", "backslashreplace").decode()


def _headline(triage: Triage) -> str:
    total, failed, kinds = len(triage.run.cells), triage.num_failed, len(triage.rows)
    if not failed and not any(cell.records for cell in triage.run.cells):
        return f"No cell has run yet, of {total:,}."
    if not failed:
        return f"No cell failed: {triage.num_clean:,} of {total:,} {'is' if triage.num_clean == 1 else 'are'} ok."
    said = f"{failed:,} of {total:,} cells failed, in {kinds:,} {'way' if kinds == 1 else 'ways'}"
    if triage.baseline:
        said += f", {len(triage.new):,} of them new since {triage.baseline}"
    return f"{said}."


def _show_row(triage: Triage, row: Row, run_name: str, log_lines: int) -> ShownRow:
    signature = row.signature
    first = row.cell_ids[0]
    crash = row.records[0].crash
    return ShownRow(
        id=signature.id,
        is_new=bool(row.is_new),
        class_=signature.class_,
        meaning=row.fault.meaning,
        title=signature.title,
        stage=str(signature.stage),
        reason=row.records[0].reason,
        faulting=signature.faulting.text if signature.faulting else "",
        culprit=signature.culprit.text if signature.culprit else "unknown",
        basis=signature.culprit.basis if signature.culprit else "",
        victim=_join(row.victims, MOST_TWINS),
        within=crash.open_range if crash else "",
        num_cells=len(row.cells),
        cells=_join(row.cell_ids, MOST_CELLS),
        seen=_span(row.first_seen, row.last_seen),
        rule=row.rule_text,
        twins=_show_twins(row),
        verdicts=tuple(_show_verdicts(row.verdicts)),
        diagnosis=row.diagnosis.text if row.diagnosis else "",
        core=crash.faulting.note if crash and crash.faulting else "",
        xid=crash.xid[-1] if crash and crash.xid else "",
        command=reproduce_command(run_name, first),
        log=_log_tail(triage, row, log_lines),
        log_path=f"{ARTIFACTS}/{first}/stderr.txt",
    )


def _show_twins(row: Row) -> tuple[str, ...]:
    """Twins by what they differ in: `gvr false → true: cell_012 beside cell_013, cell_016 beside cell_017`."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for twin in sorted(row.twins, key=lambda twin: len(twin.differs)):
        kinds[", ".join(difference.text for difference in twin.differs)].append(f"{twin.twin} beside {twin.cell}")
    shown = [f"{differs}: {_join(pairs, MOST_TWINS)}" for differs, pairs in kinds.items()]
    more = len(shown) - MOST_TWINS
    return tuple(shown[:MOST_TWINS] + ([f"and {more} other difference{'s' if more > 1 else ''}"] if more > 0 else []))


def _show_verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Each once, with how often it was given; rungs that don't apply for one reason stand together, at the first."""
    unfit: defaultdict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.verdict == Answer.NOT_APPLICABLE and verdict.rung not in unfit[verdict.detail]:
            unfit[verdict.detail].append(verdict.rung)
    given = Counter(verdict.text for verdict in verdicts)
    for verdict in verdicts:
        if verdict.verdict != Answer.NOT_APPLICABLE:
            if times := given.pop(verdict.text, 0):
                yield verdict.text if times == 1 else f"{verdict.text}, {times:,} times"
        elif rungs := unfit.pop(verdict.detail, None):
            yield f"{', '.join(rungs)}: {verdict.verdict} ({verdict.detail})"


def _log_tail(triage: Triage, row: Row, most: int) -> str:
    """What tells most of what its first cell printed to standard error: the innermost of a stack, else the end."""
    record = row.records[0]
    tail = record.crash.stderr_tail if record.crash else ""
    if not tail and not record.attempt:  # the file goes on from attempt to attempt
        tail = read_tail(triage.run.path / ARTIFACTS / row.cell_ids[0] / "stderr.txt", TAIL_BYTES)
    lines = [line for line in tail.splitlines() if line.strip() and not line.startswith(_NOISE)]
    threads = [number for number, line in enumerate(lines) if _THREAD.match(line)]
    if not threads:
        return "\n".join(lines[-most:])
    before = lines[max(0, threads[0] - 2) : threads[0]]  # what happened, and why: an assertion, a signal
    stacks = [lines[start:end] for start, end in pairwise([*threads, len(lines)])]
    told = next((stack for stack in stacks if stack[0].startswith("Current")), None)
    told = told or next((stack for stack in stacks if not any(_WAITING in line for line in stack)), stacks[0])
    return "\n".join([*before, *told][:most])


def _span(first: str, last: str) -> str:
    """`2026-11-21 09:30:00 – 09:41:10`."""
    start, end = (text[:19].replace("T", " ") for text in (first, last))
    if start == end:
        return start
    return f"{start} – {end[11:] if start[:10] == end[:10] else end}"


def _join(texts: Sequence[str], most: int) -> str:
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {more:,} more" if more > 0 else "")


def _data(triage: Triage, row: Row, run_name: str) -> dict[str, Any]:
    signature, rule = row.signature, row.rule
    return {
        "id": signature.id,
        "class": signature.class_,
        "title": signature.title,
        "detail": signature.fault.detail,
        "meaning": row.fault.meaning,
        "key": signature.key,
        "is_new": row.is_new,
        "outcomes": [str(outcome) for outcome in row.outcomes],
        "stage": str(signature.stage),
        "reason": row.records[0].reason,
        "faulting": _kernel(signature.faulting),
        "culprit": _kernel(signature.culprit),
        "victim": signature.victim,
        "victims": list(row.victims),
        "cells": row.cell_ids,
        "first_seen": row.first_seen,
        "last_seen": row.last_seen,
        "rule": {
            "text": row.rule_text,
            "precision": rule.precision,
            "coverage": rule.coverage,
            "is_exact": rule.is_exact,
            "is_telling": rule.is_telling,
            "expected": rule.expected,
            "conditions": [asdict(condition) for condition in rule.conditions],
            "against": rule.against,
            "support": {name: getattr(rule, name) for name in _SUPPORT},
        },
        "twins": [
            {"cell": twin.cell, "twin": twin.twin, "differs": {d.axis: _pair(d.failed, d.clean) for d in twin.differs}}
            for twin in row.twins
        ],
        "hazards": [{"cell": cell, **asdict(hazard)} for cell, hazard in row.hazards],
        "diagnosis": {**asdict(row.diagnosis), "text": row.diagnosis.text} if row.diagnosis else None,
        "verdicts": [asdict(verdict) for verdict in row.verdicts],
        "reproduce": reproduce_command(run_name, row.cell_ids[0]),
        "log_tail": _log_tail(triage, row, LOG_LINES),
    }


_SUPPORT = ("crashed", "of_crashed", "clean", "of_clean", "unknown")


def _pair(failed: Scalar, clean: Scalar) -> list[Scalar]:
    return [failed, clean]


def _kernel(kernel: Kernel | Culprit | None) -> dict[str, Any] | None:
    return asdict(kernel) if kernel else None


def _flat(row: Row, texts: ShownRow) -> dict[str, Any]:
    signature = row.signature
    flat: dict[str, Any] = {name: getattr(texts, name) for name in _TEXTS}
    for name, kernel in (("faulting", signature.faulting), ("culprit", signature.culprit)):
        if kernel:
            flat |= {f"{name}_{part}": value for part, value in asdict(kernel).items()}
    return flat | {
        "class": signature.class_,
        "is_new": "" if row.is_new is None else str(row.is_new).lower(),
        "cells": " ".join(row.cell_ids),
        "first_seen": row.first_seen,
        "last_seen": row.last_seen,
        "precision": f"{row.rule.precision:.6g}",
        "coverage": f"{row.rule.coverage:.6g}",
        "twins": "; ".join(texts.twins),
        "verdicts": "; ".join(texts.verdicts),
        "diagnosis": texts.diagnosis,
        "reproduce": texts.command,
    }
