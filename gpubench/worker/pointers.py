"""The pointer audit of one cell: its CUDA graphs are looked through before a replay can use a stale address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from gpubench.graphs.audit import Audit
from gpubench.graphs.hazards import identity_of, make_hazards
from gpubench.records import Hazard, Outcome
from gpubench.worker.failure import CellStopped

__all__ = ["PointerAudit"]

MOST_HAZARDS = 100
"""That are kept of a cell: a graph may hold a stale cache in every layer."""
MOST_WARNINGS = 3


class Watch(Protocol):
    """What sees a cell's captures."""

    num_seen: int
    problem: str

    def open(self) -> None: ...

    def audit(self) -> list[Audit]: ...

    def stop_recording(self) -> None: ...

    def close(self) -> None: ...


class PointerAudit:
    """Watches a cell's captures until it is closed, and judges their addresses whenever it is asked to."""

    def __init__(self, watch: Watch, hazards: list[Hazard], tell: Callable[[list[Hazard]], None], *, is_fatal: bool):
        self.hazards = hazards
        """What was found so far; it grows."""
        self._is_fatal = is_fatal
        self._tell = tell
        self._watch = watch
        self._last: list[Audit] = []
        self._watch.open()

    @property
    def has_captured(self) -> bool:
        """Whether the cell has captured anything."""
        return self._watch.num_seen > 0

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

    def stop_recording(self) -> None:
        """From now on time counts, and the allocator's traffic isn't recorded."""
        self._watch.stop_recording()

    def look(self) -> list[str]:
        """Judge every graph as things are now; gives a warning of what is new, or stops the cell if that is wanted.

        What is found is told at once, for the cell may not live to tell it. What is only possible is kept and counted,
        and neither warned of nor a reason to stop.
        """
        self._last = self._watch.audit()
        known = {identity_of(hazard) for hazard in self.hazards}
        found = [hazard for hazard in make_hazards(self._last) if identity_of(hazard) not in known]
        if not found:
            return []
        kept = found[: MOST_HAZARDS - len(self.hazards)]
        self.hazards += kept
        self._tell(kept)
        texts = [f"a CUDA graph holds a stale address: {hazard.text}" for hazard in found if hazard.is_certain]
        if texts and self._is_fatal:
            others = f", and {len(texts) - 1:,} more" if len(texts) > 1 else ""
            raise CellStopped(Outcome.INVALID, texts[0] + others)
        more = len(texts) - MOST_WARNINGS
        addresses = "address" if more == 1 else "addresses"
        return texts[:MOST_WARNINGS] + ([f"and {more:,} more stale {addresses} in its CUDA graphs"] if more > 0 else [])

    @property
    def details(self) -> dict[str, str]:
        """For the record: what was looked at when it was last, if anything was captured."""
        return {"graph_pointers": self._describe()} if self.has_captured else {}

    def _describe(self) -> str:
        if self._watch.problem:
            return f"not checked: {self._watch.problem}"
        nodes, pointers = sum(audit.nodes for audit in self._last), sum(audit.pointers for audit in self._last)
        certain = sum(hazard.is_certain for hazard in self.hazards)
        possible = len(self.hazards) - certain
        stale = f"{certain:,} stale" if certain else "none stale"
        stale += f", {possible:,} possibly" if possible else ""
        unread = sum((Counter(audit.unread) for audit in self._last), start=Counter[str]())
        kinds = "".join(f"; {count:,} {kind} nodes not looked into" for kind, count in sorted(unread.items()))
        graphs = "1 graph" if len(self._last) == 1 else f"{len(self._last):,} graphs"
        return f"{graphs}, {nodes:,} nodes, {pointers:,} addresses, {stale}{kinds}"
