"""The block-sparse decoder against a second writing of it: whole sequences at once, in fp64, with a mask."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from decoding import run, vary_weights

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.attention import KeyValueCache
from gpubench.models.layers import activate
from gpubench.models.moe import route
from gpubench.models.presets import PRESETS, find_preset
from gpubench.models.sparse_attention import SparseAttention
from gpubench.tensors import find_tensors

TINY = PRESETS["tiny-sparse"]
SHAPE = TINY.sparse
WINDOW = SHAPE.block * SHAPE.blocks
"""The longest sequence that attends to all of itself."""


def make_tiny(batch, length, **changes):
    torch.manual_seed(0)
    model = replace(TINY, **changes).build(torch.float32)
    vary_weights(model)
    return model, model.make_cache(batch, length), torch.randint(TINY.vocabulary, (batch,))


def decode(model, given):
    """Logits [batch, steps, vocabulary] of sequences read token by token."""
    cache = model.make_cache(*given.shape)
    steps = [model(given[:, step].contiguous(), cache.prefix(step + 1)) for step in range(given.shape[1])]
    return torch.stack(steps, dim=1)


def norm(x, scale):
    return x / (x.square().mean(-1, keepdim=True) + TINY.norm_eps).sqrt() * scale.double()


def turn(heads):
    """heads [batch, heads, length, dim], each position rotated by its own angles, as complex numbers."""
    half = TINY.rotary_dims // 2
    angles = torch.outer(
        torch.arange(heads.shape[2], dtype=torch.float64),
        TINY.rotary_base ** (-torch.arange(half, dtype=torch.float64) / half),
    )
    first, second, rest = heads.split([half, half, heads.shape[-1] - 2 * half], dim=-1)
    turned = torch.complex(first.contiguous(), second.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, rest), dim=-1)


def see(index_query, index_key):
    """Which tokens every position sees, [batch, kv_heads, length, length], block by block in plain Python."""
    batch, heads, length, _ = index_query.shape
    scores = index_query @ index_key.mT
    seen = torch.zeros(batch, heads, length, length, dtype=torch.bool)
    for row in range(batch):
        for head in range(heads):
            for position in range(length):
                own = position // SHAPE.block
                best = [
                    scores[
                        row, head, position, SHAPE.block * block : min(SHAPE.block * (block + 1), position + 1)
                    ].max()
                    for block in range(own)
                ]
                ranked = sorted(range(own), key=lambda block: -best[block])
                for block in [own, *ranked[: SHAPE.blocks - 1]]:
                    seen[row, head, position, SHAPE.block * block : SHAPE.block * (block + 1)] = True
    return seen & torch.ones(length, length, dtype=torch.bool).tril()


def attend_whole(mixing, x, is_sparse):
    """A layer's attention to whole sequences x [batch, length, hidden]."""
    batch, length = x.shape[:2]
    widths = [SHAPE.heads * SHAPE.dim] + 2 * [SHAPE.kv_heads * SHAPE.dim]
    widths += [SHAPE.index_heads * SHAPE.index_dim, SHAPE.index_dim] if is_sparse else []
    parts = (x @ mixing.projection.double().T).split(widths, dim=-1)
    dims = 3 * [SHAPE.dim] + 2 * [SHAPE.index_dim]
    parts = [part.view(batch, length, -1, dim).transpose(1, 2) for part, dim in zip(parts, dims, strict=False)]
    query, key = turn(norm(parts[0], mixing.query_norm)), turn(norm(parts[1], mixing.key_norm))
    seen = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, SHAPE.kv_heads, -1, -1)
    if is_sparse:
        seen = see(turn(norm(parts[3], mixing.index_query_norm)), turn(norm(parts[4], mixing.index_key_norm)))
    group = SHAPE.heads // SHAPE.kv_heads
    key, value, seen = (part.repeat_interleave(group, dim=1) for part in (key, parts[2], seen))
    weights = (query @ key.mT * SHAPE.dim**-0.5).masked_fill(~seen, float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2).reshape(batch, length, -1) @ mixing.out.double().T


