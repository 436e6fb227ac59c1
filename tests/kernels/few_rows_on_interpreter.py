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
    from gpubench.kernels.gqa_decode import choose_splits, gqa_decode
    from gpubench.kernels.mla_merge import scratch_elements

    torch.manual_seed(0)
    batch, heads, capacity = len(case.lengths), case.kv_heads * case.group, max(1, *case.lengths) + case.spare
    shape = (batch, case.kv_heads, capacity, case.dim)
    keys, values = (torch.randn(shape).to(case.dtype) for _ in range(2))
    for row, length in enumerate(case.lengths):
        keys[row, :, length:] = values[row, :, length:] = float("nan")
    q = (3 * torch.randn(batch, heads + 1, case.dim)).to(case.dtype)[:, :heads]  # rows may be strided
    out = torch.full((batch, heads, case.dim), float("nan"), dtype=case.dtype)
    splits = case.splits or choose_splits(batch, case.kv_heads, capacity)
    scratch = torch.full((scratch_elements(batch, heads, case.dim, splits),), float("nan"))
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


def run_grouped(case, x, routing, weights, added, out):
    """`added` are what stands beside the experts: residual, shared expert's outputs, its gate."""
    from gpubench.kernels.moe_grouped import moe_group, moe_grouped_add, moe_grouped_down, moe_grouped_up

    experts, shares = routing
    gate_up, down = weights
    pairs = experts.numel()
    counts, lists = (torch.full(shape, -1, dtype=torch.int32) for shape in ((case.held,), (case.held, pairs)))
    inner, outputs = (torch.full((pairs, width), float("nan"), dtype=case.dtype) for width in (case.inner, case.hidden))
    moe_group(experts, counts, lists)
    moe_grouped_up(x, counts, lists, gate_up, inner, is_oai=case.is_oai)
    moe_grouped_down(inner, counts, lists, down, outputs)
    moe_grouped_add(outputs, experts, shares, *added, out, held=case.held)


def route_both(logits, bias, options, dtype):
    """Experts and shares by the kernel and by torch's formula, each [rows, top_k]."""
    from gpubench.kernels.moe_route import moe_route
    from gpubench.models.moe import MoeShape, route

    shape = MoeShape(experts=len(logits[0]), intermediate=1, shared_intermediate=1, **options)
    logits = torch.as_tensor(logits).to(dtype)
    bias = torch.as_tensor(bias) if shape.has_bias else None
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


def route_with_bias(logits, bias, top_k):
    """Experts and shares by the kernel, of softmax and a bias, which no model of ours has together."""
    from gpubench.kernels.moe_route import moe_route

    experts = torch.full((len(logits), top_k), -1, dtype=torch.int32)
    shares = torch.full(experts.shape, float("nan"))
    moe_route(torch.tensor(logits), torch.tensor(bias), experts, shares)
    return experts.tolist(), shares.tolist()


@dataclass(frozen=True)
class Layer:
    """A linear layer of linear_few, for `rows` of `inputs` each; `group` is that of gated_norm."""

    before: str
    rows: int = 1
    inputs: int = 64
    outputs: int = 20
    group: int = 16
    dtype: torch.dtype = torch.float32
    has_residual: bool = False


