"""Where the tensors of a state were when graphs were captured: a graph remembers addresses, and replays them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from gpubench.errors import StaleGraphError

__all__ = ["Path", "Places", "state_tensors"]


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


def state_tensors(value: Any, path: Path | None = None) -> Iterator[tuple[Path, Tensor]]:
    """The tensors of a state and where they are: in dataclasses, mappings and lists."""
    path = path or Path()
    if isinstance(value, Tensor):
        yield path, value
    elif is_dataclass(value):
        for part in fields(value):
            yield from state_tensors(getattr(value, part.name), path.attribute(part.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from state_tensors(item, path.item(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from state_tensors(item, path.item(index))


@dataclass(frozen=True)
class Places:
    """The addresses and sizes of some tensors of a state."""

    paths: tuple[Path, ...]
    found: list[tuple[int, torch.Size]]

    @classmethod
    def of(cls, paths: Iterable[Path], tensors: Sequence[Tensor]) -> Places:
        """Those that `tensors`, which are at these paths, have now."""
        return cls(tuple(paths), _places(tensors))

    @classmethod
    def of_all(cls, state: Any) -> Places:
        """Those of all tensors of a state."""
        known = list(state_tensors(state))
        return cls.of((path for path, _ in known), [value for _, value in known])

    def refuse_others(self, tensors: Sequence[Tensor], graphs: str) -> None:
        """StaleGraphError if one of the tensors at these paths isn't what it was; `graphs` says which were captured."""
        found = _places(tensors)
        if found == self.found:
            return
        number = next(number for number, place in enumerate(self.found) if found[number] != place)
        (was, old), (now, new) = self.found[number], found[number]
        moved = f"was at {was:#x}; it is at {now:#x} now"
        resized = f"at {was:#x} had the sizes {list(old)}; it has {list(new)} now"
        raise StaleGraphError(
            f"{graphs} were captured when {self.paths[number]} {moved if was != now else resized}. "
            "Call reset, then warm_up and capture"
        )


def _places(tensors: Sequence[Tensor]) -> list[tuple[int, torch.Size]]:
    return [(value.data_ptr(), value.shape) for value in tensors]
