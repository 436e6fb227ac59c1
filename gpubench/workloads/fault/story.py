"""The crash that this program was begun for: an indexer's scratch has gone stale, and attention is where it shows.

Before attention an indexer chooses the best positions of the cache. Its radix top-k takes scratch memory when it is
first called, which is a warm-up, and a capture records the address; then the memory is given back. A replay writes to
where it was. The variant whose scratch lives on is otherwise the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

import gpubench
from gpubench.registry import Step
from gpubench.workloads.fault.graphs import capture
from gpubench.workloads.fault.planting import add_one, plant

POSITIONS, CHOSEN = 32768, 2048
"""Of a cache, and of them those that attention reads, as DeepSeek V3.2 has it."""


def _with_living_scratch(x: Tensor) -> Step:
    if not x.is_cuda:
        return add_one(x)
    indexer = _Indexer(x.shape[0])
    replay = capture(lambda _: indexer.choose(), None, None)

    def step() -> Tensor:
        with gpubench.annotate("indexer"):
            replay()
        return attend(x, indexer.best)  # which keeps the indexer, and it its scratch

    return step


@plant("stale_topk", needs_gpu=True, healthy=_with_living_scratch)
def _(x: Tensor) -> Step:
    indexer = _Indexer(x.shape[0])
    replay = capture(lambda _: indexer.choose(), None, None)
    indexer.release()
    torch.cuda.empty_cache()

    def step() -> Tensor:
        with gpubench.annotate("indexer"):
            replay()
        return attend(x, indexer.best)

    return step


class _Indexer:
    """The choice of the 2048 best of 32768 positions by their scores, for each sequence of a batch."""

    def __init__(self, batch: int) -> None:
        from gpubench.kernels.topk_radix import PerCallRadix

        self.best = torch.empty(batch, CHOSEN, dtype=torch.int32)
        self._scores = torch.randn(batch, POSITIONS)
        self._lengths = torch.full((batch,), POSITIONS, dtype=torch.int32)
        self._values = torch.empty(batch, CHOSEN)
        self._topk = PerCallRadix()

    def choose(self) -> None:
        self._topk(self._scores, self._lengths, self._values, self.best)

    def release(self) -> None:
        """Drop the scratch, as an engine does that wants its memory back."""
        self._topk.release()


def attend(x: Tensor, best: Tensor) -> Tensor:
    """A step that reads what was chosen, and then waits for the GPU as a call does that needs an answer now."""
    with gpubench.annotate("attention"):
        positions = best.long() % x.shape[-1]
        out = (x + 1).scatter_(-1, positions, x.gather(-1, positions) + 1)
        torch.cuda.synchronize()
    return out
