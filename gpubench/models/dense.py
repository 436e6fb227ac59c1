"""A dense decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU; the shape of Llama 3 and its kin.

Per layer, for hidden states x [batch, hidden]:

    q, k, v = split(RMSNorm(x) · W_qkvᵀ)
    x ← x + softmax(q · Kᵀ / √head_dim) · V · W_oᵀ            gpubench.models.attention, of rotated q and k
    x ← x + (silu(gate) ⊙ up) · W_downᵀ,  gate, up = split(RMSNorm(x) · W_gate_upᵀ)

A captured step of llama-3.1-8b in bfloat16 on an NVIDIA H200, replayed with a hot L2 (2026-11-21), in milliseconds;
with `attention: triton` before its activation was one kernel, too:

    sequences × tokens      1 × 1K   1 × 8K   64 × 1K   32 × 8K
    torch's operators         6.37     8.93      8.70     13.98
    attention: triton         4.92     5.22      7.34     12.65

64 slots with room for 8K tokens, of which they have 1K, take 7.34 as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.errors import Unsupported
from gpubench.models.attention import (
    KeyValueCache,
    Place,
    attention_scratch,
    make_key_values,
    place_chunk,
    place_last,
    place_rows,
)
from gpubench.models.base import Attention, Chunk, Parallel, check_positions, check_triton
from gpubench.models.layers import activate, random_weight, rotary_table, weight
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
        """`attention: triton` takes our kernels for attention of one token, what is before it, and the activation."""
        if attention == "flashinfer":
            raise Unsupported(
                "attention: flashinfer: dense models have torch's operators and our kernels; use torch or triton"
            )
        if attention == "triton":
            check_triton()
        return DenseModel(self, dtype, attention)


@dataclass(frozen=True)
class DenseCache:
    """Keys and values of a batch, one pair of [batch, kv_heads, length, head_dim] per layer: of sequences that are all
    of that length, or of slots that have room for it."""

    keys: list[Tensor]
    values: list[Tensor]
    rotary: Tensor
    """cos and sin of every position's angles: [length, 2, head_dim / 2], fp32."""
    positions: Tensor
    """Of the new token: [batch], int32, length − 1 for all."""
    lengths: Tensor
    """What attention sees: [batch], int32, length for all."""
    scratch: Tensor
    """What our attention kernel works in, layer after layer: fp32."""

    @property
    def length(self) -> int:
        return self.rotary.shape[0]

    @property
    def capacity(self) -> int:
        return self.length

    def restore(self) -> None:
        """Nothing to do: a step writes the last position alone, and the same again when it is repeated."""

    def clear(self, slot: int) -> None:
        """Nothing to do: of what a sequence didn't write itself it sees nothing."""

    def prefix(self, length: int) -> DenseCache:
        """The same memory seen as a shorter cache: what a step at an earlier position reads and writes."""
        lengths = torch.full_like(self.lengths, length)
        return replace(
            self,
            keys=[keys[:, :, :length] for keys in self.keys],
            values=[values[:, :, :length] for values in self.values],
            rotary=self.rotary[:length],
            positions=lengths - 1,
            lengths=lengths,
        )


