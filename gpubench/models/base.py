"""What a decode step asks of a model, whatever its family: its shape, its cache, and one token per sequence.

A family is one file: a frozen config that satisfies `ModelConfig`, and the `nn.Module` that its `build` returns. Its
shapes go into `presets`. Nothing else in gpubench knows how many experts or latent ranks a model has.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from gpubench.errors import ArgumentError, Unsupported

__all__ = [
    "Attention",
    "Cache",
    "Chunk",
    "DecodeModel",
    "ModelConfig",
    "Parallel",
    "ServingModel",
    "Slots",
    "check_positions",
    "check_triton",
]

Attention = Literal["torch", "triton", "flashinfer"]
"""Who computes attention, or what a family has in its place: torch's operators, our Triton kernels, or flashinfer. But
for `torch`, experts are our kernels' as well, and for `triton` so is what else of a layer a family has them for."""

Parallel = Literal["TEP", "DEP"]
"""How ranks share a model. TEP: each has its part of the heads, of the experts and of the vocabulary, and every
sequence. DEP: each has its part of the experts, all of the rest, and its part of the sequences."""


class ModelConfig(Protocol):
    """The shape of a model, and what follows from it without building anything."""

    @property
    def layers(self) -> int: ...

    @property
    def vocabulary(self) -> int:
        """Tokens that it knows and that it gives logits for."""
        ...

    @property
    def context(self) -> int:
        """The longest sequence, from the published configuration."""
        ...

    @property
    def has_indexer(self) -> bool:
        """Whether an indexer chooses the tokens that attention sees. Such a config has a field `gvr: bool`."""
        ...

    def rank_share(self, parallel: Parallel, ranks: int) -> Self:
        """What one of `ranks` ranks holds; ArgumentError names the numbers that they don't divide.

        TEP: heads, experts, their intermediate products where every rank takes part in them, and the vocabulary are
        divided, KV heads too as long as there is one to each rank, and `batch` everywhere below means all sequences.
        DEP: routed experts alone are divided, `batch` means the sequences of one rank, and the experts see as many of
        each of the other ranks (`gpubench.models.ranks.stand_ins`).
        """
        ...

    @property
    def is_routed(self) -> bool:
        """Whether a router chooses experts, so that a rounding may send a token another way."""
        ...

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

    def build(self, dtype: torch.dtype, attention: Attention = "torch") -> DecodeModel:
        """Random weights from torch's current seed, on the default device; Unsupported where `attention` can't be."""
        ...


class Cache(Protocol):
    """What a model remembers of a batch of sequences. It belongs to whoever made it, and steps write into it."""

    def restore(self) -> None:
        """Undo what steps changed, so that the next one does what the first did; static, and without a sync."""
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
        """Logits [batch, vocabulary] for `tokens` [batch], int64; writes the cache's last position, advances states."""
        ...


class Slots(Protocol):
    """The caches of sequences that come and go: a slot for each, all of one capacity."""

    @property
    def capacity(self) -> int:
        """Tokens that a slot has room for."""
        ...

    def clear(self, slot: int) -> None:
        """A new sequence begins in this slot: recurrent states go to zero. Without a sync."""
        ...


@dataclass(frozen=True)
class Chunk:
    """Where consecutive tokens of one sequence stand."""

    slots: Slots
    span: Tensor
    """int64 on the CPU: [slot, the first token's position]. Operators of attention and recurrence alone read it, when
    they run, so that a step that was traced or captured in pieces serves another slot once this is refilled."""


class ServingModel(DecodeModel, Protocol):
    """A model that serves sequences of different lengths: it prefills prompts in chunks, and decodes many at once.

    No call synchronises. A decode step can be captured in one CUDA graph, and either can be cut at its operators of
    attention and recurrence. Families without it raise Unsupported from `make_slots`, and say what they lack.
    """

    def make_slots(self, slots: int, capacity: int) -> Slots:
        """Empty caches of so many sequences, of so many tokens each."""
        ...

    def decode(self, tokens: Tensor, positions: Tensor, slots: Any) -> Tensor:
        """Logits [rows, vocabulary] of one token per sequence: row i is the sequence of slot i.

        `tokens` [rows], int64, stand at `positions` [rows], int32 on the device: each is written there, and attends to
        what its slot has up to there. A row of position −1 is idle: it changes nothing of its slot, and its logits are
        finite and mean nothing.
        """
        ...

    def prefill(self, tokens: Tensor, positions: Tensor, chunk: Chunk) -> Tensor:
        """What the head takes, hidden states [tokens, hidden], normed, of the next tokens of one sequence.

        `tokens`, int64, and `positions`, int32, [tokens]: consecutive ones. They are written to the slot that `chunk`
        names, and attend to one another causally and to all that it has before them.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden], as `prefill` gives them → [rows, vocabulary]."""
        ...


def check_positions(tokens: Tensor, positions: Tensor) -> None:
    """ArgumentError unless every token has a position."""
    if tokens.shape[0] != positions.shape[0]:
        raise ArgumentError(f"{tokens.shape[0]} tokens are given {positions.shape[0]} positions; wanted one for each")


def check_triton() -> None:
    """Unsupported if our Triton kernels can't be launched on the default device."""
    if importlib.util.find_spec("triton") is None:
        raise Unsupported("attention: triton needs triton: pip install triton")
    from gpubench.kernels.interpreter import is_interpreted

    if torch.get_default_device().type != "cuda" and not is_interpreted():
        raise Unsupported(
            "attention: triton needs a CUDA GPU; on a CPU, TRITON_INTERPRET=1 runs its kernels in an interpreter"
        )
