"""Hybrids on a GPU: the experts' grouped GEMM, our kernel in its layer, and captured steps whose states advance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models.hybrid_reference import decode, make_model, tokens

from gpubench.graphs.whole import capture_step
from gpubench.models.gated_delta import GatedDeltaCache
from gpubench.models.moe import MixtureOfExperts
from gpubench.models.presets import PRESETS, find_preset
from gpubench.workloads.decode_step import next_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning"),
]

RECORDED = Path(__file__).parents[1] / "data/models/hybrid.json"


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


@pytest.fixture
def no_sync():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def states(cache):
    return [layer.state for layer in cache.layers if isinstance(layer, GatedDeltaCache)]


def distance(out, ref):
    return ((out.double() - ref.double()).norm() / ref.double().norm()).item()


# Our kernels have a way of their own for one sequence and for two.
@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("attention", ["torch", "triton"])
def test_every_logit_is_what_transformers_computes(attention, sequences):
    recorded = torch.tensor(json.loads(RECORDED.read_text())["logits"])[:sequences]
    found = decode(make_model(attention), tokens()[:sequences])  # all of it is made on the default device
    torch.testing.assert_close(found, recorded, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["tiny-hybrid", "qwen3.5-35b-a3b", "qwen3-next-80b-a3b"])
@pytest.mark.parametrize("batch", [1, 3, 64, 257])
def test_grouped_experts_compute_what_gathered_ones_do_and_do_not_synchronise(name, batch, no_sync):
    config = PRESETS[name]
    if torch.cuda.get_device_capability()[0] not in (9, 10):
        pytest.skip("torch's grouped GEMM has no kernel for this GPU")
    moe = MixtureOfExperts(config.moe, config.hidden, torch.bfloat16)
    assert moe.run_chosen == moe.run_grouped
    x = torch.randn(batch, config.hidden, dtype=torch.bfloat16)
    even = torch.rand(batch, config.moe.experts).argsort(dim=-1)[:, : config.moe.top_k]
    same = torch.arange(config.moe.experts - config.moe.top_k, config.moe.experts).repeat(batch, 1)
    found = [(moe.run_grouped(x, chosen), chosen) for chosen in (even, same)]
    moe(x)
    torch.cuda.set_sync_debug_mode("default")
    for outputs, chosen in found:
        for first in range(0, batch, 32):  # what is gathered for more of them at once would be gigabytes
            rows = slice(first, first + 32)
            want = moe.run_gathered(x[rows], chosen[rows])
            own = outputs[first * config.moe.top_k : first * config.moe.top_k + len(want)]
            assert distance(own, want) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("batch", [1, 4, 20])
@pytest.mark.parametrize(("preset", "layers"), [("tiny-hybrid", None), ("qwen3.5-35b-a3b", 4)])
def test_a_captured_step_equals_the_eager_one_while_states_advance_and_after_a_restore(
    preset, layers, batch, attention, dtype
):
    config = find_preset(preset, layers)
    model = config.build(dtype, attention)
    cache = model.make_cache(batch, length=128)
    given = torch.randint(config.vocabulary, (batch,))
    eager = [next_tokens(model, cache, given)["logits"] for _ in range(5)]
    left = [state.clone() for state in states(cache)]
    captured = capture_step(lambda tokens: next_tokens(model, cache, tokens), given)
    for _ in range(2):
        cache.restore()
        for want in eager:
            assert torch.equal(captured(given)["logits"], want)
        for own, other in zip(states(cache), left, strict=True):
            assert torch.equal(own, other)
    assert distance(eager[1], eager[0]) > 1e-3


def test_a_step_and_a_restore_do_not_synchronise_and_a_restore_can_be_captured(no_sync):
    model = PRESETS["tiny-hybrid"].build(torch.bfloat16, "triton")
    cache = model.make_cache(batch=4, length=64)
    given = torch.zeros(4, dtype=torch.int64)
    for _ in range(2):
        model(given, cache)
        cache.restore()
    torch.cuda.set_sync_debug_mode("default")  # a capture begins and ends with one
    restore = capture_step(cache.restore)
    model(given, cache)
    restore()
    for layer in cache.layers:
        if isinstance(layer, GatedDeltaCache):
            assert (layer.state == layer.state_start).all()
            assert (layer.conv == layer.conv_start).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", ["tiny-hybrid", "qwen3.5-35b-a3b"])
def test_our_kernel_in_its_layer_computes_what_torch_does(preset, dtype):
    config = find_preset(preset, 1)
    ours, plain = config.build(dtype, "triton"), config.build(dtype, "torch")
    plain.load_state_dict(ours.state_dict())
    cache = ours.make_cache(batch=5, length=32)
    given = torch.randn(5, config.hidden, dtype=dtype)
    outputs = []
    for model in (ours, plain):
        cache.restore()
        layer = model.layers[0]
        steps = [layer.mixing(given, layer.mixing_norm, cache.layers[0], cache.positions) for _ in range(8)]
        outputs.append(torch.stack(steps) - given)
    assert distance(*outputs) < {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]


# Inductor's own imports use what torch has since deprecated; and it advises TF32, which would spoil the comparison.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("attention", ["torch", "triton"])
def test_a_compiled_step_equals_the_eager_one_and_leaves_the_same_states(attention):
    torch.compiler.reset()
    model = PRESETS["tiny-hybrid"].build(torch.float32, attention)
    cache = model.make_cache(batch=4, length=64)
    given = torch.randint(1024, (4,))
    compiled = torch.compile(next_tokens, fullgraph=True, dynamic=False)
    eager = [next_tokens(model, cache, given)["logits"] for _ in range(3)]
    left = [state.clone() for state in states(cache)]
    cache.restore()
    for want in eager:
        torch.testing.assert_close(compiled(model, cache, given)["logits"], want, rtol=1e-3, atol=1e-3)
    for own, other in zip(states(cache), left, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)
