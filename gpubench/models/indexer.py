"""A sparse-attention indexer: which tokens of the cache attention sees.

The shape of DeepSeek-V3.2; DeepSeek-AI, "DeepSeek-V3.2-Exp", 2025. For hidden states x [batch, hidden] and attention's
q_low [batch, q_lora], J index heads of D dimensions:

    q_j = rotate(q_low · W_queryᵀ) by head
    k | w = split(x · W_keyᵀ);  the key cache's new entry is rotate(LayerNorm(k))
    I_t = Σ_j w_j · ReLU(q_j · k_t)
    selected = the k tokens with the largest I_t; all of them where there are no more than k

Positive factors of w are left out, for they change no order, and so is the Hadamard transform before quantising to
8 bits: these are dot products in the weights' dtype. All index heads are in one sum, so that a rank that shares
attention with others scores with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.models.latent import PAGE, LatentAttention, Pages, Query, count_pages, gather_in_torch
from gpubench.models.layers import rotate, weight
from gpubench.models.shapes import IndexerShape

__all__ = ["IndexCache", "Indexer", "Selection", "Selector", "make_selection", "selection_bytes"]

Selector = Literal["torch", "radix", "gvr"]
"""Who selects: torch.topk, or our kernels, by digits or from the last step's selection."""

_MOST_BLOCKS, _MOST_FINALISTS = 10, 2048
"""Of our kernels, for a row: what their scratch is sized by at most."""


@dataclass(frozen=True)
class IndexCache:
    """What one layer's indexer remembers of a batch."""

    keys: Tensor
    """[batch, length, D]."""
    selected: Tensor
    """[batch, k], int32, a part of `Selection.selected`: the last step's, in any order; −1 where there is no token."""
    pages: Pages | None
    """Of what is selected, where it lies; None where it is gathered first."""


@dataclass(frozen=True)
class Selection:
    """What all layers select, and what their indexers work in, one after another."""

    selector: Selector
    selected: Tensor
    """[layers, batch, k], int32. It changes."""
    start: Tensor
    """What `selected` is restored to: tokens at random, until something better is written into it."""
    lengths: Tensor
    """[batch], int32: tokens, the new one included."""
    scores: Tensor
    """[batch, length padded to a multiple of 8], float32; −inf from a sequence's length on."""
    values: Tensor
    """[batch, k], float32: the selected scores."""
    candidates: Tensor
    places: Tensor
    """Both: scratch, as in gpubench.kernels.topk_rows."""
    gathered: tuple[Tensor, Pages] | None
    """Where it is gathered: the selected entries side by side, [batch · ⌈k / 64⌉, 64, R + P], and their pages."""

    def show(self, own: IndexCache, entries: Tensor, pages: Pages) -> tuple[Tensor, Pages]:
        """What is selected of a layer's entries, as attention takes it."""
        if self.gathered is None:
            assert own.pages is not None, "what isn't gathered is read where it lies"
            return entries, own.pages
        gather = gather_in_torch if self.selector == "torch" else torch.ops.gpubench.mla_gather
        gather(entries, pages.table, pages.lengths, own.selected, self.gathered[0])
        return self.gathered

    def restore(self) -> None:
        """Select anew from the start."""
        self.selected.copy_(self.start)

    def prefix(self, length: int) -> Selection:
        """The same for sequences of so many tokens."""
        lengths, gathered = torch.full_like(self.lengths, length), self.gathered
        if gathered is not None:
            gathered = gathered[0], gathered[1].prefix(min(length, self.selected.shape[2]))
        return replace(self, lengths=lengths, gathered=gathered)


