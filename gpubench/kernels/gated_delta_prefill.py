"""The gated delta rule over whole sequences, a chunk of tokens at a time, after the same paper as gated_delta_decode.

Its recurrence, too. Within a chunk, i and j being its tokens, G the running sum of g, S the state before it:

    A_ij = β_i (k_i·k_j) e^(G_i − G_j) for i > j;   T = (I + A)^-1
    W = T (β e^G k);   U = T (β v);   P_ij = (q_i·k_j) e^(G_i − G_j) / √K for i ≥ j
    N = U − W S;   out = e^G (q S) / √K + P N;   S ← e^(G_last) S + Σ_j e^(G_last − G_j) k_j n_jᵀ

W, U, P and G need no state: one kernel writes those of all chunks at once, into scratch. The last line does: a second
kernel walks from chunk to chunk, a program per sequence, head and BLOCK_V columns of V, its part of S in registers.

q, k [tokens, key_heads, K]; v, out [tokens, heads, V]; float32, float16 or bfloat16; g ≤ 0 and beta [tokens, heads],
float32. The tokens of all sequences, one sequence behind the other: sequence n has those from cu_seqlens[n] to
cu_seqlens[n + 1], int32 [sequences + 1]; it may have none. state [sequences, heads, K, V], float32, is read and
overwritten. Scratch: `rows`, of v's dtype, and `gates`, float32, of the shapes that `scratch_shapes` says.

Products run on tensor cores and are summed in float32: T's in TF32, those of float32 operands as three products in
TF32, which together are nearly exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_index, check_operand, check_reach
from gpubench.kernels.gated_delta_arguments import (
    CHUNK,
    GATE_FLOOR,
    check_block_v,
    check_float32,
    check_out,
    check_sizes,
    check_state,
)
from gpubench.kernels.gpu import gpu_name, sm_count
from gpubench.kernels.ops import as_op

__all__ = ["Tiling", "choose_block_v", "choose_tiling", "gated_delta_prefill", "scratch_shapes"]


BLOCKS_V = (16, 32, 64)
MAX_SEQUENCES = 65_535  # as long as a launch's third dimension may be


@dataclass(frozen=True)
class Tiling:
    """How many tokens are taken at a time, and what the programs get for them."""

    chunk: int
    walk_warps: int
    walk_stages: int
    prepare_registers: int | None = None
    """Per thread of the first kernel, at most; None leaves it to the compiler."""


# By GPU and bytes per element, the same for every block_v. Measured on 2026-11-21 with 32 heads, K = V = 128, from 512
# to 8192 tokens: a walk with 64 columns or fewer fits three chunks into 227 KiB of shared memory, and three programs of
# the first kernel fit into a multiprocessor's registers.
_TILINGS = {("NVIDIA H200", 2): Tiling(chunk=64, walk_warps=4, walk_stages=3, prepare_registers=168)}

# Elsewhere, by bytes per element. Not tuned: each fits the 99 KiB of shared memory that every GPU since compute
# capability 8.0 has. Not one stage: of that, Triton 3.6 made a kernel for compute capability 9.0 that read outside its
# shared memory.
_DEFAULTS = {2: Tiling(chunk=32, walk_warps=4, walk_stages=2), 4: Tiling(chunk=16, walk_warps=4, walk_stages=2)}


def choose_tiling(itemsize: int) -> Tiling:
    """The current GPU's tiling for elements of `itemsize` bytes."""
    return _TILINGS.get((gpu_name(), itemsize), _DEFAULTS[itemsize])


def choose_block_v(heads: int, dim_v: int) -> int:
    """How many columns a program walks with, for `heads` heads over all sequences: fewer where programs are few."""
    return min(dim_v, 32 if heads * dim_v <= 32 * sm_count() else 64)


