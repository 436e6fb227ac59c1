"""Whether requests that were served together got what each gets alone: teacher-forced, by the model's own prefill.

A request's prompt and answer go through the model once more, all in one piece and with nobody beside them. That gives
the logits that each token of the answer was to be chosen by; greedily the largest is. Batches and chunks of other sizes
round otherwise, so that a token may be one whose logit is nearly the largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpubench.models.base import Chunk, ServingModel
from gpubench.records import CheckResult
from gpubench.serving.loop import Served
from gpubench.serving.requests import Prompts

__all__ = ["check_alone", "forced_logits"]

ROUNDING_SIGMAS = 8.0 * math.sqrt(2)
"""Of a token's logit below the largest, in units of the relative error that logits may have and of their root mean
square. Both sides are rounded, the loop's and the request's alone. Among 248,000 normal logits the one that rounding
picks was up to 0.6 of this below the largest, in 600 draws for each of six errors from 0.05 to 0.4. Where 0.25 may be
the error, one in thirty of all other tokens would pass."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Judged:
    """One request's answer, held against the logits that it gets alone."""

    excess: float
    """The worst token's distance from the largest logit, as a multiple of what is allowed."""
    token: int
    shortfall: float
    allowed: float
    exact: int
    """Tokens that are the largest."""
    tokens: int


def check_alone(
    model: ServingModel, served: Served, prompts: Prompts, requests: Ints, tolerance: float, of: int
) -> CheckResult:
    """Hold the answers to `requests` [n, 2] (user, number), `of` so many, against what each gets alone.

    `tolerance` is how far off logits may be, ‖out − ref‖ / ‖ref‖.
    """
    judged = []
    for user, number in requests.tolist():
        isl = int(served.lengths.isl[user, number])
        answer = torch.from_numpy(served.answer(user, number)).to(prompts.tokens.device)
        logits = forced_logits(model, prompts.chunk(user, number, 0, isl), answer)
        judged.append((f"user {user}'s request {number}", _judge(logits, answer, tolerance)))
    where, worst = max(judged, key=lambda item: item[1].excess)
    exact, tokens = (sum(getattr(found, name) for _, found in judged) for name in ("exact", "tokens"))
    return CheckResult(
        against=f"{len(judged)} of {of} requests, each alone",
        passed=worst.excess <= 1,
        worst=f"{exact:,} of {tokens:,} tokens have the largest logit; the worst, {where}, token {worst.token}: "
        f"{worst.shortfall:.3g} below it, allowed {worst.allowed:.3g}",
    )


def forced_logits(model: ServingModel, prompt: Tensor, answer: Tensor) -> Tensor:
    """The logits [answer, vocabulary] that each token of an answer is chosen by, all read in one piece."""
    tokens = torch.cat([prompt, answer[:-1]])
    positions = torch.arange(len(tokens), dtype=torch.int32, device=tokens.device)
    with torch.device(tokens.device):
        slots = model.make_slots(1, len(tokens))
    slots.clear(0)
    hidden = model.prefill(tokens, positions, Chunk(slots, torch.zeros(2, dtype=torch.int64, device="cpu")))
    return model.logits(hidden[len(prompt) - 1 :])


def _judge(logits: Tensor, answer: Tensor, tolerance: float) -> _Judged:
    logits = logits.float()
    shortfall = logits.amax(dim=1) - logits.gather(1, answer[:, None]).squeeze(1)
    allowed = ROUNDING_SIGMAS * tolerance * logits.square().mean(dim=1).sqrt()
    excess = (shortfall / allowed).nan_to_num(nan=torch.inf)
    worst = int(excess.argmax())
    return _Judged(
        excess=float(excess[worst]),
        token=worst,
        shortfall=float(shortfall[worst]),
        allowed=float(allowed[worst]),
        exact=int((shortfall == 0).sum()),
        tokens=len(answer),
    )
