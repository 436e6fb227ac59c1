"""Dense decoders as transformers' Llama."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gpubench.models.dense import DenseCache, DenseLayer, DenseModel
from gpubench.models.peers.base import PinnedRows, Twin

__all__ = ["describe"]


def describe(model: DenseModel) -> Twin:
    """The twin of `model`."""
    c = model.config
    config = LlamaConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.hidden,
        intermediate_size=c.intermediate,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads,
        head_dim=c.head_dim,
        rms_norm_eps=c.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rotary_base},
        tie_word_embeddings=False,
    )
    weights: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm,
        "lm_head.weight": model.head,
    }
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, DenseLayer)
        weights |= {f"model.layers.{index}.{name}.weight": tensor for name, tensor in _name_weights(layer).items()}
    return Twin(LlamaForCausalLM, config, weights, _view_cache)


def _name_weights(layer: DenseLayer) -> dict[str, Tensor]:
    c = layer.config
    width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
    query, key, value = torch.split(layer.qkv, [width, kv_width, kv_width])
    gate, up = layer.gate_up.chunk(2)
    return {
        "input_layernorm": layer.attention_norm,
        "self_attn.q_proj": query,
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.o_proj": layer.attention_out,
        "post_attention_layernorm": layer.mlp_norm,
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": layer.down,
    }


def _view_cache(cache: DenseCache) -> list[PinnedRows]:
    return [PinnedRows(keys, values) for keys, values in zip(cache.keys, cache.values, strict=True)]
