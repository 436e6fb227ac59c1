"""What the page tells of a cell beyond its figures: stale addresses in its graphs, and the fault that it died of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpubench.report.content import Content
from gpubench.triage import Triage

__all__ = ["hazards", "signatures"]

MOST_HAZARDS = 12
"""Of a cell on a page; their count says how many there are."""


def hazards(content: Content) -> dict[int, list[Any]]:
    """By row of `cells`: [how many, the first of them in words]; the same one in several records is one."""
    found: dict[int, list[Any]] = {}
    for row, cell in enumerate(content.cells()):
        texts = list(dict.fromkeys(hazard.text for record in cell.records for hazard in record.hazards))
        if texts:
            found[row] = [len(texts), texts[:MOST_HAZARDS]]
    return found


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
