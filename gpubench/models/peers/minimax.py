"""Block-sparse decoders as transformers' MiniMax-M3, the language model of it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import MiniMaxM3VLForCausalLM, MiniMaxM3VLTextConfig

from gpubench.models.attention import KeyValueCache
from gpubench.models.layers import GatedMlp
from gpubench.models.moe import MixtureOfExperts
from gpubench.models.peers.base import PinnedPages, PinnedRows, Twin, check_experts
from gpubench.models.sparse import SparseCache, SparseConfig, SparseLayer, SparseModel
from gpubench.models.sparse_attention import PagedCache, SparseAttention

__all__ = ["describe"]


def describe(model: SparseModel) -> Twin:
    """The twin of `model`. Norms there hold their distance from 1."""
    traits = {"scoring": "sigmoid", "groups": 1, "has_shared_gate": False, "activation": "swiglu_oai"}
    check_experts(model.config.moe, "MiniMax-M3", **traits)
    weights: dict[str, Tensor] = {
        "model.embed_tokens.weight": model.embedding,
        "model.norm.weight": model.norm - 1,
        "lm_head.weight": model.head,
    }
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, SparseLayer)
        weights |= {f"model.layers.{index}.{name}": tensor for name, tensor in _name_weights(layer).items()}
    return Twin(MiniMaxM3VLForCausalLM, _describe_config(model.config), weights, _view_cache)


def _describe_config(c: SparseConfig) -> MiniMaxM3VLTextConfig:
    s, dense = c.sparse, min(c.dense_layers, c.layers)
    return MiniMaxM3VLTextConfig(
        vocab_size=c.vocabulary,
        hidden_size=c.hidden,
        intermediate_size=c.moe.intermediate,
        dense_intermediate_size=c.dense_intermediate,
        shared_intermediate_size=c.moe.shared_intermediate,
        num_hidden_layers=c.layers,
        layer_types=["full_attention"] * dense + ["minimax_m3_sparse"] * c.sparse_layers,
        mlp_layer_types=["dense"] * dense + ["sparse"] * c.sparse_layers,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.dim,
        index_n_heads=s.index_heads,
        index_head_dim=s.index_dim,
        index_block_size=s.block,
        index_topk_blocks=s.blocks,
        index_local_blocks=1,
        num_local_experts=c.moe.experts,
        num_experts_per_tok=c.moe.top_k,
        routed_scaling_factor=c.moe.scale,
        max_position_embeddings=c.context,
        rms_norm_eps=c.norm_eps,
        rotary_dim=c.rotary_dims,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": c.rotary_base,
            "partial_rotary_factor": c.rotary_dims / s.dim,
        },
        tie_word_embeddings=False,
        bos_token_id=None,  # its own are beyond a small vocabulary
        eos_token_id=None,
    )


def _name_weights(layer: SparseLayer) -> dict[str, Tensor]:
    return {
        "input_layernorm.weight": layer.mixing.norm - 1,
        **{f"self_attn.{name}": tensor for name, tensor in _name_attention(layer.mixing).items()},
        "post_attention_layernorm.weight": layer.mlp_norm - 1,
        **{f"mlp.{name}": tensor for name, tensor in _name_mlp(layer.mlp).items()},
    }


def _name_attention(attention: SparseAttention) -> dict[str, Tensor]:
    s, whole = attention.shape, attention.projection
    width, kv_width, index_width = s.heads * s.dim, s.kv_heads * s.dim, s.index_heads * s.index_dim
    attended = width + 2 * kv_width
    query, key, value = torch.split(whole[:attended], [width, kv_width, kv_width])
    weights = {
        "q_proj.weight": query,
        "k_proj.weight": key,
        "v_proj.weight": value,
        "q_norm.weight": attention.query_norm - 1,
        "k_norm.weight": attention.key_norm - 1,
        "o_proj.weight": attention.out,
    }
    if len(whole) == attended:
        return weights
    index_query, index_key = torch.split(whole[attended:], [index_width, s.index_dim])
    return weights | {
        "indexer.q_proj.weight": index_query,
        "indexer.k_proj.weight": index_key,
        "indexer.q_norm.weight": attention.index_query_norm - 1,
        "indexer.k_norm.weight": attention.index_key_norm - 1,
    }


def _name_mlp(mlp: MixtureOfExperts | GatedMlp) -> dict[str, Tensor]:
    if isinstance(mlp, GatedMlp):
        return {"gate_up_proj.weight": mlp.gate_up, "down_proj.weight": mlp.down}
    assert mlp.bias is not None, "checked"
    return {
        "gate.weight": mlp.router,
        "gate.e_score_correction_bias": mlp.bias,
        "experts.gate_up_proj": mlp.gate_up,
        "experts.down_proj": mlp.down,
        "shared_experts.gate_up_proj.weight": mlp.shared_gate_up,
        "shared_experts.down_proj.weight": mlp.shared_down,
    }


class _PinnedBlocks(PinnedPages):
    """One sparse layer of a cache of ours."""

    def __init__(self, own: PagedCache, table: Tensor, length: int) -> None:
        super().__init__(own.keys, own.values, table, length)
        self._index_keys = own.index_keys[:, None]

    def update_index(self, key: Tensor) -> Tensor:
        """Write the new token's index key [batch, 1, 1, D]; gives all of them."""
        return self.write(self._index_keys, key)


def _view_cache(cache: SparseCache) -> list[PinnedRows | _PinnedBlocks]:
    return [
        PinnedRows(layer.keys, layer.values)
        if isinstance(layer, KeyValueCache)
        else _PinnedBlocks(layer, cache.pages.table, cache.length)
        for layer in cache.layers
    ]
