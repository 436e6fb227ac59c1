"""What tests of decode steps share: every tiny model there is, its steps over a growing past, and what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpubench.models.base import DecodeModel, ModelConfig
from gpubench.models.deepseek import DeepseekCache
from gpubench.models.gated_delta import GatedDeltaCache
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


def remembered(cache: Any) -> list[Tensor]:
    """What a cache holds of the past, without what an indexer works in."""
    if isinstance(cache, DeepseekCache):
        return [*cache.entries, *(index.keys for index in cache.indexes)]
    return find_tensors(cache)


def decode(model: DecodeModel, given: Tensor) -> Tensor:
    """Logits [steps, batch, vocabulary] of sequences `given` [steps, batch] that are read token by token."""
    steps, batch = given.shape
    cache = model.make_cache(batch, steps)
    for layer in getattr(cache, "layers", []):
        if isinstance(layer, GatedDeltaCache):  # as if nothing had been read yet
            layer.state.zero_()
            layer.conv.zero_()
    return torch.stack([model(tokens, cache.prefix(step + 1)) for step, tokens in enumerate(given)])


def run(model: Callable[[Tensor, Any], Tensor], cache: Any, given: Tensor) -> Tensor:
    """Logits [steps, batch, vocabulary] of one step after another on `given` [steps, batch] at the cache's end."""
    return torch.stack([model(tokens, cache) for tokens in given])


def distance(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖, the worst over all but the last dimension."""
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max().item()
