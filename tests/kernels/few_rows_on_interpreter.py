"""What runs in the interpreter's process: the kernels of a decode step's few rows, and how far each is from fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def distance(out, ref):
    """‖out − ref‖ / ‖ref‖; NaN where an output is."""
    ref = ref.double()
    return ((out.double() - ref).norm() / ref.norm().clamp(min=1e-30)).item()


@dataclass(frozen=True)
class Attention:
    """One sequence of each of `lengths`, in a cache of the longest and `spare` tokens."""

    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    kv_heads: int = 2
    group: int = 2
    dim: int = 16
    splits: int | None = None
    spare: int = 1


def attention_error(case):
    """The largest error of a sequence; beyond the lengths there is NaN, as in scratch and output at first."""
    from gpubench.kernels.gqa_decode import gqa_decode
    from gpubench.kernels.mla_merge import scratch_elements

    torch.manual_seed(0)
    batch, heads, capacity = len(case.lengths), case.kv_heads * case.group, max(1, *case.lengths) + case.spare
    shape = (batch, case.kv_heads, capacity, case.dim)
    keys, values = (torch.randn(shape).to(case.dtype) for _ in range(2))
    for row, length in enumerate(case.lengths):
        keys[row, :, length:] = values[row, :, length:] = float("nan")
    q = (3 * torch.randn(batch, heads + 1, case.dim)).to(case.dtype)[:, :heads]  # rows may be strided
    out = torch.full((batch, heads, case.dim), float("nan"), dtype=case.dtype)
    scratch = torch.full((scratch_elements(batch, heads, case.dim, case.splits or 1),), float("nan"))
    lengths = torch.tensor(case.lengths, dtype=torch.int32)
    gqa_decode(q, keys, values, lengths, out, scratch, softmax_scale=0.3, splits=case.splits)
    errors = []
    for row, length in enumerate(case.lengths):
        if length == 0:
            errors.append(out[row].abs().max().item())
            continue
        own = q[row].double().view(case.kv_heads, case.group, case.dim)
        weights = (own @ keys[row, :, :length].double().mT * 0.3).softmax(dim=-1)
        errors.append(distance(out[row], (weights @ values[row, :, :length].double()).flatten(0, 1)))
    return max(errors)


def refuse_attention(changes):
    """What gqa_decode says of arguments of which some are others; it launches nothing."""
    from gpubench.kernels.gqa_decode import gqa_decode

    cache = (2, 2, 8, 16)
    tensors = {
        "q": torch.zeros(2, 4, 16),
        "keys": torch.zeros(cache),
        "values": torch.zeros(cache),
        "lengths": torch.ones(2, dtype=torch.int32),
        "out": torch.zeros(2, 4, 16),
        "scratch": torch.zeros(2 * 2 * 4 * 17),
        "splits": 2,
        **changes,
    }
    gqa_decode(**tensors, softmax_scale=1.0)


@dataclass(frozen=True)
class Heads:
    """What gqa_inputs is given: the position of each sequence's token, and heads' shapes."""

    positions: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    heads: int = 4
    kv_heads: int = 2
    between: int = 0
    dim: int = 16
    half: int = 4
    is_normed: bool = True
    capacity: int = 8


def rotate_in_double(x, angles):
    """The first dims of x [heads, dim] as complex numbers (i, i + half), turned."""
    half = len(angles)
    turned = torch.complex(x[:, :half], x[:, half : 2 * half]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, x[:, 2 * half :]), dim=1)


def heads_error(case):
    """The largest error of query and cache, the cache's other positions included, which must stay as they were."""
    from gpubench.kernels.gqa_inputs import gqa_inputs

    torch.manual_seed(0)
    batch, dim = len(case.positions), case.dim
    width = (case.heads + case.between + 2 * case.kv_heads) * dim
    projected = torch.randn(batch, width + 3).to(case.dtype)[:, :width]  # rows may be strided
    scales = [(1 + torch.randn(dim) / 4).to(case.dtype) if case.is_normed else None for _ in range(2)]
    angles = torch.randn(case.capacity, case.half, dtype=torch.float64)
    rotary = torch.stack((angles.cos(), angles.sin()), dim=1).float()
    keys, values = (torch.randn(batch, case.kv_heads, case.capacity, dim).to(case.dtype) for _ in range(2))
    query = torch.zeros(batch, case.heads, dim, dtype=case.dtype)
    wanted = [tensor.double() for tensor in (query, keys, values)]
    for row, position in enumerate(case.positions):
        if not 0 <= position < case.capacity:
            continue
        heads = projected[row].double().view(-1, dim)
        parts = [heads[: case.heads], heads[-2 * case.kv_heads : -case.kv_heads]]
        if case.is_normed:
            parts = [
                part * (part.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt() * scale.double()
                for part, scale in zip(parts, scales, strict=True)
            ]
        wanted[0][row] = rotate_in_double(parts[0], angles[position])
        wanted[1][row, :, position] = rotate_in_double(parts[1], angles[position])
        wanted[2][row, :, position] = heads[-case.kv_heads :]
    gqa_inputs(
        projected,
        *scales,
        rotary,
        torch.tensor(case.positions, dtype=torch.int32),
        query,
        keys,
        values,
        eps=1e-6,
    )
    return max(distance(*pair) for pair in zip((query, keys, values), wanted, strict=True))


def route_both(logits, bias, options, dtype):
    """Experts and shares by the kernel and by torch's formula, each [rows, top_k]."""
    from gpubench.kernels.moe_route import moe_route
    from gpubench.models.moe import MoeShape, route

    shape = MoeShape(experts=len(logits[0]), intermediate=1, shared_intermediate=1, **options)
    logits = torch.tensor(logits).to(dtype)
    bias = torch.tensor(bias) if shape.has_bias else None
    experts = torch.full((len(logits), shape.top_k), -1, dtype=torch.int32)
    shares = torch.full(experts.shape, float("nan"))
    moe_route(
        logits,
        bias,
        experts,
        shares,
        is_sigmoid=shape.scoring == "sigmoid",
        groups=shape.groups,
        top_groups=shape.top_groups,
        scale=shape.scale,
    )
    wanted, wanted_shares = route(logits, shape, bias)
    return (experts.tolist(), shares.tolist()), (wanted.tolist(), wanted_shares.float().tolist())
