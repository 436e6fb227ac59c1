"""Multi-head latent attention as a workload: its backends, what is counted, and how it runs from the command line."""

from __future__ import annotations

import json

import pytest
import torch
from support import gpubench, only_run, write_sweep

from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload

SMALL = {"batch": 3, "isl": 130, "heads": 5, "kv_lora": 32, "rope": 16, "nope": 16, "v": 24, "dtype": "float32"}
SHAPE = {"heads": None, "kv_lora": None, "rope": None, "nope": None, "v": None, "launch": "eager"}
CORE = {"model": "deepseek-v3", "tp": 8, "dtype": "bfloat16", "scope": "core", "lengths": "equal", **SHAPE}


@pytest.fixture
def workload():
    return get_workload("mla_decode")


def problem_and_step(backend, **arguments):
    workload = get_workload("mla_decode")
    torch.manual_seed(0)
    problem = workload.make(**{**SMALL, **arguments})["problem"]
    return problem, workload.backends[backend].setup(problem, "eager")


def in_fp64(problem):
    """Each head's keys and values expanded, one sequence after the other, the new token's entry in its place."""
    own, rows, kv_lora = problem.projections, [], problem.q_latent.shape[-1]
    for b, count in enumerate(problem.counts):
        entries = torch.cat([problem.cache[page] for page in problem.block_table[b].tolist()])[:count].double()
        query = problem.q_latent[b].double()
        if own is not None:
            entries[-1] = torch.cat([own.latent[b], own.rope[b]])
            query = torch.einsum("hn,hnr->hr", own.q_nope[b].double(), own.w_uk.double())
        scores = query @ entries[:, :kv_lora].T + problem.q_rope[b].double() @ entries[:, kv_lora:].T
        latent = (scores * problem.scale).softmax(dim=-1) @ entries[:, :kv_lora]
        rows.append(latent if own is None else torch.einsum("hr,hvr->hv", latent, own.w_uv.double()))
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", ["equal", "ragged"])
@pytest.mark.parametrize("scope", ["core", "op"])
@pytest.mark.parametrize("backend", ["torch", "torch_absorbed"])
def test_what_is_expanded_and_what_is_absorbed_come_to_the_same_as_fp64(backend, scope, lengths):
    problem, step = problem_and_step(backend, scope=scope, lengths=lengths)
    wanted = in_fp64(problem)
    torch.testing.assert_close(step()["out"].double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "torch_absorbed"])
def test_scope_op_writes_the_new_entry_to_its_row_of_the_cache_and_nothing_else(backend):
    problem, step = problem_and_step(backend, scope="op", lengths="ragged")
    expected = problem.cache.clone()
    for b, count in enumerate(problem.counts):
        page, row = divmod(count - 1, 64)
        entry = torch.cat([problem.projections.latent[b], problem.projections.rope[b]])
        expected[problem.block_table[b, page].long(), row] = entry
    assert torch.equal(step()["cache"], expected)


def test_the_oracle_is_fp32_whatever_the_dtype(workload):
    problem = workload.make(**{**SMALL, "dtype": "bfloat16"})["problem"]
    wanted = in_fp64(problem)
    got = workload.oracle_function(problem)["out"]
    assert got.dtype is torch.float32
    assert (got.double() - wanted).norm() / wanted.norm() < 1e-5


def test_the_comparison_finds_a_wrong_output_a_nan_and_a_stray_write(workload):
    out, cache = torch.randn(2, 3, 8), torch.randn(4, 64, 12)
    right = {"out": out, "cache": cache}
    assert workload.compare_function(right, right) is None
    assert "‖out − ref‖" in workload.compare_function({**right, "out": out * 1.001}, right)
    assert "nan" in workload.compare_function({**right, "out": torch.full_like(out, float("nan"))}, right)
    touched = cache.clone()
    touched[3, 63, 0] += 1
    assert workload.compare_function({**right, "cache": touched}, right).startswith("cache: 1 rows")


def test_ragged_lengths_reach_the_isl_and_are_the_same_every_time(workload):
    counts = workload.make(**{**SMALL, "batch": 4, "isl": 100, "lengths": "ragged"})["problem"].counts
    assert sorted(counts) == [25, 50, 75, 100]
    assert workload.make(**{**SMALL, "batch": 4, "isl": 100, "lengths": "ragged"})["problem"].counts == counts


def test_the_models_heads_are_dealt_to_the_gpus_and_shapes_can_be_overridden(workload):
    def query(**arguments):
        sizes = {"batch": 1, "isl": 1, **arguments}
        return tuple(workload.make(**sizes)["problem"].q_latent.shape)

    assert query(tp=8) == (1, 16, 512)
    assert query(model="mistral-small-4-119b") == (1, 32, 256)
    assert query(model="glm-4.7-flash", tp=4) == (1, 5, 512)
    assert query(heads=32, kv_lora=256) == (1, 32, 256)
    with pytest.raises(ArgumentError, match="20 heads can't be dealt to 8 GPUs"):
        query(model="glm-4.7-flash", tp=8)
    with pytest.raises(ArgumentError, match="tp: 128 heads"):
        query(tp=0)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"isl": -5}, {"heads": 0}, {"kv_lora": -1}])
