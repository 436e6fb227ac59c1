"""One compilation of a decode step serves all lengths and batches, and nothing ever runs eagerly instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from decoding import TINY
from torch._dynamo.utils import counters

from gpubench.models.compiled import CompiledStep
from gpubench.models.presets import find_preset
from gpubench.workloads.decode_step import next_tokens

SHAPES = [(2, 128), (5, 128), (3, 320), (16, 256)]


def make(name: str, layers: int = 2) -> tuple[CompiledStep, torch.nn.Module]:
    torch.compiler.reset()
    torch.manual_seed(0)
    model = find_preset(name, layers).build(torch.float32)
    return CompiledStep(next_tokens, model, backend="eager"), model  # what is traced, not what is made of it


def run(step: CompiledStep, model: torch.nn.Module, batch: int, length: int) -> None:
    """One step of that shape, which has to agree with the model's own."""
    cache, tokens = model.make_cache(batch, length), torch.randint(model.config.vocabulary, (batch,))
    wanted = next_tokens(model, cache, tokens)["logits"]
    cache.restore()
    step.expect(cache, tokens)
    torch.testing.assert_close(step(cache, tokens)["logits"], wanted)


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("name", TINY)
def test_a_step_is_compiled_once_for_a_batch_of_one_and_once_for_all_others(name):
    step, model = make(name)
    before = num_graphs()
    for batch, length in SHAPES:
        run(step, model, batch, length)
    assert num_graphs() == before + 1
    for length in (128, 320):
        run(step, model, 1, length)
    assert num_graphs() == before + 2
    step.close()


def test_the_paretos_models_are_compiled_for_one_row_for_more_and_where_few_are_another_way_for_few():
    program = Path(__file__).with_name("compiled_on_meta.py")
    variables = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, program], env=variables, capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["1 2 3 3 3", "1 2 2 2 2"], ran.stderr


def test_a_step_that_would_have_to_run_eagerly_is_an_error():
    def breaks(decoder, cache, tokens):
        torch._dynamo.graph_break()
        return next_tokens(decoder, cache, tokens)

    _, model = make("tiny-dense")
    step = CompiledStep(breaks, model, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        step(model.make_cache(2, 128), torch.zeros(2, dtype=torch.int64))


def test_one_compilation_more_than_dynamo_allows_is_an_error():
    step, model = make("tiny-dense")
    with torch._dynamo.config.patch(recompile_limit=1):
        run(step, model, 2, 128)
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            run(step, model, 1, 128)


def test_what_is_dropped_is_compiled_anew_and_does_not_count_against_the_limit():
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(3):
            step, model = make("tiny-dense", layers=1)
            run(step, model, 2, 128)
            step.close()
