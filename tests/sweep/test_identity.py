"""Ids are unique file names that sort as their numbers do; keys say which question a cell asks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.records import Scalar
from gpubench.sweep.identity import MAX_ID_LENGTH, CellNamer, cell_key

SAFE = re.compile(r"cell_[0-9]{3,}(_[A-Za-z0-9.+-]+)*")

scalars = st.text(max_size=80) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans() | st.none()
axes = st.dictionaries(st.text(max_size=20), st.lists(scalars, min_size=2, max_size=4), max_size=8)


def id_of(index: int = 13, num_indices: int = 24, **axes: list[Scalar]) -> str:
    """The id of the cell that has each axis's first value."""
    return CellNamer(axes, num_indices).name(index, {name: values[0] for name, values in axes.items()})


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"concurrency": [8, 32], "isl": [1024, 8192], "backend": ["triton"]}, "cell_013_C008_ISL1024_triton"),
        ({"concurrency": [8, 32], "parallel": ["TEP"], "gvr": [False]}, "cell_013_C008_TEP_GVRF"),
        ({"batch": [8, 16384]}, "cell_013_B00008"),
        (
            {"columns": [4096], "k": [512], "rows": [1], "heads": [16], "tokens": [2]},
            "cell_013_N4096_K512_R001_H016_T002",
        ),
        ({"osl": [1], "tp": [8]}, "cell_013_OSL001_TP008"),
        ({"backend": ["triton_splitk", "torch"]}, "cell_013_triton-splitk"),
        ({"block_v": [16], "draft_tokens": [2]}, "cell_013_BV016_DT002"),
        ({"hidden_size": [True], "head_split": [False]}, "cell_013_HST_HEADSPLITF"),
        ({"window": [None, 3], "sequences": [4]}, "cell_013_WINDOWnone_SEQU004"),
        ({"hit_rate": [0.5], "scale": [2.0], "eps": [1e-6]}, "cell_013_HR0.5_SCALE2_EPS1e-06"),
        ({"offset": [-3, 100]}, "cell_013_OFFSET-03"),
        ({"path": ["../../etc/passwd"]}, "cell_013_etc-passwd"),
        ({"name": [".."]}, "cell_013_x5ec1f7"),
        ({"name": ["日本", "x"]}, "cell_013_xcf2abf"),
        ({}, "cell_013"),
    ],
)
def test_an_id_tells_the_varied_values(axes: dict[str, list[Scalar]], expected: str) -> None:
    assert id_of(**axes) == expected


def test_an_index_takes_as_many_digits_as_the_grid_needs() -> None:
    assert [id_of(7, size) for size in (1, 1000, 1001, 100_000)] == ["cell_007", "cell_007", "cell_0007", "cell_00007"]


def test_an_id_that_would_be_too_long_ends_in_a_digest() -> None:
    long = id_of(name=["x" * 300])
    other = id_of(name=["x" * 299 + "y"])
    assert len(long) == MAX_ID_LENGTH
    assert long != other


@given(axes, st.integers(1, 5000), st.data())
def test_ids_are_unique_and_safe_as_file_names_whatever_the_values(
    axes: dict[str, list[Any]], num_indices: int, data: st.DataObject
) -> None:
    namer = CellNamer(axes, num_indices)
    indices = data.draw(st.lists(st.integers(0, num_indices - 1), unique=True, max_size=6))
    ids = []
    for index in indices:
        names = data.draw(st.sets(st.sampled_from(sorted(axes)))) if axes else set()
        ids.append(namer.name(index, {name: data.draw(st.sampled_from(axes[name])) for name in names}))
    assert len({each.lower() for each in ids}) == len(ids)
    for each in ids:
        assert SAFE.fullmatch(each)
        assert len(each) <= MAX_ID_LENGTH


@given(st.lists(st.integers(0, 10**9), min_size=2, unique=True))
def test_ids_of_numbers_sort_as_the_numbers(values: list[int]) -> None:
    namer = CellNamer({"batch": values}, 1)
    assert sorted(values) == sorted(values, key=lambda value: namer.name(0, {"batch": value}))


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=8, unique=True))
def test_two_axes_never_share_a_short_name(names: list[str]) -> None:
    namer = CellNamer({name: [True, False] for name in names}, 1)
    parts = [namer.name(0, {name: True}) for name in names]
    assert len(set(parts)) == len(parts)


def test_a_key_depends_on_workload_backend_and_arguments_alone() -> None:
    key = cell_key("w", "b", {"x": 1, "y": {"p": 1, "q": 2}})
    assert re.fullmatch("[0-9a-f]{16}", key)
    assert key == cell_key("w", "b", {"y": {"q": 2, "p": 1}, "x": 1})
    others = [
        ("v", "b", {"x": 1}),
        ("w", "c", {"x": 1}),
        ("w", "b", {"x": 2}),
        ("w", "b", {"x": True}),
        ("w", "b", {"x": "1"}),
    ]
    assert len({cell_key(*other) for other in [*others, ("w", "b", {"x": 1})]}) == 6
