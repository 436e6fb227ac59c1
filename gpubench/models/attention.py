"""Grouped-query attention over a cache of keys and values: what a step has between a layer's two projections.

    q, k, v = split(projected);  q, k ← RMSNorm over each head, where there are norms, then rotated to their positions
    keys[position], values[position] ← k, v
    out = softmax(q · keysᵀ / √head_dim) · values      over a sequence's tokens up to the position

projected [tokens, width]: queries of all heads, whatever else there is, then keys and values of all KV heads; the query
heads of a group share a KV head. keys, values [sequences, kv_heads, capacity, head_dim]: a layer's cache. out [tokens,
heads · head_dim]. All of one dtype.

Where a step's tokens stand is a `Place`: at the cache's last position, all of them (`place_last`); each in the slot of
its row, at a position of its own (`place_rows`); or one behind the other in one slot (`place_chunk`). Each is there in
torch's operators and in our kernels. What reads or writes a cache is an operator or a seam, so that steps can be cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gpubench.kernels.ops import as_seam
from gpubench.models.layers import rotate

__all__ = [
    "AttentionCache",
    "KeyValueCache",
    "Place",
    "attend_causally",
    "attention_scratch",
    "cached_attention",
    "make_key_values",
    "place_chunk",
    "place_last",
    "place_rows",
    "rotary_rows",
]

Norms = tuple[Tensor, Tensor] | tuple[None, None]
"""Of queries and keys, [head_dim] each."""


@dataclass(frozen=True)
class KeyValueCache:
    """Keys and values of one layer's attention: [batch, kv_heads, length, head_dim] each."""

    keys: Tensor
    values: Tensor

    def prefix(self, length: int) -> KeyValueCache:
        """The same memory seen as a shorter cache."""
        return KeyValueCache(self.keys[:, :, :length], self.values[:, :, :length])


class HeadShape(Protocol):
    """How wide the heads of a model's attention are."""

    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...


class AttentionCache(Protocol):
    """What all layers' caches have in common."""

    @property
    def rotary(self) -> Tensor:
        """cos and sin of every position's angles: [capacity, 2, rotated dims / 2], fp32."""
        ...

    @property
    def positions(self) -> Tensor:
        """Of the new tokens where they stand last: [batch], int32, capacity − 1 for all."""
        ...

    @property
    def lengths(self) -> Tensor:
        """What they attend to: [batch], int32, the capacity for all."""
        ...

    @property
    def scratch(self) -> Tensor:
        """What our kernel works in, layer after layer: fp32, as `attention_scratch` says."""
        ...


class Place(Protocol):
    """Where a step's tokens stand, and so how they attend."""

    def attend(self, projected: Tensor, own: KeyValueCache, shape: HeadShape, norms: Norms = (None, None)) -> Tensor:
        """The attention of the projected tokens, [tokens, heads · head_dim]; writes their keys and values to `own`."""
        ...


def place_last(cache: AttentionCache, *, has_kernels: bool) -> Place:
    """One token of every sequence, at the cache's last position."""
    if has_kernels:
        return _RowsInKernels(cache.rotary, cache.positions, cache.lengths, cache.scratch)
    return _Last(cache.rotary[-1])


def place_rows(cache: AttentionCache, positions: Tensor, *, has_kernels: bool, dtype: torch.dtype) -> Place:
    """Row i is a token of slot i, at positions[i] [rows], int32; −1: an idle row, which leaves its slot as it is.

    `dtype` is that of the keys.
    """
    if has_kernels:
        return _RowsInKernels(cache.rotary, positions, positions + 1, cache.scratch)
    # An idle row attends to the first token, whatever it is: attention to none would be NaN.
    every = torch.arange(cache.rotary.shape[0], device=positions.device)
    is_hidden = every > positions.clamp(min=0)[:, None]
    bias = torch.zeros(is_hidden.shape, dtype=dtype, device=positions.device).masked_fill(is_hidden, -torch.inf)
    return _Rows(rotary_rows(cache.rotary, positions), positions, bias)


def place_chunk(cache: AttentionCache, positions: Tensor, span: Tensor, *, has_kernels: bool) -> Place:
    """All tokens are one sequence's, at positions [tokens], int32, and in the slot that `span` says, as in `Chunk`."""
    if has_kernels:
        return _ChunkInKernels(cache.rotary, positions, span)
    return _Chunk(rotary_rows(cache.rotary, positions), span)


