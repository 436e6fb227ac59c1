"""The loop over a fake engine: who gets which tokens, when, and what is told of it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from serving.fake_engine import VOCABULARY, FakeEngine, answer_alone

from gpubench.errors import ArgumentError
from gpubench.serving.latencies import measure, steady_requests, write_requests
from gpubench.serving.loop import serve
from gpubench.serving.requests import Lengths, make_prompts
from gpubench.serving.scheduler import Window, find_window


def fixed(users, requests, isl, osl):
    return Lengths(np.full((users, requests), isl), np.full((users, requests), osl))


def ticking(step=1.0):
    """A clock that each reading moves on by a step."""
    ticks = itertools.count()
    return lambda: next(ticks) * step


def run(lengths, chunk, *, drain=True, **options):
    prompts = make_prompts(lengths, VOCABULARY)
    return serve(FakeEngine(lengths.users, chunk), lengths, prompts, chunk, drain=drain, **options), prompts


@st.composite
def mixed(draw):
    users, requests = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    sizes = st.lists(st.integers(1, 9), min_size=users * requests, max_size=users * requests)
    return Lengths(*(np.array(draw(sizes)).reshape(users, requests) for _ in range(2)))


@settings(max_examples=60, deadline=None)
@given(lengths=mixed(), chunk=st.integers(1, 7))
def test_every_request_gets_the_tokens_that_it_gets_alone(lengths, chunk):
    served, prompts = run(lengths, chunk)
    for user, number in np.ndindex(lengths.isl.shape):
        prompt = prompts.chunk(user, number, 0, lengths.isl[user, number])
        assert served.answer(user, number).tolist() == answer_alone(prompt, lengths.osl[user, number])


@settings(max_examples=60, deadline=None)
@given(lengths=mixed(), chunk=st.integers(1, 7))
def test_a_user_sends_the_next_request_when_the_last_is_answered_and_the_oldest_is_prefilled_first(lengths, chunk):
    served, _ = run(lengths, chunk)
    sent, first, last = (getattr(served.progress, name) for name in ("sent", "first", "last"))
    assert (sent[:, 0] == 0).all()
    assert (sent[:, 1:] == last[:, :-1]).all()
    assert (last - first == lengths.osl - 1).all()
    order = np.argsort(first, axis=None)
    assert (np.diff(sent.ravel()[order]) >= 0).all()
    assert served.prefilled.max() <= chunk
    assert served.prefilled.sum() == lengths.isl.sum()
    assert served.decoding.sum() == (lengths.osl - 1).sum()


def test_prefill_goes_chunk_by_chunk_and_decoding_goes_on_meanwhile():
    lengths = Lengths(np.array([[4], [10]]), np.array([[6], [2]]))
    served, _ = run(lengths, 4)
    assert served.prefilled.tolist() == [4, 4, 4, 2, 0, 0]
    assert served.decoding.tolist() == [0, 1, 1, 1, 2, 1]
    assert served.progress.first.tolist() == [[1], [4]]
    assert served.progress.last.tolist() == [[6], [5]]


def test_a_step_has_the_rows_up_to_the_highest_slot_that_decodes():
    lengths = Lengths(np.array([[1], [1], [1]]), np.array([[2], [9], [2]]))
    engine = FakeEngine(3, 1)
    serve(engine, lengths, make_prompts(lengths, VOCABULARY), 1, drain=True)
    assert engine.rows == [1, 2, 3, *[2] * 6]


def test_the_window_is_from_the_last_warm_up_to_the_first_users_last_answer():
    lengths = fixed(users=3, requests=4, isl=5, osl=4)
    window = find_window(lengths, prefill_chunk=5, warmup_requests=1)
    served, _ = run(lengths, 5, drain=False)
    last = served.progress.last
    assert window == Window.of(served.progress, 1) == Window(last[2, 0], last[0, 3])
    assert len(served.moments) == window.end + 1
    inside = steady_requests(served, window)
    assert {(0, 0), (1, 0), (2, 0)}.isdisjoint(map(tuple, inside.tolist()))
    assert [0, 3] in inside.tolist()


def test_too_few_requests_for_a_window_are_refused_with_the_numbers():
    lengths = Lengths(np.ones((2, 2), dtype=int), np.array([[1, 1], [50, 1]]))
    with pytest.raises(
        ArgumentError, match=r"requests: with 1 of each user after its warm-up \(1\), one of the 2 users"
    ):
        find_window(lengths, 8, 1)


def figures(served, window):
    return {own.metric: own.value for own in measure(served, window)}


def test_latencies_are_what_the_clock_said():
    lengths = fixed(users=1, requests=2, isl=3, osl=5)
    served, _ = run(lengths, 3, drain=False)
    window = Window.of(served.progress, 1)
    served = type(served)(**{**vars(served), "moments": np.arange(11.0) ** 2})
    found = figures(served, window)
    assert (window.begin, window.end) == (5, 10)  # prefill, then four decode steps, twice
    assert found["ttft"] == [36 - 25]
    assert found["e2e"] == [100 - 25]
    assert found["tpot"] == [(100 - 36) / 4]
    assert found["itl"] == [13, 15, 17, 19]
    assert found["step_time"] == [11, 13, 15, 17, 19]
    assert found["tok_s_user"] == [pytest.approx(4 / 64)]
    assert found["tok_s_gpu"] == [pytest.approx(5 / 75)]
    assert found["prefill_share"] == [0.2]
    assert found["window"] == [75]


@settings(max_examples=30, deadline=None)
@given(lengths=mixed(), chunk=st.integers(1, 7))
def test_gaps_iterations_and_tokens_add_up(lengths, chunk):
    served, _ = run(lengths, chunk, drain=False)
    window = Window.of(served.progress, 1)
    if window is None:
        return
    found = figures(served, window)
    assert sum(found["decoding"]) == len(found.get("itl", []))
    repeats = next((own.repeats for own in measure(served, window) if own.metric == "itl"), 1)
    assert len(found.get("itl", [])) / repeats == pytest.approx(np.count_nonzero(found["decoding"]))
    assert sum(found["step_time"]) == pytest.approx(found["window"][0], abs=1e-6)
    assert len(found["ttft"]) == len(found["e2e"]) >= 1
    assert len(found.get("tpot", [])) == len(found.get("tok_s_user", []))


def lines_of(path, served, window):
    write_requests(path, served, window)
    return [json.loads(line) for line in path.read_text().splitlines()]


@settings(max_examples=60, deadline=None)
@given(lengths=mixed(), chunk=st.integers(1, 7), warmup=st.integers(1, 2), seed=st.integers(0, 99))
def test_figures_follow_from_the_lines_and_the_moments_alone(tmp_path_factory, lengths, chunk, warmup, seed):
    served, _ = run(lengths, chunk, drain=False)
    window = Window.of(served.progress, warmup) if warmup < lengths.requests else None
    if window is None:
        return
    gaps = np.random.default_rng(seed).integers(1, 10**9, len(served.moments) - 1) / 1e9
    moments = np.concatenate([[0.0], gaps.cumsum()])
    served = type(served)(**{**vars(served), "moments": moments})
    found, lines = figures(served, window), lines_of(tmp_path_factory.mktemp("run") / "r.jsonl", served, window)

    answered = {(line["user"], line["request"]): line["sent_s"] + line["e2e_s"] for line in lines if line["e2e_s"]}
    begin = max(answered[user, warmup - 1] for user in range(lengths.users))
    end = min(answered[user, number] for user, number in answered if number == lengths.requests - 1)
    assert found["window"] == [pytest.approx(end - begin, abs=1e-8)]
    steady = [line for line in lines if line["phase"] == "steady"]
    inside = [key for key, moment in answered.items() if begin + 1e-8 < moment < end + 1e-8]
    assert [(line["user"], line["request"]) for line in steady] == [key for key in answered if key in inside]
    for key in ("ttft", "e2e", "tpot"):
        told = sorted(line[f"{key}_s"] for line in steady if line[f"{key}_s"] is not None)
        assert sorted(found.get(key, [])) == pytest.approx(told, abs=1e-8)

    # A token arrives at every moment from a request's first one to its last, and each but the first ends a gap.
    tokens, waits = 0, []
    for line in lines:
        if line["ttft_s"] is None:
            continue
        first, last = line["sent_s"] + line["ttft_s"], answered.get((line["user"], line["request"]), np.inf)
        arrived = [i for i, at in enumerate(moments) if max(begin, first - 2e-8) + 1e-8 < at < min(end, last) + 1e-8]
        tokens += len(arrived)
        waits += [moments[i] - moments[i - 1] for i in arrived if moments[i] > first + 1e-8]
    assert found["tok_s_gpu"] == [pytest.approx(tokens / (end - begin), rel=1e-6)]
    assert sorted(found.get("itl", [])) == pytest.approx(sorted(waits), abs=1e-8)


def test_an_answer_of_one_token_has_no_tpot_and_no_gap():
    lengths = fixed(users=2, requests=3, isl=4, osl=1)
    served, _ = run(lengths, 3, drain=False)
    found = figures(served, Window.of(served.progress, 1))
    assert found["ttft"] == found["e2e"]
    assert not {"tpot", "itl", "tok_s_user"} & set(found)


def test_the_loops_own_time_leaves_the_engine_and_the_wait_out():
    # Readings of the clock: around decode, around prefill and around the wait, a second each.
    served, _ = run(fixed(users=1, requests=1, isl=1, osl=3), 1, clock=ticking())
    assert np.diff(served.moments).tolist() == [4, 4, 4]
    assert served.own.tolist() == [2, 2, 2]


def test_every_request_that_was_sent_has_a_line(tmp_path):
    lengths = Lengths(np.array([[5, 3, 4], [7, 2, 6]]), np.array([[3, 1, 4], [2, 3, 9]]))
    served, _ = run(lengths, 4, drain=False)
    window = Window.of(served.progress, 1)
    path = tmp_path / "requests.jsonl"
    for _ in range(2):
        write_requests(path, served, window)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["run"] for line in lines] == [0] * (len(lines) // 2) + [1] * (len(lines) // 2)
    first = [line for line in lines if line["run"] == 0]
    assert len(first) == (served.progress.sent >= 0).sum()
    assert [line["sent_s"] for line in first] == sorted(line["sent_s"] for line in first)
    by_request = {(line["user"], line["request"]): line for line in first}
    assert by_request[0, 0]["phase"] == by_request[1, 0]["phase"] == "warm-up"
    assert by_request[0, 2]["phase"] == "steady"
    assert by_request[1, 2]["phase"] == "after"
    assert by_request[1, 0]["chunks"] == 2
    assert by_request[0, 1]["tpot_s"] is None
    assert by_request[0, 2]["itl_s"]["max"] >= by_request[0, 2]["itl_s"]["p50"] > 0


def test_half_a_line_that_a_killed_worker_left_is_dropped(tmp_path):
    served, _ = run(fixed(users=1, requests=2, isl=3, osl=5), 3, drain=False)
    path = tmp_path / "requests.jsonl"
    for left in (b"", b'{"run": 0, "us', b'{"run": 1, "user'):
        with path.open("ab") as file:
            file.write(left)
        write_requests(path, served, Window.of(served.progress, 1))
    assert [json.loads(line)["run"] for line in path.read_text().splitlines()] == [0, 0, 1, 1, 2, 2]


def test_prompts_are_the_same_for_a_seed_and_within_the_vocabulary():
    lengths = fixed(users=3, requests=2, isl=50, osl=1)
    torch.manual_seed(3)
    one = make_prompts(lengths, 10)
    torch.manual_seed(3)
    other = make_prompts(lengths, 10)
    assert torch.equal(one.tokens, other.tokens)
    assert sorted(one.tokens.unique().tolist()) == list(range(10))
    assert torch.equal(one.chunk(1, 1, 10, 20), one.tokens[160:180])
