"""A gated delta layer of a decoder, after Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024.

For hidden states x [batch, hidden]:

    q | k | v, z = split(RMSNorm(x) · W_inᵀ);  a, b = RMSNorm(x) · W_ratesᵀ
    o = the recurrence's output for silu(conv(q | k | v)), a and b, as in gpubench.kernels.gated_delta_step
    x ← x + (RMSNorm(o) ⊙ silu(z)) · W_outᵀ                    the norm over each head's V

A step has one token of each sequence, or a chunk of consecutive tokens of one: then the convolution goes on from the
ring and leaves it as those tokens would one by one, and the recurrence takes them all at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpubench.kernels.ops import as_seam
from gpubench.models.base import Attention
from gpubench.models.gated_delta_formulas import chunked, prepare, prepare_chunk, ring_slots
from gpubench.models.layers import random_weight, random_weights, weight
from gpubench.models.projections import Operand, project
from gpubench.models.shapes import GatedDeltaShape

__all__ = ["GatedDelta", "GatedDeltaCache", "chunk_step", "make_cache", "step_in_torch"]


@dataclass(frozen=True)
class GatedDeltaCache:
    """What one layer remembers of a batch, or of slots: it changes at every step, and goes back to where it started.

    The start is one sequence's, the same for all: so it costs little memory, and restoring reads next to nothing.
    """

    state: Tensor
    """[batch, value_heads, K, V], float32. A step of fewer tokens is one of the first sequences."""
    conv: Tensor
    """The convolution's last inputs: [batch, taps, channels], a ring; position p is in slot p mod taps."""
    state_start: Tensor
    """[value_heads, K, V]."""
    conv_start: Tensor
    """[taps, channels]."""

    def clear(self, slot: int) -> None:
        """One sequence goes back to the start."""
        self.state[slot].copy_(self.state_start)
        self.conv[slot].copy_(self.conv_start)

    def restore(self) -> None:
        """Go back to the start."""
        self.state.copy_(self.state_start)
        self.conv.copy_(self.conv_start)


def make_cache(shape: GatedDeltaShape, batch: int, like: Tensor, *, is_empty: bool = False) -> GatedDeltaCache:
    """A batch that is at its start, on `like`'s device; the ring has `like`'s dtype.

    The start is random, as after many tokens. `is_empty` makes it zeros, where sequences begin.
    """
    make = torch.zeros if is_empty else torch.randn
    # What a state recalls, Sᵀk with a unit k, then has the scale of N(0, 1).
    state = make(shape.value_heads, shape.k, shape.v, device=like.device)
    conv = make(shape.conv, shape.channels, dtype=like.dtype, device=like.device)
    return GatedDeltaCache(state.repeat(batch, 1, 1, 1), conv.repeat(batch, 1, 1), state, conv)


class GatedDelta(nn.Module):
    """The layer with the norm before it and the sum after it."""

    def __init__(
        self, shape: GatedDeltaShape, hidden: int, norm_eps: float, dtype: torch.dtype, attention: Attention
    ) -> None:
        super().__init__()
        self.shape, self.norm_eps = shape, norm_eps
        heads, width = shape.value_heads, shape.value_heads * shape.v
        self.into, (self.projection, self.rates) = random_weights(
            (shape.channels + width, hidden), (2, heads, hidden), dtype=dtype
        )
        self.conv = random_weight(shape.channels, shape.conv, dtype=dtype)
        # As models begin their training: decay rates from 1 to 16, and softplus(dt_bias) from 0.001 to 0.1.
        step = torch.empty(heads).uniform_(-6.9, -2.3).exp()
        self.a_log = weight(torch.empty(heads).uniform_(1, 16).log())
        self.dt_bias = weight(step + torch.log(-torch.expm1(-step)))
        self.norm = weight(torch.ones(shape.v, dtype=dtype))
        self.out = random_weight(hidden, width, dtype=dtype)
        self.has_kernel = attention == "triton"
        if self.has_kernel:
            import gpubench.kernels.gated_delta_inputs
            import gpubench.kernels.gated_delta_prefill
            import gpubench.kernels.gated_delta_step
            import gpubench.kernels.linear_few  # noqa: F401 - all register their operators

    def forward(
        self,
        x: Tensor,
        scale: Tensor,
        cache: GatedDeltaCache,
        positions: Tensor,
        span: Tensor | None = None,
        may_idle: bool = False,
    ) -> Tensor:
        """x [tokens, hidden] → the same; `cache` advances by the tokens at `positions` [tokens], int32.

        They are one of each sequence, or with a `span`, as in `Chunk`, all of one. With `may_idle` those at −1 leave
        their sequences as they are. `scale` [hidden] is the norm's.
        """
        shape, tokens = self.shape, x.shape[0]
        heads, width = shape.value_heads, shape.value_heads * shape.v
        projected = project(Operand(x, "norm", scale, eps=self.norm_eps), self.into, has_kernel=self.has_kernel)
        widths = [shape.channels, width, heads, heads]
        mixed, gate, a, b = torch.split(projected[:, : sum(widths)], widths, dim=-1)
        out = x.new_empty(tokens, heads, shape.v)
        rates = a, b, self.a_log, self.dt_bias
        if span is not None:
            chunk_step(mixed, cache.conv, self.conv, span, *rates, cache.state, out, self.has_kernel)
        elif self.has_kernel:
            step = torch.ops.gpubench.gated_delta_step
            step(mixed, cache.conv, self.conv, positions, *rates, cache.state, out, is_settled=True)
        else:
            step_in_torch(mixed, cache.conv, self.conv, positions, *rates, cache.state, out, may_idle)
        gated = Operand(out.view(tokens, width), "gated_norm", self.norm, gate, self.norm_eps)
        return project(gated, self.out, x, has_kernel=self.has_kernel)


