"""The frontier against its definition, on points made to collide."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.analysis.frontier import frontier
from gpubench.analysis.metrics import Metric

X = Metric("x", "x", "1/s", higher_is_better=True, formula="")
Y = Metric("y", "y", "1/s", higher_is_better=True, formula="")

# Few distinct values, so that ties are the rule; some that must never be a point.
values = st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, 0.0, -1.0, math.nan, math.inf])
cells = st.tuples(values, values, st.sampled_from(["ok", "ok", "ok", "crash"]), st.sampled_from("ab"))
directions = st.tuples(st.booleans(), st.booleans())


def wide(points: list[tuple[float, float, str, str]], spread: float = 0.0) -> pd.DataFrame:
    """A wide frame of (x, y, outcome, backend), every interval ± spread."""
    frame = pd.DataFrame(points, columns=["x", "y", "outcome", "backend"])
    frame["run_id"] = "run"
    frame["cell_id"] = [f"cell_{number}" for number in range(len(frame))]
    for key in ("x", "y"):
        frame[f"{key}.low"], frame[f"{key}.high"] = frame[key] * (1 - spread), frame[key] * (1 + spread)
    return frame


def is_point(cell: tuple[float, float, str, str]) -> bool:
    x, y, outcome, _ = cell
    return outcome == "ok" and math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0


def dominates(a, b, x_up: bool, y_up: bool) -> bool:
    """The definition: at least as good in both, better in one."""
    dx = (a[0] - b[0]) * (1 if x_up else -1)
    dy = (a[1] - b[1]) * (1 if y_up else -1)
    return dx >= 0 and dy >= 0 and (dx > 0 or dy > 0)


def metrics(x_up: bool, y_up: bool) -> tuple[Metric, Metric]:
    return replace(X, higher_is_better=x_up), replace(Y, higher_is_better=y_up)


@given(st.lists(cells, max_size=25), directions)
def test_the_frontier_holds_the_ok_cells_that_no_other_ok_cell_dominates(points, up):
    found = frontier(wide(points), *metrics(*up), group=["backend"])
    alive = {place: cell for place, cell in enumerate(points) if is_point(cell)}
    assert set(found.index) == set(alive)
    for place, cell in alive.items():
        rivals = [other for other in alive.values() if dominates(other, cell, *up)]
        assert found.at[place, "on_frontier"] == (not rivals)
        assert found.at[place, "on_group_frontier"] == (not [other for other in rivals if other[3] == cell[3]])


@given(st.lists(cells, max_size=25), directions)
def test_a_dominated_cell_names_the_frontier_cell_that_gains_most_and_by_how_much(points, up):
    found = frontier(wide(points), *metrics(*up))
    for place, row in found.iterrows():
        if row["on_frontier"]:
            assert pd.isna(row["dominated_by"])
            assert pd.isna(row["margin"])
            continue
        front = found[found["on_frontier"]]
        rivals = [r for r in front.index if dominates(points[r], points[place], *up)]
        best = max(gain(points[r], points[place], up) for r in rivals)
        by = int(str(row["dominated_by"]).removeprefix("cell_"))
        assert by in rivals
        assert row["margin"] == pytest.approx(best)
        assert gain(points[by], points[place], up) == pytest.approx(best)
        assert row["margin"] > 0


def gain(better, worse, up) -> float:
    return max(better[end] / worse[end] if up[end] else worse[end] / better[end] for end in (0, 1)) - 1


@given(st.lists(cells, max_size=25), directions, st.sampled_from([0.0, 0.2, 0.5]))
def test_near_are_the_dominated_cells_that_no_cell_beats_at_the_worse_ends_of_its_intervals(points, up, spread):
    found = frontier(wide(points, spread), *metrics(*up))
    alive = {place: cell for place, cell in enumerate(points) if is_point(cell)}
    for place, cell in alive.items():
        best = [value * (1 + spread if upwards else 1 - spread) for value, upwards in zip(cell, up, strict=False)]
        beaten = any(
            dominates([v * (1 - spread if u else 1 + spread) for v, u in zip(other, up, strict=False)], best, *up)
            for other in alive.values()
        )
        assert found.at[place, "near"] == (not found.at[place, "on_frontier"] and not beaten)


@given(st.lists(cells, min_size=1, max_size=25), st.randoms())
def test_the_order_of_cells_does_not_matter(points, random):
    shuffled = list(enumerate(points))
    random.shuffle(shuffled)
    before = frontier(wide(points), X, Y)["on_frontier"]
    after = frontier(wide([cell for _, cell in shuffled]), X, Y)["on_frontier"]
    assert {place: bool(on) for place, on in before.items()} == {shuffled[n][0]: bool(on) for n, on in after.items()}


def test_exact_ties_both_stay():
    found = frontier(wide([(2, 2, "ok", "a"), (2, 2, "ok", "b"), (1, 2, "ok", "a")]), X, Y)
    assert found["on_frontier"].tolist() == [True, True, False]


def test_a_cell_beaten_within_the_noise_is_off_the_frontier_but_near_it():
    close = [(100, 100, "ok", "a"), (99, 99, "ok", "b"), (50, 50, "ok", "b")]
    assert frontier(wide(close, spread=0.02), X, Y)["near"].tolist() == [False, True, False]
    assert frontier(wide(close, spread=0.001), X, Y)["near"].tolist() == [False, False, False]


def test_a_cell_whose_best_is_anothers_worst_is_still_near():
    touching = [(1, 1, "ok", "a"), (3, 3, "ok", "a")]
    assert frontier(wide(touching, spread=0.5), X, Y)["near"].tolist() == [True, False]


def test_without_ok_cells_the_frontier_is_empty_and_keeps_its_columns():
    found = frontier(wide([(1, 1, "crash", "a")]), X, Y, group=["backend"])
    assert found.empty
    assert {"on_frontier", "near", "dominated_by", "margin", "group"} <= set(found.columns)


def test_dominators_of_several_runs_are_told_apart():
    points = wide([(1, 1, "ok", "a"), (2, 2, "ok", "a")])
    points["run_id"], points["cell_id"] = ["before", "after"], "cell_0"
    found = frontier(points, X, Y)
    assert found.loc[0, ["dominated_by", "dominated_by_run"]].tolist() == ["cell_0", "after"]
