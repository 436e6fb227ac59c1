"""Latent attention of a chunk: consecutive tokens of one sequence, behind what its slot has before them.

    k[t, h] = [W_k_up[h] · c[t] ‖ k_pe[t]],   v[t, h] = W_v_up[h] · c[t]
    out[i, h] = softmax over t ≤ position(i) of (q[i, h] · k[t, h] · (N + P)^-½) · v[t, h]

In torch's operators keys and values of every head are expanded from the latents; our kernels also have a form that
absorbs, as gpubench.kernels.mla_prefill says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gpubench.kernels.ops import as_seam
from gpubench.models.attention import attend_causally

__all__ = ["PAGE", "latent_chunk"]

PAGE = 64
"""Tokens per page of a cache."""


class _Widths(NamedTuple):
    """Of a head's keys, of what all heads share of them, and of values; from a chunk's operands."""

    nope: int
    rope: int
    v: int

    @classmethod
    def of(cls, query: Tensor, entry: Tensor, weights: Tensor) -> _Widths:
        rope = entry.shape[1] - weights.shape[2]
        nope = query.shape[2] - rope
        return cls(nope, rope, weights.shape[1] - nope)


def _fake_chunk(query: Tensor, entry: Tensor, *others: Any) -> Tensor:
    weights = others[-2]
    return query.new_empty(query.shape[0], query.shape[1] * _Widths.of(query, entry, weights).v)


@as_seam("latent_chunk", mutates=("cache",), fake=_fake_chunk)
def latent_chunk(  # noqa: PLR0913, PLR0917 - an operator's arguments
    query: Tensor, entry: Tensor, cache: Tensor, table: Tensor, span: Tensor, weights: Tensor, has_kernels: bool
) -> Tensor:
    """Consecutive tokens of one sequence: query [tokens, H, N + P], placed already, entry [tokens, R + P], and weights
    [H, N + V, R] → [tokens, H · V]."""
    slot, first = span.tolist()
    latent, last = weights.shape[2], first + len(query)
    places = torch.arange(last, device=table.device)
    rows = table[slot].long()[places // PAGE] * PAGE + places % PAGE
    entries = cache.flatten(0, 1)
    entries.index_copy_(0, rows[first:], entry)
    seen = entries[rows]
    if has_kernels:
        return _prefill_in_kernels(query, seen, weights)
    expanded = F.linear(seen[:, :latent], weights.flatten(0, 1)).view(last, weights.shape[0], -1)
    nope = _Widths.of(query, entry, weights).nope
    shared = seen[:, None, latent:].expand(-1, weights.shape[0], -1)
    return attend_causally(query, torch.cat((expanded[..., :nope], shared), dim=-1), expanded[..., nope:])


def _prefill_in_kernels(query: Tensor, seen: Tensor, weights: Tensor) -> Tensor:
    """The same in gpubench.kernels.mla_prefill, in the form that is faster there; `seen` [length, R + P]."""
    from gpubench.kernels.mla_prefill_forms import mla_prefill_absorbed, mla_prefill_expanded
    from gpubench.kernels.mla_prefill_tiling import Sizes, choose_form, choose_splits

    (tokens, heads, _), length, latent = query.shape, len(seen), weights.shape[2]
    nope, rope, v = _Widths.of(query, seen, weights)
    sizes = Sizes(tokens, length, 1, heads, latent, rope, nope, v, query.element_size())
    form = choose_form(sizes)
    width = latent if form == "absorbed" else v
    sums = query.new_empty(choose_splits(form, sizes), tokens, heads, dtype=torch.float32)
    partial = sums.new_empty(*sums.shape, width)
    cu_q, cu_k = (torch.arange(2, dtype=torch.int32, device=query.device) * count for count in (tokens, length))
    out, flat = query.new_empty(tokens, heads, v), weights.flatten(0, 1)
    if form == "absorbed":
        works_in = query.new_empty(2, tokens, heads, latent)
        mla_prefill_absorbed(query, seen, flat, cu_q, cu_k, works_in[0], works_in[1], out, partial, sums)
    else:
        kv = query.new_empty(length, heads, nope + v)
        mla_prefill_expanded(query, seen, flat, cu_q, cu_k, kv, out, partial, sums)
    return out.flatten(1)
