"""One decode step of multi-head latent attention over a paged cache: each newest token attends to all of its sequence.

    scope core    out = softmax((q̃·c + q_pe·k_pe) · (N + P)^-½) · C                                      [B, H, R]
    scope op      the new token's entry is written to the cache, q̃ = q_nope·W_UK, and out = core · W_UVᵀ  [B, H, V]

B sequences of L tokens, H heads of this GPU, R latent, P rotary, N and V a head's key and value. DeepSeek-AI,
"DeepSeek-V2", 2024, section 2.1. The layout of the cache is that of gpubench/kernels/mla_cache.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

import gpubench
from gpubench.errors import Unsupported
from gpubench.models.shapes import MLA, MlaShape, local_heads
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.sizes import check_sizes

Model = Literal["deepseek-v3", "mistral-small-4-119b", "glm-4.7-flash"]
Scope = Literal["core", "op"]
Lengths = Literal["equal", "ragged"]

PAGE = 64
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""How far an output may be from the oracle's, ‖out − ref‖ / ‖ref‖."""


@dataclass(frozen=True)
class Projections:
    """What scope op has beyond the attention: the new token, and the two matrices that are absorbed."""

    q_nope: Tensor
    """[B, H, N]"""
    w_uk: Tensor
    """[H, N, R]"""
    w_uv: Tensor
    """[H, V, R]"""
    latent: Tensor
    """[B, R]: the new token's, for the cache."""
    rope: Tensor
    """[B, P]: likewise."""


@dataclass(frozen=True)
class Problem:
    """The inputs of one step."""

    q_latent: Tensor
    """[B, H, R]: q̃ where the scope is core; room for it where it is op."""
    q_rope: Tensor
    """[B, H, P]"""
    cache: Tensor
    """[pages, 64, R + P]"""
    block_table: Tensor
    """[B, max_pages], int32"""
    lengths: Tensor
    """[B], int32, the new token included"""
    counts: tuple[int, ...]
    """The same on the host, for what loops over sequences there."""
    scale: float
    projections: Projections | None


def local_shape(model: Model, tp: int, given: Mapping[str, Any]) -> MlaShape:
    """A model's shape with what is overridden in `given`, and of its heads those that one of `tp` GPUs has."""
    own = {name: given[name] for name in ("heads", "kv_lora", "rope", "nope", "v") if given.get(name) is not None}
    check_sizes(**own)
    shape = replace(MLA[model], **own)
    return replace(shape, heads=local_heads(shape.heads, tp))


