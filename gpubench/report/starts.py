"""What the starts of captured steps took, and whether a first capture foretold what graphs hold after the second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pandas as pd

from gpubench.analysis import columns as c
from gpubench.analysis.memory import is_of_bucket
from gpubench.analysis.metrics import format_value
from gpubench.report.content import Content

__all__ = ["StartTable", "is_of_start", "start_table"]

_TIMES = {"trace_time": "traced", "start_time": "started"}
_RECAPTURES = {
    "recapture_time": "recaptured",
    "release_time": "of it, released",
    "graphs_estimated": "estimate",
    "graphs_kept": "kept",
}
_IN_THE_END = ["last captures", "held", "held / estimate"]
_WORDS = (
    "A start is warming up and capturing, all buckets together; tracing comes before it, once for cells that share it."
)
_WORDS_OF_RECAPTURES = (
    "In two phases, the estimate is what captures with a small cache took of the device, and kept what of it didn't "
    "come back when they were released. Held in the end is that, and what the last captures took: above 1× of the "
    "estimate they took more than it foretold."
)


@dataclass(frozen=True)
class StartTable:
    """A row per cell and step that was captured; no rows without any."""

    head: list[str]
    body: list[list[str]]
    has_recaptures: bool
    """Some started in two phases: then the columns have what that took, too."""

    @property
    def words(self) -> str:
        """What the columns mean."""
        return f"{_WORDS} {_WORDS_OF_RECAPTURES}" if self.has_recaptures else _WORDS


def is_of_start(frame: pd.DataFrame) -> pd.Series:
    """The rows of a cell frame that tell of a captured step's start: their range, if they have one, says of which step.

    Those are of cells with buckets: in others, a metric of such a name is a workload's own.
    """
    is_named = frame[c.METRIC].isin([*_TIMES, *_RECAPTURES])
    if not is_named.any():
        return is_named
    cells = pd.MultiIndex.from_frame(frame[[c.RUN_ID, c.CELL_ID]])
    return is_named & cells.isin(cells[is_of_bucket(frame)].unique())


def start_table(content: Content) -> StartTable:
    """Seconds of tracing and of the start after that; of starts in two phases, those of capturing again, and memory.

    What graphs hold in the end is what the first captures didn't give back, and what the last ones took of the device.
    """
    starts = _starts(content)
    has_recaptures = bool(starts["recapture_time"].notna().any())
    head = ["cell", *_TIMES.values(), *([*_RECAPTURES.values(), *_IN_THE_END] if has_recaptures else [])]
    body = []
    for run_cell_step, start in starts.iterrows():
        run_id, cell_id, step = cast("tuple[str, str, str]", run_cell_step)
        figures = [format_value(start[name] or None, "s") for name in _TIMES]  # one graph of the whole isn't traced
        name = ", ".join(filter(None, (content.cell_name(run_id, cell_id), step)))
        body.append([name, *figures, *(_recapture(start) if has_recaptures else [])])
    return StartTable(head if body else [], body, has_recaptures)


def _starts(content: Content) -> pd.DataFrame:
    """The medians by run, cell and step, in the order of the cells; `device` is what all buckets took of it."""
    keys, names, frame = [c.RUN_ID, c.CELL_ID, c.RANGE], [*_TIMES, *_RECAPTURES], content.frame
    found = frame[is_of_start(frame) & frame[c.MEDIAN].notna()].drop_duplicates([*keys, c.METRIC])
    starts = found.set_index([*keys, c.METRIC])[c.MEDIAN].unstack(c.METRIC).reindex(columns=names)
    captured = content.captures().groupby([c.RUN_ID, c.CELL_ID, "step"])
    taken = captured["device"].sum(min_count=1).rename_axis(keys)
    place = content.places()
    ordered = sorted(starts.index, key=lambda key: (place[key[:2]], key[2]))
    return starts.assign(device=taken.reindex(starts.index)).loc[ordered]


def _recapture(start: pd.Series) -> list[str]:
    """What follows its times; a start in one phase has only what its captures took, and hold."""
    kept = 0.0 if pd.isna(start["graphs_estimated"]) else start["graphs_kept"]
    held = start["device"] + kept
    share = held / start["graphs_estimated"] if start["graphs_estimated"] else None
    shown = [format_value(start[name], "s" if name.endswith("_time") else "B") for name in _RECAPTURES]
    return [*shown, format_value(start["device"], "B"), format_value(held, "B"), format_value(share, "×")]
