"""Engines: a model over slots, asked for prefills of one sequence and for decode steps of many.

Eagerly, every operator is launched as it comes. With graphs, a decode step is one CUDA graph for each of several
numbers of rows, and prefill is eager, as its lengths are any. In pieces, both are: what lies between attention and
recurrence is captured for numbers of tokens, of a chunk as of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpubench.graphs.bucketed import BucketedStep
from gpubench.graphs.piecewise.buckets import choose_buckets
from gpubench.graphs.piecewise.seam import Graphs
from gpubench.graphs.piecewise.start import measure_start, start_at_once
from gpubench.graphs.piecewise.step import Arguments, Options, PiecewiseStep
from gpubench.graphs.piecewise.traces import Traces
from gpubench.graphs.switch import are_graphs_off
from gpubench.models.base import Chunk, ServingModel, Slots
from gpubench.registry import OwnMeasurement
from gpubench.serving.scheduler import IDLE
from gpubench.sharing import shared

__all__ = ["EagerEngine", "Engine", "GraphEngine", "PiecewiseEngine", "decode_buckets"]

PREFILL_ATTENTION = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""In this order, where torch attends. On Hopper torch would begin with cuDNN, which builds a plan for every length that
it hasn't met: 38 ms on an H200, in some user's iteration. Flash attention needs none. It has no kernel for heads whose
keys and values differ in width; those stay with cuDNN."""


class Engine(Protocol):
    """What a loop asks for. No call waits for the GPU."""

    measured: list[OwnMeasurement]
    """What setting it up cost."""

    def decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """The next tokens [rows], int64, greedily; valid until the next call.

        Row i is slot i: `tokens` [rows], int64, stand at `positions` [rows], int32. Of a row at −1 nothing changes, and
        its token means nothing.
        """
        ...

    def prefill(self, tokens: Tensor, slot: int, first: int, *, is_last: bool) -> Tensor | None:
        """Read tokens of a prompt, from position `first` on; after the last of them, give the next token [1]."""
        ...

    def clear(self, slot: int) -> None:
        """A new sequence begins in this slot."""
        ...


class EagerEngine:
    """Launches everything as it comes. Made under the default device of model and slots."""

    def __init__(self, decoder: ServingModel, slots: Slots) -> None:
        self.decoder, self.slots = decoder, slots
        self.measured: list[OwnMeasurement] = []
        self._chunk = Chunk(slots, torch.zeros(2, dtype=torch.int64, device="cpu"))
        self._span = self._chunk.span.numpy()
        self._positions = torch.arange(slots.capacity, dtype=torch.int32)

    def decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return _choose(self.decoder, tokens, positions, self.slots)

    def prefill(self, tokens: Tensor, slot: int, first: int, *, is_last: bool) -> Tensor | None:
        self._span[:] = slot, first
        with sdpa_kernel(PREFILL_ATTENTION, set_priority=True):
            hidden = self._read(tokens, self._positions[first : first + len(tokens)], self._chunk)
        return self.decoder.logits(hidden[-1:]).argmax(dim=-1) if is_last else None

    def clear(self, slot: int) -> None:
        self.slots.clear(slot)

    def _read(self, tokens: Tensor, positions: Tensor, chunk: Chunk) -> Tensor:
        """The hidden states of a chunk."""
        return self.decoder.prefill(tokens, positions, chunk)


class GraphEngine(EagerEngine):
    """A CUDA graph of the decode step for each number of rows in `buckets`; rows after those of a step are idle."""

    def __init__(self, decoder: ServingModel, slots: Slots, buckets: tuple[int, ...], graphs: Graphs) -> None:
        """`buckets` as `decode_buckets` gives them. Slots are empty afterwards."""
        super().__init__(decoder, slots)
        self._step: BucketedStep | None = None
        if are_graphs_off():
            return
        self._step = BucketedStep(_choosing(decoder), buckets, (0, IDLE), graphs, "decode")
        self.measured = measure_start(start_at_once(self._step, lambda: _rows_of(slots)))
        _clear(slots, buckets[-1])

    def decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        if self._step is None:
            return super().decode(tokens, positions)
        return self._step(tokens, positions, self.slots)


class PiecewiseEngine(EagerEngine):
    """Decode steps and prefills in pieces, captured for numbers of tokens."""

    def __init__(
        self, decoder: ServingModel, slots: Slots, options: Options, prefill_buckets: tuple[int, ...], graphs: Graphs
    ) -> None:
        """`options` are those of decode steps, with buckets as `decode_buckets` gives them. Those of prefills go up to
        the chunk: how many tokens a batch could have is nothing to them. Slots are empty afterwards."""
        super().__init__(decoder, slots)
        self._steps: tuple[PiecewiseStep, PiecewiseStep] | None = None
        if are_graphs_off():
            return
        decode_traces = shared("traces of decode", (), lambda: Traces(_choosing(decoder)))
        prefill_traces = shared("traces of prefill", (), lambda: Traces(decoder.prefill))
        prefill = replace(options, buckets=prefill_buckets, head="inside")
        head = getattr(decoder, "head", None)
        self._steps = (
            PiecewiseStep(decode_traces, options, graphs, head=head, name="decode"),
            PiecewiseStep(prefill_traces, prefill, graphs, name="prefill"),
        )
        starts = (
            start_at_once(self._steps[0], lambda: _rows_of(slots)),
            start_at_once(self._steps[1], self._first_tokens),
        )
        self.measured = measure_start(starts[0]) + measure_start(starts[1], "prefill")
        _clear(slots, options.buckets[-1])

    def decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        if self._steps is None:
            return super().decode(tokens, positions)
        chosen: Tensor = self._steps[0](tokens, positions, self.slots)
        return chosen

    def _read(self, tokens: Tensor, positions: Tensor, chunk: Chunk) -> Tensor:
        if self._steps is None:
            return super()._read(tokens, positions, chunk)
        hidden: Tensor = self._steps[1](tokens, positions, chunk)
        return hidden

    def _first_tokens(self) -> Arguments:
        """For warming up: the beginning of a prompt in the first slot, as long as the bucket or the slot."""

        def of(bucket: int) -> tuple[Tensor, Tensor, Chunk]:
            positions = self._positions[:bucket]
            return torch.zeros_like(positions, dtype=torch.int64), positions, self._chunk

        return of


def _choose(decoder: ServingModel, tokens: Tensor, positions: Tensor, slots: Slots) -> Tensor:
    """A decode step with its sampling."""
    return decoder.decode(tokens, positions, slots).argmax(dim=-1)


def _choosing(decoder: ServingModel) -> Callable[..., Tensor]:
    return lambda tokens, positions, slots: _choose(decoder, tokens, positions, slots)


def decode_buckets(wanted: str | Sequence[int], slots: int) -> tuple[int, ...]:
    """The numbers of rows that a policy or a list of them means; none has more than there are slots.

    ArgumentError as of `choose_buckets`: a list has to cover the slots.
    """
    return tuple(dict.fromkeys(min(bucket, slots) for bucket in choose_buckets(wanted, slots)))


def _rows_of(slots: Slots) -> Arguments:
    """For warming up: rows at the end of slots, where attention has the most to do."""

    def of(bucket: int) -> tuple[Tensor, Tensor, Slots]:
        positions = torch.full((bucket,), slots.capacity - 1, dtype=torch.int32)
        return torch.zeros(bucket, dtype=torch.int64), positions, slots

    return of


def _clear(slots: Slots, count: int) -> None:
    for slot in range(count):
        slots.clear(slot)
