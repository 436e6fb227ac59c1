"""A decoder with multi-head latent attention: its first layers dense, the others with a mixture of experts.

The shape of DeepSeek-V3, and with an indexer that of DeepSeek-V3.2. Per layer, for hidden states x [batch, hidden]:

    x ← x + attention(RMSNorm(x))        gpubench.models.latent; with an indexer over the tokens that it selects
    x ← x + feed(RMSNorm(x))             a dense SwiGLU in the first layers, then gpubench.models.moe

The layer that predicts one token more (MTP) is left out. DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.attention import rotary_rows
from gpubench.models.base import Attention, Chunk, Parallel, check_positions
from gpubench.models.indexer import IndexCache, Indexer, Selection, Selector, make_selection, selection_bytes
from gpubench.models.latent import (
    PAGE,
    LatentAttention,
    LatentPlace,
    LatentShape,
    Pages,
    check_latent_attention,
    count_pages,
    make_gathered,
    make_pages,
    make_slot_pages,
    sparse_scratch,
)
from gpubench.models.layers import GatedMlp, random_weight, rotary_table, weight
from gpubench.models.moe import MixtureOfExperts, MoeShape
from gpubench.models.projections import Operand, project
from gpubench.models.ranks import divide, stand_ins
from gpubench.models.shapes import IndexerShape, MlaShape
from gpubench.ranges import annotate

__all__ = ["DeepseekCache", "DeepseekConfig", "DeepseekModel"]

_HEADS_IN_PLACE = 16
"""Up to so many, one tile, our kernel reads selected entries where they lie. For more it would read them once a tile,
and they are gathered first, for the kernel that is faster with many heads: the two aren't compared there yet."""