def attention_scratch(like: Tensor, batch: int, length: int, shape: HeadShape, *, has_kernels: bool) -> Tensor:
    """A cache's scratch, on `like`'s device; without elements where torch's operators attend."""
    elements = 0
    if has_kernels:
        from gpubench.kernels.gqa_decode import gqa_decode_scratch

        elements = gqa_decode_scratch(batch, shape.heads, shape.kv_heads, length, shape.head_dim)
    return torch.empty(elements, dtype=torch.float32, device=like.device)


def make_key_values(like: Tensor, batch: int, length: int, shape: HeadShape, *, is_empty: bool) -> KeyValueCache:
    """A layer's cache, of `like`'s dtype and device: N(0, 1), as if there had been tokens, or zeros."""
    make = torch.zeros if is_empty else torch.randn
    keys, values = (
        make(batch, shape.kv_heads, length, shape.head_dim, dtype=like.dtype, device=like.device) for _ in range(2)
    )
    return KeyValueCache(keys, values)


@dataclass(frozen=True)
class _Last:
    """Torch's operators, at the last position; `rotary` [2, half] is its row."""

    rotary: Tensor

    def attend(self, projected: Tensor, own: KeyValueCache, shape: HeadShape, norms: Norms = (None, None)) -> Tensor:
        query, key, value = _split(projected, shape, norms, self.rotary)
        return cached_attention(query, key, value, own.keys, own.values)


@dataclass(frozen=True)
class _Rows:
    """Torch's operators, a slot to each row; `rotary` [rows, 2, half] are the positions' rows."""

    rotary: Tensor
    positions: Tensor
    bias: Tensor
    """[rows, capacity], of the keys' dtype: 0 for what a row attends to, else −∞."""

    def attend(self, projected: Tensor, own: KeyValueCache, shape: HeadShape, norms: Norms = (None, None)) -> Tensor:
        query, key, value = _split(projected, shape, norms, self.rotary)
        return slot_attention(query, key, value, self.positions, self.bias, own.keys, own.values)


@dataclass(frozen=True)
class _Chunk:
    """Torch's operators, one slot; `rotary` [tokens, 2, half] are the positions' rows."""

    rotary: Tensor
    span: Tensor

    def attend(self, projected: Tensor, own: KeyValueCache, shape: HeadShape, norms: Norms = (None, None)) -> Tensor:
        query, key, value = _split(projected, shape, norms, self.rotary)
        return chunk_attention(query, key, value, self.span, own.keys, own.values)


@dataclass(frozen=True)
class _RowsInKernels:
    """Our kernels, a sequence to each row; `rotary` is the whole table."""

    rotary: Tensor
    positions: Tensor
    lengths: Tensor
    """[rows], int32: the tokens that a row attends to; 0 for an idle one, whose output is 0."""
    scratch: Tensor

    def attend(self, projected: Tensor, own: KeyValueCache, shape: HeadShape, norms: Norms = (None, None)) -> Tensor:
        cache, ops = (own.keys, own.values), torch.ops.gpubench
        query = projected.new_empty(len(projected), shape.heads, shape.head_dim)
        ops.gqa_inputs(projected, *norms, self.rotary, self.positions, query, *cache, eps=shape.norm_eps)
        out = torch.empty_like(query)
        ops.gqa_decode(query, *cache, self.lengths, out, self.scratch, softmax_scale=shape.head_dim**-0.5)
        return out.view(len(projected), shape.heads * shape.head_dim)


@dataclass(frozen=True)
class _ChunkInKernels:
    """Our kernel before torch's attention, one slot; `rotary` is the whole table."""

    rotary: Tensor
    positions: Tensor
    span: Tensor

    def attend(self, projected: Tensor, own: KeyValueCache, shape: HeadShape, norms: Norms = (None, None)) -> Tensor:
        return fused_chunk_attention(
            projected,
            norms[0],
            norms[1],
            self.rotary,
            self.positions,
            self.span,
            own.keys,
            own.values,
            shape.heads,
            shape.norm_eps,
        )


