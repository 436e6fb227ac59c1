"""Linear layers of a step with what stands before and after them: for few rows one kernel, else torch's operators.

Few rows read every weight for next to no arithmetic. A norm, a gate or a sum beside such a product costs nothing but a
kernel of its own: at batch 1 those were more than half of a step (NVIDIA H200, 2026-11-21).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # kernels import triton, which torch's operators do without
    from gpubench.kernels.linear_few import Before

__all__ = ["FEW_ROWS", "Operand", "prepare", "project"]

FEW_ROWS = 2
"""Up to so many our kernel takes the product. One row, 2048 → 12352, takes it 13 µs with the norm, cuBLAS 16 without.
All products of a step of 40 layers take it 5.9 ms for eight rows; cuBLAS, with what prepares its rows, takes 1.9 for
four (NVIDIA H200, 2026-11-21)."""


class Operand(NamedTuple):
    """What a linear layer multiplies: x [rows, K], after what gpubench.kernels.linear_few calls `before`."""

    x: Tensor
    before: Before = "nothing"
    scale: Tensor | None = None
    gate: Tensor | None = None
    eps: float = 1e-6


def project(operand: Operand, weight: Tensor, residual: Tensor | None = None, *, has_kernel: bool) -> Tensor:
    """operand · weightᵀ + residual, [rows, N]; `has_kernel` if gpubench.kernels.linear_few can be launched."""
    x, before, scale, gate, eps = operand
    if has_kernel and len(x) <= FEW_ROWS:
        out = x.new_empty(len(x), len(weight))
        torch.ops.gpubench.linear_few(x, weight, out, scale, gate, residual, before=before, eps=eps)
        return out
    out = F.linear(prepare(operand, has_kernel=has_kernel), weight)
    return out if residual is None else residual + out


def prepare(operand: Operand, *, has_kernel: bool) -> Tensor:
    """What the operand's layer multiplies, [rows, K]: for several layers of one operand."""
    x, before, scale, gate, eps = operand
    if not has_kernel or before == "nothing":
        return _prepare(operand)
    out = torch.empty_like(x)
    torch.ops.gpubench.prepare_rows(x, out, scale, gate, before=before, eps=eps)
    return out


def _prepare(operand: Operand) -> Tensor:
    x, before, scale, gate, eps = operand
    if before == "nothing":
        return x
    if before in {"sigmoid_gate", "silu_gate"}:
        assert gate is not None, f"{before} has a gate"
        return x * (gate.sigmoid() if before == "sigmoid_gate" else F.silu(gate))
    assert scale is not None, "norms have a scale"
    normed = F.rms_norm(x.reshape(len(x), -1, len(scale)), scale.shape, scale, eps).flatten(-2)
    if before == "norm":
        return normed
    assert gate is not None, "gated_norm has a gate"
    return (normed.float() * F.silu(gate.float())).to(x.dtype)