@dataclass(frozen=True)
class DeepseekConfig:
    """The shape of a decoder with latent attention."""

    layers: int
    dense_layers: int
    """The first ones, which have no experts."""
    hidden: int
    mla: MlaShape
    q_lora: int
    intermediate: int
    """Of the dense layers."""
    moe: MoeShape
    vocabulary: int
    context: int
    indexer: IndexerShape | None = None
    rotary_base: float = 10_000.0
    norm_eps: float = 1e-6
    expert_ranks: int = 1
    """Ranks whose sequences meet at the experts: under DEP, as many rows as the batch has come from each."""
    gvr: bool = False
    """Whether our kernels find an indexer's top-k from the last step's selection, instead of by digits."""

    def __post_init__(self) -> None:
        if self.mla.rope % 2:
            raise ArgumentError(
                f"mla.rope: {self.mla.rope} dimensions can't be rotated in pairs; wanted an even number"
            )
        if self.indexer is None:
            return
        if self.indexer.compress_ratio != 1:
            raise ArgumentError(
                f"indexer.compress_ratio is {self.indexer.compress_ratio}; latents aren't compressed: 1"
            )
        if self.indexer.dim < self.mla.rope:
            raise ArgumentError(
                f"indexer.dim: {self.indexer.dim} dimensions have no room for the {self.mla.rope} that are rotated"
            )

    @property
    def is_routed(self) -> bool:
        return self.routed_layers > 0

    @property
    def has_indexer(self) -> bool:
        return self.indexer is not None

    def rank_share(self, parallel: Parallel, ranks: int) -> DeepseekConfig:
        """The indexer is whole on every rank: its heads are summed before anything is selected."""
        if parallel == "DEP":
            return replace(self, moe=self.moe.rank_share(parallel, ranks), expert_ranks=ranks)
        return replace(
            self,
            mla=replace(self.mla, heads=divide(self.mla.heads, ranks, "attention heads")),
            intermediate=divide(self.intermediate, ranks, "intermediate dimensions"),
            moe=self.moe.rank_share(parallel, ranks),
            vocabulary=divide(self.vocabulary, ranks, "tokens of the vocabulary"),
        )

    @property
    def routed_layers(self) -> int:
        return max(self.layers - self.dense_layers, 0)

    @property
    def _attention_products(self) -> int:
        """Weights of a layer's projections into and out of attention, and those of its indexer."""
        mla, index = self.mla, self.indexer
        into = self.hidden * (self.q_lora + mla.kv_lora + mla.rope) + self.q_lora * mla.heads * (mla.nope + mla.rope)
        out = mla.heads * mla.kv_lora * (mla.nope + mla.v) + self.hidden * mla.heads * mla.v
        if index is None:
            return into + out
        return into + out + index.heads * index.dim * self.q_lora + (index.dim + index.heads) * self.hidden

    @property
    def _dense_products(self) -> int:
        """Weights of all dense layers' products beyond attention."""
        return (self.layers - self.routed_layers) * 3 * self.intermediate * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        norms = 2 * self.hidden + self.q_lora + self.mla.kv_lora + (2 * self.indexer.dim if self.indexer else 0)
        layers = self.layers * (self._attention_products + norms) + self._dense_products
        ends = 2 * self.vocabulary * self.hidden + self.hidden
        return layers + self.routed_layers * self.moe.parameters(self.hidden) + ends

    def weight_bytes(self, itemsize: int) -> int:
        return self.parameters * itemsize + self.routed_layers * self.moe.float32_parameters * (4 - itemsize)

    def cache_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """With what attention and indexer work in, layer after layer, which is most where they are torch's: a copy of a
        layer's entries, and scores three times over."""
        entry = (self.mla.kv_lora + self.mla.rope) * itemsize
        entries = count_pages(length) * PAGE * entry
        works_in = entries + length * self.mla.heads * (2 * 4 + itemsize)
        if self.indexer is None:
            return batch * (self.layers * entries + works_in)
        keys = length * self.indexer.dim * itemsize
        selected = selection_bytes(self.indexer.k, self.layers, batch, length, entry)
        return batch * (self.layers * (entries + keys) + works_in) + selected

    def activation_bytes(self, batch: int, itemsize: int) -> int:
        widest = max(self.vocabulary, 3 * self.intermediate, self.mla.heads * (self.mla.nope + self.mla.kv_lora))
        numbers = widest + 4 * self.hidden + self.q_lora
        if self.is_routed:
            numbers += self.expert_ranks * self.moe.activation_numbers(self.hidden, itemsize)
        return batch * numbers * itemsize

    def step_bytes(self, batch: int, length: int, itemsize: int) -> int:
        """Of the experts, those that are chosen: `MoeShape.touched`; of the entries, those that are selected."""
        embedding_not_read = (self.vocabulary - min(batch, self.vocabulary)) * self.hidden
        not_touched = self.moe.held_experts - self.moe.touched(batch * self.expert_ranks)
        experts_not_read = round(self.routed_layers * not_touched * self.moe.expert_parameters(self.hidden))
        weights = self.weight_bytes(itemsize) - (embedding_not_read + experts_not_read) * itemsize
        numbers = (self._seen(length) + 1) * (self.mla.kv_lora + self.mla.rope)  # one is written
        if self.indexer is not None:
            numbers += (length + 1) * self.indexer.dim
        return weights + batch * (self.layers * numbers + self.vocabulary) * itemsize

    def step_flop(self, batch: int, length: int) -> int:
        others = (self.expert_ranks - 1) * self.moe.routed_products(self.hidden)
        products = self.layers * self._attention_products + self._dense_products + self.vocabulary * self.hidden
        products += self.routed_layers * (self.moe.products(self.hidden) + others)
        attention = self.mla.heads * self._seen(length) * (2 * self.mla.kv_lora + self.mla.rope)
        if self.indexer is not None:
            attention += self.indexer.heads * length * (self.indexer.dim + 1)
        return 2 * batch * (products + self.layers * attention)

    def _seen(self, length: int) -> int:
        """How many tokens attention sees."""
        return length if self.indexer is None else min(length, self.indexer.k)

    def build(self, dtype: torch.dtype, attention: Attention = "torch") -> DeepseekModel:
        """`attention: triton` takes our kernels for attention, indexer and top-k, flashinfer its attention between
        them."""
        if self.gvr and attention == "torch":
            raise Unsupported("gvr: attention: torch selects by torch.topk; attention: triton has gvr and radix")
        check_latent_attention(attention, self.mla, dtype)
        return DeepseekModel(self, dtype, attention)


