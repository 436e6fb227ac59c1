"""A small hybrid whose weights follow from a formula.

The weights need no generator, so they are the same with every version of torch on every machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpubench.models.base import DecodeModel
from gpubench.models.hybrid import HybridConfig, HybridModel
from gpubench.models.moe import MoeShape
from gpubench.models.shapes import GatedDeltaShape

CONFIG = HybridConfig(
    layers=8,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=32,
    rotary_dims=8,
    delta=GatedDeltaShape(key_heads=2, value_heads=6, k=16, v=32, conv=4),
    moe=MoeShape(experts=12, top_k=3, intermediate=24, shared_intermediate=40),
    vocabulary=97,
    context=64,
)
SEQUENCES, STEPS = 3, 24


def numbers(*shape: int, seed: int) -> Tensor:
    """Float32 numbers that look evenly spread over (−1, 1), by integer arithmetic alone."""
    x = torch.arange(torch.Size(shape).numel()) + 1_000_003 * seed
    for multiplier in (1_103_515_245, 69_069):
        x = (x * multiplier + 12_345) % 2**31
        x ^= x >> 15
    return (x.double() / 2**30 - 1).float().view(shape)


def tokens() -> Tensor:
    """[SEQUENCES, STEPS]."""
    return ((numbers(SEQUENCES, STEPS, seed=0) + 1) / 2 * CONFIG.vocabulary).long().clamp(max=CONFIG.vocabulary - 1)


def make_model(attention: Any = "torch", **changes: int) -> HybridModel:
    """The model of CONFIG with `changes`, its weights from the formula."""
    model = replace(CONFIG, **changes).build(torch.float32, attention)
    for seed, (name, parameter) in enumerate(model.named_parameters(), start=1):
        drawn = numbers(*parameter.shape, seed=seed)
        if name.endswith("norm"):
            drawn = 1 + 0.3 * drawn
        elif name.endswith(("a_log", "dt_bias")):
            drawn = 1.5 * drawn - 1
        else:
            drawn = drawn * (3 / parameter.shape[-1]) ** 0.5
        parameter.copy_(drawn)
    return model


def empty_cache(model: DecodeModel, batch: int, length: int) -> Any:
    """A cache of sequences of which nothing has been read yet."""
    cache = model.make_cache(batch, length)
    for layer in cache.layers:
        for tensor in vars(layer).values():
            tensor.zero_()
    return cache


def decode(model: DecodeModel, given: Tensor) -> Tensor:
    """Logits of every step, [sequences, steps, vocabulary], from an empty cache."""
    cache = empty_cache(model, *given.shape)
    steps = [model(given[:, step].contiguous(), cache.prefix(step + 1)) for step in range(given.shape[1])]
    return torch.stack(steps, dim=1)
