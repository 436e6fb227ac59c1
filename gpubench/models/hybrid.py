"""A hybrid decoder: gated delta layers, every few layers one of full attention, each with a mixture of experts.

The shape of Qwen3-Next and Qwen3.5. Per layer, for hidden states x [batch, hidden]:

    x ← x + mix(RMSNorm(x))                    mix: a gated delta layer, or gated attention
    x ← x + experts(RMSNorm(x))                as in gpubench.models.moe

Gated attention, with queries and keys that have norms, and of which the first `rotary_dims` are rotated:

    q, gate, k, v = split(x · W_inᵀ)
    mix(x) = (softmax(q · Kᵀ / √head_dim) · V ⊙ σ(gate)) · W_outᵀ           as in gpubench.models.attention

With `attention: triton`, a captured step of qwen3.5-35b-a3b at full depth in bfloat16, on an NVIDIA H200 (2026-11-21):

    sequences × tokens    1 × 1K  1 × 8K  4 × 8K  16 × 8K  16 × 32K  64 × 1K  64 × 8K  64 × 32K  256 × 1K
    milliseconds            2.10    2.15    4.51     9.40     11.14    16.61    18.70     25.69     28.23
    its bytes, copied       1.42    1.46    3.01     8.09      9.98    16.37    18.59     26.19     25.12
    torch's operators       9.00   10.41                               29.34    31.33

The GPU is busy all that time. One sequence takes 303 kernels, with torch's operators 2507 (of which the recurrence was
ours): each reads little and pays a chain of latencies. The furthest from its bytes is a layer's pair of kernels of
experts, about 20 µs for 52 MB.
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
from gpubench.models.gated_delta import GatedDelta, GatedDeltaCache
from gpubench.models.gated_delta import make_cache as make_delta_cache
from gpubench.models.layers import random_weight, rotary_table, weight
from gpubench.models.moe import MixtureOfExperts, MoeShape
from gpubench.models.projections import Operand, project
from gpubench.models.ranks import divide, divide_kv_heads, stand_ins
from gpubench.models.shapes import GatedDeltaShape, check_groups, check_rotary
from gpubench.ranges import annotate

__all__ = ["HybridCache", "HybridConfig", "HybridModel"]


@dataclass(frozen=True)
class HybridConfig:
    """The shape of a hybrid decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary_dims: int
    delta: GatedDeltaShape
    moe: MoeShape
    vocabulary: int
    context: int
    attention_every: int = 4
    """The last of so many layers is one of full attention."""
    rotary_base: float = 10_000_000.0
    norm_eps: float = 1e-6
    expert_ranks: int = 1
    """Ranks whose sequences meet at the experts: under DEP, as many rows as the batch has come from each."""

    def __post_init__(self) -> None:
        check_groups(self.heads, self.kv_heads)
        check_rotary(self.rotary_dims, self.head_dim)

    @property
    def is_routed(self) -> bool:
        return True

    @property
    def has_indexer(self) -> bool:
        return False

    def rank_share(self, parallel: Parallel, ranks: int) -> HybridConfig:
        if parallel == "DEP":
            return replace(self, moe=self.moe.rank_share(parallel, ranks), expert_ranks=ranks)
        delta = replace(
            self.delta,
            key_heads=divide(self.delta.key_heads, ranks, "linear attention's key heads"),
            value_heads=divide(self.delta.value_heads, ranks, "linear attention's value heads"),
        )
        return replace(
            self,
            heads=divide(self.heads, ranks, "query heads"),
            kv_heads=divide_kv_heads(self.kv_heads, ranks),
            delta=delta,
            moe=self.moe.rank_share(parallel, ranks),
            vocabulary=divide(self.vocabulary, ranks, "tokens of the vocabulary"),
        )

    def is_attention(self, layer: int) -> bool:
        """Whether the layer with that index is one of full attention."""
        return (layer + 1) % self.attention_every == 0

    @property
    def attention_layers(self) -> int:
        return self.layers // self.attention_every

    @property
    def delta_layers(self) -> int:
        return self.layers - self.attention_layers

    @property
    def attention_width(self) -> int:
        """What attention projects a token to: queries, their gates, keys and values."""
        return 2 * (self.heads + self.kv_heads) * self.head_dim

    @property
    def delta_width(self) -> int:
        """What a gated delta layer projects a token to: the convolution's channels and the output's gates."""
        return self.delta.channels + self.delta.value_heads * self.delta.v

    @property
    def _mixing_products(self) -> int:
        """Weights of all layers' projections into and out of attention and recurrence."""
        attention = self.hidden * (self.attention_width + self.heads * self.head_dim)
        heads = self.delta.value_heads
        delta = self.hidden * (self.delta_width + 2 * heads + heads * self.delta.v)
        return self.attention_layers * attention + self.delta_layers * delta

    @property
    def parameters(self) -> int:
        """All weights."""
        attention_norms = 2 * self.head_dim
        delta = self.delta.channels * self.delta.conv + self.delta.v + 2 * self.delta.value_heads
        mixing = self._mixing_products + self.attention_layers * attention_norms + self.delta_layers * delta
        layers = self.layers * (self.moe.parameters(self.hidden) + 2 * self.hidden)
        return mixing + layers + 2 * self.vocabulary * self.hidden + self.hidden

    def weight_bytes(self, itemsize: int) -> int:
        rates = self.delta_layers * 2 * self.delta.value_heads  # a_log and dt_bias
        float32 = rates + self.layers * self.moe.float32_parameters
        return self.parameters * itemsize + float32 * (4 - itemsize)

    def _key_value_bytes(self, batch: int, length: int, itemsize: int) -> int:
        return 2 * self.attention_layers * batch * length * self.kv_heads * self.head_dim * itemsize

    @property
    def _state_bytes(self) -> int:
        """The states of one sequence, float32."""
        return self.delta_layers * self.delta.value_heads * self.delta.k * self.delta.v * 4

    def _conv_bytes(self, taps: int, itemsize: int) -> int:
        return self.delta_layers * taps * self.delta.channels * itemsize

    def cache_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """With the start that states are restored to, one sequence's."""
        restored = (batch + 1) * (self._state_bytes + self._conv_bytes(self.delta.conv, itemsize))
        return self._key_value_bytes(batch, length, itemsize) + restored

    def activation_bytes(self, batch: int, itemsize: int) -> int:
        widest = max(self.vocabulary, self.attention_width, self.delta_width)
        numbers = widest + 4 * self.hidden + self.expert_ranks * self.moe.activation_numbers(self.hidden, itemsize)
        convolution = 2 * (self.delta.conv + 1) * self.delta.channels * 4
        return batch * (numbers * itemsize + convolution)

    def step_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """Of the experts, those that are chosen: `MoeShape.touched`. A state is read and written."""
        embedding_not_read = (self.vocabulary - min(batch, self.vocabulary)) * self.hidden
        not_touched = self.layers * (self.moe.held_experts - self.moe.touched(batch * self.expert_ranks))
        experts_not_read = round(not_touched * self.moe.expert_parameters(self.hidden))
        weights = self.weight_bytes(itemsize) - (embedding_not_read + experts_not_read) * itemsize
        key_values = self._key_value_bytes(batch, length + 1, itemsize)  # all read, one written
        states = 2 * self._state_bytes + self._conv_bytes(
            self.delta.conv, itemsize
        )  # one slot written, the others read
        return weights + key_values + batch * (states + self.vocabulary * itemsize)

    def step_flop(self, batch: int, length: int) -> int:
        """Of the recurrence, its three products: with the query, with the key, and the rank-one update."""
        others = (self.expert_ranks - 1) * self.moe.routed_products(self.hidden)
        products = self._mixing_products + self.layers * (self.moe.products(self.hidden) + others)
        attention = 2 * self.attention_layers * self.heads * self.head_dim * length
        recurrence = 3 * self.delta_layers * self.delta.value_heads * self.delta.k * self.delta.v
        return 2 * batch * (products + self.vocabulary * self.hidden + attention + recurrence)

    def build(self, dtype: torch.dtype, attention: Attention = "torch") -> HybridModel:
        """`attention: triton` takes our kernels for the recurrence, full attention, experts and few-row products."""
        if attention == "flashinfer":
            raise Unsupported(
                "attention: flashinfer: hybrids have torch's operators and our kernels; use torch or triton"
            )
        if attention == "triton":
            check_triton()
        return HybridModel(self, dtype, attention)


