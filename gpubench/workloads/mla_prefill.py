"""Prefill of multi-head latent attention: new tokens attend to themselves and to a prefix that is in the cache.

`tokens` are the rows of the batch, as an engine's token budget: the new tokens of all sequences together, one sequence
behind the other, and padding. `lengths: equal` deals them out evenly, each sequence behind a prefix of `prefix` tokens.
`lengths: ragged` draws lengths and prefixes (`prefix` on average) from the arguments, and leaves a sixteenth of the
rows as padding, as in a batch that was padded to its bucket; padded rows are to be 0.

`scope: op` starts from the latent cache and includes expanding it, or absorbing; `scope: core` is attention alone, over
keys and values that were expanded before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import gpubench
from gpubench.errors import Unsupported
from gpubench.kernels.mla_prefill_tiling import Form, Sizes
from gpubench.models.shapes import MLA, MlaShape, local_heads
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.mla_prefill_batch import Batch, Lengths, deal
from gpubench.workloads.mla_prefill_form import choose_fastest_form, choose_triton_form, sizes_of, this_gpu

Model = Literal["deepseek-v3", "mistral-small-4-119b", "glm-4.7-flash"]
Scope = Literal["op", "core"]

_TOLERANCE: dict[torch.dtype, float] = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Of the whole output's norm."""

_FLASHINFER_WORKSPACE_BYTES = 256 << 20


def local_shape(model: Model, tp: int) -> MlaShape:
    """The model's shape with the heads that one of `tp` GPUs has."""
    shape = MLA[model]
    return MlaShape(local_heads(shape.heads, tp), shape.kv_lora, shape.rope, shape.nope, shape.v)


@dataclass(frozen=True)
class Operands:
    """The inputs as `mla_prefill` makes them."""

    batch: Batch
    shape: MlaShape
    q: Tensor
    cache: Tensor
    w_kv: Tensor
    cu_q: Tensor
    cu_k: Tensor
    kv: Tensor | None
    """Expanded keys and values [K, H, N + V]: what `scope: core` starts from."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Operands:
        """Those among everything that a set-up or a hook was given."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__})

    @property
    def latent(self) -> Tensor:
        return self.cache[:, : self.shape.kv_lora]

    @property
    def k_pe(self) -> Tensor:
        return self.cache[:, self.shape.kv_lora :]

    @property
    def scale(self) -> float:
        return float((self.shape.nope + self.shape.rope) ** -0.5)

    def sizes(self) -> Sizes:
        return sizes_of(self.batch, self.shape, self.q.element_size())

    def new_kv(self) -> Tensor:
        """Room for expanded keys and values."""
        return self.q.new_empty(len(self.cache), self.shape.heads, self.shape.nope + self.shape.v)

    def new_out(self) -> Tensor:
        return self.q.new_empty(self.batch.tokens, self.shape.heads, self.shape.v)

    def expand(self, kv: Tensor) -> None:
        torch.mm(self.latent, self.w_kv.T, out=kv.view(len(kv), -1))

    def join_keys(self, kv: Tensor, k: Tensor) -> None:
        """k [K, H, N + P]: each head's nope part, and the rotary key copied to all heads."""
        k[..., : self.shape.nope] = kv[..., : self.shape.nope]
        k[..., self.shape.nope :] = self.k_pe[:, None]

    def clear_padding(self, out: Tensor) -> None:
        if self.batch.padding:
            out[-self.batch.padding :].zero_()


