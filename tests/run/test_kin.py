"""Which task comes next, where cells share what they build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import task

from gpubench.catalogue import AxisInfo, WorkloadInfo
from gpubench.protocol import Task
from gpubench.records import Cell
from gpubench.run.kin import best_for, describe_order, is_full, kin_together

KIN = st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=12)


def tasks(kin: list[str]) -> list[Task]:
    return [replace(task(index, Path("artifacts")), kin=each) for index, each in enumerate(kin)]


def workload(*shares: str) -> WorkloadInfo:
    axes = [AxisInfo("model", "str", required=False, default="tiny"), AxisInfo("batch", "int", required=True)]
    return WorkloadInfo("w", "", axes, [], [], "w.py:1", shares=list(shares))


def cell(**axes: int | str) -> Cell:
    return Cell(0, "cell_000", "key", "w", "torch", {"backend": "torch", **axes}, {})


@given(KIN)
def test_kin_come_together_and_nothing_else_changes_place(kin: list[str]) -> None:
    given_ = tasks(kin)
    found = kin_together(given_)
    assert sorted(each.cell.index for each in found) == list(range(len(kin)))
    groups = [each.kin for place, each in enumerate(found) if place == 0 or found[place - 1].kin != each.kin]
    assert groups == list(dict.fromkeys(kin)), "each kin once, in the order of their first cells"
    for name in set(kin):
        own = [each.cell.index for each in found if each.kin == name]
        assert own == sorted(own)


def test_the_default_of_an_argument_makes_kin_of_those_who_say_it_and_those_who_do_not() -> None:
    shares = workload("model")
    assert shares.kin({"batch": 1}) == shares.kin({"batch": 2, "model": "tiny"}) == '{"model": "tiny"}'
    assert shares.kin({"batch": 1, "model": "big"}) == '{"model": "big"}'
    assert workload().kin({"batch": 1}) == ""


def test_the_order_is_told_only_where_it_is_not_the_grids() -> None:
    cells = [cell(batch=1), cell(batch=1, model="big")]
    told = describe_order(workload("model"), cells, "cells")
    assert told == "cells of equal model run next to each other, for they share what they build: 2 kinds"
    assert describe_order(workload("model"), cells, "interleaved").startswith("within each trial, cells of equal model")
    assert describe_order(workload(), cells, "cells") == ""
    assert describe_order(workload("model"), cells[:1], "cells") == ""


@pytest.mark.parametrize(
    ("own", "others", "place"),
    [("b", ["a"], 2), ("", ["a"], 2), ("", [], 0), ("c", ["a"], 4), ("x", ["a", "b", "c"], 0), ("a", ["b"], 0)],
)
def test_a_worker_goes_on_with_what_it_has_built_else_with_what_no_other_is_at(
    own: str, others: list[str], place: int
) -> None:
    assert best_for(own, others, tasks(["a", "a", "b", "b", "c"])) == place


def test_cells_that_share_nothing_are_taken_as_they_come() -> None:
    assert best_for("a", [], tasks(["", "a"])) == 0


def test_no_worker_runs_a_later_trial_ahead_of_an_earlier_one() -> None:
    first, second = tasks(["a", "b"])
    assert best_for("b", ["a"], [first, replace(second, trials=[1])]) == 0


@pytest.mark.parametrize(
    ("given_", "limit", "has_kin", "full"),
    [(9, None, True, False), (9, 10, False, False), (10, 10, False, True), (19, 10, True, False), (20, 10, True, True)],
)
def test_a_worker_may_take_a_few_more_of_one_kin(given_: int, limit: int | None, has_kin: bool, full: bool) -> None:
    assert is_full(given_, limit, has_kin=has_kin) is full
    assert is_full(1, 1, has_kin=has_kin), "a process each stays a process each"