class DenseLayer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: DenseConfig, dtype: torch.dtype, *, has_kernels: bool) -> None:
        super().__init__()
        self.config = c = config
        self.has_kernels = has_kernels
        self.attention_norm = weight(torch.ones(c.hidden, dtype=dtype))
        self.qkv = random_weight(c.qkv_width, c.hidden, dtype=dtype)
        self.attention_out = random_weight(c.hidden, c.heads * c.head_dim, dtype=dtype)
        self.mlp_norm = weight(torch.ones(c.hidden, dtype=dtype))
        self.gate_up = random_weight(2 * c.intermediate, c.hidden, dtype=dtype)
        self.down = random_weight(c.hidden, c.intermediate, dtype=dtype)

    def forward(self, x: Tensor, own: KeyValueCache, place: Place) -> Tensor:
        """x [tokens, hidden] → the same; writes to `own` what stands at `place`."""
        with annotate("attention"):
            projected = F.linear(self._norm(x, self.attention_norm), self.qkv)
            x = x + F.linear(place.attend(projected, own, self.config), self.attention_out)
        with annotate("mlp"):
            return x + F.linear(self._activate(F.linear(self._norm(x, self.mlp_norm), self.gate_up)), self.down)

    def _activate(self, gate_up: Tensor) -> Tensor:
        if not self.has_kernels:
            return activate(gate_up)
        out = gate_up.new_empty(len(gate_up), self.config.intermediate)
        torch.ops.gpubench.gated_silu(gate_up, out)
        return out

    def _norm(self, x: Tensor, scale: Tensor) -> Tensor:
        return F.rms_norm(x, scale.shape, scale, self.config.norm_eps)


class DenseModel(nn.Module):
    """A dense decoder; satisfies `DecodeModel` and `ServingModel`."""

    def __init__(self, config: DenseConfig, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.config, self.has_kernels = config, attention == "triton"
        if self.has_kernels:
            import gpubench.kernels.gated_silu
            import gpubench.kernels.gqa_decode
            import gpubench.kernels.gqa_inputs  # noqa: F401 - all register their operators
        self.embedding = weight(torch.empty(config.vocabulary, config.hidden, dtype=dtype).normal_())
        self.layers = nn.ModuleList(
            DenseLayer(config, dtype, has_kernels=self.has_kernels) for _ in range(config.layers)
        )
        self.norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.head = random_weight(config.vocabulary, config.hidden, dtype=dtype)

    def forward(self, tokens: Tensor, cache: DenseCache) -> Tensor:
        return self._finish(self._run(tokens, cache, place_last(cache, has_kernels=self.has_kernels)))

    def decode(self, tokens: Tensor, positions: Tensor, slots: DenseCache) -> Tensor:
        check_positions(tokens, positions)
        place = place_rows(slots, positions, has_kernels=self.has_kernels, dtype=self.head.dtype)
        return self._finish(self._run(tokens, slots, place))

    def prefill(self, tokens: Tensor, positions: Tensor, chunk: Chunk) -> Tensor:
        check_positions(tokens, positions)
        slots = chunk.slots
        assert isinstance(slots, DenseCache), "what make_slots gave"
        place = place_chunk(slots, positions, chunk.span, has_kernels=self.has_kernels)
        x = self._run(tokens, slots, place)
        with annotate("head"):
            return self._norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        with annotate("head"):
            return F.linear(hidden, self.head)

    def _run(self, tokens: Tensor, cache: DenseCache, place: Place) -> Tensor:
        """All layers: hidden states [tokens, hidden]."""
        with annotate("embedding"):
            x = F.embedding(tokens, self.embedding)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            x = layer(x, KeyValueCache(keys, values), place)
        return x

    def _finish(self, x: Tensor) -> Tensor:
        with annotate("head"):
            return F.linear(self._norm(x), self.head)

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.norm.shape, self.norm, self.config.norm_eps)

    def make_cache(self, batch: int, length: int) -> DenseCache:
        return self._make_cache(batch, length, is_empty=False)

    def make_slots(self, slots: int, capacity: int) -> DenseCache:
        return self._make_cache(slots, capacity, is_empty=True)

    def _make_cache(self, batch: int, length: int, *, is_empty: bool) -> DenseCache:
        c, like = self.config, self.embedding  # its dtype and device
        layers = [make_key_values(like, batch, length, c, is_empty=is_empty) for _ in range(c.layers)]
        rotary = rotary_table(length, c.head_dim, c.rotary_base, like.device)
        lengths = torch.full((batch,), length, dtype=torch.int32, device=like.device)
        scratch = attention_scratch(like, batch, length, c, has_kernels=self.has_kernels)
        keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
        return DenseCache(keys, values, rotary, lengths - 1, lengths, scratch)
