"""One decoded token of the gated delta rule: the recurrence alone, or with what a layer does just before it.

A step advances the state in place; `.reset` puts it back. `scope: core` is given q, k, v and the gates; `scope: op` the
projected token, and convolves, gates and normalises it first (`gpubench.kernels.gated_delta_step`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

import gpubench
from gpubench.errors import Unsupported
from gpubench.models.gated_delta_formulas import advance, prepare
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.gated_delta_inputs import (
    RECURRENCE,
    Model,
    compare_norms,
    local_shape,
    make_recurrence,
    make_token,
)
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.sizes import check_sizes

Scope = Literal["core", "op"]
StateType = Literal["float32", "bfloat16"]

_TOKEN = ("mixed", "conv_state", "conv_weight", "positions", "a", "b", "a_log", "dt_bias")

_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of the relative norm, by the least precise dtype among the tensor and what it is computed from."""


@gpubench.workload("gated_delta_decode")
def gated_delta_decode(  # noqa: PLR0913, PLR0917 - the arguments are the axes
    batch: int,
    model: Model = "qwen3.5-35b-a3b",
    tp: int = 1,
    key_heads: int | None = None,
    value_heads: int | None = None,
    dtype: FloatType = "bfloat16",
    state_dtype: StateType = "float32",
    scope: Scope = "core",
    launch: Launch = "eager",
) -> dict[str, Tensor]:
    """One token of the gated delta rule for `batch` sequences. `key_heads` and `value_heads` override the model's."""
    check_sizes(batch=batch)
    shape = local_shape(model, tp, key_heads, value_heads)
    kind = torch_dtype(dtype)
    start = torch.randn(batch, shape.value_heads, shape.k, shape.v).to(torch_dtype(state_dtype))
    made = make_recurrence(batch, shape, kind) if scope == "core" else make_token(batch, shape, kind)
    return {**made, "start": start, "state": start.clone()}


