"""A frontier's area and what it yields at a fixed x."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.analysis.metrics import METRICS
from gpubench.analysis.movement import area, at_level, move
from gpubench.analysis.verdicts import Figure

USER, GPU, STEP = METRICS["tok_s_user"], METRICS["tok_s_gpu"], METRICS["step_time"]
POSITIVE = st.floats(1e-3, 1e3)
POINTS = st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=8)


def arrays(points):
    return tuple(np.array([point[number] for point in points]) for number in (0, 1))


def figure(value: float, half: float = 0.0) -> Figure:
    return Figure(value, value / (1 + half), value * (1 + half), "cuda_event", 30, 3)


def points(pairs, half: float = 0.0):
    return [(figure(x, half), figure(y, half)) for x, y in pairs]


LADDER = [(100.0, 100.0), (50.0, 400.0), (20.0, 800.0)]


def test_the_area_is_that_of_the_staircase_down_to_the_origin() -> None:
    assert area(*arrays([(2.0, 3.0)])) == 6
    assert area(*arrays([(1.0, 3.0), (2.0, 1.0)])) == 3 + 1
    assert area(*arrays([(1.0, 3.0), (2.0, 1.0), (0.5, 0.5)])) == 4, "a dominated cell adds nothing"


@given(POINTS)
def test_the_area_is_what_counting_a_grid_gives(found) -> None:
    x, y = arrays(found)
    edges_x, edges_y = np.unique(np.r_[0, x]), np.unique(np.r_[0, y])
    total = 0.0
    for left, right in pairwise(edges_x):
        for low, high in pairwise(edges_y):
            if ((x >= right) & (y >= high)).any():
                total += (right - left) * (high - low)
    assert area(x, y) == pytest.approx(total)


@given(POINTS, st.floats(1.0, 3.0))
def test_the_area_grows_with_every_metric_and_never_with_the_order(found, factor) -> None:
    x, y = arrays(found)
    assert area(x * factor, y) == pytest.approx(area(x, y) * factor)
    assert area(x[::-1], y[::-1]) == pytest.approx(area(x, y))


def test_between_cells_the_frontier_is_straight_on_logarithmic_axes() -> None:
    x, y = arrays(LADDER)
    assert at_level(x, y, 50.0) == pytest.approx(400)
    assert at_level(x, y, np.sqrt(50 * 100)) == pytest.approx(200)
    assert at_level(x, y, 5.0) == pytest.approx(800), "below its least x, the first cell serves"
    assert at_level(x, y, 101.0) is None, "beyond the greatest, no cell gets there"
    assert at_level(*arrays([*LADDER, (60.0, 50.0)]), 55.0) == pytest.approx(at_level(x, y, 55.0))


def test_a_frontier_that_is_ten_percent_better_moved_by_so_much() -> None:
    after = [(x * 1.1, y * 1.1) for x, y in LADDER]
    found = move("mine", USER, GPU, list(zip(points(LADDER, 0.005), points(after, 0.005), strict=True)))
    assert found.area.value == pytest.approx(1.21)
    assert 1.15 < found.area.low < 1.21 < found.area.high < 1.27
    assert [level.x for level in found.levels] == [30, 70, 100]
    assert all(level.change > 1.1 for level in found.levels)


def test_noise_widens_the_areas_interval() -> None:
    wide, narrow = (
        move("", USER, GPU, list(zip(points(LADDER, half), points(LADDER, half), strict=True))).area
        for half in (0.05, 0.005)
    )
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert wide.low < 1 < wide.high


def test_a_metric_that_is_better_low_counts_as_its_reciprocal() -> None:
    before, after = [(1 / x, y) for x, y in LADDER], [(1 / x / 2, y) for x, y in LADDER]
    found = move("", STEP, GPU, list(zip(points(before), points(after), strict=True)))
    assert found.area.value == pytest.approx(2)
    assert all(level.after > level.before for level in found.levels)


def test_without_a_point_in_both_there_is_no_movement() -> None:
    assert move("", USER, GPU, []) is None
    nothing = points([(0.0, 1.0)])
    assert move("", USER, GPU, list(zip(nothing, nothing, strict=True))) is None


def test_a_single_cell_has_an_area_and_levels_of_its_own() -> None:
    one, other = points([(10.0, 10.0)]), points([(20.0, 10.0)])
    found = move("", USER, GPU, list(zip(one, other, strict=True)))
    assert found.area.value == 2
    assert found.cells == 1
    assert found.levels == ()
