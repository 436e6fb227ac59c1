"""Exact top-k in Triton's interpreter: the best k by torch.topk, whatever the scores and whatever the hint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from on_topk import call, check_operator, grow_draft, remembered_scratch, topk_difference

from gpubench.errors import ArgumentError

FEW = settings(max_examples=20, deadline=None)
KINDS = st.sampled_from(["normal", "ties", "constant", "infinite", "nan", "heavy", "tiny"])
HINTS = st.sampled_from(["good", "none", "one", "worst", "hostile"])
DTYPES = st.sampled_from([torch.float32, torch.float16])
SIZES = {"columns": st.integers(1, 3000), "k": st.integers(1, 700), "seed": st.integers(0, 99)}


@FEW
@given(**SIZES, dtype=DTYPES, kind=KINDS, hint=HINTS, tile=st.sampled_from([None, 512]))
@example(columns=2500, k=20, seed=0, dtype=torch.float32, kind="constant", hint="hostile", tile=None)
@example(columns=2500, k=20, seed=0, dtype=torch.float16, kind="infinite", hint="one", tile=512)
@example(columns=900, k=700, seed=0, dtype=torch.float32, kind="infinite", hint="worst", tile=None)
def test_gvr_selects_the_best_k_whatever_the_hint(interpreted, columns, k, seed, dtype, kind, hint, tile):
    assert interpreted(topk_difference, "gvr", columns, k, dtype, kind, hint, None, seed, tile) is None


@FEW
@given(**SIZES, dtype=DTYPES, kind=KINDS, tile=st.sampled_from([None, 512, 100]))
@example(columns=3000, k=20, seed=0, dtype=torch.float32, kind="constant", tile=100)
@example(columns=900, k=700, seed=0, dtype=torch.float32, kind="infinite", tile=None)
def test_radix_selects_the_best_k(interpreted, columns, k, seed, dtype, kind, tile):
    assert interpreted(topk_difference, "radix", columns, k, dtype, kind, "", None, seed, tile) is None


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("normal", torch.float32), ("constant", torch.float16), ("nan", torch.float32), ("ties", torch.float16)],
)
@pytest.mark.parametrize(("algorithm", "tile"), [("gvr", None), ("radix", 10000), ("radix", None)])
def test_a_long_row_has_more_finalists_than_are_ranked_at_once(interpreted, algorithm, tile, kind, dtype):
    assert interpreted(topk_difference, algorithm, 12000, 600, dtype, kind, "none", None, 0, tile) is None


@pytest.mark.parametrize(
    ("lengths", "kind"),
    [
        ([0, 1, 15], "normal"),
        ([0, 1, 15], "infinite"),
        ([16, 17, 600], "constant"),
        ([16, 17, 600], "infinite"),
        ([0, 0, 0], "normal"),
    ],
)
@pytest.mark.parametrize(("algorithm", "tile"), [("gvr", None), ("gvr", 256), ("radix", None), ("radix", 128)])
def test_a_row_of_fewer_than_k_gives_all_it_has_then_minus_one(interpreted, algorithm, tile, kind, lengths):
    assert interpreted(topk_difference, algorithm, 600, 16, torch.float32, kind, "good", lengths, 0, tile) is None


def test_a_longer_draft_needs_larger_scratch_and_is_right_once_it_has_it(interpreted):
    message, difference = interpreted(grow_draft, 5, 8)
    assert "candidates is too small: got 10240, need 16384 (rows 8 × blocks 1 × k 2048)" in message
    assert difference is None


def test_per_call_scratch_is_remembered_until_it_grows_or_is_released(interpreted):
    assert interpreted(remembered_scratch) == (True, False, True, True)


@pytest.mark.parametrize("name", ["topk_radix", "topk_gvr"])
def test_the_operators_declare_what_they_change(interpreted, name):
    compiled, expected = interpreted(check_operator, name)
    torch.testing.assert_close(compiled[0], expected)
    assert compiled[1] == float("-inf")


def row(columns=64, rows=2, k=8, **other):
    made = {
        "x": torch.zeros(rows, columns),
        "lengths": torch.full((rows,), columns, dtype=torch.int32),
        "values": torch.zeros(rows, k),
        "indices": torch.zeros(rows, k, dtype=torch.int32),
        "hint": torch.zeros(rows, k, dtype=torch.int32),
    }
    return made | other


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (row(columns=60), r"x has shape \(2, 60\) and row stride 60; wanted .* padded to multiples of 8"),
        (row(x=torch.zeros(64)), r"x has shape \(64,\)"),
        (row(x=torch.zeros(2, 64).double()), "x is torch.float64"),
        (row(k=2049), r"values has shape \(2, 2049\); wanted \(rows, k\), k from 1 to 2048"),
        (row(values=torch.zeros(2, 8).half()), "values is torch.float16 on cpu; wanted torch.float32"),
        (
            row(values=torch.zeros(2, 16)[:, :8]),
            r"values of shape \(2, 8\) has strides \(16, 1\); wanted it contiguous",
        ),
        (row(indices=torch.zeros(2, 8, dtype=torch.int64)), "indices is torch.int64"),
        (row(lengths=torch.zeros(3, dtype=torch.int32)), r"lengths has shape \(3,\); wanted \(2,\)"),
        (row(candidates=torch.zeros(99)), "candidates is torch.float32 on cpu .* wanted contiguous torch.int64"),
        (row(places=torch.zeros(9, dtype=torch.int32)), "places is too small: got 9, need"),
    ],
)
@pytest.mark.parametrize("algorithm", ["radix", "gvr"])
def test_an_argument_that_does_not_fit_is_named(interpreted, algorithm, arguments, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call, algorithm, arguments)


def test_gvr_names_a_hint_that_does_not_fit(interpreted):
    with pytest.raises(ArgumentError, match=r"topk_gvr: hint has shape \(2, 7\); wanted \(2, 8\)"):
        interpreted(call, "gvr", row(hint=torch.zeros(2, 7, dtype=torch.int32)))
