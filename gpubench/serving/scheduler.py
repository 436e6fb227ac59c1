"""Which request is where: users, who waits for prefill, who decodes. It knows no clock and no model.

Each user has a slot for good, of the same number, and one request at a time. In an iteration every sequence that
decodes gets its next token, and the request that has waited longest has the next chunk of its prompt prefilled. After
the last chunk its first token is there, and from the next iteration on it decodes: so a request gets at most one token
in an iteration, and from its first to its last one in each. With its last token its user sends the next request.

Moment 0 is the start, moment i the end of the i-th iteration.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpubench.errors import ArgumentError
from gpubench.serving.requests import Lengths

__all__ = ["IDLE", "NOT_YET", "Piece", "Progress", "Scheduler", "Window", "find_window"]

NOT_YET = -1
"""The moment of what hasn't come."""
IDLE = -1
"""The position of a slot that doesn't decode."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a prompt that is to be prefilled."""

    user: int
    request: int
    first: int
    """Its first token's position."""
    count: int
    is_last: bool


@dataclass(frozen=True)
class Progress:
    """The moments of every request, [users, requests]; NOT_YET for what hasn't come."""

    sent: Ints
    first: Ints
    """When its first token arrived …"""
    last: Ints
    """… and its last."""

    @classmethod
    def of_nothing(cls, lengths: Lengths) -> Progress:
        return cls(*(np.full(lengths.isl.shape, NOT_YET, dtype=np.int64) for _ in range(3)))


@dataclass(frozen=True)
class Window:
    """The steady part of a run, in moments: all users are past their warm-up, and each still has a request."""

    begin: int
    end: int

    @classmethod
    def of(cls, progress: Progress, warmup_requests: int) -> Window | None:
        """From the last user's last warm-up answer to the first user's last answer; None if that is nothing."""
        warm, done = progress.last[:, warmup_requests - 1], progress.last[:, -1]
        done = done[done != NOT_YET]
        if NOT_YET in warm or not done.size or warm.max() >= done.min():
            return None
        return cls(int(warm.max()), int(done.min()))


class Scheduler:
    """Says what an iteration has to do, and is told when it is done: `piece`, `positions`, `rows`; then `advance`."""

    def __init__(self, lengths: Lengths, prefill_chunk: int, positions: NDArray[np.int32] | None = None) -> None:
        """`positions` is where it keeps those of its slots, if not in memory of its own."""
        users = lengths.users
        self.lengths = lengths
        self.progress = Progress.of_nothing(lengths)
        self.positions = np.empty(users, dtype=np.int32) if positions is None else positions
        """By slot, where the token that it decodes next stands."""
        self.positions[:] = IDLE
        self.rows = 0
        """Slots up to the highest one that decodes."""
        self.num_decoding = 0
        self.moment = 0
        self._chunk = prefill_chunk
        self._decoding = np.zeros(users, dtype=bool)
        self._left = np.zeros(users, dtype=np.int64)
        self._request = np.zeros(users, dtype=np.int64)
        self._waiting = deque(range(users))
        self._prefilled = 0
        self._num_done = 0
        self.progress.sent[:, 0] = 0
        self.piece = self._next_piece()
        """What is prefilled in this iteration, if anything."""

    @property
    def is_over(self) -> bool:
        """A user has nothing more to send."""
        return self._num_done > 0

    @property
    def is_drained(self) -> bool:
        """Every request is answered."""
        return self._num_done == self.lengths.users

    def advance(self) -> None:
        """The iteration's tokens have arrived."""
        self.moment += 1
        self.positions += self._decoding
        self._left -= self._decoding
        ended = np.flatnonzero(self._decoding & (self._left == 0)).tolist()
        begun = self.piece is not None and self._advance_prefill(self.piece, ended)
        for user in ended:
            self._end(user)
        if ended or begun:
            decoding = np.flatnonzero(self._decoding)
            self.num_decoding = decoding.size
            self.rows = int(decoding[-1]) + 1 if decoding.size else 0
        self.piece = self._next_piece()

    def _advance_prefill(self, piece: Piece, ended: list[int]) -> bool:
        """Whether its sequence has its first token; if that is its last one too, it joins those that have `ended`."""
        self._prefilled += piece.count
        if not piece.is_last:
            return False
        user, request = piece.user, piece.request
        self._waiting.popleft()
        self._prefilled = 0
        self.progress.first[user, request] = self.moment
        left = int(self.lengths.osl[user, request]) - 1
        if left == 0:
            ended.append(user)
        else:
            self._decoding[user], self._left[user] = True, left
            self.positions[user] = piece.first + piece.count
        return True

    def _end(self, user: int) -> None:
        request = int(self._request[user])
        self.progress.last[user, request] = self.moment
        self._decoding[user], self.positions[user] = False, IDLE
        if request + 1 == self.lengths.requests:
            self._num_done += 1
            return
        self._request[user] = request + 1
        self.progress.sent[user, request + 1] = self.moment
        self._waiting.append(user)

    def _next_piece(self) -> Piece | None:
        if not self._waiting:
            return None
        user = self._waiting[0]
        request = int(self._request[user])
        left = int(self.lengths.isl[user, request]) - self._prefilled
        return Piece(user, request, self._prefilled, min(left, self._chunk), left <= self._chunk)


def find_window(lengths: Lengths, prefill_chunk: int, warmup_requests: int) -> Window:
    """The window that a run will have: iterations follow from lengths alone, so that it is known beforehand.

    ArgumentError if it will have none.
    """
    scheduler = Scheduler(lengths, prefill_chunk)
    while not scheduler.is_over:
        scheduler.advance()
    window = Window.of(scheduler.progress, warmup_requests)
    if window is None:
        raise ArgumentError(
            f"requests: with {lengths.requests - warmup_requests} of each user after its warm-up ({warmup_requests}), "
            f"one of the {lengths.users} users has nothing more to send before all of them have warmed up, so that "
            "nothing is measured; give more requests"
        )
    return window
