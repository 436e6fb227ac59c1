"""Models by name: the shapes of real ones, from their published configurations, and tiny ones for a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from gpubench.errors import ArgumentError
from gpubench.models.base import ModelConfig
from gpubench.models.deepseek import DeepseekConfig
from gpubench.models.dense import DenseConfig
from gpubench.models.hybrid import HybridConfig
from gpubench.models.moe import MoeShape
from gpubench.models.shapes import (
    GATED_DELTA,
    INDEXER,
    MLA,
    SPARSE_GQA,
    GatedDeltaShape,
    IndexerShape,
    MlaShape,
    SparseGqaShape,
)
from gpubench.models.sparse import SparseConfig

__all__ = ["PRESETS", "Preset", "cut", "find_preset"]

Preset = Literal[
    "tiny-dense",
    "llama-3.1-8b",
    "tiny-hybrid",
    "qwen3.5-35b-a3b",
    "qwen3-next-80b-a3b",
    "tiny-mla",
    "tiny-mla-indexer",
    "deepseek-v3",
    "deepseek-v3.2",
    "tiny-sparse",
    "minimax-m3",
]

_TINY_MLA = DeepseekConfig(
    layers=3,
    dense_layers=1,
    hidden=128,
    mla=MlaShape(heads=4, kv_lora=64, rope=16, nope=32, v=32),
    q_lora=64,
    intermediate=256,
    moe=MoeShape(
        experts=16,
        top_k=4,
        intermediate=64,
        shared_intermediate=64,
        scoring="sigmoid",
        groups=4,
        top_groups=2,
        scale=2.5,
        has_shared_gate=False,
    ),
    vocabulary=1024,
    context=4096,
)

_DEEPSEEK_V3 = DeepseekConfig(
    layers=61,
    dense_layers=3,
    hidden=7168,
    mla=MLA["deepseek-v3"],
    q_lora=1536,
    intermediate=18432,
    moe=MoeShape(
        experts=256,
        top_k=8,
        intermediate=2048,
        shared_intermediate=2048,
        scoring="sigmoid",
        groups=8,
        top_groups=4,
        scale=2.5,
        has_shared_gate=False,
    ),
    vocabulary=129280,
    context=163840,
)

PRESETS: dict[str, DenseConfig | HybridConfig | DeepseekConfig | SparseConfig] = {
    "tiny-dense": DenseConfig(
        layers=2, hidden=128, heads=4, kv_heads=2, head_dim=32, intermediate=256, vocabulary=1024, context=4096
    ),
    "llama-3.1-8b": DenseConfig(
        layers=32,
        hidden=4096,
        heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate=14336,
        vocabulary=128256,
        context=131072,
    ),
    "tiny-hybrid": HybridConfig(
        layers=4,
        hidden=128,
        heads=4,
        kv_heads=2,
        head_dim=32,
        rotary_dims=8,
        delta=GatedDeltaShape(key_heads=2, value_heads=4, k=32, v=32, conv=4),
        moe=MoeShape(experts=16, top_k=4, intermediate=64, shared_intermediate=64),
        vocabulary=1024,
        context=4096,
    ),
    "qwen3.5-35b-a3b": HybridConfig(
        layers=40,
        hidden=2048,
        heads=16,
        kv_heads=2,
        head_dim=256,
        rotary_dims=64,
        delta=GATED_DELTA["qwen3.5-35b-a3b"],
        moe=MoeShape(experts=256, top_k=8, intermediate=512, shared_intermediate=512),
        vocabulary=248320,
        context=262144,
    ),
    "qwen3-next-80b-a3b": HybridConfig(
        layers=48,
        hidden=2048,
        heads=16,
        kv_heads=2,
        head_dim=256,
        rotary_dims=64,
        delta=GATED_DELTA["qwen3-next-80b-a3b"],
        moe=MoeShape(experts=512, top_k=10, intermediate=512, shared_intermediate=512),
        vocabulary=151936,
        context=262144,
    ),
    "tiny-mla": _TINY_MLA,
    "tiny-mla-indexer": replace(_TINY_MLA, indexer=IndexerShape(heads=16, dim=32, k=16, compress_ratio=1)),
    "deepseek-v3": _DEEPSEEK_V3,
    "deepseek-v3.2": replace(_DEEPSEEK_V3, indexer=INDEXER["deepseek-v3.2"]),
    "tiny-sparse": SparseConfig(
        layers=3,
        hidden=128,
        sparse=SparseGqaShape(heads=8, kv_heads=2, dim=32, block=16, blocks=4, index_heads=2, index_dim=16),
        rotary_dims=16,
        dense_layers=1,
        dense_intermediate=256,
        moe=MoeShape(
            experts=16,
            top_k=4,
            intermediate=64,
            shared_intermediate=64,
            scoring="sigmoid",
            scale=2.0,
            has_shared_gate=False,
            activation="swiglu_oai",
        ),
        vocabulary=1024,
        context=4096,
    ),
    "minimax-m3": SparseConfig(
        layers=60,
        hidden=6144,
        sparse=SPARSE_GQA["minimax-m3"],
        rotary_dims=64,
        dense_layers=3,
        dense_intermediate=12288,
        moe=MoeShape(
            experts=128,
            top_k=4,
            intermediate=3072,
            shared_intermediate=3072,
            scoring="sigmoid",
            scale=2.0,
            has_shared_gate=False,
            activation="swiglu_oai",
        ),
        vocabulary=200064,
        context=1048576,
    ),
}


def find_preset(name: str, layers: int | None = None) -> ModelConfig:
    """The config of that name, cut to its first `layers` layers if a number is given."""
    if name not in PRESETS:
        raise ArgumentError(f"model: no model {name!r}; known: {', '.join(PRESETS)}")
    found: ModelConfig = cut(PRESETS[name], name, layers)
    return found


def cut(config: Any, name: str, layers: int | None) -> Any:
    """The config with its first `layers` layers alone; all of them for None."""
    if layers is None:
        return config
    if not 1 <= layers <= config.layers:
        raise ArgumentError(f"layers: {name} has {config.layers} layers, so 1 to {config.layers}; got {layers}")
    return replace(config, layers=layers)
