"""The rule that separates the dead from the living is found whenever there is one, and says how good it is if not."""

from __future__ import annotations

import itertools
import operator
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_failures import grid_cells

from gpubench.records import Cell
from gpubench.triage.grid import ABSENT, Grid
from gpubench.triage.rules import MOST_CONDITIONS, Rule, find_rule
from gpubench.triage.twins import find_twins

NUMBERS = [1, 2, 4, 8, 16, 32]
WORDS = ["TEP", "DEP", "TP", "PP"]
HOLDS = {"=": operator.eq, "≥": operator.ge, "≤": operator.le, "in": lambda value, values: value in values}


def rule_of(cells: list[Cell], dead: set[int], unknown: set[int] = frozenset()) -> Rule:
    grid = Grid(cells)
    clean = [number for number in range(len(cells)) if number not in dead | unknown]
    return find_rule(grid, grid.mask(sorted(dead)), grid.mask(clean))


def is_true_of(rule: Rule, cell: Cell) -> bool:
    return all(
        HOLDS[c.operator](cell.axes[c.axis], c.values if c.operator == "in" else c.values[0]) for c in rule.conditions
    )


@st.composite
def planted(draw):
    """A random grid and the cells for which a random conjunction is true."""
    names = ["batch", "isl", "backend", "gvr", "parallel"][: draw(st.integers(2, 5))]
    axes = {}
    for name in names:
        if name in ("batch", "isl"):
            axes[name] = NUMBERS[: draw(st.integers(2, 5))]
        elif name == "gvr":
            axes[name] = [True, False]
        else:
            axes[name] = WORDS[: draw(st.integers(2, 4))]
    conditions = []
    for name in draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=MOST_CONDITIONS)):
        kinds = ["=", "in", *(["≥", "≤"] if axes[name][0] in NUMBERS and name != "gvr" else [])]
        kind = draw(st.sampled_from(kinds))
        chosen = draw(st.lists(st.sampled_from(axes[name]), min_size=1, max_size=3, unique=True))
        conditions.append((name, kind, chosen if kind == "in" else chosen[0]))
    cells = grid_cells(**axes)
    dead = {n for n, cell in enumerate(cells) if all(HOLDS[k](cell.axes[a], v) for a, k, v in conditions)}
    unknown = draw(st.sets(st.integers(0, len(cells) - 1), max_size=len(cells) // 4))
    return cells, dead, unknown, len(conditions)


@given(planted())
def test_a_planted_rule_is_found_or_one_that_says_the_same(plan):
    cells, true_of, unknown, length = plan
    dead = true_of - unknown
    assume(dead)
    rule = rule_of(cells, dead, unknown)
    assert rule.is_exact
    assert len(rule.conditions) <= length
    for number in set(range(len(cells))) - unknown:
        assert is_true_of(rule, cells[number]) is (number in dead)
    assert rule.unknown == sum(is_true_of(rule, cells[number]) for number in unknown)


@given(planted())
def test_no_shorter_rule_would_have_done(plan):
    cells, true_of, unknown, _ = plan
    dead = true_of - unknown
    living = set(range(len(cells))) - dead - unknown
    assume(dead)
    assume(living)
    rule = rule_of(cells, dead, unknown)
    shorter = itertools.chain.from_iterable(
        itertools.combinations(_all_conditions(cells), n) for n in range(1, len(rule.conditions))
    )
    for conditions in itertools.islice(shorter, 3000):
        holds = [all(number in truths for truths in conditions) for number in range(len(cells))]
        assert not (all(holds[n] for n in dead) and not any(holds[n] for n in living))


def _all_conditions(cells: list[Cell]) -> list[frozenset[int]]:
    """The cells for which each condition is true that a reader would accept."""
    found = set()
    for axis in cells[0].axes:
        values = list(dict.fromkeys(cell.axes[axis] for cell in cells))
        tests = [("=", value) for value in values]
        tests += [("in", chosen) for size in range(2, len(values)) for chosen in itertools.combinations(values, size)]
        if all(value in NUMBERS and not isinstance(value, bool) for value in values):
            tests += [(kind, value) for value in values for kind in "≥≤"]
        found |= {
            frozenset(n for n, cell in enumerate(cells) if HOLDS[kind](cell.axes[axis], value)) for kind, value in tests
        }
    return sorted(found, key=sorted)


@given(
    st.sets(st.integers(0, 23), min_size=1, max_size=23),
    st.sets(st.integers(0, 23), max_size=6),
)
def test_any_rule_counts_truly(dead, unknown):
    cells = grid_cells(batch=NUMBERS[:4], parallel=WORDS[:3], gvr=[True, False])
    unknown -= dead
    rule = rule_of(cells, dead, unknown)
    true_of = {number for number, cell in enumerate(cells) if is_true_of(rule, cell)}
    assert rule.crashed == len(true_of & dead)
    assert rule.clean == len(true_of - dead - unknown)
    assert rule.unknown == len(true_of & unknown)
    assert (rule.of_crashed, rule.of_clean) == (len(dead), 24 - len(dead) - len(unknown))
    assert 0 < rule.precision <= 1
    assert 0 < rule.coverage <= 1
    assert ("precision" in rule.text()) is (not rule.is_exact and bool(rule.conditions))


def test_where_no_rule_is_exact_the_best_is_named_with_its_precision_and_coverage():
    cells = grid_cells(batch=NUMBERS, parallel=["TEP", "DEP"], gvr=[True, False])
    dead = {n for n, cell in enumerate(cells) if cell.axes["parallel"] == "TEP"} - {4} | {2, 23}
    rule = rule_of(cells, dead)
    assert rule.words == "parallel = TEP"
    assert rule.text().endswith("(11 of 13 crashed; 1 of 11 clean: precision 92%, coverage 85%)")


def test_if_no_cell_is_clean_there_is_nothing_to_tell_apart():
    rule = rule_of(grid_cells(batch=[1, 2]), {0, 1})
    assert rule.text() == "no cell is clean (2 of 2 crashed; 0 of 0 clean)"
    assert (rule.precision, rule.coverage) == (1.0, 1.0)


def test_a_range_inside_an_axis_is_told_by_its_values():
    rule = rule_of(grid_cells(batch=NUMBERS), {2, 3})
    assert rule.words == "batch in {4, 8}"


def test_cells_that_differ_in_nothing_known_have_no_rule():
    cells = grid_cells(batch=[8])
    twice = [cells[0], cells[0]]
    assert rule_of(twice, {0}).words == "one cell makes no rule"
    thrice = [*twice, cells[0]]
    assert rule_of(thrice, {0, 1}).words == "no axis tells them apart"


def test_true_is_not_one_and_a_missing_axis_is_a_value_of_its_own():
    cells = grid_cells(flag=[True, 1, False, 0])
    assert rule_of(cells, {0}).words == "flag = true"
    some = [*grid_cells(batch=[1, 2]), *grid_cells(block=[64])]
    assert rule_of(some, {2}).words == "block = 64"
    assert rule_of(some, {0, 1}).words == "batch ≥ 1"


def noisy(share: float, seed: int, *, stray: float = 0.0) -> tuple[list[Cell], set[int]]:
    """A grid in which cells of backend b with gvr off fail, but for a share of them, and others by chance."""
    cells = grid_cells(backend=["a", "b", "c"], batch=NUMBERS[:5], isl=NUMBERS[:3], model=["x", "y"], gvr=[True, False])
    draw = random.Random(seed)
    chance = [share if cell.axes["backend"] == "b" and not cell.axes["gvr"] else stray for cell in cells]
    return cells, {number for number, share in enumerate(chance) if draw.random() < share}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("share", "stray"), [(0.9, 0.02), (0.7, 0.0), (0.5, 0.0)])
def test_a_planted_rule_that_does_not_always_hold_is_found_and_not_refined(share, stray, seed):
    cells, dead = noisy(share, seed, stray=stray)
    rule = rule_of(cells, dead)
    assert rule.words == "backend = b ∧ gvr = false"
    assert rule.is_telling


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", [2, 3, 5, 8, 16, 60])
def test_what_fails_at_random_is_not_explained(number, seed):
    cells, _ = noisy(0.0, 0)
    rule = rule_of(cells, set(random.Random(seed).sample(range(len(cells)), number)))
    assert not rule.is_telling
    assert rule.words == "no axis tells them apart"


@pytest.mark.parametrize(
    ("dead", "text"),
    [
        ({3}, "batch = 2 ∧ gvr = false (1 of 1 crashed; 0 of 11 clean)"),
        ({2, 3}, "batch = 2 (2 of 2 crashed; 0 of 10 clean; may be chance)"),
        ({1, 3, 5, 7, 9, 11}, "gvr = false (6 of 6 crashed; 0 of 6 clean)"),
    ],
)
def test_a_rule_of_few_cells_that_chance_would_give_says_so(dead, text):
    cells = grid_cells(batch=NUMBERS, gvr=[True, False])
    rule = rule_of(cells, dead)
    assert rule.text() == text
    assert rule.is_telling is (len(dead) > 2)


def test_expected_is_at_least_how_often_random_cells_have_a_rule_as_good():
    cells = grid_cells(concurrency=NUMBERS, parallel=["TEP", "DEP"], gvr=[True, False])
    draw = random.Random(0)
    story = rule_of(cells, {13, 17, 21})
    drawn = [rule_of(cells, set(draw.sample(range(24), 3))) for _ in range(200)]
    as_good = sum(rule.is_exact and rule.expected <= story.expected for rule in drawn)
    assert as_good / len(drawn) <= story.expected <= 0.1


def test_axes_that_move_together_are_all_named():
    pairs = [("a", "TEP", 16), ("b", "DEP", 1), ("c", "DEP", 1)]
    cells = grid_cells(batch=NUMBERS, pair=[0, 1, 2])
    cells = [
        replace(
            cell, axes={"batch": cell.axes["batch"], **dict(zip(("model", "parallel", "ranks"), pair, strict=True))}
        )
        for cell in cells
        for pair in [pairs[cell.axes["pair"]]]
    ]
    dead = {number for number, cell in enumerate(cells) if cell.axes["model"] == "a"}
    assert rule_of(cells, dead).words == "model = a (or parallel = TEP, or ranks = 16)"
    late = {number for number in dead if cells[number].axes["batch"] >= 4}
    assert rule_of(cells, late).words == "model = a (or parallel = TEP, or ranks = 16) ∧ batch ≥ 4"
    others = set(range(len(cells))) - dead
    assert rule_of(cells, others).words == "parallel = DEP (or model in {b, c}, or ranks = 1)"


@pytest.mark.parametrize("missing", [None, ABSENT])
def test_a_number_that_some_cells_lack_is_still_told_by_a_threshold(missing):
    blocks = [missing, 1, 2, 4, 8, 16, 32]
    cells = grid_cells(backend=["a", "b"], block=blocks)
    cells = [replace(cell, axes={**cell.axes, "block": missing}) if cell.backend == "a" else cell for cell in cells]
    sizes = [cell.axes["block"] for cell in cells]
    wide = {number for number, size in enumerate(sizes) if size not in (None, ABSENT) and size >= 4}
    assert rule_of(cells, wide).words == "block ≥ 4"
    narrow = {number for number, size in enumerate(sizes) if size not in (None, ABSENT) and size <= 4}
    assert rule_of(cells, narrow).words == "block ≤ 4"


def test_what_is_said_of_an_axis_is_said_once():
    cells, dead = noisy(0.6, 3, stray=0.03)
    for condition, other in itertools.combinations(rule_of(cells, dead).conditions, 2):
        assert condition.axis != other.axis or {condition.operator, other.operator} == {"≥", "≤"}


def test_a_twin_is_the_clean_cell_that_differs_least():
    cells = grid_cells(concurrency=[1, 2, 4, 8], parallel=["TEP", "DEP"], gvr=[True, False])
    grid = Grid(cells)
    dead = [number for number, cell in enumerate(cells) if not cell.axes["gvr"]]
    clean = [number for number in range(len(cells)) if number not in dead]
    found = list(find_twins(grid, grid.mask(dead), grid.mask(clean)))
    assert [(twin.cell, twin.twin) for twin in found] == [(cells[n].cell_id, cells[n - 1].cell_id) for n in dead]
    assert {twin.text.partition(" ")[2] for twin in found} == {"(gvr false → true)"}


def test_of_twins_as_near_a_switch_goes_before_another_word_and_that_before_a_number():
    cells = grid_cells(gvr=[True, False], parallel=["TEP", "DEP"], batch=[1, 2])
    grid = Grid(cells)
    dead = next(number for number, cell in enumerate(cells) if list(cell.axes.values()) == [False, "DEP", 2])
    clean = [number for number in range(len(cells)) if number != dead]
    nearest = []
    while clean:
        (twin,) = find_twins(grid, grid.mask([dead]), grid.mask(clean))
        nearest.append([difference.axis for difference in twin.differs])
        clean.remove(next(number for number, cell in enumerate(cells) if cell.cell_id == twin.twin))
    assert nearest[:3] == [["gvr"], ["parallel"], ["batch"]]
    assert [len(axes) for axes in nearest] == sorted(len(axes) for axes in nearest)


@given(st.sets(st.integers(0, 35), min_size=1, max_size=35))
def test_no_other_clean_cell_differs_in_fewer_axes(dead):
    cells = grid_cells(batch=NUMBERS, parallel=WORDS[:3], gvr=[True, False])
    grid = Grid(cells)
    clean = sorted(set(range(36)) - dead)
    found = list(find_twins(grid, grid.mask(sorted(dead)), grid.mask(clean)))
    assert len(found) == (len(dead) if clean else 0)
    by_id = {cell.cell_id: cell for cell in cells}
    for twin in found:
        one, other = by_id[twin.cell].axes, by_id[twin.twin].axes
        assert {d.axis: (d.failed, d.clean) for d in twin.differs} == {
            name: (one[name], other[name]) for name in one if one[name] != other[name]
        }
        fewest = min(sum(one[name] != cells[n].axes[name] for name in one) for n in clean)
        assert len(twin.differs) == fewest


def test_zipped_axes_count_as_one_difference():
    names, models = ("model", "layers", "parallel"), [("qwen", 40, "none"), ("deepseek", 16, "TEP")]
    points = itertools.product(["graph", "eager"], [1, 2, 4], models)
    cells = [
        Cell(number, f"cell_{number}", "k", "topk", backend, dict(zip(names, model, strict=True), batch=batch), {})
        for number, (backend, batch, model) in enumerate(points)
    ]
    cells = [replace(cell, axes={"backend": cell.backend, **cell.axes}) for cell in cells]
    grid = Grid(cells)
    (dead,) = (n for n, cell in enumerate(cells) if list(cell.axes.values()) == ["graph", "deepseek", 16, "TEP", 4])
    other_model = [n for n, cell in enumerate(cells) if list(cell.axes.values()) == ["graph", "qwen", 40, "none", 4]]
    two_apart = [n for n, cell in enumerate(cells) if list(cell.axes.values()) == ["eager", "deepseek", 16, "TEP", 2]]
    (twin,) = find_twins(grid, grid.mask([dead]), grid.mask([*other_model, *two_apart]))
    assert twin.twin == cells[other_model[0]].cell_id
    assert [difference.axis for difference in twin.differs] == list(names)


def test_a_mask_is_of_the_cells_that_were_named():
    assert np.flatnonzero(Grid(grid_cells(batch=NUMBERS)).mask([1, 4])).tolist() == [1, 4]
