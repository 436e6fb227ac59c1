"""Steps captured in pieces as CUDA graphs: equal to eager ones, within the memory that was promised, never stale."""

from __future__ import annotations

import copy
import gc
import random
from dataclasses import replace

import pytest
import torch

from gpubench.errors import StaleGraphError
from gpubench.graphs.piecewise.cuda import CudaGraphs
from gpubench.graphs.piecewise.split import Piece
from gpubench.graphs.piecewise.step import Options, PiecewiseStep
from gpubench.models.presets import find_preset
from gpubench.workloads.decode_step import next_tokens

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

EIGHT = (1, 2, 4, 8, 16, 32, 64, 128)


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield
    gc.collect()
    torch.cuda.empty_cache()


def distance(out, ref):
    return ((out.double() - ref.double()).norm() / ref.double().norm()).item()


def decoding(model, **options):
    """A model's step in pieces."""
    options = Options(options.pop("buckets", EIGHT), **options)
    return PiecewiseStep(
        lambda tokens, cache: next_tokens(model, cache, tokens), options, CudaGraphs(), head=model.head
    )


def arguments(model, batch, cache):
    """Of each bucket, those of a step with as many sequences, up to `batch`."""

    def of(bucket):
        tokens = torch.randint(model.config.vocabulary, (min(bucket, batch),))
        return tokens, cache if bucket >= batch else model.make_cache(bucket, cache.length)

    return of


def of_a_dense_cache(batch, cache):
    """The same, where operators take a cache of more sequences than there are tokens."""
    return lambda bucket: (torch.randint(1024, (min(bucket, batch),)), cache)


def first(cache, count):
    """The cache of the first sequences."""
    return replace(cache, keys=[k[:count] for k in cache.keys], values=[v[:count] for v in cache.values])


EVERY_WAY = [
    {"out_buffers": out_buffers, "pool": pool, "head": head}
    for out_buffers in ("owned", "per_call")
    for pool in ("shared", "private")
    for head in ("inside", "outside")
]


