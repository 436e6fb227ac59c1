"""MLA prefill in Triton's interpreter, in both forms, against fp64; bfloat16 and real sizes are for a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mla_prefill_on_interpreter import (
    Case,
    call,
    compiled_agrees,
    error,
    error_in_groups_of,
    opcheck,
    opcheck_of_attention,
    worst_neighbour,
)

from gpubench.errors import ArgumentError
from gpubench.kernels.mla_prefill_tiling import Sizes, choose_form, split_nope
from gpubench.models.shapes import MLA

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
FORMS = ["expanded", "absorbed"]
FEW = settings(max_examples=10, deadline=None)

SEQUENCES = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 40)), min_size=1, max_size=3).filter(
    lambda drawn: any(new for new, _ in drawn)
)


@pytest.mark.parametrize("form", FORMS)
@FEW
@given(
    sequences=SEQUENCES,
    heads=st.sampled_from([1, 3, 5]),
    padding=st.integers(0, 20),
    splits=st.sampled_from([0, 2, 3]),
    dtype=st.sampled_from(list(TOLERANCE)),
)
@example(sequences=[(1, 0)], heads=1, padding=0, splits=0, dtype=torch.float32)
@example(sequences=[(0, 9), (5, 0), (0, 0), (1, 70)], heads=3, padding=40, splits=4, dtype=torch.float32)
def test_any_ragged_batch_is_right_and_its_padding_zero(interpreted, form, sequences, heads, padding, splits, dtype):
    new, prefixes = zip(*sequences, strict=True)
    case = Case(new, prefixes, heads, padding=padding, splits=splits, dtype=dtype)
    assert interpreted(error, case, form) < TOLERANCE[dtype]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 77])
def test_no_head_and_no_token_is_dropped_at_the_edge_of_a_tile(interpreted, form, tokens):
    for heads in (5, 20):
        case = Case((tokens,), (0,), heads, dims=(16, 16, 16, 16))
        assert interpreted(error, case, form) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("group", [1, 2, 3])
def test_heads_that_do_not_divide_into_groups_are_all_there(interpreted, group):
    assert interpreted(error_in_groups_of, group, Case((40, 9), (0, 5), heads=5, padding=2)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("prefix", [1, 31, 64, 100])
@pytest.mark.parametrize("form", FORMS)
def test_a_prefix_of_any_length_is_seen_by_all_new_tokens(interpreted, form, prefix):
    case = Case((7, 33), (prefix, 0), heads=5, splits=2)
    assert interpreted(error, case, form) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("model", MLA)
@pytest.mark.parametrize("form", FORMS)
def test_the_dimensions_of_real_models_fit(interpreted, form, model):
    shape = MLA[model]
    dims = shape.kv_lora, shape.rope, shape.nope, shape.v
    case = Case((9, 35), (20, 0), heads=2, dims=dims, padding=2, dtype=torch.float16)
    assert interpreted(error, case, form) < TOLERANCE[torch.float16]


@pytest.mark.parametrize("form", FORMS)
def test_nan_of_one_sequence_stays_its_own(interpreted, form):
    case = Case((10, 37, 5), (3, 8, 40), heads=2)
    for spoilt in range(3):
        assert interpreted(worst_neighbour, case, form, spoilt) == 0


@pytest.mark.parametrize("splits", [0, 2])
@pytest.mark.parametrize("form", FORMS)
def test_the_operators_declare_what_they_change(interpreted, form, splits):
    case = Case((4, 3), (2, 0), heads=2, splits=splits)
    for checked in (interpreted(opcheck, case, form), interpreted(opcheck_of_attention, case, form)):
        assert set(checked.values()) == {"SUCCESS"}
    assert interpreted(compiled_agrees, case, form)


INT64 = torch.arange(3)
BAD = [
    ("expanded", {"q": torch.zeros(8, 2)}, r"q has shape \(8, 2\); wanted \(tokens, heads, N \+ P\)"),
    ("expanded", {"q": torch.zeros(8, 2, 64).double()}, "q is torch.float64"),
    ("expanded", {"q": torch.zeros(8, 64, 2).transpose(1, 2)}, "q of shape .* wanted it contiguous"),
    ("expanded", {"cache": torch.zeros(12, 47)}, r"cache has shape \(12, 47\) for a latent of 32"),
    ("expanded", {"w_kv": torch.zeros(160, 24)}, "for a latent of 24 .* powers of 2 from 16 to 512"),
    ("expanded", {"w_kv": torch.zeros(150, 32)}, r"w_kv has shape \(150, 32\); wanted \(160, 32\)"),
    ("expanded", {"kv": torch.zeros(12, 2, 79)}, r"kv has shape \(12, 2, 79\); wanted \(12, 2, 80\)"),
    ("expanded", {"cu_q": INT64}, "cu_q is torch.int64 on cpu; wanted int32"),
    ("expanded", {"cu_q": torch.zeros(1).int()}, r"cu_q has shape \(1,\); wanted \(sequences \+ 1,\), 1 to 4096"),
    ("expanded", {"cu_k": torch.zeros(5).int()}, r"cu_k has shape \(5,\); wanted \(3,\)"),
    (
        "expanded",
        {"partial": torch.zeros(17, 8, 2, 32)},
        r"partial has shape \(17, 8, 2, 32\); wanted .* 0 or from 2 to 16",
    ),
    ("expanded", {"partial": torch.zeros(4, 8, 2, 32)}, r"partial_lse has shape \(2, 8, 2\); wanted \(4, 8, 2\)"),
    ("absorbed", {"partial": torch.zeros(2, 8, 2, 16)}, r"partial has shape .*; wanted \(2, 8, 2, 32\)"),
    ("absorbed", {"partial_lse": torch.zeros(2, 8, 2).half()}, "partial_lse is torch.float16 on cpu; wanted float32"),
    ("absorbed", {"out": torch.zeros(8, 2, 32).half()}, "out is torch.float16 on cpu; wanted torch.float32"),
    ("absorbed", {"q_latent": torch.zeros(8, 2, 16)}, r"q_latent has shape \(8, 2, 16\); wanted \(8, 2, 32\)"),
]


@pytest.mark.parametrize(("form", "changes", "complaint"), BAD)
def test_an_argument_that_does_not_fit_is_named_with_its_limit(interpreted, form, changes, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        interpreted(call, form, changes)


def test_widths_that_no_tile_has_are_refused(interpreted):
    with pytest.raises(
        ArgumentError, match=r"N is 40 and V 32; wanted V a power of 2 .* N such a power or a sum of two"
    ):
        interpreted(error, Case((3,), (0,), heads=1, dims=(32, 16, 40, 32)), "expanded")


def test_without_a_gpu_and_without_the_interpreter_a_launch_is_refused():
    with pytest.raises(ArgumentError, match="Triton needs a GPU, or TRITON_INTERPRET=1"):
        error(Case((3,), (0,), heads=1), "expanded")


def test_a_width_splits_into_powers_of_two():
    assert [split_nope(nope) for nope in (64, 128, 192)] == [(64, 0), (128, 0), (128, 64)]


def sizes(model, tokens, prefix, sequences=1, heads=16, itemsize=2):
    s = MLA[model]
    keys = tokens + prefix * sequences
    return Sizes(tokens, keys, sequences, heads, s.kv_lora, s.rope, s.nope, s.v, itemsize)


def test_absorbing_is_for_few_new_tokens_behind_long_prefixes():
    assert choose_form(sizes("deepseek-v3", 8192, 0)) == "expanded"
    assert choose_form(sizes("deepseek-v3", 128, 0)) == "expanded"
    assert choose_form(sizes("deepseek-v3", 32, 8192)) == "absorbed"
    assert choose_form(sizes("deepseek-v3", 512, 8192)) == "expanded"
    assert choose_form(sizes("deepseek-v3", 512, 8192, sequences=16)) == "absorbed", "per sequence they are few"
    assert choose_form(sizes("deepseek-v3", 32, 8192, itemsize=4)) == "expanded"
