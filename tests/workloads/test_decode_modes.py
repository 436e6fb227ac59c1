"""The modes of a decode step do the same: token by token over hundreds of steps, and whoever else is in the batch."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from decoding import TINY, Told, decode, distance, find_tiny, follow, remembered, vary_weights
from torch._dynamo.utils import counters

from gpubench.workloads.decode_step import next_tokens

STEPS = 256
TRACED_STEPS = 64
"""What is only traced, not compiled, is eager's operators again, each at a multiple of its cost."""
# Inductor's own imports use what torch has since deprecated.
DEPRECATED = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@dataclass(frozen=True)
class Run:
    """What steps gave, and what they left."""

    told: Told
    cache: Any


def make(name: str, batch: int, length: int) -> tuple[Any, Any]:
    model = find_tiny(name).build(torch.float32)
    vary_weights(model)
    return model, model.make_cache(batch, length)


def assert_same_run(found: Run, wanted: Run) -> None:
    """Two runs of as many steps, the second told what the first chose: so one difference hides behind no other."""
    assert distance(found.told.logits, wanted.told.logits) < 1e-4
    assert torch.equal(found.told.tokens, wanted.told.tokens)
    for own, other in zip(remembered(found.cache), remembered(wanted.cache), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert len(wanted.told.tokens.unique()) > wanted.told.tokens.numel() / 8, "a run in circles would tell little"


# Inductor takes most of a minute for the machine code of a model, so that here it does so for one of them.
@DEPRECATED
def test_compiled_chooses_eagers_tokens_over_256_steps_leaves_its_cache_and_is_compiled_once(set_up):
    shape = {"attention_every": 2}  # one layer of each kind
    arguments = {"model": "tiny-hybrid", "layers": 2, "shape": shape, "dtype": "float32", "concurrency": 3}
    eager = set_up("decode_step", "eager", isl=STEPS + 1, **arguments)
    counters["stats"].clear()
    with torch.device("cpu"):  # a worker's set-up has a default device, its steps have none
        compiled = set_up("decode_step", "compiled", isl=STEPS + 1, **arguments)
    wanted = Run(follow(eager.step, eager.inputs, STEPS), eager.inputs["cache"])
    told = follow(compiled.step, compiled.inputs, STEPS, given=wanted.told.tokens)
    assert_same_run(Run(told, compiled.inputs["cache"]), wanted)
    assert counters["stats"]["unique_graphs"] == 1


@DEPRECATED
@pytest.mark.parametrize("name", TINY)
def test_traced_whole_each_model_chooses_eagers_tokens_step_by_step_and_leaves_its_cache(name):
    model, cache = make(name, batch=3, length=TRACED_STEPS + 1)
    tokens = torch.randint(model.config.vocabulary, (3,))
    inputs = [{"decoder": model, "cache": own, "tokens": tokens.clone()} for own in (cache, deepcopy(cache))]
    torch.compiler.reset()
    traced = torch.compile(next_tokens, backend="aot_eager", fullgraph=True, dynamic=False)
    wanted = Run(follow(lambda: next_tokens(**inputs[0]), inputs[0], TRACED_STEPS), inputs[0]["cache"])
    told = follow(lambda: traced(**inputs[1]), inputs[1], TRACED_STEPS, given=wanted.told.tokens)
    assert_same_run(Run(told, inputs[1]["cache"]), wanted)


@pytest.mark.parametrize("name", TINY)
def test_a_sequence_gets_the_same_logits_alone_in_any_company_and_beside_rows_of_nan(name):
    model, _ = make(name, batch=1, length=1)
    model.embedding[0] = torch.nan
    given = torch.randint(1, model.config.vocabulary, (80, 9))
    company = decode(model, given)
    for rows in ([5], [5, 0, 7], [3, 8, 1, 4, 5, 2, 6, 0]):
        assert distance(decode(model, given[:, rows]), company[:, rows]) < 1e-4
    given[:, 3:] = 0
    padded = decode(model, given)
    assert padded[:, 3:].isnan().all()
    assert distance(padded[:, :3], company[:, :3]) < 1e-4
