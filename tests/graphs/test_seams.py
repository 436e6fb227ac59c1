"""Where models let themselves be cut: plain functions, and while somebody cuts, operators that tell the truth."""

from __future__ import annotations

import pytest
import torch

from gpubench.graphs.piecewise.operators import Operator
from gpubench.graphs.piecewise.split import split
from gpubench.graphs.piecewise.trace import trace_step
from gpubench.kernels.ops import cut_at_seams
from gpubench.models.attention import cached_attention
from gpubench.models.gated_delta import make_cache
from gpubench.models.presets import PRESETS
from gpubench.workloads.decode_step import next_tokens


def names(model):
    config = PRESETS[model]
    built = config.build(torch.float32)
    tokens = torch.zeros(4, dtype=torch.int64)
    traced = trace_step(
        lambda tokens, cache: next_tokens(built, cache, tokens), [tokens], built.make_cache(4, 16), num_tokens=4
    )
    return [part.name for part in split(traced).parts if isinstance(part, Operator)]


def test_models_of_torchs_operators_are_cut_at_attention_and_recurrence():
    assert names("tiny-dense") == ["cached_attention 0", "cached_attention 1"]
    assert names("tiny-hybrid") == [*(f"gated_delta_step_in_torch {n}" for n in range(3)), "cached_attention 0"]


def test_a_seam_is_an_operator_while_somebody_cuts_and_the_function_otherwise():
    def operators_in(run):
        graph = torch.fx.experimental.proxy_tensor.make_fx(run)(torch.randn(2, 2, 8), torch.randn(2, 2, 4, 8))
        return [str(node.target) for node in graph.graph.nodes if "gpubench" in str(node.target)]

    def run(query, keys):
        return cached_attention(query, query, query, keys, keys.clone())

    assert operators_in(run) == []
    with cut_at_seams():
        assert operators_in(run) == ["gpubench.cached_attention.default"]


@pytest.mark.parametrize("rows", [3, 5])
def test_seams_declare_what_they_write_and_their_fakes_have_their_shapes(rows):
    query, key, keys = torch.randn(rows, 4, 8), torch.randn(rows, 2, 8), torch.randn(5, 2, 16, 8)
    torch.library.opcheck(
        torch.ops.gpubench.cached_attention.default, (query, key, key.clone(), keys, torch.randn_like(keys))
    )
    shape = PRESETS["tiny-hybrid"].delta
    cache = make_cache(shape, rows, torch.empty(0))
    mixed, rates = torch.randn(rows, shape.channels), torch.randn(rows, shape.value_heads)
    torch.library.opcheck(
        torch.ops.gpubench.gated_delta_step_in_torch.default,
        (
            mixed,
            cache.conv,
            torch.randn(shape.channels, shape.conv),
            torch.full((rows,), 7, dtype=torch.int32),
            rates,
            rates.clone(),
            torch.rand(shape.value_heads),
            torch.rand(shape.value_heads),
            cache.state,
            torch.empty(rows, shape.value_heads, shape.v),
        ),
    )
