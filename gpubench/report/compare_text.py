"""A comparison of two runs in words: what the terminal, the Markdown and the page show of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpubench.analysis.compare import ComparedCell, RunComparison
from gpubench.analysis.frontier import axis_text
from gpubench.analysis.metrics import Metric, format_value
from gpubench.analysis.movement import Movement
from gpubench.analysis.statistics import Ratio
from gpubench.analysis.verdicts import CERTAINTY, Figure, Judgement, Verdict

__all__ = [
    "CERTAIN",
    "GLYPHS",
    "ShownComparison",
    "ShownMovement",
    "ShownRow",
    "change_text",
    "interval_text",
    "show_comparison",
]

GLYPHS: Mapping[Verdict, str] = {
    Verdict.SLOWER: "▼",
    Verdict.NEWLY_FAILING: "✗",
    Verdict.FASTER: "▲",
    Verdict.NEWLY_OK: "✓",
    Verdict.CHANGED: "≠",
    Verdict.UNCLEAR: "?",
    Verdict.SAME: "=",
    Verdict.MISSING: "−",
    Verdict.NEW: "+",
    Verdict.STILL_FAILING: "✗",
}
"""Told apart without colour."""
_ORDER = {verdict: place for place, verdict in enumerate(Verdict)}
LARGE = 2.0
"""From how many times on a change is shown as a factor, not in percent."""
CERTAIN = f"{CERTAINTY:.0%}"


@dataclass(frozen=True)
class ShownRow:
    """A line of the table: one metric of a cell, or what became of the cell as a whole."""

    verdict: Verdict
    cell_id: str
    axes: tuple[str, ...]
    metric: str
    """"" where the cell as a whole is meant."""
    before: str
    after: str
    change: str
    interval: str
    note: str

    @property
    def glyph(self) -> str:
        return GLYPHS[self.verdict]


@dataclass(frozen=True)
class ShownMovement:
    """A frontier's line: its area, and what it yields at fixed values of x."""

    group: str
    verdict: Verdict
    area: str
    cells: int
    levels: tuple[str, ...]

    @property
    def glyph(self) -> str:
        return GLYPHS[self.verdict]


@dataclass(frozen=True)
class ShownComparison:
    """All of a comparison as texts."""

    headline: str
    tallies: tuple[str, ...]
    axes: tuple[str, ...]
    rows: tuple[ShownRow, ...]
    """Regressions first, what is the same last."""
    frontier: str
    """What the movements are of: `tok/s/GPU against tok/s/user`."""
    movements: tuple[ShownMovement, ...]
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    rule: str
    """How verdicts are made, in a sentence."""


def show_comparison(comparison: RunComparison) -> ShownComparison:
    """The comparison as texts, worst first."""
    rows = [row for cell in comparison.cells for row in _rows(comparison, cell)]
    rows.sort(key=lambda item: (_ORDER[item[1].verdict], -item[0]))
    first = comparison.movements[0] if comparison.movements else None
    return ShownComparison(
        headline=_headline(comparison),
        tallies=tuple(_tallies(comparison)),
        axes=comparison.axes,
        rows=tuple(row for _, row in rows),
        frontier=f"{first.y.label} against {first.x.label}" if first else "",
        movements=tuple(_show_movement(found, comparison.threshold) for found in comparison.movements),
        differences=comparison.differences,
        notes=comparison.notes,
        rule=_rule(comparison),
    )


def change_text(value: float) -> str:
    """A ratio as a change: `+5.2%`, `−12.0%`, or `3.10×` from `LARGE` times on."""
    return f"{value:.3g}×" if _is_large(value) else f"{_percent(value)}%"


def interval_text(change: Ratio) -> str:
    """The ends in the form of the change itself: `(+4.1 … +6.3)` in percent, or `(3.02 … 3.19)` times."""
    ends = (change.low, change.high)
    texts = [f"{end:.3g}" if _is_large(change.value) else _percent(end) for end in ends]
    return f"({texts[0]} … {texts[1]})"


def _is_large(value: float) -> bool:
    return value >= LARGE or value <= 1 / LARGE


def _percent(value: float) -> str:
    percent = (value - 1) * 100
    text = f"{abs(percent):.2f}" if abs(percent) < 0.995 else f"{abs(percent):,.1f}"
    sign = "" if float(text.replace(",", "")) == 0 else "+" if percent > 0 else "−"
    return f"{sign}{text}"


def _headline(comparison: RunComparison) -> str:
    """Each cell counts once: one that is slower in a metric and faster in another is slower."""
    slower = [cell for cell in comparison.cells if Verdict.SLOWER in cell.verdicts]
    both = sum(Verdict.FASTER in cell.verdicts for cell in slower)
    faster = sum(Verdict.FASTER in cell.verdicts for cell in comparison.cells) - both
    judged = {Verdict.SLOWER, Verdict.FASTER}
    changed = sum(Verdict.CHANGED in cell.verdicts and not judged & {*cell.verdicts} for cell in comparison.cells)
    fates = comparison.fates()
    parts = [
        (len(slower), f"slower ({both:,} of them faster in another metric)" if both else "slower"),
        (fates[Verdict.NEWLY_FAILING], "newly failing"),
        (faster, "faster"),
        (fates[Verdict.NEWLY_OK], "newly ok"),
        (changed, "changed"),
        (fates[Verdict.MISSING], "missing"),
        (fates[Verdict.NEW], "new"),
        (fates[Verdict.STILL_FAILING], "still failing"),
    ]
    said = ", ".join(f"{number:,} {word}" for number, word in parts if number)
    total = len(comparison.cells)
    if said:
        return f"Of {total:,} cell{'s' if total != 1 else ''}: {said}."
    return f"No clear change in {total:,} cell{'s' if total != 1 else ''}."


