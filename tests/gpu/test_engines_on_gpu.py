"""Engines on a GPU: all choose the tokens that each request gets alone, while users come and go and buckets change."""

from __future__ import annotations

import gc
import random

import pytest
import torch
from decoding import vary_weights
from serving.talking import answer_alone, prompts_of, talk

from gpubench.errors import StaleGraphError
from gpubench.graphs.piecewise.cuda import CudaGraphs
from gpubench.graphs.piecewise.step import Options
from gpubench.models.presets import PRESETS
from gpubench.serving.engine import EagerEngine, GraphEngine, PiecewiseEngine, decode_buckets

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning"),
]

SLOTS, CAPACITY, CHUNK, SHORTEST = 12, 96, 16, 24
ENGINES = ["eager", "graph", "piecewise"]


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield
    gc.collect()
    torch.cuda.empty_cache()


def make_engine(kind, model):
    slots, buckets = model.make_slots(SLOTS, CAPACITY), decode_buckets("powers", SLOTS)
    if kind == "eager":
        return EagerEngine(model, slots)
    if kind == "graph":
        return GraphEngine(model, slots, buckets, CudaGraphs())
    return PiecewiseEngine(model, slots, Options(buckets), (2, 8, CHUNK), CudaGraphs())


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("name", ["tiny-dense", "tiny-hybrid", "tiny-mla"])
def test_every_request_gets_what_it_gets_alone_from_every_engine(name, attention):
    model = PRESETS[name].build(torch.float32, attention)
    vary_weights(model)
    chosen = random.Random(0)
    prompts = prompts_of([chosen.randint(1, CAPACITY - SHORTEST - 2) for _ in range(30)])
    answers = {kind: talk(make_engine(kind, model), prompts, SLOTS, CHUNK, SHORTEST) for kind in ENGINES}
    alone = [answer_alone(model, *each) for each in zip(prompts, answers["eager"], strict=True)]
    assert answers == dict.fromkeys(ENGINES, alone)


@pytest.mark.parametrize("kind", ENGINES)
def test_no_engine_waits_for_the_gpu_and_captured_ones_refuse_slots_that_have_moved(kind):
    model = PRESETS["tiny-hybrid"].build(torch.bfloat16, "torch")
    engine = make_engine(kind, model)
    if kind != "eager":
        assert {own.metric for own in engine.measured} >= {"start_time", "capture_time", "memory_device", "memory_pool"}
    tokens, positions = torch.zeros(5, dtype=torch.int64), torch.tensor([3, -1, 7, -1, 9], dtype=torch.int32)
    engine.decode(tokens, positions)
    engine.prefill(tokens, 1, 0, is_last=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.clear(1)
        engine.prefill(tokens, 1, 0, is_last=True)
        engine.decode(tokens, positions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if kind == "eager":
        return
    engine.slots = model.make_slots(SLOTS, CAPACITY)
    with pytest.raises(StaleGraphError, match=r"decode: the graphs of bucket 8 were captured when \S+ was at 0x"):
        engine.decode(tokens, positions)


@pytest.mark.parametrize("kind", ["eager", "piecewise"])
def test_no_chunk_waits_for_a_plan_that_cudnn_builds_for_its_length(kind):
    engine = make_engine(kind, PRESETS["tiny-dense"].build(torch.bfloat16, "triton"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        engine.prefill(torch.zeros(7, dtype=torch.int64), 1, 0, is_last=False)
        engine.prefill(torch.zeros(5, dtype=torch.int64), 1, 7, is_last=True)
    called = {event.key for event in profile.key_averages() if event.key.startswith("aten::_scaled_dot_product")}
    assert called == {"aten::_scaled_dot_product_flash_attention"}
