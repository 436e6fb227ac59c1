"""Block-sparse grouped-query attention of decoded tokens, as MiniMax-M3 has it: score blocks, keep the best, attend.

Caches are paged, a page being a block of 128 tokens (`gpubench.kernels.sparse_gqa_cache`). A step returns `out` and the
`blocks` that it attended to; one that returns no blocks attended to everything, and is checked as such.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import gpubench
from gpubench.errors import Unsupported
from gpubench.models.shapes import SPARSE_GQA, SparseGqaShape, local_heads
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.sizes import check_sizes

Model = Literal["minimax-m3"]
Scope = Literal["op", "core"]

_MARGIN = 1.1
"""Of device memory over the caches: queries, scratch, and what a check takes."""

_TOLERANCE: dict[torch.dtype, float] = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Of a head's output (its norm), and of a block's score (the row's largest): two units in the last place, or so."""


@dataclass(frozen=True)
class Operands:
    """The inputs as `sparse_gqa_decode` makes them."""

    q: Tensor
    index_q: Tensor
    index_k: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_table: Tensor
    lengths: Tensor
    chosen: Tensor
    """What `scope: core` attends to."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Operands:
        """Those among everything that a set-up or a hook was given."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__})

    @property
    def kv_heads(self) -> int:
        return self.k_cache.shape[1]

    @property
    def block(self) -> int:
        return self.k_cache.shape[2]

    def grouped(self) -> Tensor:
        """Queries with those that share a KV head side by side: [rows, kv_heads, group, dim]."""
        return self.q.view(len(self.q), self.kv_heads, -1, self.q.shape[-1])


