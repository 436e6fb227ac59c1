"""Decoders with latent attention as transformers' DeepSeek-V3, those with an indexer as its DeepSeek-V3.2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, DeepseekV32Config, DeepseekV32ForCausalLM

from gpubench.errors import Unsupported
from gpubench.models.deepseek import DeepseekCache, DeepseekConfig, DeepseekLayer, DeepseekModel
from gpubench.models.indexer import Indexer
from gpubench.models.latent import LatentAttention
from gpubench.models.moe import MixtureOfExperts
from gpubench.models.peers.base import PinnedPages, Twin, check_experts
from gpubench.models.shapes import IndexerShape, MlaShape

__all__ = ["describe"]

_LATENT_EPS = 1e-6
"""Of norms that its configuration has no word for."""


def describe(model: DeepseekModel) -> Twin:
    """The twin of `model`."""
    c = model.config
    check_experts(c.moe, "DeepSeek-V3", scoring="sigmoid", has_shared_gate=False, activation="swiglu")
    if c.moe.shared_intermediate % c.moe.intermediate:
        raise Unsupported(
            f"backend transformers: DeepSeek-V3's shared expert is as wide as several others; moe.shared_intermediate: "
            f"{c.moe.shared_intermediate} is no multiple of {c.moe.intermediate}"
        )
    if c.norm_eps != _LATENT_EPS:
        raise Unsupported(
            f"backend transformers: DeepSeek-V3's latents have norm_eps: {_LATENT_EPS} alone; got {c.norm_eps}"
        )
    weights: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm,
        "lm_head.weight": model.head,
    }
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, DeepseekLayer)
        weights |= {f"model.layers.{index}.{name}": tensor for name, tensor in _name_weights(layer).items()}

    def view_cache(cache: DeepseekCache) -> list[_PinnedLatents]:
        return [_PinnedLatents(cache, index, c.mla.kv_lora) for index in range(c.layers)]

    if c.indexer is None:
        config = DeepseekV3Config(**_describe_config(c), rope_interleave=False)
        return Twin(DeepseekV3ForCausalLM, config, weights, view_cache)
    config = DeepseekV32Config(**_describe_config(c), **_describe_indexer(c.indexer))
    return Twin(DeepseekV32ForCausalLM, config, weights, view_cache)


def _describe_config(c: DeepseekConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocabulary,
        "hidden_size": c.hidden,
        "intermediate_size": c.intermediate,
        "moe_intermediate_size": c.moe.intermediate,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.mla.heads,
        "num_key_value_heads": c.mla.heads,
        "n_shared_experts": c.moe.shared_intermediate // c.moe.intermediate,
        "n_routed_experts": c.moe.experts,
        "routed_scaling_factor": c.moe.scale,
        "kv_lora_rank": c.mla.kv_lora,
        "q_lora_rank": c.q_lora,
        "qk_rope_head_dim": c.mla.rope,
        "qk_nope_head_dim": c.mla.nope,
        "v_head_dim": c.mla.v,
        "n_group": c.moe.groups,
        "topk_group": c.moe.top_groups,
        "num_experts_per_tok": c.moe.top_k,
        "first_k_dense_replace": c.dense_layers,
        "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rotary_base},
        "tie_word_embeddings": False,
    }


def _describe_indexer(shape: IndexerShape) -> dict[str, Any]:
    return {"index_topk": shape.k, "index_head_dim": shape.dim, "index_n_heads": shape.heads}


def _name_weights(layer: DeepseekLayer) -> dict[str, Tensor]:
    feed = {f"mlp.{name}": tensor for name, tensor in _name_feed(layer).items()}
    return {
        "input_layernorm.weight": layer.attention_norm,
        "post_attention_layernorm.weight": layer.feed_norm,
        **_name_attention(layer.attention, pairs_neighbours=layer.indexer is not None),
        **({} if layer.indexer is None else _name_indexer(layer.indexer)),
        **feed,
    }


def _name_attention(attention: LatentAttention, pairs_neighbours: bool) -> dict[str, Tensor]:
    """V3.2's code rotates pairs of neighbours; V3's can be told to rotate halves, as ours does."""
    mla = attention.mla
    query_down, kv_down = attention.down[: attention.q_lora], attention.down[attention.q_lora :]
    query_up: Tensor = attention.query_up
    if pairs_neighbours:
        latent, rope = torch.split(kv_down, [mla.kv_lora, mla.rope])
        kv_down = torch.cat((latent, _interleave(rope)))
        query_up = _interleave_heads(query_up, mla)
    return {
        "self_attn.q_a_proj.weight": query_down,
        "self_attn.q_a_layernorm.weight": attention.query_norm,
        "self_attn.q_b_proj.weight": query_up,
        "self_attn.kv_a_proj_with_mqa.weight": kv_down,
        "self_attn.kv_a_layernorm.weight": attention.latent_norm,
        "self_attn.kv_b_proj.weight": torch.cat((attention.key_up, attention.value_up), dim=1).flatten(0, 1),
        "self_attn.o_proj.weight": attention.out,
    }


def _interleave_heads(query_up: Tensor, mla: MlaShape) -> Tensor:
    by_head = query_up.view(mla.heads, mla.nope + mla.rope, -1)
    nope, rope = torch.split(by_head, [mla.nope, mla.rope], dim=1)
    return torch.cat((nope, _interleave(rope)), dim=1).flatten(0, 1)


def _interleave(rope: Tensor) -> Tensor:
    """Rows [..., P, any] whose halves are paired in the order where neighbours are."""
    return torch.stack(rope.chunk(2, dim=-2), dim=-2).flatten(-3, -2)


def _name_indexer(indexer: Indexer) -> dict[str, Tensor]:
    dim = indexer.shape.dim
    return {
        "self_attn.indexer.wq_b.weight": indexer.query,
        "self_attn.indexer.wk.weight": indexer.key[:dim],
        "self_attn.indexer.k_norm.weight": indexer.key_norm,
        "self_attn.indexer.k_norm.bias": indexer.key_shift,
        "self_attn.indexer.weights_proj.weight": indexer.key[dim:],
    }


def _name_feed(layer: DeepseekLayer) -> dict[str, Tensor]:
    feed = layer.feed
    if not isinstance(feed, MixtureOfExperts):
        gate, up = feed.gate_up.chunk(2)
        return {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": feed.down}
    assert feed.bias is not None, "checked"
    gate, up = feed.shared_gate_up.chunk(2)
    return {
        "gate.weight": feed.router,
        "gate.e_score_correction_bias": feed.bias,
        "experts.gate_up_proj": feed.gate_up,
        "experts.down_proj": feed.down,
        "shared_experts.gate_proj.weight": gate,
        "shared_experts.up_proj.weight": up,
        "shared_experts.down_proj.weight": feed.shared_down,
    }


class _PinnedLatents(PinnedPages):
    """One layer of a cache of ours: its latents are theirs as keys of one head, its rotary keys theirs as values."""

    def __init__(self, cache: DeepseekCache, index: int, kv_lora: int) -> None:
        entries = cache.entries[index][:, None]
        super().__init__(entries[..., :kv_lora], entries[..., kv_lora:], cache.pages.table, cache.length)
        self._index_keys = cache.indexes[index].keys if cache.indexes else None

    def update_indexer(self, key: Tensor) -> Tensor:
        """Write the new token's index key [batch, 1, D]; gives all of them."""
        assert self._index_keys is not None, "only models with an indexer ask"
        seen = self._index_keys[:, : self.length]
        seen[:, -1:].copy_(key)
        return seen
