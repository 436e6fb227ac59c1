"""A block-sparse decoder: attention to chosen blocks of the cache, and a mixture of experts in each layer.

The shape of MiniMax-M3. Per layer, for hidden states x [batch, hidden]:

    x ← attend(x)                                       as in gpubench.models.sparse_attention
    x ← x + experts(RMSNorm(x))                         as in gpubench.models.moe

The first `dense_layers` layers attend to everything, and have one gated MLP instead of experts. Norms' weights are
around 1, where the published ones are distances from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.attention import KeyValueCache
from gpubench.models.base import Attention, Parallel, check_triton
from gpubench.models.layers import GatedMlp, random_weight, rotary_table, weight
from gpubench.models.moe import MixtureOfExperts, MoeShape
from gpubench.models.projections import Operand, project
from gpubench.models.ranks import divide, divide_kv_heads, stand_ins
from gpubench.models.shapes import SparseGqaShape, check_groups, check_rotary
from gpubench.models.sparse_attention import PagedCache, Pages, SparseAttention
from gpubench.ranges import annotate

__all__ = ["SparseCache", "SparseConfig", "SparseModel"]


@dataclass(frozen=True)
class SparseConfig:
    """The shape of a block-sparse decoder."""

    layers: int
    hidden: int
    sparse: SparseGqaShape
    rotary_dims: int
    dense_layers: int
    """The first so many layers have neither blocks to choose nor experts."""
    dense_intermediate: int
    moe: MoeShape
    vocabulary: int
    context: int
    rotary_base: float = 5_000_000.0
    norm_eps: float = 1e-6
    expert_ranks: int = 1
    """Ranks whose sequences meet at the experts: under DEP, as many rows as the batch has come from each."""

    def __post_init__(self) -> None:
        s = self.sparse
        check_groups(s.heads, s.kv_heads)
        if s.index_heads != s.kv_heads:
            raise ArgumentError(f"index_heads: each of {s.kv_heads} KV heads has one; got {s.index_heads}")
        check_rotary(self.rotary_dims, min(s.dim, s.index_dim))

    @property
    def is_routed(self) -> bool:
        return True

    @property
    def has_indexer(self) -> bool:
        """Its blocks are chosen by score, but too few of them for a top-k that starts from the last one."""
        return False

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer with that index chooses blocks and experts."""
        return layer >= self.dense_layers

    @property
    def sparse_layers(self) -> int:
        return max(0, self.layers - self.dense_layers)

    def rank_share(self, parallel: Parallel, ranks: int) -> SparseConfig:
        moe = self.moe.rank_share(parallel, ranks)
        if parallel == "DEP":
            return replace(self, moe=moe, expert_ranks=ranks)
        kv_heads = divide_kv_heads(self.sparse.kv_heads, ranks)
        heads = divide(self.sparse.heads, ranks, "query heads")
        return replace(
            self,
            sparse=replace(self.sparse, heads=heads, kv_heads=kv_heads, index_heads=kv_heads),
            dense_intermediate=divide(self.dense_intermediate, ranks, "intermediate dimensions of dense layers"),
            moe=moe,
            vocabulary=divide(self.vocabulary, ranks, "tokens of the vocabulary"),
        )

    @property
    def _mixing_products(self) -> int:
        """Weights of all layers' projections into and out of attention, and of the dense layers' MLPs."""
        attention = self.hidden * (self.sparse.width + self.sparse.heads * self.sparse.dim)
        dense = 3 * self.hidden * self.dense_intermediate
        index = self.hidden * self.sparse.index_width
        return self.layers * attention + (self.layers - self.sparse_layers) * dense + self.sparse_layers * index

    @property
    def parameters(self) -> int:
        """All weights."""
        norms = self.layers * 2 * (self.hidden + self.sparse.dim) + self.sparse_layers * 2 * self.sparse.index_dim
        experts = self.sparse_layers * self.moe.parameters(self.hidden)
        return self._mixing_products + norms + experts + 2 * self.vocabulary * self.hidden + self.hidden

    def weight_bytes(self, itemsize: int) -> int:
        float32 = self.sparse_layers * self.moe.float32_parameters
        return self.parameters * itemsize + float32 * (4 - itemsize)

    def attended(self, length: int) -> int:
        """How many of `length` tokens a sparse layer attends to: whole blocks, the last one as far as it is filled."""
        block, kept = self.sparse.block, self.sparse.blocks
        blocks = -(-length // block)
        return length if blocks <= kept else (kept - 1) * block + (length - 1) % block + 1

    def scored(self, length: int) -> int:
        """How many index keys a sparse layer reads: all, unless there is no choice to make."""
        return length if length > self.sparse.blocks * self.sparse.block else 0

    @property
    def _token_numbers(self) -> int:
        """What one token leaves in one layer's cache: a key and a value per KV head."""
        return 2 * self.sparse.kv_heads * self.sparse.dim

    def cache_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """Sparse layers' pages whole, their last ones, too."""
        paged = -(-length // self.sparse.block) * self.sparse.block
        dense = (self.layers - self.sparse_layers) * length * self._token_numbers
        sparse = self.sparse_layers * paged * (self._token_numbers + self.sparse.index_dim)
        others = (self.expert_ranks - 1) * self.hidden
        return batch * (dense + sparse + others) * itemsize

    def activation_bytes(self, batch: int, itemsize: int) -> int:
        """As if chosen blocks were gathered, which our kernels spare."""
        widest = max(self.vocabulary, self.sparse.width + self.sparse.index_width, 3 * self.dense_intermediate)
        blocks = self.sparse.blocks * self.sparse.block * self._token_numbers
        experts = self.expert_ranks * self.moe.activation_numbers(self.hidden, itemsize)
        return batch * (widest + 4 * self.hidden + max(blocks, experts)) * itemsize

    def step_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """Of the experts, those that are chosen; of the cache, the chosen blocks and the index keys."""
        embedding_not_read = (self.vocabulary - min(batch, self.vocabulary)) * self.hidden
        not_touched = self.sparse_layers * (self.moe.held_experts - self.moe.touched(batch * self.expert_ranks))
        experts_not_read = round(not_touched * self.moe.expert_parameters(self.hidden))
        weights = self.weight_bytes(itemsize) - (embedding_not_read + experts_not_read) * itemsize
        dense = (self.layers - self.sparse_layers) * (length + 1) * self._token_numbers  # all read, one written
        keys_values = self.sparse_layers * (self.attended(length) + 1) * self._token_numbers
        index = self.sparse_layers * (self.scored(length) + 1) * self.sparse.index_dim
        return weights + batch * (dense + keys_values + index + self.vocabulary) * itemsize

    def step_flop(self, batch: int, length: int) -> int:
        others = (self.expert_ranks - 1) * self.moe.routed_products(self.hidden)
        experts = self.sparse_layers * (self.moe.products(self.hidden) + others)
        s = self.sparse
        tokens = (self.layers - self.sparse_layers) * length + self.sparse_layers * self.attended(length)
        attention = 2 * s.heads * s.dim * tokens
        index = self.sparse_layers * s.index_heads * s.index_dim * self.scored(length)
        return 2 * batch * (self._mixing_products + experts + self.vocabulary * self.hidden + attention + index)

    def build(self, dtype: torch.dtype, attention: Attention = "torch") -> SparseModel:
        """`attention: triton` scores, chooses and attends with our kernels in sparse layers; dense ones are torch's."""
        if attention == "flashinfer":
            raise Unsupported(
                "attention: flashinfer: its block-sparse attention takes blocks from the host; here the device chooses"
            )
        if attention == "triton":
            check_triton()
        return SparseModel(self, dtype, attention)


@dataclass(frozen=True)
class SparseCache:
    """What a batch's layers remember, one entry per layer, and where the new token stands."""

    layers: list[KeyValueCache | PagedCache]
    pages: Pages
    block: int
    """Tokens of a page."""
    rotary: Tensor
    """cos and sin of every position's angles: [length, 2, rotary_dims / 2], fp32."""
    others: Tensor | None
    """What the other ranks' sequences send to the experts, as in gpubench.models.ranks."""

    @property
    def length(self) -> int:
        return self.rotary.shape[0]

    def restore(self) -> None:
        """Nothing to do: a step writes the last position alone, and the same again when it is repeated."""

    def prefix(self, length: int) -> SparseCache:
        """The same memory seen as a shorter cache: what a step at an earlier position reads and writes."""
        layers = [layer.prefix(length) if isinstance(layer, KeyValueCache) else layer for layer in self.layers]
        pages = self.pages.prefix(length, self.block)
        return replace(self, layers=layers, pages=pages, rotary=self.rotary[:length])


class SparseLayer(nn.Module):
    """One decoder layer: attention, then experts or an MLP."""

    def __init__(self, config: SparseConfig, index: int, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        is_sparse = config.is_sparse(index)
        self.mixing = SparseAttention(config.sparse, config.hidden, config.norm_eps, dtype, attention, is_sparse)
        self.mlp_norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.mlp: MixtureOfExperts | GatedMlp = (
            MixtureOfExperts(config.moe, config.hidden, dtype, attention)
            if is_sparse
            else GatedMlp(config.hidden, config.dense_intermediate, dtype, config.moe.activation)
        )

    def forward(self, x: Tensor, own: KeyValueCache | PagedCache, cache: SparseCache) -> Tensor:
        """x [batch, hidden] → the same; `own` is this layer's part of `cache`."""
        x = self.mixing(x, own, cache.pages, cache.rotary)
        if isinstance(self.mlp, MixtureOfExperts):
            with annotate("moe"):
                return self.mlp.add(x, self.mlp_norm, self.norm_eps, cache.others)
        with annotate("mlp"):
            found: Tensor = self.mlp(F.rms_norm(x, self.mlp_norm.shape, self.mlp_norm, self.norm_eps))
            return x + found


class SparseModel(nn.Module):
    """A block-sparse decoder; satisfies `DecodeModel`."""

    def __init__(self, config: SparseConfig, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.config = config
        self.has_kernels = attention == "triton"
        self.embedding = weight(torch.empty(config.vocabulary, config.hidden, dtype=dtype).normal_())
        self.layers = nn.ModuleList(SparseLayer(config, index, dtype, attention) for index in range(config.layers))
        self.norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.head = random_weight(config.vocabulary, config.hidden, dtype=dtype)

    def forward(self, tokens: Tensor, cache: SparseCache) -> Tensor:
        with annotate("embedding"):
            x = F.embedding(tokens, self.embedding)
        for layer, own in zip(self.layers, cache.layers, strict=True):
            x = layer(x, own, cache)
        with annotate("head"):
            normed = Operand(x, "norm", self.norm, eps=self.config.norm_eps)
            return project(normed, self.head, has_kernel=self.has_kernels)

    def make_cache(self, batch: int, length: int) -> SparseCache:
        c, like = self.config, self.embedding  # its dtype and device
        pages = self._make_pages(batch, length)
        return SparseCache(
            [self._layer_cache(index, batch, length, pages.table.numel()) for index in range(c.layers)],
            pages,
            c.sparse.block,
            rotary_table(length, c.rotary_dims, c.rotary_base, like.device),
            stand_ins(batch, c.expert_ranks, c.hidden, like),
        )

    def make_slots(self, slots: int, capacity: int) -> NoReturn:
        """Unsupported."""
        raise Unsupported("prefill isn't there for block-sparse attention: it would choose blocks for every new token")

    def _make_pages(self, batch: int, length: int) -> Pages:
        s, device = self.config.sparse, self.embedding.device
        blocks, splits, elements = -(-length // s.block), 0, 0
        if self.has_kernels:
            from gpubench.kernels.gqa_decode import gqa_decode_scratch
            from gpubench.kernels.sparse_gqa import choose_splits

            splits = choose_splits(batch, s.kv_heads, s.blocks)
            elements = gqa_decode_scratch(batch, s.heads, s.kv_heads, length, s.dim)
        table = torch.arange(batch * blocks, dtype=torch.int32, device=device).view(batch, blocks)
        lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
        sums = torch.empty(batch, s.heads, splits, dtype=torch.float32, device=device)
        partial, scratch = sums.new_empty(*sums.shape, s.dim), sums.new_empty(elements)
        return Pages(table, lengths, lengths - 1, table[:, -1].long(), partial, sums, scratch)

    def _layer_cache(self, index: int, batch: int, length: int, pages: int) -> KeyValueCache | PagedCache:
        s, like = self.config.sparse, self.embedding
        if not self.config.is_sparse(index):
            shape = (batch, s.kv_heads, length, s.dim)
            return KeyValueCache(like.new_empty(shape).normal_(), like.new_empty(shape).normal_())
        shape = (pages, s.kv_heads, s.block, s.dim)
        index_keys = like.new_empty(pages, s.block, s.index_dim).normal_()
        return PagedCache(like.new_empty(shape).normal_(), like.new_empty(shape).normal_(), index_keys)