@dataclass(frozen=True)
class DeepseekCache:
    """What layers remember of a batch or of slots, one entry of the lists per layer, and what they work in."""

    entries: list[Tensor]
    """[pages, 64, R + P]: latents and rotary keys."""
    pages: Pages
    """Of all tokens; the same for every layer."""
    rotary: Tensor
    """cos and sin of every position's angles: [length, 2, P / 2], fp32."""
    indexes: list[IndexCache]
    """Without an indexer: none."""
    selection: Selection | None
    others: Tensor | None
    """What the other ranks' sequences send to the experts, as in gpubench.models.ranks."""

    @property
    def length(self) -> int:
        return self.rotary.shape[0]

    @property
    def capacity(self) -> int:
        return self.length

    @property
    def last(self) -> LatentPlace:
        """One token of every sequence, at the last position."""
        return LatentPlace(self.pages, self.rotary[-1])

    def clear(self, slot: int) -> None:
        """Nothing to do: of what a sequence didn't write itself it sees nothing."""

    def restore(self) -> None:
        """Put back the selection that the first step takes for the last one's. A step writes its entries again."""
        if self.selection is not None:
            self.selection.restore()

    def prefix(self, length: int) -> DeepseekCache:
        """The same memory seen as a shorter cache: what a step at an earlier position reads and writes."""
        indexes = [own if own.pages is None else replace(own, pages=own.pages.prefix(length)) for own in self.indexes]
        selection = None if self.selection is None else self.selection.prefix(length)
        pages, rotary = self.pages.prefix(length), self.rotary[:length]
        return replace(self, pages=pages, rotary=rotary, indexes=indexes, selection=selection)