@dataclass(frozen=True)
class HybridCache:
    """What layers remember, one entry per layer: of a batch, and where its new token stands, or of slots."""

    layers: list[KeyValueCache | GatedDeltaCache]
    rotary: Tensor
    """cos and sin of every position's angles: [length, 2, rotary_dims / 2], fp32."""
    positions: Tensor
    """Of the new token: [batch], int32, length − 1 for all."""
    lengths: Tensor
    """What attention sees: [batch], int32, length for all."""
    scratch: Tensor
    """What our attention kernel works in, layer after layer: fp32."""
    others: Tensor | None
    """What the other ranks' sequences send to the experts, as in gpubench.models.ranks."""

    @property
    def length(self) -> int:
        return self.rotary.shape[0]

    @property
    def capacity(self) -> int:
        return self.length

    def clear(self, slot: int) -> None:
        """Put the slot's states back to where they started. Of keys and values a sequence sees its own alone."""
        for layer in self.layers:
            if isinstance(layer, GatedDeltaCache):
                layer.clear(slot)

    def restore(self) -> None:
        """Put states back to where they started. Keys and values need none: a step writes the same again."""
        for layer in self.layers:
            if isinstance(layer, GatedDeltaCache):
                layer.restore()

    def prefix(self, length: int) -> HybridCache:
        """The same memory seen as a shorter cache: what a step at an earlier position reads and writes."""
        layers = [layer.prefix(length) if isinstance(layer, KeyValueCache) else layer for layer in self.layers]
        lengths = torch.full_like(self.lengths, length)
        return replace(self, layers=layers, rotary=self.rotary[:length], positions=lengths - 1, lengths=lengths)


