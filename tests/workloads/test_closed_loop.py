"""The closed loop as a workload: what it takes and refuses, what it gives, and what it leaves."""

from __future__ import annotations

import json

import pytest
import torch

from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin
from gpubench.workloads.closed_loop import REQUESTS

load_builtin()

SMALL = {"concurrency": 3, "isl": 12, "osl": 4, "prefill_chunk": 5, "dtype": "float32"}


@pytest.fixture
def workload():
    return get_workload("closed_loop")


def run(workload, folder, **changes):
    arguments = {**SMALL, **changes}
    torch.manual_seed(0)
    inputs = workload.make(**arguments)
    step = workload.backends["eager"].setup(inputs["decoder"], inputs["slots"], inputs["traffic"], str(folder))
    return inputs, step


def test_a_run_gives_latencies_rates_and_what_the_loop_took(workload, tmp_path):
    _, step = run(workload, tmp_path)
    found = {own.metric: own for own in step()}
    assert set(found) == {
        *("step_time", "ttft", "tpot", "itl", "e2e", "tok_s_user", "tok_s_gpu", "iterations", "window"),
        *("loop_overhead", "loop_overhead_share", "prefill_share", "decoding"),
    }
    assert {own.timer for own in found.values()} == {"wall"}
    assert len(found["ttft"].value) == len(found["e2e"].value) == len(found["tpot"].value)
    assert all(0 < share < 1 for share in found["loop_overhead_share"].value)
    assert max(found["decoding"].value) <= 3


def test_each_run_adds_its_requests_to_the_file_in_the_cells_folder(workload, tmp_path):
    for _ in range(2):  # as when trials are tasks of their own: another step, in the same folder
        _, step = run(workload, tmp_path)
        step()
        step()
    lines = [json.loads(line) for line in (tmp_path / REQUESTS).read_text().splitlines()]
    assert {line["run"] for line in lines} == {0, 1, 2, 3}
    assert {line["phase"] for line in lines} >= {"warm-up", "steady"}
    assert {(line["isl"], line["osl"], line["chunks"]) for line in lines} == {(12, 4, 3)}


def test_the_check_holds_some_requests_against_what_they_get_alone(workload, tmp_path):
    inputs, step = run(workload, tmp_path)
    step()
    arguments = {"decoder": inputs["decoder"], "traffic": inputs["traffic"], "model": "tiny-dense", "dtype": "float32"}
    result = workload.check_function(step, **arguments)
    assert result.passed
    assert result.against == "4 of 4 requests, each alone"
    for tokens in step.served.tokens:
        tokens[:] = 17
    assert not workload.check_function(step, **arguments).passed


