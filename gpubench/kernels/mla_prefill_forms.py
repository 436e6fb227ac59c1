"""Both forms of MLA prefill from the latent cache to the output: cuBLAS for the projections, around our attention."""

from __future__ import annotations

import torch
from torch import Tensor

from gpubench.kernels.mla_prefill import mla_prefill_latent_attention, run_attention
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

__all__ = ["mla_prefill_absorbed", "mla_prefill_expanded"]


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
    kernel = "mla_prefill_expanded"
    tokens, heads, dim = check_queries(kernel, q)
    latent, v = w_kv.shape[-1], out.shape[-1]
    keys, rope = check_cache(kernel, cache, latent, q)
    nope = dim - rope
    check_whole(kernel, "w_kv", w_kv, (heads * (nope + v), latent), like=q)
    check_whole(kernel, "kv", kv, (keys, heads, nope + v), like=q)
    check_whole(kernel, "out", out, (tokens, heads, v), like=q)
    check_widths(kernel, nope, v)
    check_splits(kernel, partial, partial_lse, out)
    sizes = Sizes(tokens, keys, check_offsets(kernel, cu_q, cu_k, q), heads, 0, rope, nope, v, q.element_size())
    torch.mm(cache[:, :latent], w_kv.T, out=kv.view(keys, -1))
    run_attention((q, q, kv, cache[:, latent:]), (cu_q, cu_k), (out, partial, partial_lse), "expanded", sizes)


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
    kernel = "mla_prefill_absorbed"
    tokens, heads, dim = check_queries(kernel, q)
    latent, v = w_kv.shape[-1], out.shape[-1]
    nope = dim - check_cache(kernel, cache, latent, q)[1]
    check_whole(kernel, "w_kv", w_kv, (heads * (nope + v), latent), like=q)
    check_whole(kernel, "out", out, (tokens, heads, v), like=q)
    check_whole(kernel, "q_latent", q_latent, (tokens, heads, latent), like=q)
    w = w_kv.view(heads, nope + v, latent)
    torch.bmm(q[..., :nope].transpose(0, 1), w[:, :nope], out=q_latent.transpose(0, 1))
    mla_prefill_latent_attention(q_latent, q, cache, cu_q, cu_k, out_latent, partial, partial_lse)
    torch.bmm(out_latent.transpose(0, 1), w[:, nope:].transpose(1, 2), out=out.transpose(0, 1))
