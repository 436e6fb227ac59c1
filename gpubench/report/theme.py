"""Colours and symbols, the same on the page and in a notebook.

Groups are told apart by colour and by symbol, so that neither a printer nor colour blindness loses one. The colours
are Okabe and Ito's, without the yellow that white paper swallows and with a darker orange and sky blue, which have at
least three to one against it; on dark they are lighter ones of the same hues. An outcome's colour is of words, too, and
has 4.5 to one.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.analysis.frames import NOT_RUN
from gpubench.records import Outcome

__all__ = ["DARK", "FONT", "LIGHT", "OUTCOMES", "SYMBOLS", "OutcomeStyle", "Surface"]

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Surface:
    """What a plot is drawn on."""

    ink: str
    muted: str
    grid: str
    paper: str
    colours: tuple[str, ...]
    """Of groups, in their order."""
    parts: tuple[str, ...]
    """Of the ranges within a step, most time first: other colours than the groups', and darker to lighter."""
    rest: str
    """Of what ran in none of these ranges."""


LIGHT = Surface(
    ink="#1c2430",
    muted="#667085",
    grid="#eceef2",
    paper="#ffffff",
    colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c28500", "#2f97d6", "#7f6bb3", "#8c8c8c"),
    parts=("#1f4e79", "#3f86b8", "#2a9d8f", "#93b87f", "#e2c065", "#ef9d6b"),
    rest="#a9b4c2",
)
DARK = Surface(
    ink="#e6e9ef",
    muted="#98a2b3",
    grid="#262c36",
    paper="#14181f",
    colours=("#4ba8e0", "#f2854a", "#2fc496", "#e0a0c6", "#f0b840", "#9ad6f7", "#ab9ce0", "#b4b8be"),
    parts=("#4d86c0", "#74aedb", "#37b3a3", "#a3ca92", "#ead088", "#f4b48d"),
    rest="#6d7889",
)


@dataclass(frozen=True)
class OutcomeStyle:
    """How an outcome looks: never by colour alone."""

    colour: str
    dark: str
    """The colour on a dark page."""
    glyph: str
    symbol: str
    """Plotly's name of the marker."""
    phrase: str
    """After a number: `2 ran out of memory`."""


OUTCOMES = {
    Outcome.OK: OutcomeStyle("#12805c", "#3ecf9a", "●", "circle", "ok"),
    Outcome.CRASH: OutcomeStyle("#c8323c", "#ff7a80", "✕", "x", "crashed"),
    Outcome.OOM: OutcomeStyle("#a5478f", "#e08fd0", "▲", "triangle-up", "ran out of memory"),
    Outcome.TIMEOUT: OutcomeStyle("#a85a00", "#f2a44a", "◆", "diamond", "timed out"),
    Outcome.ERROR: OutcomeStyle("#b9442f", "#ff8f78", "■", "square", "raised an error"),
    Outcome.MISMATCH: OutcomeStyle("#7350ea", "#ab97ff", "≠", "cross", "gave a wrong result"),
    Outcome.INVALID: OutcomeStyle("#5663c8", "#95a2ff", "★", "star", "gave an invalid result"),
    Outcome.SKIPPED: OutcomeStyle("#667085", "#98a2b3", "○", "circle-open", "skipped"),
    NOT_RUN: OutcomeStyle("#6a7280", "#8791a0", "·", "line-ew-open", "not run"),
}
"""By outcome, the gravest first after ok; its order is the strip's."""
