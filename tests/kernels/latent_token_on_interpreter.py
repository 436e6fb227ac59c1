"""What runs in the interpreter's process: the kernels around latent attention at one new token, and their errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_PAGES = 3


@dataclass(frozen=True)
class Case:
    """One sequence of each of `lengths`, the new token included; 0 for a padded row."""

    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    q_lora: int = 24
    kv_lora: int = 16
    rope: int = 16
    heads: int = 3
    dim: int = 24
    k: int = 5


def distance(out, ref):
    """‖out − ref‖ / ‖ref‖; NaN where an output is."""
    ref = ref.double()
    return ((out.double() - ref).norm() / ref.norm().clamp(min=1e-30)).item()


def make_rotary(rope):
    angles = torch.randn(rope // 2, dtype=torch.float64)
    return angles, torch.stack((angles.cos(), angles.sin())).float()


def rotate_in_double(x, angles):
    """The first dims of x as complex numbers (i, i + half), turned."""
    half = len(angles)
    turned = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, x[..., 2 * half :]), dim=-1)


def make_pages(case, width):
    batch = len(case.lengths)
    cache = torch.randn(batch * MAX_PAGES, 64, width).to(case.dtype)
    table = torch.randperm(batch * MAX_PAGES).int().view(batch, MAX_PAGES)
    return cache, table, torch.tensor(case.lengths, dtype=torch.int32)


def prepare_errors(case):
    """Of the queries and of the whole cache, of which only the new entries may have changed."""
    from gpubench.kernels.mla_prepare import mla_prepare

    torch.manual_seed(0)
    batch, width = len(case.lengths), case.kv_lora + case.rope
    cache, table, lengths = make_pages(case, width)
    angles, rotary = make_rotary(case.rope)
    projected = torch.randn(batch, case.q_lora + width + 3).to(case.dtype)[:, : case.q_lora + width]
    norms = [(1 + torch.randn(size) / 4).to(case.dtype) for size in (case.q_lora, case.kv_lora)]
    query = torch.full((batch, case.q_lora), float("nan"), dtype=case.dtype)
    wanted = cache.double()

    def normed(x, scale):
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * scale.double()

    low, latent, rope = projected.double().split([case.q_lora, case.kv_lora, case.rope], dim=-1)
    entries = torch.cat((normed(latent, norms[1]), rotate_in_double(rope, angles)), dim=-1)
    for b, length in enumerate(case.lengths):
        if length:
            wanted[table[b, (length - 1) // 64], (length - 1) % 64] = entries[b]
    mla_prepare(projected, *norms, rotary, cache, table, lengths, query, 1e-5)
    return distance(query, normed(low, norms[0])), distance(cache, wanted)


def rotate_error(case):
    """Of a part of wider heads, whose rest must stay as it was."""
    from gpubench.kernels.mla_prepare import rotate_heads

    torch.manual_seed(0)
    angles, rotary = make_rotary(case.rope)
    x = torch.randn(len(case.lengths), case.heads, case.rope + 7).to(case.dtype)
    wanted = torch.cat((x[..., :7].double(), rotate_in_double(x[..., 7:].double(), angles)), dim=-1)
    rotate_heads(x[..., 7:], rotary)
    return distance(x, wanted)


def indexer_errors(case):
    """Of all keys, of which only the new ones may have changed, and of the queries."""
    from gpubench.kernels.indexer_inputs import indexer_inputs

    torch.manual_seed(0)
    batch = len(case.lengths)
    angles, rotary = make_rotary(case.rope)
    keys = torch.randn(batch, max(1, *case.lengths, 1), case.dim).to(case.dtype)
    x = (2 + torch.randn(batch, case.dim + 3)).to(case.dtype)[:, : case.dim]
    scale, shift = (1 + torch.randn(case.dim) / 4).to(case.dtype), torch.randn(case.dim).to(case.dtype)
    normed = x.double() - x.double().mean(-1, keepdim=True)
    normed = normed / (normed.square().mean(-1, keepdim=True) + 1e-5).sqrt() * scale.double() + shift.double()
    wanted = keys.double()
    for b, length in enumerate(case.lengths):
        if length:
            wanted[b, length - 1] = rotate_in_double(normed[b], angles)
    queries = torch.randn(batch, case.heads + 1, case.dim).to(case.dtype)[:, 1:]
    turned = rotate_in_double(queries.double(), angles)
    indexer_inputs(x, scale, shift, rotary, queries, keys, torch.tensor(case.lengths, dtype=torch.int32), 1e-5)
    return distance(keys, wanted), distance(queries, turned)


def gather(case, indices):
    """What is gathered, and what should be; slots without a token keep what they had."""
    from gpubench.kernels.mla_gather import mla_gather

    torch.manual_seed(0)
    cache, table, lengths = make_pages(case, case.kv_lora + case.rope)
    room = -(-len(indices[0]) // 64)
    gathered = torch.randn(len(indices) * room, 64, cache.shape[2]).to(case.dtype)
    wanted = gathered.clone().view(len(indices), room * 64, -1)
    for b, row in enumerate(indices):
        for slot, token in enumerate(row):
            if 0 <= token < case.lengths[b]:
                wanted[b, slot] = cache[table[b, token // 64], token % 64]
    mla_gather(cache, table, lengths, torch.tensor(indices, dtype=torch.int32), gathered)
    return gathered.view_as(wanted), wanted


def refuse(kernel, changes):
    """What a launcher says of arguments of which some are others; it launches nothing."""
    from gpubench.kernels import indexer_inputs, mla_gather, mla_prepare

    table, lengths, rotary = torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, dtype=torch.int32), torch.ones(2, 8)
    cache = torch.zeros(6, 64, 32)
    prepare = {
        "projected": torch.zeros(2, 56),
        "query_norm": torch.ones(24),
        "latent_norm": torch.ones(16),
        "rotary": rotary,
        "cache": cache,
        "block_table": table,
        "lengths": lengths,
        "query": torch.zeros(2, 24),
        "eps": 1e-6,
    }
    key = {
        "x": torch.zeros(2, 24),
        "scale": torch.ones(24),
        "shift": torch.zeros(24),
        "rotary": rotary,
        "queries": torch.zeros(2, 5, 24),
        "keys": torch.zeros(2, 9, 24),
        "lengths": lengths,
        "eps": 1e-6,
    }
    indices = torch.zeros(2, 70, dtype=torch.int32)
    gathered = torch.zeros(4, 64, 32)
    launchers = {
        "mla_prepare": (mla_prepare.mla_prepare, prepare),
        "rotate_heads": (mla_prepare.rotate_heads, {"x": torch.zeros(2, 3, 16), "rotary": rotary}),
        "indexer_inputs": (indexer_inputs.indexer_inputs, key),
        "mla_gather": (
            mla_gather.mla_gather,
            {"cache": cache, "block_table": table, "lengths": lengths, "indices": indices, "gathered": gathered},
        ),
    }
    launcher, arguments = launchers[kernel]
    launcher(**{**arguments, **changes})
