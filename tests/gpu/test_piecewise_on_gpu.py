"""Steps captured in pieces as CUDA graphs: equal to eager ones, within the memory that was promised, never stale."""

from __future__ import annotations

import copy
import gc
import random
from dataclasses import replace

import pytest
import torch
from decoding import find_tiny, remembered, vary_weights

from gpubench.errors import StaleGraphError
from gpubench.graphs.piecewise.cuda import CudaGraphs
from gpubench.graphs.piecewise.split import Piece
from gpubench.graphs.piecewise.step import Options, PiecewiseStep
from gpubench.graphs.piecewise.traces import Traces
from gpubench.graphs.places import state_tensors
from gpubench.models.presets import find_preset
from gpubench.workloads.decode_step import next_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

EIGHT = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS = 256


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield
    gc.collect()
    torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def dense():
    """A tiny dense model's step, whose traces all ways of cutting it share."""
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        return traces_of(find_preset("tiny-dense").build(torch.float32))


def traces_of(model):
    traces = Traces(lambda tokens, cache: next_tokens(model, cache, tokens))
    traces.model = model
    return traces


def distance(out, ref):
    return ((out.double() - ref.double()).norm() / ref.double().norm()).item()


def first(cache, count):
    """The cache of the first sequences."""
    return replace(cache, keys=[k[:count] for k in cache.keys], values=[v[:count] for v in cache.values])


def in_pieces(traces, cache, **options):
    """A dense model's step in pieces, and what its buckets cost; its operators take fewer tokens than the cache has."""

    def arguments(bucket):
        return torch.randint(1024, (min(bucket, len(cache.keys[0])),)), cache

    options = Options(options.pop("buckets", EIGHT), **options)
    pieces = PiecewiseStep(traces, options, CudaGraphs(), head=traces.model.head)
    pieces.warm_up(arguments)
    return pieces, pieces.capture(arguments)


EVERY_WAY = [
    {"out_buffers": out_buffers, "pool": pool, "head": head}
    for out_buffers in ("owned", "per_call")
    for pool in ("shared", "private")
    for head in ("inside", "outside")
]


@pytest.mark.parametrize("options", EVERY_WAY, ids=lambda options: "-".join(options.values()))
def test_pieces_equal_eager_steps_in_every_way_of_capturing_them(dense, options):
    cache = dense.model.make_cache(128, 64)
    pieces, _ = in_pieces(dense, cache, **options)
    twin = copy.deepcopy(cache)
    for count in (128, 1, 3, 100, 64, 2, 7):
        tokens = torch.randint(1024, (count,))
        want = next_tokens(dense.model, first(twin, count), tokens)
        torch.testing.assert_close(pieces(tokens, cache), want, rtol=1e-4, atol=1e-4)


