"""What runs in the interpreter's process: tokens through the gated delta kernels, beside formulas in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpubench.models.gated_delta_formulas import advance, scan

BORDER = 7.0


@dataclass(frozen=True)
class Heads:
    """The sizes of one test's heads."""

    key_heads: int = 1
    heads: int = 2
    k: int = 16
    v: int = 32


SMALL = Heads()


def relative_error(out, reference):
    """‖out − ref‖ / ‖ref‖; of a zero reference, ‖out‖."""
    norm = reference.norm()
    return ((out.double() - reference).norm() / (norm or 1.0)).item()


def draw_tokens(count, dtype, sizes=SMALL, seed=0):
    """q, k, v, g and beta as a layer makes them, of tokens that fade little or much."""
    torch.manual_seed(seed)
    q, k = F.normalize(torch.randn(2, count, sizes.key_heads, sizes.k), dim=-1).to(dtype)
    v = torch.randn(count, sizes.heads, sizes.v).to(dtype)
    return [q, k, v, -3 * torch.rand(count, sizes.heads) ** 4, torch.rand(count, sizes.heads)]


def draw_state(sequences, sizes=SMALL):
    return torch.randn(sequences, sizes.heads, sizes.k, sizes.v)


def bordered(like):
    """A tensor of that shape and dtype to write into, whose memory goes on behind it: `(view, behind)`."""
    memory = torch.full((like.numel() + 64,), BORDER, dtype=like.dtype)
    return memory[: like.numel()].view(like.shape), memory[like.numel() :]


def decode(token, state, block_v=None):
    from gpubench.kernels.gated_delta_decode import gated_delta_decode

    out, behind = bordered(token[2])
    gated_delta_decode(*token, state, out, block_v=block_v)
    assert (behind == BORDER).all(), "nothing is written beyond the output"
    return out


def prefill(tokens, state, lengths, block_v=None):
    from gpubench.kernels.gated_delta_prefill import gated_delta_prefill, scratch_shapes

    v = tokens[2]
    (rows, rows_behind), (gates, gates_behind) = (
        bordered(torch.empty(shape, dtype=dtype))
        for shape, dtype in zip(scratch_shapes(*v.shape[:2], *state.shape[2:]), (v.dtype, torch.float32), strict=True)
    )
    out, behind = bordered(v)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    gated_delta_prefill(*tokens, bounds, state, out, rows, gates, longest=max(lengths), block_v=block_v)
    for rest in (behind, rows_behind, gates_behind):
        assert (rest == BORDER).all(), "nothing is written beyond outputs and scratch"
    return out


def decode_errors(steps, batch, dtype, sizes, block_v=None):
    """How far outputs (the worst of them) and state are from fp64's, after so many tokens."""
    torch.manual_seed(1)
    state = draw_state(batch, sizes)
    exact, worst = state.double(), 0.0
    for step in range(steps):
        token = draw_tokens(batch, dtype, sizes, seed=step)
        out = decode(token, state, block_v)
        reference, exact = advance(*token, exact)
        worst = max(worst, relative_error(out, reference))
    return worst, relative_error(state, exact)


def prefill_errors(lengths, dtype, sizes=SMALL, block_v=None, change=None):
    """How far outputs and states are from a scan's in fp64; `change(tokens)` may make them special first."""
    tokens = draw_tokens(sum(lengths), dtype, sizes, seed=sum(lengths))
    if change is not None:
        tokens = change(*tokens)
    state = draw_state(len(lengths), sizes)
    reference, exact = scan(tokens, state.double(), lengths)
    out = prefill(tokens, state, lengths, block_v)
    return relative_error(out, reference), relative_error(state, exact)


def split_errors(parts, decoded):
    """How far one long scan is from prefills of `parts` tokens, one after the other, and `decoded` single tokens."""
    total = sum(parts) + decoded
    tokens = draw_tokens(total, torch.float32, seed=total)
    state = draw_state(1)
    reference, exact = scan(tokens, state.double(), [total])
    begin, outputs = 0, []
    for part in (*parts, *[1] * decoded):
        piece = [rows[begin : begin + part] for rows in tokens]
        begin += part
        outputs.append(decode(piece, state) if begin > sum(parts) else prefill(piece, state, [part]))
    return relative_error(torch.cat(outputs), reference), relative_error(state, exact)


def zero_keys(q, k, v, g, beta):
    return [q, k * 0, v, g, beta]


def equal_keys(q, k, v, g, beta):
    """All alike, nothing fades, everything is replaced: where powers of A grow fastest."""
    return [q, k[:1].expand_as(k).contiguous(), v, g * 0, beta * 0 + 1]


def closed_gates(q, k, v, g, beta):
    return [q, k, v, g, beta * 0]


def open_gates(q, k, v, g, beta):
    return [q, k, v, g * 0, beta * 0 + 1]