def feed_whole(mlp, x, is_sparse):
    """A layer's experts or its MLP, for x [tokens, hidden], one expert after another."""

    def through(gate_up, down, x):
        gate, up = (x @ gate_up.double().T).chunk(2, dim=-1)
        gate, up = gate.clamp(max=7), up.clamp(-7, 7)
        return (up + 1) * gate / (1 + torch.exp(-1.702 * gate)) @ down.double().T

    if not is_sparse:
        return through(mlp.gate_up, mlp.down, x)
    scores = torch.sigmoid(x @ mlp.router.double().T)
    out = through(mlp.shared_gate_up, mlp.shared_down, x)
    for token in range(len(x)):
        chosen = (scores[token] + mlp.bias).argsort(descending=True)[: TINY.moe.top_k].tolist()
        for expert in chosen:
            share = TINY.moe.scale * scores[token, expert] / scores[token, chosen].sum()
            out[token] += share * through(mlp.gate_up[expert], mlp.down[expert], x[token])
    return out


def forward_whole(model, tokens):
    """Logits of every position of `tokens` [batch, length], without a cache."""
    x = model.embedding.double()[tokens]
    for index, layer in enumerate(model.layers):
        is_sparse = index >= TINY.dense_layers
        x = x + attend_whole(layer.mixing, norm(x, layer.mixing.norm), is_sparse)
        fed = feed_whole(layer.mlp, norm(x, layer.mlp_norm).flatten(0, 1), is_sparse)
        x = x + fed.view_as(x)
    return norm(x, model.norm) @ model.head.double().T


def test_decoding_token_by_token_equals_the_whole_sequence_at_once():
    model, _, _ = make_tiny(1, 1)
    given = torch.randint(TINY.vocabulary, (2, WINDOW + 2 * SHAPE.block + 3))
    torch.testing.assert_close(decode(model, given).double(), forward_whole(model, given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, SHAPE.block, SHAPE.block + 1, WINDOW - 1, WINDOW])
def test_a_sequence_of_no_more_blocks_than_are_chosen_attends_to_all_of_them(length):
    model, cache, given = make_tiny(3, length)
    torch.testing.assert_close(model(given, cache), attend_to_all(model, cache, given), rtol=1e-5, atol=1e-5)


def test_a_longer_sequence_does_not():
    model, cache, given = make_tiny(3, WINDOW + 1)
    assert (model(given, cache) - attend_to_all(model, cache, given)).norm() > 0.01


def attend_to_all(model, cache, given):
    """What a model with the same weights gives that chooses every block there is."""
    everything = replace(TINY, sparse=replace(SHAPE, blocks=1000)).build(torch.float32)
    everything.load_state_dict(model.state_dict())
    return everything(given, cache)


def test_the_block_of_the_new_token_is_seen_however_low_its_score():
    model, cache, given = make_tiny(2, 8 * SHAPE.block)
    layer = cache.layers[1]
    layer.index_keys[:, 0], layer.index_keys[:, 1] = 100.0, -100.0  # one of them suits every query
    layer.index_keys[cache.pages.last] = 0.0
    before = model(given, cache)
    layer.values[cache.pages.last, :, :-1] += 1.0
    assert (model(given, cache) - before).norm() > 0.01


def test_a_step_writes_the_last_position_alone_and_repeating_it_gives_the_same():
    model, cache, given = make_tiny(3, WINDOW + 21)
    before = [tensor.clone() for tensor in find_tensors(cache)]
    first = model(given, cache)
    written = 0
    for old, new in zip(before, find_tensors(cache), strict=True):
        written += int((old != new).sum())
    numbers = TINY.layers * 2 * SHAPE.kv_heads * SHAPE.dim + TINY.sparse_layers * SHAPE.index_dim
    assert written == 3 * numbers
    assert torch.equal(model(given, cache), first)
    slot = (WINDOW + 20) % SHAPE.block
    new = cache.layers[1].keys[cache.pages.last, :, slot]
    old = next(old for old, own in zip(before, find_tensors(cache), strict=True) if own is cache.layers[1].keys)
    assert not torch.isclose(new, old[cache.pages.last, :, slot]).all(dim=-1).any()


def test_what_lies_in_the_last_block_beyond_the_length_is_not_seen():
    model, cache, given = make_tiny(2, WINDOW + 3)
    wanted = model(given, cache)
    for layer in cache.layers[1:]:
        for part in (layer.keys, layer.values):
            part[cache.pages.last, :, 3:] = 1e4
    assert torch.equal(model(given, cache), wanted)


