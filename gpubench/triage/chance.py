"""What a rule is worth: how many as good ones there would be if as many cells had failed at random.

Of enough conjunctions that are tried some fit anything. So the odds that one given rule fits as well by chance (the
hypergeometric tail: the dead are drawn blindly from the known cells) are multiplied by the number of rules that take no
more to read. That is at least the number that is to be expected, whichever of them the search would meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpubench.triage.grid import Axis, Grid

__all__ = ["MOST_CONDITIONS", "MOST_VALUES", "Chance"]

MOST_CONDITIONS = 3
MOST_VALUES = 8
"""Of `in`: a longer list tells the cells over again, not what they have in common."""


class Chance:
    """Of rules for `dead` cells among `known` ones.

    A condition costs what it takes to read: nothing if it is `=`, 1 if `≥` or `≤`, the number of its values if `in`.
    """

    def __init__(self, grid: Grid, *, known: int, dead: int) -> None:
        self._known = known
        self._dead = dead
        rules = np.zeros((MOST_CONDITIONS + 1, MOST_CONDITIONS * MOST_VALUES + 1))
        rules[0, 0] = 1
        for axis in grid.axes:
            grown = rules.copy()
            for conditions, cost, number in _options(axis):
                grown[conditions:, cost:] += number * rules[: len(rules) - conditions, : rules.shape[1] - cost]
            rules = grown
        self._num_rules = rules.cumsum(axis=0).cumsum(axis=1)

    def expect(self, conditions: int, cost: int, crashed: int, clean: int) -> float:
        """How many rules of at most so many conditions and that cost would fit as well as one with this support."""
        return float(self._num_rules[conditions, cost]) * self._tail(crashed, crashed + clean)

    def _tail(self, crashed: int, covered: int) -> float:
        """The probability that of `covered` given cells so many or more are dead."""
        alive = self._known - self._dead
        draws = _log_choose(self._known, covered)
        return sum(
            math.exp(_log_choose(self._dead, number) + _log_choose(alive, covered - number) - draws)
            for number in range(max(crashed, covered - alive), min(covered, self._dead) + 1)
        )


def _options(axis: Axis) -> Iterator[tuple[int, int, int]]:
    """In how many ways an axis can be constrained, by the number of conditions and their cost."""
    values = len(axis.values)
    yield 1, 0, values
    if axis.is_ordered and values > 2:  # a threshold at either end is `=`, or always true
        yield 1, 1, 2 * (values - 2)
        yield 2, 2, math.comb(values - 2, 2)
    for listed in range(2, min(MOST_VALUES, values - 1) + 1):
        yield 1, listed, math.comb(values, listed)


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
