"""A command's own metrics: where each is to be found, and reading it from what the command printed or wrote."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from gpubench.errors import ArgumentError, CommandFailed
from gpubench.registry import OwnMeasurement, check_metric_name
from gpubench.workloads.command.process import Output

__all__ = ["MetricSource", "note_files", "parse_sources", "read_metric"]

CLOCK_TICK_S = 0.02
"""File systems date a write by a clock that may tick as rarely as every 10 ms."""

FileState = tuple[int, int, int] | None
"""Inode, size and time of the last write; None while there is no such file."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MetricSource:
    """Where a metric is found: a path into JSON, or a pattern whose group is the number."""

    json: str | None = None
    """Keys and list indices joined by dots: `results.0.tok_s`."""
    pattern: str | None = None
    """A regular expression with one group; its last match counts. ^ and $ are the ends of a line."""
    file: str = "stdout"
    """`stdout`, `stderr`, or the path of a file that the command writes; placeholders are filled in."""
    unit: str = ""
    """SI prefixes are taken off for the record: what is given in ms becomes seconds."""
    higher_is_better: bool | None = None
    """None: as gpubench knows a metric of that name, or else by its unit."""

    def __post_init__(self) -> None:
        if (self.json is None) == (self.pattern is None):
            raise ValueError("give either json, a path of keys, or pattern, a regular expression")
        if self.pattern is not None and (groups := _compile(self.pattern).groups) != 1:
            raise ValueError(f"the pattern has {groups} groups; put the number, and nothing else, in (…)")


_SOURCES = TypeAdapter(dict[str, MetricSource])


def parse_sources(metrics: Mapping[str, Any]) -> dict[str, MetricSource]:
    """Read the `metrics` param of a command; ArgumentError names the metric, the key and the value."""
    if "step_time" in metrics:
        raise ArgumentError("metrics: step_time is the command's wall time; call a time that it reports something else")
    for name in metrics:
        try:
            check_metric_name(name)
        except ValueError as error:
            raise ArgumentError(f"metrics: {error}") from None
    try:
        return _SOURCES.validate_python(dict(metrics))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(["metrics", *map(str, first["loc"])])
        raise ArgumentError(
            f"{place}: {first['msg']}; got {first['input']!r}; the keys are json or pattern, file, unit, "
            "higher_is_better"
        ) from None


def note_files(files: Iterable[str]) -> dict[str, FileState]:
    """The state of each file before the command runs, by which a file that it leaves untouched is told."""
    before = {file: _state(Path(file)) for file in files if file not in ("stdout", "stderr")}
    newest_ns = max((state[2] for state in before.values() if state is not None), default=0)
    if time.time_ns() - newest_ns < CLOCK_TICK_S * 1e9:
        time.sleep(CLOCK_TICK_S)  # else a rewrite of the same size could bear the same date
    return before


def read_metric(
    name: str, source: MetricSource, file: str, output: Output, before: Mapping[str, FileState]
) -> OwnMeasurement:
    """Read one metric from `file`, the source's with its placeholders filled in.

    CommandFailed if it isn't there, isn't a finite number, or stands in a file that this run didn't write.
    """
    text = _read_text(name, file, output, before)
    found = _find_by_key(name, source.json, file, text) if source.json is not None else None
    if source.pattern is not None:
        found = _find_by_pattern(name, source.pattern, file, text)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise CommandFailed(f"metric {name}: {file} gives {found!r}; wanted a finite number")
    return OwnMeasurement(name, source.unit, float(found), higher_is_better=source.higher_is_better)


def _read_text(name: str, file: str, output: Output, before: Mapping[str, FileState]) -> str:
    if file == "stdout":
        return output.stdout
    if file == "stderr":
        return output.stderr
    path = Path(file)
    if before[file] is not None and before[file] == _state(path):
        raise CommandFailed(f"metric {name}: {file} is older than this run of the command, which did not write it")
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise CommandFailed(
            f"metric {name}: can't read {file}, which the command was to write: {error.strerror}"
        ) from error


def _find_by_key(name: str, keys: str, file: str, text: str) -> Any:
    value = _parse_json(name, file, text)
    walked: list[str] = []
    for key in keys.split("."):
        place = ".".join(walked) or "the top"
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise CommandFailed(f"metric {name}: {file} has no {key!r} at {place}; there is {_outline(value)}")
        walked.append(key)
    return value


def _parse_json(name: str, file: str, text: str) -> Any:
    """The whole text; or its last line, since programs log before they report."""
    last_line = (text.strip().splitlines() or [""])[-1]
    for candidate in (text, last_line):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    raise CommandFailed(f"metric {name}: neither {file} nor its last line is JSON; the last line: {last_line[:200]!r}")


def _outline(value: Any) -> str:
    if isinstance(value, dict):
        return "keys " + (", ".join(map(str, value)) or "none")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value)


def _find_by_pattern(name: str, pattern: str, file: str, text: str) -> float:
    matches = _compile(pattern).findall(text)
    if not matches:
        last = "\n".join(text.splitlines()[-3:])
        raise CommandFailed(f"metric {name}: nothing in {file} matches {pattern!r}; it ends with {last[-300:]!r}")
    try:
        return float(matches[-1])
    except ValueError:
        raise CommandFailed(f"metric {name}: {pattern!r} caught {matches[-1]!r} in {file}; wanted a number") from None


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


def _state(path: Path) -> FileState:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
