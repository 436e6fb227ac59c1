"""Latent attention and its indexer on a GPU: kernels in bfloat16, and captured steps whose hints advance."""

from __future__ import annotations

import gc
import importlib.util
from dataclasses import replace

import pytest
import torch

from gpubench.graphs.whole import capture_step
from gpubench.kernels.indexer_inputs import indexer_inputs
from gpubench.kernels.mla_gather import mla_gather
from gpubench.kernels.mla_prepare import mla_prepare, rotate_heads
from gpubench.kernels.topk_radix import make_radix_scratch
from gpubench.models.latent import gather_in_torch, prepare_in_torch
from gpubench.models.layers import rotary_table, rotate
from gpubench.models.presets import PRESETS, find_preset
from gpubench.workloads.decode_step import next_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning"),
]

has_flashinfer = pytest.mark.skipif(importlib.util.find_spec("flashinfer") is None, reason="flashinfer isn't installed")


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield
    gc.collect()  # a captured step holds its model, tens of gigabytes of it, in a cycle
    torch.cuda.empty_cache()


@pytest.fixture
def no_sync():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def distance(out, ref):
    return ((out.double() - ref.double()).norm() / ref.double().norm()).item()


def make_config(preset, layers, ranks, gvr):
    config = replace(find_preset(preset, layers), gvr=gvr)
    return config.rank_share("TEP", ranks) if ranks > 1 else config


def selected(cache):
    return None if cache.selection is None else cache.selection.selected


CAPTURED = [
    ("deepseek-v3", 4, 1, "triton", False),
    ("deepseek-v3.2", 4, 1, "triton", True),
    ("deepseek-v3.2", 6, 16, "triton", False),
    ("deepseek-v3.2", 6, 16, "triton", True),
    ("deepseek-v3.2", 6, 16, "torch", False),
    pytest.param("deepseek-v3", 6, 16, "flashinfer", False, marks=has_flashinfer),
    pytest.param("deepseek-v3.2", 6, 16, "flashinfer", True, marks=has_flashinfer),
]


@pytest.mark.parametrize(("preset", "layers", "ranks", "attention", "gvr"), CAPTURED)
def test_a_captured_step_equals_the_eager_one_bit_for_bit_while_hints_advance(preset, layers, ranks, attention, gvr):
    config = make_config(preset, layers, ranks, gvr)
    model = config.build(torch.bfloat16, attention)
    tokens = torch.randint(config.vocabulary, (4, 3))  # of four steps, each of which hints at the next one's top-k
    for length in (1000, 4096, 16384):
        cache = model.make_cache(batch=3, length=length)
        captured = capture_step(lambda given, cache=cache: next_tokens(model, cache, given), tokens[0])
        kept = []
        for step in (lambda given, cache=cache: next_tokens(model, cache, given), captured):
            cache.restore()
            for given in tokens:
                found = step(given)
                state = [] if selected(cache) is None else [selected(cache).clone()]
                kept.append([found["logits"].clone(), *state, *(entries.clone() for entries in cache.entries)])
        for eager, replayed in zip(kept[: len(tokens)], kept[len(tokens) :], strict=True):
            for own, other in zip(eager, replayed, strict=True):
                assert torch.equal(own, other)
        assert distance(kept[1][0], kept[0][0]) > 1e-3
        captured.close()


@pytest.mark.parametrize("preset", ["deepseek-v3", "deepseek-v3.2"])
def test_a_step_and_a_restore_do_not_synchronise(preset, no_sync):
    torch.cuda.set_sync_debug_mode("default")
    config = make_config(preset, 4, 16, gvr=preset == "deepseek-v3.2")
    model = config.build(torch.bfloat16, "triton")
    cache, given = model.make_cache(batch=2, length=4096), torch.zeros(2, dtype=torch.int64)
    model(given, cache)  # kernels are compiled
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(2):
        model(given, cache)
        cache.restore()


@pytest.mark.parametrize("gvr", [False, True])
@pytest.mark.parametrize("preset", ["tiny-mla", "tiny-mla-indexer"])
def test_our_kernels_compute_what_torch_does(preset, gvr):
    plain = PRESETS[preset].build(torch.float32)
    ours = make_config(preset, None, 1, gvr).build(torch.float32, "triton")
    ours.load_state_dict(plain.state_dict())
    given = torch.randint(plain.config.vocabulary, (5,))
    outputs, sets = [], []
    for model in (plain, ours):
        torch.manual_seed(1)
        cache = model.make_cache(batch=5, length=300)
        outputs.append(model(given, cache))
        sets.append(None if selected(cache) is None else selected(cache).sort(dim=-1).values)
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-3)
    if sets[0] is not None:
        assert torch.equal(*sets)


@pytest.mark.parametrize("length", [4096, 16384, 70000])
def test_gvr_and_radix_select_the_same_tokens_step_after_step(length):
    config = make_config("deepseek-v3.2", 1, 16, gvr=True)  # one layer: the next one's scores depend on the order
    model = config.build(torch.bfloat16, "triton")
    cache = model.make_cache(batch=3, length=length)
    for given in torch.randint(config.vocabulary, (4, 3)):
        model(given, cache)  # each step's hint is what it overwrites
        found = selected(cache)[0].long()
        scores = cache.selection.scores
        assert all(len(row.unique()) == 2048 for row in found)
        best = scores.topk(2048, dim=-1).values.sort(dim=-1).values
        assert torch.equal(scores.gather(1, found).sort(dim=-1).values, best)
        radix = replace(cache.selection, selector="radix", **radix_scratch(3, scores.shape[1]))
        model(given, replace(cache, selection=radix))
        assert torch.equal(selected(cache)[0].sort(dim=-1).values.long(), found.sort(dim=-1).values)


