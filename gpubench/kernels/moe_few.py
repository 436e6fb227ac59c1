"""The chosen experts of a few tokens as matrix-vector products, each expert's weights read once per token.

    inner[r, j] = silu(gate) ⊙ up,   gate, up = split(W_e · x_r),   e = experts[r, j]
    out[r] = residual[r] + Σ over j of shares[r, j] · D_e · inner[r, j] + shared[r]
    x_r = RMSNorm(x[r]) ⊙ scale, or x[r] without a scale
    shared[r] = σ(z_r) · D_shared · (silu(gate) ⊙ up),   gate, up = split(shared_gate_up[r])

x, residual, out [rows, hidden]; scale [hidden]; W = gate_up [held, 2 · I, hidden], gate rows first; D = down [held,
hidden, I]; inner [rows, top_k, I]; shared_gate_up [rows, 2 · S], already multiplied; shared_gate z [rows, 1], without
which σ(z) is 1; shared_down [hidden, S]. All of these float32, float16 or bfloat16, computed in float32. experts int32
and shares float32 [rows, top_k], as moe_route writes them: an expert that isn't held adds nothing, and nothing of it is
read.

One token's experts are all different, so that one program per expert and tile of rows reads everything once, and what
limits it is memory. The norm's factor is the same for a whole token: it is applied to the products, and x is read once.
moe_few_down takes all but `inner` before it waits for the kernel that writes it: that has to be moe_few_up, on the same
experts, which has waited for whatever wrote the rest (gpubench.kernels.dependent_launch).
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
    last_size,
)
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.gated_delta_arguments import check_float32
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["activate", "moe_few_down", "moe_few_up"]


# What a program holds of a weight, of `up` twice that, and its warps: at hidden 2048 and inner 512, the fastest of six
# and of five for 1 to 8 tokens on an NVIDIA H200 (2026-11-21). Asking L2 for `down` while `up` runs, or for the next
# layer's weights while experts are chosen, made a whole step slower in each of twenty ways.
_UP_ELEMENTS = 4096
_UP_WARPS = 4
_DOWN_ELEMENTS = 8192
_DOWN_WARPS = 2


@triton.jit
def activate(gate, up, IS_OAI: tl.constexpr):
    """What goes on from an expert's two products: `swiglu` or `swiglu_oai` of gpubench.models.layers."""
    steep = gate
    if IS_OAI:
        gate = tl.minimum(gate, 7.0)
        steep = 1.702 * gate
        up = tl.clamp(up, -7.0, 7.0) + 1.0
    return gate * tl.sigmoid(steep) * up