def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch():
    model, cache, given = make_tiny(4, 3 * WINDOW)
    alone = model.make_cache(1, 3 * WINDOW)
    for own, all_ in zip(alone.layers, cache.layers, strict=True):
        count = 1 if isinstance(own, KeyValueCache) else alone.pages.table.shape[1]
        for name, part in vars(own).items():
            part.copy_(getattr(all_, name)[2 * count : 3 * count])
    torch.testing.assert_close(model(given, cache)[2:3], model(given[2:3], alone), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("length", [WINDOW, WINDOW + 5])
def test_a_step_traced_whole_equals_the_eager_one_and_leaves_the_same_cache(length):
    model, cache, given = make_tiny(3, length)
    torch.compiler.reset()
    traced = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    wanted = model(given, cache)
    left = [tensor.clone() for tensor in find_tensors(cache)]
    torch.testing.assert_close(traced(given, cache), wanted, rtol=1e-4, atol=1e-4)
    for own, other in zip(find_tensors(cache), left, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


def test_activations_keep_their_scale_whatever_the_depth():
    model, cache, given = make_tiny(8, 2 * WINDOW, layers=24)
    assert 0.5 < model(given, cache).std() < 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("share", [None, "TEP", "DEP"])
def test_sizes_foretold_are_the_sizes_built(dtype, share):
    config = TINY if share is None else TINY.rank_share(share, 2)
    model = config.build(dtype)
    cache = model.make_cache(batch=3, length=21)
    assert sum(weight.nbytes for weight in model.parameters()) == config.weight_bytes(dtype.itemsize)
    assert sum(weight.numel() for weight in model.parameters()) == config.parameters
    held = [tensor for layer in cache.layers for tensor in vars(layer).values()]
    held += [] if cache.others is None else [cache.others]
    assert sum(tensor.nbytes for tensor in held) == config.cache_bytes(3, 21, dtype.itemsize)


@pytest.mark.parametrize("length", [WINDOW, 3 * WINDOW])
def test_flop_foretold_are_those_that_torch_counts(length):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model, cache, given = make_tiny(3, length)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it can't count the CPU's fused one
        model(given, cache)
    assert TINY.step_flop(batch=3, length=length) == counter.get_total_flops()


@pytest.mark.parametrize(("length", "attended", "scored"), [(50, 50, 0), (64, 64, 0), (65, 49, 65), (80, 64, 80)])
def test_a_step_reads_what_it_needs_once(length, attended, scored):
    batch, size = 3, 2
    moe = TINY.moe
    weights = TINY.weight_bytes(size) - (TINY.vocabulary - batch) * TINY.hidden * size
    weights -= round(2 * (moe.experts - moe.touched(batch)) * 3 * moe.intermediate * TINY.hidden) * size
    token = 2 * SHAPE.kv_heads * SHAPE.dim
    dense = (length + 1) * token
    sparse = 2 * ((attended + 1) * token + (scored + 1) * SHAPE.index_dim)
    assert TINY.step_bytes(batch, length, size) == weights + batch * (dense + sparse + TINY.vocabulary) * size


def test_minimax_m3_reads_what_the_layer_is_known_to_read_and_has_as_many_parameters():
    config = PRESETS["minimax-m3"]
    attention = 6144 * (64 + 2 * 4) * 128 + 64 * 128 * 6144 + 2 * 128
    index = 6144 * (4 + 1) * 128 + 2 * 128
    expert = 3 * 6144 * 3072
    moe = 128 * expert + expert + 128 * 6144 + 128
    layers = 60 * (attention + 2 * 6144) + 57 * (index + moe) + 3 * 3 * 6144 * 12288
    assert config.parameters == layers + 2 * 200064 * 6144 + 6144
    assert config.parameters / 1e9 == pytest.approx(426.2, abs=0.05)
    one_more = replace(config, layers=5).step_bytes(1, 131072, 2) - replace(config, layers=4).step_bytes(1, 131072, 2)
    weights = 2 * (attention + 2 * 6144 + index + 5 * expert + 128 * 6144) + 4 * 128
    written = 2 * (2 * 4 * 128 + 128)
    assert one_more - weights - written == 37_748_736  # 4.19 MB of chosen blocks and 256 bytes a token of index keys
    assert (find_preset("minimax-m3", 4).sparse_layers, find_preset("minimax-m3", 2).sparse_layers) == (1, 0)


def test_ranks_attention_adds_up_to_the_whole_and_each_has_its_part_of_the_cache():
    model, cache, _ = make_tiny(3, 2 * WINDOW)
    whole, own = model.layers[1].mixing, cache.layers[1]
    share = TINY.rank_share("TEP", 2).sparse
    x = torch.randn(3, TINY.hidden)
    rotary = cache.rotary
    total = torch.zeros_like(x)
    for rank in range(2):
        part = SparseAttention(share, TINY.hidden, TINY.norm_eps, torch.float32, "torch", True)
        part.load_state_dict(whole.state_dict() | slice_weights(whole, share, rank))
        heads = slice(rank * share.kv_heads, (rank + 1) * share.kv_heads)
        part_cache = replace(own, **{name: getattr(own, name)[:, heads].clone() for name in ("keys", "values")})
        total += part(x, part_cache, cache.pages, rotary) - x
    torch.testing.assert_close(x + total, whole(x, own, cache.pages, rotary), rtol=1e-4, atol=1e-4)


def slice_weights(whole, share, rank):
    """The rows and columns of a layer's projections that belong to one of two ranks."""
    heads, kv, index = share.heads * share.dim, share.kv_heads * share.dim, share.index_heads * share.index_dim
    *parts, index_key = whole.projection.split([2 * heads, 2 * kv, 2 * kv, 2 * index, share.index_dim])
    rows = [part.chunk(2)[rank] for part in parts]
    return {"projection": torch.cat((*rows, index_key)), "out": whole.out.chunk(2, dim=1)[rank]}


def test_more_ranks_than_kv_heads_have_copies_of_them():
    share = PRESETS["minimax-m3"].rank_share("TEP", 8)
    assert (share.sparse.heads, share.sparse.kv_heads, share.sparse.index_heads) == (8, 1, 1)
    assert (share.moe.held, share.vocabulary, share.dense_intermediate) == (16, 25008, 1536)
    assert share.weight_bytes(2) < 141e9


@pytest.mark.parametrize(("parallel", "what"), [("TEP", "128 experts"), ("DEP", "128 experts")])
def test_ranks_that_do_not_divide_are_refused_with_the_numbers(parallel, what):
    with pytest.raises(ArgumentError, match=f"ranks: 3 don't divide {what}"):
        PRESETS["minimax-m3"].rank_share(parallel, 3)


def test_under_dep_the_experts_see_the_rows_of_all_ranks_and_those_that_are_not_held_add_nothing():
    share = TINY.rank_share("DEP", 4)
    torch.manual_seed(0)
    model = share.build(torch.float32)
    cache = model.make_cache(batch=3, length=5)
    assert cache.others.shape == (9, TINY.hidden)
    moe, x = model.layers[1].mlp, torch.randn(3, TINY.hidden)
    chosen, shares = route(x @ moe.router.T, share.moe, moe.bias)
    wanted = activate(x @ moe.shared_gate_up.T, "swiglu_oai") @ moe.shared_down.T
    for row, slot in ((row, slot) for row in range(3) for slot in range(share.moe.top_k)):
        expert = int(chosen[row, slot])
        if expert < 4:
            inner = activate(x[row] @ moe.gate_up[expert].T, "swiglu_oai")
            wanted[row] += shares[row, slot] * (inner @ moe.down[expert].T)
    torch.testing.assert_close(moe(x, cache.others), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"kv_heads": 3}, "heads: 8"), ({"index_heads": 4}, "index_heads"), ({"index_dim": 8}, "rotary_dims")],
)
def test_shapes_that_cannot_be_are_refused(change, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        replace(TINY, sparse=replace(SHAPE, **change))


def test_an_implementation_that_cannot_be_had_is_unsupported():
    with pytest.raises(Unsupported, match="TRITON_INTERPRET=1"):
        TINY.build(torch.float32, "triton")
    with pytest.raises(Unsupported, match="attention: flashinfer"):
        TINY.build(torch.float32, "flashinfer")


def test_our_kernels_decode_the_same():
    # In a process of its own: Triton decides at import whether it interprets.
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def decode_with_both() -> None:
    """Steps by our kernels and by torch, with and without a choice to make: the same logits and the same caches."""
    for length in (SHAPE.block + 3, 2 * WINDOW + 5):
        plain, cache, given = make_tiny(2, length)
        ours = TINY.build(torch.float32, "triton")
        ours.load_state_dict(plain.state_dict())
        other = ours.make_cache(2, length)
        for own, theirs in zip(find_tensors(other.layers), find_tensors(cache.layers), strict=True):
            own.copy_(theirs)
        given = given[None]
        torch.testing.assert_close(run(ours, other, given), run(plain, cache, given), rtol=1e-4, atol=1e-4)
        for own, theirs in zip(find_tensors(other.layers), find_tensors(cache.layers), strict=True):
            torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    decode_with_both()