def radix_scratch(batch, width):
    scratch = make_radix_scratch(batch, width, 2048)
    return {"candidates": scratch.candidates, "places": scratch.places}


def test_up_to_k_tokens_an_indexer_changes_nothing():
    config = make_config("deepseek-v3.2", 3, 16, gvr=True)
    sparse = config.build(torch.bfloat16, "triton")
    dense = replace(config, indexer=None, gvr=False).build(torch.bfloat16, "triton")
    dense.load_state_dict(sparse.state_dict(), strict=False)
    given, cache = torch.randint(config.vocabulary, (3,)), sparse.make_cache(batch=3, length=2000)
    own = dense.make_cache(batch=3, length=2000)
    own = replace(own, entries=cache.entries, pages=replace(own.pages, table=cache.pages.table))
    assert distance(sparse(given, cache), dense(given, own)) < 3e-2


def test_the_kernels_around_attention_round_to_bfloat16_once():
    batch, q_lora, heads, length = 5, 1536, 8, 700
    rotary = rotary_table(length, 64, 1e4, torch.device("cuda"))[-1]
    projected = torch.randn(batch, q_lora + 576, dtype=torch.bfloat16)
    norms = [torch.rand(size, dtype=torch.bfloat16) + 0.5 for size in (q_lora, 512)]
    table = torch.randperm(batch * 11).int().view(batch, 11)
    lengths = torch.tensor([700, 1, 64, 65, 0], dtype=torch.int32)
    cache = torch.randn(batch * 11, 64, 576, dtype=torch.bfloat16)
    query, wanted, plain = torch.empty(batch, q_lora, dtype=torch.bfloat16), torch.empty(batch, q_lora), cache.float()
    mla_prepare(projected, *norms, rotary, cache, table, lengths, query, 1e-6)
    live = lengths > 0
    given = projected.float()[live], *(norm.float() for norm in norms), rotary
    prepare_in_torch(*given, plain, table[live], lengths[live], wanted[live], 1e-6)
    torch.testing.assert_close(cache.float(), plain, rtol=8e-3, atol=1e-6)
    normed = torch.nn.functional.rms_norm(projected[:, :q_lora].float(), (q_lora,), norms[0].float(), 1e-6)
    torch.testing.assert_close(query.float(), normed, rtol=8e-3, atol=1e-6)

    x = torch.randn(batch, heads, 192, dtype=torch.bfloat16)
    turned, before = rotate(x[..., 128:].float(), rotary), x.clone()
    rotate_heads(x[..., 128:], rotary)
    torch.testing.assert_close(x[..., 128:].float(), turned, rtol=8e-3, atol=1e-6)
    assert torch.equal(x[..., :128], before[..., :128])

    keys, key = torch.zeros(batch, length, 128, dtype=torch.bfloat16), torch.randn(batch, 128, dtype=torch.bfloat16)
    scale, shift = torch.rand(128, dtype=torch.bfloat16), torch.randn(128, dtype=torch.bfloat16)
    queries = torch.randn(batch, 65, 128, dtype=torch.bfloat16)[:, 1:]
    turned = rotate(queries.float(), rotary)
    indexer_inputs(key, scale, shift, rotary, queries, keys, lengths, 1e-6)
    torch.testing.assert_close(queries.float(), turned, rtol=8e-3, atol=1e-6)
    normed = torch.nn.functional.layer_norm(key.float(), (128,), scale.float(), shift.float(), 1e-6)
    want = rotate(normed[:, None], rotary)[:, 0]
    for b, count in enumerate(lengths.tolist()):
        assert not keys[b, : max(count - 1, 0)].any()
        if count:
            torch.testing.assert_close(keys[b, count - 1].float(), want[b], rtol=8e-3, atol=2e-2)


@pytest.mark.parametrize(("length", "k"), [(16384, 2048), (300, 256), (100, 100)])
def test_selected_entries_are_copied_bit_for_bit(length, k):
    batch, pages, room = 3, -(-length // 64), -(-k // 64)
    cache = torch.randn(batch * pages, 64, 576, dtype=torch.bfloat16)
    table = torch.randperm(batch * pages).int().view(batch, pages)
    lengths = torch.full((batch,), length, dtype=torch.int32)
    indices = torch.rand(batch, length).topk(k, dim=-1).indices.int()
    found, want = (torch.zeros(batch * room, 64, 576, dtype=torch.bfloat16) for _ in range(2))
    mla_gather(cache, table, lengths, indices, found)
    gather_in_torch(cache, table, lengths, indices, want)
    assert torch.equal(found, want)


# Inductor's own imports use what torch has since deprecated; and it advises TF32, which would spoil the comparison.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize(("preset", "attention"), [("tiny-mla", "torch"), ("tiny-mla-indexer", "triton")])
def test_a_compiled_step_equals_the_eager_one_and_leaves_the_same_cache(preset, attention):
    torch.compiler.reset()
    model = make_config(preset, None, 1, gvr=attention == "triton").build(torch.float32, attention)
    cache = model.make_cache(batch=4, length=96)
    tokens = torch.randint(1024, (3, 4))
    compiled = torch.compile(next_tokens, fullgraph=True, dynamic=False)
    eager = [next_tokens(model, cache, given)["logits"] for given in tokens]
    left = [entries.clone() for entries in cache.entries]
    cache.restore()
    for given, want in zip(tokens, eager, strict=True):
        torch.testing.assert_close(compiled(model, cache, given)["logits"], want, rtol=1e-3, atol=1e-3)
    for own, other in zip(cache.entries, left, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)
