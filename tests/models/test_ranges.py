"""The parts of a step that a profile tells apart: every family opens ranges for what it has, by the same names."""

from __future__ import annotations

import pytest
import torch

import gpubench.ranges
from gpubench.models.presets import find_preset
from gpubench.ranges import switch_ranges
from gpubench.workloads.decode_step import next_tokens

ENDS = {"embedding", "head", "sampling"}
PARTS = {
    "tiny-dense": {"attention", "mlp"},
    "tiny-hybrid": {"attention", "linear_attention", "moe"},
    "tiny-mla": {"attention", "mlp", "moe"},
    "tiny-mla-indexer": {"attention", "indexer", "topk", "mlp", "moe"},
    "tiny-sparse": {"attention", "indexer", "topk", "mlp", "moe"},
}


@pytest.mark.parametrize("name", PARTS)
def test_a_step_opens_a_range_for_each_of_its_parts(name):
    model = find_preset(name).build(torch.float32)
    cache, tokens = model.make_cache(2, 256), torch.zeros(2, dtype=torch.int64)
    switch_ranges(False)
    next_tokens(model, cache, tokens)
    assert set(gpubench.ranges._state.ranges) == ENDS | PARTS[name]