@dataclass(frozen=True)
class HybridPlace:
    """Where a step's tokens stand: what attention asks, and what else there is to know."""

    attention: Place
    positions: Tensor
    """[tokens], int32; −1 in the rows of idle slots."""
    span: Tensor | None = None
    """Of a chunk of one sequence, as in `Chunk`; None: every token is a sequence's."""
    may_idle: bool = False
    """Whether any stands at −1, where it changes nothing."""
    others: Tensor | None = None
    """As in `HybridCache`."""


class GatedAttention(nn.Module):
    """Full attention with the norm before it and the sum after it."""

    def __init__(self, config: HybridConfig, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.config = c = config
        self.projection = random_weight(c.attention_width, c.hidden, dtype=dtype)
        self.query_norm = weight(torch.ones(c.head_dim, dtype=dtype))
        self.key_norm = weight(torch.ones(c.head_dim, dtype=dtype))
        self.out = random_weight(c.hidden, c.heads * c.head_dim, dtype=dtype)
        self.has_kernel = attention == "triton"
        if self.has_kernel:
            import gpubench.kernels.gqa_decode
            import gpubench.kernels.gqa_inputs
            import gpubench.kernels.linear_few  # noqa: F401 - all register their operators

    def forward(self, x: Tensor, scale: Tensor, own: KeyValueCache, place: Place) -> Tensor:
        """x [tokens, hidden] → the same; writes to `own` what stands at `place`. `scale` [hidden] is the norm's."""
        c, width = self.config, self.config.heads * self.config.head_dim
        projected = project(Operand(x, "norm", scale, eps=c.norm_eps), self.projection, has_kernel=self.has_kernel)
        attended = place.attend(projected, own, c, (self.query_norm, self.key_norm))
        gated = Operand(attended, "sigmoid_gate", gate=projected[:, width : 2 * width])
        return project(gated, self.out, x, has_kernel=self.has_kernel)


class HybridLayer(nn.Module):
    """One decoder layer: attention or recurrence, then experts."""

    def __init__(self, config: HybridConfig, index: int, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.mixing_norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.mixing: GatedAttention | GatedDelta = (
            GatedAttention(config, dtype, attention)
            if config.is_attention(index)
            else GatedDelta(config.delta, config.hidden, config.norm_eps, dtype, attention)
        )
        self.experts_norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.experts = MixtureOfExperts(config.moe, config.hidden, dtype, attention)

    def forward(self, x: Tensor, own: KeyValueCache | GatedDeltaCache, place: HybridPlace) -> Tensor:
        """x [tokens, hidden] → the same; `own` is this layer's part of the cache, and advances."""
        if isinstance(own, KeyValueCache):
            with annotate("attention"):
                x = self.mixing(x, self.mixing_norm, own, place.attention)
        else:
            with annotate("linear_attention"):
                x = self.mixing(x, self.mixing_norm, own, place.positions, place.span, place.may_idle)
        with annotate("moe"):
            return self.experts.add(x, self.experts_norm, self.norm_eps, place.others)


class HybridModel(nn.Module):
    """A hybrid decoder; satisfies `DecodeModel` and `ServingModel`."""

    def __init__(self, config: HybridConfig, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.config, self.has_kernel = config, attention == "triton"
        self.embedding = weight(torch.empty(config.vocabulary, config.hidden, dtype=dtype).normal_())
        self.layers = nn.ModuleList(HybridLayer(config, index, dtype, attention) for index in range(config.layers))
        self.norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.head = random_weight(config.vocabulary, config.hidden, dtype=dtype)

    def forward(self, tokens: Tensor, cache: HybridCache) -> Tensor:
        attention = place_last(cache, has_kernels=self.has_kernel)
        return self._finish(self._run(tokens, cache, HybridPlace(attention, cache.positions, others=cache.others)))

    def decode(self, tokens: Tensor, positions: Tensor, slots: HybridCache) -> Tensor:
        check_positions(tokens, positions)
        attention = place_rows(slots, positions, has_kernels=self.has_kernel, dtype=self.head.dtype)
        return self._finish(self._run(tokens, slots, HybridPlace(attention, positions, may_idle=True)))

    def prefill(self, tokens: Tensor, positions: Tensor, chunk: Chunk) -> Tensor:
        check_positions(tokens, positions)
        slots = chunk.slots
        assert isinstance(slots, HybridCache), "what make_slots gave"
        attention = place_chunk(slots, positions, chunk.span, has_kernels=self.has_kernel)
        x = self._run(tokens, slots, HybridPlace(attention, positions, chunk.span))
        with annotate("head"):
            return F.rms_norm(x, self.norm.shape, self.norm, self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        with annotate("head"):
            return project(Operand(hidden), self.head, has_kernel=self.has_kernel)

    def _run(self, tokens: Tensor, cache: HybridCache, place: HybridPlace) -> Tensor:
        """All layers: hidden states [tokens, hidden]."""
        with annotate("embedding"):
            x = F.embedding(tokens, self.embedding)
        for layer, own in zip(self.layers, cache.layers, strict=True):
            x = layer(x, own, place)
        return x

    def _finish(self, x: Tensor) -> Tensor:
        normed = Operand(x, "norm", self.norm, eps=self.config.norm_eps)
        with annotate("head"):
            return project(normed, self.head, has_kernel=self.has_kernel)

    def make_cache(self, batch: int, length: int) -> HybridCache:
        return self._make_cache(batch, length, is_empty=False)

    def make_slots(self, slots: int, capacity: int) -> HybridCache:
        if self.config.expert_ranks > 1:
            raise Unsupported("parallel: DEP: the other ranks' sequences stand in for a batch of one size; use TEP")
        return self._make_cache(slots, capacity, is_empty=True)

    def _make_cache(self, batch: int, length: int, *, is_empty: bool) -> HybridCache:
        c, like = self.config, self.embedding  # its dtype and device
        layers = [
            make_key_values(like, batch, length, c, is_empty=is_empty)
            if c.is_attention(index)
            else make_delta_cache(c.delta, batch, like, is_empty=is_empty)
            for index in range(c.layers)
        ]
        lengths = torch.full((batch,), length, dtype=torch.int32, device=like.device)
        rotary = rotary_table(length, c.rotary_dims, c.rotary_base, like.device)
        scratch = attention_scratch(like, batch, length, c, has_kernels=self.has_kernel)
        others = stand_ins(batch, c.expert_ranks, c.hidden, like)
        return HybridCache(layers, rotary, lengths - 1, lengths, scratch, others)
