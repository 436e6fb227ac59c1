"""Reports on disk: the only place in `report` that writes."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from gpubench.analysis.compare import RunComparison
from gpubench.analysis.run import Run
from gpubench.collection import garbage_collection_paused
from gpubench.errors import StoreError, UsageError
from gpubench.records import Scalar
from gpubench.report.compare_html import compare_html
from gpubench.report.compare_json import compare_json
from gpubench.report.compare_markdown import compare_markdown
from gpubench.report.content import Content, read_content
from gpubench.report.export import to_csv, to_json
from gpubench.report.html import render_html
from gpubench.report.markdown import markdown_report

__all__ = ["FORMATS", "write_comparison", "write_report"]

_RENDER: dict[str, Callable[[Content], str]] = {
    "html": render_html,
    "md": markdown_report,
    "csv": to_csv,
    "json": to_json,
}
FORMATS = tuple(_RENDER)
_RENDER_COMPARISON: dict[str, Callable[[RunComparison], str]] = {
    "html": compare_html,
    "md": compare_markdown,
    "json": compare_json,
}


@garbage_collection_paused()
def write_report(
    runs: Sequence[Run], formats: Sequence[str], out: Path, against: Mapping[str, Scalar] | None = None
) -> list[Path]:
    """Write `report.<format>` for each format into the folder `out`, and give back the files' paths.

    Several runs are laid over one another; `against`, an axis and its value, is what the others are compared with. A
    file is written whole or not at all. Raises UsageError for a format, an axis or a value that doesn't exist,
    StoreError when the disk refuses.
    """
    for name in formats:
        _require_format(name, FORMATS)
    content = read_content(runs, against)
    return [_write(out / f"report.{name}", _RENDER[name](content)) for name in dict.fromkeys(formats)]


def write_comparison(comparison: RunComparison, formats: Sequence[str], out: Path) -> list[Path]:
    """Write `compare.<format>` for each format into the folder `out`, and give back the files' paths."""
    for name in formats:
        _require_format(name, tuple(_RENDER_COMPARISON))
    return [_write(out / f"compare.{name}", _RENDER_COMPARISON[name](comparison)) for name in dict.fromkeys(formats)]


def _require_format(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise UsageError(f"--format {name}: no such format{hint} known: {', '.join(known)}")


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError as error:
        raise StoreError(
            f"{path}: can't write the report: {error.strerror}; choose a folder with room for it with --out"
        ) from error
    return path


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
