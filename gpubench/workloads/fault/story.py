"""The crash that this program was begun for: an indexer's scratch has gone stale, and attention is where it shows.

Before attention an indexer chooses the best blocks of the cache. It works in scratch memory that it takes when it is
first called, and remembers by its address only; the warm-up calls it, the capture records that address, and the memory
is given back before the replay. The variant that owns its scratch is otherwise the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

import gpubench
from gpubench.registry import Step
from gpubench.workloads.fault.graphs import capture, make_scratch
from gpubench.workloads.fault.planting import plant

CHOSEN = 64


def index(x: Tensor, scratch: Tensor, best: Tensor) -> None:
    """The elements of x with the largest scores, their positions into `best` [batch, 64]; scores go into scratch."""
    from gpubench.kernels.faulty import BLOCK, fill_scratch

    fill_scratch[(-(-x.numel() // BLOCK),)](x, scratch, x.numel(), BLOCK=BLOCK)
    best.copy_(scratch[: x.numel()].view_as(x).topk(CHOSEN, dim=-1).indices)


def attend(x: Tensor, best: Tensor) -> Tensor:
    """A step that reads what was chosen, and then waits for the GPU as a call does that needs an address now."""
    with gpubench.annotate("attention"):
        out = x + 1
        out.scatter_(-1, best, x.gather(-1, best) + 1)
        torch.cuda.synchronize()
    return out


def _with_own_scratch(x: Tensor) -> Step:
    if not x.is_cuda:
        return lambda: x + 1
    best, scratch = torch.empty(x.shape[0], CHOSEN, dtype=torch.int64), make_scratch()

    def work(_: None) -> Tensor:
        index(x, scratch, best)
        return scratch  # what is returned lives for as long as the graph may be replayed

    return _steps(x, best, capture(work, None, None))


@plant("stale_topk", needs_gpu=True, healthy=_with_own_scratch)
def _(x: Tensor) -> Step:
    best = torch.empty(x.shape[0], CHOSEN, dtype=torch.int64)
    replay = _capture_forgetfully(x, best)
    torch.cuda.empty_cache()
    return _steps(x, best, replay)


def _capture_forgetfully(x: Tensor, best: Tensor) -> Step:
    scratch = make_scratch()
    return capture(lambda _: index(x, scratch, best), None, None)  # which keeps the address alone


def _steps(x: Tensor, best: Tensor, replay: Step) -> Step:
    def step() -> Tensor:
        with gpubench.annotate("indexer"):
            replay()
        return attend(x, best)

    return step