@triton.jit
def _up_kernel(
    x_ptr,
    scale_ptr,
    experts_ptr,
    weight_ptr,
    inner_ptr,
    x_stride,
    held,
    eps,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    TOP_K: tl.constexpr,
    HAS_NORM: tl.constexpr,
    IS_OAI: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    TILES: tl.constexpr = (INNER + ROWS - 1) // ROWS
    pair = (tl.program_id(0) // TILES).to(tl.int64)
    rows = tl.program_id(0) % TILES * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, COLUMNS)
    inside = columns < HIDDEN
    if HAS_NORM:
        scale = tl.load(scale_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    wait(IS_DEPENDENT)
    release(IS_DEPENDENT)
    expert = tl.load(experts_ptr + pair).to(tl.int64)
    if expert < held:
        is_row = rows < INNER
        is_weight = is_row[:, None] & inside[None, :]
        gate_rows = weight_ptr + expert * (2 * INNER * HIDDEN) + rows[:, None] * HIDDEN + columns[None, :]
        gate = tl.load(gate_rows, mask=is_weight, other=0.0)
        up = tl.load(gate_rows + INNER * HIDDEN, mask=is_weight, other=0.0)
        x = tl.load(x_ptr + pair // TOP_K * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_NORM:
            x *= scale * tl.rsqrt(tl.sum(x * x, axis=0) / HIDDEN + eps)
        gate_sum = tl.sum(gate.to(tl.float32) * x[None, :], axis=1)
        up_sum = tl.sum(up.to(tl.float32) * x[None, :], axis=1)
        result = activate(gate_sum, up_sum, IS_OAI)
        tl.store(inner_ptr + pair * INNER + rows, result.to(inner_ptr.dtype.element_ty), mask=is_row)


@triton.jit
def _down_kernel(
    inner_ptr,
    experts_ptr,
    shares_ptr,
    down_ptr,
    shared_ptr,
    shared_gate_ptr,
    shared_down_ptr,
    residual_ptr,
    out_ptr,
    shared_stride,
    shared_gate_stride,
    residual_stride,
    held,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    SHARED: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    TOP_K: tl.constexpr,
    IS_OAI: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SHARED_COLUMNS: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    token = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = rows < HIDDEN
    columns = tl.arange(0, COLUMNS)
    is_column = columns < INNER
    weights = ()
    for slot in tl.static_range(TOP_K):
        expert = tl.load(experts_ptr + token * TOP_K + slot).to(tl.int64)
        is_weight = is_row[:, None] & is_column[None, :] & (expert < held)
        own = down_ptr + expert * (HIDDEN * INNER) + rows[:, None] * INNER + columns[None, :]
        weights = weights + (tl.load(own, mask=is_weight, other=0.0),)  # type: ignore[assignment]  # noqa: RUF005 - Triton
    result = tl.zeros((ROWS,), tl.float32)
    if HAS_RESIDUAL:
        result += tl.load(residual_ptr + token * residual_stride + rows, mask=is_row, other=0.0).to(tl.float32)
    if SHARED > 0:
        shared_columns = tl.arange(0, SHARED_COLUMNS)
        is_shared = shared_columns < SHARED
        shared_weights = shared_down_ptr + rows[:, None] * SHARED + shared_columns[None, :]
        shared_weight = tl.load(shared_weights, mask=is_row[:, None] & is_shared[None, :], other=0.0)
        shared = shared_ptr + token * shared_stride + shared_columns
        gate = tl.load(shared, mask=is_shared, other=0.0).to(tl.float32)
        up = tl.load(shared + SHARED, mask=is_shared, other=0.0).to(tl.float32)
        product = tl.sum(shared_weight.to(tl.float32) * activate(gate, up, IS_OAI)[None, :], axis=1)
        if HAS_GATE:
            product *= tl.sigmoid(tl.load(shared_gate_ptr + token * shared_gate_stride).to(tl.float32))
        result += product
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        is_inner = is_column & (tl.load(experts_ptr + pair) < held)
        inner = tl.load(inner_ptr + pair * INNER + columns, mask=is_inner, other=0.0).to(tl.float32)
        total += weights[slot].to(tl.float32) * (inner * tl.load(shares_ptr + pair))[None, :]
    result += tl.sum(total, axis=1)
    tl.store(out_ptr + token * HIDDEN + rows, result.to(out_ptr.dtype.element_ty), mask=is_row)


_UP = Launcher(_up_kernel, is_dependent=True)


@as_op("moe_few_up", mutates=("inner",))
def moe_few_up(
    x: Tensor,
    scale: Tensor | None,
    experts: Tensor,
    gate_up: Tensor,
    inner: Tensor,
    *,
    is_oai: bool = False,
    eps: float = 1e-6,
) -> None:
    """Write each token's experts' gated inner values into `inner`; those of experts that aren't held stay as they are.

    Rows of x may be strided. Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "moe_few_up"
    check_launchable(kernel, "x", x)
    if x.dim() != 2 or gate_up.dim() != 3 or gate_up.shape[1] % 2 or min(gate_up.shape) < 1:
        raise ArgumentError(
            f"{kernel}: x has shape {tuple(x.shape)} and gate_up {tuple(gate_up.shape)}; "
            "wanted (rows, hidden) and (held, 2 · inner, hidden)"
        )
    rows, hidden = x.shape
    held, inner_dim = gate_up.shape[0], gate_up.shape[1] // 2
    top_k = last_size(experts)
    check_adjacent(kernel, "x", x)
    check_index(kernel, "experts", experts, (rows, top_k), like=x)
    for name, tensor, shape in (
        ("gate_up", gate_up, (held, 2 * inner_dim, hidden)),
        ("inner", inner, (rows, top_k, inner_dim)),
    ):
        check_operand(kernel, name, tensor, shape, like=x)
        check_contiguous(kernel, name, tensor)
    if scale is not None:
        check_operand(kernel, "scale", scale, (hidden,), like=x)
        check_contiguous(kernel, "scale", scale)
    columns = triton.next_power_of_2(hidden)
    tile = max(1, _UP_ELEMENTS // columns)
    _UP(
        (rows * top_k * triton.cdiv(inner_dim, tile), 1, 1),
        (x, x if scale is None else scale, experts, gate_up, inner),
        (x.stride(0), held, eps),
        {
            "HIDDEN": hidden,
            "INNER": inner_dim,
            "TOP_K": top_k,
            "HAS_NORM": scale is not None,
            "IS_OAI": is_oai,
            "ROWS": tile,
            "COLUMNS": columns,
        },
        num_warps=_UP_WARPS,
    )


_DOWN = Launcher(_down_kernel, is_dependent=True)


@as_op("moe_few_down", mutates=("out",))
def moe_few_down(
    inner: Tensor,
    experts: Tensor,
    shares: Tensor,
    down: Tensor,
    shared_gate_up: Tensor | None,
    shared_gate: Tensor | None,
    shared_down: Tensor | None,
    residual: Tensor | None,
    out: Tensor,
    *,
    is_oai: bool = False,
) -> None:
    """Write the residual, if any, the experts by their shares and the shared expert, all added up, into `out`.

    Without a shared expert all three of its tensors are None. Rows of shared_gate_up, shared_gate and residual may be
    strided. Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "moe_few_down"
    check_launchable(kernel, "inner", inner)
    if inner.dim() != 3 or down.dim() != 3 or min(*inner.shape[1:], *down.shape) < 1:
        raise ArgumentError(
            f"{kernel}: inner has shape {tuple(inner.shape)} and down {tuple(down.shape)}; "
            "wanted (rows, top_k, inner) and (held, hidden, inner)"
        )
    rows, top_k, inner_dim = inner.shape
    held, hidden = down.shape[:2]
    check_index(kernel, "experts", experts, (rows, top_k), like=inner)
    check_float32(kernel, "shares", shares, (rows, top_k), like=inner)
    for name, tensor, shape in (
        ("inner", inner, (rows, top_k, inner_dim)),
        ("down", down, (held, hidden, inner_dim)),
        ("out", out, (rows, hidden)),
    ):
        check_operand(kernel, name, tensor, shape, like=inner)
        check_contiguous(kernel, name, tensor)
    if residual is not None:
        check_operand(kernel, "residual", residual, (rows, hidden), like=inner)
        check_adjacent(kernel, "residual", residual)
    shared = _check_shared(out, shared_gate_up, shared_gate, shared_down)
    columns = triton.next_power_of_2(inner_dim)
    held_per_row = triton.next_power_of_2(top_k) * columns
    tile = max(1, _DOWN_ELEMENTS // held_per_row)
    _DOWN(
        (triton.cdiv(hidden, tile), rows, 1),
        (
            inner,
            experts,
            shares,
            down,
            inner if shared_gate_up is None else shared_gate_up,
            inner if shared_gate is None else shared_gate,
            inner if shared_down is None else shared_down,
            inner if residual is None else residual,
            out,
        ),
        (
            0 if shared_gate_up is None else shared_gate_up.stride(0),
            0 if shared_gate is None else shared_gate.stride(0),
            0 if residual is None else residual.stride(0),
            held,
        ),
        {
            "HIDDEN": hidden,
            "INNER": inner_dim,
            "SHARED": shared,
            "HAS_GATE": shared_gate is not None,
            "HAS_RESIDUAL": residual is not None,
            "TOP_K": top_k,
            "IS_OAI": is_oai,
            "ROWS": tile,
            "COLUMNS": columns,
            "SHARED_COLUMNS": triton.next_power_of_2(max(1, shared)),
        },
        num_warps=max(_DOWN_WARPS, min(8, tile * held_per_row // 4096)),
    )


def _check_shared(out: Tensor, gate_up: Tensor | None, gate: Tensor | None, down: Tensor | None) -> int:
    """The shared expert's inner dim, 0 if there is none; ArgumentError unless its tensors fit `out`."""
    kernel, (rows, hidden) = "moe_few_down", out.shape
    if gate_up is None or down is None:
        if gate_up is not None or gate is not None or down is not None:
            raise ArgumentError(f"{kernel}: shared_gate_up and shared_down are wanted both or neither")
        return 0
    shared = last_size(down)
    check_operand(kernel, "shared_down", down, (hidden, shared), like=out)
    check_contiguous(kernel, "shared_down", down)
    check_operand(kernel, "shared_gate_up", gate_up, (rows, 2 * shared), like=out)
    check_adjacent(kernel, "shared_gate_up", gate_up)
    if gate is not None:
        check_operand(kernel, "shared_gate", gate, (rows, 1), like=out)
    return shared
