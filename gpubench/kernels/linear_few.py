"""A linear layer for few rows, with what stands before and after it: the weight is read once, and nothing else matters.

    out[r] = residual[r] + W · f(x)[r]

    before: nothing         f(x) = x
    before: norm            RMSNorm(x) ⊙ scale
    before: gated_norm      RMSNorm(x over each group of len(scale)) ⊙ scale ⊙ silu(gate)
    before: sigmoid_gate    x ⊙ σ(gate)
    before: silu_gate       x ⊙ silu(gate)

x [rows, K]; W = weight [N, K]; residual, if any, and out [rows, N]; gate [rows, K]; scale [K], of gated_norm its group.
All float32, float16 or bfloat16, computed in float32.

A program has some of the weight's rows, whole, in its registers, and takes x row by row. It asks for its weights before
it waits for the kernel that writes x. For more rows, whose product a library does better, prepare_rows writes f(x).
"""

from __future__ import annotations

from typing import Literal

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_contiguous, check_launchable, check_operand, last_size
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["MAX_COLUMNS", "MAX_ROWS", "Before", "linear_few", "prepare_rows"]

Before = Literal["nothing", "norm", "gated_norm", "sigmoid_gate", "silu_gate"]

MAX_ROWS = 16
MAX_COLUMNS = 16384
MAX_GROUP = 256

_WANTED: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "norm": ("scale",),
    "gated_norm": ("scale", "gate"),
    "sigmoid_gate": ("gate",),
    "silu_gate": ("gate",),
}

# What a program holds of the weight: of 2 to 8 rows, 4 made a step of one row the fastest, whose K are 2048 and 4096
# (NVIDIA H200, 2026-11-21).
_ELEMENTS = 32768
_MAX_TILE = 4


