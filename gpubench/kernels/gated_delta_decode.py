"""One token of the gated delta rule, after Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024.

    S ← e^g S;   u = β (v − Sᵀk);   S ← S + k uᵀ;   o = Sᵀq / √K

per sequence and value head, with the state S [K, V] in place. Both products with S are taken of the state as it was
loaded, so that one look at it serves them both:

    u = β (v − e^g Sᵀk);   o = (e^g Sᵀq + (k·q) u) / √K;   S ← e^g S + k uᵀ

q, k [batch, key_heads, K]; v, out [batch, heads, V]; float32, float16 or bfloat16. g ≤ 0 and beta [batch, heads],
float32. state [batch, heads, K, V], float32 or bfloat16. Heads that follow each other share a key head. All is computed
in float32. Of the bytes, nearly all are the state's: read once and written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.kernels.gated_delta_arguments import check_block_v, check_float32, check_out, check_sizes, check_state
from gpubench.kernels.gpu import gpu_name
from gpubench.kernels.ops import as_op

__all__ = ["STATE_DTYPES", "WARPS", "advance", "choose_block_v", "gated_delta_decode", "load_state"]

STATE_DTYPES = (torch.float32, torch.bfloat16)

WARPS = {16: 1, 32: 2, 64: 4, 128: 8}
"""By block_v: a thread holds 64 elements of the state."""

# By GPU and by what is launched: up to how many heads, over all sequences, programs have so many columns of V; beyond,
# they have 64, which memory likes better once there are enough of them. Measured on 2026-11-21 with K = V = 128.
_BLOCK_V = {
    ("NVIDIA H200", "float32 state"): ((32, 16), (512, 32)),
    ("NVIDIA H200", "bfloat16 state"): ((128, 32),),
    ("NVIDIA H200", "step"): ((128, 32),),
}
_DEFAULT_BLOCK_V = ((512, 32),)


def choose_block_v(heads: int, dim_v: int, what: str) -> int:
    """The current GPU's block_v for `heads` heads over all sequences: of a step, or of a token by its state's dtype."""
    rows = _BLOCK_V.get((gpu_name(), what), _DEFAULT_BLOCK_V)
    return min(dim_v, next((block_v for most, block_v in rows if heads <= most), 64))


@triton.jit
def load_state(state_ptr, K: tl.constexpr, V: tl.constexpr, BLOCK_V: tl.constexpr):
    """BLOCK_V columns of a head's state, [K, BLOCK_V]: nearly all of the bytes."""
    return tl.load(state_ptr + tl.arange(0, K)[:, None] * V + tl.arange(0, BLOCK_V)[None, :])


@triton.jit
def advance(loaded, state_ptr, q, k, v, decay, beta, scale, is_live, V: tl.constexpr):
    """One token for the columns of a head's state that were loaded; a live one's are stored where they came from.

    q, k [K]; v [BLOCK_V]; gives the output [BLOCK_V].
    """
    tile = state_ptr + tl.arange(0, loaded.shape[0])[:, None] * V + tl.arange(0, loaded.shape[1])[None, :]
    state = loaded.to(tl.float32)
    recalled = tl.sum(state * k[:, None], axis=0)
    queried = tl.sum(state * q[:, None], axis=0)
    fresh = beta * (v - decay * recalled)
    tl.store(tile, (decay * state + k[:, None] * fresh[None, :]).to(state_ptr.dtype.element_ty), mask=is_live)
    return (decay * queried + tl.sum(k * q, axis=0) * fresh) * scale


@triton.jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    g_ptr,
    beta_ptr,
    state_ptr,
    out_ptr,
    q_stride,
    k_stride,
    v_stride,
    out_stride,
    heads,
    scale,
    SHARE: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    # One dimension: another than the first ends at 65,535 programs, 2047 sequences of 32 heads.
    BLOCKS: tl.constexpr = V // BLOCK_V
    first = tl.program_id(0) % BLOCKS * BLOCK_V
    head = tl.program_id(0) // BLOCKS % heads
    sequence = (tl.program_id(0) // BLOCKS // heads).to(tl.int64)

    # What takes longest is asked for first.
    own_state = state_ptr + (sequence * heads + head) * (K * V) + first
    state = load_state(own_state, K, V, BLOCK_V)
    keys = head // SHARE * K + tl.arange(0, K)
    values = head * V + first + tl.arange(0, BLOCK_V)
    q = tl.load(q_ptr + sequence * q_stride + keys).to(tl.float32)
    k = tl.load(k_ptr + sequence * k_stride + keys).to(tl.float32)
    v = tl.load(v_ptr + sequence * v_stride + values).to(tl.float32)
    decay = tl.exp(tl.load(g_ptr + sequence * heads + head))
    beta = tl.load(beta_ptr + sequence * heads + head)

    out = advance(state, own_state, q, k, v, decay, beta, scale, True, V)
    tl.store(out_ptr + sequence * out_stride + values, out.to(out_ptr.dtype.element_ty))


@as_op("gated_delta_decode", mutates=("state", "out"))
def gated_delta_decode(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor, out: Tensor, block_v: int | None = None
) -> None:
    """Write one token's output into `out` and advance `state` by it.

    Rows of q, k, v and out may be strided; the heads of a row are adjacent. A program has `block_v` columns of V: 16,
    32, 64 or 128; without it, what was found best. Neither allocates nor synchronises. ArgumentError names an argument
    that doesn't fit.
    """
    kernel = "gated_delta_decode"
    sizes = check_sizes(kernel, q, k, v)
    check_out(kernel, out, v)
    for name, tensor in (("g", g), ("beta", beta)):
        check_float32(kernel, name, tensor, (sizes.rows, sizes.heads), like=q)
    check_state(kernel, state, (sizes.rows, sizes.heads, sizes.k, sizes.v), STATE_DTYPES)
    what = "float32 state" if state.element_size() == 4 else "bfloat16 state"
    if block_v is None:
        block_v = choose_block_v(sizes.rows * sizes.heads, sizes.v, what)
    check_block_v(kernel, block_v, sizes.v, tuple(WARPS))
    _decode_kernel[(sizes.v // block_v * sizes.rows * sizes.heads,)](
        q,
        k,
        v,
        g,
        beta,
        state,
        out,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        out.stride(0),
        sizes.heads,
        sizes.k**-0.5,
        SHARE=sizes.heads // sizes.key_heads,
        K=sizes.k,
        V=sizes.v,
        BLOCK_V=block_v,
        num_warps=WARPS[block_v],
    )
