"""The kernels of a decode step's few rows where they belong: real sizes, every dtype, without a sync."""

from __future__ import annotations

import pytest
import torch
from kernels.few_rows_on_interpreter import (
    Attention,
    Experts,
    Heads,
    Layer,
    attention_error,
    experts_error,
    heads_error,
    layer_error,
    route_both,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


@DTYPES
@pytest.mark.parametrize("lengths", [(1,), (0, 8192, 4097), (128,) * 70, (32768, 1)])
def test_attention_over_long_caches(lengths, dtype):
    case = Attention(lengths, dtype, kv_heads=2, group=8, dim=256)
    assert attention_error(case) < TOLERANCE[dtype]
    assert attention_error(Attention(lengths, dtype, kv_heads=1, group=16, dim=128, splits=5)) < TOLERANCE[dtype]


@DTYPES
def test_heads_of_real_models(dtype):
    case = Heads((5, 0, 7), dtype, heads=16, kv_heads=2, between=16, dim=256, half=32)
    assert heads_error(case) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("before", ["nothing", "norm", "gated_norm", "sigmoid_gate", "silu_gate"])
def test_layers_of_real_models(before, rows, dtype):
    for inputs, outputs in ((2048, 12352), (4096, 2048), (7168, 1281)):
        case = Layer(before, rows, inputs, outputs, group=128, dtype=dtype, has_residual=rows > 1)
        assert layer_error(case) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_experts_of_real_models(rows, dtype):
    sizes = {"top_k": 8, "hidden": 2048, "inner": 512, "shared": 512}
    for experts, held in ((64, 64), (64, 20)):
        assert experts_error(Experts(rows, experts, held, dtype=dtype, **sizes)) < TOLERANCE[dtype]


@DTYPES
@pytest.mark.parametrize("rows", [1, 16, 200])
@pytest.mark.parametrize("all_same", [False, True])
def test_many_tokens_experts(rows, dtype, all_same):
    sizes = {"top_k": 8, "hidden": 2048, "inner": 512, "all_same": all_same, "is_grouped": True}
    tolerance = {**TOLERANCE, torch.float32: 1e-4}[dtype]  # summed in another order
    for experts, held in ((64, 64), (64, 20)):
        assert experts_error(Experts(rows, experts, held, dtype=dtype, **sizes)) < tolerance


@pytest.mark.parametrize(
    ("experts", "options"),
    [
        (256, {"top_k": 8}),
        (512, {"top_k": 10}),
        (256, {"top_k": 8, "scoring": "sigmoid", "groups": 8, "top_groups": 4, "scale": 2.5}),
        (128, {"top_k": 4, "scoring": "sigmoid"}),
    ],
)
def test_routers_of_real_models_ties_included(experts, options):
    logits = (8 * torch.randn(64, experts)).round() / 8
    (found, shares), (wanted, wanted_shares) = route_both(logits, torch.randn(experts), options, torch.float32)
    assert found == wanted
    torch.testing.assert_close(torch.tensor(shares), torch.tensor(wanted_shares), rtol=1e-5, atol=1e-6)
