"""Colours that can be read: words have 4.5 to one against what they stand on, marks three to one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpubench.report import theme

CSS = (Path(theme.__file__).parent / "page" / "report.css").read_text(encoding="utf-8")
PAPERS = re.findall(r"--raised: (#\w{6})", CSS)
"""What the page's tables stand on where they are not plain paper: light, then dark."""


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("outcome", theme.OUTCOMES)
def test_an_outcomes_word_can_be_read_on_light_and_on_dark(outcome):
    style = theme.OUTCOMES[outcome]
    assert contrast(style.colour, PAPERS[0]) >= 4.5
    assert contrast(style.dark, PAPERS[1]) >= 4.5


@pytest.mark.parametrize("surface", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_a_groups_marks_stand_out_from_the_paper_and_its_words_more(surface):
    assert min(contrast(colour, surface.paper) for colour in surface.colours) >= 3
    assert min(contrast(colour, surface.paper) for colour in (surface.ink, surface.muted)) >= 4.5
