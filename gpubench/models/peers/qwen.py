"""Hybrid decoders as transformers' Qwen3.5. Qwen3-Next computes the same from weights in another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from gpubench.models.attention import KeyValueCache
from gpubench.models.gated_delta import GatedDelta, GatedDeltaCache
from gpubench.models.hybrid import GatedAttention, HybridCache, HybridConfig, HybridLayer, HybridModel
from gpubench.models.moe import MixtureOfExperts
from gpubench.models.peers.base import PinnedRows, Twin, check_experts

__all__ = ["describe"]


def describe(model: HybridModel) -> Twin:
    """The twin of `model`. Norms before and after layers there hold their distance from 1."""
    traits = {"scoring": "softmax", "groups": 1, "scale": 1.0, "has_shared_gate": True, "activation": "swiglu"}
    check_experts(model.config.moe, "Qwen3.5", **traits)
    weights = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm - 1,
        "lm_head.weight": model.head,
    }
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, HybridLayer)
        weights |= {f"model.layers.{index}.{name}": tensor for name, tensor in _name_weights(layer).items()}
    return Twin(Qwen3_5MoeForCausalLM, _describe_config(model.config), weights, _view_cache)


def _describe_config(c: HybridConfig) -> Qwen3_5MoeTextConfig:
    layer_types = ["full_attention" if c.is_attention(index) else "linear_attention" for index in range(c.layers)]
    return Qwen3_5MoeTextConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.hidden,
        num_hidden_layers=c.layers,
        layer_types=layer_types,
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
        tie_word_embeddings=False,
    )


def _name_weights(layer: HybridLayer) -> dict[str, Tensor]:
    mixing = layer.mixing
    own = _name_attention(mixing) if isinstance(mixing, GatedAttention) else _name_delta(mixing)
    return {
        "input_layernorm.weight": layer.mixing_norm - 1,
        **own,
        "post_attention_layernorm.weight": layer.experts_norm - 1,
        **_name_experts(layer.experts),
    }


def _name_attention(attention: GatedAttention) -> dict[str, Tensor]:
    """Theirs has each head's gate behind its query."""
    c = attention.config
    width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
    query, gate, key, value = torch.split(attention.projection, [width, width, kv_width, kv_width])
    by_head = torch.stack((query.view(c.heads, c.head_dim, -1), gate.view(c.heads, c.head_dim, -1)), dim=1)
    return {
        "self_attn.q_proj.weight": by_head.reshape(-1, c.hidden),
        "self_attn.k_proj.weight": key,
        "self_attn.v_proj.weight": value,
        "self_attn.q_norm.weight": attention.query_norm - 1,
        "self_attn.k_norm.weight": attention.key_norm - 1,
        "self_attn.o_proj.weight": attention.out,
    }


def _name_delta(delta: GatedDelta) -> dict[str, Tensor]:
    channels = delta.shape.channels
    return {
        "linear_attn.in_proj_qkv.weight": delta.projection[:channels],
        "linear_attn.in_proj_z.weight": delta.projection[channels:],
        "linear_attn.in_proj_a.weight": delta.rates[0],
        "linear_attn.in_proj_b.weight": delta.rates[1],
        "linear_attn.conv1d.weight": delta.conv[:, None],
        "linear_attn.A_log": delta.a_log,
        "linear_attn.dt_bias": delta.dt_bias,
        "linear_attn.norm.weight": delta.norm,
        "linear_attn.out_proj.weight": delta.out,
    }


def _name_experts(experts: MixtureOfExperts) -> dict[str, Tensor]:
    assert experts.shared_gate is not None, "checked"
    gate, up = experts.shared_gate_up.chunk(2)
    return {
        "mlp.gate.weight": experts.router,
        "mlp.experts.gate_up_proj": experts.gate_up,
        "mlp.experts.down_proj": experts.down,
        "mlp.shared_expert.gate_proj.weight": gate,
        "mlp.shared_expert.up_proj.weight": up,
        "mlp.shared_expert.down_proj.weight": experts.shared_down,
        "mlp.shared_expert_gate.weight": experts.shared_gate,
    }


class _PinnedDelta(LinearAttentionCacheLayerMixin):
    """One gated delta layer of a cache of ours. The convolution's inputs stand in order there, in a ring here."""

    is_sliding = False

    def __init__(self, own: GatedDeltaCache, position: int) -> None:
        super().__init__()
        self._own, self._slot = own, position % own.conv.shape[1]
        self.conv_states[0] = own.conv.roll(-self._slot, dims=1).mT
        self.recurrent_states[0] = own.state
        self.has_previous_state[0] = True

    def update_conv_state(self, conv_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """A token at a time updates it in place; this is for several."""
        raise AssertionError("one step is one token")

    def update_recurrent_state(self, recurrent_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """The layer's last word: the new state, and with it what the convolution has taken in."""
        self._own.state.copy_(recurrent_states)
        self._own.conv[:, self._slot].copy_(self.conv_states[0][..., -1])
        return self._own.state

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Nothing to do: the memory is there."""


def _view_cache(cache: HybridCache) -> list[PinnedRows | _PinnedDelta]:
    return [
        PinnedRows(layer.keys, layer.values)
        if isinstance(layer, KeyValueCache)
        else _PinnedDelta(layer, cache.length - 1)
        for layer in cache.layers
    ]
