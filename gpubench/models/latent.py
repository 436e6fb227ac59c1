"""Multi-head latent attention of a decoder at one new token per sequence, absorbed, over a paged cache.

The shape of DeepSeek-V3; DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1. For hidden states x [batch, hidden]:

    q_low | c | k_pe = split(x · W_downᵀ);  the cache's new entry is RMSNorm(c) ‖ rotate(k_pe)
    q_nope | q_pe = split(RMSNorm(q_low) · W_q_upᵀ) by head;  q̃ = q_nope · W_k_up
    o = softmax((q̃ · c + rotate(q_pe) · k_pe) · (N + P)^-½) · C        over the entries that are attended to
    y = (o · W_v_upᵀ) · W_outᵀ

Halves of what is rotated are paired. Published weights pair neighbours, which is the same with the rows of W_down's and
W_q_up's rotary parts in another order. Angles aren't rescaled for long contexts (YaRN).

The cache's layout is that of gpubench.kernels.mla_cache. What attention sees of it is a `Pages`: all tokens, or a
selection of them, where they lie or gathered into pages of its own. Where a step's tokens stand is a `LatentPlace`. A
chunk of one sequence isn't absorbed: its tokens attend to keys and values that are expanded from the latents, or as
gpubench.kernels.mla_prefill finds it best.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.kernels.ops import as_seam
from gpubench.models.base import Attention, check_triton
from gpubench.models.latent_flashinfer import FlashinferPlan, check_flashinfer
from gpubench.models.latent_prefill import PAGE, latent_chunk
from gpubench.models.layers import random_weight, random_weights, rotate, weight
from gpubench.models.projections import Operand, project
from gpubench.models.shapes import IndexerShape, MlaShape

__all__ = [
    "PAGE",
    "LatentAttention",
    "LatentPlace",
    "LatentShape",
    "Pages",
    "Query",
    "attend_in_torch",
    "check_latent_attention",
    "count_pages",
    "gather_in_torch",
    "make_gathered",
    "make_pages",
    "make_slot_pages",
    "prepare_in_torch",
    "sparse_scratch",
]


@dataclass(frozen=True)
class Pages:
    """Which entries of a cache belong to which sequence, and what attention over them works in."""

    table: Tensor
    """[batch, max_pages], int32: each sequence's pages, in order."""
    lengths: Tensor
    """[batch], int32: tokens."""
    scratch: Tensor
    """float32, for our kernel; without elements for others."""
    plan: FlashinferPlan | None = None
    selected: Tensor | None = None
    """[batch, k], int32: the tokens that attention sees; None: all."""
    may_idle: bool = False
    """Whether a length may be 0: that of an idle row, whose output means nothing. Then the table may have more rows."""

    def prefix(self, length: int) -> Pages:
        """The same memory with so many tokens of each sequence."""
        lengths = torch.full_like(self.lengths, length)
        plan = None if self.plan is None else self.plan.replace_lengths(lengths)
        return replace(self, lengths=lengths, plan=plan)


@dataclass(frozen=True)
class LatentPlace:
    """Where a step's tokens stand."""

    pages: Pages
    """Of every token's sequence, the token itself included; of a chunk, the slots' table alone is meant."""
    rotary: Tensor
    """cos and sin of their angles: [2, P / 2], the same for all, or [tokens, 2, P / 2]."""
    span: Tensor | None = None
    """Of a chunk of one sequence, as in `Chunk`; None: every token is a sequence's."""


@dataclass(frozen=True)
class Query:
    """What a layer asks of the cache."""

    latent: Tensor
    """[batch, heads, R]: q̃."""
    rope: Tensor
    """[batch, heads, P], rotated. Of both, a head's elements are adjacent."""
    index_queries: Tensor
    """[batch, J · D]: an indexer's queries, still to be rotated."""
    index_key: Tensor
    """[batch, D + J]: its new key, still to be normalised, and its weights. Without an indexer both are of width 0."""


@dataclass(frozen=True)
class LatentShape:
    """The sizes of a layer."""

    mla: MlaShape
    q_lora: int
    hidden: int
    norm_eps: float
    indexer: IndexerShape | None