def _split(projected: Tensor, shape: HeadShape, norms: Norms, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, [tokens, heads, head_dim] each, normalised and rotated."""
    heads = projected.view(len(projected), -1, shape.head_dim)
    others = heads.shape[1] - shape.heads - 2 * shape.kv_heads
    query, _, key, value = torch.split(heads, [shape.heads, others, shape.kv_heads, shape.kv_heads], dim=1)
    if norms[0] is not None:
        query, key = (
            F.rms_norm(part, (shape.head_dim,), norm, shape.norm_eps)
            for part, norm in zip((query, key), norms, strict=True)
        )
    return rotate(query, rotary), rotate(key, rotary), value


def _fake_rows(table: Tensor, positions: Tensor) -> Tensor:
    return table.new_empty(positions.shape[0], *table.shape[1:])


@as_seam("rotary_rows", mutates=(), fake=_fake_rows)
def rotary_rows(table: Tensor, positions: Tensor) -> Tensor:
    """The rows of a rotary table at `positions` [tokens], int32; of −1, some row."""
    return table[positions]


def _fake(query: Tensor, *_others: Tensor) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1] * query.shape[2])


@as_seam("cached_attention", mutates=("keys", "values"), fake=_fake)
def cached_attention(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One token of each of the first sequences, at the last position: [tokens, heads, head_dim], placed already."""
    tokens, heads, head_dim = query.shape
    if tokens < keys.shape[0]:
        keys, values = keys[:tokens], values[:tokens]
    keys[:, :, -1].copy_(key)
    values[:, :, -1].copy_(value)
    # The query heads that share a key head become the rows of one attention over it: the cache is read once.
    grouped = query.reshape(tokens, keys.shape[1], -1, head_dim)
    return F.scaled_dot_product_attention(grouped, keys, values).reshape(tokens, heads * head_dim)


@as_seam("slot_attention", mutates=("keys", "values"), fake=_fake)
def slot_attention(  # noqa: PLR0913, PLR0917 - an operator's arguments
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, bias: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """One token of each of the first slots, at positions of their own; `bias` [rows, capacity] hides what isn't there.

    An idle row writes what its slot has already.
    """
    tokens, heads, head_dim = query.shape
    keys, values = keys[:tokens], values[:tokens]
    rows, at = torch.arange(tokens, device=positions.device), positions.clamp(min=0)
    is_live = (positions >= 0)[:, None, None]
    for cache, new in ((keys, key), (values, value)):
        cache[rows, :, at] = torch.where(is_live, new, cache[rows, :, at])
    grouped = query.reshape(tokens, keys.shape[1], -1, head_dim)
    attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=bias[:, None, None])
    return attended.reshape(tokens, heads * head_dim)


@as_seam("chunk_attention", mutates=("keys", "values"), fake=_fake)
def chunk_attention(query: Tensor, key: Tensor, value: Tensor, span: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Consecutive tokens of one sequence: causal among themselves, behind all that its slot has before them."""
    slot, first = span.tolist()
    last = first + len(query)
    keys[slot, :, first:last].copy_(key.transpose(0, 1))
    values[slot, :, first:last].copy_(value.transpose(0, 1))
    return attend_causally(query, keys[slot, :, :last].transpose(0, 1), values[slot, :, :last].transpose(0, 1))


def _fake_fused(projected: Tensor, *others: Any) -> Tensor:
    keys, _values, heads, _eps = others[-4:]
    return projected.new_empty(projected.shape[0], heads * keys.shape[3])


@as_seam("fused_chunk_attention", mutates=("keys", "values"), fake=_fake_fused)
def fused_chunk_attention(  # noqa: PLR0913, PLR0917 - an operator's arguments
    projected: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    rotary: Tensor,
    positions: Tensor,
    span: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    eps: float,
) -> Tensor:
    """The same for projected tokens: our kernel places them."""
    slot, first = span.tolist()
    tokens, last = len(projected), first + len(projected)
    query = projected.new_empty(tokens, heads, keys.shape[3])
    # To the kernel every token is a sequence. Here all of them have one cache, and positions of their own in it.
    shared = [cache[slot].expand(tokens, -1, -1, -1) for cache in (keys, values)]
    torch.ops.gpubench.gqa_inputs(projected, query_norm, key_norm, rotary, positions, query, *shared, eps=eps)
    return attend_causally(query, keys[slot, :, :last].transpose(0, 1), values[slot, :, :last].transpose(0, 1))


def attend_causally(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The attention of a sequence's last tokens: query [tokens, heads, K], keys [length, kv_heads, K], values [length,
    kv_heads, V] → [tokens, heads · V]."""
    from torch.nn.attention.bias import causal_lower_right  # imports Dynamo's neighbours: not for every worker's start

    query, keys, values = (part.transpose(0, 1)[None] for part in (query, keys, values))
    bias = causal_lower_right(query.shape[2], keys.shape[2])
    is_grouped = query.shape[1] > keys.shape[1]  # which some of torch's kernels can't
    out = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, enable_gqa=is_grouped)
    return out[0].transpose(0, 1).flatten(1)