@triton.jit
def _prepare(x, scale, gate, eps, K: tl.constexpr, BEFORE: tl.constexpr, GROUP: tl.constexpr):
    """f of one row x [columns], zero behind its K elements; float32."""
    if BEFORE == "norm":
        x *= scale * tl.rsqrt(tl.sum(x * x, axis=0) / K + eps)
    if BEFORE == "gated_norm":
        groups = tl.reshape(x, (x.shape[0] // GROUP, GROUP))
        factors = tl.rsqrt(tl.sum(groups * groups, axis=1) / GROUP + eps)
        x = tl.reshape(groups * factors[:, None], x.shape) * scale * gate * tl.sigmoid(gate)
    if BEFORE == "sigmoid_gate":
        x *= tl.sigmoid(gate)
    if BEFORE == "silu_gate":
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
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    outputs = tl.program_id(0) * TILE + tl.arange(0, TILE)
    is_output = outputs < width
    columns = tl.arange(0, COLUMNS)
    inside = columns < K
    weights = weight_ptr + outputs.to(tl.int64)[:, None] * K + columns[None, :]
    weight = tl.load(weights, mask=is_output[:, None] & inside[None, :], other=0.0)
    scale = columns
    if HAS_SCALE:
        scale = tl.load(scale_ptr + columns % GROUP, mask=inside, other=0.0).to(tl.float32)
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    for number in range(num_rows):
        row = tl.cast(number, tl.int64)  # row · stride may exceed 32 bits
        x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
        gate = x
        if HAS_GATE:
            gate = tl.load(gate_ptr + row * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
        x = _prepare(x, scale, gate, eps, K, BEFORE, GROUP)
        result = tl.sum(weight.to(tl.float32) * x[None, :], axis=1)
        if HAS_RESIDUAL:
            residual = tl.load(residual_ptr + row * residual_stride + outputs, mask=is_output, other=0.0)
            result += residual.to(tl.float32)
        tl.store(out_ptr + row * out_stride + outputs, result.to(out_ptr.dtype.element_ty), mask=is_output)


@triton.jit
def _prepare_kernel(
    x_ptr,
    scale_ptr,
    gate_ptr,
    out_ptr,
    x_stride,
    gate_stride,
    out_stride,
    eps,
    K: tl.constexpr,
    BEFORE: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_GATE: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < K
    scale = columns
    if HAS_SCALE:
        scale = tl.load(scale_ptr + columns % GROUP, mask=inside, other=0.0).to(tl.float32)
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    gate = x
    if HAS_GATE:
        gate = tl.load(gate_ptr + row * gate_stride + columns, mask=inside, other=0.0).to(tl.float32)
    x = _prepare(x, scale, gate, eps, K, BEFORE, GROUP)
    tl.store(out_ptr + row * out_stride + columns, x.to(out_ptr.dtype.element_ty), mask=inside)


_LINEAR = Launcher(_linear_kernel, is_dependent=True)


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
    _check_weight(x, weight, out, residual)
    _check_before("linear_few", x, scale, gate, before)
    rows, k = x.shape
    columns = triton.next_power_of_2(k)
    tile = max(1, min(_MAX_TILE, _ELEMENTS // columns))
    _LINEAR(
        (triton.cdiv(weight.shape[0], tile), 1, 1),
        (
            x,
            x if scale is None else scale,
            x if gate is None else gate,
            weight,
            x if residual is None else residual,
            out,
        ),
        (
            x.stride(0),
            0 if gate is None else gate.stride(0),
            0 if residual is None else residual.stride(0),
            out.stride(0),
            rows,
            weight.shape[0],
            eps,
        ),
        {
            "K": k,
            "BEFORE": before,
            "GROUP": k if scale is None else scale.shape[0],
            "HAS_SCALE": scale is not None,
            "HAS_GATE": gate is not None,
            "HAS_RESIDUAL": residual is not None,
            "TILE": tile,
            "COLUMNS": columns,
        },
        num_warps=4,
    )


_PREPARE = Launcher(_prepare_kernel, is_dependent=True)


@as_op("prepare_rows", mutates=("out",))
def prepare_rows(
    x: Tensor, out: Tensor, scale: Tensor | None = None, gate: Tensor | None = None, *, before: str, eps: float = 1e-6
) -> None:
    """Write f(x), what linear_few would multiply, into `out`, for any number of rows.

    All rows may be strided. Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "prepare_rows"
    _check_x(kernel, x)
    _check_before(kernel, x, scale, gate, before)
    check_operand(kernel, "out", out, tuple(x.shape), like=x)
    check_adjacent(kernel, "out", out)
    rows, k = x.shape
    columns = triton.next_power_of_2(k)
    _PREPARE(
        (rows, 1, 1),
        (x, x if scale is None else scale, x if gate is None else gate, out),
        (x.stride(0), 0 if gate is None else gate.stride(0), out.stride(0), eps),
        {
            "K": k,
            "BEFORE": before,
            "GROUP": k if scale is None else scale.shape[0],
            "HAS_SCALE": scale is not None,
            "HAS_GATE": gate is not None,
            "COLUMNS": columns,
        },
        num_warps=4 if columns <= 4096 else 8,
    )


def _check_x(kernel: str, x: Tensor) -> None:
    """Raise ArgumentError unless x has rows that a program can hold."""
    check_launchable(kernel, "x", x)
    if x.dim() != 2 or x.shape[0] < 1 or not 1 <= x.shape[1] <= MAX_COLUMNS:
        raise ArgumentError(f"{kernel}: x has shape {tuple(x.shape)}; wanted (rows, 1 to {MAX_COLUMNS})")
    check_adjacent(kernel, "x", x)


def _check_weight(x: Tensor, weight: Tensor, out: Tensor, residual: Tensor | None) -> None:
    """Raise ArgumentError unless the operands of linear_few fit one another."""
    kernel = "linear_few"
    _check_x(kernel, x)
    rows, k = x.shape
    if rows > MAX_ROWS:
        raise ArgumentError(f"{kernel}: x has {rows} rows; wanted {MAX_ROWS} at most")
    width = weight.shape[0] if weight.dim() else 0
    check_operand(kernel, "weight", weight, (width, k), like=x)
    check_contiguous(kernel, "weight", weight)
    check_operand(kernel, "out", out, (rows, width), like=x)
    check_adjacent(kernel, "out", out)
    if residual is not None:
        check_operand(kernel, "residual", residual, (rows, width), like=x)
        check_adjacent(kernel, "residual", residual)


def _check_before(kernel: str, x: Tensor, scale: Tensor | None, gate: Tensor | None, before: str) -> None:
    """Raise ArgumentError unless `scale` and `gate` are there where, and only where, `before` has a use for them."""
    if before not in _WANTED:
        raise ArgumentError(f"{kernel}: before is {before!r}; known: {', '.join(_WANTED)}")
    for name, tensor in (("scale", scale), ("gate", gate)):
        if (tensor is not None) != (name in _WANTED[before]):
            raise ArgumentError(f"{kernel}: before: {before} {'needs a' if tensor is None else 'has no'} {name}")
    if scale is not None:
        k, group = x.shape[1], last_size(scale)
        if before == "norm" and group != k:
            raise ArgumentError(f"{kernel}: scale has shape {tuple(scale.shape)}; wanted ({k},)")
        if before == "gated_norm" and (not 1 <= group <= MAX_GROUP or k % group or group & (group - 1)):
            raise ArgumentError(
                f"{kernel}: scale has shape {tuple(scale.shape)}; wanted a power of two that divides {k}, "
                f"{MAX_GROUP} at most"
            )
        check_operand(kernel, "scale", scale, (group,), like=x)
        check_contiguous(kernel, "scale", scale)
    if gate is not None:
        check_operand(kernel, "gate", gate, tuple(x.shape), like=x)
        check_adjacent(kernel, "gate", gate)
