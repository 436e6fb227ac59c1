"""Attention over a cache of keys and values, a seam of the step: the part of a layer that depends on what came before.

    keys[:, :, −1], values[:, :, −1] ← key, value
    out = softmax(query · keysᵀ / √head_dim) · values         the query heads of a group share a key head

query [tokens, heads, head_dim], key and value [tokens, kv_heads, head_dim]: one token of each sequence, already
rotated. keys, values [batch, kv_heads, length, head_dim]: the cache, of whose sequences the first `tokens` are meant.
out [tokens, heads · head_dim]. All of one dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gpubench.kernels.ops import as_seam

__all__ = ["KeyValueCache", "cached_attention"]


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of one layer's attention: [batch, kv_heads, length, head_dim] each."""

    keys: Tensor
    values: Tensor

    def prefix(self, length: int) -> KeyValueCache:
        """The same memory seen as a shorter cache."""
        return KeyValueCache(self.keys[:, :, :length], self.values[:, :, :length])


def _fake(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1] * query.shape[2])


@as_seam("cached_attention", mutates=("keys", "values"), fake=_fake)
def cached_attention(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The attention of one new token per sequence; writes its key and value to the last position."""
    tokens, heads, head_dim = query.shape
    if tokens < keys.shape[0]:
        keys, values = keys[:tokens], values[:tokens]
    keys[:, :, -1].copy_(key)
    values[:, :, -1].copy_(value)
    # The query heads that share a key head become the rows of one attention over it: the cache is read once.
    grouped = query.reshape(tokens, keys.shape[1], -1, head_dim)
    return F.scaled_dot_product_attention(grouped, keys, values).reshape(tokens, heads * head_dim)
