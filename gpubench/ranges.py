"""Named ranges: what the profilers later project onto the GPU's time, and where a cell was when it died.

Under a profiler a range is one of NVTX's, in the domain `gpubench`, so that `nsys` names it `gpubench:attention`. In an
unprofiled pass it is none, and next to nothing: while samples are taken it costs what an empty context manager does.
Otherwise it is marked in a file that outlives the process; and an exception takes the names of the ranges along that it
leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from gpubench.marks import RangeMarks, pad

__all__ = ["DOMAIN", "annotate", "left_ranges", "mark_ranges", "prepare_ranges", "switch_ranges"]

DOMAIN = "gpubench"

_LEFT = "_gpubench_ranges"
"""The attribute of an exception that names the ranges it has left, outermost first."""

_NO_RANGE = nullcontext()


class _Range:
    """A range outside of any profiler; one object serves every block of its name."""

    marks: RangeMarks | None = None
    """Where they are marked now."""

    __slots__ = ("_name", "_padded")

    def __init__(self, name: str) -> None:
        self._name = name
        self._padded = pad(name)

    def __enter__(self) -> None:
        if self.marks is not None:
            self.marks.enter(self._padded)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.marks is not None:
            self.marks.leave()
        if error is not None:
            _note_left(error, self._name)


class _NvtxRange(_Range):
    """The same, told to a profiler."""

    __slots__ = ("_nvtx",)

    def __init__(self, name: str) -> None:
        import nvtx

        super().__init__(name)
        self._nvtx: Any = nvtx.annotate(name, domain=DOMAIN)

    def __enter__(self) -> None:
        super().__enter__()
        self._nvtx.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._nvtx.__exit__(kind, error, traceback)
        super().__exit__(kind, error, traceback)


@dataclass
class _State:
    """What this process, which measures one thing at a time, does with ranges."""

    has_nvtx: bool = True
    marks: RangeMarks | None = None
    is_tracing: Callable[[], bool] = bool
    """Whether torch.compile is looking on."""
    ranges: dict[str, _Range] = field(default_factory=dict)


_state = _State()


def annotate(name: str) -> AbstractContextManager[object]:
    """Open the range `gpubench:name` around a block, for instance around a layer of a model.

    Ranges nest. They survive a graph capture: what a replay runs is given back to the range it was captured in. Within
    a region that torch.compile fuses they mean nothing, and are left out.
    """
    if _state.is_tracing():
        return _NO_RANGE
    return _state.ranges.get(name) or _make_range(name)


def switch_ranges(on: bool) -> None:
    """Open NVTX ranges from now on, or leave them out. None is open when this is called: a new cell begins."""
    _state.has_nvtx = on
    _state.ranges.clear()
    if _state.marks is not None:
        _state.marks.clear()


def mark_ranges(on: bool) -> None:
    """Mark open ranges from now on, or save the tenth of a microsecond that a mark takes."""
    _Range.marks = _state.marks if on else None


def prepare_ranges(marks: RangeMarks | None, is_tracing: Callable[[], bool]) -> None:
    """Say where open ranges are to be marked, and how to tell that torch.compile is looking on."""
    _state.marks, _state.is_tracing = marks, is_tracing
    mark_ranges(True)


def left_ranges(error: BaseException | None) -> list[str]:
    """The ranges that an exception was raised in, outermost first, or else the one that it was made from."""
    while error is not None:
        if names := error.__dict__.get(_LEFT):
            return list(names)
        error = error.__cause__ or error.__context__
    return []


def _make_range(name: str) -> _Range:
    return _state.ranges.setdefault(name, _NvtxRange(name) if _state.has_nvtx else _Range(name))


def _note_left(error: BaseException, name: str) -> None:
    error.__dict__[_LEFT] = [name, *error.__dict__.get(_LEFT, [])]
