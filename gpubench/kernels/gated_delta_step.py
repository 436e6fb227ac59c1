"""One token of a gated delta layer between its projections: convolution, gates, normalisation and recurrence, fused.

    x = silu(causal convolution of the last TAPS inputs), split into q | k | v
    q, k ← x / √(Σ x² + 1e-6);   g = −exp(a_log) · softplus(a + dt_bias);   β = σ(b)
    then as in gated_delta_decode

mixed [batch, channels], the projected token: q and k of all key heads, then v of all heads, so that channels =
2 · key_heads · K + heads · V. conv_weight [channels, TAPS], the newest input's tap last. a, b [batch, heads].
out [batch, heads, V]. All of these float32, float16 or bfloat16. a_log, dt_bias [heads], float32. state [batch, heads,
K, V], float32 or bfloat16.

conv_state [batch, TAPS, channels] is a ring: the input of position p is in slot p mod TAPS, and positions int32 [batch]
says which token this is. So nothing is moved, and the slot that is written is the one that no program reads. Slots of
inputs before position 0 hold zeros. positions is the caller's, who counts; a sequence at position −1 stays as it is,
and its output means nothing. Ring and state may be of more sequences, of which the first are meant.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import (
    check_adjacent,
    check_contiguous,
    check_index,
    check_launchable,
    check_operand,
)
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.gated_delta_arguments import KEY_DIMS, check_block_v, check_float32, check_state
from gpubench.kernels.gated_delta_decode import STATE_DTYPES, WARPS, advance, choose_block_v, load_state
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["gated_delta_step"]

MAX_TAPS = 8

_EARLY = 128
"""Up to so many heads, over all sequences, a settled state is asked for before all else: it takes 2 % off a whole step
of one sequence. With 256 and more, programs enough to fill a wait for memory, asking for it first is slower by 3 to 7 %
(NVIDIA H200, 2026-11-21)."""


@triton.jit
def _add_older(ring_ptr, weight_ptr, channels, position, total_channels, TAPS: tl.constexpr):
    """What the convolution makes of the older tokens, for these `channels`; float32."""
    total = tl.zeros(channels.shape, tl.float32)
    for back in tl.static_range(1, TAPS):
        slot = (position + TAPS - back) % TAPS
        older = tl.load(ring_ptr + slot * total_channels + channels).to(tl.float32)
        total += older * tl.load(weight_ptr + channels * TAPS + TAPS - 1 - back).to(tl.float32)
    return total


@triton.jit
def _add_newest(total, mixed_ptr, ring_ptr, weight, channels, position, total_channels, is_writer, TAPS: tl.constexpr):
    """The convolved token, activated. Of the programs that need these channels, one writes the token into the ring."""
    newest = tl.load(mixed_ptr + channels)
    total += newest.to(tl.float32) * weight
    # Other programs may be reading the slots of older tokens; this one held the token that no tap reaches any more.
    tl.store(ring_ptr + (position % TAPS) * total_channels + channels, newest, mask=is_writer & (position >= 0))
    return total * tl.sigmoid(total)


@triton.jit
def _step_kernel(
    mixed_ptr,
    conv_state_ptr,
    conv_weight_ptr,
    positions_ptr,
    a_ptr,
    b_ptr,
    a_log_ptr,
    dt_bias_ptr,
    state_ptr,
    out_ptr,
    mixed_stride,
    a_stride,
    b_stride,
    heads,
    scale,
    SHARE: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    IS_EARLY: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    BLOCKS: tl.constexpr = V // BLOCK_V
    first = tl.program_id(0) % BLOCKS * BLOCK_V
    head = tl.program_id(0) // BLOCKS % heads
    sequence = (tl.program_id(0) // BLOCKS // heads).to(tl.int64)
    key_width = heads // SHARE * K
    total_channels = 2 * key_width + heads * V

    own_state = state_ptr + (sequence * heads + head) * (K * V) + first
    if IS_EARLY:
        state = load_state(own_state, K, V, BLOCK_V)
    else:
        release(IS_DEPENDENT)
        wait(IS_DEPENDENT)
    position = tl.load(positions_ptr + sequence)
    token = mixed_ptr + sequence * mixed_stride
    ring = conv_state_ptr + sequence * (TAPS * total_channels)
    keys = head // SHARE * K + tl.arange(0, K)
    values = head * V + first + tl.arange(0, BLOCK_V)
    is_first = (first == 0) & (head % SHARE == 0)  # of the programs that need this key head
    q = _add_older(ring, conv_weight_ptr, keys, position, total_channels, TAPS)
    k = _add_older(ring, conv_weight_ptr, key_width + keys, position, total_channels, TAPS)
    v = _add_older(ring, conv_weight_ptr, 2 * key_width + values, position, total_channels, TAPS)
    newest_tap = conv_weight_ptr + TAPS - 1
    q_weight = tl.load(newest_tap + keys * TAPS).to(tl.float32)
    k_weight = tl.load(newest_tap + (key_width + keys) * TAPS).to(tl.float32)
    v_weight = tl.load(newest_tap + (2 * key_width + values) * TAPS).to(tl.float32)
    dt_bias = tl.load(dt_bias_ptr + head)
    speed = tl.exp(tl.load(a_log_ptr + head))
    if IS_EARLY:
        release(IS_DEPENDENT)
        wait(IS_DEPENDENT)
    q = _add_newest(q, token, ring, q_weight, keys, position, total_channels, is_first, TAPS)
    k = _add_newest(k, token, ring, k_weight, key_width + keys, position, total_channels, is_first, TAPS)
    v = _add_newest(v, token, ring, v_weight, 2 * key_width + values, position, total_channels, True, TAPS)
    q *= tl.rsqrt(tl.sum(q * q, axis=0) + 1e-6)
    k *= tl.rsqrt(tl.sum(k * k, axis=0) + 1e-6)

    rate = tl.load(a_ptr + sequence * a_stride + head).to(tl.float32) + dt_bias
    softplus = tl.maximum(rate, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(rate)))  # can't overflow
    decay = tl.exp(-speed * softplus)
    beta = tl.sigmoid(tl.load(b_ptr + sequence * b_stride + head).to(tl.float32))

    if not IS_EARLY:
        state = load_state(own_state, K, V, BLOCK_V)
    out = advance(state, own_state, q, k, v, decay, beta, scale, position >= 0, V)
    tl.store(out_ptr + sequence * (heads * V) + values, out.to(out_ptr.dtype.element_ty))


_LAUNCH = Launcher(_step_kernel, is_dependent=True)


@as_op("gated_delta_step", mutates=("conv_state", "state", "out"))
def gated_delta_step(
    mixed: Tensor,
    conv_state: Tensor,
    conv_weight: Tensor,
    positions: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    out: Tensor,
    block_v: int | None = None,
    is_settled: bool = False,
) -> None:
    """Write the layer's output for one token per sequence into `out`; `state` and `conv_state` advance by it.

    `block_v` as in gated_delta_decode. `is_settled` if what last wrote state, conv_state and positions is done when the
    kernel before this one starts, as where between two tokens there is a kernel that isn't dependent, or that waits
    before it releases (gpubench.kernels.dependent_launch): they are then asked for before that one ends. Neither
    allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "gated_delta_step"
    if state.dim() != 4 or min(state.shape) < 1 or state.shape[2] not in KEY_DIMS:
        raise ArgumentError(
            f"{kernel}: state has shape {tuple(state.shape)}; wanted (batch, heads, K, V), K one of {KEY_DIMS}"
        )
    heads, dim_k, dim_v = state.shape[1:]
    key_heads = _count_key_heads(mixed, state)
    batch, channels = mixed.shape
    sequences = max(batch, len(state))
    taps = conv_weight.shape[-1] if conv_weight.dim() else 0
    if not 2 <= taps <= MAX_TAPS:
        raise ArgumentError(
            f"{kernel}: conv_weight has shape {tuple(conv_weight.shape)}; wanted ({channels}, 2 to {MAX_TAPS})"
        )
    for name, tensor, shape in (
        ("conv_weight", conv_weight, (channels, taps)),
        ("conv_state", conv_state, (sequences, taps, channels)),
        ("out", out, (batch, heads, dim_v)),
    ):
        check_operand(kernel, name, tensor, shape, like=mixed)
        check_contiguous(kernel, name, tensor)
    for name, tensor in (("a", a), ("b", b)):
        check_operand(kernel, name, tensor, (batch, heads), like=mixed)
        check_adjacent(kernel, name, tensor)
    check_index(kernel, "positions", positions, (batch,), like=mixed)
    for name, tensor in (("a_log", a_log), ("dt_bias", dt_bias)):
        check_float32(kernel, name, tensor, (heads,), like=mixed)
    check_state(kernel, state, (sequences, heads, dim_k, dim_v), STATE_DTYPES)
    if block_v is None:
        block_v = choose_block_v(batch * heads, dim_v, "step")
    check_block_v(kernel, block_v, dim_v, tuple(WARPS))
    _LAUNCH(
        (dim_v // block_v * batch * heads, 1, 1),
        (mixed, conv_state, conv_weight, positions, a, b, a_log, dt_bias, state, out),
        (mixed.stride(0), a.stride(0), b.stride(0), heads, dim_k**-0.5),
        {
            "SHARE": heads // key_heads,
            "K": dim_k,
            "V": dim_v,
            "TAPS": taps,
            "BLOCK_V": block_v,
            "IS_EARLY": is_settled and batch * heads <= _EARLY,
        },
        num_warps=WARPS[block_v],
    )


def _count_key_heads(mixed: Tensor, state: Tensor) -> int:
    """How many key heads the channels of `mixed` have room for; ArgumentError if that comes out wrong."""
    check_launchable("gated_delta_step", "mixed", mixed)
    heads, dim_k, dim_v = state.shape[1:]
    batch, channels = mixed.shape if mixed.dim() == 2 and mixed.numel() else (len(state), 0)
    key_heads, rest = divmod(channels - heads * dim_v, 2 * dim_k)
    if key_heads < 1 or rest or heads % key_heads:
        raise ArgumentError(
            f"gated_delta_step: mixed has shape {tuple(mixed.shape)}; wanted ({batch}, 2 · key_heads · {dim_k} + "
            f"{heads} · {dim_v}), key_heads a divisor of {heads}"
        )
    check_adjacent("gated_delta_step", "mixed", mixed)
    return key_heads
