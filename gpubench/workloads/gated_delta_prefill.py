"""The gated delta rule over whole prompts: token by token, or in chunks.

A step advances the state in place, [sequences, heads, K, V] as `gated_delta_decode` has it; `.reset` puts it back.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import gpubench
from gpubench.errors import Unsupported
from gpubench.models.gated_delta_formulas import chunked, scan
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.gated_delta_inputs import RECURRENCE, Model, compare_norms, local_shape, make_recurrence
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.sizes import check_sizes

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""Of the relative norm of output and state, by the dtype of q, k and v."""


@gpubench.workload("gated_delta_prefill")
def gated_delta_prefill(  # noqa: PLR0913, PLR0917 - the arguments are the axes
    tokens: int,
    sequences: int = 1,
    ragged: bool = False,
    model: Model = "qwen3.5-35b-a3b",
    tp: int = 1,
    key_heads: int | None = None,
    value_heads: int | None = None,
    dtype: FloatType = "bfloat16",
    launch: Launch = "eager",
) -> dict[str, Any]:
    """`sequences` prompts of `tokens` each; ragged: as many in all, of random lengths.

    `key_heads` and `value_heads` override the model's.
    """
    check_sizes(tokens=tokens, sequences=sequences)
    shape = local_shape(model, tp, key_heads, value_heads)
    lengths = _draw_lengths(tokens, sequences) if ragged else [tokens] * sequences
    start = torch.randn(sequences, shape.value_heads, shape.k, shape.v)
    return {
        **make_recurrence(sum(lengths), shape, torch_dtype(dtype)),
        "lengths": lengths,
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "start": start,
        "state": start.clone(),
    }


def _draw_lengths(tokens: int, sequences: int) -> list[int]:
    """Lengths of at least 1 that add up to tokens · sequences: cut at random places."""
    cuts = sorted(random.sample(range(1, tokens * sequences), sequences - 1))
    return [end - begin for begin, end in zip([0, *cuts], [*cuts, tokens * sequences], strict=True)]


def _step_in_torch(form: Callable[..., tuple[Tensor, Tensor]], given: Mapping[str, Any], launch: Launch) -> Step:
    """`scan` or `chunked` in float32; the last state is written over the given one."""
    operands, state, lengths = [given[name] for name in RECURRENCE], given["state"], given["lengths"]

    def step() -> dict[str, Tensor]:
        out, last = form(operands, state, lengths)
        return {"out": out.to(given["v"].dtype), "state": state.copy_(last)}

    return launched(step, launch)


@gated_delta_prefill.backend("torch_scan", baseline=True)
def _(launch: Launch, **given: Any) -> Step:
    return _step_in_torch(scan, given, launch)


@gated_delta_prefill.backend("torch_chunked")
def _(launch: Launch, **given: Any) -> Step:
    return _step_in_torch(chunked, given, launch)


@gated_delta_prefill.backend("triton_chunked", requires=["triton"])
def _(launch: Launch, *, block_v: int | None = None, **given: Any) -> Step:
    # block_v: how many columns of a head's state a program walks with; without it, what was found best for this GPU.
    from gpubench.kernels.gated_delta_prefill import gated_delta_prefill as launch_prefill
    from gpubench.kernels.gated_delta_prefill import scratch_shapes

    operands = {name: given[name] for name in (*RECURRENCE, "cu_seqlens", "state")}
    v, state, longest = given["v"], given["state"], max(given["lengths"])
    rows, gates = scratch_shapes(*v.shape[:2], *state.shape[2:])
    scratch = {"rows": v.new_empty(rows), "gates": state.new_empty(gates)}
    out = torch.empty_like(v)

    def step() -> dict[str, Tensor]:
        launch_prefill(**operands, out=out, **scratch, longest=longest, block_v=block_v)
        return {"out": out, "state": state}

    return launched(step, launch)


