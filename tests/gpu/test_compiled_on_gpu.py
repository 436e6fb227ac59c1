"""With our kernels, too, a step is compiled for ranges of batches and never for a length, and does what eager does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from gpubench.models.compiled import CompiledStep
from gpubench.models.variant import Variant
from gpubench.workloads.decode_step import next_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Inductor's own imports use what torch has deprecated
]

RANK: dict[str, Any] = {"parallel": "TEP", "ranks": 16}


def build(name: str, **variant: Any) -> Any:
    torch.compiler.reset()
    torch.manual_seed(0)
    with torch.device("cuda:0"):
        return Variant(name, **variant).config.build(torch.bfloat16, "triton")


def distance(step: CompiledStep, model: Any, batch: int, length: int) -> float:
    """How far a step's logits are from the model's own."""
    with torch.device("cuda:0"):
        cache, tokens = model.make_cache(batch, length), torch.randint(model.config.vocabulary, (batch,))
    wanted = next_tokens(model, cache, tokens)["logits"].double()
    cache.restore()
    step.expect(cache, tokens)
    found = step(cache, tokens)["logits"].double()
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(
    ("name", "variant", "ways"),
    [
        ("qwen3.5-35b-a3b", {"layers": 4}, 3),  # one sequence, few that go through the experts one by one, and more
        ("deepseek-v3", {"layers": 4, **RANK}, 2),
        ("deepseek-v3.2", {"layers": 4, **RANK}, 2),
    ],
)
def test_the_paretos_shapes_take_two_or_three_compilations(name, variant, ways):
    model = build(name, **variant)
    with torch.device("cuda:0"):
        step = CompiledStep(next_tokens, model, backend="eager")  # what is traced, not what is made of it
    before = counters["stats"]["unique_graphs"]
    for batch in (1, 4, 16, 64):
        for length in (1024, 8192, 32768):
            assert distance(step, model, batch, length) < 1e-2
    assert counters["stats"]["unique_graphs"] - before == ways
    step.close()


@pytest.mark.parametrize(
    ("name", "variant"), [("qwen3.5-35b-a3b", {"layers": 4}), ("deepseek-v3.2", {"layers": 4, **RANK})]
)
def test_a_step_of_real_widths_compiles_to_what_eager_computes_without_a_copy_of_its_cache(name, variant):
    model = build(name, **variant)
    with torch.device("cuda:0"):
        step = CompiledStep(next_tokens, model)
        cache, tokens = model.make_cache(16, 16384), torch.randint(model.config.vocabulary, (16,))
    step.expect(cache, tokens)
    step(cache, tokens)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step(cache, tokens)
    smallest_cache = 16 * 16384 * 512 * 2
    assert torch.cuda.max_memory_allocated() - held < smallest_cache
    del cache
    assert distance(step, model, 16, 1024) < 5e-2
    step.close()
