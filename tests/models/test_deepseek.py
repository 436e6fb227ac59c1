"""Decoders with latent attention: against the formulas written out, and what is foretold against what is built."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import deepseek_reference as reference
import pytest
import torch

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.latent import PAGE
from gpubench.models.presets import PRESETS, find_preset

TINY, SPARSE = PRESETS["tiny-mla"], PRESETS["tiny-mla-indexer"]
BOTH = pytest.mark.parametrize("config", [TINY, SPARSE], ids=["mla", "indexer"])


def make(config, batch, length, attention="torch"):
    torch.manual_seed(0)
    model = config.build(torch.float32, attention)
    for name, parameter in model.named_parameters():  # norms that are all 1, and shifts 0, would hide a wrong one
        if "norm" in name or "shift" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, model.make_cache(batch, length), torch.randint(config.vocabulary, (batch,))


def memory(cache):
    return [*cache.entries, *(index.keys for index in cache.indexes)]


def decode(model, cache, given):
    """Logits of every step at growing positions of a cache."""
    steps = [model(tokens, cache.prefix(step + 1)) for step, tokens in enumerate(given.T.contiguous())]
    return torch.stack(steps, dim=1)


@BOTH
def test_every_logit_is_that_of_attention_with_keys_and_values_for_every_head(config):
    given = torch.randint(config.vocabulary, (2, 40), generator=torch.Generator().manual_seed(1))
    model, cache, _ = make(config, *given.shape)
    found = decode(model, cache, given).double()
    torch.testing.assert_close(found, reference.decode(model, given), rtol=1e-4, atol=1e-4)


@BOTH
def test_a_restored_cache_gives_the_same_again(config):
    model, cache, given = make(config, batch=3, length=100)
    others = given.flip(0)
    first = [model(tokens, cache) for tokens in (given, others)]
    cache.restore()
    again = [model(tokens, cache) for tokens in (given, others)]
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_the_last_selection_is_kept_and_a_restore_puts_it_back():
    model, cache, given = make(SPARSE, batch=3, length=100)
    start = cache.selection.selected.clone()
    model(given, cache)
    kept = cache.selection.selected.clone()
    assert start.shape == kept.shape == (SPARSE.layers, 3, SPARSE.indexer.k)
    for selection in (start, kept):
        assert all(len(set(row.tolist())) == SPARSE.indexer.k for row in selection.flatten(0, 1))
        assert ((selection >= 0) & (selection < 100)).all()
    assert not torch.equal(start.sort(-1).values, kept.sort(-1).values)
    cache.restore()
    assert torch.equal(cache.selection.selected, start)


@BOTH
def test_a_step_writes_the_last_position_alone(config):
    model, cache, given = make(config, batch=3, length=130)
    before = [tensor.clone() for tensor in memory(cache)]
    model(given, cache)
    is_last = torch.zeros(3 * 3, PAGE, dtype=torch.bool)
    is_last[cache.pages.table[:, 2].long(), 129 % PAGE] = True
    for old, new in zip(before[: config.layers], cache.entries, strict=True):
        assert torch.equal(old[~is_last], new[~is_last])
        assert not torch.isclose(old[is_last], new[is_last]).all(dim=-1).any()
    for old, index in zip(before[config.layers :], cache.indexes, strict=True):
        assert torch.equal(old[:, :-1], index.keys[:, :-1])
        assert not torch.isclose(old[:, -1], index.keys[:, -1]).all(dim=-1).any()


@BOTH
def test_a_sequence_is_decoded_alike_alone_and_among_others(config):
    model, cache, given = make(config, batch=3, length=70)
    alone = model.make_cache(1, 70)
    for own, other in zip(alone.entries, cache.entries, strict=True):
        own[alone.pages.table[0].long()] = other[cache.pages.table[1].long()]
    for own, index in zip(alone.indexes, cache.indexes, strict=True):
        own.keys.copy_(index.keys[1:2])
    torch.testing.assert_close(model(given, cache)[1:2], model(given[1:2], alone), rtol=1e-4, atol=1e-4)


def test_any_widths_will_do():
    index = replace(SPARSE.indexer, heads=7, dim=33)
    config = replace(SPARSE, layers=2, q_lora=61, mla=replace(SPARSE.mla, heads=3, nope=27, v=29), indexer=index)
    given = torch.randint(config.vocabulary, (2, 20), generator=torch.Generator().manual_seed(1))
    model, cache, _ = make(config, *given.shape)
    found = decode(model, cache, given).double()
    torch.testing.assert_close(found, reference.decode(model, given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 15, 16])
def test_up_to_k_tokens_an_indexer_changes_nothing(length):
    sparse, cache, given = make(SPARSE, batch=3, length=length)
    dense = TINY.build(torch.float32)
    dense.load_state_dict(sparse.state_dict(), strict=False)
    own = replace(dense.make_cache(3, length), entries=[tensor.clone() for tensor in cache.entries], pages=cache.pages)
    torch.testing.assert_close(sparse(given, cache), dense(given, own), rtol=1e-4, atol=1e-4)


def test_beyond_k_tokens_it_does():
    sparse, cache, given = make(SPARSE, batch=3, length=64)
    dense = TINY.build(torch.float32)
    dense.load_state_dict(sparse.state_dict(), strict=False)
    own = replace(dense.make_cache(3, 64), entries=[tensor.clone() for tensor in cache.entries], pages=cache.pages)
    seen, all_seen = sparse(given, cache), dense(given, own)
    assert (seen - all_seen).norm() > 0.05 * all_seen.norm()


# Inductor, which takes its time, compiles models in the workload's tests.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@BOTH
def test_a_step_traced_whole_equals_the_eager_one_and_leaves_the_same_cache(config):
    model, cache, given = make(config, batch=3, length=40)
    torch.compiler.reset()
    traced = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    wanted = [model(tokens, cache) for tokens in (given, given.flip(0))]
    left = [tensor.clone() for tensor in memory(cache)]
    cache.restore()
    for tokens, want in zip((given, given.flip(0)), wanted, strict=True):
        torch.testing.assert_close(traced(tokens, cache), want, rtol=1e-4, atol=1e-4)
    for own, other in zip(memory(cache), left, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@BOTH
def test_sizes_foretold_are_the_sizes_built(config, dtype):
    for own in (config, config.rank_share("TEP", 2), config.rank_share("DEP", 4), replace(config, layers=1)):
        model, size = own.build(dtype), dtype.itemsize
        cache = model.make_cache(3, 70)
        assert sum(weight.nbytes for weight in model.parameters()) == own.weight_bytes(size)
        assert sum(weight.numel() for weight in model.parameters()) == own.parameters
        lasting = sum(tensor.nbytes for tensor in memory(cache))
        if cache.selection is not None:
            lasting += 2 * cache.selection.selected.nbytes
        # Per layer, sequence and token: entries, whole pages of them, and index keys. Then the selections.
        entries = own.layers * 3 * 2 * PAGE * (64 + 16) * size
        index = own.layers * 3 * (70 * 32 * size + 2 * 16 * 4) if own.indexer else 0
        assert lasting == entries + index
        assert lasting < own.cache_bytes(3, 70, size)


def test_what_real_shapes_work_in_is_little_beside_their_caches():
    for preset in ("deepseek-v3", "deepseek-v3.2"):
        config = PRESETS[preset]
        for batch, length in ((1, 8192), (64, 32768)):
            entries = 61 * batch * length * (512 + 64 + (128 if config.indexer else 0)) * 2
            assert entries < config.cache_bytes(batch, length, 2) < 1.06 * entries


@pytest.mark.parametrize("ranks", [1, 2])
@BOTH
def test_flop_foretold_are_those_that_torch_counts(config, ranks):
    from torch.utils.flop_counter import FlopCounterMode

    config = replace(config, moe=replace(config.moe, experts=4, top_k=4, groups=1, top_groups=1))  # all are chosen
    config = config.rank_share("TEP", ranks) if ranks > 1 else config
    model, cache, given = make(config, batch=3, length=64)
    with FlopCounterMode(display=False) as counter:
        model(given, cache)
    # Experts of other ranks aren't computed, and torch's way gathers the own ones in their place.
    not_held = config.routed_layers * (config.moe.top_k - config.moe.chosen_here)
    elsewhere = 2 * 3 * not_held * config.moe.expert_parameters(config.hidden)
    # Attention's own pages round k, 16, up to 64 tokens.
    seen = 64 if config.indexer is None else 16
    padding = 2 * 3 * config.layers * config.mla.heads * (64 - seen) * (2 * 64 + 16)
    assert config.step_flop(batch=3, length=64) == counter.get_total_flops() - elsewhere - padding


@BOTH
def test_a_step_reads_what_it_needs_once(config):
    batch, length, size = 3, 50, 2
    weights = config.weight_bytes(size) - (config.vocabulary - batch) * config.hidden * size
    weights -= round(2 * (16 - config.moe.touched(batch)) * 3 * 64 * config.hidden) * size
    seen = length if config.indexer is None else 16
    tokens = batch * config.layers * (seen + 1) * (64 + 16) * size
    keys = 0 if config.indexer is None else batch * config.layers * (length + 1) * 32 * size
    assert config.step_bytes(batch, length, size) == weights + tokens + keys + batch * config.vocabulary * size


def test_real_shapes_have_the_published_numbers_of_parameters():
    v3, sparse = PRESETS["deepseek-v3"], PRESETS["deepseek-v3.2"]
    assert v3.parameters / 1e9 == pytest.approx(671.0, abs=0.1)
    embedding = v3.vocabulary * v3.hidden  # read, though not multiplied with
    assert (v3.step_flop(batch=1, length=0) / 2 + embedding) / 1e9 == pytest.approx(37.6, abs=0.1)
    indexer = 61 * (64 * 128 * 1536 + (128 + 64) * 7168 + 2 * 128)
    assert sparse.parameters - v3.parameters == indexer
    assert (v3.layers, v3.routed_layers, sparse.indexer.k) == (61, 58, 2048)
    assert find_preset("deepseek-v3", layers=2).is_routed is False


def test_one_rank_of_sixteen_fits_where_the_whole_does_not():
    whole = PRESETS["deepseek-v3"]
    share = whole.rank_share("TEP", 16)
    assert (share.mla.heads, share.moe.held_experts, share.layers) == (8, 16, 61)
    assert whole.weight_bytes(2) / 1e9 == pytest.approx(1342, abs=1)
    assert share.weight_bytes(2) / 1e9 == pytest.approx(85.8, abs=0.1)


def share_of(rank, ranks, whole, share):
    """Give `share`, a rank's layer, its part of the weights of `whole`; the rank's experts come first."""
    m, own = whole.attention.mla, slice(rank * share.attention.mla.heads, (rank + 1) * share.attention.mla.heads)
    given = dict(whole.state_dict())
    up = given["attention.query_up"].view(m.heads, m.nope + m.rope, -1)[own]
    given["attention.query_up"] = up.flatten(0, 1)
    given["attention.key_up"], given["attention.value_up"] = whole.attention.key_up[own], whole.attention.value_up[own]
    out = given["attention.out"].view(-1, m.heads, m.v)[:, own]
    given["attention.out"] = out.flatten(1)
    gated = "feed.shared_" if "feed.router" in given else "feed."
    given[gated + "gate_up"] = torch.cat([part.chunk(ranks)[rank] for part in given[gated + "gate_up"].chunk(2)])
    given[gated + "down"] = given[gated + "down"].chunk(ranks, dim=1)[rank]
    if "feed.router" in given:
        held = share.feed.shape.held_experts
        for name in ("router", "bias", "gate_up", "down"):
            rolled = given[f"feed.{name}"].roll(-rank * held, 0)
            given[f"feed.{name}"] = rolled if name in {"router", "bias"} else rolled[:held]
    share.load_state_dict(given)


@pytest.mark.parametrize("ranks", [2, 4])
@BOTH
def test_the_ranks_outputs_add_up_to_the_whole_layers(config, ranks):
    model, cache, _ = make(config, batch=3, length=40)
    part = config.rank_share("TEP", ranks).build(torch.float32)
    own = replace(part.make_cache(3, 40), entries=cache.entries, pages=cache.pages)
    if config.indexer:
        own = replace(own, indexes=cache.indexes, selection=cache.selection)
    x = torch.randn(3, config.hidden)
    for whole, share in zip(model.layers[:2], part.layers[:2], strict=True):  # a dense one, a routed one
        attended, fed = whole.attend(x, cache, cache.last) - x, whole.advance(x, cache) - x
        sums = [torch.zeros_like(attended), torch.zeros_like(fed)]
        for rank in range(ranks):
            share_of(rank, ranks, whole, share)
            sums[0] += share.attend(x, own, own.last) - x
            sums[1] += share.advance(x, own) - x
        torch.testing.assert_close(sums, [attended, fed], rtol=1e-4, atol=1e-4)


def test_under_dep_a_rank_has_all_heads_and_the_experts_see_the_rows_of_all():
    config = TINY.rank_share("DEP", 4)
    assert (config.mla, config.intermediate, config.vocabulary) == (TINY.mla, TINY.intermediate, TINY.vocabulary)
    model, cache, given = make(config, batch=2, length=20)
    assert cache.others.shape == (2 * 3, config.hidden)
    assert model(given, cache).shape == (2, config.vocabulary)


@pytest.mark.parametrize(("ranks", "what"), [(3, "4 attention heads"), (8, "4 attention heads")])
def test_ranks_that_do_not_divide_the_heads_are_refused_with_the_numbers(ranks, what):
    with pytest.raises(ArgumentError, match=f"{ranks} don't divide {what}"):
        SPARSE.rank_share("TEP", ranks)
    with pytest.raises(ArgumentError, match="3 don't divide 16 experts"):
        SPARSE.rank_share("DEP", 3)


def test_an_indexer_must_fit_the_rotary_part_and_is_not_compressed():
    for changes, message in (({"dim": 8}, "indexer.dim: 8"), ({"compress_ratio": 4}, "indexer.compress_ratio is 4")):
        with pytest.raises(ArgumentError, match=message):
            replace(SPARSE, indexer=replace(SPARSE.indexer, **changes))


def test_a_rotary_part_that_has_no_pairs_is_refused():
    with pytest.raises(ArgumentError, match=r"mla\.rope: 15 dimensions can't be rotated in pairs"):
        replace(TINY, mla=replace(TINY.mla, rope=15))


def test_what_cannot_be_had_here_is_unsupported():
    with pytest.raises(Unsupported, match="TRITON_INTERPRET=1"):
        TINY.build(torch.float32, "triton")
    with pytest.raises(Unsupported, match="attention: triton has gvr"):
        replace(SPARSE, gvr=True).build(torch.float32, "torch")
    if importlib.util.find_spec("flashinfer") is None:
        with pytest.raises(Unsupported, match="pip install flashinfer-python"):
            PRESETS["deepseek-v3"].build(torch.bfloat16, "flashinfer")


def test_our_kernels_decode_the_same_and_select_the_same():
    # In a process of its own: Triton decides at import whether it interprets.
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def decode_with_all() -> None:
    """Steps around k tokens, and some beyond, by torch and by our kernels: the same logits, caches and selections."""
    tokens = torch.randint(64, (4, 2), generator=torch.Generator().manual_seed(1))
    many_heads = replace(SPARSE, mla=replace(SPARSE.mla, heads=17))  # for which selected entries are gathered
    cases = (
        (TINY, False, 1, (70,)),
        (SPARSE, False, 1, (16, 70)),
        (SPARSE, True, 2, (7, 17, 66, 70)),
        (many_heads, True, 1, (70,)),
    )
    for config, gvr, layers, lengths in cases:
        small = replace(config, layers=layers, vocabulary=64)
        plain, cache, _ = make(small, 2, 70)
        ours = replace(small, gvr=gvr).build(torch.float32, "triton")
        ours.load_state_dict(plain.state_dict())
        own = ours.make_cache(2, 70)
        where, there = own.pages.table.long(), cache.pages.table.long()
        for mine, other in zip(own.entries, cache.entries, strict=True):
            mine[where] = other[there]
        for mine, other in zip(own.indexes, cache.indexes, strict=True):
            mine.keys.copy_(other.keys)
        for length, given in zip(lengths, tokens, strict=False):
            want, found = plain(given, cache.prefix(length)), ours(given, own.prefix(length))
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
            if config.indexer:
                sets = [side.selection.selected.sort(-1).values for side in (cache, own)]
                assert torch.equal(*sets), (gvr, length)
        for mine, other in zip(own.entries, cache.entries, strict=True):
            torch.testing.assert_close(mine[where], other[there], rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    decode_with_all()