def forgetful(q, k, v, g, beta):
    """Some tokens forget everything, others nothing."""
    return [q, k, v, torch.where(g < -0.5, -torch.inf, 0.0), beta]


SPECIAL = {change.__name__: change for change in (zero_keys, equal_keys, closed_gates, open_gates, forgetful)}


def special_errors(name, dtype, lengths):
    return prefill_errors(lengths, dtype, change=SPECIAL[name])


def special_decode_errors(name, dtype):
    token = SPECIAL[name](*draw_tokens(3, dtype))
    state = draw_state(3)
    reference, exact = advance(*token, state.double())
    return relative_error(decode(token, state), reference), relative_error(state, exact)


@dataclass(frozen=True)
class Layer:
    """A layer's weights around the recurrence, and the projected tokens of a whole prompt."""

    mixed: Tensor
    a: Tensor
    b: Tensor
    conv_weight: Tensor
    a_log: Tensor
    dt_bias: Tensor


def draw_layer(tokens, batch, dtype, sizes, taps):
    torch.manual_seed(tokens)
    channels = 2 * sizes.key_heads * sizes.k + sizes.heads * sizes.v
    a, b = torch.randn(2, tokens, batch, sizes.heads).to(dtype)
    return Layer(
        mixed=torch.randn(tokens, batch, channels).to(dtype),
        a=a,
        b=b,
        conv_weight=torch.randn(channels, taps).to(dtype),
        a_log=torch.rand(sizes.heads),
        dt_bias=torch.randn(sizes.heads),
    )


def layer_in_fp64(layer, state, sizes):
    """The layer over the whole prompt by its textbook form: convolve all, then scan."""
    tokens, batch, channels = layer.mixed.shape
    weight = layer.conv_weight.double()[:, None]
    padded = F.pad(layer.mixed.double().permute(1, 2, 0), (weight.shape[-1] - 1, 0))
    convolved = F.silu(F.conv1d(padded, weight, groups=channels)).transpose(1, 2)  # [batch, tokens, channels]
    width = sizes.key_heads * sizes.k
    q, k, v = convolved.split([width, width, sizes.heads * sizes.v], dim=-1)
    q, k = (part.reshape(batch * tokens, sizes.key_heads, sizes.k) for part in (q, k))
    q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    a, b = (gate.double().transpose(0, 1).reshape(batch * tokens, sizes.heads) for gate in (layer.a, layer.b))
    g = -layer.a_log.double().exp() * torch.log1p((a + layer.dt_bias.double()).exp())
    v = v.reshape(batch * tokens, sizes.heads, sizes.v)
    out, state = scan([q, k, v, g, 1 / (1 + (-b).exp())], state.double(), [tokens] * batch)
    return out.view(batch, tokens, sizes.heads, sizes.v).transpose(0, 1), state


def layer_errors(tokens, batch, dtype, sizes, taps):
    """A prompt through the fused step token by token, from an empty ring, beside the textbook form in fp64."""
    from gpubench.kernels.gated_delta_step import gated_delta_step

    layer, state = draw_layer(tokens, batch, dtype, sizes, taps), draw_state(batch, sizes)
    reference, exact = layer_in_fp64(layer, state, sizes)
    ring = layer.mixed.new_zeros(batch, taps, layer.mixed.shape[2])
    weights = layer.conv_weight, layer.a_log, layer.dt_bias
    out = layer.mixed.new_empty(tokens, batch, sizes.heads, sizes.v)
    for token in range(tokens):
        positions = torch.full((batch,), token, dtype=torch.int32)
        gated_delta_step(
            layer.mixed[token],
            ring,
            weights[0],
            positions,
            layer.a[token],
            layer.b[token],
            *weights[1:],
            state,
            out[token],
            is_settled=token % 2 == 0,
        )
    return relative_error(out, reference), relative_error(state, exact)


def step_of_zeros():
    """The fused step for a token of zeros and an empty ring: the output and what is left of a state of ones."""
    from gpubench.kernels.gated_delta_step import gated_delta_step

    sizes, zero = SMALL, torch.zeros(1, 2)
    channels = 2 * sizes.key_heads * sizes.k + sizes.heads * sizes.v
    state, out = torch.ones(1, sizes.heads, sizes.k, sizes.v), torch.full((1, sizes.heads, sizes.v), torch.nan)
    mixed, ring, weight = torch.zeros(1, channels), torch.zeros(1, 4, channels), torch.ones(channels, 4)
    positions = torch.zeros(1, dtype=torch.int32)
    gated_delta_step(mixed, ring, weight, positions, zero, zero, torch.zeros(2), torch.zeros(2), state, out)
    return out, state


def call(name, change):
    """Launch by name with good arguments, less those that `change` replaces."""
    import importlib

    launcher = getattr(importlib.import_module(f"gpubench.kernels.{name}"), name)
    launcher(**{**good_arguments(name), **change})


