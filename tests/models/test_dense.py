"""The dense decoder against a second writing of it: whole sequences at once, in fp64, with a causal mask."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from models.whole_sequences import forward_whole

from gpubench.errors import ArgumentError
from gpubench.models.attention import cached_attention
from gpubench.models.presets import PRESETS, Preset, find_preset

TINY = PRESETS["tiny-dense"]


def test_decoding_token_by_token_equals_the_whole_sequence_at_once():
    torch.manual_seed(0)
    model = TINY.build(torch.float32)
    tokens = torch.randint(TINY.vocabulary, (3, 9))
    cache = model.make_cache(batch=3, length=9)
    decoded = [model(tokens[:, position], cache.prefix(position + 1)) for position in range(9)]
    for own, given in zip(torch.stack(decoded, dim=1).double(), tokens, strict=True):
        torch.testing.assert_close(own, forward_whole(model, given), rtol=1e-4, atol=1e-4)


def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch():
    torch.manual_seed(0)
    model = TINY.build(torch.float32)
    tokens = torch.randint(TINY.vocabulary, (4,))
    cache = model.make_cache(batch=4, length=12)
    alone = replace(cache, keys=[k[2:3].clone() for k in cache.keys], values=[v[2:3].clone() for v in cache.values])
    torch.testing.assert_close(model(tokens, cache)[2:3], model(tokens[2:3], alone), rtol=1e-4, atol=1e-4)


def test_attention_declares_what_it_writes_and_its_fake_has_its_shape():
    query, key, keys = torch.randn(3, 4, 8), torch.randn(3, 2, 8), torch.randn(5, 2, 16, 8)
    arguments = (query, key, torch.randn_like(key), keys, torch.randn_like(keys))
    torch.library.opcheck(torch.ops.gpubench.cached_attention.default, arguments)


def test_attention_of_fewer_tokens_than_sequences_is_that_of_the_first_ones():
    query, key, keys = torch.randn(3, 4, 8), torch.randn(3, 2, 8), torch.randn(5, 2, 16, 8)
    whole, first = keys.clone(), keys[:3].clone()
    found = cached_attention(query, key, key, whole, whole.clone())
    assert torch.equal(found, cached_attention(query, key, key, first, first.clone()))
    assert torch.equal(whole, torch.cat((first, keys[3:])))


def test_activations_keep_their_scale_whatever_the_depth():
    torch.manual_seed(0)
    deep = replace(TINY, layers=24).build(torch.float32)
    logits = deep(torch.randint(TINY.vocabulary, (8,)), deep.make_cache(batch=8, length=4))
    assert 0.5 < logits.std() < 2


def test_sizes_foretold_are_the_sizes_built():
    model = TINY.build(torch.float16)
    cache = model.make_cache(batch=3, length=5)
    assert sum(weight.nbytes for weight in model.parameters()) == TINY.weight_bytes(itemsize=2)
    assert sum(part.nbytes for part in (*cache.keys, *cache.values)) == TINY.cache_bytes(batch=3, length=5, itemsize=2)


def test_flop_foretold_are_those_that_torch_counts():
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = TINY.build(torch.float32)
    cache, tokens = model.make_cache(batch=3, length=5), torch.zeros(3, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it can't count the CPU's fused one
        model(tokens, cache)
    assert TINY.step_flop(batch=3, length=5) == counter.get_total_flops()


def test_a_step_reads_the_weights_and_the_cache_once_and_only_its_own_embeddings():
    rows_not_read = (TINY.vocabulary - 3) * TINY.hidden
    numbers = TINY.parameters - rows_not_read
    numbers += TINY.cache_bytes(3, 5, 1) + TINY.cache_bytes(3, 1, 1) + 3 * TINY.vocabulary
    assert TINY.step_bytes(batch=3, length=5, itemsize=2) == 2 * numbers


def test_llamas_shape_has_llamas_number_of_parameters():
    assert PRESETS["llama-3.1-8b"].parameters == 8_030_261_248


def test_a_model_can_be_cut_to_its_first_layers():
    cut = find_preset("llama-3.1-8b", layers=4)
    assert (cut.layers, cut.hidden) == (4, 4096)
    with pytest.raises(ArgumentError, match=r"llama-3\.1-8b has 32 layers"):
        find_preset("llama-3.1-8b", layers=33)


def test_every_preset_is_a_choice_and_every_choice_a_preset():
    assert set(get_args(Preset)) == set(PRESETS)
