"""Where a process is, for others to read after its death: the open ranges, in a file that it maps into its memory.

Writing costs a fraction of a microsecond and no system call, and the file has what was written however the process
ends. One byte says how many ranges are open, and the slots behind it name them.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FILE_NAME", "RangeMarks", "name_ranges", "pad", "read_marks"]

FILE_NAME = "ranges.bin"

CELL_RANGE = "cell="
"""How the names of the worker's own ranges begin, which say nothing that its records don't."""

SLOTS, SLOT_BYTES = 32, 128
_HEADER_BYTES = 64
_SIZE = _HEADER_BYTES + SLOTS * SLOT_BYTES
_COUNT = 0
_MOST_OPEN = 255


class RangeMarks:
    """The writing end. Ranges deeper than there are slots are counted and not named."""

    def __init__(self, path: Path) -> None:
        with path.open("w+b") as file:
            # Written, not just sized: on a disk that is full later, a page that was never there would be a SIGBUS.
            file.write(bytes(_SIZE))
            file.flush()
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def enter(self, name: bytes) -> None:
        """Mark a range, its name already padded by `pad`."""
        count = self._map[_COUNT]
        if count < SLOTS:
            start = _HEADER_BYTES + count * SLOT_BYTES
            self._map[start : start + SLOT_BYTES] = name
        if count < _MOST_OPEN:
            self._map[_COUNT] = count + 1

    def leave(self) -> None:
        count = self._map[_COUNT]
        if count:
            self._map[_COUNT] = count - 1

    def clear(self) -> None:
        """No range is open: a new cell begins."""
        self._map[_COUNT] = 0


def pad(name: str) -> bytes:
    """A range's name as a slot takes it."""
    return name.encode("utf-8", "replace")[:SLOT_BYTES].ljust(SLOT_BYTES, b"\0")


def read_marks(path: Path) -> list[str]:
    """The ranges that were open when the file was last written, outermost first; none if there is no such file."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    if len(content) != _SIZE:
        return []
    starts = range(_HEADER_BYTES, _SIZE, SLOT_BYTES)
    slots = [content[start : start + SLOT_BYTES] for start in starts[: content[_COUNT]]]
    return [slot.rstrip(b"\0").decode(errors="replace") for slot in slots]


def name_ranges(names: Sequence[str]) -> str:
    """Nested ranges, outermost first, as `Crash.open_range` has them: `layer_03/attention`."""
    return "/".join(name for name in names if not name.startswith(CELL_RANGE))