@as_seam("gated_delta_step_in_torch", mutates=("conv_state", "state", "out"))
def step_in_torch(  # noqa: PLR0913, PLR0917 - the operator's arguments
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
    may_idle: bool = False,
) -> None:
    """What gpubench.kernels.gated_delta_step does, with torch's operators, all computed in float32.

    The recurrence is that of `advance`, in place and with both products of one look at the state. With `may_idle`
    tokens at position −1 leave their sequence as it is.
    """
    if len(mixed) < len(state):
        conv_state, state = conv_state[: len(mixed)], state[: len(mixed)]
    batch, heads, dim_k, dim_v = state.shape
    token = {"mixed": mixed.float(), "conv_weight": conv_weight.float(), "positions": positions}
    rates = {"a": a, "b": b, "a_log": a_log, "dt_bias": dt_bias}
    q, k, v, g, beta, ring = prepare({**token, **rates}, conv_state.float(), state)
    if may_idle:
        is_live = (positions >= 0)[:, None]
        g, beta = g * is_live, beta * is_live  # neither fading nor update
        ring = ring.where(is_live[..., None], conv_state)
    conv_state.copy_(ring)

    both = torch.stack((q, k), dim=2).repeat_interleave(heads // q.shape[1], dim=1).view(batch * heads, 2, dim_k)
    flat = state.view(batch * heads, dim_k, dim_v)
    flat.mul_(g.exp().view(-1, 1, 1))
    queried, recalled = torch.bmm(both, flat).unbind(1)
    fresh = beta.view(-1, 1) * (v.reshape(-1, dim_v) - recalled)
    query, key = both.unbind(1)
    flat.baddbmm_(key[:, :, None], fresh[:, None])
    attended = (queried + (query * key).sum(dim=-1, keepdim=True) * fresh) * dim_k**-0.5
    out.copy_(attended.view_as(out))


@as_seam("gated_delta_chunk", mutates=("conv_state", "state", "out"))
def chunk_step(  # noqa: PLR0913, PLR0917 - the operator's arguments
    mixed: Tensor,
    conv_state: Tensor,
    conv_weight: Tensor,
    span: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    state: Tensor,
    out: Tensor,
    has_kernel: bool,
) -> None:
    """The same for consecutive tokens of one sequence, whose slot and first position are in `span`."""
    slot, first = span.tolist()
    ring, own = conv_state[slot], state[slot : slot + 1]
    rates = a, b, a_log, dt_bias
    if has_kernel:
        _chunk_in_kernels((mixed, ring, conv_weight, *rates), first, own, out)
    else:
        tokens = {"mixed": mixed.float(), "conv_weight": conv_weight.float()}
        tokens |= dict(zip(("a", "b", "a_log", "dt_bias"), rates, strict=True))
        found, after = chunked(prepare_chunk(tokens, ring.float(), first, own), own, [len(mixed)])
        out.copy_(found)
        own.copy_(after)
    last = mixed[-len(ring) :]
    ring.index_copy_(0, ring_slots(first + len(mixed), ring)[-len(last) :], last)


def _chunk_in_kernels(given: tuple[Tensor, ...], first: int, state: Tensor, out: Tensor) -> None:
    """gpubench.kernels.gated_delta_inputs, which takes what is given, and gated_delta_prefill."""
    from gpubench.kernels.gated_delta_prefill import scratch_shapes

    (tokens, heads, _), (dim_k, dim_v), channels = out.shape, state.shape[2:], given[0].shape[1]
    key_heads = (channels - heads * dim_v) // (2 * dim_k)
    q, k = (out.new_empty(tokens, key_heads, dim_k) for _ in range(2))
    g, beta = (state.new_empty(tokens, heads) for _ in range(2))
    operands = q, k, torch.empty_like(out), g, beta
    torch.ops.gpubench.gated_delta_inputs(*given, *operands, first)
    rows, gates = scratch_shapes(tokens, heads, dim_k, dim_v)
    bounds = torch.arange(2, dtype=torch.int32, device=out.device) * tokens
    scratch = out.new_empty(rows), state.new_empty(gates)
    torch.ops.gpubench.gated_delta_prefill(*operands, bounds, state, out, *scratch, longest=tokens)
