"""Serving on a GPU: our kernels beside torch's operators, steps in one graph between idle rows, and nothing waits."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
from decoding import vary_weights
from models.whole_sequences import forward_whole
from slots import CAPACITY, SLOTS, Guest, draw_sequences, prefill, remembered, rows_of, serve

from gpubench.graphs.whole import capture_step
from gpubench.models.moe import MixtureOfExperts
from gpubench.models.presets import PRESETS
from gpubench.models.variant import Variant
from gpubench.tensors import find_tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning"),
]

TINY = ["tiny-dense", "tiny-hybrid", "tiny-mla"]
REAL = [("llama-3.1-8b", 2), ("qwen3.5-35b-a3b", 4), ("deepseek-v3", 2)]


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


def distance(out, ref):
    return ((out.double() - ref.double()).norm() / ref.double().norm()).item()


def make(preset, layers, dtype, attention):
    """Of real widths, but with few experts, a small vocabulary, and one dense layer of those that have some."""
    torch.manual_seed(0)
    shape = {"vocabulary": 1024} | ({"moe": {"experts": 16}} if PRESETS[preset].is_routed else {})
    shape |= {"dense_layers": 1} if hasattr(PRESETS[preset], "dense_layers") else {}
    model = Variant(preset, layers, shape=shape).config.build(dtype, attention)
    vary_weights(model)
    return model


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("name", TINY)
def test_sequences_that_share_slots_give_the_logits_of_each_whole(name, attention):
    model = make(name, None, torch.float32, attention)
    given = draw_sequences(1024)[:3]
    with torch.device("cpu"):
        oracle = make(name, None, torch.float32, "torch")
        oracle.load_state_dict(model.state_dict())
        wanted = [forward_whole(oracle, tokens.cpu()) for tokens in given]
    for own, other in zip(serve(model, given, Random(0)), wanted, strict=True):
        torch.testing.assert_close(own.double().cpu(), other, rtol=1e-3, atol=1e-3)


def fill(model, slots):
    for slot in range(SLOTS):
        prefill(model, slots, slot, 0, torch.randint(1024, (5 + slot,)))


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("name", TINY)
def test_idle_rows_change_not_one_bit_of_their_slots(name, attention):
    model = make(name, None, torch.float32, attention)
    slots = model.make_slots(SLOTS, CAPACITY)
    fill(model, slots)
    before = [[part.clone() for part in remembered(slots, slot)] for slot in range(SLOTS)]
    logits = model.decode(*rows_of({1: Guest(torch.randint(1024, (9,)), 0, 0, done=6)}), slots)
    assert logits.isfinite().all()
    for slot in range(SLOTS):
        same = [torch.equal(*pair) for pair in zip(before[slot], remembered(slots, slot), strict=True)]
        assert not any(same) if slot == 1 else all(same)


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize(("preset", "layers"), REAL)
def test_nothing_waits_for_the_gpu(preset, layers, attention):
    model = make(preset, layers, torch.bfloat16, attention)
    slots, tokens = model.make_slots(SLOTS, CAPACITY), torch.randint(1024, (9,))
    rows = rows_of({0: Guest(tokens, 0, 0, done=0), 2: Guest(tokens, 0, 0, done=5)})
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            slots.clear(2)
            prefill(model, slots, 2, 0, tokens[:3])
            prefill(model, slots, 2, 3, tokens[3:5])
            model.decode(*rows, slots)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("preset", "layers", "attention", "dtype"),
    [(name, None, attention, torch.float32) for name in TINY for attention in ("torch", "triton")]
    + [(*real, "triton", torch.bfloat16) for real in REAL],
)
def test_a_captured_step_is_the_eager_one_bit_for_bit_as_rows_advance_and_idle(preset, layers, attention, dtype):
    model = make(preset, layers, dtype, attention)
    slots = model.make_slots(SLOTS, CAPACITY)
    fill(model, slots)
    twin = copy.deepcopy(slots)
    steps = [
        rows_of({slot: Guest(torch.randint(1024, (CAPACITY,)), 0, 0, done=done) for slot, done in rows.items()})
        for rows in ({0: 5, 2: 7}, {1: 6, 2: 8}, {2: 9}, {0: 6, 1: 7, 2: 10})
    ]
    eager = [model.decode(*step, twin) for step in steps]
    before = [tensor.clone() for tensor in find_tensors(slots)]
    captured = capture_step(lambda tokens, positions: model.decode(tokens, positions, slots), *steps[0])
    for tensor, old in zip(find_tensors(slots), before, strict=True):
        tensor.copy_(old)  # warming up was a step
    for step, want in zip(steps, eager, strict=True):
        assert torch.equal(captured(*step), want)
    for slot in range(SLOTS):
        for own, other in zip(remembered(slots, slot), remembered(twin, slot), strict=True):
            assert torch.equal(own, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_kernels_take_a_dense_models_pinned_step_as_torch_does_and_in_a_graph_bit_for_bit(dtype):
    plain, ours = (make("llama-3.1-8b", 2, dtype, attention) for attention in ("torch", "triton"))
    for batch in (1, 5):
        cache, tokens = ours.make_cache(batch, 300), torch.randint(1024, (batch,))
        want = ours(tokens, cache)
        assert distance(want, plain(tokens, cache)) < {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        captured = capture_step(lambda tokens, cache=cache: ours(tokens, cache), tokens)
        assert torch.equal(captured(tokens), want)


@pytest.mark.parametrize(
    ("preset", "layers", "dtype"),
    [(*real, torch.bfloat16) for real in REAL] + [(*real, torch.float32) for real in REAL[:2]],
)
def test_our_kernels_serve_real_widths_as_torch_does(preset, layers, dtype):
    # Without experts, which a rounding would choose others of.
    plain, ours = (make(preset, layers, dtype, attention) for attention in ("torch", "triton"))
    for module in (*plain.modules(), *ours.modules()):
        if isinstance(module, MixtureOfExperts):
            module.add = lambda x, *_: x
    given = draw_sequences(1024)
    for own, other in zip(*(serve(model, given, Random(1)) for model in (ours, plain)), strict=True):
        assert distance(own, other) < {torch.float32: 1e-3, torch.bfloat16: 5e-2}[dtype]


@pytest.mark.parametrize(("preset", "layers"), REAL[:2])
def test_a_long_prompt_at_once_is_what_it_is_in_parts(preset, layers):
    # Our kernels have other programs for hundreds of tokens than for dozens.
    model, tokens, logits = make(preset, layers, torch.bfloat16, "triton"), torch.randint(1024, (600,)), []
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.add = lambda x, *_: x
    for size in (600, 100):
        slots = model.make_slots(2, 640)
        chunks = [prefill(model, slots, 1, first, tokens[first : first + size]) for first in range(0, 600, size)]
        logits.append(torch.cat(chunks))
    assert distance(*logits) < 2e-2
