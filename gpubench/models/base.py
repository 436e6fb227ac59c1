"""What a decode step asks of a model, whatever its family: its shape, its cache, and one token per sequence.

A family is one file: a frozen config that satisfies `ModelConfig`, and the `nn.Module` that its `build` returns. Its
shapes go into `presets`. Nothing else in gpubench knows how many experts or latent ranks a model has.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from gpubench.ranges import annotate

__all__ = ["DecodeModel", "ModelConfig", "random_weight", "span"]


class ModelConfig(Protocol):
    """The shape of a model, and what follows from it without building anything."""

    @property
    def layers(self) -> int: ...

    @property
    def vocabulary(self) -> int: ...

    def weight_bytes(self, itemsize: int) -> int:
        """All weights."""
        ...

    def cache_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """The cache of `batch` sequences of `length` tokens."""
        ...

    def activation_bytes(self, batch: int, itemsize: int) -> int:
        """An upper bound of what a step has allocated at once besides weights and cache."""
        ...

    def step_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """The fewest bytes one step moves: weights and cache read once, new entries and logits written."""
        ...

    def step_flop(self, batch: int, length: int) -> int:
        """The floating-point operations of one step, matrix products only."""
        ...

    def build(self, dtype: torch.dtype) -> DecodeModel:
        """Random weights from torch's current seed, on the default device."""
        ...


class DecodeModel(Protocol):
    """A model that advances every sequence of a batch by one token.

    The sequences have one common, pinned length, the cache's: the new token stands at its last position, and
    attention sees the whole cache, that position included. All shapes are static and nothing synchronises, so that
    a step can be compiled and captured; a step on the same tokens gives the same logits however often it is run.
    """

    def make_cache(self, batch: int, length: int) -> Any:
        """A cache of seeded random entries, as if `length` tokens had been processed."""
        ...

    def __call__(self, tokens: Tensor, cache: Any) -> Tensor:
        """Logits [batch, vocabulary] for `tokens` [batch], int64; writes the cache's last position."""
        ...


def random_weight(*shape: int, dtype: torch.dtype) -> Tensor:
    """A weight drawn in place on the default device, N(0, 1 / fan-in), so that activations keep their scale."""
    return torch.empty(shape, dtype=dtype).normal_(0.0, shape[-1] ** -0.5)


def span(name: str) -> AbstractContextManager[object]:
    """`gpubench.annotate`, except while torch.compile traces: ranges mean nothing within a fused region."""
    return nullcontext() if torch.compiler.is_compiling() else annotate(name)