def test_one_user_alone_has_enough_requests_for_an_interval(workload):
    inputs = workload.make(**{**SMALL, "concurrency": 1})
    assert inputs["traffic"].lengths.isl.shape == (1, 1 + 6)
    assert workload.make(**{**SMALL, "requests": 4})["traffic"].lengths.isl.shape == (3, 1 + 4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"concurrency": 0}, "concurrency is 0; wanted at least 1"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0; wanted at least 1"),
        ({"requests": 0}, "requests is 0; wanted at least 1"),
        ({"warmup_requests": 0}, "warmup_requests is 0; wanted at least 1"),
        ({"osl": 0}, "osl is 0; wanted at least 1"),
        ({"isl": None}, "isl: wanted a number of tokens or {uniform: [low, high]}; got None"),
        (
            {"isl": 4000, "osl": 97},
            "isl 4000 + osl 97: 4097 tokens are beyond the cache: tiny-dense has positions for 4096",
        ),
        ({"isl": {"uniform": [1, 4090]}, "osl": 7}, "isl 4090 + osl 7: 4097 tokens"),
        ({"pairs": "lengths.csv"}, "isl: 12 beside pairs: lengths.csv"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_numbers(workload, wrong, said):
    with pytest.raises(ArgumentError) as caught:
        workload.make(**{**SMALL, **wrong})
    assert said in str(caught.value)


def test_a_pair_beyond_the_cache_is_refused_with_its_file(workload, tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("isl,osl\n10,10\n4096,1\n")
    with pytest.raises(ArgumentError, match=r"^lengths.csv: isl 4096 \+ osl 1: 4097 tokens are beyond"):
        workload.make(**{**SMALL, "isl": None, "osl": None, "pairs": str(path)})


def test_too_few_requests_for_a_window_are_refused_before_anything_runs(workload, tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("isl,osl\n1,1\n1,50\n1,1\n1,1\n")
    with pytest.raises(
        ArgumentError, match=r"with 1 of each user after its warm-up \(1\), one of the 3 users has noth"
    ):
        workload.make(**{**SMALL, "isl": None, "osl": None, "pairs": str(path), "requests": 1})


def test_a_family_that_cannot_prefill_is_skipped_with_the_reason(workload):
    with pytest.raises(Unsupported, match="prefill isn't there for block-sparse attention"):
        workload.make(**{**SMALL, "model": "tiny-sparse"})


def asked(**changes):
    given = {"concurrency": 64, "isl": 1024, "osl": 128, "pairs": None, "prefill_chunk": 1024, "warmup_requests": 1}
    return {**given, "requests": None, "model": "llama-3.1-8b", "layers": None, "dtype": "bfloat16", **changes}


def test_what_cannot_fit_is_said_before_anything_is_allocated(workload):
    assert workload.fits_function(**asked(), device_bytes=141e9) is None
    reason = workload.fits_function(**asked(concurrency=1024), device_bytes=141e9)
    assert "weights 16.1, cache of 1024 × 1152 tokens 154.6, " in reason
    assert reason.endswith("; the device has 141.0 GB")
    ranges = {"isl": {"uniform": [1, 8192]}, "osl": {"uniform": [1, 1024]}}
    assert "cache of 256 × 9216 tokens" in workload.fits_function(
        **asked(concurrency=256, **ranges), device_bytes=141e9
    )


def test_what_no_device_could_serve_is_refused_and_not_said_to_be_too_large_for_this_one(workload):
    with pytest.raises(ArgumentError, match=r"isl 200000000 .* the cache: llama-3\.1-8b has positions for 131072"):
        workload.fits_function(**asked(isl=200_000_000), device_bytes=141e9)


def test_of_a_file_of_pairs_the_longest_answer_need_not_be_the_longest_requests(workload, tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("isl,osl\n8192,1\n1,8190\n")
    wants = {"isl": None, "osl": None, "pairs": str(path)}
    reason = workload.fits_function(**asked(concurrency=1, **wants), device_bytes=1e9)
    logits = 8190 * 128256 * (2 + 12)
    assert float(reason.partition("check ")[2].partition(")")[0]) * 1e9 > logits


def test_the_record_says_what_each_user_sends_and_which_part_is_measured(workload, tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("isl,osl\n10,10\n")
    label = workload.label_function(**asked(concurrency=1, isl=None, osl=None, pairs=str(path), layers=4))
    assert label["layers"] == "4 of 32"
    assert label["each_user"] == "1 to warm up, then 6"
    assert label["window"].startswith("from the last user's last warm-up answer")
    assert label["pairs"].startswith("lengths.csv, 1 pairs, sha256 ")


def test_every_backend_says_what_it_needs(workload):
    info = workload.info()
    assert {backend.name: backend.requires for backend in info.backends} == {
        "eager": [],
        "graph": ["cuda"],
        "piecewise": ["cuda"],
    }
    assert {axis.name: axis.backends for axis in info.axes if axis.backends} == {
        "buckets": ["graph", "piecewise"],
        "prefill_buckets": ["piecewise"],
    }


@pytest.mark.parametrize(("backend", "options"), [("graph", {}), ("piecewise", {"prefill_buckets": "exact"})])
def test_buckets_that_do_not_cover_the_users_are_refused(workload, backend, options):
    inputs = workload.make(**SMALL)
    setup = workload.backends[backend].setup
    with pytest.raises(ArgumentError, match=r"buckets: \[1, 2\] don't cover a step of 3 tokens; the largest is 2"):
        setup(inputs["decoder"], inputs["slots"], inputs["traffic"], "", buckets=[1, 2], **options)
