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

from gpubench.models.base import DecodeModel

__all__ = ["PeerModel", "PinnedKeysAndValues", "Twin"]


class PinnedKeysAndValues(CacheLayerMixin):
    """One attention layer of a cache of ours, whose last position is the new token's."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """`keys` and `values` [batch, heads, length, any] are written to."""
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new token's key and value [batch, heads, 1, any]; gives all of them."""
        self.keys[:, :, -1:].copy_(key)
        self.values[:, :, -1:].copy_(value)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many positions there are, and where the first stands."""
        return self.get_max_length(), 0

    def get_seq_length(self) -> int:
        """How many were there before the new token."""
        return self.get_max_length() - 1

    def get_max_length(self) -> int:
        """How many there are."""
        return int(self.keys.shape[-2])

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing to do: the memory is there."""


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
