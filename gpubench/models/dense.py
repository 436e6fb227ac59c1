"""A dense decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU; the shape of Llama 3 and its kin.

Per layer, for hidden states x [batch, hidden]:

    q, k, v = split(RMSNorm(x) · W_qkvᵀ);  q, k rotated to the new token's position
    x ← x + softmax(q · Kᵀ / √head_dim) · V · W_oᵀ            K, V: the cache, k and v written to its last position
    x ← x + (silu(gate) ⊙ up) · W_downᵀ,  gate, up = split(RMSNorm(x) · W_gate_upᵀ)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.errors import Unsupported
from gpubench.models.attention import cached_attention
from gpubench.models.base import Attention, Parallel
from gpubench.models.layers import random_weight, rotary_table, rotate, weight
from gpubench.models.ranks import divide, divide_kv_heads
from gpubench.models.shapes import check_groups, check_rotary
from gpubench.ranges import annotate

__all__ = ["DenseCache", "DenseConfig", "DenseModel"]


@dataclass(frozen=True)
class DenseConfig:
    """The shape of a dense decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int
    rotary_base: float = 500_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_groups(self.heads, self.kv_heads)
        check_rotary(self.head_dim, self.head_dim)

    @property
    def is_routed(self) -> bool:
        return False

    @property
    def has_indexer(self) -> bool:
        return False

    def rank_share(self, parallel: Parallel, ranks: int) -> DenseConfig:
        """DEP divides no weights: there are no experts."""
        if parallel == "DEP":
            return self
        return replace(
            self,
            heads=divide(self.heads, ranks, "query heads"),
            kv_heads=divide_kv_heads(self.kv_heads, ranks),
            intermediate=divide(self.intermediate, ranks, "intermediate dimensions"),
            vocabulary=divide(self.vocabulary, ranks, "tokens of the vocabulary"),
        )

    @property
    def qkv_width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def layer_products(self) -> int:
        """Weights of one layer that take part in a matrix product: each costs two FLOP per token."""
        attention = self.hidden * (self.qkv_width + self.heads * self.head_dim)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All weights: layers with their two norms, embedding, final norm, head."""
        layers = self.layers * (self.layer_products + 2 * self.hidden)
        return layers + 2 * self.vocabulary * self.hidden + self.hidden

    def weight_bytes(self, itemsize: int) -> int:
        return self.parameters * itemsize

    def cache_bytes(self, batch: int, length: int, itemsize: int) -> int:
        return 2 * self.layers * batch * length * self.kv_heads * self.head_dim * itemsize

    def activation_bytes(self, batch: int, itemsize: int) -> int:
        widest = max(self.vocabulary, 3 * self.intermediate, self.qkv_width)
        return batch * (widest + 4 * self.hidden) * itemsize

    def step_bytes(self, batch: int, length: int, itemsize: int) -> int:
        embedding_not_read = (self.vocabulary - min(batch, self.vocabulary)) * self.hidden * itemsize
        weights = self.weight_bytes(itemsize) - embedding_not_read
        cache_written = self.cache_bytes(batch, 1, itemsize)
        cache_read = self.cache_bytes(batch, length, itemsize)
        return weights + cache_read + cache_written + batch * self.vocabulary * itemsize

    def step_flop(self, batch: int, length: int) -> int:
        products = self.layers * self.layer_products + self.vocabulary * self.hidden
        attention = 2 * self.layers * self.heads * self.head_dim * length
        return 2 * batch * (products + attention)

    def build(self, dtype: torch.dtype, attention: Attention = "torch") -> DenseModel:
        if attention != "torch":
            raise Unsupported(
                f"attention: {attention}: dense models have torch's attention alone; use attention: torch"
            )
        return DenseModel(self, dtype)


@dataclass(frozen=True)
class DenseCache:
    """Keys and values of a batch, one pair of [batch, kv_heads, length, head_dim] per layer, and its positions."""

    keys: list[Tensor]
    values: list[Tensor]
    rotary: Tensor
    """cos and sin of every position's angles: [length, 2, head_dim / 2], fp32."""

    @property
    def length(self) -> int:
        return self.rotary.shape[0]

    def restore(self) -> None:
        """Nothing to do: a step writes the last position alone, and the same again when it is repeated."""

    def prefix(self, length: int) -> DenseCache:
        """The same memory seen as a shorter cache: what a step at an earlier position reads and writes."""
        return DenseCache(
            [keys[:, :, :length] for keys in self.keys],
            [values[:, :, :length] for values in self.values],
            self.rotary[:length],
        )


class DenseLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: DenseConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        c = config
        self.attention_norm = weight(torch.ones(c.hidden, dtype=dtype))
        self.qkv = random_weight(c.qkv_width, c.hidden, dtype=dtype)
        self.attention_out = random_weight(c.hidden, c.heads * c.head_dim, dtype=dtype)
        self.mlp_norm = weight(torch.ones(c.hidden, dtype=dtype))
        self.gate_up = random_weight(2 * c.intermediate, c.hidden, dtype=dtype)
        self.down = random_weight(c.hidden, c.intermediate, dtype=dtype)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, rotary: Tensor) -> Tensor:
        """x [batch, hidden] → the same; writes the last position of `keys` and `values`; `rotary` is that row."""
        with annotate("attention"):
            x = x + self._attend(self._norm(x, self.attention_norm), keys, values, rotary)
        with annotate("mlp"):
            gate, up = F.linear(self._norm(x, self.mlp_norm), self.gate_up).chunk(2, dim=-1)
            return x + F.linear(F.silu(gate) * up, self.down)

    def _attend(self, x: Tensor, keys: Tensor, values: Tensor, rotary: Tensor) -> Tensor:
        c = self.config
        batch = x.shape[0]
        heads = F.linear(x, self.qkv).view(batch, c.heads + 2 * c.kv_heads, c.head_dim)
        query, key, value = torch.split(heads, [c.heads, c.kv_heads, c.kv_heads], dim=1)
        attended = cached_attention(rotate(query, rotary), rotate(key, rotary), value, keys, values)
        return F.linear(attended, self.attention_out)

    def _norm(self, x: Tensor, scale: Tensor) -> Tensor:
        return F.rms_norm(x, scale.shape, scale, self.config.norm_eps)


class DenseModel(nn.Module):
    """A dense decoder; satisfies `DecodeModel`."""

    def __init__(self, config: DenseConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.embedding = weight(torch.empty(config.vocabulary, config.hidden, dtype=dtype).normal_())
        self.layers = nn.ModuleList(DenseLayer(config, dtype) for _ in range(config.layers))
        self.norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.head = random_weight(config.vocabulary, config.hidden, dtype=dtype)

    def forward(self, tokens: Tensor, cache: DenseCache) -> Tensor:
        with annotate("embedding"):
            x = F.embedding(tokens, self.embedding)
        position = cache.rotary[-1]
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            x = layer(x, keys, values, position)
        with annotate("head"):
            x = F.rms_norm(x, self.norm.shape, self.norm, self.config.norm_eps)
            return F.linear(x, self.head)

    def make_cache(self, batch: int, length: int) -> DenseCache:
        c = self.config
        shape = (batch, c.kv_heads, length, c.head_dim)
        like = self.embedding  # its dtype and device
        keys = [like.new_empty(shape).normal_() for _ in range(c.layers)]
        values = [like.new_empty(shape).normal_() for _ in range(c.layers)]
        return DenseCache(keys, values, rotary_table(length, c.head_dim, c.rotary_base, like.device))
