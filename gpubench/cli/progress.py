"""How a running sweep looks: a live bar on a terminal, plain lines elsewhere, JSON for machines, or nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from gpubench.cli.console import count_cells, plain
from gpubench.cli.figures import OUTCOME_STYLES, headline
from gpubench.records import CellRecord, Outcome
from gpubench.run.events import (
    CellRecorded,
    CellStarted,
    PassStarted,
    StopNoticed,
    SweepEvent,
    SweepStarted,
    WorkerStarted,
)

__all__ = ["JsonLines", "LiveBar", "PlainLines", "Quiet", "Renderer", "choose_renderer"]

STOPPING = "[yellow]stopping after the running cell; Ctrl-C again stops now[/]"


class Renderer(Protocol):
    """Shows events one by one, between entering and leaving."""

    def show(self, event: SweepEvent) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def choose_renderer(console: Console, *, quiet: bool, as_json: bool) -> Renderer:
    """What fits the flags and the terminal."""
    if as_json:
        return JsonLines()
    if quiet:
        return Quiet()
    # what can't move its cursor shows no bar, and would be left without the counts
    return LiveBar(console) if console.is_terminal and not console.is_dumb_terminal else PlainLines(console)


class Quiet:
    """Shows nothing; the exit code tells."""

    def show(self, event: SweepEvent) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class JsonLines(Quiet):
    """One JSON object per event on standard output: `{"event": "cell_recorded", …}`."""

    def show(self, event: SweepEvent) -> None:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__)
        body = {"event": name.lstrip("_"), **asdict(event, dict_factory=_as_on_disk)}
        sys.stdout.write(json.dumps(body) + "\n")
        sys.stdout.flush()


def _as_on_disk(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a dataclass by the names that readers know: `pass` is `pass_` in Python alone."""
    return {name.rstrip("_"): value for name, value in fields}


class PlainLines(Quiet):
    """A line per cell that ended: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cells = CellCount()

    def show(self, event: SweepEvent) -> None:
        match event:
            case SweepStarted():
                self._cells = CellCount(event.todo)
                self._console.print(_opening(event), soft_wrap=True)
            case StopNoticed():
                self._console.print(STOPPING)
            case PassStarted():
                self._cells = CellCount(event.todo)
                self._console.print(_next_pass(event), soft_wrap=True)
            case WorkerStarted() if event.reason:
                self._console.print(f"[dim]worker {event.worker} on {escape(event.device)} ({escape(event.reason)})[/]")
            case CellRecorded() if self._cells.add(event):
                ended = self._cells.ended
                width = len(str(self._cells.expected))
                self._console.print(
                    f"[dim]{ended:>{width}}/{self._cells.expected}[/] {_line(self._cells.records_of(event.record))}",
                    soft_wrap=True,
                )


class LiveBar(Quiet):
    """A bar with the cell, its stage, the time left and the counts; what has ended scrolls by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cells = CellCount()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TextColumn("[dim]{task.description}[/]"),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("starting a worker", total=None, counts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: SweepEvent) -> None:
        match event:
            case SweepStarted():
                self._cells = CellCount(event.todo)
                self._progress.update(self._bar, total=event.todo)
                self._console.print(_opening(event), soft_wrap=True)
            case StopNoticed():
                self._console.print(STOPPING)
            case PassStarted():
                self._cells = CellCount(event.todo)
                self._progress.reset(self._bar, total=event.todo, completed=0, counts="")
                self._console.print(_next_pass(event), soft_wrap=True)
            case CellStarted():
                self._progress.update(self._bar, description=f"{escape(event.cell_id)} {event.stage}")
            case CellRecorded() if self._cells.add(event):
                self._progress.update(self._bar, completed=self._cells.ended, counts=self._cells.text())
                self._console.print(_line(self._cells.records_of(event.record)), soft_wrap=True)


class CellCount:
    """Cells and their records so far. A cell can end several times when its trials are tasks of their own."""

    def __init__(self, expected: int = 0) -> None:
        self.expected = expected
        self._records: dict[str, list[CellRecord]] = defaultdict(list)
        self._outcomes: dict[str, Outcome] = {}

    @property
    def ended(self) -> int:
        return len(self._outcomes)

    def add(self, event: CellRecorded) -> bool:
        """Count a record; True when it ended its cell."""
        self._records[event.record.cell_id].append(event.record)
        if event.is_last:
            self._outcomes[event.record.cell_id] = event.record.outcome
        return event.is_last

    def records_of(self, record: CellRecord) -> list[CellRecord]:
        return self._records[record.cell_id]

    def text(self) -> str:
        counts = Counter(self._outcomes.values())
        failed = sum(count for outcome, count in counts.items() if outcome.is_failure)
        parts = [f"[green]{counts[Outcome.OK]} ok[/]"]
        if counts[Outcome.SKIPPED]:
            parts.append(f"[dim]{counts[Outcome.SKIPPED]} skipped[/]")
        if failed:
            parts.append(f"[red]{failed} failed[/]")
        return " ".join(parts)


def _opening(event: SweepStarted) -> str:
    done = event.cells - event.todo
    what = count_cells(event.todo)
    if done:
        have = "has its answer" if done == 1 else "have their answers"
        what = f"{event.todo} of {count_cells(event.cells)} ({done} {have})"
    return f"[bold]{escape(event.run_id)}[/] {what} on {escape(event.device)}, {escape(event.profiler)}"


def _next_pass(event: PassStarted) -> str:
    what = "profiled again, as their trace was lost:" if event.is_again else "profiled pass"
    return f"[bold]{what}[/] {count_cells(event.todo)} under {escape(event.profiler)}"


def _line(records: Sequence[CellRecord]) -> str:
    last = records[-1]
    told = (headline(records) or " ".join(last.warnings[-1:])) if last.outcome is Outcome.OK else last.reason
    return f"[{OUTCOME_STYLES[last.outcome]}]{last.outcome:<8}[/] {escape(last.cell_id)}  {escape(plain(told))}"
