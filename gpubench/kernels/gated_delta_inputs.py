"""What stands between a gated delta layer's projection and its recurrence for a chunk of one sequence, fused.

    x[t] = silu(Σ_j conv_weight[:, j] ⊙ mixed[t − TAPS + 1 + j]), split into q | k | v;   q, k ← x / √(Σ x² + 1e-6)
    g = −exp(a_log) · softplus(a + dt_bias);   beta = σ(b)

mixed [tokens, channels]: the projected tokens at positions `first`, `first` + 1 and on; q and k of all key heads, then
v of all heads, as in gated_delta_step. What the convolution needs from before them is in the sequence's ring [TAPS,
channels], where the input of position p is in slot p mod TAPS, and zeros stand for positions before 0; it is only read.
conv_weight [channels, TAPS], the newest input's tap last. a, b [tokens, heads]. All of these float32, float16 or
bfloat16. a_log, dt_bias [heads], float32. Out come q, k [tokens, key_heads, K] and v [tokens, heads, V] of the same
dtype, and g and beta [tokens, heads], float32: what gated_delta_prefill takes. All is computed in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_contiguous, check_launchable, check_operand
from gpubench.kernels.gated_delta_arguments import check_float32, check_sizes
from gpubench.kernels.gated_delta_step import MAX_TAPS
from gpubench.kernels.ops import as_op

__all__ = ["gated_delta_inputs"]

_ELEMENTS = 4096
"""Of a head, over its tokens, that a program has at a time. Not tuned."""


@triton.jit
def _convolve(
    mixed_ptr, ring_ptr, weight_ptr, rows, dims, channel, first, tokens, stride, channels, TAPS: tl.constexpr
):
    """The convolved tokens `rows` of the channels from `channel` on, float32."""
    total = tl.zeros((rows.shape[0], dims.shape[0]), tl.float32)
    for tap in tl.static_range(TAPS):
        source = rows - (TAPS - 1 - tap)
        is_new = (source >= 0) & (source < tokens)
        new = mixed_ptr + source.to(tl.int64)[:, None] * stride + (channel + dims)[None, :]
        slot = (first + source + TAPS) % TAPS  # of what came before, which is at most TAPS − 1 tokens ago
        old = ring_ptr + slot[:, None] * channels + (channel + dims)[None, :]
        x = tl.load(new, mask=is_new[:, None], other=0.0).to(tl.float32)
        x += tl.load(old, mask=(source < 0)[:, None], other=0.0).to(tl.float32)
        total += x * tl.load(weight_ptr + (channel + dims) * TAPS + tap).to(tl.float32)[None, :]
    return total * tl.sigmoid(total)


@triton.jit(do_not_specialize=["first", "tokens"])
def _inputs_kernel(
    mixed_ptr,
    ring_ptr,
    weight_ptr,
    a_ptr,
    b_ptr,
    a_log_ptr,
    dt_bias_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    g_ptr,
    beta_ptr,
    mixed_stride,
    a_stride,
    b_stride,
    first,
    tokens,
    key_heads,
    heads,
    K: tl.constexpr,
    V: tl.constexpr,
    TAPS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    head = tl.program_id(0)  # queries, keys, values
    rows = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    inside = rows < tokens
    wide = rows.to(tl.int64)
    channels = 2 * key_heads * K + heads * V
    if head < 2 * key_heads:
        dims = tl.arange(0, K)
        x = _convolve(
            mixed_ptr, ring_ptr, weight_ptr, rows, dims, head * K, first, tokens, mixed_stride, channels, TAPS
        )
        x *= tl.rsqrt(tl.sum(x * x, axis=1) + 1e-6)[:, None]
        own = head % key_heads
        target = tl.where(head < key_heads, q_ptr, k_ptr) + (wide * key_heads + own)[:, None] * K + dims[None, :]
        tl.store(target, x.to(q_ptr.dtype.element_ty), mask=inside[:, None])
    else:
        own = head - 2 * key_heads
        dims = tl.arange(0, V)
        channel = 2 * key_heads * K + own * V
        x = _convolve(mixed_ptr, ring_ptr, weight_ptr, rows, dims, channel, first, tokens, mixed_stride, channels, TAPS)
        target = v_ptr + (wide * heads + own)[:, None] * V + dims[None, :]
        tl.store(target, x.to(v_ptr.dtype.element_ty), mask=inside[:, None])
        rate = tl.load(a_ptr + wide * a_stride + own, mask=inside, other=0.0).to(tl.float32)
        rate += tl.load(dt_bias_ptr + own)
        softplus = tl.maximum(rate, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(rate)))  # can't overflow
        tl.store(g_ptr + wide * heads + own, -tl.exp(tl.load(a_log_ptr + own)) * softplus, mask=inside)
        weight = tl.load(b_ptr + wide * b_stride + own, mask=inside, other=0.0).to(tl.float32)
        tl.store(beta_ptr + wide * heads + own, tl.sigmoid(weight), mask=inside)


@as_op("gated_delta_inputs", mutates=("q", "k", "v", "g", "beta"))
def gated_delta_inputs(
    mixed: Tensor,
    ring: Tensor,
    conv_weight: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    first: int,
) -> None:
    """Write what the recurrence of a chunk takes. Rows of mixed, a and b may be strided.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "gated_delta_inputs"
    sizes = check_sizes(kernel, q, k, v)
    taps = conv_weight.shape[-1] if conv_weight.dim() else 0
    channels = 2 * sizes.key_heads * sizes.k + sizes.heads * sizes.v
    if not 2 <= taps <= MAX_TAPS:
        raise ArgumentError(
            f"{kernel}: conv_weight has shape {tuple(conv_weight.shape)}; wanted ({channels}, 2 to {MAX_TAPS})"
        )
    if first < 0:
        raise ArgumentError(f"{kernel}: first is {first}; wanted a position, 0 or more")
    check_launchable(kernel, "mixed", mixed)
    for name, tensor, shape in (
        ("mixed", mixed, (sizes.rows, channels)),
        ("a", a, (sizes.rows, sizes.heads)),
        ("b", b, (sizes.rows, sizes.heads)),
    ):
        check_operand(kernel, name, tensor, shape, like=q)
        check_adjacent(kernel, name, tensor)
    for name, tensor, shape in (("ring", ring, (taps, channels)), ("conv_weight", conv_weight, (channels, taps))):
        check_operand(kernel, name, tensor, shape, like=q)
        check_contiguous(kernel, name, tensor)
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_contiguous(kernel, name, tensor)
    for name, tensor in (("a_log", a_log), ("dt_bias", dt_bias)):
        check_float32(kernel, name, tensor, (sizes.heads,), like=q)
    for name, tensor in (("g", g), ("beta", beta)):
        check_float32(kernel, name, tensor, (sizes.rows, sizes.heads), like=q)
    block = max(16, _ELEMENTS // max(sizes.k, sizes.v))
    _inputs_kernel[(2 * sizes.key_heads + sizes.heads, triton.cdiv(sizes.rows, block))](
        mixed,
        ring,
        conv_weight,
        a,
        b,
        a_log,
        dt_bias,
        q,
        k,
        v,
        g,
        beta,
        mixed.stride(0),
        a.stride(0),
        b.stride(0),
        first,
        sizes.rows,
        sizes.key_heads,
        sizes.heads,
        K=sizes.k,
        V=sizes.v,
        TAPS=taps,
        TOKENS=block,
        num_warps=4,
    )
