"""The modes of a decode step do the same: token by token over hundreds of steps, and whoever else is in the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoding import TINY, distance, follow, run, take, vary_weights
from torch._dynamo.utils import counters

from gpubench.models.presets import find_preset
from gpubench.worker.outputs import find_tensors

STEPS = 256
SHALLOW: dict[str, dict[str, Any]] = {"tiny-hybrid": {"layers": 2, "shape": {"attention_every": 2}}}
"""The fewest layers that have one of each kind: Inductor takes seconds for each."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(name: str, batch: int, length: int) -> tuple[Any, Any]:
    model = find_preset(name).build(torch.float32)
    vary_weights(model)
    return model, model.make_cache(batch, length)


# Inductor's own imports use what torch has since deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", TINY)
def test_compiled_chooses_eagers_tokens_over_256_steps_leaves_the_same_cache_and_is_compiled_once(set_up, name):
    arguments = {"concurrency": 3, "isl": STEPS + 1, "dtype": "float32", "model": name, **SHALLOW.get(name, {})}
    eager = set_up("decode_step", "eager", **arguments)
    counters["stats"].clear()
    with torch.device("cpu"):  # a worker's set-up has a default device, its steps have none
        compiled = set_up("decode_step", "compiled", **arguments)
    wanted = follow(eager.step, eager.inputs, STEPS)
    # Each step is told what eager chose before it, so that one difference doesn't hide behind another.
    found = follow(compiled.step, compiled.inputs, STEPS, given=wanted.tokens)
    assert distance(found.logits, wanted.logits) < 1e-4
    assert torch.equal(found.tokens, wanted.tokens)
    for own, other in zip(*(find_tensors(ready.inputs["cache"]) for ready in (compiled, eager)), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert len(wanted.tokens.unique()) > 100, "a run in circles would tell little"


@pytest.mark.parametrize("name", TINY)
def test_a_sequence_gets_the_same_logits_alone_and_in_any_company(name):
    model, cache = make(name, batch=11, length=77)
    given = torch.randint(model.config.vocabulary, (4, 11))
    for rows in ([5], [5, 0, 7], [3, 9, 1, 8, 5, 2, 10, 4]):
        few = run(model, take(cache, rows, 11), given[:, rows])
        all_of_them = run(model, take(cache, list(range(11)), 11), given)[:, rows]
        assert distance(few, all_of_them) < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_rows_that_pad_a_batch_change_nothing_even_if_they_are_nan(name):
    model, cache = make(name, batch=11, length=77)
    model.embedding[0] = torch.nan
    given = torch.randint(1, model.config.vocabulary, (4, 11))
    given[:, 3:] = 0
    padded = run(model, take(cache, list(range(11)), 11), given)
    assert padded[:, 3:].isnan().all()
    assert distance(padded[:, :3], run(model, take(cache, [0, 1, 2], 11), given[:, :3])) < 1e-5