def test_sizes_that_nothing_has_are_refused_by_name(workload, wrong):
    ((name, size),) = wrong.items()
    with pytest.raises(ArgumentError, match=f"^{name} is {size}; wanted at least 1$"):
        workload.make(**{**SMALL, **wrong})


def test_work_counts_the_cache_once_for_all_heads(workload):
    tokens, entry = 2 * 100, 512 + 64
    read = tokens * entry + 2 * 16 * (512 + 64 + 512)
    assert workload.bytes_function(batch=2, isl=100, **CORE) == 2 * read
    assert workload.flop_function(batch=2, isl=100, **CORE) == 2 * tokens * 16 * (2 * 512 + 64)
    op = {**CORE, "scope": "op"}
    weights, rows = 16 * 512 * (128 + 128), 2 * (16 * (128 + 64 + 128) + entry)
    assert workload.bytes_function(batch=2, isl=100, **op) == 2 * (tokens * entry + weights + rows)
    products = 2 * 2 * weights
    assert workload.flop_function(batch=2, isl=100, **op) == workload.flop_function(batch=2, isl=100, **CORE) + products
    ragged = {**CORE, "lengths": "ragged"}
    assert workload.flop_function(batch=4, isl=100, **ragged) == 250 * 16 * 2 * (2 * 512 + 64)


def test_what_cannot_fit_and_what_is_measured_are_said(workload):
    assert workload.fits_function(batch=32, isl=8192, device_bytes=141e9, **CORE) is None
    told = workload.fits_function(batch=128, isl=1 << 20, device_bytes=141e9, **CORE)
    assert told == "needs 154.6 GB for the cache; the device has 141.0 GB"
    label = workload.label_function(batch=2, isl=100, **CORE)
    assert label == {"heads": "16 of 128", "latent": "512 + 64 rotary", "lengths": "100 to 100, 200 in all"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"scope": "op"}, "attention alone: scope: core"),
        ({}, "a latent of 512 and a rotary key of 64; got 32, 16"),
        ({"kv_lora": 512, "rope": 64}, "no float32 kernel"),
    ],
)
def test_the_peer_says_which_cells_it_has_no_kernel_for(workload, arguments, reason):
    problem = workload.make(**{**SMALL, **arguments})["problem"]
    with pytest.raises(Unsupported, match=reason):
        workload.backends["flashinfer"].setup(problem, "eager")


def test_every_backend_says_what_it_needs(workload):
    info = workload.info()
    requires = {backend.name: backend.requires for backend in info.backends}
    assert info.baseline == "torch"
    assert requires == {
        "torch": [],
        "torch_absorbed": [],
        "triton": ["triton"],
        "triton_splitk": ["triton"],
        "flashinfer": ["flashinfer-python:flashinfer", "cuda"],
    }


GRID = """
name: tiny
workload: mla_decode
axes: {backend: [torch, torch_absorbed, triton, triton_splitk], scope: [core, op], dtype: [float32, float16]}
params: {batch: 2, isl: 70, lengths: ragged, heads: 5, kv_lora: 32, rope: 16, nope: 16, v: 16}
measure: {max_time_s: 0.05, min_samples: 2, max_samples: 2, warmup_time_s: 0, trials: 1}
"""


def run(folder, **variables):
    """Each record of a run of the grid by its backend."""
    done = gpubench(folder, "sweep", str(write_sweep(folder, GRID)), "--gpus", "none", **variables)
    lines = (only_run(folder) / "cells.jsonl").read_text().splitlines()
    by_backend = {}
    for record in map(json.loads, lines):
        by_backend.setdefault(record["backend"], []).append(record)
    assert sorted(by_backend) == ["torch", "torch_absorbed", "triton", "triton_splitk"], done.err
    return by_backend


def test_without_a_gpu_the_kernels_are_skipped_with_the_reason_and_torch_runs(tmp_path):
    records = run(tmp_path)
    for backend in ("torch", "torch_absorbed"):
        assert [record["outcome"] for record in records[backend]] == ["ok"] * 4, records[backend]
    for backend in ("triton", "triton_splitk"):
        assert {record["outcome"] for record in records[backend]} == {"skipped"}
        assert all("TRITON_INTERPRET=1" in record["reason"] for record in records[backend])


def test_in_the_interpreter_the_kernels_pass_their_check(tmp_path):
    records = run(tmp_path, TRITON_INTERPRET="1")
    for backend in ("triton", "triton_splitk"):
        assert [record["outcome"] for record in records[backend]] == ["ok"] * 4, records[backend]
        assert all(record["checks"][0]["against"] == "oracle" for record in records[backend])
