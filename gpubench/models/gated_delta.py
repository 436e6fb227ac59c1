"""A gated delta layer of a decoder, after Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024.

For hidden states x [batch, hidden]:

    q | k | v, z = split(RMSNorm(x) · W_inᵀ);  a, b = RMSNorm(x) · W_ratesᵀ
    o = the recurrence's output for silu(conv(q | k | v)), a and b, as in gpubench.kernels.gated_delta_step
    x ← x + (RMSNorm(o) ⊙ silu(z)) · W_outᵀ                    the norm over each head's V
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpubench.kernels.ops import as_seam
from gpubench.models.base import Attention
from gpubench.models.gated_delta_formulas import prepare
from gpubench.models.layers import random_weight, random_weights, weight
from gpubench.models.projections import Operand, project
from gpubench.models.shapes import GatedDeltaShape

__all__ = ["GatedDelta", "GatedDeltaCache", "make_cache", "step_in_torch"]


@dataclass(frozen=True)
class GatedDeltaCache:
    """What one layer remembers of a batch: it changes at every step, and goes back to where it started.

    The start is one sequence's, the same for all: so it costs little memory, and restoring reads next to nothing.
    """

    state: Tensor
    """[batch, value_heads, K, V], float32."""
    conv: Tensor
    """The convolution's last inputs: [batch, taps, channels], a ring; position p is in slot p mod taps."""
    state_start: Tensor
    """[value_heads, K, V]."""
    conv_start: Tensor
    """[taps, channels]."""

    def restore(self) -> None:
        """Go back to the start."""
        self.state.copy_(self.state_start)
        self.conv.copy_(self.conv_start)


def make_cache(shape: GatedDeltaShape, batch: int, like: Tensor) -> GatedDeltaCache:
    """A random start of `like`'s device, and a batch that is there; the ring has `like`'s dtype."""
    # What a state recalls, Sᵀk with a unit k, then has the scale of N(0, 1).
    state = torch.randn(shape.value_heads, shape.k, shape.v, device=like.device)
    conv = like.new_empty(shape.conv, shape.channels).normal_()
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
            import gpubench.kernels.gated_delta_step
            import gpubench.kernels.linear_few  # noqa: F401 - both register their operators

    def forward(self, x: Tensor, scale: Tensor, cache: GatedDeltaCache, positions: Tensor) -> Tensor:
        """x [batch, hidden] → the same; `cache` advances by the tokens at `positions` [batch], int32.

        `scale` [hidden] is the norm's.
        """
        shape, batch = self.shape, x.shape[0]
        heads, width = shape.value_heads, shape.value_heads * shape.v
        projected = project(Operand(x, "norm", scale, eps=self.norm_eps), self.into, has_kernel=self.has_kernel)
        widths = [shape.channels, width, heads, heads]
        mixed, gate, a, b = torch.split(projected[:, : sum(widths)], widths, dim=-1)
        out = x.new_empty(batch, heads, shape.v)
        step = torch.ops.gpubench.gated_delta_step if self.has_kernel else step_in_torch
        step(mixed, cache.conv, self.conv, positions, a, b, self.a_log, self.dt_bias, cache.state, out)
        gated = Operand(out.view(batch, width), "gated_norm", self.norm, gate, self.norm_eps)
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
) -> None:
    """What gpubench.kernels.gated_delta_step does, with torch's operators, all computed in float32.

    The recurrence is that of `advance`, in place and with both products of one look at the state.
    """
    batch, heads, dim_k, dim_v = state.shape
    token = {"mixed": mixed.float(), "conv_weight": conv_weight.float(), "positions": positions}
    rates = {"a": a, "b": b, "a_log": a_log, "dt_bias": dt_bias}
    q, k, v, g, beta, ring = prepare({**token, **rates}, conv_state.float(), state)
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