@gpubench.workload("mla_prefill")
def mla_prefill(  # noqa: PLR0913, PLR0917 - the arguments are the axes
    tokens: int,
    sequences: int = 1,
    prefix: int = 0,
    lengths: Lengths = "equal",
    model: Model = "deepseek-v3",
    tp: int = 1,
    dtype: FloatType = "bfloat16",
    launch: Launch = "eager",
    scope: Scope = "op",
) -> dict[str, Any]:
    """MLA prefill: causal attention of new tokens over a latent cache. core: over keys and values expanded before."""
    batch, shape = _problem(tokens, sequences, prefix, lengths, model, tp)
    kind, (cu_q, cu_k) = torch_dtype(dtype), batch.offsets()
    inputs = Operands(
        batch=batch,
        shape=shape,
        q=torch.randn(tokens, shape.heads, shape.nope + shape.rope, dtype=kind),
        cache=torch.randn(cu_k[-1], shape.kv_lora + shape.rope, dtype=kind),
        # Scaled so that keys and values, too, are of unit variance.
        w_kv=torch.randn(shape.heads * (shape.nope + shape.v), shape.kv_lora, dtype=kind) * shape.kv_lora**-0.5,
        cu_q=torch.tensor(cu_q, dtype=torch.int32),
        cu_k=torch.tensor(cu_k, dtype=torch.int32),
        kv=None,
    )
    kv = None
    if scope == "core":
        kv = inputs.new_kv()
        inputs.expand(kv)
    return {**vars(inputs), "kv": kv}


@mla_prefill.backend("torch", baseline=True)
def _(launch: Launch, **given: Any) -> Step:
    # As published kernels are compared with it: sequence by sequence, with all scores in memory.
    x = Operands.of(given)
    _refuse_scores_that_do_not_fit(x)
    out, kv = x.new_out(), x.new_kv() if x.kv is None else x.kv
    hidden = [
        torch.ones(new, keys, dtype=torch.bool, device=x.q.device).triu(keys - new + 1)
        for new, keys in zip(x.batch.new, x.batch.keys, strict=True)
    ]

    def step() -> Tensor:
        if x.kv is None:
            x.expand(kv)
        for (rows, keys), mask in zip(x.batch.spans(), hidden, strict=True):
            k_pe = x.k_pe[keys, None].expand(-1, x.shape.heads, -1)
            k = torch.cat([kv[keys, :, : x.shape.nope], k_pe], dim=-1)
            scores = torch.matmul(x.q[rows].transpose(0, 1), k.permute(1, 2, 0)) * x.scale
            weights = scores.masked_fill_(mask, -torch.inf).softmax(-1, dtype=torch.float32).to(x.q.dtype)
            out[rows] = torch.matmul(weights, kv[keys, :, x.shape.nope :].transpose(0, 1)).transpose(0, 1)
        x.clear_padding(out)
        return out

    return launched(step, launch)


def _refuse_scores_that_do_not_fit(x: Operands) -> None:
    if not x.q.is_cuda:
        return
    largest = max(new * keys for new, keys in zip(x.batch.new, x.batch.keys, strict=True)) * x.shape.heads
    needed, free = largest * (4 + 2 * x.q.element_size()), torch.cuda.mem_get_info()[0]
    if needed > free:
        raise Unsupported(f"the scores of one sequence take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free")


@mla_prefill.backend("sdpa")
def _(launch: Launch, **given: Any) -> Step:
    # torch chooses the kernel. Sequences of equal lengths are one call, others a call each.
    return launched(_sdpa_step(Operands.of(given)), launch)


def _sdpa_step(x: Operands) -> Step:
    from torch.nn.attention.bias import causal_lower_right  # it imports all of Dynamo, half a second to every worker

    out, kv = x.new_out(), x.new_kv() if x.kv is None else x.kv
    k = x.q.new_empty(len(kv), x.shape.heads, x.shape.nope + x.shape.rope)
    v = kv[..., x.shape.nope :]
    if x.kv is not None:
        x.join_keys(kv, k)
        v = v.contiguous()
    count = len(x.batch.new)

    def attend(rows: slice, keys: slice, sequences: int) -> Tensor:
        q_, k_, v_ = (t.reshape(sequences, -1, *t.shape[1:]).transpose(1, 2) for t in (x.q[rows], k[keys], v[keys]))
        new, seen = q_.shape[2], k_.shape[2]
        how = {"is_causal": True} if new == seen else {"attn_mask": causal_lower_right(new, seen)}
        return F.scaled_dot_product_attention(q_, k_, v_, scale=x.scale, **how).transpose(1, 2).flatten(0, 1)

    def step() -> Tensor:
        if x.kv is None:
            x.expand(kv)
            x.join_keys(kv, k)
        if x.batch.is_equal and not x.batch.padding:
            return attend(slice(None), slice(None), count)
        for rows, keys in x.batch.spans():
            out[rows] = attend(rows, keys, 1)
        x.clear_padding(out)
        return out

    return step


