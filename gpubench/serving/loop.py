"""The loop: what the scheduler says is run by the engine, its tokens are brought to the host, and the time is noted.

After each iteration the new tokens are copied to the host, in one small copy from the device and one wait, as an engine
that streams them has to. Then they are there: that is their time. The loop's own time is what of an iteration passes
neither within the engine's calls nor in waiting for tokens: planning it, and copying positions and tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpubench.serving.requests import Lengths, Prompts
from gpubench.serving.scheduler import Progress, Scheduler

if TYPE_CHECKING:
    from gpubench.serving.engine import Engine

__all__ = ["Served", "serve"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Served:
    """A run of the loop, as it went."""

    lengths: Lengths
    prefill_chunk: int
    progress: Progress
    moments: Floats
    """[iterations + 1]: seconds since the start, of each moment."""
    own: Floats
    """[iterations]: seconds of the loop's own."""
    decoding: NDArray[np.int64]
    """[iterations]: sequences that decoded."""
    prefilled: NDArray[np.int64]
    """[iterations]: tokens that were prefilled."""
    tokens: list[NDArray[np.int64]]
    """By iteration, the last token of every slot as it was then."""

    @property
    def iterations(self) -> Floats:
        """Seconds from the moment before each iteration to its own."""
        return np.diff(self.moments)

    def answer(self, user: int, request: int) -> NDArray[np.int64]:
        """The tokens of an answer, so far as they have come."""
        first, last = int(self.progress.first[user, request]), int(self.progress.last[user, request])
        end = last if last > 0 else len(self.tokens)
        return np.array([self.tokens[moment - 1][user] for moment in range(first, end + 1)])


class _Delivery:
    """The last token of every slot, on the device and, one copy and one wait later, on the host."""

    def __init__(self, users: int, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self.last = torch.zeros(users, dtype=torch.int64, device=device)
        self._host = torch.zeros(users, dtype=torch.int64, device="cpu", pin_memory=is_cuda)
        self._arrived = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        self.tokens: NDArray[np.int64] = self._host.numpy()

    def send(self) -> None:
        self._host.copy_(self.last, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> None:
        if self._arrived is not None:
            self._arrived.synchronize()


class _Positions:
    """The scheduler's positions, brought to the device."""

    def __init__(self, positions: NDArray[np.int32], device: torch.device) -> None:
        self._from = torch.from_numpy(positions)
        is_cuda = device.type == "cuda"
        self._pinned = torch.empty(positions.shape, dtype=torch.int32, device="cpu", pin_memory=is_cuda)
        self._device = torch.empty(positions.shape, dtype=torch.int32, device=device)

    def first(self, rows: int) -> Tensor:
        """Those of the first slots; what was copied before has arrived by now, for its iteration is over."""
        self._pinned.copy_(self._from)
        self._device.copy_(self._pinned, non_blocking=True)
        return self._device[:rows]


@dataclass
class _Loop:
    """The parts of an iteration; each gives back the seconds that passed within the engine or in waiting."""

    engine: Engine
    prompts: Prompts
    scheduler: Scheduler
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        device = self.prompts.tokens.device
        self.delivery = _Delivery(self.scheduler.lengths.users, device)
        self._positions = _Positions(self.scheduler.positions, device)

    def decode(self) -> float:
        rows = self.scheduler.rows
        if not rows:
            return 0.0
        last, positions = self.delivery.last[:rows], self._positions.first(rows)
        began = self.clock()
        tokens = self.engine.decode(last, positions)
        elapsed = self.clock() - began
        last.copy_(tokens)
        return elapsed

    def prefill(self) -> float:
        piece = self.scheduler.piece
        if piece is None:
            return 0.0
        tokens = self.prompts.chunk(piece.user, piece.request, piece.first, piece.count)
        began = self.clock()
        if piece.first == 0:
            self.engine.clear(piece.user)
        token = self.engine.prefill(tokens, piece.user, piece.first, is_last=piece.is_last)
        elapsed = self.clock() - began
        if token is not None:
            self.delivery.last[piece.user : piece.user + 1].copy_(token)
        return elapsed

    def deliver(self) -> tuple[float, float]:
        """And the time when the tokens are there."""
        self.delivery.send()
        began = self.clock()
        self.delivery.wait()
        now = self.clock()
        return now - began, now


def serve(
    engine: Engine,
    lengths: Lengths,
    prompts: Prompts,
    prefill_chunk: int,
    *,
    drain: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Served:
    """Serve until a user has nothing more to send, or with `drain` until every request is answered."""
    scheduler = Scheduler(lengths, prefill_chunk)
    loop = _Loop(engine, prompts, scheduler, clock)
    moments, own, decoding, prefilled, tokens = [clock()], [], [], [], []
    while not (scheduler.is_drained if drain else scheduler.is_over):
        elsewhere = loop.decode() + loop.prefill()  # a sequence whose prefill ends here decodes from the next one on
        waited, now = loop.deliver()
        own.append(now - moments[-1] - elsewhere - waited)
        moments.append(now)
        decoding.append(scheduler.num_decoding)
        prefilled.append(scheduler.piece.count if scheduler.piece else 0)
        tokens.append(loop.delivery.tokens.copy())
        scheduler.advance()
    return Served(
        lengths=lengths,
        prefill_chunk=prefill_chunk,
        progress=scheduler.progress,
        moments=np.array(moments) - moments[0],
        own=np.array(own),
        decoding=np.array(decoding),
        prefilled=np.array(prefilled),
        tokens=tokens,
    )
