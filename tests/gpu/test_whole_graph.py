"""Steps captured whole: replays follow their inputs, write the same state as eager steps, and give memory back."""

from __future__ import annotations

import gc

import pytest
import torch

from gpubench.graphs.whole import capture_step
from gpubench.models.presets import PRESETS, find_preset
from gpubench.workloads.decode_step import next_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


def test_a_replay_computes_from_the_inputs_it_is_given():
    captured = capture_step(lambda x: x * 2 + 1, torch.zeros(4))
    for value in (1.0, 5.0):
        assert captured(torch.full((4,), value)).tolist() == [value * 2 + 1] * 4


def test_a_step_bound_to_its_inputs_replays_on_them_and_can_run_without_the_graph():
    runs = []

    def step(x):
        runs.append(torch.cuda.is_current_stream_capturing())
        return x * 2 + 1

    x = torch.full((4,), 3.0)
    bound = capture_step(step, x).bind(x)
    runs.clear()
    assert bound().tolist() == [7.0] * 4
    assert runs == []
    assert bound.eager().tolist() == [7.0] * 4
    assert runs == [False]


def test_what_the_step_reads_is_kept_alive_by_the_captured_step():
    def capture_with_a_weight_of_its_own():
        weight = torch.full((1 << 20,), 3.0)
        return capture_step(lambda x: x * weight, torch.ones(1 << 20))

    captured = capture_with_a_weight_of_its_own()
    gc.collect()
    torch.cuda.empty_cache()
    torch.full((1 << 20,), float("nan"))
    assert (captured(torch.ones(1 << 20)) == 3).all()


def test_a_closed_graph_gives_its_memory_back_and_refuses_to_replay():
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    captured = capture_step(lambda x: torch.cat([x] * 64), torch.zeros(1 << 20))
    assert torch.cuda.memory_reserved() >= before + (256 << 20)
    captured.close()
    with pytest.raises(RuntimeError, match="closed"):
        captured(torch.zeros(1 << 20))
    del captured
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before + (32 << 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("preset", "layers"), [("tiny-dense", None), ("llama-3.1-8b", 2)])
def test_a_captured_decode_step_equals_the_eager_one_over_many_steps(preset, layers, dtype):
    config = find_preset(preset, layers)
    model = config.build(dtype)
    cache = model.make_cache(batch=4, length=128)
    tokens = torch.randint(config.vocabulary, (4,))
    captured = capture_step(lambda tokens: next_tokens(model, cache, tokens), tokens)
    for _ in range(5):
        eager = next_tokens(model, cache, tokens)
        keys = [k.clone() for k in cache.keys]
        for k in cache.keys:
            k[:, :, -1] = float("nan")  # the replay must write its own
        replayed = captured(tokens)
        torch.testing.assert_close(replayed["logits"], eager["logits"])
        for own, other in zip(cache.keys, keys, strict=True):
            torch.testing.assert_close(own, other)
        tokens = replayed["tokens"].clone()


def test_a_model_on_the_gpu_decodes_as_on_the_cpu():
    config = PRESETS["tiny-dense"]
    model = config.build(torch.float32)
    cache = model.make_cache(batch=2, length=16)
    tokens = torch.randint(config.vocabulary, (2,))
    there = next_tokens(model, cache, tokens)["logits"].cpu()
    with torch.device("cpu"):
        twin = config.build(torch.float32)
        twin.load_state_dict(model.state_dict())
        twin_cache = twin.make_cache(batch=2, length=16)
    for own, other in zip((*twin_cache.keys, *twin_cache.values), (*cache.keys, *cache.values), strict=True):
        own.copy_(other)
    torch.testing.assert_close(next_tokens(twin, twin_cache, tokens.cpu())["logits"], there, rtol=1e-4, atol=1e-4)
