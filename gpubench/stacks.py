"""Python stacks as evidence: whose a frame is, and what faulthandler left of a process that could say no more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from gpubench.records import Frame

__all__ = ["first_in_app", "is_in_app", "name_place", "parse_stack"]

_LIBRARY_PACKAGES = {"torch", "triton", "nvtx"}

_STANDARD_LIBRARY = re.compile(r"/lib(?:64)?/python3\.\d+t?/")
_THREAD = re.compile(r"(?:Current thread|Thread) 0x[0-9a-f]+\b.*\(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d{1,9}) in (.*)')

WAITING = "_wait_for_tasks"
"""The function in which a worker's thread waits for its next task."""


def is_in_app(file: str) -> bool:
    """Whether a file is the cell's own code: not torch's, Triton's, Python's or the worker's; on any machine."""
    parts = Path(file).parts
    if file.startswith("<") or _is_workers(file):
        return False
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            package = parts[parts.index(folder) + 1 :]
            return bool(package) and package[0] not in _LIBRARY_PACKAGES
    return not _STANDARD_LIBRARY.search(file)


def first_in_app(frames: Sequence[Frame]) -> Frame | None:
    """The innermost frame of the cell's own code, of frames that go outwards."""
    return next((frame for frame in frames if is_in_app(frame.file)), None)


def name_place(frames: Sequence[Frame]) -> str:
    """` (mine.py:12)`, to be put behind a word: the innermost line that is the cell's own, or "" if none is."""
    frame = first_in_app(frames)
    return f" ({Path(frame.file).name}:{frame.line})" if frame else ""


def parse_stack(text: str) -> list[Frame]:
    """The stack that tells of a death or a hang, innermost first, from the last report that faulthandler wrote.

    It is the current thread's. Where that is none of Python's, as when CUDA aborts the process, it is the first of
    those that aren't in the worker's own module: its other threads wait there for tasks.
    """
    _, _, report = text.rpartition("Fatal Python error")
    lines = report.splitlines()
    stacks = {line: _read_frames(lines[number + 1 :]) for number, line in enumerate(lines) if _THREAD.match(line)}
    current = [frames for line, frames in stacks.items() if frames and line.startswith("Current")]
    others = [frames for frames in stacks.values() if frames and not _is_waiting(frames)]
    return next(iter(current + others), [])


def _read_frames(lines: Sequence[str]) -> list[Frame]:
    found = (_FRAME.match(line) for line in lines)
    return [Frame(match[1], int(match[2]), match[3]) for match in takewhile(bool, found) if match]


def _is_waiting(frames: Sequence[Frame]) -> bool:
    return any(_is_workers(frame.file) and frame.function == WAITING for frame in frames)


def _is_workers(file: str) -> bool:
    return Path(file).parts[-3:-1] == ("gpubench", "worker")
