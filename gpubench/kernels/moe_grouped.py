"""The chosen experts of many tokens, an expert's weights read once for all tokens that chose it.

    lists[e] = the pairs p = r · top_k + j with experts[r, j] = e, in order;   counts[e] = how many there are
    inner[p] = silu(gate) ⊙ up,   gate, up = split(W_e · x[r])
    outputs[p] = D_e · inner[p]
    out[r] = residual[r] + Σ over j of shares[r, j] · outputs[r · top_k + j] + σ(z_r) · shared[r]

in four kernels. x, residual, shared, out [rows, hidden]; shared_gate z [rows, 1], without which σ(z) is 1; W = gate_up
[held, 2 · I, hidden], gate rows first; D = down [held, hidden, I]; inner [pairs, I], outputs [pairs, hidden]. All of
these float32, float16 or bfloat16; products go through the tensor cores, sums are float32. experts int32 and shares
float32 [rows, top_k], as moe_route writes them: an expert that isn't held adds nothing, and what belongs to it isn't
read. counts [held] and lists [held, pairs], int32, are scratch.

A weight is the left operand, so that a program has many of its rows and few tokens: what it reads is the weight. An
expert that no token chose costs programs that end at once.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from gpubench.kernels.gpu import gpu_name
from gpubench.kernels.launching import Launcher
from gpubench.kernels.moe_few import activate
from gpubench.kernels.ops import as_op

__all__ = ["moe_group", "moe_grouped_add", "moe_grouped_down", "moe_grouped_up"]


@dataclass(frozen=True)
class Tiling:
    """What a program has of a weight at a time, and what it gets."""

    rows: int
    columns: int
    num_warps: int
    num_stages: int


# By bytes per element: what fits the 99 KiB of shared memory that every GPU since compute capability 8.0 has.
_UP = {2: Tiling(64, 128, 4, 2), 4: Tiling(32, 64, 4, 2)}
_DOWN = {2: Tiling(128, 128, 8, 2), 4: Tiling(32, 64, 4, 2)}

# By GPU, for two bytes: the fastest of seven and of eight for 16 and 64 tokens at hidden 2048 and inner 512. Torch's
# grouped GEMM took 1.4 to 1.6 times as long (2026-11-21).
_MEASURED = {"NVIDIA H200": (Tiling(64, 128, 4, 3), Tiling(128, 128, 8, 3))}

_TOKENS = 16
"""Columns of a product: tokens of one expert."""

_CHUNK = 1024
"""Pairs that are looked through at a time."""


@triton.jit
def _group_kernel(experts_ptr, counts_ptr, lists_ptr, num_pairs, PAIRS: tl.constexpr, IS_DEPENDENT: tl.constexpr):
    expert = tl.program_id(0)
    own_list = lists_ptr + expert.to(tl.int64) * num_pairs
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    count = 0
    for first in range(0, num_pairs, PAIRS):
        pairs = first + tl.arange(0, PAIRS)
        is_own = tl.load(experts_ptr + pairs, mask=pairs < num_pairs, other=-1) == expert
        places = count + tl.cumsum(is_own.to(tl.int32), axis=0) - 1
        tl.store(own_list + places, pairs, mask=is_own)
        count += tl.sum(is_own.to(tl.int32), axis=0)
    tl.store(counts_ptr + expert, count)


@triton.jit
def _up_kernel(
    x_ptr,
    counts_ptr,
    lists_ptr,
    weight_ptr,
    inner_ptr,
    x_stride,
    num_pairs,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    TOP_K: tl.constexpr,
    IS_OAI: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    TILES: tl.constexpr = (INNER + ROWS - 1) // ROWS
    expert = (tl.program_id(0) // TILES).to(tl.int64)
    rows = tl.program_id(0) % TILES * ROWS + tl.arange(0, ROWS)
    is_row = rows < INNER
    columns = tl.arange(0, COLUMNS)
    weights = weight_ptr + expert * (2 * INNER * HIDDEN) + rows[:, None] * HIDDEN + columns[None, :]
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    count = tl.load(counts_ptr + expert)
    for first in range(0, count, TOKENS):
        places = first + tl.arange(0, TOKENS)
        is_token = places < count
        pairs = tl.load(lists_ptr + expert * num_pairs + places, mask=is_token, other=0).to(tl.int64)
        tokens = x_ptr + (pairs // TOP_K)[None, :] * x_stride + columns[:, None]
        gate = tl.zeros((ROWS, TOKENS), tl.float32)
        up = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in tl.range(0, HIDDEN, COLUMNS, num_stages=STAGES):
            inside = start + columns < HIDDEN
            is_weight = is_row[:, None] & inside[None, :]
            gate_weight = tl.load(weights + start, mask=is_weight, other=0.0)
            up_weight = tl.load(weights + INNER * HIDDEN + start, mask=is_weight, other=0.0)
            x = tl.load(tokens + start, mask=inside[:, None] & is_token[None, :], other=0.0)
            gate = tl.dot(gate_weight, x, gate, input_precision="ieee")
            up = tl.dot(up_weight, x, up, input_precision="ieee")
        result = activate(gate, up, IS_OAI).to(inner_ptr.dtype.element_ty)
        target = inner_ptr + pairs[None, :] * INNER + rows[:, None]
        tl.store(target, result, mask=is_row[:, None] & is_token[None, :])


@triton.jit
def _down_kernel(
    inner_ptr,
    counts_ptr,
    lists_ptr,
    weight_ptr,
    outputs_ptr,
    num_pairs,
    HIDDEN: tl.constexpr,
    INNER: tl.constexpr,
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    TILES: tl.constexpr = (HIDDEN + ROWS - 1) // ROWS
    expert = (tl.program_id(0) // TILES).to(tl.int64)
    rows = tl.program_id(0) % TILES * ROWS + tl.arange(0, ROWS)
    is_row = rows < HIDDEN
    columns = tl.arange(0, COLUMNS)
    weights = weight_ptr + expert * (HIDDEN * INNER) + rows[:, None] * INNER + columns[None, :]
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    count = tl.load(counts_ptr + expert)
    for first in range(0, count, TOKENS):
        places = first + tl.arange(0, TOKENS)
        is_token = places < count
        pairs = tl.load(lists_ptr + expert * num_pairs + places, mask=is_token, other=0).to(tl.int64)
        tokens = inner_ptr + pairs[None, :] * INNER + columns[:, None]
        total = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in tl.range(0, INNER, COLUMNS, num_stages=STAGES):
            inside = start + columns < INNER
            weight = tl.load(weights + start, mask=is_row[:, None] & inside[None, :], other=0.0)
            inner = tl.load(tokens + start, mask=inside[:, None] & is_token[None, :], other=0.0)
            total = tl.dot(weight, inner, total, input_precision="ieee")
        target = outputs_ptr + pairs[None, :] * HIDDEN + rows[:, None]
        tl.store(target, total.to(outputs_ptr.dtype.element_ty), mask=is_row[:, None] & is_token[None, :])


@triton.jit
def _add_kernel(
    outputs_ptr,
    experts_ptr,
    shares_ptr,
    residual_ptr,
    shared_ptr,
    shared_gate_ptr,
    out_ptr,
    residual_stride,
    shared_gate_stride,
    held,
    HIDDEN: tl.constexpr,
    TOP_K: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_SHARED: tl.constexpr,
    HAS_GATE: tl.constexpr,
    BLOCK: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    token = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < HIDDEN
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    total = tl.zeros((BLOCK,), tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual_ptr + token * residual_stride + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_SHARED:
        shared = tl.load(shared_ptr + token * HIDDEN + columns, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            shared *= tl.sigmoid(tl.load(shared_gate_ptr + token * shared_gate_stride).to(tl.float32))
        total += shared
    for slot in tl.static_range(TOP_K):
        pair = token * TOP_K + slot
        is_here = tl.load(experts_ptr + pair) < held
        output = tl.load(outputs_ptr + pair * HIDDEN + columns, mask=inside & is_here, other=0.0)
        total += tl.load(shares_ptr + pair) * output.to(tl.float32)
    tl.store(out_ptr + token * HIDDEN + columns, total.to(out_ptr.dtype.element_ty), mask=inside)


_LAUNCH_GROUP = Launcher(_group_kernel, is_dependent=True)


@as_op("moe_group", mutates=("counts", "lists"))
def moe_group(experts: Tensor, counts: Tensor, lists: Tensor) -> None:
    """Write which pairs each held expert has. Neither allocates nor synchronises."""
    kernel, held, pairs = "moe_group", last_size(counts), experts.numel()
    check_index(kernel, "experts", experts, tuple(experts.shape), like=counts)
    check_index(kernel, "counts", counts, (held,), like=experts)
    check_index(kernel, "lists", lists, (held, pairs), like=experts)
    _LAUNCH_GROUP(
        (held, 1, 1),
        (experts, counts, lists),
        (pairs,),
        {"PAIRS": min(_CHUNK, triton.next_power_of_2(pairs))},
        num_warps=1 if pairs <= 256 else 4,
    )


_LAUNCH_UP = Launcher(_up_kernel, is_dependent=True)


@as_op("moe_grouped_up", mutates=("inner",))
def moe_grouped_up(
    x: Tensor, counts: Tensor, lists: Tensor, gate_up: Tensor, inner: Tensor, *, is_oai: bool = False
) -> None:
    """Write each pair's gated inner values; those of experts that aren't held stay as they are.

    Rows of x may be strided. Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "moe_grouped_up"
    pairs, inner_dim, held = _check(kernel, inner, counts, lists)
    rows, hidden = x.shape if x.dim() == 2 else (0, 0)
    if rows < 1 or pairs % rows:
        raise ArgumentError(f"{kernel}: x has shape {tuple(x.shape)}; wanted (a divisor of {pairs}, hidden)")
    check_operand(kernel, "x", x, (rows, hidden), like=inner)
    check_adjacent(kernel, "x", x)
    check_operand(kernel, "gate_up", gate_up, (held, 2 * inner_dim, hidden), like=inner)
    check_contiguous(kernel, "gate_up", gate_up)
    tiling = _choose_tiling(0, x)
    _LAUNCH_UP(
        (held * triton.cdiv(inner_dim, tiling.rows), 1, 1),
        (x, counts, lists, gate_up, inner),
        (x.stride(0), pairs),
        {
            "HIDDEN": hidden,
            "INNER": inner_dim,
            "TOP_K": pairs // rows,
            "IS_OAI": is_oai,
            "TOKENS": _TOKENS,
            "ROWS": tiling.rows,
            "COLUMNS": tiling.columns,
            "STAGES": tiling.num_stages,
        },
        num_warps=tiling.num_warps,
    )


