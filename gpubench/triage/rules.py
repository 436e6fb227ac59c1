"""What separates the dead from the living: the shortest conjunction of axis conditions that is true of every cell of a
signature and of no clean one.

    parallel = TEP ∧ gvr = false ∧ concurrency ≥ 8 (3 of 3 crashed; 0 of 21 clean)

On each axis only the tightest condition of a kind that holds for all the dead can be part of an exact rule, for a
looser one lets in more of the living: so an exact rule is found if there is one. Where there is none, imprecise ones
are grown from the best shorter ones, and the one that chance explains least is told, if chance doesn't explain it. A
cell that was not run, was skipped or failed otherwise is unknown: it speaks neither for a rule nor against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from operator import and_
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpubench.records import Scalar
from gpubench.scalars import format_scalar
from gpubench.triage.chance import MOST_CONDITIONS, MOST_VALUES, Chance
from gpubench.triage.grid import ABSENT, Axis, Grid, Mask

__all__ = ["Condition", "Rule", "find_rule"]

MOST_THRESHOLDS = 64
"""Of one axis: of more values, every so many-th."""
MOST_CANDIDATES = 240
BEAM = 12
MOST_EXPECTED, MOST_EXPECTED_IMPRECISE = 0.1, 0.01
"""A rule of which chance would yield more than so many tells nothing. Of imprecise ones, which there are always, the
least expected is looked for: that one has to be rarer still."""
MOST_ALTERNATIVES = 3
"""Shown of the conditions on other axes that are true of the same cells."""

_ORDER = {"=": 0, "in": 1, "≥": 2, "≤": 2}


@dataclass(frozen=True)
class Condition:
    """What one axis must be."""

    axis: str
    operator: Literal["=", "in", "≥", "≤"]
    values: tuple[Scalar, ...]
    alternatives: tuple[Condition, ...] = ()
    """On other axes, true of the same known cells: which of them it is, these cells can't tell."""

    @property
    def text(self) -> str:
        """`model = a (or ranks = 16)`."""
        shown = ", ".join(format_scalar(value) for value in self.values)
        told = f"{self.axis} in {{{shown}}}" if self.operator == "in" else f"{self.axis} {self.operator} {shown}"
        others = [f"or {other.text}" for other in self.alternatives[:MOST_ALTERNATIVES]]
        more = len(self.alternatives) - MOST_ALTERNATIVES
        others += [f"or {more} more"] if more > 0 else []
        return f"{told} ({', '.join(others)})" if others else told


@dataclass(frozen=True)
class Rule:
    """Conditions that must all hold, and what speaks for them."""

    conditions: tuple[Condition, ...]
    crashed: int
    """Of the signature's cells, those for which it is true …"""
    of_crashed: int
    clean: int
    """… and of the clean ones."""
    of_clean: int
    unknown: int
    """Cells for which it is true and of which nobody knows: not run, skipped, or failed in another way."""
    expected: float
    """How many rules as short and as good there would be, at most, if as many cells had failed at random."""
    against: str = "clean"
    """What the cells are that it is not to be true of: where none is clean, those `that failed otherwise`."""

    @property
    def is_telling(self) -> bool:
        """Whether it says more than which cells failed."""
        most = MOST_EXPECTED if self.is_exact else MOST_EXPECTED_IMPRECISE
        return bool(self.conditions) and self.expected <= most

    @property
    def is_exact(self) -> bool:
        return self.crashed == self.of_crashed and self.clean == 0

    @property
    def precision(self) -> float:
        """Of the known cells for which it is true, the share that failed so."""
        return self.crashed / (self.crashed + self.clean) if self.crashed else 0.0

    @property
    def coverage(self) -> float:
        """Of the cells that failed so, the share for which it is true."""
        return self.crashed / self.of_crashed

    @property
    def words(self) -> str:
        """The conditions alone."""
        if not self.conditions and not self.of_clean:
            return "no cell is clean"
        if not self.conditions:
            return "no axis tells them apart" if self.of_crashed > 1 else "one cell makes no rule"
        ordered = sorted(self.conditions, key=lambda condition: _ORDER[condition.operator])
        return " ∧ ".join(condition.text for condition in ordered)

    def text(self, word: str = "crashed") -> str:
        """The conditions and their support; `word` is what became of the cells."""
        support = f"{self.crashed} of {self.of_crashed} {word}; {self.clean} of {self.of_clean} {self.against}"
        if self.unknown:
            support += f"; {self.unknown} unknown"
        if not self.is_exact and self.conditions:
            support += f": precision {self.precision:.0%}, coverage {self.coverage:.0%}"
        elif self.conditions and not self.is_telling and self.of_crashed > 1:  # of one it only says which it is
            support += "; may be chance"
        return f"{self.words} ({support})"


