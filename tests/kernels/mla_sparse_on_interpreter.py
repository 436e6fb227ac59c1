"""What runs in the interpreter's process: attention to selected entries, and how far it is from fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from latent_token_on_interpreter import distance


@dataclass(frozen=True)
class Case:
    """One sequence of each of `lengths`, and what is selected of each; what is no token of it is left out."""

    lengths: tuple[int, ...]
    indices: tuple[tuple[int, ...], ...]
    heads: int = 3
    kv_lora: int = 16
    rope: int = 16
    dtype: torch.dtype = torch.float32
    splits: int | None = None


def sparse_error(case):
    """The largest error of a sequence; entries that aren't selected are NaN, as scratch and output at first."""
    from unittest import mock

    from gpubench.kernels import mla_sparse_decode as module

    torch.manual_seed(0)
    batch, max_pages, width = len(case.lengths), 4, case.kv_lora + case.rope
    table = torch.randperm(batch * max_pages).int().view(batch, max_pages)
    whole = torch.randn(batch, max_pages * 64, width).to(case.dtype)
    cache = torch.full((batch * max_pages, 64, width), float("nan"), dtype=case.dtype)
    seen = []
    for b, (length, row) in enumerate(zip(case.lengths, case.indices, strict=True)):
        seen.append([token for token in row if 0 <= token < length])
        for token in seen[b]:
            cache[table[b, token // 64], token % 64] = whole[b, token]
    q_latent = (2 * torch.randn(batch, case.heads, case.kv_lora + 5)).to(case.dtype)[..., : case.kv_lora]
    q_rope = (2 * torch.randn(batch, case.heads + 1, case.rope)).to(case.dtype)[:, 1:]
    out = torch.full((batch, case.heads, case.kv_lora), float("nan"), dtype=case.dtype)
    lengths, indices = (torch.tensor(given, dtype=torch.int32) for given in (case.lengths, case.indices))
    with mock.patch.object(module, "_choose_splits", lambda *_: case.splits or 1):
        scratch = torch.full((module.mla_sparse_decode_scratch(q_latent, indices.shape[1]),), float("nan"))
        module.mla_sparse_decode(q_latent, q_rope, cache, table, lengths, indices, out, scratch, softmax_scale=0.3)
    errors = []
    for b, tokens in enumerate(seen):
        if not tokens:
            errors.append(out[b].abs().max().item())
            continue
        entries = whole[b, tokens].double()
        scores = torch.cat((q_latent, q_rope), dim=-1)[b].double() @ entries.T * 0.3
        errors.append(distance(out[b], scores.softmax(dim=-1) @ entries[:, : case.kv_lora]))
    return max(errors)


def refuse(changes):
    """What the launcher says of arguments of which some are others; it launches nothing."""
    from gpubench.kernels.mla_sparse_decode import mla_sparse_decode

    tensors = {
        "q_latent": torch.zeros(2, 4, 16),
        "q_rope": torch.zeros(2, 4, 16),
        "cache": torch.zeros(6, 64, 32),
        "block_table": torch.zeros(2, 3, dtype=torch.int32),
        "lengths": torch.ones(2, dtype=torch.int32),
        "indices": torch.zeros(2, 7, dtype=torch.int32),
        "out": torch.zeros(2, 4, 16),
        "scratch": torch.zeros(0),
        **changes,
    }
    mla_sparse_decode(**tensors, softmax_scale=1.0)


def check_operator():
    """torch's own checks of the operator."""
    from gpubench.kernels import mla_sparse_decode  # noqa: F401 (registers it)

    tensors = (
        torch.randn(2, 4, 16),
        torch.randn(2, 4, 16),
        torch.randn(6, 64, 32),
        torch.arange(6, dtype=torch.int32).view(2, 3),
        torch.full((2,), 100, dtype=torch.int32),
        torch.arange(14, dtype=torch.int32).view(2, 7),
        torch.zeros(2, 4, 16),
        torch.zeros(0),
    )
    torch.library.opcheck(torch.ops.gpubench.mla_sparse_decode.default, tensors, {"softmax_scale": 0.5})
