"""The terminal: how wide it is, and texts that it shows as they are meant."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["count_cells", "open_console", "plain"]

PIPE_WIDTH = 120
"""Where there is neither a terminal nor COLUMNS to say."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def open_console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error, as wide as its terminal is."""
    from rich.console import Console

    has_width = (sys.stderr if stderr else sys.stdout).isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if has_width else PIPE_WIDTH, highlight=False)


def plain(text: str) -> str:
    """What a cell printed, without what a terminal would obey: escape sequences, turned text."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\t", "    "))


def count_cells(count: int) -> str:
    """`1 cell`, `12 cells`."""
    return f"{count} cell{'' if count == 1 else 's'}"
