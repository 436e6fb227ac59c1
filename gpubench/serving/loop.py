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
from gpubench.serving.scheduler import NOT_YET, Progress, Scheduler

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
        end = last if last != NOT_YET else len(self.tokens)
        return np.array([self.tokens[moment - 1][user] for moment in range(first, end + 1)])


class _Link:
    """What host and device tell each other: positions there, tokens back; each in one copy from or to pinned memory.

    Every call of torch costs microseconds in each iteration, and so views are made once.
    """

    def __init__(self, users: int, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self._last = torch.zeros(users, dtype=torch.int64, device=device)
        self._positions = torch.empty(users, dtype=torch.int32, device=device)
        self._last_here = torch.zeros(users, dtype=torch.int64, device="cpu", pin_memory=is_cuda)
        self._positions_here = torch.empty(users, dtype=torch.int32, device="cpu", pin_memory=is_cuda)
        self._arrived = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        self._rows: dict[int, tuple[Tensor, Tensor]] = {}
        self.slots = torch.split(self._last, 1)
        """The last token of each slot, on the device."""
        self.tokens: NDArray[np.int64] = self._last_here.numpy()
        """The same, as it was sent last."""
        self.positions: NDArray[np.int32] = self._positions_here.numpy()
        """By slot, for the next step: the scheduler's own."""

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        """Last tokens and positions of the first slots, on the device. What was copied before has arrived by now."""
        if count not in self._rows:
            self._rows[count] = self._last[:count], self._positions[:count]
        self._positions.copy_(self._positions_here, non_blocking=True)
        return self._rows[count]

    def send(self) -> None:
        self._last_here.copy_(self._last, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> None:
        if self._arrived is not None:
            self._arrived.synchronize()


@dataclass
class _Loop:
    """The parts of an iteration; each gives back the seconds that passed within the engine or in waiting."""

    engine: Engine
    prompts: Prompts
    scheduler: Scheduler
    link: _Link
    clock: Callable[[], float]

    def decode(self) -> float:
        count = self.scheduler.rows
        if not count:
            return 0.0
        last, positions = self.link.rows(count)
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
            self.link.slots[piece.user].copy_(token)
        return elapsed

    def deliver(self) -> tuple[float, float]:
        """And the time when the tokens are there."""
        self.link.send()
        began = self.clock()
        self.link.wait()
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
    link = _Link(lengths.users, prompts.tokens.device)
    scheduler = Scheduler(lengths, prefill_chunk, link.positions)
    loop = _Loop(engine, prompts, scheduler, link, clock)
    moments, own, decoding, prefilled, tokens = [clock()], [], [], [], []
    while not (scheduler.is_drained if drain else scheduler.is_over):
        elsewhere = loop.decode() + loop.prefill()  # a sequence whose prefill ends here decodes from the next one on
        waited, now = loop.deliver()
        own.append(now - moments[-1] - elsewhere - waited)
        moments.append(now)
        decoding.append(scheduler.num_decoding)
        prefilled.append(scheduler.piece.count if scheduler.piece else 0)
        tokens.append(link.tokens.copy())
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