def sequence_lengths(batch: int, isl: int, lengths: Lengths) -> list[int]:
    """All `isl`, or spread evenly from isl / batch up to isl, long and short ones taking turns."""
    if lengths == "equal":
        return [isl] * batch
    spread = [-(-isl * (i + 1) // batch) for i in range(batch)]
    return [spread[i // 2] if i % 2 else spread[-1 - i // 2] for i in range(batch)]


@gpubench.workload("mla_decode")
def mla_decode(  # noqa: PLR0913, PLR0917 (its parameters are the axes)
    batch: int,
    isl: int,
    model: Model = "deepseek-v3",
    tp: int = 1,
    dtype: FloatType = "bfloat16",
    scope: Scope = "core",
    launch: Launch = "eager",
    lengths: Lengths = "equal",
    heads: int | None = None,
    kv_lora: int | None = None,
    rope: int | None = None,
    nope: int | None = None,
    v: int | None = None,
) -> dict[str, Problem]:
    """Multi-head latent attention of `batch` newest tokens over paged caches of `isl` tokens each, themselves included.

    scope: core is the attention alone, op includes both absorbing products and the write to the cache. `tp` GPUs share
    the heads. The model's shape can be overridden: heads (of all GPUs), kv_lora, rope, nope, v.
    """
    check_sizes(batch=batch, isl=isl)
    overrides = {"heads": heads, "kv_lora": kv_lora, "rope": rope, "nope": nope, "v": v}
    shape, kind = local_shape(model, tp, overrides), torch_dtype(dtype)
    counts = sequence_lengths(batch, isl, lengths)
    max_pages = -(-isl // PAGE)
    return {
        "problem": Problem(
            q_latent=torch.randn(batch, shape.heads, shape.kv_lora, dtype=kind),
            q_rope=torch.randn(batch, shape.heads, shape.rope, dtype=kind),
            cache=torch.randn(batch * max_pages, PAGE, shape.kv_lora + shape.rope, dtype=kind),
            block_table=torch.randperm(batch * max_pages).to(torch.int32).view(batch, max_pages),
            lengths=torch.tensor(counts, dtype=torch.int32),
            counts=tuple(counts),
            scale=(shape.nope + shape.rope) ** -0.5,
            projections=_make_projections(batch, shape, kind) if scope == "op" else None,
        )
    }


def _make_projections(batch: int, shape: MlaShape, dtype: torch.dtype) -> Projections:
    """Scaled so that q̃ and the output have the size that they have in scope core."""
    return Projections(
        q_nope=torch.randn(batch, shape.heads, shape.nope, dtype=dtype),
        w_uk=torch.randn(shape.heads, shape.nope, shape.kv_lora, dtype=dtype) * shape.nope**-0.5,
        w_uv=torch.randn(shape.heads, shape.v, shape.kv_lora, dtype=dtype) * shape.kv_lora**-0.5,
        latent=torch.randn(batch, shape.kv_lora, dtype=dtype),
        rope=torch.randn(batch, shape.rope, dtype=dtype),
    )


def _attend_expanded(problem: Problem, dtype: torch.dtype) -> Tensor:
    """Sequence by sequence, each head with keys and values of its own, computed in `dtype`."""
    kv_lora = problem.q_latent.shape[-1]
    rows = []
    for b, count in enumerate(problem.counts):
        entries = problem.cache[problem.block_table[b]].flatten(0, 1)[:count].to(dtype)  # [L, R + P]
        latent, rope = entries[:, :kv_lora], entries[:, kv_lora:]
        if (own := problem.projections) is None:
            query, keys, values = problem.q_latent[b], latent, latent
        else:
            query, keys, values = own.q_nope[b], latent @ own.w_uk.to(dtype).mT, latent @ own.w_uv.to(dtype).mT
        heads = len(query)
        query = torch.cat([query, problem.q_rope[b]], dim=-1).to(dtype)  # [H, N + P], or [H, R + P]
        keys = torch.cat([keys.expand(heads, -1, -1), rope.expand(heads, -1, -1)], dim=-1)  # [H, L, …]
        scores = (query[:, None] @ keys.mT).float() * problem.scale
        rows.append((scores.softmax(dim=-1).to(dtype) @ values)[:, 0])
    return torch.stack(rows)


def _append(problem: Problem, own: Projections) -> None:
    """Write the new token's entry to the cache, in torch and without a sync.

    A sequence of length 0 gets back what its first page's first row holds.
    """
    last = (problem.lengths.long() - 1).clamp(min=0)
    row = problem.block_table.long().gather(1, (last // PAGE)[:, None])[:, 0] * PAGE + last % PAGE
    flat = problem.cache.flatten(0, 1)
    entries = torch.cat([own.latent, own.rope], dim=-1)
    flat[row] = torch.where((problem.lengths > 0)[:, None], entries, flat[row])


def _attend_absorbed(problem: Problem, q_latent: Tensor) -> Tensor:
    """The whole batch at once, on a gathered copy of the cache, padded to its longest sequence."""
    kv_lora = q_latent.shape[-1]
    entries = problem.cache[problem.block_table.long()].flatten(1, 2)  # [B, max_pages · 64, R + P]
    beyond = torch.arange(entries.shape[1], device=entries.device) >= problem.lengths[:, None]
    scores = (torch.cat([q_latent, problem.q_rope], dim=-1) @ entries.mT).float() * problem.scale
    weights = scores.masked_fill(beyond[:, None], float("-inf")).softmax(dim=-1)
    weights = weights.masked_fill(beyond[:, None], 0)  # a row of nothing but -inf is NaN
    return weights.to(entries.dtype) @ entries[..., :kv_lora]


def _results(problem: Problem, out: Tensor) -> dict[str, Tensor]:
    """What a step returns: in scope op the cache, too, for it was written to."""
    return {"out": out} if problem.projections is None else {"out": out, "cache": problem.cache}


@mla_decode.backend("torch", baseline=True)
def _(problem: Problem, launch: Launch) -> Step:
    def step() -> dict[str, Tensor]:
        if problem.projections is not None:
            _append(problem, problem.projections)
        return _results(problem, _attend_expanded(problem, problem.cache.dtype))

    return launched(step, launch)


@mla_decode.backend("torch_absorbed")
def _(problem: Problem, launch: Launch) -> Step:
    def step() -> dict[str, Tensor]:
        if (own := problem.projections) is None:
            return _results(problem, _attend_absorbed(problem, problem.q_latent))
        _append(problem, own)
        q_latent = torch.bmm(own.q_nope.transpose(0, 1), own.w_uk).transpose(0, 1)
        latent = _attend_absorbed(problem, q_latent)
        return _results(problem, torch.bmm(latent.transpose(0, 1), own.w_uv.mT).transpose(0, 1))

    return launched(step, launch)


def _triton_step(problem: Problem, splits: int | None) -> Step:
    """The kernels of gpubench, with the two products of scope op by torch."""
    from gpubench.kernels.mla_cache import mla_cache_append
    from gpubench.kernels.mla_decode import mla_decode as attend
    from gpubench.kernels.mla_decode import mla_decode_scratch

    latent = torch.empty_like(problem.q_latent)
    elements = mla_decode_scratch(problem.q_latent, problem.q_rope, problem.block_table, splits=splits)
    scratch = torch.empty(elements, dtype=torch.float32, device=latent.device)
    paged = (problem.cache, problem.block_table, problem.lengths)

    def core() -> None:
        attend(problem.q_latent, problem.q_rope, *paged, latent, scratch, softmax_scale=problem.scale, splits=splits)

    if (own := problem.projections) is None:
        results = _results(problem, latent)

        def step() -> dict[str, Tensor]:
            core()
            return results

        return step

    out = latent.new_empty(*latent.shape[:2], own.w_uv.shape[1])
    results = _results(problem, out)
    # Heads are the batch of both products; their operands are views, for [B, H, …] is what surrounds them.
    absorb = (own.q_nope.transpose(0, 1), own.w_uk, problem.q_latent.transpose(0, 1))
    project = (latent.transpose(0, 1), own.w_uv.mT, out.transpose(0, 1))

    def op_step() -> dict[str, Tensor]:
        mla_cache_append(own.latent, own.rope, *paged)
        torch.bmm(absorb[0], absorb[1], out=absorb[2])
        core()
        torch.bmm(project[0], project[1], out=project[2])
        return results

    return op_step


@mla_decode.backend("triton", requires=["triton"])
def _(problem: Problem, launch: Launch) -> Step:
    return launched(_triton_step(problem, splits=1), launch)


@mla_decode.backend("triton_splitk", requires=["triton"])
def _(problem: Problem, launch: Launch, *, splits: int | None = None) -> Step:
    # splits: into how many parts L is split; None: by shapes and the GPU
    return launched(_triton_step(problem, splits), launch)


@mla_decode.backend("flashinfer", requires=["flashinfer-python:flashinfer", "cuda"])
def _(problem: Problem, launch: Launch) -> Step:
    batch, heads, kv_lora = problem.q_latent.shape
    rope, dtype = problem.q_rope.shape[-1], problem.cache.dtype
    if problem.projections is not None:
        raise Unsupported("flashinfer has the attention alone: scope: core")
    if (kv_lora, rope) != (512, 64):
        raise Unsupported(f"flashinfer has a kernel for a latent of 512 and a rotary key of 64; got {kv_lora}, {rope}")
    if dtype is torch.float32:
        raise Unsupported("flashinfer has no float32 kernel; bfloat16 and float16 it has")
    import flashinfer

    pages = [-(-count // PAGE) for count in problem.counts]
    used = torch.cat([problem.block_table[b, :n] for b, n in enumerate(pages)])
    first_page = torch.tensor([0, *pages], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    first_query = torch.arange(batch + 1, dtype=torch.int32)
    workspace = torch.empty(128 << 20, dtype=torch.uint8)
    wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(workspace)
    wrapper.plan(
        first_query, first_page, used, problem.lengths, heads, kv_lora, rope, PAGE, False, problem.scale, dtype, dtype
    )
    latents, ropes = problem.cache[..., :kv_lora], problem.cache[..., kv_lora:]
    out = torch.empty_like(problem.q_latent)
    results = _results(problem, out)

    def step() -> dict[str, Tensor]:
        wrapper.run(problem.q_latent, problem.q_rope, latents, ropes, out=out)
        return results

    return launched(step, launch)


@mla_decode.oracle
def _(problem: Problem) -> dict[str, Tensor]:
    if problem.projections is not None:
        _append(problem, problem.projections)
    return _results(problem, _attend_expanded(problem, torch.float32))


@mla_decode.compare
def _(out: Mapping[str, Tensor], ref: Mapping[str, Tensor]) -> str | None:
    """The output close to the reference's in the norm, the cache equal to its bit for bit."""
    got, want = out["out"].double(), ref["out"].double()
    difference = ((got - want).norm() / want.norm()).item()
    tolerance = _TOLERANCE[out["out"].dtype]
    if not difference <= tolerance:  # a NaN is not
        return f"out: ‖out − ref‖ / ‖ref‖ = {difference:.3g}, allowed {tolerance:g}"
    if "cache" in ref and not torch.equal(out["cache"], ref["cache"]):
        rows = int((out["cache"] != ref["cache"]).any(dim=-1).sum())
        return f"cache: {rows:,} rows are not what the reference wrote, or left"
    return None


@mla_decode.bytes
def _(batch: int, isl: int, model: Model, tp: int, **rest: Any) -> int:
    shape, tokens = local_shape(model, tp, rest), sum(sequence_lengths(batch, isl, rest["lengths"]))
    elements = tokens * (shape.kv_lora + shape.rope)  # every entry of the cache once, for all heads
    if rest["scope"] == "core":
        elements += batch * shape.heads * (2 * shape.kv_lora + shape.rope)  # q̃, q_pe, the output
    else:
        elements += batch * shape.heads * (shape.nope + shape.rope + shape.v)
        elements += shape.heads * shape.kv_lora * (shape.nope + shape.v)  # W_UK, W_UV
        elements += batch * (shape.kv_lora + shape.rope)  # the new entries
    return elements * itemsize(rest["dtype"])


@mla_decode.flop
def _(batch: int, isl: int, model: Model, tp: int, **rest: Any) -> int:
    shape, tokens = local_shape(model, tp, rest), sum(sequence_lengths(batch, isl, rest["lengths"]))
    core = 2 * tokens * shape.heads * (2 * shape.kv_lora + shape.rope)
    products = 2 * batch * shape.heads * shape.kv_lora * (shape.nope + shape.v)
    return core if rest["scope"] == "core" else core + products


@mla_decode.fits
def _(batch: int, isl: int, model: Model, tp: int, **rest: Any) -> str | None:
    shape = local_shape(model, tp, rest)
    cache = batch * -(-isl // PAGE) * PAGE * (shape.kv_lora + shape.rope) * itemsize(rest["dtype"])
    copies = 1 + (rest["scope"] == "op")  # in scope op the reference's cache is kept, to be compared
    if copies * cache <= rest["device_bytes"]:
        return None
    return f"needs {copies * cache / 1e9:.1f} GB for the cache; the device has {rest['device_bytes'] / 1e9:.1f} GB"


@mla_decode.label
def _(batch: int, isl: int, model: Model, tp: int, **rest: Any) -> dict[str, str]:
    shape, counts = local_shape(model, tp, rest), sequence_lengths(batch, isl, rest["lengths"])
    return {
        "heads": f"{shape.heads} of {shape.heads * tp}",
        "latent": f"{shape.kv_lora} + {shape.rope} rotary",
        "lengths": f"{min(counts)} to {max(counts)}, {sum(counts)} in all",
    }
