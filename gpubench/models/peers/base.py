"""transformers' model of a family as a `DecodeModel`: our weights and our cache, their code.

Weights go over by reference where both have the same layout, and views of ours count as that; the rest is small. The
cache is ours: a step of theirs writes its last position and advances its states, as a step of ours does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from gpubench.errors import Unsupported
from gpubench.models.base import DecodeModel
from gpubench.models.moe import MoeShape

__all__ = ["PeerModel", "Pinned", "PinnedPages", "PinnedRows", "Twin", "check_experts"]


class Pinned(CacheLayerMixin):
    """One attention layer of a cache of ours, whose last position is the new token's."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.length = length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many positions there are, and where the first stands."""
        return self.length, 0

    def get_seq_length(self) -> int:
        """How many were there before the new token."""
        return self.length - 1

    def get_max_length(self) -> int:
        """How many there are."""
        return self.length

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing to do: the memory is there."""


class PinnedRows(Pinned):
    """Keys and values [batch, heads, length, any] each, row by row as theirs."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__(keys, values, keys.shape[-2])

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new token's key and value [batch, heads, 1, any]; gives all of them."""
        self.keys[:, :, -1:].copy_(key)
        self.values[:, :, -1:].copy_(value)
        return self.keys, self.values


class PinnedPages(Pinned):
    """Keys and values [pages, heads, page, any] each. Theirs aren't paged, so that every step gathers a copy."""

    def __init__(self, keys: Tensor, values: Tensor, table: Tensor, length: int) -> None:
        """`table` [batch, max_pages]: which pages belong to a sequence, in order."""
        super().__init__(keys, values, length)
        self.table = table.long()

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new token's key and value [batch, heads, 1, any]; gives all of them."""
        return self.write(self.keys, key), self.write(self.values, value)

    def write(self, pages: Tensor, new: Tensor) -> Tensor:
        """Write `new` [batch, heads, 1, any] to its place; gives a copy of all [batch, heads, length, any]."""
        page = pages.shape[2]
        pages[self.table[:, (self.length - 1) // page], :, (self.length - 1) % page] = new[:, :, 0]
        used = self.table[:, : -(-self.length // page)]
        return pages[used].transpose(1, 2).flatten(2, 3)[:, :, : self.length]


class _PinnedCache(Cache):
    """A cache of ours as transformers asks for one. Its length is known without an attention layer, too."""

    def __init__(self, layers: list[Any], length: int) -> None:
        super().__init__(layers=layers)
        self._length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._length - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._length, 0


@dataclass(frozen=True)
class Twin:
    """What transformers needs to know to be a model of ours."""

    model: Callable[[Any], Any]
    """Of its classes, that of the causal language model; takes the config."""
    config: Any
    weights: dict[str, Tensor]
    """All of its state by name."""
    view_cache: Callable[[Any], list[Any]]
    """A cache of ours as a list of its cache layers, which write through to it."""


def check_experts(moe: MoeShape, theirs: str, **wanted: Any) -> None:
    """Unsupported if experts differ from these in what the model called `theirs` leaves no choice about."""
    if moe.held is not None:
        raise Unsupported("backend transformers: it has all experts, not a rank's share of them; use another backend")
    if not moe.shared_intermediate:
        raise Unsupported(f"backend transformers: {theirs} has a shared expert; got moe.shared_intermediate: 0")
    for name, value in wanted.items():
        if getattr(moe, name) != value:
            raise Unsupported(f"backend transformers: {theirs} has moe.{name}: {value} alone; got {getattr(moe, name)}")


class PeerModel:
    """A model of transformers with the weights of one of ours; satisfies `DecodeModel`."""

    def __init__(self, ours: DecodeModel, twin: Twin, device: torch.device) -> None:
        self.make_cache = ours.make_cache
        self._view_cache = twin.view_cache
        with torch.device("meta"):  # its own weights are never made
            self.model = twin.model(twin.config).eval().requires_grad_(False)
        self.model.load_state_dict(twin.weights, strict=True, assign=True)
        decoder = self.model.model
        with device:  # what is no part of its state
            decoder.rotary_emb = type(decoder.rotary_emb)(twin.config)

    def __call__(self, tokens: Tensor, cache: Any) -> Tensor:
        """Logits [batch, vocabulary] for `tokens` [batch]; `cache`, ours, advances by one step."""
        theirs = _PinnedCache(self._view_cache(cache), cache.length)
        with torch.no_grad():
            logits: Tensor = self.model(tokens[:, None], past_key_values=theirs, use_cache=True).logits
        return logits[:, -1]
