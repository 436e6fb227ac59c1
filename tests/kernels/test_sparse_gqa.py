"""Block-sparse attention in Triton's interpreter, against fp64; bfloat16 and real sizes are for a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sparse_gqa_on_interpreter import (
    Case,
    attend_error,
    call,
    check_operators,
    compiled_equals_eager,
    decode_error,
    scores_error,
    select,
)

from gpubench.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
FEW = settings(max_examples=20, deadline=None)
M3 = {"block": 128, "kept": 16, "dim": 128, "group": 16}
"""MiniMax-M3's shape, whose KV heads tensor parallelism deals out."""

cases = st.builds(
    Case,
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(list(TOLERANCE)),
    kv_heads=st.integers(1, 4),
    group=st.sampled_from([1, 2, 5, 16, 17]),
    dim=st.sampled_from([16, 32]),
    block=st.sampled_from([16, 32]),
    kept=st.sampled_from([2, 4, 8]),
    splits=st.sampled_from([1, 2]),
    values=st.sampled_from(["normal", "few", "equal"]),
)


@FEW
@given(cases)
@example(Case((0,)))
@example(Case((1,)))
def test_a_blocks_score_is_its_best_tokens_and_nothing_else_is_read_or_written(interpreted, case):
    assert interpreted(scores_error, case) < TOLERANCE[case.dtype] * 10


@FEW
@given(cases)
@example(Case((0, 0), splits=2))
@example(Case((17, 0, 16, 15), splits=4))
def test_attention_is_over_the_chosen_tokens_and_an_empty_row_is_zero(interpreted, case):
    assert interpreted(attend_error, case) < TOLERANCE[case.dtype]


@FEW
@given(cases)
def test_scores_choice_and_attention_come_to_attention_over_the_choice(interpreted, case):
    assert interpreted(decode_error, case) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("lengths", "kv_heads"), [((1, 63, 64, 65, 0), 1), ((127, 128, 129), 2), ((2047, 2048), 1)])
def test_up_to_2048_tokens_it_is_dense_attention(interpreted, lengths, kv_heads, dtype):
    case = Case(lengths, dtype, kv_heads=kv_heads, splits=4, **M3)
    assert interpreted(decode_error, case, True) < TOLERANCE[dtype]


def test_one_token_more_is_one_block_too_many(interpreted):
    case = Case((2049,), kv_heads=1, splits=2, **M3)
    assert interpreted(decode_error, case) < TOLERANCE[torch.float32]
    assert interpreted(decode_error, case, True) > 0.01


@pytest.mark.parametrize("splits", [1, 2, 4, 8, 16])
def test_any_number_of_splits_gives_the_same(interpreted, splits):
    case = Case((300, 40, 0), block=16, kept=16, splits=splits)
    assert interpreted(attend_error, case) < TOLERANCE[torch.float32]


def expected_choice(scores, count, kept):
    """The last block, then the others from the best score down; of equal scores the first block's."""
    if count <= kept:
        return [*range(count), *[-1] * (kept - count)]
    others = sorted(range(count - 1), key=lambda block: (-scores[block], block))
    return [count - 1, *others[: kept - 1]]


@FEW
@given(
    counts=st.lists(st.integers(0, 600), min_size=1, max_size=2),
    kept=st.sampled_from([2, 4, 16]),
    levels=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 99),
)
@example(counts=[16, 17], kept=16, levels=1000, seed=0)
@example(counts=[511, 512, 513], kept=16, levels=2, seed=0)
def test_the_choice_is_the_last_block_and_the_best_others(interpreted, counts, kept, levels, seed):
    torch.manual_seed(seed)
    scores = (torch.rand(len(counts), 2, 600) * levels).floor() - levels / 2
    for row, count in enumerate(counts):
        scores[row, :, count:] = float("nan")
    chosen = interpreted(select, scores, tuple(16 * count for count in counts), 16, kept)
    for row, count in enumerate(counts):
        for head in range(2):
            want = expected_choice(scores[row, head].tolist(), count, kept)
            assert chosen[row, head].tolist() == want


def test_the_last_block_is_chosen_over_any_score(interpreted):
    scores = torch.full((1, 1, 40), float("inf"))
    scores[..., 39] = float("-inf")
    assert 39 in interpreted(select, scores, (16 * 40,), 16, 4).flatten().tolist()


def test_the_last_block_is_chosen_over_nan_which_a_gpu_writes_with_the_highest_bits(interpreted):
    scores = torch.full((1, 1, 40), 2**31 - 1, dtype=torch.int32).view(torch.float32)
    assert interpreted(select, scores, (16 * 40,), 16, 4).flatten().tolist() == [39, 0, 1, 2]


def test_zeros_of_either_sign_are_equal_scores(interpreted):
    scores = torch.zeros(1, 1, 40)
    scores[..., ::2] = -0.0
    assert interpreted(select, scores, (16 * 40,), 16, 4).flatten().tolist() == [39, 0, 1, 2]


def test_the_operators_declare_what_they_change_and_compile(interpreted):
    interpreted(check_operators)
    assert interpreted(compiled_equals_eager)


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


def ints(*shape):
    return torch.zeros(shape, dtype=torch.int32)


ATTEND = {
    "q": zeros(2, 4, 16),
    "k_cache": zeros(3, 2, 16, 16),
    "v_cache": zeros(3, 2, 16, 16),
    "blocks": ints(2, 2, 4),
    "block_table": ints(2, 5),
    "lengths": ints(2),
    "out": zeros(2, 4, 16),
    "partial": zeros(2, 4, 2, 16),
    "partial_lse": zeros(2, 4, 2),
}
SCORES = {
    "index_q": zeros(2, 2, 16),
    "index_k": zeros(3, 16, 16),
    "block_table": ints(2, 5),
    "lengths": ints(2),
    "scores": zeros(2, 2, 5),
    "kept": 4,
}
SELECT = {"scores": zeros(2, 2, 5), "lengths": ints(2), "blocks": ints(2, 2, 4), "block": 16}