@mla_prefill.backend("triton", requires=["triton"])
def _(launch: Launch, *, form: Literal["auto", "expanded", "absorbed"] = "auto", **given: Any) -> Step:
    x = Operands.of(given)
    return launched(_triton_step(x, choose_triton_form(form, x.kv is not None, x.sizes())), launch)


@mla_prefill.backend("auto", requires=["triton"])
def _(launch: Launch, **given: Any) -> Step:
    # The fastest of the three forms at this shape, by a table of measurements; the record says which one.
    x = Operands.of(given)
    form = choose_fastest_form(this_gpu(), x.batch, x.kv is not None, x.sizes())
    return launched(_sdpa_step(x) if form == "sdpa" else _triton_step(x, form), launch)


def _triton_step(x: Operands, form: Form) -> Step:
    from gpubench.kernels.mla_prefill import mla_prefill_attention
    from gpubench.kernels.mla_prefill_forms import mla_prefill_absorbed, mla_prefill_expanded
    from gpubench.kernels.mla_prefill_tiling import choose_splits

    out = x.new_out()
    partial_lse = out.new_empty(choose_splits(form, x.sizes()), *out.shape[:2], dtype=torch.float32)
    width = x.shape.v if form == "expanded" else x.shape.kv_lora
    scratch = partial_lse.new_empty(*partial_lse.shape, width), partial_lse
    offsets = x.cu_q, x.cu_k

    def core() -> Tensor:
        mla_prefill_attention(x.q, kv, x.k_pe, *offsets, out, *scratch)
        return out

    def expanded() -> Tensor:
        mla_prefill_expanded(x.q, x.cache, x.w_kv, *offsets, kv, out, *scratch)
        return out

    def absorbed() -> Tensor:
        mla_prefill_absorbed(x.q, x.cache, x.w_kv, *offsets, q_latent, out_latent, out, *scratch)
        return out

    if form == "absorbed":
        q_latent, out_latent = x.q.new_empty(2, *out.shape[:2], x.shape.kv_lora)
        return absorbed
    kv = x.new_kv() if x.kv is None else x.kv
    return expanded if x.kv is None else core


@mla_prefill.backend("flashinfer", requires=["cuda", "flashinfer-python:flashinfer"])
def _(launch: Launch, **given: Any) -> Step:
    from flashinfer import BatchPrefillWithRaggedKVCacheWrapper

    x = Operands.of(given)
    if x.kv is None:
        raise Unsupported("flashinfer is compared on scope: core")
    if x.q.dtype is torch.float32:
        raise Unsupported("flashinfer takes float16 and bfloat16")
    k, v, out = x.q.new_empty(len(x.kv), *x.q.shape[1:]), x.kv[..., x.shape.nope :].contiguous(), x.new_out()
    x.join_keys(x.kv, k)
    wrapper = BatchPrefillWithRaggedKVCacheWrapper(
        torch.empty(_FLASHINFER_WORKSPACE_BYTES, dtype=torch.uint8, device=x.q.device), kv_layout="NHD"
    )
    wrapper.plan(
        x.cu_q,
        x.cu_k,
        num_qo_heads=x.shape.heads,
        num_kv_heads=x.shape.heads,
        head_dim_qk=x.shape.nope + x.shape.rope,
        head_dim_vo=x.shape.v,
        causal=True,
        sm_scale=x.scale,
        q_data_type=x.q.dtype,
    )
    real = x.batch.tokens - x.batch.padding

    def step() -> Tensor:
        wrapper.run(x.q[:real], k, v, out=out[:real])
        x.clear_padding(out)
        return out

    return launched(step, launch)