class DeepseekLayer(nn.Module):
    """One decoder layer: attention over all tokens or selected ones, then an MLP or experts."""

    def __init__(self, config: DeepseekConfig, index: int, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        c = config
        self.index, self.norm_eps = index, c.norm_eps
        self.attention_norm = weight(torch.ones(c.hidden, dtype=dtype))
        shape = LatentShape(c.mla, c.q_lora, c.hidden, c.norm_eps, c.indexer)
        self.attention = LatentAttention(shape, dtype, attention)
        self.indexer = None if c.indexer is None else Indexer(c.indexer, self.attention)
        self.feed_norm = weight(torch.ones(c.hidden, dtype=dtype))
        self.feed: GatedMlp | MixtureOfExperts = (
            GatedMlp(c.hidden, c.intermediate, dtype)
            if index < c.dense_layers
            else MixtureOfExperts(c.moe, c.hidden, dtype, attention)
        )

    def forward(self, x: Tensor, cache: DeepseekCache, place: LatentPlace) -> Tensor:
        """x [tokens, hidden] → the same; this layer's part of `cache` gets the new tokens' entries."""
        return self.advance(self.attend(x, cache, place), cache)

    def attend(self, x: Tensor, cache: DeepseekCache, place: LatentPlace) -> Tensor:
        """The first half: x + attention(RMSNorm(x))."""
        entries, pages = cache.entries[self.index], place.pages
        normed = Operand(x, "norm", self.attention_norm, eps=self.norm_eps)
        with annotate("attention"):
            if place.span is not None:
                return self.attention.prefill(normed, entries, place)
            query = self.attention.ask(normed, entries, place)
        if self.indexer is not None and cache.selection is not None:
            own, selection = cache.indexes[self.index], cache.selection
            with annotate("indexer"):
                self.indexer.score(query, own, selection, place.rotary)
            with annotate("topk"):
                self.indexer.select(own, selection)
            with annotate("attention"):
                entries, pages = selection.show(own, entries, pages)
        with annotate("attention"):
            return self.attention.answer(query, entries, pages, x)

    def advance(self, x: Tensor, cache: DeepseekCache) -> Tensor:
        """The second half: x + feed(RMSNorm(x))."""
        if isinstance(self.feed, GatedMlp):
            with annotate("mlp"):
                found: Tensor = x + self.feed(F.rms_norm(x, self.feed_norm.shape, self.feed_norm, self.norm_eps))
        else:
            with annotate("moe"):
                found = self.feed.add(x, self.feed_norm, self.norm_eps, cache.others)
        return found


class DeepseekModel(nn.Module):
    """A decoder with latent attention; satisfies `DecodeModel`, and without an indexer `ServingModel`."""

    def __init__(self, config: DeepseekConfig, dtype: torch.dtype, attention: Attention) -> None:
        super().__init__()
        self.config, self.attention = config, attention
        self.has_kernels = attention != "torch"
        self.embedding = weight(torch.empty(config.vocabulary, config.hidden, dtype=dtype).normal_())
        self.layers = nn.ModuleList(DeepseekLayer(config, index, dtype, attention) for index in range(config.layers))
        self.norm = weight(torch.ones(config.hidden, dtype=dtype))
        self.head = random_weight(config.vocabulary, config.hidden, dtype=dtype)

    def forward(self, tokens: Tensor, cache: DeepseekCache) -> Tensor:
        return self._finish(self._run(tokens, cache, cache.last))

    def decode(self, tokens: Tensor, positions: Tensor, slots: DeepseekCache) -> Tensor:
        check_positions(tokens, positions)
        pages = Pages(slots.pages.table, positions + 1, slots.pages.scratch, may_idle=True)
        return self._finish(self._run(tokens, slots, LatentPlace(pages, rotary_rows(slots.rotary, positions))))

    def prefill(self, tokens: Tensor, positions: Tensor, chunk: Chunk) -> Tensor:
        check_positions(tokens, positions)
        slots = chunk.slots
        assert isinstance(slots, DeepseekCache), "what make_slots gave"
        place = LatentPlace(slots.pages, rotary_rows(slots.rotary, positions), chunk.span)
        x = self._run(tokens, slots, place)
        with annotate("head"):
            return F.rms_norm(x, self.norm.shape, self.norm, self.config.norm_eps)

    def logits(self, hidden: Tensor) -> Tensor:
        with annotate("head"):
            return project(Operand(hidden), self.head, has_kernel=self.has_kernels)

    def _run(self, tokens: Tensor, cache: DeepseekCache, place: LatentPlace) -> Tensor:
        """All layers: hidden states [tokens, hidden]."""
        with annotate("embedding"):
            x = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, cache, place)
        return x

    def _finish(self, x: Tensor) -> Tensor:
        normed = Operand(x, "norm", self.norm, eps=self.config.norm_eps)
        with annotate("head"):
            return project(normed, self.head, has_kernel=self.has_kernels)

    def make_slots(self, slots: int, capacity: int) -> DeepseekCache:
        """Unsupported with an indexer, with flashinfer, and for one rank of several under DEP."""
        c, like = self.config, self.embedding  # its dtype and device
        if c.indexer is not None:
            raise Unsupported("prefill isn't there for a model with an indexer: it would select for every new token")
        if self.attention == "flashinfer":
            raise Unsupported("attention: flashinfer plans a step on the host; serving has torch and triton")
        if c.expert_ranks > 1:
            raise Unsupported("parallel: DEP: the other ranks' sequences stand in for a batch of one size; use TEP")
        max_pages = count_pages(capacity)
        table = torch.randperm(slots * max_pages, device=like.device).int().view(slots, max_pages)
        pages = make_slot_pages(table, c.mla, like.dtype, self.attention)
        entries = [like.new_zeros(slots * max_pages, PAGE, c.mla.kv_lora + c.mla.rope) for _ in range(c.layers)]
        rotary = rotary_table(capacity, c.mla.rope, c.rotary_base, like.device)
        return DeepseekCache(entries, pages, rotary, [], None, None)

    def make_cache(self, batch: int, length: int) -> DeepseekCache:
        c, like = self.config, self.embedding  # its dtype and device
        max_pages = count_pages(length)
        # The sequences' pages are mixed, as they are after a while of serving.
        table = torch.randperm(batch * max_pages, device=like.device).int().view(batch, max_pages)
        lengths = torch.full((batch,), length, dtype=torch.int32, device=like.device)
        entries = [
            like.new_empty(batch * max_pages, PAGE, c.mla.kv_lora + c.mla.rope).normal_() for _ in range(c.layers)
        ]
        rotary = rotary_table(length, c.mla.rope, c.rotary_base, like.device)
        others = stand_ins(batch, c.expert_ranks, c.hidden, like)
        if c.indexer is None:
            pages = make_pages(table, lengths, c.mla, like.dtype, self.attention)
            return DeepseekCache(entries, pages, rotary, [], None, others)
        pages = make_pages(table, lengths, c.mla, like.dtype, "torch")  # attention sees a selection of them
        selection, indexes = self._make_indexes(c.indexer, pages, length)
        return DeepseekCache(entries, pages, rotary, indexes, selection, others)

    def _make_indexes(self, shape: IndexerShape, pages: Pages, length: int) -> tuple[Selection, list[IndexCache]]:
        c, like, batch, k = self.config, self.embedding, len(pages.lengths), min(shape.k, length)
        selector: Selector = "torch" if self.attention == "torch" else ("gvr" if c.gvr else "radix")
        in_place = self.attention == "triton" and c.mla.heads <= _HEADS_IN_PLACE
        gathered = None if in_place else make_gathered(batch, k, c.mla, like, self.attention)
        selection = make_selection(c.layers, pages.lengths, length, k, selector, gathered)
        scratch = sparse_scratch(batch, k, c.mla, like) if in_place else pages.scratch
        indexes = [
            IndexCache(
                like.new_empty(batch, length, shape.dim).normal_(),
                selected,
                replace(pages, selected=selected, scratch=scratch) if in_place else None,
            )
            for selected in selection.selected
        ]
        return selection, indexes