def _advance_all(scope: Scope, given: Mapping[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    """Output and next states by the formulas in torch, the recurrence in `kind`."""
    state = given["state"].to(kind)
    if scope == "core":
        out, state = advance(**{name: given[name] for name in RECURRENCE}, state=state)
        return {"out": out, "state": state}
    q, k, v, g, beta, conv_state = prepare(given, given["conv_state"], state)
    out, state = advance(q, k, v, g, beta, state)
    return {"out": out, "state": state, "conv_state": conv_state}


def _step_in_torch(scope: Scope, given: Mapping[str, Tensor]) -> Step:
    """The formulas in torch, the recurrence in float32; the next states are written over the given ones."""
    kind = given["mixed" if scope == "op" else "v"].dtype

    def step() -> dict[str, Tensor]:
        found = _advance_all(scope, given, torch.float32)
        kept = {name: given[name].copy_(found[name]) for name in found if name != "out"}
        return {"out": found["out"].to(kind), **kept}

    return step


@gated_delta_decode.backend("torch", baseline=True)
def _(scope: Scope, launch: Launch, **given: Any) -> Step:
    return launched(_step_in_torch(scope, given), launch)


# `c++`: on a CPU, a C++ compiler, with which Inductor builds its kernels.
@gated_delta_decode.backend("compiled", requires=["c++"])
def _(scope: Scope, launch: Launch, **given: Any) -> Step:
    # Every cell compiles for its own shapes. Without a reset their number would reach Dynamo's limit of recompilations,
    # after which it runs eagerly without a word.
    torch.compiler.reset()
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    return launched(torch.compile(_step_in_torch(scope, tensors), fullgraph=True, dynamic=False), launch)


@gated_delta_decode.backend("triton", requires=["triton"])
def _(scope: Scope, launch: Launch, *, block_v: int | None = None, **given: Any) -> Step:
    # block_v: how many columns of a head's state a program has; without it, what was found best for this GPU.
    from gpubench.kernels.gated_delta_decode import gated_delta_decode as launch_core
    from gpubench.kernels.gated_delta_step import gated_delta_step as launch_op

    state = given["state"]
    if scope == "op":
        operands = {name: given[name] for name in _TOKEN}
        out = given["mixed"].new_empty(*state.shape[:2], state.shape[3])

        def step() -> dict[str, Tensor]:
            launch_op(**operands, state=state, out=out, block_v=block_v)
            return {"out": out, "state": state, "conv_state": given["conv_state"]}
    else:
        operands = {name: given[name] for name in RECURRENCE}
        out = torch.empty_like(given["v"])

        def step() -> dict[str, Tensor]:
            launch_core(**operands, state=state, out=out, block_v=block_v)
            return {"out": out, "state": state}

    return launched(step, launch)


@gated_delta_decode.backend("fla", requires=["fla-core:fla", "cuda"])
def _(scope: Scope, launch: Launch, **given: Any) -> Step:
    if scope == "op":
        raise Unsupported("fla's recurrence is the core; scope: op has no counterpart there")
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule

    q, k, v, g, beta = (given[name].unsqueeze(1) for name in RECURRENCE)

    def step() -> dict[str, Tensor]:
        # The next state is a new tensor; the given one stays.
        out, state = fused_recurrent_gated_delta_rule(
            q, k, v, g=g, beta=beta, initial_state=given["state"], output_final_state=True
        )
        return {"out": out.squeeze(1), "state": state}

    return launched(step, launch)


@gated_delta_decode.reset
def _(state: Tensor, start: Tensor, **rest: Any) -> None:
    state.copy_(start)
    if "conv_state" in rest:
        rest["conv_state"].copy_(rest["conv_start"])


@gated_delta_decode.oracle
def _(scope: Scope, **given: Any) -> dict[str, Tensor]:
    exact = {
        name: value.double() if value.is_floating_point() else value
        for name, value in given.items()
        if isinstance(value, Tensor)
    }
    return _advance_all(scope, exact, torch.float64)


@gated_delta_decode.compare
def _(out: Mapping[str, Tensor], ref: Mapping[str, Tensor], scope: Scope, dtype: FloatType) -> str | None:
    """Each output close to the reference's by its norm. With `scope: op` a state holds what was rounded to `dtype`."""
    for name in out:
        kinds = [out[name].dtype, *([torch_dtype(dtype)] if scope == "op" else [])]
        if complaint := compare_norms(name, out[name], ref[name], max(_TOLERANCE[kind] for kind in kinds)):
            return complaint
    return None


@gated_delta_decode.bytes
def _(batch: int, dtype: FloatType, state_dtype: StateType, scope: Scope, **shape_of: Any) -> int:
    shape = local_shape(**shape_of)
    heads, size = shape.value_heads, itemsize(dtype)
    state = 2 * heads * shape.k * shape.v * itemsize(state_dtype)  # read and written
    keys, values = 2 * shape.key_heads * shape.k * size, heads * shape.v * size
    if scope == "core":
        return batch * (state + keys + 2 * values + 2 * heads * 4)
    # Of the ring, one slot is written and the others are read. The convolution's weights and the rates are read once.
    token = keys + values + shape.conv * (keys + values) + 2 * heads * size + 4
    return batch * (state + token + values) + shape.conv * (keys + values) + 2 * heads * 4


@gated_delta_decode.flop
def _(batch: int, **shape_of: Any) -> int:
    # per element of the state: fading, two products, the rank-one update. What surrounds them is left out.
    shape = local_shape(**shape_of)
    return 7 * batch * shape.value_heads * shape.k * shape.v


@gated_delta_decode.fits
def _(batch: int, state_dtype: StateType, device_bytes: float, **shape_of: Any) -> str | None:
    shape = local_shape(**shape_of)
    elements = batch * shape.value_heads * shape.k * shape.v
    # the state, where it starts, and the check's: fp64 with its intermediates
    needed = elements * (2 * itemsize(state_dtype) + 4 * 8)
    return f"needs {needed / 1e9:.1f} GB; the device has {device_bytes / 1e9:.1f} GB" if needed > device_bytes else None


@gated_delta_decode.metric("tokens_per_s", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Tokens of all sequences per second, through one layer."""
    return float(cell.batch / seconds)
