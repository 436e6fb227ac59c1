"""A cell's stdout and stderr, bounded: the beginning and the end are kept, what lies between is counted."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["LIMIT_BYTES", "drop_if_empty", "read_tail", "trim"]

LIMIT_BYTES = 4 << 20
KEPT_BYTES = 256 << 10


def trim(path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Cut a log that has outgrown its limit to its first and last 256 KiB; safe while a process appends to it.

    What the process writes between the reading and the cutting is lost and not counted: the price for a disk that a
    runaway cell can't fill.
    """
    try:
        size = path.stat().st_size
        if size <= limit_bytes:
            return
        with path.open("r+b") as file:
            file.seek(size - KEPT_BYTES)
            tail = file.read(KEPT_BYTES)
            file.truncate(KEPT_BYTES)
        with path.open("ab") as file:
            cut = size - KEPT_BYTES - len(tail)
            file.write(b"\n[gpubench: about %d bytes cut here]\n" % cut + tail)
    except FileNotFoundError:
        return


def read_tail(path: Path, length_bytes: int = 4096) -> str:
    """The end of a log as text, whole lines where possible; "" when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - length_bytes))
            return file.read(length_bytes).decode(errors="replace").strip()
    except OSError:
        return ""


def drop_if_empty(folder: Path, *names: str) -> None:
    """Remove the logs that nothing was written to, and their folder if nothing else is in it."""
    for name in names:
        path = folder / name
        if path.is_file() and path.stat().st_size == 0:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
