"""A cell's stdout and stderr, bounded: the beginning and the end are kept, what lies between is counted."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

__all__ = ["KEPT_BYTES", "LIMIT_BYTES", "read_tail", "relieve", "settle"]

LIMIT_BYTES = 4 << 20
KEPT_BYTES = 256 << 10
"""Of either end."""

BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the file system's own block is."""


def relieve(path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Give back the disk space of a growing log's middle, once it takes more than its limit.

    The file keeps its length with a hole in it, so that whoever is appending to it notices nothing and no line is
    lost at either end. Where the file system can't make holes, the log is only cut when its cell has ended.
    """
    try:
        with path.open("r+b") as file:
            status = os.fstat(file.fileno())
            if status.st_blocks * BLOCK_BYTES > limit_bytes:
                _punch_hole(file.fileno(), KEPT_BYTES, status.st_size - 2 * KEPT_BYTES)
    except FileNotFoundError:
        return


def settle(folder: Path, *names: str, limit_bytes: int = LIMIT_BYTES) -> None:
    """Once nothing writes any more: cut what is too long to its two ends, and remove what is empty."""
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        size = path.stat().st_size
        if size == 0:
            path.unlink()
        elif size > limit_bytes:
            _cut(path, size)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(size - KEPT_BYTES)
        tail = file.read()
        file.truncate(KEPT_BYTES)
        file.seek(KEPT_BYTES)
        file.write(b"\n[gpubench: %d bytes cut here]\n" % (size - 2 * KEPT_BYTES) + tail)


def _punch_hole(descriptor: int, offset: int, length: int) -> None:
    keep_size, punch_hole = 0x01, 0x02  # FALLOC_FL_*, linux/falloc.h
    fallocate = ctypes.CDLL(None).fallocate
    fallocate(descriptor, keep_size | punch_hole, ctypes.c_int64(offset), ctypes.c_int64(length))


def read_tail(path: Path, length_bytes: int = 4096, start: int = 0) -> str:
    """The end of a log as text, at most from byte `start` on; "" when there is none."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= end else 0, end - length_bytes))  # it may have been cut since
            return file.read(length_bytes).decode(errors="replace").strip()
    except OSError:
        return ""