@dataclass(frozen=True)
class _Candidate:
    condition: Condition
    place: int
    """Of its axis."""
    cost: int
    """How much a reader has to take in; the least is chosen among equally good rules."""
    holds: Mask


def find_rule(grid: Grid, crashed: Mask, clean: Mask) -> Rule:
    """The rule for the cells that are `crashed`, against those that are `clean`; there must be one of the former."""
    assert crashed.any(), "a signature has a cell"
    chance = Chance(grid, known=int((crashed | clean).sum()), dead=int(crashed.sum()))
    chosen: tuple[_Candidate, ...] | None = () if not clean.any() else _find_exact(grid, crashed, clean)
    if chosen is None:
        chosen = _find_best(grid, crashed, clean, chance)
    holds = np.logical_and.reduce([candidate.holds for candidate in chosen] or [np.ones_like(crashed)])
    dead, alive = int((holds & crashed).sum()), int((holds & clean).sum())
    return Rule(
        conditions=tuple(_with_alternatives(grid, candidate, crashed | clean) for candidate in chosen),
        crashed=dead,
        of_crashed=int(crashed.sum()),
        clean=alive,
        of_clean=int(clean.sum()),
        unknown=int((holds & ~crashed & ~clean).sum()),
        expected=chance.expect(len(chosen), sum(candidate.cost for candidate in chosen), dead, alive),
    )


def _with_alternatives(grid: Grid, candidate: _Candidate, known: Mask) -> Condition:
    """A condition with those on other axes that are true of the same known cells, one of each axis."""
    true_of = candidate.holds & known
    found = []
    for place, axis in enumerate(grid.axes):
        if place != candidate.place:
            tight = [each for each in _tightest(place, axis, true_of) if not (each.holds & known & ~true_of).any()]
            told = [each for each in tight if ABSENT not in each.condition.values]  # it has no such axis: no cause
            found += [each.condition for each in sorted(told, key=lambda each: each.cost)[:1]]
    return replace(candidate.condition, alternatives=tuple(found))


def _find_exact(grid: Grid, crashed: Mask, clean: Mask) -> tuple[_Candidate, ...] | None:
    tight = [candidate for place, axis in enumerate(grid.axes) for candidate in _tightest(place, axis, crashed)]
    everyone = _bits(clean[clean])
    # of the living, whom each lets in; what keeps out none of them can't be part of a shortest rule
    lets_in = [(candidate, _bits(candidate.holds[clean])) for candidate in tight]
    useful = [(candidate, bits) for candidate, bits in lets_in if bits != everyone]
    for number in range(1, MOST_CONDITIONS + 1):
        found = [
            tuple(candidate for candidate, _ in chosen)
            for chosen in combinations(useful, number)
            if not reduce(and_, (bits for _, bits in chosen))
        ]
        if found:
            return min(found, key=_cost)
    return None


def _bits(mask: Mask) -> int:
    """A mask as one number: thousands of combinations are tried, and the conjunction of two is then one operation."""
    return int.from_bytes(np.packbits(mask).tobytes(), "big")


def _cost(chosen: tuple[_Candidate, ...]) -> tuple[int, list[int]]:
    return sum(candidate.cost for candidate in chosen), [candidate.place for candidate in chosen]


def _tightest(place: int, axis: Axis, crashed: Mask) -> list[_Candidate]:
    """The tightest condition of each kind that is true of all the crashed cells."""
    codes = np.unique(axis.codes[crashed])
    low, high = int(codes[0]), int(codes[-1])
    if len(codes) == 1:
        return [_equals(place, axis, low)]
    has_order = axis.is_ordered and low >= axis.num_missing
    found = [_at_least(place, axis, low), _at_most(place, axis, high)] if has_order else []
    return [*found, *_one_of(place, axis, codes)]


def _equals(place: int, axis: Axis, code: int) -> _Candidate:
    value = axis.values[code]
    cost = int(value == ABSENT)  # what a cell has says more than what it lacks
    return _Candidate(Condition(axis.name, "=", (value,)), place, cost, axis.codes == code)


