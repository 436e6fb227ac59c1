"""Block-sparse grouped-query attention of a decoder at one new token per sequence, over a paged cache.

For hidden states x [batch, hidden]:

    q, k, v, i_q, i_k = split(RMSNorm(x) · W_inᵀ);  all but v: RMSNorm over each head, then its first dims rotated
    score of block j = max over its tokens t of i_q · i_k,t      per index head, of which each KV head has one
    chosen = the last block, and those with the highest scores besides
    y = x + (softmax over the tokens t of chosen blocks of (q · k_t / √dim) · v_t) · W_outᵀ

The new k, v and i_k stand at the cache's last position. A sequence of no more blocks than are chosen attends to all of
them, its scores unread. A layer that isn't sparse has no i_q and i_k and attends to everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.models.attention import KeyValueCache, cached_attention
from gpubench.models.base import Attention
from gpubench.models.layers import random_weight, rotate, weight
from gpubench.models.projections import Operand, project
from gpubench.models.shapes import SparseGqaShape
from gpubench.ranges import annotate

__all__ = ["PagedCache", "Pages", "SparseAttention"]


@dataclass(frozen=True)
class Pages:
    """Which blocks of the caches belong to which sequence, the same in all layers, and what attention works in.

    A sequence's blocks lie side by side.
    """

    table: Tensor
    """[batch, blocks], int32: each sequence's blocks, in order."""
    lengths: Tensor
    """[batch], int32: tokens, the new one included."""
    positions: Tensor
    """[batch], int32: of the new token."""
    last: Tensor
    """[batch], int64: the block that the new token stands in."""
    partial: Tensor
    sums: Tensor
    """Scratch of our kernel, as in gpubench.kernels.sparse_gqa; without elements for torch, as is the other."""
    scratch: Tensor
    """Of gpubench.kernels.gqa_decode, which dense layers attend with: float32."""

    def prefix(self, length: int, block: int) -> Pages:
        """The first `length` tokens."""
        table = self.table[:, : -(-length // block)]
        lengths = torch.full_like(self.lengths, length)
        return replace(self, table=table, lengths=lengths, positions=lengths - 1, last=table[:, -1].long())


@dataclass(frozen=True)
class PagedCache:
    """Keys, values and index keys of one sparse layer."""

    keys: Tensor
    values: Tensor
    """[batch · blocks, kv_heads, block, dim] each."""
    index_keys: Tensor
    """[batch · blocks, block, index_dim], one for all index heads."""

    def write(self, key: Tensor, value: Tensor, index_key: Tensor, last: Tensor, slot: int) -> None:
        """The new token's, [batch, heads, dim] each, into that slot of the sequences' last blocks."""
        self.keys[:, :, slot].index_copy_(0, last, key)
        self.values[:, :, slot].index_copy_(0, last, value)
        self.index_keys[:, slot].index_copy_(0, last, index_key[:, 0])


class SparseAttention(nn.Module):
    """A layer's attention with the norm before it and the sum after it, in dense layers, too."""

    def __init__(
        self,
        shape: SparseGqaShape,
        hidden: int,
        norm_eps: float,
        dtype: torch.dtype,
        attention: Attention,
        is_sparse: bool,
    ) -> None:
        super().__init__()
        self.shape, self.norm_eps = shape, norm_eps
        width = shape.width + (shape.index_width if is_sparse else 0)
        self.norm = weight(torch.ones(hidden, dtype=dtype))
        self.projection = random_weight(width, hidden, dtype=dtype)
        self.query_norm = weight(torch.ones(shape.dim, dtype=dtype))
        self.key_norm = weight(torch.ones(shape.dim, dtype=dtype))
        if is_sparse:
            self.index_query_norm = weight(torch.ones(shape.index_dim, dtype=dtype))
            self.index_key_norm = weight(torch.ones(shape.index_dim, dtype=dtype))
        self.out = random_weight(hidden, shape.heads * shape.dim, dtype=dtype)
        self.has_kernels = attention == "triton"
        if self.has_kernels:
            import gpubench.kernels.gqa_decode
            import gpubench.kernels.gqa_inputs
            import gpubench.kernels.linear_few
            import gpubench.kernels.sparse_gqa
            import gpubench.kernels.sparse_gqa_inputs
            import gpubench.kernels.sparse_gqa_scores
            import gpubench.kernels.sparse_gqa_select  # noqa: F401 - they register operators

    def forward(self, x: Tensor, own: KeyValueCache | PagedCache, pages: Pages, rotary: Tensor) -> Tensor:
        """x [batch, hidden] → the same; writes the last position of `own`; `rotary` is the table of all positions."""
        with annotate("attention"):
            normed = Operand(x, "norm", self.norm, eps=self.norm_eps)
            projected = project(normed, self.projection, has_kernel=self.has_kernels)
            if isinstance(own, KeyValueCache):
                attended = self._attend_to_all(projected, own, pages, rotary)
                return project(Operand(attended), self.out, x, has_kernel=self.has_kernels)
            place = self._place_with_kernel if self.has_kernels else self._place_in_torch
            query, index_query = place(projected, own, pages, rotary)
        attend = self._attend_with_kernels if self.has_kernels else self._attend_in_torch
        attended = attend(query, index_query, own, pages, rotary.shape[0])
        with annotate("attention"):
            return project(Operand(attended), self.out, x, has_kernel=self.has_kernels)

    def _attend_to_all(self, projected: Tensor, own: KeyValueCache, pages: Pages, rotary: Tensor) -> Tensor:
        """A dense layer's attention; writes the new token's key and value."""
        if not self.has_kernels:
            query, key, value = self._split(projected, rotary[-1])
            return cached_attention(query, key, value, own.keys, own.values)
        shape, ops = self.shape, torch.ops.gpubench
        query = projected.new_empty(len(projected), shape.heads, shape.dim)
        norms, cache = (self.query_norm, self.key_norm), (own.keys, own.values)
        ops.gqa_inputs(projected, *norms, rotary, pages.positions, query, *cache, eps=self.norm_eps)
        out = torch.empty_like(query)
        ops.gqa_decode(query, *cache, pages.lengths, out, pages.scratch, softmax_scale=shape.dim**-0.5)
        return out.flatten(1)

    def _split(self, projected: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value [batch, heads, dim] each, placed at the position whose row is `rotary`."""
        shape = self.shape
        heads = projected[:, : shape.width].view(len(projected), -1, shape.dim)
        query, key, value = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        return self._place(query, self.query_norm, rotary), self._place(key, self.key_norm, rotary), value

    def _place(self, heads: Tensor, norm: Tensor, rotary: Tensor) -> Tensor:
        """heads [batch, heads, dim], normalised and rotated to their position."""
        return rotate(F.rms_norm(heads, norm.shape, norm, self.norm_eps), rotary)

    def _place_in_torch(
        self, projected: Tensor, own: PagedCache, pages: Pages, rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The new token's query and index query; its keys, values and index key go to the cache."""
        shape = self.shape
        query, key, value = self._split(projected, rotary[-1])
        heads = projected[:, shape.width :].view(len(projected), -1, shape.index_dim)
        index_query, index_key = torch.split(heads, [shape.index_heads, 1], dim=1)
        index_key = self._place(index_key, self.index_key_norm, rotary[-1])
        own.write(key, value, index_key, pages.last, (rotary.shape[0] - 1) % shape.block)
        return query, self._place(index_query, self.index_query_norm, rotary[-1])

    def _place_with_kernel(
        self, projected: Tensor, own: PagedCache, pages: Pages, rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        shape, batch = self.shape, len(projected)
        query = projected.new_empty(batch, shape.heads, shape.dim)
        index_query = projected.new_empty(batch, shape.index_heads, shape.index_dim)
        torch.ops.gpubench.sparse_gqa_inputs(
            projected,
            self.query_norm,
            self.key_norm,
            self.index_query_norm,
            self.index_key_norm,
            rotary,
            pages.table,
            pages.lengths,
            query,
            index_query,
            own.keys,
            own.values,
            own.index_keys,
            eps=self.norm_eps,
        )
        return query, index_query

    def _attend_with_kernels(self, query: Tensor, index_query: Tensor, own: PagedCache, pages: Pages, _: int) -> Tensor:
        shape, ops = self.shape, torch.ops.gpubench
        batch, heads, dim = query.shape
        with annotate("indexer"):
            scores = query.new_empty(batch, shape.kv_heads, pages.table.shape[1], dtype=torch.float32)
            ops.sparse_gqa_scores(index_query, own.index_keys, pages.table, pages.lengths, scores, shape.blocks)
        with annotate("topk"):
            blocks = pages.table.new_empty(batch, shape.kv_heads, shape.blocks)
            ops.sparse_gqa_select(scores, pages.lengths, blocks, shape.block)
        with annotate("attention"):
            out = torch.empty_like(query)
            where = blocks, pages.table, pages.lengths
            ops.sparse_gqa_attend(query, own.keys, own.values, *where, out, pages.partial, pages.sums)
            return out.view(batch, heads * dim)

    def _attend_in_torch(
        self, query: Tensor, index_query: Tensor, own: PagedCache, pages: Pages, length: int
    ) -> Tensor:
        shape = self.shape
        with annotate("indexer"):
            scores = _score_in_torch(index_query, own.index_keys, pages.table, shape.blocks)
        with annotate("topk"):
            blocks = scores.topk(min(shape.blocks, scores.shape[-1])).indices
        with annotate("attention"):
            held = pages.table.long()[:, None].expand(-1, shape.kv_heads, -1).gather(2, blocks)
            heads = torch.arange(shape.kv_heads, device=query.device)[:, None]
            keys, values = (part[held, heads].flatten(2, 3) for part in (own.keys, own.values))
            # The query heads that share a key head become the rows of one attention over it: it is gathered once.
            grouped = query.view(query.shape[0], shape.kv_heads, -1, shape.dim)
            mask = None
            if length % shape.block:  # what lies in the last block beyond the length isn't seen
                tokens = blocks[..., None] * shape.block + torch.arange(shape.block, device=query.device)
                mask = (tokens < length).flatten(2)[:, :, None].expand(-1, -1, grouped.shape[2], -1)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask).flatten(1)


def _score_in_torch(index_query: Tensor, index_keys: Tensor, table: Tensor, kept: int) -> Tensor:
    """Of every block, [batch, index_heads, blocks]: infinity for the last one, and for all where all are kept."""
    batch, count = table.shape
    if count <= kept:
        return index_query.new_full((batch, index_query.shape[1], count), torch.inf)
    by_sequence = index_keys.view(batch, -1, *index_keys.shape[1:])  # not a copy: its blocks lie side by side
    products = index_query @ by_sequence[:, :count].flatten(1, 2).mT
    scores = products.view(batch, -1, count, index_keys.shape[1]).amax(dim=-1)
    return scores.masked_fill(torch.arange(count, device=scores.device) == count - 1, torch.inf)
