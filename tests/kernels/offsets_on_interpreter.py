"""What runs in the interpreter's process: launches on tensors whose elements lie further apart than 32 bits count."""

from __future__ import annotations

import torch


def spread_rows(path, rows, width, dtype):
    """A tensor [rows, width] whose last row begins behind 2^31 elements, in a file that takes no room."""
    stride = (1 << 31) // (rows - 1) + 64
    elements = stride * (rows - 1) + width
    return torch.from_file(str(path), shared=True, size=elements, dtype=dtype).as_strided((rows, width), (stride, 1))


def far_layer(folder):
    """The output of linear_few and what it should be, x and out being spread."""
    from gpubench.kernels.linear_few import linear_few

    x, out = (spread_rows(folder / name, 3, 32, torch.float16) for name in ("x", "out"))
    x.copy_(torch.randn(3, 32))
    weight = torch.randn(32, 32).half()
    linear_few(x, weight, out)
    return out.clone(), x.float() @ weight.float().T


def far_entries(folder):
    """The latents that mla_cache_append wrote, and those that it was given, spread."""
    from gpubench.kernels.mla_cache import mla_cache_append

    latent = spread_rows(folder / "latent", 3, 16, torch.float16)
    latent.copy_(torch.randn(3, 16))
    cache = torch.zeros(3, 64, 32).half()
    table, lengths = torch.arange(3, dtype=torch.int32)[:, None], torch.ones(3, dtype=torch.int32)
    mla_cache_append(latent, torch.zeros(3, 16).half(), cache, table, lengths)
    return cache[:, 0, :16], latent.clone()


def far_heads(folder):
    """A query of gqa_inputs, its heads spread, and the projected heads, which a table of cos 1 doesn't turn."""
    from gpubench.kernels.gqa_inputs import gqa_inputs

    query = spread_rows(folder / "query", 3, 16, torch.float16)[None]
    projected = torch.randn(1, 5 * 16).half()
    keys, values = torch.zeros(2, 1, 1, 8, 16).half()
    rotary = torch.tensor([[[1.0], [0.0]]])
    gqa_inputs(projected, None, None, rotary, torch.zeros(1, dtype=torch.int32), query, keys, values)
    return query[0].clone(), projected.view(5, 16)[:3]


def far_keys(folder):
    """Attention of prefill to keys whose rotary parts are spread, and to the same keys side by side."""
    from gpubench.kernels.mla_prefill import mla_prefill_attention

    k_pe = spread_rows(folder / "k_pe", 3, 16, torch.float16)
    k_pe.copy_(3 * torch.randn(3, 16))
    q, kv = torch.randn(1, 1, 32).half(), torch.randn(3, 1, 32).half()
    cu_q, cu_k = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0, 3], dtype=torch.int32)
    found = []
    for keys in (k_pe, k_pe.clone()):
        out = torch.full((1, 1, 16), float("nan")).half()
        mla_prefill_attention(q, kv, keys, cu_q, cu_k, out, torch.empty(0, 1, 1, 16), torch.empty(0, 1, 1))
        found.append(out)
    return found


def refuse(kernel, changes):
    """What a launcher says of arguments of which some are others; it launches nothing."""
    from gpubench.kernels import gqa_inputs, linear_few, mla_prepare, moe_few, moe_grouped, moe_route

    routing = torch.zeros(2, 3, dtype=torch.int32)
    counts, lists = torch.zeros(4, dtype=torch.int32), torch.zeros(4, 6, dtype=torch.int32)
    inputs = {
        "projected": torch.zeros(2, 5 * 16),
        "query_norm": None,
        "key_norm": None,
        "rotary": torch.zeros(9, 2, 4),
        "positions": torch.zeros(2, dtype=torch.int32),
        "query": torch.zeros(2, 3, 16),
        "keys": torch.zeros(2, 1, 9, 16),
        "values": torch.zeros(2, 1, 9, 16),
    }
    layer = {"x": torch.zeros(2, 32), "out": torch.zeros(2, 32), "scale": torch.ones(8), "gate": torch.zeros(2, 32)}
    experts = {
        "inner": torch.zeros(2, 3, 8),
        "experts": routing,
        "shares": torch.zeros(2, 3),
        "down": torch.zeros(4, 16, 8),
        **dict.fromkeys(("shared_gate_up", "shared_gate", "shared_down", "residual")),
        "out": torch.zeros(2, 16),
    }
    launcher, arguments = {
        "gqa_inputs": (gqa_inputs.gqa_inputs, inputs),
        "prepare_rows": (linear_few.prepare_rows, {**layer, "before": "gated_norm"}),
        "rotate_heads": (mla_prepare.rotate_heads, {"x": torch.zeros(2, 3, 16), "rotary": torch.ones(2, 8)}),
        "moe_few_down": (moe_few.moe_few_down, experts),
        "moe_group": (moe_grouped.moe_group, {"experts": routing, "counts": counts, "lists": lists}),
        "moe_route": (
            moe_route.moe_route,
            {"logits": torch.zeros(2, 8), "bias": None, "experts": routing, "shares": torch.zeros(2, 3)},
        ),
    }[kernel]
    launcher(**{**arguments, **changes})
