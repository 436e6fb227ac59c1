"""A small hybrid whose weights follow from a formula, as gpubench's model and as transformers' Qwen3.5.

The weights need no generator, so they are the same with every version of torch on every machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gpubench.models.hybrid import HybridConfig, HybridModel
from gpubench.models.moe import MoeShape
from gpubench.models.shapes import GatedDeltaShape

CONFIG = HybridConfig(
    layers=8,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=32,
    rotary_dims=8,
    delta=GatedDeltaShape(key_heads=2, value_heads=6, k=16, v=32, conv=4),
    moe=MoeShape(experts=12, top_k=3, intermediate=24, shared_intermediate=40),
    vocabulary=97,
    context=64,
)
SEQUENCES, STEPS = 3, 24


def numbers(*shape: int, seed: int) -> Tensor:
    """Float32 numbers that look evenly spread over (−1, 1), by integer arithmetic alone."""
    x = torch.arange(torch.Size(shape).numel()) + 1_000_003 * seed
    for multiplier in (1_103_515_245, 69_069):
        x = (x * multiplier + 12_345) % 2**31
        x ^= x >> 15
    return (x.double() / 2**30 - 1).float().view(shape)


def tokens() -> Tensor:
    """[SEQUENCES, STEPS]."""
    return ((numbers(SEQUENCES, STEPS, seed=0) + 1) / 2 * CONFIG.vocabulary).long().clamp(max=CONFIG.vocabulary - 1)


def make_model(attention: Any = "torch", layers: int = CONFIG.layers) -> HybridModel:
    """CONFIG's model with weights from the formula."""
    model = replace(CONFIG, layers=layers).build(torch.float32, attention)
    for seed, (name, parameter) in enumerate(model.named_parameters(), start=1):
        drawn = numbers(*parameter.shape, seed=seed)
        if name.endswith("norm"):
            drawn = 1 + 0.3 * drawn
        elif name.endswith(("a_log", "dt_bias")):
            drawn = 1.5 * drawn - 1
        else:
            drawn = drawn * (3 / parameter.shape[-1]) ** 0.5
        parameter.copy_(drawn)
    return model


def empty_cache(model: HybridModel, batch: int, length: int) -> Any:
    """A cache of sequences of which nothing has been read yet."""
    cache = model.make_cache(batch, length)
    for layer in cache.layers:
        for tensor in vars(layer).values():
            tensor.zero_()
    return cache


def decode(model: HybridModel, given: Tensor) -> Tensor:
    """Logits of every step, [sequences, steps, vocabulary], from an empty cache."""
    cache = empty_cache(model, *given.shape)
    steps = [model(given[:, step].contiguous(), cache.prefix(step + 1)) for step in range(given.shape[1])]
    return torch.stack(steps, dim=1)


def make_transformers_model(model: HybridModel) -> Any:
    """transformers' implementation with `model`'s weights."""
    from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

    c = model.config
    config = Qwen3_5MoeTextConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.hidden,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.norm_eps,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": c.rotary_base,
            "partial_rotary_factor": c.rotary_dims / c.head_dim,
        },
        linear_conv_kernel_dim=c.delta.conv,
        linear_key_head_dim=c.delta.k,
        linear_value_head_dim=c.delta.v,
        linear_num_key_heads=c.delta.key_heads,
        linear_num_value_heads=c.delta.value_heads,
        moe_intermediate_size=c.moe.intermediate,
        shared_expert_intermediate_size=c.moe.shared_intermediate,
        num_experts_per_tok=c.moe.top_k,
        num_experts=c.moe.experts,
    )
    theirs = Qwen3_5MoeForCausalLM(config).eval()
    theirs.load_state_dict(_rename(model), strict=True)
    return theirs


def decode_with_transformers(model: HybridModel, given: Tensor) -> Tensor:
    """The same logits as `decode`, one token at a time with their cache."""
    theirs, cache, steps = make_transformers_model(model), None, []
    with torch.no_grad():
        for step in range(given.shape[1]):
            answer = theirs(given[:, step : step + 1], past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            steps.append(answer.logits[:, -1])
    return torch.stack(steps, dim=1)


def _rename(model: HybridModel) -> dict[str, Tensor]:
    """Our weights under their names; their norms before and after layers hold the distance from 1."""
    weights = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm - 1,
        "lm_head.weight": model.head,
    }
    for index, layer in enumerate(model.layers):
        own = {
            "input_layernorm": layer.mixing_norm - 1,
            "post_attention_layernorm": layer.experts_norm - 1,
            "mlp.gate": layer.experts.router,
            "mlp.shared_expert_gate": layer.experts.shared_gate,
            "mlp.shared_expert.down_proj": layer.experts.shared_down,
        }
        gate, up = layer.experts.shared_gate_up.chunk(2)
        own |= {"mlp.shared_expert.gate_proj": gate, "mlp.shared_expert.up_proj": up}
        own |= _rename_attention(model, layer) if model.config.is_attention(index) else _rename_delta(model, layer)
        weights |= {f"model.layers.{index}.{name}.weight": tensor for name, tensor in own.items()}
        bare = {"mlp.experts.gate_up_proj": layer.experts.gate_up, "mlp.experts.down_proj": layer.experts.down}
        if not model.config.is_attention(index):
            bare |= {"linear_attn.A_log": layer.mixing.a_log, "linear_attn.dt_bias": layer.mixing.dt_bias}
        weights |= {f"model.layers.{index}.{name}": tensor for name, tensor in bare.items()}
    return weights


def _rename_attention(model: HybridModel, layer: Any) -> dict[str, Tensor]:
    c, own = model.config, layer.mixing
    query, gate, key, value = own.projection.split(
        [c.heads * c.head_dim] * 2 + [c.kv_heads * c.head_dim] * 2,
    )
    by_head = torch.stack((query.view(c.heads, c.head_dim, -1), gate.view(c.heads, c.head_dim, -1)), dim=1)
    return {
        "self_attn.q_proj": by_head.reshape(-1, c.hidden),
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.q_norm": own.query_norm - 1,
        "self_attn.k_norm": own.key_norm - 1,
        "self_attn.o_proj": own.out,
    }


def _rename_delta(model: HybridModel, layer: Any) -> dict[str, Tensor]:
    own = layer.mixing
    mixed, gate = own.projection.split([model.config.delta.channels, own.projection.shape[0] - own.conv.shape[0]])
    return {
        "linear_attn.in_proj_qkv": mixed,
        "linear_attn.in_proj_z": gate,
        "linear_attn.in_proj_a": own.rates[0],
        "linear_attn.in_proj_b": own.rates[1],
        "linear_attn.conv1d": own.conv[:, None],
        "linear_attn.norm": own.norm,
        "linear_attn.out_proj": own.out,
    }
