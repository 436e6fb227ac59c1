"""Prefill of multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024): new tokens attend to themselves and to
what their sequence has in the cache.

    k[t, h] = [c[t] · W_UK[h]ᵀ ‖ k_pe[t]],   v[t, h] = c[t] · W_UV[h]ᵀ
    out[i, h] = softmax over t ≤ position(i) of (q[i, h] · k[t, h] · (N + P)^-½) · v[t, h]

    q [T, H, N + P], out [T, H, V]   the new tokens of all sequences, one behind the other
    cache [K, R + P]                 the tokens that they see, likewise: the latent c, behind it the rotary key k_pe
    w_kv [H · (N + V), R]            per head W_UK [N, R] and W_UV [V, R], as checkpoints have it
    cu_q, cu_k [S + 1] int32         sequence s has rows cu_q[s] to cu_q[s + 1], the last of its tokens cu_k[s] to
                                     cu_k[s + 1]; rows from cu_q[S] on are padding and get 0

float32, float16 or bfloat16; scores, softmax and sums are float32. There are two forms, which differ in rounding alone:

    expanded   kv [K, H, N + V] = c · w_kvᵀ, then attention per head; k_pe is read as it is, never copied to the heads
    absorbed   q_latent [T, H, R] = q · W_UK; attention over the cache itself, each token key and value of all heads at
               once; out = out_latent · W_UVᵀ. More work per pair of tokens, none per cached token

A program computes a tile of rows: of one head, or in the absorbed form of all heads of a few tokens. Where tiles are
few the keys are split, and a second kernel merges. The scratch says so: partial float32 [splits, T, H, V or R] and
partial_lse float32 [splits, T, H], with 0 splits where nothing is merged. All decisions come from shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_operand, last_size
from gpubench.kernels.launching import Launcher, Planned
from gpubench.kernels.mla_prefill_arguments import (
    check_offsets,
    check_queries,
    check_splits,
    check_whole,
    check_widths,
    is_width,
)
from gpubench.kernels.mla_prefill_tiling import Form, Sizes, Tiling, choose_tiling, head_group, split_nope
from gpubench.kernels.ops import as_op

__all__ = [
    "mla_prefill_attention",
    "prepare_attention",
]

_LOG2_E = math.log2(math.e)
_INT32_MAX = 2**31 - 1


@triton.jit
def _attend(
    state,
    queries,
    k_base,
    v_base,
    pe_base,
    first,
    last,
    kv_len,
    position,
    pe_stride,
    scale,
    K_ROW: tl.constexpr,
    NOPE: tl.constexpr,
    NOPE_TAIL: tl.constexpr,
    ROPE: tl.constexpr,
    V: tl.constexpr,
    V_IS_K: tl.constexpr,
    IS_EDGE: tl.constexpr,
    IS_LONG: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The running softmax over the keys from `first` to `last`; only at an edge is there anything to mask."""
    q_nope, q_tail, q_pe = queries
    total, weights, highest = state
    for start in tl.range(first, last, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        seen = (keys < kv_len)[:, None]
        wide = (keys.to(tl.int64) if IS_LONG else keys)[:, None]
        at = wide * K_ROW
        # What lies beyond is another sequence's, or was never written: a weight of 0 wouldn't make up for its NaN.
        pe_at = pe_base + wide * pe_stride + tl.arange(0, ROPE)[None, :]
        k_at = k_base + at + tl.arange(0, NOPE)[None, :]
        k_pe = tl.load(pe_at, mask=seen, other=0.0) if IS_EDGE else tl.load(pe_at)
        k = tl.load(k_at, mask=seen, other=0.0) if IS_EDGE else tl.load(k_at)
        scores = tl.dot(q_pe, tl.trans(k_pe), input_precision=PRECISION)
        scores = tl.dot(q_nope, tl.trans(k), scores, input_precision=PRECISION)
        if NOPE_TAIL > 0:
            tail_at = k_base + at + NOPE + tl.arange(0, NOPE_TAIL)[None, :]
            tail = tl.load(tail_at, mask=seen, other=0.0) if IS_EDGE else tl.load(tail_at)
            scores = tl.dot(q_tail, tl.trans(tail), scores, input_precision=PRECISION)
        if IS_EDGE:
            scores = tl.where(keys[None, :] <= position[:, None], scores, float("-inf"))
        rising = tl.maximum(highest, tl.max(scores, axis=1) * scale)
        weight = tl.exp2(scores * scale - rising[:, None])
        fading = tl.exp2(highest - rising)
        weights = weights * fading + tl.sum(weight, axis=1)
        if V_IS_K:
            v = k
        else:
            v_at = v_base + at + tl.arange(0, V)[None, :]
            v = tl.load(v_at, mask=seen, other=0.0) if IS_EDGE else tl.load(v_at)
        total = tl.dot(weight.to(v.dtype), v, total * fading[:, None], input_precision=PRECISION)
        highest = rising
    return total, weights, highest


@triton.jit
def _next_tile(tiles, head_group, HEADS: tl.constexpr):
    """Tile and head of this program. Heads come in groups whose keys and values fit the L2 together; within a group the
    tiles that see the most keys come first, so that short ones fill the gaps at the end."""
    program = tl.program_id(0)
    first_head = program // (tiles * head_group) * head_group
    group = min(HEADS - first_head, head_group)
    within = program % (tiles * head_group)
    return tiles - 1 - within // group, first_head + within % group


@triton.jit
def _find_rows(tile, cu_q_ptr, tokens, sequences, PACK: tl.constexpr, SEQUENCES: tl.constexpr, BLOCK_M: tl.constexpr):
    """Whose tile it is, its first row, and where the sequence's rows end; a row is one of the PACK heads of a token.

    Each sequence begins a tile of its own, at ⌊rows before it / BLOCK_M⌋ + sequences before it. So does the padding,
    which counts as one more sequence. Some tiles have no rows.
    """
    numbers = tl.arange(0, SEQUENCES)
    starts = tl.load(cu_q_ptr + numbers, mask=numbers <= sequences, other=0)
    begins = starts * PACK // BLOCK_M + numbers
    sequence = tl.sum(((begins <= tile) & (numbers <= sequences)).to(tl.int32), axis=0) - 1
    start = tl.load(cu_q_ptr + sequence) * PACK
    end = tl.load(cu_q_ptr + sequence + 1, mask=sequence < sequences, other=tokens) * PACK
    return sequence, start + (tile - start // BLOCK_M - sequence) * BLOCK_M, end


@triton.jit(do_not_specialize=["tokens", "sequences", "tiles", "head_group", "splits"])
def _attention_kernel(
    q_nope_ptr,
    q_ptr,
    k_ptr,
    k_pe_ptr,
    cu_q_ptr,
    cu_k_ptr,
    out_ptr,
    partial_ptr,
    partial_lse_ptr,
    tokens,
    sequences,
    tiles,
    head_group,
    splits,
    pe_stride,
    scale,
    HEADS: tl.constexpr,
    PACK: tl.constexpr,
    Q_DIM: tl.constexpr,
    Q_NOPE_DIM: tl.constexpr,
    K_DIM: tl.constexpr,
    NOPE: tl.constexpr,
    NOPE_TAIL: tl.constexpr,
    ROPE: tl.constexpr,
    V: tl.constexpr,
    V_IS_K: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    IS_LONG: tl.constexpr,
    SEQUENCES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    split = tl.program_id(1)
    tile, head = _next_tile(tiles, head_group, HEADS)
    sequence, first_row, end_row = _find_rows(tile, cu_q_ptr, tokens, sequences, PACK, SEQUENCES, BLOCK_M)
    if first_row >= end_row:
        return

    rows = tl.arange(0, BLOCK_M)
    inside = (first_row + rows < end_row)[:, None]
    place = first_row.to(tl.int64) * HEADS + head
    k_start = tl.load(cu_k_ptr + sequence)
    kv_len = max(tl.load(cu_k_ptr + sequence + 1, mask=sequence < sequences, other=0) - k_start, 0)  # 0 for padding
    offset = kv_len - end_row // PACK
    position = offset + (first_row + rows) // PACK
    end = min(kv_len, offset + (min(first_row + BLOCK_M, end_row) - 1) // PACK + 1)  # what the last row sees
    first = 0
    if IS_SPLIT:
        share = tl.cdiv(tl.cdiv(end, BLOCK_N), splits) * BLOCK_N
        first = split * share
        end = min(end, first + share)
    shared = offset + first_row // PACK + 1  # what all rows see
    edge = max(min(shared, end) // BLOCK_N * BLOCK_N, first)

    q_row = q_nope_ptr + place * Q_NOPE_DIM + (rows * (HEADS * Q_NOPE_DIM))[:, None]
    q_nope = tl.load(q_row + tl.arange(0, NOPE)[None, :], mask=inside, other=0.0)
    q_tail = q_nope
    if NOPE_TAIL > 0:
        q_tail = tl.load(q_row + NOPE + tl.arange(0, NOPE_TAIL)[None, :], mask=inside, other=0.0)
    q_pe_row = q_ptr + place * Q_DIM + (rows * (HEADS * Q_DIM))[:, None] + Q_DIM - ROPE
    queries = (q_nope, q_tail, tl.load(q_pe_row + tl.arange(0, ROPE)[None, :], mask=inside, other=0.0))
    K_ROW: tl.constexpr = HEADS * K_DIM
    k_base = k_ptr + k_start.to(tl.int64) * K_ROW + head * K_DIM
    v_base = k_base + NOPE + NOPE_TAIL
    pe_base = k_pe_ptr + k_start.to(tl.int64) * pe_stride

    # Nothing seen yet is −1e30, not −∞: a row that a split has no key for then keeps weights of 0, not NaN.
    total = tl.zeros((BLOCK_M, V), dtype=tl.float32)
    weights = tl.zeros((BLOCK_M,), dtype=tl.float32)
    highest = tl.full((BLOCK_M,), -1e30, dtype=tl.float32)
    state = (total, weights, highest)
    state = _attend(
        state, queries, k_base, v_base, pe_base, first, edge, kv_len, position, pe_stride, scale,
        K_ROW, NOPE, NOPE_TAIL, ROPE, V, V_IS_K, False, IS_LONG, BLOCK_N, PRECISION,
    )  # fmt: skip
    total, weights, highest = _attend(
        state, queries, k_base, v_base, pe_base, edge, end, kv_len, position, pe_stride, scale,
        K_ROW, NOPE, NOPE_TAIL, ROPE, V, V_IS_K, True, IS_LONG, BLOCK_N, PRECISION,
    )  # fmt: skip

    total *= tl.where(weights > 0, 1.0 / weights, 0.0)[:, None]
    # Asked in other words than for the queries: one answer for both would be kept throughout, and 900 bytes be spilt.
    is_own = rows < end_row - first_row
    at = (rows * (HEADS * V))[:, None] + tl.arange(0, V)[None, :]
    if IS_SPLIT:
        place += split.to(tl.int64) * tokens * (PACK * HEADS)
        tl.store(partial_ptr + place * V + at, total, mask=is_own[:, None])
        lse = tl.where(weights > 0, highest + tl.log2(weights), float("-inf"))
        tl.store(partial_lse_ptr + place + rows * HEADS, lse, mask=is_own)
    else:
        tl.store(out_ptr + place * V + at, total.to(out_ptr.dtype.element_ty), mask=is_own[:, None])


@triton.jit(do_not_specialize=["rows", "splits"])
def _merge_kernel(partial_ptr, partial_lse_ptr, out_ptr, rows, splits, V: tl.constexpr, SPLITS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    numbers = tl.arange(0, SPLITS)
    places = numbers.to(tl.int64) * rows + row
    columns = tl.arange(0, V)
    lse = tl.load(partial_lse_ptr + places, mask=numbers < splits, other=float("-inf"))
    share = tl.exp2(lse - tl.maximum(tl.max(lse, axis=0), -1e30))
    parts = tl.load(partial_ptr + places[:, None] * V + columns[None, :], mask=(numbers < splits)[:, None], other=0.0)
    whole = tl.sum(share, axis=0)
    merged = tl.sum(parts * share[:, None], axis=0) * tl.where(whole > 0, 1.0 / whole, 0.0)
    tl.store(out_ptr + row * V + columns, merged.to(out_ptr.dtype.element_ty))


_LAUNCHER, _MERGER = Launcher(_attention_kernel), Launcher(_merge_kernel)

Attend = Callable[[Sequence[Tensor]], None]


@as_op("mla_prefill_attention", mutates=("out", "partial", "partial_lse"))
def mla_prefill_attention(
    q: Tensor,
    kv: Tensor,
    k_pe: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    out: Tensor,
    partial: Tensor,
    partial_lse: Tensor,
) -> None:
    """Write the attention over expanded kv [K, H, N + V] and k_pe [K, P], whose rows may be strided, into `out`.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    _EXPANDED((q, kv, k_pe, cu_q, cu_k, out, partial, partial_lse))


def _prepare_expanded(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    q, kv, k_pe, cu_q, cu_k, out, partial, partial_lse = tensors
    kernel = "mla_prefill_attention"
    tokens, heads, dim = check_queries(kernel, q)
    if k_pe.dim() != 2 or not is_width(k_pe.shape[1]) or k_pe.shape[1] >= dim or k_pe.stride(1) != 1:
        raise ArgumentError(
            f"{kernel}: k_pe has shape {tuple(k_pe.shape)}, strides {k_pe.stride()}; wanted (keys, P), P a power of 2 "
            f"from 16 to 512 and less than {dim}, its elements adjacent"
        )
    (keys, rope), v = k_pe.shape, last_size(out)
    check_operand(kernel, "k_pe", k_pe, (keys, rope), like=q)
    check_whole(kernel, "kv", kv, (keys, heads, dim - rope + v), like=q)
    check_whole(kernel, "out", out, (tokens, heads, v), like=q)
    check_widths(kernel, dim - rope, v)
    splits = check_splits(kernel, partial, partial_lse, out)
    sizes = Sizes(tokens, keys, check_offsets(kernel, cu_q, cu_k, q), heads, 0, rope, dim - rope, v, q.element_size())
    attend = prepare_attention("expanded", sizes, k_pe.stride(0), splits)

    def launch(tensors: Sequence[Tensor]) -> None:
        q, *others = tensors
        attend((q, q, *others))

    return launch


_EXPANDED = Planned(_prepare_expanded)


def prepare_attention(form: Form, sizes: Sizes, pe_stride: int, splits: int) -> Attend:
    """What launches on (q_nope, q, k, k_pe, cu_q, cu_k, out, partial, partial_lse), all of them checked."""
    tiling, is_absorbed = choose_tiling(form, sizes), form == "absorbed"
    heads, pack = (1, sizes.heads) if is_absorbed else (sizes.heads, 1)
    tiles = sizes.tokens * pack // tiling.block_m + sizes.sequences + 1
    q_dim = sizes.nope + sizes.rope
    numbers = (
        sizes.tokens,
        sizes.sequences,
        tiles,
        head_group(sizes) if heads > 1 else 1,
        splits,
        pe_stride,
        q_dim**-0.5 * _LOG2_E,  # weights are powers of two
    )
    options = {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages}
    launch = _LAUNCHER.prepare(numbers, _constants(is_absorbed, sizes, pe_stride, splits, tiling), **options)
    grid = (tiles * heads, max(splits, 1), 1)
    if not splits:
        return lambda tensors: launch(grid, tensors)
    rows = sizes.tokens * sizes.heads
    constants = {"V": sizes.v, "SPLITS": triton.next_power_of_2(splits)}
    merge = _MERGER.prepare((rows, splits), constants, num_warps=2)

    def attend_and_merge(tensors: Sequence[Tensor]) -> None:
        launch(grid, tensors)
        *_, out, partial, partial_lse = tensors
        merge((rows, 1, 1), (partial, partial_lse, out))

    return attend_and_merge


def _constants(is_absorbed: bool, sizes: Sizes, pe_stride: int, splits: int, tiling: Tiling) -> dict[str, int | str]:
    """Those of the kernel, in its order."""
    heads, pack = (1, sizes.heads) if is_absorbed else (sizes.heads, 1)
    nope, tail = split_nope(sizes.latent if is_absorbed else sizes.nope)
    q_dim, k_dim = sizes.nope + sizes.rope, sizes.latent + sizes.rope if is_absorbed else sizes.nope + sizes.v
    return {
        "HEADS": heads,
        "PACK": pack,
        "Q_DIM": q_dim,
        "Q_NOPE_DIM": sizes.latent if is_absorbed else q_dim,
        "K_DIM": k_dim,
        "NOPE": nope,
        "NOPE_TAIL": tail,
        "ROPE": sizes.rope,
        "V": sizes.v,
        "V_IS_K": is_absorbed,
        "IS_SPLIT": splits > 0,
        "IS_LONG": sizes.keys * max(heads * k_dim, pe_stride) > _INT32_MAX,
        "SEQUENCES": triton.next_power_of_2(sizes.sequences + 1),
        "BLOCK_M": tiling.block_m,
        "BLOCK_N": tiling.block_n,
        # Of float32 alone: three TF32 products are as good as its own, but take more shared memory than R = 512 leaves.
        "PRECISION": "ieee" if is_absorbed else "tf32x3",
    }
