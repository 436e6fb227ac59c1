"""Which experts a router's logits choose for each token, and by what shares, in one kernel.

    s = softmax(z) or σ(z);  wanted = s + bias, −∞ outside the `top_groups` groups whose two best add up to the most
    experts[r] = the `top_k` largest of wanted[r], largest first, the lower index first where two tie
    shares[r] = scale · s / Σ s over the chosen

logits z [rows, E], float32, float16 or bfloat16; bias [E], float32, or None; experts int32 and shares float32
[rows, top_k]. As gpubench.models.moe has it, but that softmax's order is taken of z itself where there is no bias, so
that what underflows doesn't tie.

A program has a row. Each round takes the largest of keys that hold the wanted value above the index: one reduction, and
where the order is that of 16-bit logits themselves, an instruction.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_index, check_launchable, last_size
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.gated_delta_arguments import check_float32
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["MAX_EXPERTS", "moe_route"]

MAX_EXPERTS = 4096


@triton.jit
def _best_two(wanted):
    """The sum of the two largest of each row of wanted [groups, size]; a row of one has that alone."""
    best = tl.max(wanted, axis=1)
    place = tl.argmax(wanted, axis=1)
    others = tl.where(tl.arange(0, wanted.shape[1])[None, :] == place[:, None], float("-inf"), wanted)
    second = tl.max(others, axis=1)
    return best + tl.where(second == float("-inf"), 0.0, second)


@triton.jit
def _key(value, index, IS_NARROW: tl.constexpr):
    """Integers in the order of (value, −index); a zero's sign doesn't count. Narrow ones are of values of 16 bits."""
    value = tl.where(value == 0, 0.0, value)
    if IS_NARROW:
        bits = value.to(tl.int16, bitcast=True).to(tl.int32)
        key = (tl.where(bits < 0, bits ^ 0x7FFF, bits) << 16) | (0xFFFF - index)
    else:
        bits = value.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) << 32
        key |= (0x7FFFFFFF - index).to(tl.int64)
    return key


@triton.jit
def _route_kernel(
    logits_ptr,
    bias_ptr,
    experts_ptr,
    shares_ptr,
    logits_stride,
    scale,
    IS_SIGMOID: tl.constexpr,
    IS_SOFTMAX: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IS_NARROW: tl.constexpr,
    GROUPS: tl.constexpr,
    TOP_GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    IS_DEPENDENT: tl.constexpr,
):
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    LEAST: tl.constexpr = -(1 << 31) if IS_NARROW else -(1 << 63)
    INDEX: tl.constexpr = 0xFFFF if IS_NARROW else 0x7FFFFFFF  # its bits in a key
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK_GROUPS)
    member = tl.arange(0, BLOCK_SIZE)
    index = group[:, None] * SIZE + member[None, :]
    inside = (group < GROUPS)[:, None] & (member < SIZE)[None, :]
    own = logits_ptr + row * logits_stride
    logit = tl.load(own + index, mask=inside, other=float("-inf"))
    wanted = logit.to(tl.float32)
    top = tl.max(tl.max(wanted, axis=1), axis=0)
    order = logit if IS_NARROW else wanted
    if IS_SIGMOID:
        wanted = tl.sigmoid(wanted)
        order = wanted
    if IS_SOFTMAX:
        wanted = tl.exp(wanted - top)
        wanted /= tl.sum(tl.sum(wanted, axis=1), axis=0)
    if HAS_BIAS:
        wanted += tl.load(bias_ptr + index, mask=inside, other=0.0)
        order = wanted
    keys = tl.where(inside, _key(order, index, IS_NARROW), LEAST)
    if TOP_GROUPS < GROUPS:
        best = _best_two(tl.where(inside, wanted, float("-inf")))
        group_keys = tl.where(group < GROUPS, _key(best, group, False), -(1 << 63))
        is_open = group < 0
        for _ in tl.static_range(TOP_GROUPS):
            best_key = tl.max(group_keys, axis=0)
            is_open |= group_keys == best_key
            group_keys = tl.where(group_keys == best_key, -(1 << 63), group_keys)
        keys = tl.where(is_open[:, None], keys, LEAST)

    slot = tl.arange(0, BLOCK_K)
    chosen = tl.zeros((BLOCK_K,), tl.int32)
    for turn in tl.static_range(TOP_K):
        largest = tl.max(tl.max(keys, axis=1), axis=0)
        found = INDEX - (largest & INDEX).to(tl.int32)
        chosen = tl.where(slot == turn, found, chosen)
        keys = tl.where(keys == largest, LEAST, keys)
    is_slot = slot < TOP_K
    score = tl.load(own + chosen, mask=is_slot, other=0.0).to(tl.float32)
    score = tl.sigmoid(score) if IS_SIGMOID else tl.exp(score - top)
    score = tl.where(is_slot, score, 0.0)
    share = scale * score / (tl.sum(score, axis=0) + 1e-20)
    tl.store(experts_ptr + row * TOP_K + slot, chosen, mask=is_slot)
    tl.store(shares_ptr + row * TOP_K + slot, share, mask=is_slot)


_LAUNCH = Launcher(_route_kernel, is_dependent=True)


@as_op("moe_route", mutates=("experts", "shares"))
def moe_route(
    logits: Tensor,
    bias: Tensor | None,
    experts: Tensor,
    shares: Tensor,
    *,
    is_sigmoid: bool = False,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> None:
    """Write each row's chosen experts and their shares.

    Rows of logits may be strided. Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    kernel = "moe_route"
    check_launchable(kernel, "logits", logits)
    if logits.dim() != 2 or not 1 <= logits.shape[1] <= MAX_EXPERTS:
        raise ArgumentError(f"{kernel}: logits has shape {tuple(logits.shape)}; wanted (rows, 1 to {MAX_EXPERTS})")
    check_adjacent(kernel, "logits", logits)
    rows, total = logits.shape
    if bias is not None:
        check_float32(kernel, "bias", bias, (total,), like=logits)
    if groups < 1 or total % groups or not 1 <= top_groups <= groups:
        raise ArgumentError(f"{kernel}: {top_groups} of {groups} groups of {total} experts can't be had")
    top_k, size = last_size(experts), total // groups
    if not 1 <= top_k <= size * top_groups:
        raise ArgumentError(
            f"{kernel}: experts has shape {tuple(experts.shape)}; {size * top_groups} can be chosen from"
        )
    check_index(kernel, "experts", experts, (rows, top_k), like=logits)
    check_float32(kernel, "shares", shares, (rows, top_k), like=logits)
    block_groups, block_size = triton.next_power_of_2(groups), triton.next_power_of_2(size)
    _LAUNCH(
        (rows, 1, 1),
        (logits, logits if bias is None else bias, experts, shares),
        (logits.stride(0), scale),
        {
            "IS_SIGMOID": is_sigmoid,
            "IS_SOFTMAX": not is_sigmoid and (bias is not None or top_groups < groups),  # itself, not its order alone
            "HAS_BIAS": bias is not None,
            "IS_NARROW": logits.element_size() == 2 and not is_sigmoid and bias is None,
            "GROUPS": groups,
            "TOP_GROUPS": top_groups,
            "SIZE": size,
            "TOP_K": top_k,
            "BLOCK_GROUPS": block_groups,
            "BLOCK_SIZE": block_size,
            "BLOCK_K": triton.next_power_of_2(top_k),
        },
        num_warps=max(1, min(8, block_groups * block_size // 512)),
    )
