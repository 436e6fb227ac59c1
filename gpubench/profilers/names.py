"""What the ranges of a cell are called in a trace. The worker opens them; the join looks them up."""

from __future__ import annotations

__all__ = ["DOMAIN", "cell_range", "eager_range", "repetition_range"]

DOMAIN = "gpubench:"
"""How nsys prefixes the names of gpubench's own ranges."""


def cell_range(cell_id: str) -> str:
    """The name that a projection gives a cell's range."""
    return f"{DOMAIN}cell={cell_id}"


def repetition_range(cell_id: str) -> str:
    """The name that a projection gives each of a cell's profiled repetitions."""
    return f"{cell_range(cell_id)}/rep"


def eager_range(cell_id: str) -> str:
    """The name that a projection gives the one eager run of a cell's step, if it otherwise replays a graph."""
    return f"{cell_range(cell_id)}/eager"