def good_arguments(name):
    """Small arguments that a launcher takes, by name."""
    tokens, sizes = dict(zip(("q", "k", "v", "g", "beta"), draw_tokens(3, torch.float32), strict=True)), SMALL
    if name == "gated_delta_decode":
        return {**tokens, "state": draw_state(3), "out": torch.empty(3, sizes.heads, sizes.v)}
    if name == "gated_delta_prefill":
        from gpubench.kernels.gated_delta_prefill import scratch_shapes

        rows, gates = scratch_shapes(3, sizes.heads, sizes.k, sizes.v)
        return {
            **tokens,
            "cu_seqlens": torch.tensor([0, 1, 3], dtype=torch.int32),
            "state": draw_state(2),
            "out": torch.empty(3, sizes.heads, sizes.v),
            "rows": torch.empty(rows),
            "gates": torch.empty(gates),
            "longest": 2,
        }
    layer = draw_layer(1, 3, torch.float32, sizes, taps=4)
    if name == "gated_delta_inputs":
        given = {
            "mixed": layer.mixed[0],
            "ring": torch.zeros(4, layer.mixed.shape[2]),
            "a": layer.a[0],
            "b": layer.b[0],
        }
        weights = {"conv_weight": layer.conv_weight, "a_log": layer.a_log, "dt_bias": layer.dt_bias}
        return {**given, **weights, **tokens, "first": 0}
    return {
        "mixed": layer.mixed[0],
        "conv_state": torch.zeros(3, 4, layer.mixed.shape[2]),
        "conv_weight": layer.conv_weight,
        "positions": torch.arange(3, dtype=torch.int32),
        "a": layer.a[0],
        "b": layer.b[0],
        "a_log": layer.a_log,
        "dt_bias": layer.dt_bias,
        "state": draw_state(3),
        "out": torch.empty(3, sizes.heads, sizes.v),
    }


def opcheck(name):
    """torch's own check of an operator: schema, mutations, fake, and that it can be traced."""
    import importlib

    importlib.import_module(f"gpubench.kernels.{name}")
    return torch.library.opcheck(getattr(torch.ops.gpubench, name).default, (), good_arguments(name))


def compiled_equals_eager(name):
    """Whether code that torch.compile traced around an operator reads what it wrote."""
    import importlib

    importlib.import_module(f"gpubench.kernels.{name}")
    operator = getattr(torch.ops.gpubench, name)

    def run(arguments):
        before = arguments["state"].sum()
        operator(**arguments)
        return before, arguments["state"].sum(), arguments["out"] * 2

    eager, compiled = good_arguments(name), good_arguments(name)
    compiled["state"] = eager["state"].clone()
    compiled.update({key: value.clone() for key, value in eager.items() if isinstance(value, Tensor)})
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(compiled)
    wanted = run(eager)
    return all(torch.equal(own, other) for own, other in zip(found, wanted, strict=True))


def chunk_inputs_errors(tokens, first, dtype, sizes, taps):
    """Of q, k, v, g and beta of a chunk, whose rows are strided, beside the formulas in fp64."""
    from gpubench.kernels.gated_delta_inputs import gated_delta_inputs
    from gpubench.models.gated_delta_formulas import prepare_chunk

    torch.manual_seed(tokens)
    channels = 2 * sizes.key_heads * sizes.k + sizes.heads * sizes.v
    rows = torch.randn(tokens, channels + 2 * sizes.heads + 3).to(dtype)
    mixed, a, b, _ = torch.split(rows, [channels, sizes.heads, sizes.heads, 3], dim=1)
    ring, weight = torch.randn(taps, channels).to(dtype), torch.randn(channels, taps).to(dtype)
    ring[min(first, taps) :] = 0  # before position 0
    rates = {"a": a, "b": b, "a_log": torch.randn(sizes.heads), "dt_bias": torch.randn(sizes.heads)}
    before = ring.clone()
    shapes = (tokens, sizes.key_heads, sizes.k), (tokens, sizes.heads, sizes.v), (tokens, sizes.heads)
    outputs = [bordered(torch.empty(shapes[place], dtype=dtype if place < 2 else None)) for place in (0, 0, 1, 2, 2)]
    gated_delta_inputs(mixed, ring, weight, *rates.values(), *(own for own, _ in outputs), first)
    assert torch.equal(ring, before)
    assert all((behind == BORDER).all() for _, behind in outputs), "nothing is written beyond the outputs"
    exact = {name: value.double() for name, value in {"mixed": mixed, "conv_weight": weight, **rates}.items()}
    state = torch.empty(1, sizes.heads, sizes.k, sizes.v)
    wanted = prepare_chunk(exact, ring.double(), first, state)
    return [relative_error(own, other) for (own, _), other in zip(outputs, wanted, strict=True)]
