"""Which numbers of tokens graphs are captured for, and which of them a step takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.errors import ArgumentError
from gpubench.graphs.piecewise.buckets import POLICIES, choose_buckets, find_bucket


@given(st.sampled_from(POLICIES), st.integers(1, 5000))
def test_a_policy_covers_every_step_without_a_bucket_too_many(policy, most_tokens):
    buckets = choose_buckets(policy, most_tokens)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == most_tokens


@given(st.lists(st.integers(1, 100), min_size=1, unique=True), st.data())
def test_a_step_takes_the_smallest_bucket_that_holds_it(wanted, data):
    tokens = data.draw(st.integers(1, max(wanted)))
    buckets = choose_buckets(wanted, tokens)
    assert find_bucket(buckets, tokens) == min(bucket for bucket in wanted if bucket >= tokens)


def test_policies_are_what_they_say():
    assert choose_buckets("exact", 12) == (12,)
    assert choose_buckets("powers", 12) == (1, 2, 4, 8, 12)
    assert choose_buckets("engine", 30) == (1, 2, 4, 8, 16, 24, 30)
    assert choose_buckets("powers", 1) == (1,)


def test_buckets_for_pure_prefill_are_not_cut_by_the_capacity_of_mixed_batches():
    max_batch, max_sequence, chunk = 1, 4096, 8192
    mixed_capacity = (max_batch - 1) * max_sequence + 1
    buckets = choose_buckets([1, 512, 2048, chunk], most_tokens=chunk)
    assert mixed_capacity < chunk
    assert find_bucket(buckets, chunk) == chunk


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            [1, 2, 4],
            r"buckets: \[1, 2, 4\] don't cover a step of 7 tokens; the largest is 4: add one of 7 or more, or take one "
            "of exact, powers, engine",
        ),
        ([8, 0], r"buckets: \[8, 0\]; wanted numbers of tokens, 1 or more"),
        ([], r"buckets: \[\]; wanted"),
        ([8, 8], r"buckets: \[8, 8\] has a number twice"),
        ([8.0], r"buckets: \[8\.0\]; wanted"),
        ([True, 8], r"buckets: \[True, 8\]; wanted"),
        (8, r"buckets: 8; wanted"),
        ("pwoers", r"no policy 'pwoers'; known: exact, powers, engine"),
    ],
)
def test_buckets_that_cannot_be_are_refused_with_the_numbers(wanted, words):
    with pytest.raises(ArgumentError, match=words):
        choose_buckets(wanted, 7)


@pytest.mark.parametrize("wanted", ["pwoers", [1, 4], [0], [7, 7]])
def test_the_option_that_gave_them_is_named(wanted):
    with pytest.raises(ArgumentError, match=r"^prefill_buckets: "):
        choose_buckets(wanted, 7, "prefill_buckets")


@pytest.mark.parametrize("tokens", [0, 9])
def test_a_step_that_no_bucket_holds_is_refused(tokens):
    with pytest.raises(ArgumentError, match=rf"a step of {tokens} tokens: buckets \[4, 8\] hold 1 to 8"):
        find_bucket((4, 8), tokens)