class LatentAttention(nn.Module):
    """The layer with the norm before it and the sum after it; what an indexer does comes in between.

    An indexer's projections have the same inputs as this layer's and are made in the same products. So their weights,
    those of its queries and of its key, are drawn here: `for_indexer`, which the indexer has for its own.
    """

    def __init__(self, shape: LatentShape, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        mla, q_lora, hidden, index = shape.mla, shape.q_lora, shape.hidden, shape.indexer
        self.mla, self.q_lora, self.norm_eps = mla, q_lora, shape.norm_eps
        index_key = 0 if index is None else index.dim + index.heads
        index_query = 0 if index is None else index.heads * index.dim
        self.from_hidden, (self.down, key) = random_weights(
            (q_lora + mla.kv_lora + mla.rope, hidden), (index_key, hidden), dtype=dtype
        )
        self.from_low, (self.query_up, query) = random_weights(
            (mla.heads * (mla.nope + mla.rope), q_lora), (index_query, q_lora), dtype=dtype
        )
        self.for_indexer = query, key
        self.query_norm = weight(torch.ones(q_lora, dtype=dtype))
        self.latent_norm = weight(torch.ones(mla.kv_lora, dtype=dtype))
        # One piece of memory, a head's keys before its values: what expands latents into both.
        self.key_value_up = torch.empty(mla.heads, mla.nope + mla.v, mla.kv_lora, dtype=dtype)
        self.key_value_up.normal_(0.0, mla.kv_lora**-0.5)
        self.key_up = weight(self.key_value_up[:, : mla.nope])
        self.value_up = weight(self.key_value_up[:, mla.nope :])
        self.out = random_weight(hidden, mla.heads * mla.v, dtype=dtype)
        self.has_kernels = attention != "torch"
        if self.has_kernels:
            import gpubench.kernels.linear_few
            import gpubench.kernels.mla_decode
            import gpubench.kernels.mla_prepare
            import gpubench.kernels.mla_sparse_decode  # noqa: F401 - they register operators

    def ask(self, x: Operand, entries: Tensor, place: LatentPlace) -> Query:
        """Project x [batch, hidden], a token of each sequence, and write its entry."""
        mla, batch, pages, rotary = self.mla, len(x.x), place.pages, place.rotary
        projected = project(x, self.from_hidden, has_kernel=self.has_kernels)
        own, index_key = _part(projected, self.down, self.for_indexer[1])
        low = own.new_empty(batch, self.q_lora)
        given = own, self.query_norm, self.latent_norm, rotary, entries, pages.table, pages.lengths, low, self.norm_eps
        if self.has_kernels:
            torch.ops.gpubench.mla_prepare(*given)
        else:
            prepare_in_torch(*given, pages.may_idle)
        queries = project(Operand(low), self.from_low, has_kernel=self.has_kernels)
        query, index_queries = _part(queries, self.query_up, self.for_indexer[0])
        nope, rope = torch.split(query.view(batch, mla.heads, -1), [mla.nope, mla.rope], dim=-1)
        if self.has_kernels:
            torch.ops.gpubench.rotate_heads(rope, rotary)
        else:
            rope = rotate(rope, rotary)
        # Heads are the batch of the product; the kernels take a view that has them second.
        latent = torch.bmm(nope.transpose(0, 1), self.key_up).transpose(0, 1)
        return Query(latent, rope, index_queries, index_key)

    def answer(self, query: Query, entries: Tensor, pages: Pages, x: Tensor) -> Tensor:
        """x [batch, hidden] and the attention to these entries."""
        mla, batch = self.mla, len(x)
        latent = x.new_empty(batch, mla.heads, mla.kv_lora)
        given, scale, ops = (query.latent, query.rope, entries), softmax_scale(mla), torch.ops.gpubench
        where, into = (pages.table, pages.lengths), (latent, pages.scratch)
        if pages.plan is not None:
            ops.flashinfer_mla(*given, latent, pages.plan.number)
        elif pages.selected is not None:
            ops.mla_sparse_decode(*given, *where, pages.selected, *into, softmax_scale=scale)
        elif self.has_kernels:
            ops.mla_decode(*given, *where, *into, softmax_scale=scale)
        else:
            attend_in_torch(*given, *where, latent, scale, pages.may_idle)
        values = torch.bmm(latent.transpose(0, 1), self.value_up.mT).transpose(0, 1)
        return project(Operand(values.reshape(batch, -1)), self.out, x, has_kernel=self.has_kernels)

    def prefill(self, x: Operand, entries: Tensor, place: LatentPlace) -> Tensor:
        """x [tokens, hidden], a chunk of one sequence, and its attention; writes its entries. Without an indexer."""
        mla, tokens = self.mla, len(x.x)
        assert place.span is not None, "a chunk has a span"
        own = project(x, self.from_hidden, has_kernel=self.has_kernels)[:, : len(self.down)]
        low, latent, rope = torch.split(own, [self.q_lora, mla.kv_lora, mla.rope], dim=-1)
        entry = _make_entry(latent, rope, self.latent_norm, place.rotary, self.norm_eps)
        low = F.rms_norm(low, self.query_norm.shape, self.query_norm, self.norm_eps)
        queries = F.linear(low, self.query_up).view(tokens, mla.heads, -1)
        nope, rope = torch.split(queries, [mla.nope, mla.rope], dim=-1)
        query = torch.cat((nope, rotate(rope, place.rotary)), dim=-1)
        where = entries, place.pages.table, place.span
        values = latent_chunk(query, entry, *where, self.key_value_up, self.has_kernels)
        return project(Operand(values), self.out, x.x, has_kernel=self.has_kernels)


def _part(product: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of two weights that are one matrix, which may have more rows than they."""
    return product[:, : len(first)], product[:, len(first) : len(first) + len(second)]


def softmax_scale(mla: MlaShape) -> float:
    """By the width of the keys that aren't absorbed."""
    return float((mla.nope + mla.rope) ** -0.5)


def check_latent_attention(attention: Attention, mla: MlaShape, dtype: torch.dtype) -> None:
    """Unsupported if this implementation can't be had here."""
    if attention == "flashinfer":
        check_flashinfer(mla, dtype)
    if attention != "torch":
        check_triton()  # for flashinfer, too: it has the attention alone, and our kernels are around it


def count_pages(length: int) -> int:
    """How many pages so many tokens take."""
    return -(-length // PAGE)


def make_pages(table: Tensor, lengths: Tensor, mla: MlaShape, dtype: torch.dtype, attention: Attention) -> Pages:
    """These tokens, as this implementation's attention sees them."""
    if attention == "flashinfer":
        plan = FlashinferPlan(table, lengths, mla, softmax_scale(mla), dtype)
        return Pages(table, lengths, lengths.new_empty(0, dtype=torch.float32), plan)
    return Pages(table, lengths, _decode_scratch(table, [len(table)], mla, dtype, attention))


def make_slot_pages(table: Tensor, mla: MlaShape, dtype: torch.dtype, attention: Attention) -> Pages:
    """Those of empty slots, with what steps of any of the first rows work in."""
    scratch = _decode_scratch(table, range(1, len(table) + 1), mla, dtype, attention)
    return Pages(table, torch.zeros_like(table[:, 0]), scratch, may_idle=True)


def _decode_scratch(
    table: Tensor, batches: Iterable[int], mla: MlaShape, dtype: torch.dtype, attention: Attention
) -> Tensor:
    """What our attention kernel works in, for steps of any of these numbers of sequences."""
    elements = 0
    if attention == "triton":
        from gpubench.kernels.mla_decode import mla_decode_scratch

        latent = torch.empty(len(table), mla.heads, mla.kv_lora, dtype=dtype, device=table.device)
        rope = latent.new_empty(len(table), mla.heads, mla.rope)
        elements = max(mla_decode_scratch(latent[:batch], rope[:batch], table) for batch in batches)
    return torch.empty(elements, dtype=torch.float32, device=table.device)


def make_gathered(batch: int, k: int, mla: MlaShape, like: Tensor, attention: Attention) -> tuple[Tensor, Pages]:
    """Room for k selected entries of each sequence, of `like`'s dtype and device, and its pages."""
    max_pages = count_pages(k)
    table = torch.arange(batch * max_pages, dtype=torch.int32, device=like.device).view(batch, max_pages)
    lengths = torch.full((batch,), k, dtype=torch.int32, device=like.device)
    # Zeros, because torch's attention reads beyond the last entry, and there is no weight that makes a NaN vanish.
    gathered = like.new_zeros(batch * max_pages, PAGE, mla.kv_lora + mla.rope)
    return gathered, make_pages(table, lengths, mla, like.dtype, attention)


def sparse_scratch(batch: int, k: int, mla: MlaShape, like: Tensor) -> Tensor:
    """What our kernel works in where it attends to k selected tokens of each sequence, where they lie."""
    from gpubench.kernels.mla_sparse_decode import mla_sparse_decode_scratch

    elements = mla_sparse_decode_scratch(like.new_empty(batch, mla.heads, mla.kv_lora), k)
    # Two at least, for none would be a case of its own to torch.compile.
    return torch.empty(max(elements, 2), dtype=torch.float32, device=like.device)


@as_seam("mla_prepare_in_torch", mutates=("cache", "query"))
def prepare_in_torch(  # noqa: PLR0913, PLR0917 - the operator's arguments
    projected: Tensor,
    query_norm: Tensor,
    latent_norm: Tensor,
    rotary: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    query: Tensor,
    eps: float,
    may_idle: bool = False,
) -> None:
    """What gpubench.kernels.mla_prepare does, with torch's operators; with `may_idle` a length may be 0."""
    kv_lora, rope_dim = latent_norm.shape[0], 2 * rotary.shape[-1]
    low, latent, rope = torch.split(projected, [query.shape[1], kv_lora, rope_dim], dim=-1)
    query.copy_(F.rms_norm(low, query_norm.shape, query_norm, eps))
    entry = _make_entry(latent, rope, latent_norm, rotary, eps)
    last = (lengths.clamp(min=1) if may_idle else lengths).long() - 1
    table = block_table[: len(last)] if may_idle else block_table
    page = table.gather(1, (last // PAGE)[:, None])[:, 0].long()
    rows, entries = page * PAGE + last % PAGE, cache.flatten(0, 1)
    if may_idle:
        entry = entry.where((lengths > 0)[:, None], entries[rows])
    entries.index_put_((rows,), entry)


def _make_entry(latent: Tensor, rope: Tensor, norm: Tensor, rotary: Tensor, eps: float) -> Tensor:
    """What the cache has of tokens, [tokens, R + P]."""
    return torch.cat((F.rms_norm(latent, norm.shape, norm, eps), rotate(rope[:, None], rotary)[:, 0]), dim=-1)


@as_seam("mla_decode_in_torch", mutates=("out",))
def attend_in_torch(  # noqa: PLR0913, PLR0917 - the operator's arguments
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    out: Tensor,
    softmax_scale: float,
    may_idle: bool = False,
) -> None:
    """What gpubench.kernels.mla_decode does, on a gathered copy of the cache; with `may_idle` a length may be 0."""
    table, seen = (block_table[: len(lengths)], lengths.clamp(min=1)) if may_idle else (block_table, lengths)
    entries = cache[table.long()].flatten(1, 2)  # [batch, max_pages · 64, R + P]
    scores = (torch.cat((q_latent, q_rope), dim=-1) @ entries.mT).float() * softmax_scale
    beyond = torch.arange(entries.shape[1], device=entries.device) >= seen[:, None]
    weights = scores.masked_fill(beyond[:, None], -torch.inf).softmax(dim=-1)
    out.copy_(weights.to(entries.dtype) @ entries[..., : q_latent.shape[-1]])


def gather_in_torch(cache: Tensor, block_table: Tensor, lengths: Tensor, indices: Tensor, gathered: Tensor) -> None:
    """What gpubench.kernels.mla_gather does, but for slots without a token: those get some other entry."""
    token = torch.minimum(indices.clamp(min=0), lengths[:, None] - 1).long()
    row = block_table.long().gather(1, token // PAGE) * PAGE + token % PAGE
    slots = gathered.view(indices.shape[0], -1, gathered.shape[-1])
    slots[:, : indices.shape[1]].copy_(cache.flatten(0, 1)[row])
