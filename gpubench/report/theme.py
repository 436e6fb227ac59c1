"""Colours and symbols, the same on the page and in a notebook.

Groups are told apart by colour and by symbol, so that neither a printer nor colour blindness loses one. The colours
are Okabe and Ito's, without the yellow that white paper swallows.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.analysis.frames import NOT_RUN
from gpubench.records import Outcome

__all__ = ["COLOURS", "DARK", "FONT", "LIGHT", "OUTCOMES", "SYMBOLS", "OutcomeStyle", "Surface"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bb3", "#8c8c8c")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Surface:
    """What a plot is drawn on."""

    ink: str
    muted: str
    grid: str
    paper: str


LIGHT = Surface(ink="#1c2430", muted="#667085", grid="#eceef2", paper="#ffffff")
DARK = Surface(ink="#e6e9ef", muted="#98a2b3", grid="#262c36", paper="#14181f")


@dataclass(frozen=True)
class OutcomeStyle:
    """How an outcome looks: never by colour alone."""

    colour: str
    glyph: str
    symbol: str
    """Plotly's name of the marker."""
    phrase: str
    """After a number: `2 ran out of memory`."""


OUTCOMES = {
    Outcome.OK: OutcomeStyle("#12805c", "●", "circle", "ok"),
    Outcome.CRASH: OutcomeStyle("#c8323c", "✕", "x", "crashed"),
    Outcome.OOM: OutcomeStyle("#b0539a", "▲", "triangle-up", "ran out of memory"),
    Outcome.TIMEOUT: OutcomeStyle("#c2680a", "◆", "diamond", "timed out"),
    Outcome.ERROR: OutcomeStyle("#c8503c", "■", "square", "raised an error"),
    Outcome.MISMATCH: OutcomeStyle("#7a5af0", "≠", "cross", "gave a wrong result"),
    Outcome.INVALID: OutcomeStyle("#5d6bd0", "★", "star", "gave an invalid result"),
    Outcome.SKIPPED: OutcomeStyle("#7b8494", "○", "circle-open", "skipped"),
    NOT_RUN: OutcomeStyle("#9aa2b0", "·", "line-ew-open", "not run"),
}
"""By outcome, the gravest first after ok; its order is the strip's."""