@gpubench.workload("sparse_gqa_decode")
def sparse_gqa_decode(  # noqa: PLR0913, PLR0917 - the arguments are the axes
    batch: int,
    isl: int,
    model: Model = "minimax-m3",
    tp: int = 1,
    dtype: FloatType = "bfloat16",
    launch: Launch = "eager",
    scope: Scope = "op",
    ragged: bool = False,
) -> dict[str, Tensor]:
    """Block-sparse GQA decode. scope op: scores, choice and attention; core: attention over given blocks."""
    check_sizes(batch=batch, isl=isl)
    shape = SPARSE_GQA[model]
    kv_heads = local_heads(shape.kv_heads, tp)
    kind = torch_dtype(dtype)
    max_blocks = -(-isl // shape.block)
    pages = batch * max_blocks
    lengths = torch.tensor(row_lengths(batch, isl, ragged), dtype=torch.int32)
    return {
        "q": torch.randn(batch, local_heads(shape.heads, tp), shape.dim, dtype=kind),
        "index_q": torch.randn(batch, local_heads(shape.index_heads, tp), shape.index_dim, dtype=kind),
        "index_k": torch.randn(pages, shape.block, shape.index_dim, dtype=kind),
        "k_cache": torch.randn(pages, kv_heads, shape.block, shape.dim, dtype=kind),
        "v_cache": torch.randn(pages, kv_heads, shape.block, shape.dim, dtype=kind),
        "block_table": torch.randperm(pages).int().view(batch, max_blocks),
        "lengths": lengths,
        "chosen": _draw_blocks(lengths, kv_heads, max_blocks, shape.blocks, shape.block),
    }


def row_lengths(batch: int, isl: int, ragged: bool) -> list[int]:
    """Tokens per row: isl for each, or from isl evenly down to an empty row, as padding makes one."""
    if not ragged or batch == 1:
        return [isl] * batch
    return [isl * (batch - 1 - row) // (batch - 1) for row in range(batch)]


def _draw_blocks(lengths: Tensor, kv_heads: int, max_blocks: int, kept: int, block: int) -> Tensor:
    """A random choice for `scope: core`: the last block and others, −1 where a row has fewer."""
    return _keep_best(torch.rand(len(lengths), kv_heads, max_blocks), lengths, kept, block)


def _keep_best(scores: Tensor, lengths: Tensor, kept: int, block: int) -> Tensor:
    """The numbers of the best-scored blocks [rows, heads, kept], the last one among them, −1 where there are fewer."""
    counts = ((lengths + block - 1) // block)[:, None, None]
    numbers = torch.arange(scores.shape[-1], device=scores.device)
    scores = scores.masked_fill(numbers == counts - 1, torch.inf).masked_fill(numbers >= counts, -torch.inf)
    best = scores.topk(min(kept, scores.shape[-1]))
    blocks = best.indices.masked_fill(best.values == -torch.inf, -1).int()
    return F.pad(blocks, (0, kept - blocks.shape[-1]), value=-1)


@sparse_gqa_decode.backend("torch_dense", baseline=True)
def _(scope: Scope, launch: Launch, ragged: bool, isl: int, **given: Any) -> Step:
    # SDPA wants a row's tokens side by side, so they are laid out here, untimed: the step reads no page table.
    if scope == "core":
        raise Unsupported("torch_dense attends to every block; scope: core has 16 given blocks")
    x = Operands.of(given)
    k, v = _lay_out(x.k_cache, x, isl), _lay_out(x.v_cache, x, isl)
    q, mask, is_empty = x.q[:, :, None], None, (x.lengths == 0)[:, None, None, None]
    if ragged:
        mask = (torch.arange(isl, device=q.device) < x.lengths[:, None])[:, None, None]

    def step() -> dict[str, Tensor]:
        # On an H200 this reads at the memory's speed (cuDNN); query heads grouped as queries took 1.6 × as long.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        if ragged:
            out = out.masked_fill(is_empty, 0.0)
        return {"out": out[:, :, 0]}

    return launched(step, launch)


def _lay_out(cache: Tensor, x: Operands, isl: int) -> Tensor:
    rows, heads, dim = len(x.lengths), x.kv_heads, cache.shape[-1]
    out = cache.new_empty(rows, heads, isl, dim)
    for row in range(rows):
        out[row] = cache[x.block_table[row].long()].transpose(0, 1).flatten(1, 2)[:, :isl]
    return out


@sparse_gqa_decode.backend("torch_gather")
def _(scope: Scope, launch: Launch, **given: Any) -> Step:
    x = Operands.of(given)
    table = x.block_table.long()
    q, heads = x.grouped(), torch.arange(x.kv_heads, device=x.q.device)[:, None]
    within = torch.arange(x.block, device=x.q.device)
    kept = x.chosen.shape[-1]

    def choose() -> Tensor:
        keys = x.index_k[table].flatten(1, 2)
        scores = (x.index_q @ keys.mT) * keys.shape[-1] ** -0.5
        places = torch.arange(scores.shape[-1], device=scores.device)
        scores = scores.masked_fill(places >= x.lengths[:, None, None], -torch.inf)
        return _keep_best(scores.view(*scores.shape[:2], -1, x.block).amax(-1), x.lengths, kept, x.block)

    def step() -> dict[str, Tensor]:
        blocks = choose() if scope == "op" else x.chosen
        numbers = blocks.clamp(min=0).long()
        pages = table[:, None].expand(-1, x.kv_heads, -1).gather(2, numbers)
        k, v = (cache[pages, heads].flatten(2, 3) for cache in (x.k_cache, x.v_cache))
        seen = (blocks >= 0)[..., None] & (numbers[..., None] * x.block + within < x.lengths[:, None, None, None])
        mask = seen.flatten(2)[:, :, None].expand(-1, -1, q.shape[2], -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.masked_fill((x.lengths == 0)[:, None, None, None], 0.0)
        return {"out": out.flatten(1, 2), "blocks": blocks}

    return launched(step, launch)


@sparse_gqa_decode.backend("triton", requires=["triton"])
def _(scope: Scope, launch: Launch, **given: Any) -> Step:
    from gpubench.kernels.sparse_gqa import choose_splits, sparse_gqa_attend
    from gpubench.kernels.sparse_gqa_scores import sparse_gqa_scores
    from gpubench.kernels.sparse_gqa_select import sparse_gqa_select

    x = Operands.of(given)
    rows, heads, dim = x.q.shape
    kept = x.chosen.shape[-1]
    splits = choose_splits(rows, x.kv_heads, kept)
    out = torch.empty_like(x.q)
    partial = x.q.new_empty(rows, heads, splits, dim, dtype=torch.float32)
    partial_lse = x.q.new_empty(rows, heads, splits, dtype=torch.float32)
    scores = x.q.new_empty(rows, x.kv_heads, x.block_table.shape[1], dtype=torch.float32)
    blocks = torch.empty_like(x.chosen) if scope == "op" else x.chosen

    def step() -> dict[str, Tensor]:
        if scope == "op":
            sparse_gqa_scores(x.index_q, x.index_k, x.block_table, x.lengths, scores, kept)
            sparse_gqa_select(scores, x.lengths, blocks, x.block)
        sparse_gqa_attend(x.q, x.k_cache, x.v_cache, blocks, x.block_table, x.lengths, out, partial, partial_lse)
        return {"out": out, "blocks": blocks}

    return launched(step, launch)


@sparse_gqa_decode.oracle
def _(scope: Scope, **given: Any) -> dict[str, Tensor]:
    x = Operands.of(given)
    blocks = _true_blocks(x) if scope == "op" else x.chosen
    return {"out": _true_attention(x, blocks), "blocks": blocks}


@sparse_gqa_decode.compare
def _(out: Mapping[str, Tensor], ref: Any, scope: Scope, **given: Any) -> str | None:
    # Of two blocks whose scores differ by a rounding, a step may choose either, and a choice moves the whole output. So
    # the choice is judged by its scores, and the output by the oracle's formula on the step's own choice, not by `ref`.
    x = Operands.of(given)
    blocks = out.get("blocks")
    if blocks is not None:
        fault = _judge_choice(blocks, x) if scope == "op" else _judge_same(blocks, x.chosen)
        if fault:
            return fault
    want, got = _true_attention(x, blocks), out["out"].float()
    if got.shape != want.shape:
        return f"out has shape {tuple(got.shape)}, want {tuple(want.shape)}"
    sizes = want.norm(dim=-1)
    errors = ((got - want).norm(dim=-1) / sizes.where(sizes > 0, 1.0)).nan_to_num(torch.inf)
    row, head = divmod(int(errors.argmax()), x.q.shape[1])
    error, limit = errors[row, head].item(), _TOLERANCE[x.q.dtype]
    return None if error <= limit else f"out[{row}, {head}] is off by {error:.2g} of its norm, more than {limit:g}"


def _true_scores(x: Operands, row: int) -> Tensor:
    """Block scores of one row in float32: [heads, blocks]."""
    length = int(x.lengths[row])
    pages = x.block_table[row, : -(-length // x.block)].long()
    keys = x.index_k[pages].flatten(0, 1)[:length].float()
    scores = x.index_q[row].float() @ keys.T * keys.shape[-1] ** -0.5
    scores = F.pad(scores, (0, -length % x.block), value=-torch.inf)
    return scores.view(len(scores), -1, x.block).amax(-1)


def _true_blocks(x: Operands) -> Tensor:
    scores = torch.zeros(*x.chosen.shape[:2], x.block_table.shape[1], device=x.q.device)
    for row, length in enumerate(x.lengths.tolist()):
        if length:
            own = _true_scores(x, row)
            scores[row, :, : own.shape[-1]] = own
    return _keep_best(scores, x.lengths, x.chosen.shape[-1], x.block)


def _true_attention(x: Operands, blocks: Tensor | None) -> Tensor:
    """Attention in float32 over all tokens of a row, those outside of `blocks` masked: row by row, to fit."""
    out = torch.zeros(x.q.shape, dtype=torch.float32, device=x.q.device)
    for row, length in enumerate(x.lengths.tolist()):
        if not length:
            continue
        pages = x.block_table[row, : -(-length // x.block)].long()
        k, v = (cache[pages].transpose(0, 1).flatten(1, 2)[:, :length].float() for cache in (x.k_cache, x.v_cache))
        products = x.grouped()[row].float() @ k.mT * k.shape[-1] ** -0.5
        if blocks is not None:
            seen = torch.zeros(x.kv_heads, len(pages) + 1, dtype=torch.bool, device=x.q.device)
            seen.scatter_(1, blocks[row].long().where(blocks[row] >= 0, len(pages)), True)
            tokens = torch.arange(length, device=x.q.device) // x.block
            products = products.masked_fill(~seen[:, None, tokens], -torch.inf)
        out[row] = (products.softmax(-1) @ v).flatten(0, 1)
    return out


def _judge_same(blocks: Tensor, given: Tensor) -> str | None:
    return None if torch.equal(blocks, given) else "blocks aren't those that were given"


def _judge_choice(blocks: Tensor, x: Operands) -> str | None:
    """What is wrong with a choice of blocks; None if they are the best, the last one among them."""
    if blocks.shape != x.chosen.shape:
        return f"blocks has shape {tuple(blocks.shape)}, want {tuple(x.chosen.shape)}"
    for row, length in enumerate(x.lengths.tolist()):
        count = -(-length // x.block)
        for head, own in enumerate(blocks[row].tolist()):
            place, chosen = f"blocks[{row}, {head}]", [block for block in own if block != -1]
            if len(chosen) != min(count, len(own)):
                return f"{place} has {len(chosen)} blocks, want {min(count, len(own))} of {count}"
            if len(set(chosen)) < len(chosen) or (chosen and not 0 <= min(chosen) <= max(chosen) < count):
                return f"{place} repeats a block, or has one out of range: {own}"
            if chosen and count - 1 not in chosen:
                return f"{place} lacks the last block, {count - 1}"
        if count > blocks.shape[-1] and (fault := _judge_scores(blocks[row].long(), _true_scores(x, row), x.q.dtype)):
            return f"row {row}: {fault}"
    return None


def _judge_scores(blocks: Tensor, scores: Tensor, dtype: torch.dtype) -> str | None:
    """What is wrong with one row's choice by its scores: a block left out beats one that was taken."""
    allowed = _TOLERANCE[dtype] * scores.abs().max()
    scores[:, -1] = torch.inf  # taken whatever its score
    worst_taken = scores.gather(1, blocks).amin(1)
    best_left = scores.scatter(1, blocks, -torch.inf).amax(1)
    excess, head = (best_left - worst_taken).max(0)
    if excess <= allowed:
        return None
    gap = f"{excess.item():.3g} above one it took, more than {allowed.item():.2g}"
    return f"head {int(head)} left out a block whose score is {gap}"


def _attended(length: int, shape: SparseGqaShape) -> int:
    """Tokens of a row that are attended to: all, or those of the chosen blocks; the last may be partly filled."""
    if length <= shape.block * shape.blocks:
        return length
    return (shape.blocks - 1) * shape.block + (length - 1) % shape.block + 1


@sparse_gqa_decode.bytes
def _(batch: int, isl: int, tp: int, dtype: FloatType, scope: Scope, **rest: Any) -> int:
    # Queries in, output out, the chosen blocks' keys and values; index keys only where there is a choice to make.
    shape = SPARSE_GQA[rest["model"]]
    heads, kv_heads, index_heads = (local_heads(n, tp) for n in (shape.heads, shape.kv_heads, shape.index_heads))
    elements = batch * 2 * heads * shape.dim
    for length in row_lengths(batch, isl, rest["ragged"]):
        elements += 2 * kv_heads * shape.dim * _attended(length, shape)
        if scope == "op" and length > shape.block * shape.blocks:
            elements += shape.index_dim * (length + index_heads)
    return elements * itemsize(dtype)


@sparse_gqa_decode.flop
def _(batch: int, isl: int, model: Model, tp: int, scope: Scope, ragged: bool) -> int:
    shape = SPARSE_GQA[model]
    heads, index_heads = local_heads(shape.heads, tp), local_heads(shape.index_heads, tp)
    total = 0
    for length in row_lengths(batch, isl, ragged):
        total += 4 * heads * shape.dim * _attended(length, shape)
        if scope == "op" and length > shape.block * shape.blocks:
            total += 2 * index_heads * shape.index_dim * length
    return total


@sparse_gqa_decode.fits
def _(batch: int, isl: int, model: Model, tp: int, dtype: FloatType, device_bytes: float) -> str | None:
    shape = SPARSE_GQA[model]
    per_token = 2 * local_heads(shape.kv_heads, tp) * shape.dim + shape.index_dim
    needed = round(_MARGIN * batch * -(-isl // shape.block) * shape.block * per_token * itemsize(dtype))
    return f"caches need {needed / 1e9:.1f} GB of {device_bytes / 1e9:.1f}" if needed > device_bytes else None


@sparse_gqa_decode.label
def _(isl: int, model: Model, tp: int) -> dict[str, str]:
    shape = SPARSE_GQA[model]
    return {
        "heads": f"{local_heads(shape.heads, tp)} query, {local_heads(shape.kv_heads, tp)} KV",
        "sparse attention": f"{_attended(isl, shape)} of {isl} tokens",
    }


@sparse_gqa_decode.metric("rows_per_s", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Tokens decoded per second by this layer's attention alone."""
    return float(cell.batch / seconds)
