"""The kernels around latent attention at one new token, in Triton's interpreter, against fp64; bfloat16 needs a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from latent_token_on_interpreter import Case, gather, indexer_errors, prepare_errors, refuse, rotate_error

from gpubench.errors import ArgumentError

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 63, 64, 65, 128, 192]), min_size=1, max_size=3).map(tuple)
DTYPES = st.sampled_from(list(TOLERANCE))
FEW = settings(max_examples=20, deadline=None)


@FEW
@given(
    st.builds(
        Case,
        lengths=LENGTHS,
        dtype=DTYPES,
        q_lora=st.sampled_from([1, 24, 64, 100]),
        kv_lora=st.sampled_from([16, 64]),
        rope=st.sampled_from([16, 32]),
    )
)
@example(Case((0,)))
@example(Case((65,), q_lora=1536, kv_lora=512, rope=64))
def test_queries_are_normalised_and_one_entry_is_written(interpreted, case):
    query, cache = interpreted(prepare_errors, case)
    assert query < TOLERANCE[case.dtype]
    assert cache < TOLERANCE[case.dtype]


@FEW
@given(st.builds(Case, lengths=LENGTHS, dtype=DTYPES, rope=st.sampled_from([2, 6, 16]), heads=st.integers(1, 33)))
def test_heads_are_rotated_where_they_lie(interpreted, case):
    assert interpreted(rotate_error, case) < TOLERANCE[case.dtype]


@FEW
@given(
    st.builds(
        Case,
        lengths=LENGTHS,
        dtype=DTYPES,
        rope=st.sampled_from([2, 6, 16]),
        dim=st.sampled_from([16, 24, 128]),
        heads=st.sampled_from([1, 16, 17]),
    )
)
@example(Case((0, 0)))
@example(Case((5,), rope=16, dim=16))
def test_an_indexers_key_is_written_to_its_place_and_its_queries_are_rotated(interpreted, case):
    keys, queries = interpreted(indexer_errors, case)
    assert keys < TOLERANCE[case.dtype]
    assert queries < TOLERANCE[case.dtype]


@FEW
@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 63, 64, 65, 192]), st.lists(st.integers(-2, 200), min_size=9, max_size=9)),
        min_size=1,
        max_size=3,
    ),
    DTYPES,
)
def test_selected_entries_are_copied_bit_for_bit_and_other_slots_are_left(interpreted, rows, dtype):
    lengths, indices = zip(*rows, strict=True)
    found, wanted = interpreted(gather, Case(lengths, dtype), [list(row) for row in indices])
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("k", [1, 63, 64, 65, 130])
def test_a_selection_takes_as_many_pages_as_it_needs(interpreted, k):
    indices = [torch.randperm(192)[:k].tolist() for _ in range(2)]
    found, wanted = interpreted(gather, Case((192, 100)), indices)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("kernel", "changes", "message"),
    [
        ("mla_prepare", {"projected": torch.zeros(2, 57)}, r"projected has shape \(2, 57\); wanted \(2, 56\)"),
        ("mla_prepare", {"query": torch.zeros(2, 24, 1)}, r"query has shape \(2, 24, 1\)"),
        ("mla_prepare", {"latent_norm": torch.ones(24)}, "latent_norm has shape .* a power of 2"),
        ("mla_prepare", {"query_norm": torch.ones(48)[::2]}, "query_norm of shape .* wanted it contiguous"),
        ("mla_prepare", {"rotary": torch.ones(2, 2, 0)}, r"rotary has shape \(2, 2, 0\)"),
        ("mla_prepare", {"rotary": torch.ones(2, 8).double()}, "rotary is torch.float64"),
        ("mla_prepare", {"rotary": torch.ones(3, 8)}, r"rotary has shape \(3, 8\); wanted \(2, half of what"),
        ("mla_prepare", {"lengths": torch.ones(2, dtype=torch.int64)}, "lengths is torch.int64"),
        ("rotate_heads", {"rotary": torch.ones(2, 4)}, r"rotary has shape \(2, 4\); wanted \(2, 8\)"),
        ("rotate_heads", {"x": torch.zeros(2, 3, 15)}, r"x has shape \(2, 3, 15\)"),
        ("rotate_heads", {"x": torch.zeros(2, 16, 3).mT}, "x has stride 3"),
        ("indexer_inputs", {"rotary": torch.ones(2, 13)}, r"rotary has shape \(2, 13\); wanted \(2, up to 12\)"),
        ("indexer_inputs", {"scale": torch.ones(48)[::2]}, "scale of shape .* wanted it contiguous"),
        ("indexer_inputs", {"shift": torch.ones(48)[::2]}, "shift of shape .* wanted it contiguous"),
        ("indexer_inputs", {"x": torch.zeros(2, 25)}, r"x has shape \(2, 25\); wanted \(2, 24\)"),
        ("indexer_inputs", {"queries": torch.zeros(2, 24, 5).mT}, "queries has shape .* heads adjacent"),
        ("indexer_inputs", {"keys": torch.zeros(2, 24, 9).mT}, "keys of shape .* wanted it contiguous"),
        ("mla_gather", {"gathered": torch.zeros(2, 64, 32)}, r"gathered has shape .* wanted \(4, 64, 32\)"),
        ("mla_gather", {"indices": torch.zeros(2, 70)}, "indices is torch.float32"),
        (
            "mla_gather",
            {"cache": torch.zeros(6, 32, 32)},
            r"cache has shape \(6, 32, 32\); wanted \(pages, 64, R \+ P\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(interpreted, kernel, changes, message):
    with pytest.raises(ArgumentError, match=f"{kernel}: {message}"):
        interpreted(refuse, kernel, changes)
