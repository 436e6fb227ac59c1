"""What the two gated delta workloads have in common: shapes, inputs, and how results are compared."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.models.shapes import GATED_DELTA, GatedDeltaShape, local_heads

__all__ = ["RECURRENCE", "Model", "compare_norms", "local_shape", "make_recurrence", "make_token"]

Model = Literal["qwen3.5-35b-a3b", "qwen3-next-80b-a3b"]

RECURRENCE = ("q", "k", "v", "g", "beta")
"""What `make_recurrence` makes, in the order in which everything takes it."""


def local_shape(
    model: Model, tp: int, key_heads: int | None, value_heads: int | None, **_others: Any
) -> GatedDeltaShape:
    """The model's heads, or those given instead, on one of `tp` GPUs, from a workload's arguments."""
    shape = GATED_DELTA[model]
    keys = local_heads(shape.key_heads if key_heads is None else key_heads, tp)
    values = local_heads(shape.value_heads if value_heads is None else value_heads, tp)
    if keys < 1 or values < 1 or values % keys:
        raise ArgumentError(f"value_heads is {values} and key_heads {keys} per GPU; wanted a multiple of them")
    return GatedDeltaShape(keys, values, shape.k, shape.v, shape.conv)


def make_recurrence(rows: int, shape: GatedDeltaShape, kind: torch.dtype) -> dict[str, Tensor]:
    """q, k, v, g and beta of `rows` tokens, as a layer makes them: unit keys, states that fade slowly or fast."""
    q, k = torch.randn(2, rows, shape.key_heads, shape.k)
    a_log, dt_bias = _make_rates(shape)
    return {
        "q": F.normalize(q, dim=-1).to(kind),
        "k": F.normalize(k, dim=-1).to(kind),
        "v": torch.randn(rows, shape.value_heads, shape.v).to(kind),
        "g": -a_log.exp() * F.softplus(torch.randn(rows, shape.value_heads) + dt_bias),
        "beta": torch.randn(rows, shape.value_heads).sigmoid(),
    }


def _make_rates(shape: GatedDeltaShape) -> tuple[Tensor, Tensor]:
    """a_log and dt_bias as models begin their training: decay rates from 1 to 16, steps from 0.001 to 0.1."""
    a_log = torch.empty(shape.value_heads).uniform_(1, 16).log()
    step = torch.empty(shape.value_heads).uniform_(-6.9, -2.3).exp()
    return a_log, step + torch.log(-torch.expm1(-step))  # softplus(dt_bias) = step


def make_token(batch: int, shape: GatedDeltaShape, kind: torch.dtype) -> dict[str, Tensor]:
    """What `scope: op` begins with: the projected token of `batch` sequences, a convolution, and its last inputs."""
    channels = 2 * shape.key_heads * shape.k + shape.value_heads * shape.v
    a_log, dt_bias = _make_rates(shape)
    a, b = torch.randn(2, batch, shape.value_heads).to(kind)
    conv_start = torch.randn(batch, shape.conv, channels).to(kind)
    return {
        "mixed": torch.randn(batch, channels).to(kind),
        "conv_weight": (torch.randn(channels, shape.conv) * shape.conv**-0.5).to(kind),
        "conv_start": conv_start,
        "conv_state": conv_start.clone(),
        "positions": torch.randint(shape.conv, 100_000, (batch,), dtype=torch.int32),
        "a": a,
        "b": b,
        "a_log": a_log,
        "dt_bias": dt_bias,
    }


def compare_norms(name: str, out: Tensor, ref: Tensor, tolerance: float) -> str | None:
    """What differs, if ‖out − ref‖ / ‖ref‖ is above the tolerance."""
    reference = ref.double()
    difference = ((out.double() - reference).norm() / reference.norm()).item()
    if difference <= tolerance:  # a NaN is not
        return None
    return f"{name}: ‖out − ref‖ / ‖ref‖ = {difference:.3g}, allowed {tolerance:g}"