@mla_prefill.oracle
def _(**given: Any) -> Tensor:
    # In float32 and head by head, for the scores of all heads wouldn't fit.
    x = Operands.of(given)
    expanded = x.latent.float() @ x.w_kv.float().T if x.kv is None else x.kv.float()
    kv = expanded.view(len(x.cache), x.shape.heads, -1)
    out = torch.zeros(x.batch.tokens, x.shape.heads, x.shape.v, device=x.q.device)
    for rows, keys in x.batch.spans():
        hidden = torch.ones(rows.stop - rows.start, keys.stop - keys.start, dtype=torch.bool, device=out.device)
        hidden = hidden.triu(hidden.shape[1] - hidden.shape[0] + 1)
        for head in range(x.shape.heads):
            k = torch.cat([kv[keys, head, : x.shape.nope], x.k_pe[keys].float()], dim=-1)
            q, v = x.q[rows, head].float(), kv[keys, head, x.shape.nope :]
            out[rows, head] = (q @ k.T * x.scale).masked_fill_(hidden, -torch.inf).softmax(-1) @ v
    return out


@mla_prefill.compare
def _(out: Tensor, ref: Tensor, batch: Batch, q: Tensor) -> str | None:
    error = ((out.float() - ref.float()).norm() / ref.float().norm()).item()
    limit = _TOLERANCE[q.dtype]
    if not error <= limit:
        return f"the relative error of the output's norm is {error:.2g}; wanted at most {limit:g}"
    if batch.padding and out[-batch.padding :].any():
        return f"padding: some of the last {batch.padding} rows are not 0"
    return None


@mla_prefill.bytes
def _(dtype: FloatType, scope: Scope, **cell: Any) -> int:
    batch, s = _problem(**cell)
    keys, per_head = sum(batch.keys), s.nope + s.v
    read = keys * (s.heads * per_head + s.rope) if scope == "core" else keys * (s.kv_lora + s.rope)
    weights = 0 if scope == "core" else s.heads * per_head * s.kv_lora
    return (read + weights + batch.tokens * s.heads * (s.nope + s.rope + s.v)) * itemsize(dtype)


@mla_prefill.flop
def _(scope: Scope, **cell: Any) -> int:
    # What must be done is what the form with the fewer operations does.
    batch, s = _problem(**cell)
    expanded, absorbed = ((s.nope + s.rope + s.v) * batch.pairs, (2 * s.kv_lora + s.rope) * batch.pairs)
    if scope == "core":
        return 2 * s.heads * expanded
    per_token = s.kv_lora * (s.nope + s.v)
    return 2 * s.heads * min(expanded + per_token * sum(batch.keys), absorbed + per_token * sum(batch.new))


@mla_prefill.fits
def _(dtype: FloatType, device_bytes: int, **cell: Any) -> str | None:
    # The cache, expanded twice over for those that join keys, and what the oracle holds in float32.
    batch, s = _problem(**cell)
    keys, rows = sum(batch.keys) * s.heads, batch.tokens * s.heads
    held = 2 * keys * (s.nope + s.rope + s.v) + rows * (s.nope + s.rope + 2 * s.v)
    scores = max(new * seen for new, seen in zip(batch.new, batch.keys, strict=True))
    needed = held * itemsize(dtype) + 4 * (keys * (s.nope + s.v) + rows * s.v + 3 * scores)
    return f"needs {needed / 1e9:.3g} GB of {device_bytes / 1e9:.3g} GB" if needed > device_bytes else None


@mla_prefill.label
def _(dtype: FloatType, scope: Scope, form: str = "auto", **cell: Any) -> dict[str, Any]:
    batch, s = _problem(**cell)
    sizes, is_expanded = sizes_of(batch, s, itemsize(dtype)), scope == "core"
    try:
        form = choose_triton_form(form, is_expanded, sizes)
    except Unsupported:
        form = "none"
    return {
        "shape": f"{s.heads} heads, R {s.kv_lora}, P {s.rope}, N {s.nope}, V {s.v}",
        "triton_form": form,
        "auto_form": choose_fastest_form(this_gpu(), batch, is_expanded, sizes),
        "padded_rows": batch.padding,
    }


def _problem(
    tokens: int, sequences: int, prefix: int, lengths: Lengths, model: Model, tp: int, **_others: Any
) -> tuple[Batch, MlaShape]:
    return deal(tokens, sequences, prefix, lengths), local_shape(model, tp)


@mla_prefill.metric("tokens_per_s", unit="1/s")
def _(cell: SimpleNamespace, seconds: float) -> float:
    """New tokens per second, through one layer's attention."""
    return float(cell.tokens / seconds)
