"""The backend `piecewise` of decode_step, set up on fake graphs; real ones are tested on a GPU."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from graphs.fake_graphs import FakeGraphs

from gpubench.analysis.memory import BUCKET, CAPTURE_TIME, MEMORY_PARTS, MEMORY_PREFIX, REPLAY_TIMES
from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload
from gpubench.settings import GRAPHS
from gpubench.workloads import decode_piecewise, load_builtin

load_builtin()


@pytest.fixture
def set_up(monkeypatch):
    """A function that makes the cell's inputs and sets the backend up."""
    monkeypatch.setattr(decode_piecewise, "CudaGraphs", FakeGraphs)

    def make(model="tiny-dense", concurrency=3, isl=16, **options):
        workload = get_workload("decode_step")
        torch.manual_seed(0)
        inputs = workload.make(concurrency=concurrency, isl=isl, model=model, dtype="float32")
        step = workload.backends["piecewise"].setup(**inputs, isl=isl, **options)
        return inputs, step

    return make


@pytest.mark.parametrize(
    ("model", "buckets", "start"),
    [
        ("tiny-dense", "powers", "at_once"),
        ("tiny-dense", [2, 8], "two_phases"),
        ("tiny-hybrid", "exact", "two_phases"),
        ("tiny-hybrid", [2, 8], "at_once"),
    ],
)
def test_a_step_in_pieces_is_the_eager_step_from_the_start(set_up, model, buckets, start):
    inputs, step = set_up(model, buckets=buckets, start=start, isl=160)
    eager = get_workload("decode_step").backends["eager"].setup(**inputs)
    wanted = [{name: value.clone() for name, value in eager().items()} for _ in range(2)]
    inputs["cache"].restore()
    for want in wanted:
        torch.testing.assert_close(step(), want, rtol=1e-4, atol=1e-4)
    inputs["cache"].restore()
    torch.testing.assert_close(step.eager(), wanted[0], rtol=1e-4, atol=1e-4)


def test_each_bucket_has_a_figure_of_every_part_that_reports_know(set_up):
    _, step = set_up(buckets=[1, 2, 4])
    by_bucket = {}
    for own in step.measured:
        if own.range:
            by_bucket.setdefault(int(re.fullmatch(BUCKET, own.range)["bucket"]), []).append((own.metric, own.unit))
    parts = [(f"{MEMORY_PREFIX}{part}", "B") for part in MEMORY_PARTS]
    times = [(name, "s") for name in REPLAY_TIMES]
    assert by_bucket == {bucket: [(CAPTURE_TIME, "s"), *parts, *times] for bucket in (4, 2, 1)}
    assert [own.metric for own in step.measured if not own.range] == ["trace_time", "start_time"]


def test_a_start_in_two_phases_says_what_it_cost(set_up):
    _, step = set_up(start="two_phases")
    found = {own.metric: own.value for own in step.measured if not own.range}
    assert found["graphs_estimated"] > 0
    assert found["graphs_kept"] == 0
    assert 0 < found["release_time"] < found["recapture_time"] < found["start_time"]


def test_buckets_that_do_not_cover_the_batch_are_refused_with_the_numbers(set_up):
    with pytest.raises(ArgumentError, match=r"buckets: \[1, 2, 4\] don't cover a step of 7 tokens; the largest is 4"):
        set_up(concurrency=7, buckets=[1, 2, 4])


def test_a_plan_of_one_batch_is_for_one_bucket(set_up):
    with pytest.raises(Unsupported, match="3 buckets with attention: flashinfer, whose plan"):
        set_up(buckets=[1, 2, 4], attention="flashinfer")


def test_a_second_stream_is_for_models_with_shared_experts(set_up):
    with pytest.raises(Unsupported, match="this model has none"):
        set_up(streams=2)
    inputs, step = set_up("tiny-hybrid", streams=2)
    want = step.eager()["logits"].clone()
    inputs["cache"].restore()
    torch.testing.assert_close(step()["logits"], want, rtol=1e-4, atol=1e-4)


def test_with_graphs_switched_off_the_step_runs_uncut(set_up, monkeypatch):
    monkeypatch.setenv(GRAPHS, "off")
    inputs, step = set_up()
    assert inspect.isfunction(step)
    eager = get_workload("decode_step").backends["eager"].setup(**inputs)
    assert torch.equal(step()["logits"], eager()["logits"])
