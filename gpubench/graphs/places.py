"""What a state was when graphs were captured: a graph remembers addresses, sizes and values, and replays them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NoReturn
from weakref import ref

import torch
from torch import Tensor

from gpubench.errors import ArgumentError, StaleGraphError

__all__ = ["Path", "Places", "copy_argument", "recall", "state_parts", "state_tensors"]


@dataclass(frozen=True)
class Path:
    """Where a tensor is in a state: `keys[3]`."""

    steps: tuple[tuple[bool, Any], ...] = ()
    """Names of attributes, and what to index by: whether it is the latter, and the name or key."""

    def attribute(self, name: str) -> Path:
        return Path((*self.steps, (False, name)))

    def item(self, key: Any) -> Path:
        return Path((*self.steps, (True, key)))

    def get(self, state: Any) -> Any:
        """What is there in this state."""
        for is_item, key in self.steps:
            state = state[key] if is_item else getattr(state, key)
        return state

    def __str__(self) -> str:
        text = "".join(f"[{key!r}]" if is_item else f".{key}" for is_item, key in self.steps)
        return text.removeprefix(".") or "the state"


def state_parts(value: Any, path: Path | None = None) -> Iterator[tuple[Path, Any]]:
    """The tensors of a state, in dataclasses, mappings and lists, and all else that is there: where, and what.

    What is no tensor, a step's Python may have read, and a trace has taken for a constant.
    """
    path = path or Path()
    if is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from state_parts(getattr(value, part.name), path.attribute(part.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from state_parts(item, path.item(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from state_parts(item, path.item(index))
    else:
        yield path, value


def recall(value: Any) -> Any:
    """A value of a state to compare another with: a weak reference, so that nothing large is kept, or where there can
    be none, as to a number, itself."""
    return ref(value) if type(value).__weakrefoffset__ else value


def state_tensors(state: Any) -> Iterator[tuple[Path, Tensor]]:
    """The tensors of a state and where they are."""
    return ((path, value) for path, value in state_parts(state) if isinstance(value, Tensor))


@dataclass(frozen=True)
class Places:
    """Some tensors of a state and all that is there beside tensors, as graphs take them for granted."""

    paths: tuple[Path, ...]
    """Of the tensors."""
    found: list[tuple[int, torch.Size]]
    """Their addresses and sizes …"""
    layouts: list[tuple[tuple[int, ...], torch.dtype]]
    """… strides and dtypes."""
    known: list[ref[Tensor]]
    """The tensors themselves: of these, addresses and sizes say enough."""
    values: list[tuple[Path, Any]]
    """As `recall` gives them."""

    @classmethod
    def of(cls, state: Any, paths: Iterable[Path] | None = None) -> Places:
        """What is in a state now; of its tensors those at these paths, or all."""
        parts = list(state_parts(state))
        values = [(path, recall(value)) for path, value in parts if not isinstance(value, Tensor)]
        paths = [path for path, value in parts if isinstance(value, Tensor)] if paths is None else list(paths)
        tensors: list[Tensor] = [path.get(state) for path in paths]
        layouts = [(value.stride(), value.dtype) for value in tensors]
        return cls(tuple(paths), _places(tensors), layouts, [ref(value) for value in tensors], values)

    def tensors(self, state: Any, graphs: str) -> list[Tensor]:
        """The tensors at these paths; StaleGraphError if one of them, or a value, isn't what it was. `graphs` says
        which were captured."""
        try:
            tensors: list[Tensor] = [path.get(state) for path in self.paths]
            is_same = _places(tensors) == self.found and all(map(_is, self.known, tensors))
        except _GONE:
            tensors, is_same = [], False
        if not is_same:
            self._refuse_others(state, graphs)
        for path, value in self.values:
            if (now := _look(path, state)) is not value and not _is_equal(now, value):
                _refuse(
                    graphs, f"{path} was {_show(value() if isinstance(value, ref) else value)}; it is {_show(now)} now"
                )
        return tensors

    def _refuse_others(self, state: Any, graphs: str) -> None:
        """StaleGraphError for the first that isn't what it was; there may be none, for other tensors may be alike."""
        for path, (was, old), (strides, dtype) in zip(self.paths, self.found, self.layouts, strict=True):
            value = _look(path, state)
            if not isinstance(value, Tensor):
                _refuse(graphs, f"{path} was a tensor; it is {_show(value)} now")
            if value.data_ptr() != was:
                _refuse(graphs, f"{path} was at {was:#x}; it is at {value.data_ptr():#x} now")
            at = f"{path} at {was:#x}"
            if value.shape != old:
                _refuse(graphs, f"{at} had the sizes {list(old)}; it has {list(value.shape)} now")
            if value.stride() != strides:
                _refuse(graphs, f"{at} had the strides {list(strides)}; it has {list(value.stride())} now")
            if value.dtype != dtype:
                _refuse(graphs, f"{at} was of {dtype}; it is of {value.dtype} now")


def copy_argument(buffer: Tensor, value: Tensor, name: str) -> None:
    """Copy a step's argument to where its graph reads it; ArgumentError for another shape or dtype, which a copy would
    spread or convert."""
    if value.shape != buffer.shape or value.dtype != buffer.dtype:
        raise ArgumentError(
            f"{name} is {list(value.shape)} of {value.dtype}; captured was {list(buffer.shape)} of {buffer.dtype}"
        )
    buffer.copy_(value)


_GONE = (AttributeError, LookupError, TypeError)
"""What a path meets that leads nowhere any more, or to something that is no tensor."""


def _look(path: Path, state: Any) -> Any:
    """What is at a path; None where it leads nowhere."""
    try:
        return path.get(state)
    except _GONE:
        return None


def _places(tensors: Sequence[Tensor]) -> list[tuple[int, torch.Size]]:
    return [(value.data_ptr(), value.shape) for value in tensors]


def _is(known: ref[Tensor], value: Tensor) -> bool:
    return known() is value


def _is_equal(now: Any, was: Any) -> bool:
    now = recall(now)
    return type(now) is type(was) and bool(now == was)


def _show(value: Any) -> str:
    """A value in an error: a tensor isn't read from its device for it."""
    return "a tensor" if isinstance(value, Tensor) else repr(value)


def _refuse(graphs: str, what: str) -> NoReturn:
    raise StaleGraphError(f"{graphs} were captured when {what}. Call reset, then warm_up and capture")
