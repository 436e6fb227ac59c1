"""Scores of an indexer that resemble captured ones, and how they move from one decode step to the next.

Captured scores were fitted by a Beta distribution, matched to mean and standard deviation and scaled to their range
(low, high); the best k of one step share the part `hit_rate` with the best k of the step before:

    row ~ low + (high − low) · Beta(a, b)      last step's indices = top-k of (row + c · std · ε),  ε ~ N(0, 1)

with c by bisection, a row at a time. A Beta misses the heavy tail of real rows of 128K columns and more: `heavy_tail`
is Student's t with three degrees of freedom, at the same mean and standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gpubench.errors import ArgumentError

__all__ = ["FITS", "Distribution", "Fit", "make_hint", "make_rows", "next_rows", "overlap"]

Distribution = Literal[
    "flash_shallow",
    "flash_moderate",
    "flash_deep",
    "pro_shallow",
    "pro_moderate",
    "pro_deep",
    "heavy_tail",
    "uniform",
    "ties",
    "constant",
]


@dataclass(frozen=True)
class Fit:
    """A Beta distribution of scores, and how much of the best k stays from one step to the next."""

    mean: float
    std: float
    low: float
    high: float
    hit_rate: float

    def concentrations(self) -> tuple[float, float]:
        """The Beta's a and b: those with this mean and standard deviation on (low, high)."""
        mean = (self.mean - self.low) / (self.high - self.low)
        variance = (self.std / (self.high - self.low)) ** 2
        total = mean * (1 - mean) / variance - 1
        return mean * total, (1 - mean) * total


FITS: dict[str, Fit] = {
    "flash_shallow": Fit(-1.315, 0.605, -4.36, 7.83, 0.36),
    "flash_moderate": Fit(-2.088, 0.728, -5.08, 7.17, 0.46),
    "flash_deep": Fit(-2.595, 0.785, -6.28, 7.55, 0.44),
    "pro_shallow": Fit(-1.184, 0.864, -4.54, 7.33, 0.69),
    "pro_moderate": Fit(-1.885, 1.025, -6.15, 8.45, 0.75),
    "pro_deep": Fit(-2.590, 0.870, -5.42, 6.47, 0.77),
}
"""Of captures of deepseek-v4-flash and -pro, by the depth of the layer."""

LIKE = "flash_moderate"
"""Whose mean and standard deviation the other distributions have, and whose hit rate is theirs by default."""
TIES = 64
"""Distinct values of `ties`."""
MOST_NOISE = 1e3
"""In standard deviations: the row no longer shows through."""


def make_rows(distribution: Distribution, rows: int, columns: int) -> Tensor:
    """Fresh scores [rows, columns] in float32, from torch's generator on the default device."""
    fit = FITS.get(distribution)
    if fit is not None:
        a, b = (torch.full((rows, columns), each) for each in fit.concentrations())
        return fit.low + (fit.high - fit.low) * torch.distributions.Beta(a, b, validate_args=False).sample()
    like = FITS[LIKE]
    if distribution == "heavy_tail":
        # t = normal / sqrt(chi² / 3): its variance is 3, and its sum of squares dominated by a few
        chi = torch.randn(3, rows, columns).square().sum(0)
        return like.mean + like.std * torch.randn(rows, columns) / chi.sqrt()
    if distribution == "uniform":
        return like.mean + like.std * math.sqrt(12) * (torch.rand(rows, columns) - 0.5)
    if distribution == "ties":
        return like.mean + like.std * torch.randint(-TIES // 2, TIES // 2, (rows, columns)) / (TIES / 4)
    return torch.full((rows, columns), like.mean)


def make_hint(scores: Tensor, lengths: Tensor, k: int, hit_rate: float) -> Tensor:
    """What the step before selected [rows, k], int32: it shares `hit_rate` of each row's best k.

    Rows of `scores` are valid up to their length; where that is less than k, −1 follows. A hit rate of 0 is a hint
    without a single hit. A row of little more than k columns is hit by chance more often than asked for; ArgumentError
    if all rows are.
    """
    return _last_step(scores, lengths, k, hit_rate)[1]


def next_rows(scores: Tensor, lengths: Tensor, k: int, hit_rate: float, distribution: Distribution) -> Tensor:
    """The step after `scores`: fresh values of the distribution whose best k share `hit_rate` of them with this step's.

    The order is that of the scores with noise on them, the values are a fresh sample's: so each step is distributed
    like the first, however many follow.
    """
    noisy, _ = _last_step(scores, lengths, k, hit_rate)
    order = noisy.argsort(dim=-1, descending=True)
    fresh = make_rows(distribution, *scores.shape).sort(dim=-1, descending=True).values
    return torch.empty_like(scores).scatter_(-1, order, fresh)


def overlap(ours: Tensor, theirs: Tensor, columns: int) -> Tensor:
    """Which share of `theirs` [rows, k] is also in `ours`, by row; −1 is in nobody's."""
    marked = torch.zeros(ours.shape[0], columns + 1, dtype=torch.bool, device=ours.device)
    marked.scatter_(1, ours.long().where(ours >= 0, columns), True)
    marked[:, columns] = False
    valid = (theirs >= 0).sum(-1).clamp_min(1)
    return marked.gather(1, theirs.long().where(theirs >= 0, columns)).sum(-1) / valid


def _last_step(scores: Tensor, lengths: Tensor, k: int, hit_rate: float) -> tuple[Tensor, Tensor]:
    """The scores with as much noise as gives the hit rate, and their best k."""
    if not 0 <= hit_rate <= 1:
        raise ArgumentError(f"hit_rate: {hit_rate:g}; wanted a share from 0 to 1")
    inside = torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
    truth = _best(scores.masked_fill(~inside, -math.inf), lengths, k)
    noise = torch.randn_like(scores) * scores.std(dim=-1, keepdim=True).clamp_min(1e-6)
    if hit_rate == 0:
        chosen = torch.zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
        chosen.scatter_(1, truth.long().where(truth >= 0, scores.shape[1]), True)
        noisy = noise.masked_fill(~inside | chosen[:, :-1], -math.inf)
        return noisy, _best(noisy, lengths, k)
    low = torch.zeros(scores.shape[0], 1, device=scores.device)
    high = torch.full_like(low, MOST_NOISE)

    def hint_at(share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noisy = (scores + share * noise).masked_fill(~inside, -math.inf)
        best = _best(noisy, lengths, k)
        return noisy, best, overlap(truth, best, scores.shape[1])[:, None]

    least = hint_at(high)[2].min()
    if bool(least > hit_rate + 0.005) and int(lengths.max()) > k:
        raise ArgumentError(
            f"hit_rate: {hit_rate:g} is less than chance, {least:.3f} of the best {k} of {int(lengths.max())} "
            "columns; wanted more, or 0 for a hint without a hit"
        )
    for _ in range(32):
        middle = (low + high) / 2
        hits = hint_at(middle)[2]
        low, high = torch.where(hits > hit_rate, middle, low), torch.where(hits > hit_rate, high, middle)
    noisy, best, _ = hint_at(high)
    return noisy, best


def _best(scores: Tensor, lengths: Tensor, k: int) -> Tensor:
    best = scores.topk(min(k, scores.shape[1]), dim=-1).indices.to(torch.int32)
    best = torch.nn.functional.pad(best, (0, k - best.shape[1]), value=-1)
    return best.masked_fill(torch.arange(k, device=scores.device) >= lengths[:, None], -1)
