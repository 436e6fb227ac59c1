"""What torch.compile compiles while a cell runs: how many graphs, and for how long. Nothing where nobody uses it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CompileWatch"]


@dataclass(frozen=True)
class _Reading:
    graphs: int = 0
    seconds: float = 0.0


def _read() -> _Reading:
    """Dynamo's own counters; importing it only to find them at zero would take a second."""
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return _Reading()
    return _Reading(
        utils.counters["stats"]["unique_graphs"], utils.cumulative_time_spent_ns.get("entire_frame_compile", 0) / 1e9
    )


@dataclass(frozen=True)
class CompileWatch:
    """Counts from when it was made."""

    _before: _Reading = field(default_factory=_read)

    @property
    def details(self) -> dict[str, Any]:
        """For the record: `{"compiled": {"graphs": 2, "seconds": 12.3}}`, if there was anything."""
        now = _read()
        graphs = now.graphs - self._before.graphs
        if not graphs:
            return {}
        seconds = now.seconds - self._before.seconds
        # torch.compiler.reset, which a cell may call, begins the time anew, but not the count
        return {"compiled": {"graphs": graphs, "seconds": round(seconds if seconds >= 0 else now.seconds, 3)}}
