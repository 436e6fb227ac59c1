"""Real models, served together: each request gets what it gets alone, and one that doesn't is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoding import vary_weights
from graphs.fake_graphs import FakeGraphs

from gpubench.graphs.piecewise.step import Options
from gpubench.models.variant import Variant
from gpubench.serving.alone import check_alone, forced_logits
from gpubench.serving.engine import EagerEngine, GraphEngine, PiecewiseEngine
from gpubench.serving.loop import serve
from gpubench.serving.requests import Lengths, make_prompts

MODELS = ["tiny-dense", "tiny-hybrid", "tiny-mla"]
LENGTHS = {
    "one user": Lengths(np.array([[7, 12]]), np.array([[4, 3]])),
    "answers of one token": Lengths(np.full((3, 2), 5), np.ones((3, 2), dtype=int)),
    "mixed, with chunks that divide no prompt": Lengths(
        np.array([[13, 1], [6, 20], [2, 9]]), np.array([[5, 1], [1, 6], [8, 3]])
    ),
}


def served_by(model, lengths, chunk=4, make_engine=EagerEngine):
    prompts = make_prompts(lengths, model.config.vocabulary)
    engine = make_engine(model, model.make_slots(lengths.users, lengths.capacity))
    return serve(engine, lengths, prompts, chunk, drain=True), prompts


def captured_whole(model, slots):
    return GraphEngine(model, slots, (1, 3), FakeGraphs())


def captured_in_pieces(model, slots):
    return PiecewiseEngine(model, slots, Options((2, 3)), (2, 4), FakeGraphs())


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    built = Variant(request.param).config.build(torch.float32)
    vary_weights(built)
    return built


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_token_of_every_request_is_the_one_it_gets_alone(model, lengths):
    served, prompts = served_by(model, lengths)
    for user, number in np.ndindex(lengths.isl.shape):
        prompt = prompts.chunk(user, number, 0, lengths.isl[user, number])
        answer = torch.from_numpy(served.answer(user, number))
        assert len(answer) == lengths.osl[user, number]
        assert torch.equal(forced_logits(model, prompt, answer).argmax(dim=1), answer)


@pytest.mark.parametrize("model", ["tiny-dense"], indirect=True)
@pytest.mark.parametrize("make_engine", [captured_whole, captured_in_pieces])
def test_captured_steps_give_the_same_tokens_as_eager_ones(model, make_engine):
    lengths = LENGTHS["mixed, with chunks that divide no prompt"]
    torch.manual_seed(1)
    eager, _ = served_by(model, lengths)
    torch.manual_seed(1)
    captured, _ = served_by(model, lengths, make_engine=make_engine)
    for user, number in np.ndindex(lengths.isl.shape):
        assert np.array_equal(captured.answer(user, number), eager.answer(user, number))


def test_the_check_tells_how_many_it_looked_at_and_which_token_is_wrong(model):
    lengths = LENGTHS["mixed, with chunks that divide no prompt"]
    served, prompts = served_by(model, lengths)
    which = np.argwhere(served.progress.last > 0)
    right = check_alone(model, served, prompts, which, 1e-3, of=60)
    assert right.passed
    assert right.against == "6 of 60 requests, each alone"
    assert right.worst.startswith("24 of 24 tokens have the largest logit")
    second = served.progress.first[2, 0] + 1
    served.tokens[second - 1][2] ^= 1
    wrong = check_alone(model, served, prompts, which, 1e-3, of=60)
    assert not wrong.passed
    assert "the worst, user 2's request 0, token " in wrong.worst


def test_logits_that_are_no_numbers_pass_for_nothing(model, monkeypatch):
    served, prompts = served_by(model, LENGTHS["one user"])
    monkeypatch.setattr(type(model), "logits", lambda self, hidden: torch.full((len(hidden), 1024), torch.nan))
    assert not check_alone(model, served, prompts, np.array([[0, 0]]), 1e9, of=2).passed