def _at_least(place: int, axis: Axis, code: int) -> _Candidate:
    return _Candidate(Condition(axis.name, "≥", (axis.values[code],)), place, 1, axis.codes >= code)


def _at_most(place: int, axis: Axis, code: int) -> _Candidate:
    holds = (axis.codes <= code) & (axis.codes >= axis.num_missing)
    return _Candidate(Condition(axis.name, "≤", (axis.values[code],)), place, 1, holds)


def _one_of(place: int, axis: Axis, codes: NDArray[np.int64]) -> list[_Candidate]:
    if len(codes) > MOST_VALUES:
        return []
    values = tuple(axis.values[code] for code in codes)
    return [_Candidate(Condition(axis.name, "in", values), place, len(codes), np.isin(axis.codes, codes))]


@dataclass(frozen=True)
class _Grown:
    """A conjunction of candidates, by their places, and whom it is true of."""

    chosen: tuple[int, ...]
    dead: int
    alive: int
    """As bits."""
    of_dead: int

    @property
    def score(self) -> float:
        """The harmonic mean of precision and coverage."""
        dead = self.dead.bit_count()
        return 2 * dead / (dead + self.alive.bit_count() + self.of_dead)

    def and_also(self, other: _Grown) -> _Grown:
        chosen = tuple(sorted((*self.chosen, *other.chosen)))
        return _Grown(chosen, self.dead & other.dead, self.alive & other.alive, self.of_dead)


def _find_best(grid: Grid, crashed: Mask, clean: Mask, chance: Chance) -> tuple[_Candidate, ...]:
    """The rule that chance explains least, of those that a beam search meets; none if chance explains it."""
    candidates = [candidate for place, axis in enumerate(grid.axes) for candidate in _loose(place, axis, crashed)]
    of_dead = int(crashed.sum())
    single = [
        _Grown((place,), _bits(candidate.holds[crashed]), _bits(candidate.holds[clean]), of_dead)
        for place, candidate in enumerate(candidates)
    ]
    single = sorted(single, key=_best_first)[:MOST_CANDIDATES]
    beam = [_Grown((), _bits(crashed[crashed]), _bits(clean[clean]), of_dead)]
    met: list[_Grown] = []
    for _ in range(MOST_CONDITIONS):
        # by its places, so that what can be reached in two orders is met once
        grown = {
            both.chosen: both
            for one in beam
            for other in single
            if _may_join(candidates[other.chosen[0]], [candidates[place] for place in one.chosen])
            for both in [one.and_also(other)]
        }
        beam = sorted(grown.values(), key=_best_first)[:BEAM]
        met += beam

    def expect(grown: _Grown) -> float:
        cost = sum(candidates[place].cost for place in grown.chosen)
        return chance.expect(len(grown.chosen), cost, grown.dead.bit_count(), grown.alive.bit_count())

    best = min(met, key=lambda grown: (expect(grown), _best_first(grown)), default=None)
    is_telling = best is not None and expect(best) <= MOST_EXPECTED_IMPRECISE
    return tuple(candidates[place] for place in best.chosen) if best is not None and is_telling else ()


def _may_join(candidate: _Candidate, chosen: Sequence[_Candidate]) -> bool:
    """Whether it says something new of its axis: the other end of a range, if anything was said."""
    said = [other.condition.operator for other in chosen if other.place == candidate.place]
    return not said or [*said, candidate.condition.operator] in (["≥", "≤"], ["≤", "≥"])


def _best_first(grown: _Grown) -> tuple[float, int, tuple[int, ...]]:
    """The shorter one, if they are equally good."""
    return -grown.score, len(grown.chosen), grown.chosen


def _loose(place: int, axis: Axis, crashed: Mask) -> list[_Candidate]:
    """Conditions that are true of some of the crashed cells."""
    codes = np.unique(axis.codes[crashed])
    if len(codes) > MOST_THRESHOLDS:
        codes = codes[np.linspace(0, len(codes) - 1, MOST_THRESHOLDS).astype(int)]
    found = [_equals(place, axis, int(code)) for code in codes]
    if axis.is_ordered:
        present = [int(code) for code in codes if code >= axis.num_missing]
        found += [make(place, axis, code) for code in present for make in (_at_least, _at_most)]
    return [*found, *(_one_of(place, axis, codes) if len(codes) > 1 else [])]