def test_over_256_steps_a_dense_models_batches_change_its_cache_grows_and_moves_and_the_graphs_follow(dense):
    chosen, batch, model = random.Random(0), 8, dense.model
    cache, pieces = model.make_cache(batch, 16), None
    for length in (16, 32, 64, 128):
        if pieces is not None:
            larger = model.make_cache(batch, length)
            for new, old in zip((*larger.keys, *larger.values), (*cache.keys, *cache.values), strict=True):
                new[:, :, : cache.length] = old
            cache = larger
            with pytest.raises(StaleGraphError, match=r"were captured when \S+ was at 0x"):
                pieces(torch.randint(1024, (batch,)), cache)
            pieces.reset()
        before = copy.deepcopy(cache)
        pieces, _ = in_pieces(dense, cache, buckets=(2, 4, 8))
        for new, old in zip((*cache.keys, *cache.values), (*before.keys, *before.values), strict=True):
            new.copy_(old)
        for _ in range(STEPS // 4):
            tokens = torch.randint(1024, (chosen.randint(1, batch),))
            want = next_tokens(model, first(before, len(tokens)), tokens)
            torch.testing.assert_close(pieces(tokens, cache), want, rtol=1e-3, atol=1e-3)
        for own, other in zip((*cache.keys, *cache.values), (*before.keys, *before.values), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)


ROWS = {4: 3, 32: 20}
"""Of each bucket's steps."""


def lasting(cache):
    """What a cache remembers, without what its kernels work in."""
    work = [value for path, value in state_tensors(cache) if path.steps[-1][1] in {"scratch", "partial", "sums"}]
    return [value for value in remembered(cache) if not any(value is other for other in work)]


@pytest.mark.parametrize("name", ["tiny-hybrid", "tiny-mla-indexer", "tiny-sparse"])
def test_over_256_steps_of_our_kernels_states_advance_beside_poison_and_caches_move(name):
    model = find_tiny(name).build(torch.float32, "triton")
    vary_weights(model)
    model.embedding[0] = torch.nan  # the token of padding
    pieces = PiecewiseStep(traces_of(model), Options(tuple(ROWS)), CudaGraphs())
    chosen = random.Random(0)
    for length in (48, 96):
        caches = {bucket: model.make_cache(rows, length) for bucket, rows in ROWS.items()}

        def arguments(bucket, caches=caches):
            return torch.ones(ROWS[bucket], dtype=torch.int64), caches[bucket]

        if pieces.buckets:
            with pytest.raises(StaleGraphError, match=r"were captured when \S+ was at 0x"):
                pieces(*arguments(4))
        pieces.reset()
        pieces.warm_up(arguments)
        pieces.capture(arguments)
        for cache in caches.values():
            cache.restore()
        twins = copy.deepcopy(caches)
        found, wanted = [], []
        for _ in range(STEPS // 2):
            bucket = chosen.choice(list(ROWS))
            tokens = torch.randint(1, 1024, (ROWS[bucket],))
            found.append(pieces(tokens, caches[bucket])["logits"].clone())
            wanted.append(next_tokens(model, twins[bucket], tokens)["logits"])
        assert distance(torch.cat(found), torch.cat(wanted)) < 1e-3
        for bucket, cache in caches.items():
            for own, other in zip(lasting(cache), lasting(twins[bucket]), strict=True):
                torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("attention", "streams"), [("triton", 1), ("torch", 2)])
def test_wide_layers_compute_the_same_and_shared_experts_do_on_a_second_stream(attention, streams):
    model = find_preset("qwen3.5-35b-a3b", 4).build(torch.bfloat16, attention)
    shared = [value for name, value in model.named_parameters() if "shared" in name]
    cache, tokens = model.make_cache(24, 64), torch.randint(1024, (24,))
    pieces = PiecewiseStep(traces_of(model), Options((32,), streams=streams), CudaGraphs(), beside=shared)
    pieces.warm_up(lambda bucket: (tokens, cache))
    pieces.capture(lambda bucket: (tokens, cache))
    parts = [part for part in pieces._plans[0].parts if isinstance(part, Piece)]
    assert sum(hasattr(part.module, "fork") for part in parts) == (4 if streams == 2 else 0)
    cache.restore()
    wanted = [next_tokens(model, cache, tokens)["logits"] for _ in range(3)]
    cache.restore()
    for want in wanted:
        assert distance(pieces(tokens, cache)["logits"], want) < 0.1


def test_eight_buckets_share_hardly_more_memory_than_the_largest_alone_and_owned_buffers_need_the_least():
    model = find_preset("llama-3.1-8b", 4).build(torch.bfloat16)
    traces, cache = traces_of(model), model.make_cache(128, 128)

    def taken(part, **options):
        pieces, costs = in_pieces(traces, cache, **options)
        pieces.reset()
        return sum(getattr(cost, part) for cost in costs)

    alone, shared = taken("pool", buckets=(128,)), taken("pool")
    assert shared <= 1.2 * alone
    assert taken("pool", pool="private") > shared
    assert taken("reserved") < taken("reserved", out_buffers="per_call")


def test_a_steps_outputs_keep_the_graphs_memory_while_somebody_has_them(dense):
    cache = dense.model.make_cache(8, 64)
    pieces, _ = in_pieces(dense, cache, buckets=(8,))
    found = pieces(torch.randint(1024, (8,)), cache)
    want = found["logits"].clone()
    del pieces
    gc.collect()
    torch.cuda.empty_cache()
    torch.full((1 << 22,), float("nan"))
    assert torch.equal(found["logits"], want)