def _tallies(comparison: RunComparison) -> Iterator[str]:
    """`step time, by wall: 2 slower (worst +7.1%), 30 same; geometric mean of the changes +0.31%`."""
    for metric in comparison.metrics:
        judged = [j for cell in comparison.cells for j in cell.judgements if j.metric.key == metric.key]
        if not judged:
            continue
        counts = Counter(found.verdict for found in judged)
        words = [f"{counts[verdict]:,} {verdict}{_extreme(judged, verdict)}" for verdict in Verdict if counts[verdict]]
        logs = [math.log(found.change.value) for found in judged if found.change]
        mean = f"; geometric mean of the changes {change_text(math.exp(sum(logs) / len(logs)))}" if logs else ""
        yield f"{metric.label}{_timed(judged)}: {', '.join(words)}{mean}"


def _timed(judged: Sequence[Judgement]) -> str:
    """`, by nsys`."""
    figures = [figure for found in judged for figure in (found.before, found.after) if figure]
    timers = dict.fromkeys(figure.timer for figure in figures if figure.timer)
    return f", by {' and '.join(timers)}" if timers else ""


def _extreme(judged: Sequence[Judgement], verdict: Verdict) -> str:
    word = {Verdict.SLOWER: "worst", Verdict.FASTER: "best"}.get(verdict)
    changes = [found.change.value for found in judged if found.verdict is verdict and found.change]
    if word is None or not changes:
        return ""
    return f" ({word} {change_text(max(changes, key=lambda value: abs(math.log(value))))})"


def _rows(comparison: RunComparison, cell: ComparedCell) -> Iterator[tuple[float, ShownRow]]:
    """A cell's lines, each with the size of its change, by which lines of one verdict are sorted."""
    axes = tuple(axis_text(cell.pair.arguments.get(name)) for name in comparison.axes)
    cell_id = cell.pair.cell.cell.cell_id
    if cell.fate:
        before, after = (
            str(side.outcome or "not run") if side else "–" for side in (cell.pair.before, cell.pair.after)
        )
        yield 0.0, ShownRow(cell.fate, cell_id, axes, "", before, after, "", "", cell.why)
        return
    for found in cell.judgements:
        change = found.change
        size = abs(math.log(change.value)) if change else 0.0
        yield (
            size,
            ShownRow(
                verdict=found.verdict,
                cell_id=cell_id,
                axes=axes,
                metric=found.metric.label,
                before=_figure(found.before, found.metric),
                after=_figure(found.after, found.metric),
                change=change_text(change.value) if change else "",
                interval=interval_text(change) if change else "",
                note=_note(found),
            ),
        )


def _figure(figure: Figure | None, metric: Metric) -> str:
    return format_value(figure.median, metric.unit) if figure else "–"


def _note(found: Judgement) -> str:
    """Why the verdict is what it is; of an unclear one, what is said of the samples of either run."""
    figures = [figure for figure in (found.before, found.after) if figure and found.verdict is Verdict.UNCLEAR]
    warnings = dict.fromkeys(text for figure in figures for text in figure.warnings)
    return "; ".join(filter(None, [found.why, *warnings]))


def _show_movement(found: Movement, threshold: float) -> ShownMovement:
    is_beyond = abs(math.log(found.area.value)) > math.log1p(threshold)
    verdict = Verdict.UNCLEAR
    if found.area.is_clear and is_beyond:
        verdict = Verdict.FASTER if found.area.value > 1 else Verdict.SLOWER
    elif 1 / (1 + threshold) <= found.area.low and found.area.high <= 1 + threshold:
        verdict = Verdict.SAME
    levels = []
    for level in found.levels:
        place = f"at {format_value(level.x, found.x.unit)}"
        if level.change is None:
            levels.append(f"{place}: no cell gets there in {'the second' if level.before else 'the first'} run")
        else:
            values = " → ".join(format_value(value, found.y.unit) for value in (level.before, level.after))
            levels.append(f"{place}: {values} ({change_text(level.change)})")
    area = f"{change_text(found.area.value)} {interval_text(found.area)}"
    return ShownMovement(found.group, verdict, area, found.cells, tuple(levels))


def _rule(comparison: RunComparison) -> str:
    bound = f"{comparison.threshold * 100:g}%"
    neutral = [metric.label for metric in comparison.metrics if metric.higher_is_better is None]
    changed = f" Of {', '.join(neutral)} neither way is better: such a change is called changed." if neutral else ""
    return (
        f"A change is the ratio of two medians with its {CERTAIN} interval. Slower and faster: the interval leaves out "
        f"“no change”, and the change is beyond {bound}. Same: the whole interval is within {bound}. Unclear: neither."
        f"{changed}"
    )
