"""The shapes of published models that kernels are measured at, from their published configurations.

Heads are those of the whole model: tensor parallelism over `tp` GPUs leaves each `heads / tp` of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpubench.errors import ArgumentError

__all__ = [
    "GATED_DELTA",
    "INDEXER",
    "MLA",
    "SPARSE_GQA",
    "GatedDeltaShape",
    "IndexerShape",
    "MlaShape",
    "SparseGqaShape",
    "check_groups",
    "check_rotary",
    "local_heads",
]


def check_groups(heads: int, shared: int, name: str = "heads", what: str = "KV heads") -> None:
    """ArgumentError unless as many `heads` share each of the `shared` ones."""
    if heads % shared:
        raise ArgumentError(f"{name}: {heads} can't be dealt to {shared} {what}; wanted a multiple of {shared}")


def check_rotary(dims: int, head_dim: int) -> None:
    """ArgumentError unless a head has so many dimensions, in pairs, to rotate."""
    if dims % 2 or not 0 <= dims <= head_dim:
        raise ArgumentError(f"rotary_dims: wanted an even number up to {head_dim}, a head's dimensions; got {dims}")


@dataclass(frozen=True)
class MlaShape:
    """Multi-head latent attention: per token, the cache holds one latent and one rotary key, shared by all heads."""

    heads: int
    kv_lora: int
    """R: the latent."""
    rope: int
    """P: the rotary part of a key."""
    nope: int
    """N: the rest of a head's key, projected from the latent."""
    v: int
    """V: a head's value, projected from the latent."""


@dataclass(frozen=True)
class GatedDeltaShape:
    """The gated delta rule: per value head, the state is a matrix [K, V]. Several value heads share a key head."""

    key_heads: int
    value_heads: int
    k: int
    v: int
    conv: int
    """The kernel of the causal convolution before it."""

    def __post_init__(self) -> None:
        check_groups(self.value_heads, self.key_heads, "value_heads", "key heads")

    @property
    def channels(self) -> int:
        """What is convolved: queries and keys of all key heads, then values of all value heads."""
        return 2 * self.key_heads * self.k + self.value_heads * self.v


@dataclass(frozen=True)
class IndexerShape:
    """A sparse-attention indexer: scores every position of the (compressed) past and keeps the best `k`."""

    heads: int
    dim: int
    k: int
    compress_ratio: int
    """Tokens per position that is scored."""


@dataclass(frozen=True)
class SparseGqaShape:
    """Block-sparse grouped-query attention: per query and KV head the best blocks of the cache, the last one always."""

    heads: int
    kv_heads: int
    dim: int
    block: int
    """Tokens."""
    blocks: int
    """How many a query attends to."""
    index_heads: int
    index_dim: int

    @property
    def width(self) -> int:
        """What a token is projected to: queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.dim

    @property
    def index_width(self) -> int:
        """What it is projected to for choosing blocks: index queries, and the one index key that they share."""
        return (self.index_heads + 1) * self.index_dim


MLA = {
    "deepseek-v3": MlaShape(heads=128, kv_lora=512, rope=64, nope=128, v=128),
    "mistral-small-4-119b": MlaShape(heads=32, kv_lora=256, rope=64, nope=64, v=128),
    "glm-4.7-flash": MlaShape(heads=20, kv_lora=512, rope=64, nope=192, v=256),
}

GATED_DELTA = {
    "qwen3.5-35b-a3b": GatedDeltaShape(key_heads=16, value_heads=32, k=128, v=128, conv=4),
    "qwen3-next-80b-a3b": GatedDeltaShape(key_heads=16, value_heads=32, k=128, v=128, conv=4),
}

INDEXER = {
    "deepseek-v3.2": IndexerShape(heads=64, dim=128, k=2048, compress_ratio=1),
    "deepseek-v4-flash": IndexerShape(heads=64, dim=128, k=512, compress_ratio=4),
    "deepseek-v4-pro": IndexerShape(heads=64, dim=128, k=1024, compress_ratio=4),
}

SPARSE_GQA = {
    "minimax-m3": SparseGqaShape(heads=64, kv_heads=4, dim=128, block=128, blocks=16, index_heads=4, index_dim=128),
}


def local_heads(heads: int, tp: int) -> int:
    """How many of `heads` one of `tp` GPUs has; ArgumentError if they can't be dealt evenly."""
    if tp < 1 or heads % tp:
        raise ArgumentError(f"tp: {heads} heads can't be dealt to {tp} GPUs; wanted a divisor of {heads}")
    return heads // tp
