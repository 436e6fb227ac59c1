"""The decode step as a workload; the models themselves have tests of their own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gpubench.errors import ArgumentError
from gpubench.registry import get_workload

SMALL = {"concurrency": 3, "isl": 16, "dtype": "float32"}


@pytest.fixture
def workload():
    return get_workload("decode_step")


def test_repeating_a_step_gives_the_same_again(set_up):
    step = set_up("decode_step", "eager", **SMALL).step
    first = {name: value.clone() for name, value in step().items()}
    second = step()
    assert torch.equal(first["tokens"], second["tokens"])
    assert torch.equal(first["logits"], second["logits"])


def test_a_step_writes_only_the_caches_last_position(set_up):
    ready = set_up("decode_step", "eager", **SMALL)
    before = [tensor.clone() for tensor in (*ready.inputs["cache"].keys, *ready.inputs["cache"].values)]
    ready.step()
    after = [*ready.inputs["cache"].keys, *ready.inputs["cache"].values]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old[:, :, :-1], new[:, :, :-1])
        assert not torch.isclose(old[:, :, -1], new[:, :, -1]).all(dim=-1).any()


def test_the_same_seed_gives_the_same_logits(set_up):
    first, second = (set_up("decode_step", "eager", **SMALL).step()["logits"] for _ in range(2))
    assert torch.equal(first, second)


def test_a_reset_puts_back_what_a_step_changed(set_up, workload):
    ready = set_up("decode_step", "eager", model="tiny-hybrid", **SMALL)
    first = ready.step()
    assert "logits" in workload.compare_function(ready.step(), first, "tiny-hybrid")
    workload.reset_function(ready.inputs["cache"])
    assert torch.equal(ready.step()["logits"], first["logits"])


def test_the_comparison_finds_wrong_logits_a_nan_and_a_wrong_choice(set_up, workload):
    right = set_up("decode_step", "eager", **SMALL).step()
    compare = partial(workload.compare_function, model="tiny-dense")
    assert compare(right, right) is None
    assert "logits" in compare({**right, "logits": right["logits"] * 1.01}, right)
    broken = right["logits"].clone()
    broken[0, 0] = float("nan")
    assert "logits" in compare({**right, "logits": broken}, right)
    second_best = right["logits"].topk(2, dim=-1).indices[:, 1]
    assert compare({**right, "tokens": second_best}, right) == "tokens: 3 of 3 are not the largest of their own logits"


def test_where_experts_are_chosen_the_comparison_leaves_room_for_another_choice(set_up, workload):
    right = set_up("decode_step", "eager", model="tiny-hybrid", **SMALL).step()
    for factor, is_wrong in ((1.02, False), (1.05, True)):
        near = {**right, "logits": right["logits"] * factor}
        assert bool(workload.compare_function(near, right, "tiny-hybrid")) is is_wrong
        assert workload.compare_function(near, right, "tiny-dense")


def test_what_cannot_fit_is_said_before_anything_is_allocated(workload):
    sizes = {"model": "llama-3.1-8b", "layers": None, "dtype": "bfloat16", "device_bytes": 141e9}
    assert workload.fits_function(concurrency=64, isl=8192, **sizes) is None
    reason = workload.fits_function(concurrency=256, isl=8192, **sizes)
    assert reason == ("needs 291.9 GB (weights 16.1, cache 274.9, activations 0.1, check 0.9); the device has 141.0 GB")


def test_a_cut_model_is_labelled_as_one(workload):
    assert workload.label_function(model="llama-3.1-8b", layers=4) == {"model": "llama-3.1-8b", "layers": "4 of 32"}
    assert workload.label_function(model="qwen3.5-35b-a3b", layers=4) == {
        "model": "qwen3.5-35b-a3b",
        "layers": "4 of 40",
    }


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"isl": 0}, {"layers": 0}, {"layers": 3}, {"model": "gpt-9"}])
def test_sizes_that_no_model_has_are_refused_by_name(workload, wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        workload.make(**{**SMALL, **wrong})


def test_rates_follow_from_the_step_time(workload):
    cell = SimpleNamespace(concurrency=8, ranks=1)
    assert workload.metrics["tok_s_user"].function(cell, 0.01) == pytest.approx(100)
    assert workload.metrics["tok_s_gpu"].function(cell, 0.01) == pytest.approx(800)


def test_every_backend_says_what_it_needs(workload):
    requires = {backend.name: backend.requires for backend in workload.info().backends}
    assert requires == {
        "eager": [],
        "compiled": ["c++"],
        "graph": ["cuda"],
        "transformers": ["transformers"],
        "piecewise": ["cuda"],
    }