def normed(x, scale):
    """RMSNorm over groups as long as `scale`."""
    groups = x.view(*x.shape[:-1], -1, len(scale))
    return (groups * (groups.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt() * scale).view_as(x)


def silu(x):
    return x * x.sigmoid()


def activate(gate_up, is_oai):
    gate, up = gate_up.chunk(2, dim=-1)
    if is_oai:
        gate, up = gate.clamp(max=7), up.clamp(-7, 7)
        return (up + 1) * gate * (1.702 * gate).sigmoid()
    return silu(gate) * up


BEFORE = {
    "nothing": lambda x, _scale, _gate: x,
    "norm": lambda x, scale, _gate: normed(x, scale),
    "gated_norm": lambda x, scale, gate: normed(x, scale) * silu(gate),
    "sigmoid_gate": lambda x, _scale, gate: x * gate.sigmoid(),
    "silu_gate": lambda x, _scale, gate: x * silu(gate),
}


def layer_error(case):
    from gpubench.kernels.linear_few import linear_few, prepare_rows

    torch.manual_seed(0)
    wide = torch.randn(case.rows, 2 * case.inputs + 5).to(case.dtype)  # rows may be strided
    x, gate = wide[:, : case.inputs], wide[:, case.inputs : 2 * case.inputs]
    weight = (torch.randn(case.outputs, case.inputs) * case.inputs**-0.5).to(case.dtype)
    length = {"norm": case.inputs, "gated_norm": case.group}.get(case.before)
    scale = None if length is None else (1 + torch.randn(length) / 4).to(case.dtype)
    residual = torch.randn(case.rows, case.outputs).to(case.dtype) if case.has_residual else None
    out = torch.full((case.rows, case.outputs + 2), float("nan"), dtype=case.dtype)[:, : case.outputs]
    has_gate = case.before in {"gated_norm", "sigmoid_gate", "silu_gate"}
    linear_few(x, weight, out, scale, gate if has_gate else None, residual, before=case.before, eps=1e-6)
    doubled = (None if tensor is None else tensor.double() for tensor in (x, scale, gate))
    prepared = BEFORE[case.before](*doubled)
    want = prepared @ weight.double().T
    alone = torch.full_like(wide, float("nan"))[:, : case.inputs]
    prepare_rows(x, alone, scale, gate if has_gate else None, before=case.before, eps=1e-6)
    return max(distance(alone, prepared), distance(out, want if residual is None else want + residual))


@dataclass(frozen=True)
class Experts:
    """A layer's experts for `rows` tokens, of which this rank holds the first `held`."""

    rows: int = 1
    experts: int = 6
    held: int = 6
    top_k: int = 2
    hidden: int = 32
    inner: int = 16
    shared: int = 16
    has_gate: bool = True
    dtype: torch.dtype = torch.float32
    all_same: bool = False
    is_oai: bool = False
    is_grouped: bool = False


def experts_error(case):
    """The error of all that a layer's experts add to x, with NaN where nothing was written yet."""
    torch.manual_seed(0)
    x = (2 * torch.randn(case.rows, case.hidden + 3)).to(case.dtype)[:, : case.hidden]
    scale = (1 + torch.randn(case.hidden) / 4).to(case.dtype)
    gate_up = (torch.randn(case.held, 2 * case.inner, case.hidden) * case.hidden**-0.5).to(case.dtype)
    down = (torch.randn(case.held, case.hidden, case.inner) * case.inner**-0.5).to(case.dtype)
    experts = torch.rand(case.rows, case.experts).argsort(dim=-1)[:, : case.top_k].to(torch.int32).contiguous()
    if case.all_same:
        experts = experts[:1].repeat(case.rows, 1)
    shares = torch.rand(case.rows, case.top_k)
    shared, gate, shared_down = None, None, None
    if case.shared:
        joint = torch.randn(case.rows, 2 * case.shared + 1).to(case.dtype)
        shared, gate = joint[:, 1:], joint[:, :1] if case.has_gate else None
        shared_down = (torch.randn(case.hidden, case.shared) * case.shared**-0.5).to(case.dtype)
    out = torch.full((case.rows, case.hidden), float("nan"), dtype=case.dtype)
    if case.is_grouped:
        after = normed(x.double(), scale.double()).to(case.dtype)
        alone = None if shared is None else activate(shared, case.is_oai) @ shared_down.T
        run_grouped(case, after, (experts, shares), (gate_up, down), (x, alone, gate), out)
    else:
        from gpubench.kernels.moe_few import moe_few_down, moe_few_up

        inner = torch.full((case.rows, case.top_k, case.inner), float("nan"), dtype=case.dtype)
        moe_few_up(x, scale, experts, gate_up, inner, is_oai=case.is_oai, eps=1e-6)
        moe_few_down(inner, experts, shares, down, shared, gate, shared_down, x, out, is_oai=case.is_oai)

    want = x.double().clone()
    after = normed(want, scale.double())
    for row in range(case.rows):
        for expert, share in zip(experts[row].tolist(), shares[row].tolist(), strict=True):
            if expert < case.held:
                found = down[expert].double() @ activate(gate_up[expert].double() @ after[row], case.is_oai)
                want[row] += share * found
    if shared is not None:
        factor = 1.0 if gate is None else gate.double().sigmoid()
        want += factor * (activate(shared.double(), case.is_oai) @ shared_down.double().T)
    return distance(out, want)


def model_error(options, rows, others, dtype=torch.float32):
    """How far a whole layer of experts with our kernels is from the same with torch's operators."""
    from gpubench.models.moe import MixtureOfExperts, MoeShape

    torch.manual_seed(0)
    shape, hidden = MoeShape(experts=12, intermediate=16, **options), 32
    ours, theirs = (MixtureOfExperts(shape, hidden, dtype, which) for which in ("triton", "torch"))
    theirs.load_state_dict(ours.state_dict())
    x, scale = torch.randn(rows, hidden).to(dtype), (1 + torch.randn(hidden) / 4).to(dtype)
    received = torch.randn(others, hidden).to(dtype) if others else None
    added = [moe.add(x, scale, 1e-6, received) - x for moe in (ours, theirs)]
    forwarded = [moe(x, received) for moe in (ours, theirs)]
    return max(distance(*added), distance(*forwarded))
