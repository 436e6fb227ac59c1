"""The tensors that objects hold, wherever in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch

__all__ = ["count_bytes", "find_tensors"]


def find_tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor in containers, in modules and in objects' attributes; in the same order in objects built alike."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, Mapping):
            pending += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            pending += item
        elif hasattr(item, "__dict__") and not isinstance(item, type | ModuleType | FunctionType):
            pending += vars(item).values()  # a torch.nn.Module too: its parameters and children are in dicts there
    return found


def count_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What they take, views of the same memory counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if tensor.layout is torch.strided
    }
    return sum(storages.values())
