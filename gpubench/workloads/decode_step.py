"""One decode step of a language model: the last token of every sequence in, the next one out.

The sequences have one pinned length, `isl`, and caches of seeded random values: nothing is prefilled. A step writes
its keys and values to the cache's last position; the states of recurrent layers advance, and `.reset` puts them back.
So a step that is repeated does the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import gpubench
from gpubench.models.base import Attention, Cache, DecodeModel, Parallel
from gpubench.models.presets import Preset, find_preset
from gpubench.models.variant import Variant
from gpubench.ranges import annotate
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.indexer_hints import hint_selections
from gpubench.workloads.sizes import check_sizes, tell_misfit

# How far logits may be from the reference's, ‖out − ref‖ / ‖ref‖. Fusing operators moves roundings, and the layers
# add them up: in bfloat16, with 8 bits of mantissa, to a few percent over tens of layers.
_LOGITS_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# With experts a rounding can decide which of two near-ties is chosen, and the token goes another way from there. From
# float32, a hybrid of 40 layers with 256 random experts is 0.12 to 0.21 off in bfloat16 and 0.04 to 0.08 in float16
# (on a CPU, 2026-11-21); float32 itself is no less exact than in other models until such a choice falls otherwise.
_ROUTED_TOLERANCE = {torch.float32: 3e-2, torch.float16: 1e-1, torch.bfloat16: 2.5e-1}

_COMPARED_BYTES = 24
"""Of memory per logit, for a moment: both steps' logits in float64, and their difference."""


def logits_tolerance(model: str, dtype: torch.dtype) -> float:
    """How far a model's logits may be from a reference's: ‖out − ref‖ / ‖ref‖."""
    tolerances = _ROUTED_TOLERANCE if find_preset(model).is_routed else _LOGITS_TOLERANCE
    return tolerances[dtype]


# All that says which model it is: cells in which it is the same share weights and compiled code.
_MODEL = ("model", "layers", "dtype", "attention", "parallel", "ranks", "gvr", "shape")


@gpubench.workload("decode_step", shares=_MODEL)
def decode_step(  # noqa: PLR0913, PLR0917 - the arguments are the axes
    concurrency: int,
    isl: int,
    model: Preset = "tiny-dense",
    layers: int | None = None,
    dtype: FloatType = "bfloat16",
    attention: Attention = "torch",
    parallel: Parallel | None = None,
    ranks: int = 1,
    gvr: bool = False,
    shape: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One decode step: `concurrency` sequences whose caches hold `isl` tokens advance by one token each.

    `layers` keeps only the model's first layers, `shape` changes other dimensions: {hidden: 1024, moe: {experts: 64}}.
    `attention: triton` takes our kernels where the model's family has them. With `parallel` and `ranks` it is the step
    of one rank of several, alone: TEP divides heads, experts and vocabulary, DEP experts and sequences. `gvr` lets an
    indexer's top-k start from the step before.
    """
    check_sizes(concurrency=concurrency, isl=isl)
    variant = Variant(model, layers, parallel, ranks, gvr, shape)
    variant.check_length(isl)
    config, rows = variant.config, variant.rows(concurrency)
    built = gpubench.shared("weights", (config, dtype, attention), lambda: config.build(torch_dtype(dtype), attention))
    cache, tokens = built.make_cache(rows, isl), torch.randint(config.vocabulary, (rows,))
    if gvr:
        hint_selections(built, cache, tokens)
    return {"decoder": built, "cache": cache, "tokens": tokens}


def next_tokens(decoder: DecodeModel, cache: Any, tokens: Tensor) -> dict[str, Tensor]:
    """Greedy sampling of one step. The logits stay where they are; they are returned to be checked."""
    logits = decoder(tokens, cache)
    with annotate("sampling"):
        return {"tokens": logits.argmax(dim=-1), "logits": logits}


@decode_step.backend("eager", baseline=True)
def _(decoder: DecodeModel, cache: Any, tokens: Tensor) -> Step:
    return lambda: next_tokens(decoder, cache, tokens)


# `c++`: on a CPU, a C++ compiler ($CXX, g++ or clang++ on the PATH), with which Inductor builds its kernels.
@decode_step.backend("compiled", requires=["c++"])
def _(decoder: DecodeModel, cache: Any, tokens: Tensor) -> Step:
    from gpubench.models.compiled import CompiledStep

    compiled = gpubench.shared("compiled step", (), lambda: CompiledStep(next_tokens, decoder))
    compiled.expect(cache, tokens)
    # It compiles at its first call, not here: what is compiled under set-up's default device isn't used outside of it.
    return lambda: compiled(cache, tokens)


@decode_step.backend("graph", requires=["cuda"])
def _(decoder: DecodeModel, cache: Any, tokens: Tensor) -> Step:
    from gpubench.graphs.whole import capture_step

    return capture_step(lambda tokens: next_tokens(decoder, cache, tokens), tokens).bind(tokens)


# Its own code from its own config, on this model's weights and cache, launched as it comes.
@decode_step.backend("transformers", requires=["transformers"])
def _(decoder: DecodeModel, cache: Any, tokens: Tensor) -> Step:
    from gpubench.models.peers.build import build_peer

    peer = build_peer(decoder, tokens.device)
    return lambda: next_tokens(peer, cache, tokens)


@decode_step.reset
def _(cache: Cache) -> None:
    cache.restore()


@decode_step.compare
def _(out: Mapping[str, Tensor], ref: Mapping[str, Tensor], model: str) -> str | None:
    """Logits close to the reference's, and each token the best of its own logits.

    Tokens aren't compared with the reference's: where two logits nearly tie, either is right.
    """
    got, want = out["logits"].double(), ref["logits"].double()
    difference = ((got - want).norm() / want.norm()).item()
    tolerance = logits_tolerance(model, out["logits"].dtype)
    if not difference <= tolerance:  # a NaN is not
        return f"logits: ‖out − ref‖ / ‖ref‖ = {difference:.3g}, allowed {tolerance:g}"
    chosen = got.gather(1, out["tokens"][:, None]).squeeze(1)
    wrong = int((chosen < got.amax(dim=1)).sum())
    return f"tokens: {wrong} of {len(chosen)} are not the largest of their own logits" if wrong else None


@decode_step.bytes
def _(concurrency: int, isl: int, dtype: FloatType, **given: Any) -> int:
    variant = Variant.of(given)
    return variant.config.step_bytes(variant.rows(concurrency), isl, itemsize(dtype))


@decode_step.flop
def _(concurrency: int, isl: int, **given: Any) -> int:
    variant = Variant.of(given)
    return variant.config.step_flop(variant.rows(concurrency), isl)


@decode_step.fits
def _(concurrency: int, isl: int, dtype: FloatType, device_bytes: float, **given: Any) -> str | None:
    variant, size = Variant.of(given), itemsize(dtype)
    variant.check_length(isl)
    config, rows = variant.config, variant.rows(concurrency)
    needs = {
        "weights": config.weight_bytes(size),
        "cache": config.cache_bytes(rows, isl, size),
        "activations": config.activation_bytes(rows, size),
        "check": rows * config.vocabulary * (2 * size + _COMPARED_BYTES),
    }
    return tell_misfit(needs, device_bytes)


@decode_step.label
def _(**given: Any) -> dict[str, str]:
    return Variant.of(given).label()


@decode_step.metric("tok_s_user", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Tokens per second that one sequence gets: 1 / step time."""
    return 1 / seconds


@decode_step.metric("tok_s_gpu", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Tokens per second over all sequences, per GPU: concurrency / step time / ranks."""
    return float(cell.concurrency / seconds / cell.ranks)
