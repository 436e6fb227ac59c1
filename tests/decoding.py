"""What tests of decode steps share: every tiny model there is, its steps over a growing past, and parts of its batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpubench.models.presets import PRESETS
from gpubench.registry import Step

TINY = [name for name in PRESETS if name.startswith("tiny-")]


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
        if given is not None and position:
            tokens.copy_(given[position - 1])
        outputs = step()
        chosen.append(outputs["tokens"].clone())
        logits.append(outputs["logits"].clone())
        model(tokens, cache.prefix(position + 1))
        tokens.copy_(outputs["tokens"])
    return Told(torch.stack(chosen), torch.stack(logits))


def take(cache: Any, rows: list[int], batch: int) -> Any:
    """A cache of its own for some sequences of one of `batch`, a number that no other first dimension has."""
    if isinstance(cache, Tensor):
        return cache[rows].clone() if cache.dim() and cache.shape[0] == batch else cache.clone()
    if isinstance(cache, list):
        return [take(entry, rows, batch) for entry in cache]
    if is_dataclass(cache) and not isinstance(cache, type):
        return replace(cache, **{field.name: take(getattr(cache, field.name), rows, batch) for field in fields(cache)})
    return cache


def run(model: Callable[[Tensor, Any], Tensor], cache: Any, given: Tensor) -> Tensor:
    """Logits [steps, batch, vocabulary] of one step after another on `given` [steps, batch] at the cache's end."""
    return torch.stack([model(tokens, cache) for tokens in given])


def distance(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖, the worst over all but the last dimension."""
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()