class Indexer(nn.Module):
    """Scores and selection of one layer. Its projections are made, and its weights drawn, by the layer's attention."""

    def __init__(self, shape: IndexerShape, attention: LatentAttention) -> None:
        super().__init__()
        self.shape, self.norm_eps = shape, attention.norm_eps
        self.query, self.key = attention.for_indexer
        self.key_norm = weight(torch.ones(shape.dim, dtype=self.key.dtype))
        self.key_shift = weight(torch.zeros(shape.dim, dtype=self.key.dtype))
        self.has_kernels = attention.has_kernels
        if self.has_kernels:
            import gpubench.kernels.indexer_inputs
            import gpubench.kernels.indexer_score
            import gpubench.kernels.mla_gather
            import gpubench.kernels.topk_gvr
            import gpubench.kernels.topk_radix  # noqa: F401 - they register operators

    def score(self, query: Query, cache: IndexCache, work: Selection, rotary: Tensor) -> None:
        """Write the new token's key, and every token's score; `rotary` is its position's row."""
        shape, ops = self.shape, torch.ops.gpubench
        queries = query.index_queries.view(-1, shape.heads, shape.dim)
        key, weights = torch.split(query.index_key, [shape.dim, shape.heads], dim=-1)
        norm = self.key_norm, self.key_shift
        if self.has_kernels:
            ops.indexer_inputs(key, *norm, rotary, queries, cache.keys, work.lengths, self.norm_eps)
            ops.indexer_score(queries, weights, cache.keys, work.lengths, work.scores)
        else:
            key = rotate(F.layer_norm(key, (shape.dim,), *norm, self.norm_eps)[:, None], rotary)[:, 0]
            rows = torch.arange(len(key), device=key.device)
            cache.keys.index_put_((rows, work.lengths.long() - 1), key)
            score_in_torch(rotate(queries, rotary), weights, cache.keys, work.lengths, work.scores)

    def select(self, cache: IndexCache, work: Selection) -> None:
        """Put this step's selection in the last one's place."""
        out = work.values, cache.selected
        scratch = work.candidates, work.places
        if work.selector == "gvr":  # it reads the hint before it writes
            torch.ops.gpubench.topk_gvr(work.scores, work.lengths, cache.selected, *out, *scratch)
        elif work.selector == "radix":
            torch.ops.gpubench.topk_radix(work.scores, work.lengths, *out, *scratch)
        else:
            found = work.scores.topk(cache.selected.shape[1], dim=-1)
            cache.selected.copy_(torch.where(found.values == -torch.inf, -1, found.indices))


def score_in_torch(queries: Tensor, weights: Tensor, keys: Tensor, lengths: Tensor, out: Tensor) -> None:
    """What gpubench.kernels.indexer_score does, with torch's operators: products are rounded to their dtype."""
    products = torch.matmul(queries, keys.mT).relu()
    scores = torch.matmul(weights[:, None], products)[:, 0].float()
    beyond = torch.arange(keys.shape[1], device=keys.device) >= lengths[:, None]
    padding = (0, out.shape[1] - keys.shape[1])
    out.copy_(F.pad(scores.masked_fill(beyond, -torch.inf), padding, value=-torch.inf))


def make_selection(
    layers: int, lengths: Tensor, columns: int, k: int, selector: Selector, gathered: tuple[Tensor, Pages] | None
) -> Selection:
    """On the lengths' device, for sequences with room for `columns` tokens each."""
    batch, width = lengths.shape[0], _padded(columns)
    candidates, places = lengths.new_empty(0, dtype=torch.int64), lengths.new_empty(0)
    if selector != "torch":
        from gpubench.kernels.topk_gvr import make_gvr_scratch
        from gpubench.kernels.topk_radix import make_radix_scratch

        with lengths.device:
            scratch = (make_gvr_scratch if selector == "gvr" else make_radix_scratch)(batch, width, k)
        candidates, places = scratch.candidates, scratch.places
    scores = torch.empty(batch, width, dtype=torch.float32, device=lengths.device)
    start = torch.stack([torch.rand_like(scores[:, :columns]).topk(k, dim=-1).indices.int() for _ in range(layers)])
    values = scores.new_empty(batch, k)
    return Selection(selector, start.clone(), start, lengths, scores, values, candidates, places, gathered)


def selection_bytes(k: int, layers: int, batch: int, length: int, entry_bytes: int) -> int:
    """What `make_selection` and what is gathered take at most, `entry_bytes` a token."""
    k = min(k, length)
    scratch = _MOST_BLOCKS * (12 * k + 4 * _MOST_FINALISTS)
    return batch * (8 * layers * k + 4 * (_padded(length) + k) + scratch + count_pages(k) * PAGE * entry_bytes)


def _padded(columns: int) -> int:
    """How wide a row of scores is."""
    return -(-columns // 8) * 8
