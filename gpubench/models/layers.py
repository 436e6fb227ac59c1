"""What the families' layers share: weights, and rotary positions, after Su et al., "RoFormer", 2021."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Activation", "GatedMlp", "activate", "random_weight", "random_weights", "rotary_table", "rotate", "weight"]

Activation = Literal["swiglu", "swiglu_oai"]
"""Of a gated MLP: silu(gate) ⊙ up, or gpt-oss's (up + 1) ⊙ gate ⊙ σ(1.702 · gate), gate ≤ 7 and |up| ≤ 7."""


def weight(value: Tensor) -> nn.Parameter:
    """A parameter that nothing trains."""
    return nn.Parameter(value, requires_grad=False)


def random_weight(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A weight drawn in place on the default device, N(0, 1 / fan-in), so that activations keep their scale."""
    return weight(torch.empty(shape, dtype=dtype).normal_(0.0, shape[-1] ** -0.5))


def random_weights(*shapes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, list[nn.Parameter]]:
    """Weights of one number of inputs, their last dimension, in one piece of memory: as one matrix, and each.

    So layers with the same input are one product, and still have names of their own. The matrix ends in rows of zeros
    that make its outputs a multiple of 8: libraries are slow at others.
    """
    sizes = [math.prod(shape[:-1]) for shape in shapes]
    total = sum(sizes)
    joint = torch.empty(-(-total // 8) * 8, shapes[0][-1], dtype=dtype)
    joint[total:] = 0
    parts = [part.view(shape) for part, shape in zip(torch.split(joint[:total], sizes), shapes, strict=True)]
    return joint, [weight(part.normal_(0.0, part.shape[-1] ** -0.5)) for part in parts]


def activate(gate_up: Tensor, activation: Activation = "swiglu") -> Tensor:
    """gate and up side by side [..., 2 · intermediate] → [..., intermediate]."""
    gate, up = gate_up.chunk(2, dim=-1)
    if activation == "swiglu":
        return F.silu(gate) * up
    gate, up = gate.clamp(max=7.0), up.clamp(-7.0, 7.0)
    return (up + 1.0) * gate * torch.sigmoid(1.702 * gate)


def rotary_table(length: int, dims: int, base: float, device: torch.device) -> Tensor:
    """cos and sin of the angles position · base^(−2i / dims): [length, 2, dims / 2], fp32."""
    exponents = torch.arange(0, dims, 2, dtype=torch.float64, device=device) / dims
    positions = torch.arange(length, dtype=torch.float64, device=device)
    angles = torch.outer(positions, base**-exponents)
    return torch.stack((angles.cos(), angles.sin()), dim=1).float()


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate the first dims of x [batch, heads, head_dim] by one position's row of the table; the others stay.

    `rotary` is that row, [2, half], or one of each, [batch, 2, half]. Halves of what is rotated are paired, as in
    GPT-NeoX.
    """
    cos, sin = rotary[..., None, :].unbind(-3)
    half = cos.shape[-1]
    first, second, rest = torch.split(x.float(), [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1).to(x.dtype)


class GatedMlp(nn.Module):
    """The MLP of a layer without experts: activate(x · W_gate_upᵀ) · W_downᵀ."""

    def __init__(self, hidden: int, intermediate: int, dtype: torch.dtype, activation: Activation = "swiglu") -> None:
        super().__init__()
        self.activation: Activation = activation
        self.gate_up = random_weight(2 * intermediate, hidden, dtype=dtype)
        self.down = random_weight(hidden, intermediate, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, hidden] → the same."""
        return F.linear(activate(F.linear(x, self.gate_up), self.activation), self.down)
