"""What tests of decode steps share: every tiny model there is, its steps over a growing past, parts of its batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpubench.models.base import ModelConfig
from gpubench.models.deepseek import DeepseekCache
from gpubench.models.presets import PRESETS
from gpubench.models.variant import Variant
from gpubench.registry import Step
from gpubench.tensors import find_tensors

TINY = [name for name in PRESETS if name.startswith("tiny-")]

SHAPES: dict[str, dict[str, Any]] = {"tiny-mla-indexer": {"indexer": {"heads": 16}}}
"""What is changed of them. Of few index heads all are often negative: scores of 0, ties that each breaks its way."""


def find_tiny(name: str) -> ModelConfig:
    """The config of that name."""
    return Variant(name, shape=SHAPES.get(name)).config


def vary_weights(model: torch.nn.Module) -> None:
    """Draw what a new model has the same everywhere, norms above all: so that nobody can leave it out unseen."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))


@dataclass(frozen=True)
class Told:
    """What some steps gave, one row per step."""

    tokens: Tensor
    """[steps, batch]."""
    logits: Tensor
    """[steps, batch, vocabulary]."""


def follow(step: Step, inputs: Mapping[str, Any], steps: int, given: Tensor | None = None) -> Told:
    """Run a set-up's step over and over, each on the tokens that the one before chose, or on those `given`.

    The step reads a past of one length, so that it can be compiled or captured. That past grows all the same: after
    each step the model itself, eagerly, puts the token that was read where a sequence of that length has it.
    """
    model, cache, tokens = (inputs[name] for name in ("decoder", "cache", "tokens"))
    chosen, logits = [], []
    for position in range(steps):
        outputs = step()
        chosen.append(outputs["tokens"].clone())
        logits.append(outputs["logits"].clone())
        model(tokens, cache.prefix(position + 1))
        tokens.copy_(chosen[-1] if given is None else given[position])
    return Told(torch.stack(chosen), torch.stack(logits))


@dataclass(frozen=True)
class _Part:
    """Some sequences of a batch, and the pages of theirs, which have other numbers where they are alone."""

    rows: list[int]
    batch: int
    table: Tensor | None = None
    """Of the whole batch's pages."""

    def take(self, value: Any, name: str = "") -> Any:
        if isinstance(value, Tensor):
            return self._take_tensor(value, name)
        if isinstance(value, list):
            return [self.take(entry) for entry in value]
        if not is_dataclass(value) or isinstance(value, type):
            return value
        pages = getattr(value, "pages", None)
        part = self if pages is None else replace(self, table=pages.table)
        return replace(
            value, **{field.name: part.take(getattr(value, field.name), field.name) for field in fields(value)}
        )

    def _take_tensor(self, value: Tensor, name: str) -> Tensor:
        if self.table is not None and name in ("table", "last"):
            pages = torch.arange(len(self.rows) * self.table.shape[1]).view(len(self.rows), -1)
            return (pages if name == "table" else pages[:, -1]).to(value)
        if self.table is not None and value.dim() and value.shape[0] == self.table.numel():
            return value[self.table[self.rows].flatten().long()]
        return value[self.rows] if value.dim() and value.shape[0] == self.batch else value.clone()


def take(cache: Any, rows: list[int], batch: int) -> Any:
    """A cache of its own for some sequences of one of `batch`, a number that no other first dimension has."""
    return _Part(rows, batch).take(cache)


def remembered(cache: Any) -> list[Tensor]:
    """What a cache holds of the past, without what an indexer works in."""
    if isinstance(cache, DeepseekCache):
        return [*cache.entries, *(index.keys for index in cache.indexes)]
    return find_tensors(cache)


def run(model: Callable[[Tensor, Any], Tensor], cache: Any, given: Tensor) -> Tensor:
    """Logits [steps, batch, vocabulary] of one step after another on `given` [steps, batch] at the cache's end."""
    return torch.stack([model(tokens, cache) for tokens in given])


def distance(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖, the worst over all but the last dimension."""
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()
