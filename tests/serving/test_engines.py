"""Engines over real models on a CPU: graphs and pieces choose what is chosen eagerly, however users come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from decoding import vary_weights
from graphs.fake_graphs import FakeGraphs
from serving.talking import answer_alone, prompts_of, talk

from gpubench.errors import ArgumentError, StaleGraphError
from gpubench.graphs.piecewise.step import Options
from gpubench.models.presets import PRESETS
from gpubench.serving.engine import EagerEngine, GraphEngine, PiecewiseEngine, decode_buckets
from gpubench.settings import GRAPHS

SLOTS, CAPACITY, CHUNK = 4, 24, 8
WITH = {"tiny-hybrid": {"attention_every": 2}}
"""So that two layers are one of each kind."""


def make_model(name):
    torch.manual_seed(0)
    model = replace(PRESETS[name], layers=2, **WITH.get(name, {})).build(torch.float32)
    vary_weights(model)
    return model


def make_engine(kind, model, capacity=CAPACITY, **options):
    slots = model.make_slots(SLOTS, capacity)
    if kind == "eager":
        return EagerEngine(model, slots)
    if kind == "graph":
        return GraphEngine(model, slots, decode_buckets("powers", SLOTS), FakeGraphs())
    options = Options(decode_buckets([2, 4], SLOTS), **options)
    return PiecewiseEngine(model, slots, options, (4, CHUNK), FakeGraphs())


def states(slots):
    """Of recurrent layers."""
    return [
        value
        for layer in getattr(slots, "layers", [])
        if hasattr(layer, "state")
        for value in (layer.state, layer.conv)
    ]


@pytest.mark.parametrize("kind", ["eager", "graph", "piecewise"])
@pytest.mark.parametrize("name", ["tiny-dense", "tiny-hybrid", "tiny-mla"])
def test_every_engine_answers_as_the_model_does_alone_though_slots_are_reused_and_rows_idle(name, kind):
    model, prompts = make_model(name), prompts_of([3, 8, 17, 1, 12, 5, 9])
    engine = make_engine(kind, model)
    assert not any(value.any() for value in states(engine.slots)), "setting it up left them empty"
    answers = talk(engine, prompts, SLOTS, CHUNK, 4)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer_alone(model, prompt, answer) == answer


@pytest.mark.parametrize("kind", ["graph", "piecewise"])
def test_an_engine_says_by_bucket_what_setting_it_up_cost_and_refuses_slots_that_have_moved(kind):
    model = make_model("tiny-dense")
    engine = make_engine(kind, model)
    named = {own.range for own in engine.measured if own.metric == "capture_time"}
    of_prefill = {"prefill bucket 4", "prefill bucket 8"} if kind == "piecewise" else set()
    assert named == {"bucket 4", "bucket 2", *of_prefill} | ({"bucket 1"} if kind == "graph" else set())
    engine.slots = model.make_slots(SLOTS, CAPACITY)
    with pytest.raises(StaleGraphError, match=r"decode: the graphs of bucket 2 were captured when \S+ was at 0x"):
        engine.decode(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int32))


def test_a_chunk_may_be_larger_than_what_a_batch_could_ever_hold():
    model = make_model("tiny-dense")
    engine = PiecewiseEngine(model, model.make_slots(1, 64), Options((1,)), (64,), FakeGraphs())
    (prompt,) = prompts_of([60])
    want = EagerEngine(model, model.make_slots(1, 64)).prefill(prompt, 0, 0, is_last=True)
    assert torch.equal(engine.prefill(prompt, 0, 0, is_last=True), want)
    with pytest.raises(ArgumentError, match=r"a step of 65 tokens: buckets \[64\] hold 1 to 64"):
        engine.prefill(torch.zeros(65, dtype=torch.int64), 0, 0, is_last=True)


def test_no_bucket_of_decode_steps_has_more_rows_than_there_are_slots():
    assert decode_buckets("powers", 6) == (1, 2, 4, 6)
    assert decode_buckets([4, 8, 16], 6) == (4, 6)
    with pytest.raises(ArgumentError, match=r"buckets: \[1, 4\] don't cover a step of 6 tokens"):
        decode_buckets([1, 4], 6)


@pytest.mark.parametrize("kind", ["graph", "piecewise"])
def test_with_graphs_switched_off_an_engine_is_eager(monkeypatch, kind):
    monkeypatch.setenv(GRAPHS, "off")
    model, prompts = make_model("tiny-dense"), prompts_of([3, 9])
    engine = make_engine(kind, model)
    assert engine.measured == []
    assert talk(engine, prompts, SLOTS, CHUNK, 4) == talk(make_engine("eager", model), prompts, SLOTS, CHUNK, 4)
