"""A linear layer for few rows, with what stands before and after it: the weight is read once, and nothing else matters.

    out[r] = residual[r] + W · f(x)[r]

    before: nothing         f(x) = x
    before: norm            RMSNorm(x) ⊙ scale
    before: gated_norm      RMSNorm(x over each group of len(scale)) ⊙ scale ⊙ silu(gate)
    before: sigmoid_gate    x ⊙ σ(gate)
    before: swiglu          silu(gate) ⊙ x

x [rows, K]; W = weight [N, K]; residual, if any, and out [rows, N]; gate [rows, K]; scale [K], of gated_norm its group.
All float32, float16 or bfloat16; f, sums and products are float32, but that several rows go through the tensor cores in
the operands' dtype. A norm's factor is the same for a whole row: it is applied to the row's products, and x is read
once.

A program has a tile of the weight's rows and all of its columns. One row is a matrix-vector product, in float32 from
the registers that the weight was loaded to; several are a matrix product, whose other operand is as narrow as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_contiguous, check_launchable, check_operand
from gpubench.kernels.gpu import gpu_name
from gpubench.kernels.ops import as_op

__all__ = ["MAX_ROWS", "Before", "linear_few"]

Before = Literal["nothing", "norm", "gated_norm", "sigmoid_gate", "swiglu"]

MAX_ROWS = 64
MAX_GROUP = 128

_WANTED: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "norm": ("scale",),
    "gated_norm": ("scale", "gate"),
    "sigmoid_gate": ("gate",),
    "swiglu": ("gate",),
}


@dataclass(frozen=True)
class Tiling:
    """What a program has of the weight at a time, and what it gets."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int = 1


# By GPU and by whether there is one row. Not tuned.
_ONE = Tiling(rows=8, columns=2048, num_warps=4)
_SEVERAL = Tiling(rows=32, columns=128, num_warps=4, num_stages=3)

_TILINGS: dict[tuple[str, str], Tiling] = {}


