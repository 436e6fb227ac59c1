"""The hybrid decoder against transformers' Qwen3.5, and its states against the recurrence written plainly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hybrid_reference import CONFIG, decode, empty_cache, make_model, tokens

from gpubench.errors import Unsupported
from gpubench.models.attention import KeyValueCache
from gpubench.models.gated_delta import GatedDelta, GatedDeltaCache, make_cache
from gpubench.models.gated_delta_formulas import advance, prepare
from gpubench.models.presets import PRESETS, find_preset

TINY = PRESETS["tiny-hybrid"]
RECORDED = Path(__file__).parents[1] / "data/models/hybrid.json"


def make_tiny(batch, length):
    torch.manual_seed(0)
    model = TINY.build(torch.float32)
    return model, model.make_cache(batch, length), torch.randint(TINY.vocabulary, (batch,))


def changing(cache):
    return [tensor for layer in cache.layers for tensor in vars(layer).values()]


def test_every_logit_is_what_transformers_computes_over_many_steps():
    recorded = json.loads(RECORDED.read_text())
    assert recorded["tokens"] == tokens().tolist()
    found = decode(make_model(), tokens())
    torch.testing.assert_close(found, torch.tensor(recorded["logits"]), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # a foreign library's
def test_every_logit_is_what_transformers_computes_with_random_weights():
    from gpubench.models.peers.build import build_peer

    torch.manual_seed(1)
    model = CONFIG.build(torch.float32)
    given = torch.randint(CONFIG.vocabulary, (2, 16))
    peer = build_peer(model, torch.device("cpu"))
    torch.testing.assert_close(decode(model, given), decode(peer, given), rtol=1e-4, atol=1e-4)


def test_a_layers_states_follow_the_recurrence_over_hundreds_of_tokens():
    torch.manual_seed(0)
    shape, hidden, batch, steps = CONFIG.delta, CONFIG.hidden, 2, 256
    layer = GatedDelta(shape, hidden, CONFIG.norm_eps, torch.float32, "torch")
    cache = make_cache(shape, batch, layer.out)
    state, conv = cache.state.double(), cache.conv.double()
    given = {"conv_weight": layer.conv.double(), "a_log": layer.a_log.double(), "dt_bias": layer.dt_bias.double()}
    scale = 1 + torch.randn(hidden) / 4
    for before, position in zip(torch.randn(steps, batch, hidden), range(7, 7 + steps), strict=True):
        positions = torch.full((batch,), position, dtype=torch.int32)
        y = layer(before, scale, cache, positions)
        x = before.double()
        x = x / (x.square().mean(-1, keepdim=True) + CONFIG.norm_eps).sqrt() * scale.double()
        mixed, gate = (x @ layer.projection.double().T).split([shape.channels, shape.value_heads * shape.v], dim=-1)
        a, b = x @ layer.rates.double().mT
        *token, conv = prepare({**given, "mixed": mixed, "positions": positions, "a": a, "b": b}, conv, state)
        out, state = advance(*token, state)
        normed = out / (out.square().mean(-1, keepdim=True) + CONFIG.norm_eps).sqrt() * layer.norm.double()
        gated = normed * torch.nn.functional.silu(gate.view_as(out))
        want = before.double() + gated.flatten(1) @ layer.out.double().T
        torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cache.state.double(), state, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.conv.double(), conv, rtol=1e-5, atol=1e-5)


def test_a_restored_cache_gives_the_same_again_and_one_that_is_not_restored_does_not():
    model, cache, given = make_tiny(batch=3, length=12)
    first = model(given, cache)
    went_on = model(given, cache)
    assert (went_on - first).norm() > 0.01 * first.norm()
    cache.restore()
    assert torch.equal(model(given, cache), first)


# How torch.compile traces all kinds of layers and what they change. Inductor, which takes its time, compiles one layer
# in the workload's tests.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_step_traced_whole_equals_the_eager_one_and_leaves_the_same_cache():
    model, cache, given = make_tiny(batch=3, length=12)
    torch.compiler.reset()
    traced = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    wanted = [model(given, cache) for _ in range(2)]
    left = [tensor.clone() for tensor in changing(cache)]
    cache.restore()
    for want in wanted:
        torch.testing.assert_close(traced(given, cache), want, rtol=1e-4, atol=1e-4)
    for own, other in zip(changing(cache), left, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_a_step_writes_the_last_position_the_state_and_one_slot_of_the_ring():
    model, cache, given = make_tiny(batch=3, length=14)
    before = [tensor.clone() for tensor in changing(cache)]
    model(given, cache)
    after = iter(zip(before, changing(cache), strict=True))
    for layer in cache.layers:
        if isinstance(layer, KeyValueCache):
            for old, new in (next(after), next(after)):
                assert torch.equal(old[:, :, :-1], new[:, :, :-1])
                assert not torch.isclose(old[:, :, -1], new[:, :, -1]).all(dim=-1).any()
        else:
            assert isinstance(layer, GatedDeltaCache)
            (old_state, state), (old_ring, ring), *starts = (next(after) for _ in range(4))
            assert not torch.isclose(old_state, state).all(dim=(1, 2, 3)).any()
            changed = (old_ring != ring).any(dim=(0, 2))
            assert changed.tolist() == [False, True, False, False]  # position 13 of a ring of 4
            assert all(torch.equal(old, new) for old, new in starts)


def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch():
    model, cache, given = make_tiny(batch=4, length=12)
    alone = replace(
        cache,
        positions=cache.positions[2:3],
        lengths=cache.lengths[2:3],
        layers=[
            KeyValueCache(layer.keys[2:3].clone(), layer.values[2:3].clone())
            if isinstance(layer, KeyValueCache)
            else replace(layer, state=layer.state[2:3].clone(), conv=layer.conv[2:3].clone())
            for layer in cache.layers
        ],
    )
    torch.testing.assert_close(model(given, cache)[2:3], model(given[2:3], alone), rtol=1e-4, atol=1e-4)


def test_activations_keep_their_scale_whatever_the_depth():
    torch.manual_seed(0)
    deep = replace(TINY, layers=24).build(torch.float32)
    logits = deep(torch.randint(TINY.vocabulary, (8,)), deep.make_cache(batch=8, length=4))
    assert 0.5 < logits.std() < 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sizes_foretold_are_the_sizes_built(dtype):
    model = TINY.build(dtype)
    cache = model.make_cache(batch=3, length=5)
    assert sum(weight.nbytes for weight in model.parameters()) == TINY.weight_bytes(dtype.itemsize)
    assert sum(weight.numel() for weight in model.parameters()) == TINY.parameters
    assert sum(tensor.nbytes for tensor in changing(cache)) == TINY.cache_bytes(3, 5, dtype.itemsize)


def test_flop_foretold_are_those_that_torch_counts():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model, cache, given = make_tiny(batch=3, length=5)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it can't count the CPU's fused one
        model(given, cache)
    # Of the recurrence's products it doesn't see the update, which is made in place.
    updates = 2 * 3 * TINY.delta_layers * TINY.delta.value_heads * TINY.delta.k * TINY.delta.v
    assert TINY.step_flop(batch=3, length=5) == counter.get_total_flops() + updates


def test_a_step_reads_what_it_needs_once_and_of_the_experts_those_it_touches():
    batch, length, size = 3, 5, 2
    weights = TINY.weight_bytes(size) - (TINY.vocabulary - batch) * TINY.hidden * size
    left_out = TINY.layers * (TINY.moe.experts - TINY.moe.touched(batch))
    weights -= round(left_out * 3 * TINY.moe.intermediate * TINY.hidden) * size
    key_values = 2 * batch * (length + 1) * TINY.kv_heads * TINY.head_dim * size
    state = 2 * 4 * TINY.delta.value_heads * TINY.delta.k * TINY.delta.v
    ring = TINY.delta.conv * TINY.delta.channels * size
    recurrent = 3 * batch * (state + ring)
    logits = batch * TINY.vocabulary * size
    assert TINY.step_bytes(batch, length, size) == weights + key_values + recurrent + logits


@pytest.mark.parametrize(
    ("name", "billions", "active"), [("qwen3.5-35b-a3b", 34.7, 3.0), ("qwen3-next-80b-a3b", 79.7, 3.6)]
)
def test_real_shapes_have_the_real_numbers_of_parameters(name, billions, active):
    config = PRESETS[name]
    assert config.parameters / 1e9 == pytest.approx(billions, abs=0.05)
    assert config.step_flop(batch=1, length=1) / 2e9 == pytest.approx(active, abs=0.05)
    assert [index for index in range(config.layers) if config.is_attention(index)][:2] == [3, 7]
    assert config.attention_layers * 4 == config.layers


def test_a_model_can_be_cut_to_its_first_layers():
    cut = find_preset("qwen3.5-35b-a3b", layers=7)
    assert (cut.layers, cut.attention_layers, cut.delta_layers) == (7, 1, 6)
    assert find_preset("tiny-hybrid", layers=1).attention_layers == 0


def test_the_kernels_need_a_gpu_or_the_interpreter():
    with pytest.raises(Unsupported, match="TRITON_INTERPRET=1"):
        TINY.build(torch.float32, "triton")


def test_our_kernels_decode_the_same():
    # In a process of its own: Triton decides at import whether it interprets.
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def decode_with_both() -> None:
    """Three steps by our kernels and by torch: the same logits and the same states."""
    given, caches, logits = tokens()[:2, :3], [], []
    for attention in ("torch", "triton"):
        model = make_model(attention, layers=2, attention_every=2)
        cache = empty_cache(model, *given.shape)
        steps = [model(given[:, step].contiguous(), cache.prefix(step + 1)) for step in range(given.shape[1])]
        caches.append(cache)
        logits.append(torch.stack(steps))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    for own, other in zip(*map(changing, caches), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    decode_with_both()