@gated_delta_prefill.backend("triton_decode", requires=["triton"])
def _(launch: Launch, ragged: bool, **given: Any) -> Step:
    # As a decoder would take the prompt without a prefill: one launch of the decode kernel per token.
    if ragged:
        raise Unsupported("triton_decode takes one token of every sequence at a time; ragged prompts end apart")
    from gpubench.kernels.gated_delta_decode import gated_delta_decode as launch_decode

    state, out = given["state"], torch.empty_like(given["v"])
    q, k, v, g, beta, outputs = (_by_sequence(rows, len(state)) for rows in (*(given[n] for n in RECURRENCE), out))
    g, beta = (gate.transpose(0, 1).contiguous() for gate in (g, beta))  # the kernel wants a token's side by side

    def step() -> dict[str, Tensor]:
        for token in range(v.shape[1]):
            launch_decode(q[:, token], k[:, token], v[:, token], g[token], beta[token], state, outputs[:, token])
        return {"out": out, "state": state}

    return launched(step, launch)


def _by_sequence(rows: Tensor, sequences: int) -> Tensor:
    """[tokens, …] of sequences of one length → [sequences, length, …]."""
    return rows.view(sequences, len(rows) // sequences, *rows.shape[1:])


@gated_delta_prefill.backend("fla", requires=["fla-core:fla", "cuda"])
def _(launch: Launch, ragged: bool, **given: Any) -> Step:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    state, total = given["state"], len(given["v"])
    sequences = 1 if ragged else len(state)
    q, k, v, g, beta = (_by_sequence(given[name], sequences) for name in RECURRENCE)
    bounds = given["cu_seqlens"].long() if ragged else None

    def step() -> dict[str, Tensor]:
        # The last state is a new tensor; the given one stays.
        out, last = chunk_gated_delta_rule(
            q, k, v, g, beta, initial_state=state, output_final_state=True, cu_seqlens=bounds
        )
        return {"out": out.view(total, *out.shape[2:]), "state": last}

    return launched(step, launch)


@gated_delta_prefill.reset
def _(state: Tensor, start: Tensor) -> None:
    state.copy_(start)


@gated_delta_prefill.oracle
def _(start: Tensor, lengths: Sequence[int], **given: Any) -> dict[str, Tensor]:
    out, state = scan([given[name] for name in RECURRENCE], start.double(), lengths)
    return {"out": out, "state": state}


@gated_delta_prefill.compare
def _(out: Mapping[str, Tensor], ref: Mapping[str, Tensor], dtype: FloatType) -> str | None:
    """Output and state close to the reference's by their norms."""
    tolerance = _TOLERANCE[torch_dtype(dtype)]
    return next(filter(None, (compare_norms(name, out[name], ref[name], tolerance) for name in out)), None)


@gated_delta_prefill.bytes
def _(tokens: int, sequences: int, dtype: FloatType, **shape_of: Any) -> int:
    shape = local_shape(**shape_of)
    token = (2 * shape.key_heads * shape.k + 2 * shape.value_heads * shape.v) * itemsize(dtype)
    gates = 2 * shape.value_heads * 4
    return sequences * (tokens * (token + gates) + 2 * shape.value_heads * shape.k * shape.v * 4)


@gated_delta_prefill.flop
def _(tokens: int, sequences: int, **shape_of: Any) -> int:
    # Of the recurrence, which takes the fewest: per element of the state fading, two products, the rank-one update.
    shape = local_shape(**shape_of)
    return 7 * sequences * tokens * shape.value_heads * shape.k * shape.v


@gated_delta_prefill.fits
def _(tokens: int, sequences: int, ragged: bool, device_bytes: float, **shape_of: Any) -> str | None:
    shape = local_shape(**shape_of)
    # The fp64 check is the largest: its operands, two of them repeated for every head, outputs twice, and a few states.
    longest = tokens * sequences if ragged else tokens
    rows = 8 * sequences * longest * shape.value_heads * (2 * shape.k + 4 * shape.v)
    needed = rows + 8 * 5 * sequences * shape.value_heads * shape.k * shape.v
    return f"needs {needed / 1e9:.1f} GB; the device has {device_bytes / 1e9:.1f} GB" if needed > device_bytes else None


@gated_delta_prefill.metric("tokens_per_s", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Tokens of all prompts per second, through one layer."""
    return float(cell.tokens * cell.sequences / seconds)