_LAUNCH_DOWN = Launcher(_down_kernel, is_dependent=True)


@as_op("moe_grouped_down", mutates=("outputs",))
def moe_grouped_down(inner: Tensor, counts: Tensor, lists: Tensor, down: Tensor, outputs: Tensor) -> None:
    """Write each pair's output; those of experts that aren't held stay as they are.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "moe_grouped_down"
    pairs, inner_dim, held = _check(kernel, inner, counts, lists)
    hidden = last_size(outputs)
    for name, tensor, shape in (
        ("outputs", outputs, (pairs, hidden)),
        ("down", down, (held, hidden, inner_dim)),
    ):
        check_operand(kernel, name, tensor, shape, like=inner)
        check_contiguous(kernel, name, tensor)
    tiling = _choose_tiling(1, inner)
    _LAUNCH_DOWN(
        (held * triton.cdiv(hidden, tiling.rows), 1, 1),
        (inner, counts, lists, down, outputs),
        (pairs,),
        {
            "HIDDEN": hidden,
            "INNER": inner_dim,
            "TOKENS": _TOKENS,
            "ROWS": tiling.rows,
            "COLUMNS": tiling.columns,
            "STAGES": tiling.num_stages,
        },
        num_warps=tiling.num_warps,
    )


_LAUNCH_ADD = Launcher(_add_kernel, is_dependent=True)


@as_op("moe_grouped_add", mutates=("out",))
def moe_grouped_add(
    outputs: Tensor,
    experts: Tensor,
    shares: Tensor,
    residual: Tensor | None,
    shared: Tensor | None,
    shared_gate: Tensor | None,
    out: Tensor,
    *,
    held: int,
) -> None:
    """Write the residual, the outputs of the first `held` experts by their shares and the shared expert's into `out`.

    Without residual or shared expert their tensors are None. Rows of residual and shared_gate may be strided. Neither
    allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "moe_grouped_add"
    check_launchable(kernel, "outputs", outputs)
    rows, hidden = out.shape if out.dim() == 2 else (0, 0)
    top_k = last_size(experts)
    check_operand(kernel, "outputs", outputs, (rows * top_k, hidden), like=out)
    check_index(kernel, "experts", experts, (rows, top_k), like=out)
    check_float32(kernel, "shares", shares, (rows, top_k), like=out)
    if residual is not None:
        check_operand(kernel, "residual", residual, (rows, hidden), like=out)
        check_adjacent(kernel, "residual", residual)
    if shared is not None:
        check_operand(kernel, "shared", shared, (rows, hidden), like=out)
        check_contiguous(kernel, "shared", shared)
    if shared_gate is not None:
        check_operand(kernel, "shared_gate", shared_gate, (rows, 1), like=out)
    for name, tensor in (("outputs", outputs), ("out", out)):
        check_contiguous(kernel, name, tensor)
    block = min(1024, triton.next_power_of_2(hidden))
    _LAUNCH_ADD(
        (triton.cdiv(hidden, block), rows, 1),
        (
            outputs,
            experts,
            shares,
            *[outputs if tensor is None else tensor for tensor in (residual, shared, shared_gate)],
            out,
        ),
        (
            0 if residual is None else residual.stride(0),
            0 if shared_gate is None else shared_gate.stride(0),
            held,
        ),
        {
            "HIDDEN": hidden,
            "TOP_K": top_k,
            "HAS_RESIDUAL": residual is not None,
            "HAS_SHARED": shared is not None,
            "HAS_GATE": shared_gate is not None,
            "BLOCK": block,
        },
        num_warps=4,
    )


def _choose_tiling(which: int, x: Tensor) -> Tiling:
    """The tiling of the first or second product, 0 or 1."""
    if x.element_size() == 2 and gpu_name() in _MEASURED:
        return _MEASURED[gpu_name()][which]
    return (_UP, _DOWN)[which][x.element_size()]


def _check(kernel: str, inner: Tensor, counts: Tensor, lists: Tensor) -> tuple[int, int, int]:
    """Pairs, inner dim and held experts; ArgumentError unless the lists fit `inner`."""
    check_launchable(kernel, "inner", inner)
    if inner.dim() != 2 or min(inner.shape) < 1:
        raise ArgumentError(f"{kernel}: inner has shape {tuple(inner.shape)}; wanted (pairs, inner)")
    pairs, inner_dim = inner.shape
    held = last_size(counts)
    check_contiguous(kernel, "inner", inner)
    check_index(kernel, "counts", counts, (held,), like=inner)
    check_index(kernel, "lists", lists, (held, pairs), like=inner)
    return pairs, inner_dim, held