@triton.jit
def _invert(A, CHUNK: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """(I + A)^-1 of a strictly lower triangular A [CHUNK, CHUNK], by joining the inverses of ever larger blocks.

    With T the inverse of the blocks on the diagonal and N the part of A that joins two of them, their common inverse is
    T − T N T. Up to blocks of 16 all of them are joined at once, as a batch. A power series of A would need fewer
    products, but where keys are alike its terms grow beyond what float32 can cancel.
    """
    BLOCKS: tl.constexpr = CHUNK // 16
    block = tl.arange(0, BLOCKS)
    is_diagonal = block[:, None, None, None] == block[None, None, :, None]
    small = tl.sum(tl.where(is_diagonal, tl.reshape(A, (BLOCKS, 16, BLOCKS, 16)), 0.0), axis=2)
    i = tl.arange(0, 16)
    inverse = tl.where(i[:, None] == i[None, :], 1.0, 0.0)[None, :, :]
    inverse -= tl.where((i[:, None] // 2 == i[None, :] // 2)[None, :, :], small, 0.0)
    for level in tl.static_range(1, 4):
        joins = (i[:, None] >> level + 1 == i[None, :] >> level + 1) & (i[:, None] >> level != i[None, :] >> level)
        joint = tl.where(joins[None, :, :], small, 0.0)
        inverse -= tl.dot(tl.dot(inverse, joint, input_precision=PRECISION), inverse, input_precision=PRECISION)
    whole = tl.reshape(tl.where(is_diagonal, inverse[:, :, None, :], 0.0), (CHUNK, CHUNK))
    i = tl.arange(0, CHUNK)
    for level in tl.static_range(4, LEVELS):
        joins = (i[:, None] >> level + 1 == i[None, :] >> level + 1) & (i[:, None] >> level != i[None, :] >> level)
        joint = tl.where(joins, A, 0.0)
        whole -= tl.dot(tl.dot(whole, joint, input_precision=PRECISION), whole, input_precision=PRECISION)
    return whole


@triton.jit
def _prepare_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    g_ptr,
    beta_ptr,
    cu_seqlens_ptr,
    rows_ptr,
    gates_ptr,
    q_stride,
    k_stride,
    v_stride,
    tokens,
    heads,
    scale,
    GATE_FLOOR: tl.constexpr,
    SHARE: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    sequence = tl.program_id(2)
    head = tl.program_id(1)
    begin = tl.load(cu_seqlens_ptr + sequence)
    length = tl.load(cu_seqlens_ptr + sequence + 1) - begin
    first = tl.program_id(0) * CHUNK
    if first >= length:
        return
    i = tl.arange(0, CHUNK)
    dims = tl.arange(0, K)[None, :]
    values = tl.arange(0, V)[None, :]
    inside = first + i < length
    is_row = inside[:, None]
    token = (begin + first).to(tl.int64)  # token · stride may exceed 32 bits; an offset within a chunk doesn't
    key_head = head // SHARE * K
    k = tl.load(k_ptr + token * k_stride + key_head + (i[:, None] * k_stride + dims), mask=is_row, other=0.0)
    q = tl.load(q_ptr + token * q_stride + key_head + (i[:, None] * q_stride + dims), mask=is_row, other=0.0)
    beta = tl.load(beta_ptr + token * heads + head + i * heads, mask=inside, other=0.0)
    g = tl.load(g_ptr + token * heads + head + i * heads, mask=inside, other=0.0)
    place = head.to(tl.int64) * tokens + token
    dtype = rows_ptr.dtype.element_ty
    own = rows_ptr + place * WIDTH + i[:, None] * WIDTH

    gate = tl.cumsum(tl.maximum(g, GATE_FLOOR), axis=0)
    tl.store(gates_ptr + place + i, gate, mask=inside)
    # The other half's exponents would be positive and could overflow.
    decay = tl.exp(tl.where(i[:, None] >= i[None, :], gate[:, None] - gate[None, :], float("-inf")))
    P = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay * scale
    tl.store(own + K + V + i[None, :], P.to(dtype), mask=is_row)
    A = tl.dot(k, tl.trans(k), input_precision=PRECISION) * decay * beta[:, None]
    T = _invert(tl.where(i[:, None] > i[None, :], A, 0.0), CHUNK, LEVELS, PRECISION)

    # β and e^G scale T's columns, not the rows of k and v, so that these go into the products as they were loaded.
    W = tl.dot((T * (beta * tl.exp(gate))[None, :]).to(dtype), k, input_precision=PRECISION)
    tl.store(own + dims, W.to(dtype), mask=is_row)
    v = tl.load(v_ptr + token * v_stride + head * V + (i[:, None] * v_stride + values), mask=is_row, other=0.0)
    U = tl.dot((T * beta[None, :]).to(dtype), v, input_precision=PRECISION)
    tl.store(own + K + values, U.to(dtype), mask=is_row)


@triton.jit
def _walk_kernel(
    q_ptr,
    k_ptr,
    cu_seqlens_ptr,
    rows_ptr,
    gates_ptr,
    state_ptr,
    out_ptr,
    q_stride,
    k_stride,
    out_stride,
    tokens,
    heads,
    scale,
    SHARE: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_V: tl.constexpr,
    PRECISION: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    sequence = tl.program_id(2)
    head = tl.program_id(1)
    begin = tl.load(cu_seqlens_ptr + sequence)
    length = tl.load(cu_seqlens_ptr + sequence + 1) - begin
    i = tl.arange(0, CHUNK)
    dims = tl.arange(0, K)
    values = tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    keys = head // SHARE * K + dims
    dtype = rows_ptr.dtype.element_ty

    tile = state_ptr + (sequence.to(tl.int64) * heads + head) * (K * V) + dims[:, None] * V + values[None, :]
    state = tl.load(tile)
    for first in tl.range(0, length, CHUNK, num_stages=NUM_STAGES):
        inside = first + i < length
        is_row = inside[:, None]
        token = (begin + first).to(tl.int64)
        place = head.to(tl.int64) * tokens + token
        own = rows_ptr + place * WIDTH
        w = tl.load(own + (i[:, None] * WIDTH + dims[None, :]), mask=is_row, other=0.0)
        u = tl.load(own + K + (i[:, None] * WIDTH + values[None, :]), mask=is_row, other=0.0)
        p = tl.load(own + K + V + (i[:, None] * WIDTH + i[None, :]), mask=is_row, other=0.0)
        q = tl.load(q_ptr + token * q_stride + (i[:, None] * q_stride + keys[None, :]), mask=is_row, other=0.0)
        k = tl.load(k_ptr + token * k_stride + (i[:, None] * k_stride + keys[None, :]), mask=is_row, other=0.0)
        gate = tl.load(gates_ptr + place + i, mask=inside, other=0.0)
        last = tl.load(gates_ptr + place + tl.minimum(CHUNK, length - first) - 1)

        before = state.to(dtype)
        fresh = u.to(tl.float32) - tl.dot(w, before, input_precision=PRECISION)
        out = tl.dot(q, before, input_precision=PRECISION) * (tl.exp(gate) * scale)[:, None]
        out = tl.dot(p, fresh.to(dtype), out, input_precision=PRECISION)
        target = out_ptr + token * out_stride + head * V + (i[:, None] * out_stride + values[None, :])
        tl.store(target, out.to(dtype), mask=is_row)
        kept = (fresh * tl.exp(last - gate)[:, None]).to(dtype)
        state = tl.dot(tl.trans(k), kept, state * tl.exp(last), input_precision=PRECISION)
    tl.store(tile, state)


def scratch_shapes(tokens: int, heads: int, dim_k: int, dim_v: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """The shapes of `rows` and of `gates` for so many tokens, over all sequences."""
    return (heads, tokens, dim_k + dim_v + CHUNK), (heads, tokens)


@as_op("gated_delta_prefill", mutates=("state", "out", "rows", "gates"))
def gated_delta_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    cu_seqlens: Tensor,
    state: Tensor,
    out: Tensor,
    rows: Tensor,
    gates: Tensor,
    longest: int,
    block_v: int | None = None,
) -> None:
    """Write the outputs of all tokens into `out` and advance `state` by them; `rows` and `gates` are overwritten.

    `longest` is at least the length of the longest sequence: it sizes the launch, which can't look at `cu_seqlens`.
    Tokens of q, k, v and out may be strided. A program walks with `block_v` columns of V: 16, 32 or 64; without
    it, what was found best. Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "gated_delta_prefill"
    sizes = check_sizes(kernel, q, k, v)
    check_out(kernel, out, v)
    for name, tensor in (("q", q), ("k", k), ("v", v), ("out", out)):
        check_reach(kernel, name, tensor, 0, min(CHUNK, sizes.rows))
    shapes = scratch_shapes(sizes.rows, sizes.heads, sizes.k, sizes.v)
    check_operand(kernel, "rows", rows, shapes[0], like=v)
    check_contiguous(kernel, "rows", rows)
    for name, tensor, shape in (("g", g, v.shape[:2]), ("beta", beta, v.shape[:2]), ("gates", gates, shapes[1])):
        check_float32(kernel, name, tensor, tuple(shape), like=q)
    sequences = state.shape[0] if state.dim() else 0
    if sequences > MAX_SEQUENCES:
        raise ArgumentError(f"{kernel}: state has {sequences:,} sequences; wanted at most {MAX_SEQUENCES:,}")
    check_state(kernel, state, (sequences, sizes.heads, sizes.k, sizes.v), (torch.float32,))
    check_index(kernel, "cu_seqlens", cu_seqlens, (sequences + 1,), like=q)
    if not -(-sizes.rows // max(sequences, 1)) <= longest <= sizes.rows:
        raise ArgumentError(
            f"{kernel}: longest is {longest}; wanted from {-(-sizes.rows // max(sequences, 1))} to {sizes.rows}, "
            f"which is {sizes.rows} tokens over {sequences} sequences"
        )
    if block_v is None:
        block_v = choose_block_v(sequences * sizes.heads, sizes.v)
    check_block_v(kernel, block_v, sizes.v, BLOCKS_V)
    tiling = choose_tiling(v.element_size())
    common = {
        "SHARE": sizes.heads // sizes.key_heads,
        "K": sizes.k,
        "V": sizes.v,
        "CHUNK": tiling.chunk,
        "WIDTH": rows.shape[2],
        "PRECISION": "tf32x3" if v.element_size() == 4 else "tf32",
    }
    scale = sizes.k**-0.5
    _prepare_kernel[(triton.cdiv(longest, tiling.chunk), sizes.heads, sequences)](
        q,
        k,
        v,
        g,
        beta,
        cu_seqlens,
        rows,
        gates,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        sizes.rows,
        sizes.heads,
        scale,
        GATE_FLOOR=GATE_FLOOR,
        LEVELS=tiling.chunk.bit_length() - 1,
        num_warps=4,
        maxnreg=tiling.prepare_registers,
        **common,
    )
    _walk_kernel[(sizes.v // block_v, sizes.heads, sequences)](
        q,
        k,
        cu_seqlens,
        rows,
        gates,
        state,
        out,
        q.stride(0),
        k.stride(0),
        out.stride(0),
        sizes.rows,
        sizes.heads,
        scale,
        BLOCK_V=block_v,
        NUM_STAGES=tiling.walk_stages,
        num_warps=tiling.walk_warps,
        **common,
    )