@pytest.mark.parametrize("options", EVERY_WAY, ids=lambda options: "-".join(options.values()))
def test_pieces_equal_eager_steps_in_every_way_of_capturing_them(options):
    model = find_preset("tiny-dense").build(torch.float32)
    cache = model.make_cache(128, 64)
    pieces = decoding(model, **options)
    pieces.warm_up(of_a_dense_cache(128, cache))
    pieces.capture(of_a_dense_cache(128, cache))
    twin = copy.deepcopy(cache)
    for count in (128, 1, 3, 100, 64, 2, 7):
        tokens = torch.randint(1024, (count,))
        want = next_tokens(model, first(twin, count), tokens)
        torch.testing.assert_close(pieces(tokens, cache), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("preset", "layers", "attention"),
    [
        ("llama-3.1-8b", 2, "torch"),
        ("tiny-hybrid", None, "torch"),
        ("tiny-hybrid", None, "triton"),
        ("qwen3.5-35b-a3b", 4, "triton"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_in_pieces_is_itself_while_states_advance(preset, layers, attention, dtype):
    model = find_preset(preset, layers).build(dtype, attention)
    for batch in (4, 24):
        cache = model.make_cache(batch, 128)
        pieces = decoding(model, buckets=(2, 4, 32))
        pieces.warm_up(arguments(model, batch, cache))
        pieces.capture(arguments(model, batch, cache))
        tokens = torch.randint(model.config.vocabulary, (batch,))
        cache.restore()
        eager = [next_tokens(model, cache, tokens)["logits"] for _ in range(4)]
        cache.restore()
        for want in eager:
            assert distance(pieces(tokens, cache)["logits"], want) < {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
        pieces.reset()


def test_over_256_steps_batches_change_the_cache_grows_and_moves_and_the_graphs_follow():
    chosen = random.Random(0)
    model, batch = find_preset("tiny-dense").build(torch.float32), 8
    cache = model.make_cache(batch, 16)
    pieces = decoding(model, buckets=(1, 2, 4, 8))
    for number in range(256):
        tokens = torch.randint(1024, (chosen.randint(1, batch),))
        if number % 64 == 0:
            if number:
                larger = model.make_cache(batch, 2 * cache.length)
                for new, old in zip((*larger.keys, *larger.values), (*cache.keys, *cache.values), strict=True):
                    new[:, :, : cache.length] = old
                cache = larger
                with pytest.raises(StaleGraphError, match=r"were captured when \S+ was at 0x"):
                    pieces(tokens, cache)
            pieces.reset()
            before = copy.deepcopy(cache)
            pieces.warm_up(of_a_dense_cache(batch, cache))
            pieces.capture(of_a_dense_cache(batch, cache))
            for new, old in zip((*cache.keys, *cache.values), (*before.keys, *before.values), strict=True):
                new.copy_(old)
        twin = copy.deepcopy(cache)
        torch.testing.assert_close(
            pieces(tokens, cache), next_tokens(model, first(twin, len(tokens)), tokens), rtol=1e-3, atol=1e-3
        )
        for own, other in zip((*cache.keys, *cache.values), (*twin.keys, *twin.values), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)


def test_shared_experts_on_a_second_stream_compute_the_same():
    model = find_preset("qwen3.5-35b-a3b", 4).build(torch.bfloat16)
    cache = model.make_cache(32, 64)
    shared = [value for name, value in model.named_parameters() if "shared" in name]
    step = lambda tokens, cache: next_tokens(model, cache, tokens)  # noqa: E731
    pieces = PiecewiseStep(step, Options((32,), streams=2), CudaGraphs(), beside=shared)
    pieces.warm_up(arguments(model, 32, cache))
    pieces.capture(arguments(model, 32, cache))
    plan = pieces._plans[0]
    forks = [part for part in plan.parts if isinstance(part, Piece) and hasattr(part.module, "fork")]
    assert len(forks) == 4
    tokens = torch.randint(1024, (32,))
    for _ in range(3):
        cache.restore()
        want = next_tokens(model, cache, tokens)["logits"]
        cache.restore()
        assert distance(pieces(tokens, cache)["logits"], want) < 0.05


def costs_of(model, cache, **options):
    pieces = decoding(model, **options)
    pieces.warm_up(of_a_dense_cache(128, cache))
    costs = pieces.capture(of_a_dense_cache(128, cache))
    pieces.reset()
    del pieces
    return costs


def test_eight_buckets_share_hardly_more_memory_than_the_largest_alone_and_owned_buffers_need_the_least():
    model = find_preset("llama-3.1-8b", 4).build(torch.bfloat16)
    cache = model.make_cache(128, 128)
    alone = costs_of(model, cache, buckets=(128,))[0].pool
    shared, private = (sum(cost.pool for cost in costs_of(model, cache, pool=pool)) for pool in ("shared", "private"))
    assert shared <= 1.2 * alone
    assert private > shared
    reserved = {
        out_buffers: sum(cost.reserved for cost in costs_of(model, cache, out_buffers=out_buffers))
        for out_buffers in ("owned", "per_call")
    }
    assert reserved["owned"] < reserved["per_call"]


def test_a_steps_outputs_keep_the_graphs_memory_while_somebody_has_them():
    model = find_preset("tiny-dense").build(torch.float32)
    cache = model.make_cache(8, 64)
    pieces = decoding(model, buckets=(8,))
    pieces.warm_up(of_a_dense_cache(8, cache))
    pieces.capture(of_a_dense_cache(8, cache))
    found = pieces(torch.randint(1024, (8,)), cache)
    want = found["logits"].clone()
    del pieces
    gc.collect()
    torch.cuda.empty_cache()
    torch.full((1 << 22,), float("nan"))
    assert torch.equal(found["logits"], want)
