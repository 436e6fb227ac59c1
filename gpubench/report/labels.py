"""What all cells of a report are, or a part of them, by their workload's hook `label`: for the page's head."""

from __future__ import annotations

from collections import Counter, defaultdict

from gpubench.analysis.conditions import labels_of
from gpubench.report.content import Content

__all__ = ["label_facts"]

MOST_VALUES = 3
"""A label that says more things than that is of single cells, and stands on their pages."""


def label_facts(content: Content) -> dict[str, list[str]]:
    """By label, in words, what it says, with `(12 of 78 cells)` unless it is of all; axes say it themselves."""
    axes = set(content.axes)
    labelled = [labels for cell in content.cells() if (labels := labels_of(cell))]
    said: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for labels in labelled:
        for name, text in labels.items():
            if name not in axes:
                said[name][text] += 1
    return {
        name.replace("_", " "): [_counted(text, count, len(labelled)) for text, count in texts.items()]
        for name, texts in said.items()
        if len(texts) <= MOST_VALUES
    }


def _counted(text: str, count: int, cells: int) -> str:
    return text if count == cells else f"{text} ({count} of {cells} cells)"
