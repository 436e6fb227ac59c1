"""Both forms of MLA prefill from the latent cache to the output: cuBLAS for the projections, around our attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gpubench.kernels.arguments import last_size
from gpubench.kernels.launching import Planned
from gpubench.kernels.mla_prefill import Attend, prepare_attention
from gpubench.kernels.mla_prefill_arguments import (
    check_cache,
    check_offsets,
    check_queries,
    check_splits,
    check_whole,
    check_widths,
)
from gpubench.kernels.mla_prefill_tiling import Sizes
from gpubench.kernels.ops import as_op

__all__ = ["mla_prefill_absorbed", "mla_prefill_expanded", "mla_prefill_latent_attention"]


@as_op("mla_prefill_expanded", mutates=("kv", "out", "partial", "partial_lse"))
def mla_prefill_expanded(
    q: Tensor,
    cache: Tensor,
    w_kv: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    kv: Tensor,
    out: Tensor,
    partial: Tensor,
    partial_lse: Tensor,
) -> None:
    """Expand the cache into kv [K, H, N + V] and write the attention into `out`: cuBLAS, then one kernel or two.

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    _EXPANDED((q, cache, w_kv, cu_q, cu_k, kv, out, partial, partial_lse))


def _prepare_expanded(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    q, cache, w_kv, cu_q, cu_k, kv, out, partial, partial_lse = tensors
    kernel = "mla_prefill_expanded"
    tokens, heads, dim = check_queries(kernel, q)
    latent, v = last_size(w_kv), last_size(out)
    keys, rope = check_cache(kernel, cache, latent, q)
    nope = dim - rope
    check_whole(kernel, "w_kv", w_kv, (heads * (nope + v), latent), like=q)
    check_whole(kernel, "kv", kv, (keys, heads, nope + v), like=q)
    check_whole(kernel, "out", out, (tokens, heads, v), like=q)
    check_widths(kernel, nope, v)
    splits = check_splits(kernel, partial, partial_lse, out)
    sizes = Sizes(tokens, keys, check_offsets(kernel, cu_q, cu_k, q), heads, 0, rope, nope, v, q.element_size())
    attend = prepare_attention("expanded", sizes, latent + rope, splits)

    def launch(tensors: Sequence[Tensor]) -> None:
        q, cache, w_kv, cu_q, cu_k, kv, *outputs = tensors
        latents, k_pe = torch.split_with_sizes(cache, (latent, rope), dim=1)
        torch.mm(latents, w_kv.T, out=kv.view(keys, -1))
        attend((q, q, kv, k_pe, cu_q, cu_k, *outputs))

    return launch


_EXPANDED = Planned(_prepare_expanded)


@as_op("mla_prefill_absorbed", mutates=("q_latent", "out_latent", "out", "partial", "partial_lse"))
def mla_prefill_absorbed(
    q: Tensor,
    cache: Tensor,
    w_kv: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    q_latent: Tensor,
    out_latent: Tensor,
    out: Tensor,
    partial: Tensor,
    partial_lse: Tensor,
) -> None:
    """Write the attention into `out` without expanding the cache, by way of q_latent and out_latent [T, H, R].

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    _ABSORBED((q, cache, w_kv, cu_q, cu_k, q_latent, out_latent, out, partial, partial_lse))


def _prepare_absorbed(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    q, cache, w_kv, cu_q, cu_k, q_latent, out_latent, out, *scratch = tensors
    kernel = "mla_prefill_absorbed"
    tokens, heads, dim = check_queries(kernel, q)
    latent, v = last_size(w_kv), last_size(out)
    rope = check_cache(kernel, cache, latent, q)[1]
    nope = dim - rope
    check_whole(kernel, "w_kv", w_kv, (heads * (nope + v), latent), like=q)
    check_whole(kernel, "out", out, (tokens, heads, v), like=q)
    check_whole(kernel, "q_latent", q_latent, (tokens, heads, latent), like=q)
    attend = _prepare_latent(kernel, q_latent, q, cache, cu_q, cu_k, out_latent, *scratch)

    def launch(tensors: Sequence[Tensor]) -> None:
        q, cache, w_kv, cu_q, cu_k, q_latent, out_latent, out, *scratch = tensors
        up_k, up_v = torch.split_with_sizes(w_kv.view(heads, nope + v, latent), (nope, v), dim=1)
        torch.bmm(q[..., :nope].transpose(0, 1), up_k, out=q_latent.transpose(0, 1))
        attend((q_latent, q, cache, cache[:, latent:], cu_q, cu_k, out_latent, *scratch))
        torch.bmm(out_latent.transpose(0, 1), up_v.mT, out=out.transpose(0, 1))

    return launch


_ABSORBED = Planned(_prepare_absorbed)


@as_op("mla_prefill_latent_attention", mutates=("out_latent", "partial", "partial_lse"))
def mla_prefill_latent_attention(
    q_latent: Tensor,
    q: Tensor,
    cache: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    out_latent: Tensor,
    partial: Tensor,
    partial_lse: Tensor,
) -> None:
    """Write the attention of q_latent [T, H, R], and q's rotary part, over the cache into out_latent [T, H, R].

    Neither allocates nor synchronises. ArgumentError names an argument that doesn't fit.
    """
    _ATTEND((q_latent, q, cache, cu_q, cu_k, out_latent, partial, partial_lse))


def _prepare_attention(tensors: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], None]:
    """What launches on tensors like these, which are checked."""
    attend = _prepare_latent("mla_prefill_latent_attention", *tensors)
    latent = tensors[0].shape[-1]

    def launch(tensors: Sequence[Tensor]) -> None:
        q_latent, q, cache, *others = tensors
        attend((q_latent, q, cache, cache[:, latent:], *others))

    return launch


_ATTEND = Planned(_prepare_attention)


def _prepare_latent(
    kernel: str,
    q_latent: Tensor,
    q: Tensor,
    cache: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    out_latent: Tensor,
    partial: Tensor,
    partial_lse: Tensor,
) -> Attend:
    """`prepare_attention` in the absorbed form; ArgumentError in the name of `kernel` for what doesn't fit."""
    tokens, heads, dim = check_queries(kernel, q)
    latent = last_size(q_latent)
    keys, rope = check_cache(kernel, cache, latent, q)
    for name, tensor in (("q_latent", q_latent), ("out_latent", out_latent)):
        check_whole(kernel, name, tensor, (tokens, heads, latent), like=q)
    sequences = check_offsets(kernel, cu_q, cu_k, q)
    sizes = Sizes(tokens, keys, sequences, heads, latent, rope, dim - rope, latent, q.element_size())
    return prepare_attention("absorbed", sizes, latent + rope, check_splits(kernel, partial, partial_lse, out_latent))
