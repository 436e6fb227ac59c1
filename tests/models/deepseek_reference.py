"""A decoder with latent attention, written out in float64: every head with keys and values of its own, token by token.

From the published formulas, not from gpubench's code: nothing is absorbed, paged, gathered or batched.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

from gpubench.models.deepseek import DeepseekConfig, DeepseekModel


def decode(model: DeepseekModel, given: Tensor) -> Tensor:
    """Logits of every step, [sequences, steps, vocabulary], for tokens [sequences, steps], from an empty cache."""
    weights = {name: value.double() for name, value in model.named_parameters()}
    return torch.stack([_decode_one(model.config, weights, row.tolist()) for row in given])


def _decode_one(c: DeepseekConfig, w: dict[str, Tensor], tokens: list[int]) -> Tensor:
    past: dict[str, list[Tensor]] = defaultdict(list)
    logits = []
    for position, token in enumerate(tokens):
        x = w["embedding"][token]
        for index in range(c.layers):
            name = f"layers.{index}."
            own = {key.removeprefix(name): value for key, value in w.items() if key.startswith(name)}
            x = x + _attend(c, own, _norm(x, own["attention_norm"], c), position, past, name)
            normed = _norm(x, own["feed_norm"], c)
            x = x + (_experts(c, own, normed) if "feed.router" in own else _swiglu(normed, *_mlp(own, "feed.")))
        logits.append(w["head"] @ _norm(x, w["norm"], c))
    return torch.stack(logits)


def _attend(c, w, x, position, past, name):
    m = c.mla
    low, latent, rope = (w["attention.down"] @ x).split([c.q_lora, m.kv_lora, m.rope])
    low = _norm(low, w["attention.query_norm"], c)
    past[name + "latent"].append(_norm(latent, w["attention.latent_norm"], c))
    past[name + "rope"].append(_rotate(rope, position, c))
    seen = _select(c, w, x, low, position, past, name) if c.indexer else range(position + 1)
    heads = []
    for h in range(m.heads):
        query = (w["attention.query_up"] @ low).view(m.heads, m.nope + m.rope)[h]
        query = torch.cat((query[: m.nope], _rotate(query[m.nope :], position, c)))
        keys, values = [], []
        for t in seen:
            own = past[name + "latent"][t]
            keys.append(torch.cat((w["attention.key_up"][h] @ own, past[name + "rope"][t])))
            values.append(w["attention.value_up"][h] @ own)
        share = (torch.stack(keys) @ query / math.sqrt(m.nope + m.rope)).softmax(0)
        heads.append(share @ torch.stack(values))
    return w["attention.out"] @ torch.cat(heads)


def _select(c, w, x, low, position, past, name):
    i = c.indexer
    key, weights = (w["indexer.key"] @ x).split([i.dim, i.heads])
    key = (key - key.mean()) / (key.var(correction=0) + c.norm_eps).sqrt()
    key = key * w["indexer.key_norm"] + w["indexer.key_shift"]
    past[name + "key"].append(_rotate(key, position, c))
    queries = (w["indexer.query"] @ low).view(i.heads, i.dim)
    scores = []
    for key in past[name + "key"]:
        products = [max(_rotate(query, position, c) @ key, 0.0) for query in queries]
        scores.append(sum(weight * product for weight, product in zip(weights, products, strict=True)))
    best = sorted(range(len(scores)), key=lambda t: -scores[t])[: i.k]
    return sorted(best)


def _experts(c, w, x):
    e = c.moe
    scores = torch.sigmoid(w["feed.router"] @ x)
    wanted = scores + w["feed.bias"]
    size = e.experts // e.groups
    groups = [sum(sorted(wanted[g * size : (g + 1) * size].tolist())[-2:]) for g in range(e.groups)]
    is_open = sorted(range(e.groups), key=lambda g: -groups[g])[: e.top_groups]
    eligible = [g * size + i for g in is_open for i in range(size)]
    chosen = sorted(eligible, key=lambda expert: -wanted[expert])[: e.top_k]
    total = sum(scores[expert] for expert in chosen)
    out = _swiglu(x, w["feed.shared_gate_up"], w["feed.shared_down"])
    for expert in chosen:
        out = out + e.scale * scores[expert] / total * _swiglu(x, w["feed.gate_up"][expert], w["feed.down"][expert])
    return out


def _mlp(w, name):
    return w[name + "gate_up"], w[name + "down"]


def _swiglu(x, gate_up, down):
    gate, up = (gate_up @ x).chunk(2)
    return down @ (gate / (1 + torch.exp(-gate)) * up)


def _norm(x, scale, c):
    return x / (x.square().mean() + c.norm_eps).sqrt() * scale


def _rotate(x, position, c):
    """The first `rope` of x, as complex numbers: dimension i is a real part, i + rope / 2 its imaginary one."""
    half = c.mla.rope // 2
    angles = position * c.rotary_base ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(x[:half], x[half : 2 * half]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, x[2 * half :]))