@pytest.mark.parametrize(
    ("name", "wrong", "complaint"),
    [
        ("q", zeros(2, 64), r"q has shape \(2, 64\); wanted \(rows, heads, dim\)"),
        ("q", zeros(2, 4, 24), r"q has shape \(2, 4, 24\).*dim one of 16, 32, 64, 128"),
        ("q", zeros(2, 3, 16), "2 KV heads for 3 query heads"),
        ("q", zeros(2, 256, 16), "at most 64 query heads"),
        ("k_cache", zeros(3, 2, 24, 16), r"k_cache has shape \(3, 2, 24, 16\).*a block of 16, 32, 64, 128"),
        ("k_cache", zeros(3, 2, 16, 32), r"k_cache has shape .*; wanted \(3, 2, 16, 16\)"),
        ("v_cache", zeros(4, 2, 16, 16), r"v_cache has shape \(4, 2, 16, 16\); wanted \(3, 2, 16, 16\)"),
        ("v_cache", zeros(3, 2, 16, 16, dtype=torch.float16), "v_cache is torch.float16"),
        ("v_cache", zeros(3, 2, 16, 32)[..., ::2], "v_cache has stride 2 along its last dimension"),
        ("blocks", ints(2, 4), r"blocks has shape \(2, 4\); wanted \(2, 2, kept\)"),
        ("blocks", zeros(2, 2, 4), "blocks is torch.float32 on cpu; wanted torch.int32"),
        ("block_table", ints(3, 5), r"block_table has shape \(3, 5\); wanted \(2, max_blocks\)"),
        ("block_table", ints(2, 5).long(), "block_table is torch.int64"),
        ("lengths", ints(3), r"lengths has shape \(3,\); wanted \(2,\)"),
        ("out", zeros(2, 4, 32), r"out has shape \(2, 4, 32\); wanted \(2, 4, 16\)"),
        (
            "partial",
            zeros(2, 4, 1, 16),
            r"partial is torch.float32 \(2, 4, 1, 16\).*wanted torch.float32 \(2, 4, 2, 16",
        ),
        ("partial", zeros(2, 4, 2, 32)[..., :16], "partial has strides .*; wanted a contiguous tensor"),
        ("partial_lse", zeros(2, 4, 3), "splits a power of two that divides the 4 kept blocks"),
        ("partial_lse", zeros(2, 4, 8), "splits a power of two that divides the 4 kept blocks"),
    ],
)
def test_attention_names_the_argument_that_does_not_fit(interpreted, name, wrong, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call, "sparse_gqa_attend", *{**ATTEND, name: wrong}.values())


@pytest.mark.parametrize(
    ("name", "wrong", "complaint"),
    [
        ("index_q", zeros(2, 65, 16), r"index_q has shape \(2, 65, 16\).*1 to 64 heads"),
        ("index_q", zeros(2, 2, 16, dtype=torch.float64), "index_q is torch.float64"),
        ("index_k", zeros(3, 2, 16, 16), r"index_k has shape \(3, 2, 16, 16\); wanted \(pages, block, dim\)"),
        ("index_k", zeros(3, 16, 32), r"index_k has shape \(3, 16, 32\); wanted \(3, 16, 16\)"),
        ("lengths", ints(2).long(), "lengths is torch.int64"),
        ("scores", zeros(2, 2, 6), r"scores is torch.float32 \(2, 2, 6\).*wanted torch.float32 \(2, 2, 5\)"),
    ],
)
def test_scoring_names_the_argument_that_does_not_fit(interpreted, name, wrong, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call, "sparse_gqa_scores", *{**SCORES, name: wrong}.values())


@pytest.mark.parametrize(
    ("name", "wrong", "complaint"),
    [
        ("scores", zeros(2, 2, 5, dtype=torch.float16), r"scores is torch.float16 \(2, 2, 5\)"),
        ("scores", zeros(1, 1, 1).expand(2, 2, 16385), "at most 16384 blocks"),
        ("lengths", ints(1), r"lengths has shape \(1,\); wanted \(2,\)"),
        ("blocks", ints(2, 2, 3), r"blocks has shape \(2, 2, 3\).*kept a power of two from 2 to 64"),
        ("blocks", ints(2, 2, 1), r"blocks has shape \(2, 2, 1\)"),
        ("blocks", ints(2, 1, 4), r"blocks has shape \(2, 1, 4\); wanted \(2, 2, kept\)"),
        ("block", 100, "block is 100; wanted one of 16, 32"),
    ],
)
def test_choosing_names_the_argument_that_does_not_fit(interpreted, name, wrong, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call, "sparse_gqa_select", *{**SELECT, name: wrong}.values())


@pytest.mark.parametrize(
    ("launcher", "arguments"),
    [("sparse_gqa_attend", ATTEND), ("sparse_gqa_scores", SCORES), ("sparse_gqa_select", SELECT)],
)
def test_without_a_gpu_and_without_the_interpreter_a_launch_is_refused(launcher, arguments):
    with pytest.raises(ArgumentError, match="Triton needs a GPU, or TRITON_INTERPRET=1"):
        call(launcher, *arguments.values())


def test_what_the_tests_above_misuse_fits_as_it_is(interpreted):
    for launcher, arguments in (
        ("sparse_gqa_attend", ATTEND),
        ("sparse_gqa_scores", SCORES),
        ("sparse_gqa_select", SELECT),
    ):
        interpreted(call, launcher, *arguments.values())
