"""Decoders over whole sequences at once, in float64, from the published formulas: causal, without a cache or chunks."""

from __future__ import annotations

import torch
from models import deepseek_reference
from torch import Tensor
from torch.nn.functional import softplus

from gpubench.models.deepseek import DeepseekModel
from gpubench.models.dense import DenseModel
from gpubench.models.hybrid import HybridModel

__all__ = ["forward_whole"]


def forward_whole(model: DenseModel | HybridModel | DeepseekModel, tokens: Tensor) -> Tensor:
    """Logits [length, vocabulary] of every position of one sequence, float64."""
    if isinstance(model, DeepseekModel):
        return deepseek_reference.decode(model, tokens[None])[0]
    c = model.config
    weights = {name: value.double() for name, value in model.named_parameters()}
    x = weights["embedding"][tokens]
    for index in range(c.layers):
        name = f"layers.{index}."
        own = {key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}
        x = _hybrid_layer(c, own, x, index) if isinstance(model, HybridModel) else _dense_layer(c, own, x)
    return _norm(x, weights["norm"], c) @ weights["head"].T


def _dense_layer(c, w, x):
    x = x + _attend(c, _norm(x, w["attention_norm"], c) @ w["qkv"].T, c.head_dim) @ w["attention_out"].T
    return x + _swiglu(_norm(x, w["mlp_norm"], c), w["gate_up"], w["down"])


def _hybrid_layer(c, w, x, index):
    normed, width = _norm(x, w["mixing_norm"], c), c.heads * c.head_dim
    if c.is_attention(index):
        query, gate, rest = (normed @ w["mixing.projection"].T).tensor_split([width, 2 * width], dim=-1)
        norms = w["mixing.query_norm"], w["mixing.key_norm"]
        attended = _attend(c, torch.cat((query, rest), dim=-1), c.rotary_dims, norms)
        x = x + (attended * gate.sigmoid()) @ w["mixing.out"].T
    else:
        x = x + _remember(c, w, normed) @ w["mixing.out"].T
    normed = _norm(x, w["experts_norm"], c)
    return x + torch.stack([_experts(c.moe, w, row) for row in normed])


def _attend(c, projected, rotated, norms=None):
    length, kv_width = len(projected), c.kv_heads * c.head_dim
    query, key, value = projected.split([c.heads * c.head_dim, kv_width, kv_width], dim=-1)
    query, key, value = (part.view(length, -1, c.head_dim).transpose(0, 1) for part in (query, key, value))
    if norms:
        query, key = _norm(query, norms[0], c), _norm(key, norms[1], c)
    query, key = _rotate(query, rotated, c), _rotate(key, rotated, c)
    key, value = (part.repeat_interleave(c.heads // c.kv_heads, dim=0) for part in (key, value))
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    scores = (query @ key.mT * c.head_dim**-0.5).masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(0, 1).flatten(1)


def _remember(c, w, x):
    """The gated delta rule, token by token."""
    d = c.delta
    mixed, gate = (x @ w["mixing.projection"].T).split([d.channels, d.value_heads * d.v], dim=-1)
    a, b = x @ w["mixing.rates"].mT
    padded = torch.cat((mixed.new_zeros(d.conv - 1, d.channels), mixed))
    convolved = torch.stack([(padded[t : t + d.conv] * w["mixing.conv"].T).sum(0) for t in range(len(x))])
    convolved = convolved * convolved.sigmoid()
    keys = d.key_heads * d.k
    queries, keys, values = convolved.split([keys, keys, d.value_heads * d.v], dim=-1)
    state, outputs = x.new_zeros(d.value_heads, d.k, d.v), []
    share = d.value_heads // d.key_heads
    for t in range(len(x)):
        q, k = (part[t].view(d.key_heads, d.k).repeat_interleave(share, dim=0) for part in (queries, keys))
        q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
        state = state * (-w["mixing.a_log"].exp() * softplus(a[t] + w["mixing.dt_bias"])).exp()[:, None, None]
        fresh = b[t].sigmoid()[:, None] * (values[t].view(-1, d.v) - torch.einsum("hkv,hk->hv", state, k))
        state = state + torch.einsum("hk,hv->hkv", k, fresh)
        outputs.append(torch.einsum("hkv,hk->hv", state, q) * d.k**-0.5)
    normed = _norm(torch.stack(outputs), w["mixing.norm"], c).flatten(1)
    return normed * gate * gate.sigmoid()


def _experts(moe, w, x):
    shares = (w["experts.router"] @ x).softmax(-1)
    chosen = sorted(range(moe.experts), key=lambda expert: -shares[expert])[: moe.top_k]
    out = (w["experts.shared_gate"] @ x).sigmoid() * _swiglu(x, w["experts.shared_gate_up"], w["experts.shared_down"])
    for expert in chosen:
        share = shares[expert] / shares[chosen].sum()
        out = out + share * _swiglu(x, w["experts.gate_up"][expert], w["experts.down"][expert])
    return out


def _swiglu(x, gate_up, down):
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    return (gate * gate.sigmoid() * up) @ down.T


def _norm(x, scale, c):
    return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * scale


def _rotate(x, dims, c):
    """x [heads, length, dim], as complex numbers: dimension i is a real part, i + dims / 2 its imaginary one."""
    half = dims // 2
    frequency = c.rotary_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[1])[:, None] * frequency
    turned = torch.complex(x[..., :half].contiguous(), x[..., half:dims].contiguous())
    turned = turned * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, x[..., dims:]), dim=-1)