@triton.jit
def _operand(x, gate, scale, eps, BEFORE: tl.constexpr, GROUP: tl.constexpr):
    """f of a tile x [rows, columns] with its `gate` and `scale` [columns], but for the factor of `norm`; float32."""
    if BEFORE == "norm":
        x *= scale[None, :]
    if BEFORE == "gated_norm":
        groups = tl.reshape(x, (x.shape[0], x.shape[1] // GROUP, GROUP))
        factor = tl.rsqrt(tl.sum(groups * groups, axis=2) / GROUP + eps)
        x = tl.reshape(groups * factor[:, :, None], x.shape) * scale[None, :] * gate * tl.sigmoid(gate)
    if BEFORE == "sigmoid_gate":
        x *= tl.sigmoid(gate)
    if BEFORE == "swiglu":
        x *= gate * tl.sigmoid(gate)
    return x


@triton.jit
def _linear_kernel(
    x_ptr,
    scale_ptr,
    gate_ptr,
    weight_ptr,
    residual_ptr,
    out_ptr,
    x_stride,
    gate_stride,
    residual_stride,
    out_stride,
    num_rows,
    width,
    eps,
    K: tl.constexpr,
    BEFORE: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):
    outputs = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_output = outputs < width
    rows = tl.arange(0, ROWS)
    is_row = rows < num_rows
    weights = weight_ptr + outputs.to(tl.int64)[:, None] * K
    products = tl.zeros((TILE, COLUMNS if ROWS == 1 else ROWS), tl.float32)
    squares = tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, K, COLUMNS, num_stages=STAGES):
        columns = start + tl.arange(0, COLUMNS)
        inside = columns < K
        is_x = is_row[:, None] & inside[None, :]
        weight = tl.load(weights + columns[None, :], mask=is_output[:, None] & inside[None, :], other=0.0)
        x = tl.load(x_ptr + rows[:, None] * x_stride + columns[None, :], mask=is_x, other=0.0).to(tl.float32)
        scale = x
        gate = x
        if HAS_SCALE:
            places = columns if BEFORE == "norm" else columns % GROUP
            scale = tl.load(scale_ptr + places, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            gate = tl.load(gate_ptr + rows[:, None] * gate_stride + columns[None, :], mask=is_x, other=0.0)
            gate = gate.to(tl.float32)
        if BEFORE == "norm":
            squares += tl.sum(x * x, axis=1)
        operand = _operand(x, gate, scale, eps, BEFORE, GROUP)
        if ROWS == 1:
            products += weight.to(tl.float32) * operand
        else:
            products = tl.dot(weight, tl.trans(operand.to(weight.dtype)), products, input_precision="ieee")
    result = tl.sum(products, axis=1)[:, None] if ROWS == 1 else products
    if BEFORE == "norm":
        result *= tl.rsqrt(squares / K + eps)[None, :]
    is_result = is_output[:, None] & is_row[None, :]
    if HAS_RESIDUAL:
        residuals = residual_ptr + rows[None, :] * residual_stride + outputs[:, None]
        result += tl.load(residuals, mask=is_result, other=0.0).to(tl.float32)
    target = out_ptr + rows[None, :] * out_stride + outputs[:, None]
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask=is_result)


@as_op("linear_few", mutates=("out",))
def linear_few(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    scale: Tensor | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    before: str = "nothing",
    eps: float = 1e-6,
) -> None:
    """Write the layer's output for up to MAX_ROWS rows into `out`.

    `before` says what of `scale` and `gate` is wanted. Rows of all but the weight may be strided. Neither allocates nor
    synchronises. ArgumentError names an argument that doesn't fit.
    """
    _check(x, weight, out, residual)
    _check_before(x, scale, gate, before)
    rows, k = x.shape
    several = "one" if rows == 1 else "several"
    tiling = _TILINGS.get((gpu_name(), several), _ONE if rows == 1 else _SEVERAL)
    _linear_kernel[(triton.cdiv(weight.shape[0], tiling.rows),)](
        x,
        x if scale is None else scale,
        x if gate is None else gate,
        weight,
        x if residual is None else residual,
        out,
        x.stride(0),
        0 if gate is None else gate.stride(0),
        0 if residual is None else residual.stride(0),
        out.stride(0),
        rows,
        weight.shape[0],
        eps,
        K=k,
        BEFORE=before,
        GROUP=1 if scale is None else scale.shape[0],
        HAS_SCALE=scale is not None,
        HAS_GATE=gate is not None,
        HAS_RESIDUAL=residual is not None,
        ROWS=1 if rows == 1 else max(16, triton.next_power_of_2(rows)),
        TILE=tiling.rows,
        COLUMNS=min(tiling.columns, triton.next_power_of_2(k)),
        STAGES=tiling.num_stages,
        num_warps=tiling.num_warps,
    )


def _check(x: Tensor, weight: Tensor, out: Tensor, residual: Tensor | None) -> None:
    """Raise ArgumentError unless the operands fit one another."""
    kernel = "linear_few"
    check_launchable(kernel, "x", x)
    if x.dim() != 2 or not 1 <= x.shape[0] <= MAX_ROWS or x.shape[1] < 1:
        raise ArgumentError(f"{kernel}: x has shape {tuple(x.shape)}; wanted (rows, K) with 1 to {MAX_ROWS} rows")
    rows, k = x.shape
    width = weight.shape[0] if weight.dim() else 0
    check_operand(kernel, "weight", weight, (width, k), like=x)
    check_contiguous(kernel, "weight", weight)
    check_operand(kernel, "out", out, (rows, width), like=x)
    for name, tensor in (("x", x), ("out", out), ("residual", residual)):
        if tensor is not None:
            check_adjacent(kernel, name, tensor)
    if residual is not None:
        check_operand(kernel, "residual", residual, (rows, width), like=x)


def _check_before(x: Tensor, scale: Tensor | None, gate: Tensor | None, before: str) -> None:
    """Raise ArgumentError unless `scale` and `gate` are there where, and only where, `before` has a use for them."""
    kernel = "linear_few"
    if before not in _WANTED:
        raise ArgumentError(f"{kernel}: before is {before!r}; known: {', '.join(_WANTED)}")
    for name, tensor in (("scale", scale), ("gate", gate)):
        if (tensor is not None) != (name in _WANTED[before]):
            raise ArgumentError(f"{kernel}: before: {before} {'has no' if tensor is not None else 'needs a'} {name}")
    if scale is not None:
        k, group = x.shape[1], scale.shape[0]
        if before == "norm" and group != k:
            raise ArgumentError(f"{kernel}: scale has shape {tuple(scale.shape)}; wanted ({k},)")
        if before == "gated_norm" and (k % group or group & (group - 1) or group > MAX_GROUP):
            raise ArgumentError(
                f"{kernel}: scale has shape {tuple(scale.shape)}; wanted a power of two that divides {k}, "
                f"{MAX_GROUP} at most"
            )
        check_operand(kernel, "scale", scale, (group,), like=x)
        check_contiguous(kernel, "scale", scale)
    if gate is not None:
        check_operand(kernel, "gate", gate, tuple(x.shape), like=x)
        check_adjacent(kernel, "gate", gate)
