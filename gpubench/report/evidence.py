"""What the page tells of a cell beyond its figures: its fault, stale addresses in its graphs, what it left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpubench.report.content import Content
from gpubench.run.logs import read_tail
from gpubench.run.worker import LOG_NAMES
from gpubench.store import ARTIFACTS
from gpubench.triage import Triage

__all__ = ["files", "hazards", "printed", "signatures"]

MOST_HAZARDS = 12
"""Of a cell on a page; their count says how many there are."""
MOST_FILES = 12
"""Of a cell on a page."""
TAIL_BYTES = 4096
ALL_TAILS_BYTES = 1 << 20
"""What is printed beyond this stays in the run's folder: what went wrong is rather in stderr."""


def hazards(content: Content) -> dict[int, list[Any]]:
    """By row of `cells`: [how many, the first of them in words]; the same one in several records is one."""
    found: dict[int, list[Any]] = {}
    for row, cell in enumerate(content.cells()):
        texts = list(dict.fromkeys(hazard.text for record in cell.records for hazard in record.hazards))
        if texts:
            found[row] = [len(texts), texts[:MOST_HAZARDS]]
    return found


def files(content: Content) -> dict[int, list[str]]:
    """What cells left in their folders besides their logs, by row of `cells`: paths from the run's folder."""
    found: dict[int, list[str]] = {}
    cells = [(run.path, cell.cell.cell_id) for run in content.runs for cell in run.cells]
    for row, (path, cell_id) in enumerate(cells):
        folder = path / ARTIFACTS / cell_id
        if folder.is_dir():
            left = sorted(
                f"{ARTIFACTS}/{cell_id}/{file.name}" for file in folder.iterdir() if file.name not in LOG_NAMES
            )
            found |= {row: left[:MOST_FILES]} if left else {}
    return found


def printed(content: Content) -> dict[int, str]:
    """The end of what failed cells wrote to stdout, by row of `cells`, up to a limit over all of them."""
    texts: dict[int, str] = {}
    size = 0
    cells = [(run.path, cell) for run in content.runs for cell in run.cells]
    for row, (path, cell) in enumerate(cells):
        if cell.outcome is None or not cell.outcome.is_failure or size >= ALL_TAILS_BYTES:
            continue
        text = read_tail(path / ARTIFACTS / cell.cell.cell_id / "stdout.txt", TAIL_BYTES)
        if text.strip():
            texts[row] = text
            size += len(text)
    return texts


def signatures(content: Content, triages: Sequence[Triage]) -> dict[str, Any]:
    """`found`: [id, title] of each signature; `rows`: its number by row of `cells`."""
    place = {
        (run.run_id, cell_id): row
        for row, (run, cell_id) in enumerate((run, cell.cell.cell_id) for run in content.runs for cell in run.cells)
    }
    found = [(triage.run.run_id, row) for triage in triages for row in triage.rows]
    return {
        "found": [[row.signature.id, row.signature.title] for _, row in found],
        "rows": {
            place[run_id, cell_id]: number for number, (run_id, row) in enumerate(found) for cell_id in row.cell_ids
        },
    }
