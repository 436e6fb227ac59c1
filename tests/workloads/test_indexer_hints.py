"""What an indexer's top-k starts from, in a cache of random values."""

from __future__ import annotations

import pytest
import torch

from gpubench.models.presets import PRESETS
from gpubench.workloads.correlated_scores import FITS, LIKE, overlap
from gpubench.workloads.indexer_hints import hint_selections


def make(length):
    torch.manual_seed(0)
    model = PRESETS["tiny-mla-indexer"].build(torch.float32)
    return model, model.make_cache(3, length), torch.tensor([5, 6, 7])


def test_a_first_step_finds_as_much_of_its_selection_in_the_hint_as_captured_steps_do():
    model, cache, tokens = make(length=512)
    at_random = cache.selection.start.clone()
    hint_selections(model, cache, tokens)
    assert torch.equal(cache.selection.selected, cache.selection.start)
    model(tokens, cache)
    hits = [overlap(*pair, 512).mean() for pair in zip(cache.selection.start, cache.selection.selected, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(FITS[LIKE].hit_rate, abs=0.06)  # of 16 a whole number is hit
    assert overlap(at_random[0], cache.selection.selected[0], 512).mean() < 0.2


def test_it_leaves_the_step_as_it_was():
    model, cache, tokens = make(length=512)
    before = model(tokens, cache).clone()
    cache.restore()
    hint_selections(model, cache, tokens)
    assert torch.equal(model(tokens, cache), before)
    assert not any(layer._forward_hooks for layer in model.layers)


def test_where_chance_hits_as_often_hints_stay_at_random():
    model, cache, tokens = make(length=24)
    start = cache.selection.start.clone()
    hint_selections(model, cache, tokens)
    assert torch.equal(cache.selection.start, start)
