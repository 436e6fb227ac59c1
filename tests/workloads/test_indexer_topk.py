"""indexer_topk and indexer_score: what the baseline gives, and what the check of a selection finds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload


def make(**arguments):
    torch.manual_seed(0)
    return get_workload("indexer_topk").make(**arguments)


def selection(k=16, launch="eager", **arguments):
    """(the baseline's output, the oracle's, the inputs)."""
    workload = get_workload("indexer_topk")
    inputs = make(k=k, **arguments)
    step = workload.backends["torch"].setup(x=inputs["x"], valid=inputs["valid"], k=k, launch=launch)
    return step(), workload.oracle_function(x=inputs["x"], k=k), inputs


def judge(out, ref, inputs):
    return get_workload("indexer_topk").compare_function(out, ref, inputs["x"], inputs["valid"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"rows": 3, "columns": 500},
        {"rows": 3, "columns": 500, "dtype": "bfloat16", "distribution": "ties"},
        {"sequences": 2, "drafts": 3, "columns": 99, "lengths": "ragged", "compress_ratio": 4, "hit_rate": 0.6},
        {"rows": 2, "columns": 10, "dtype": "float16"},
        {"rows": 1, "columns": 300, "steps": 4, "distribution": "pro_deep"},
    ],
)
def test_the_baseline_agrees_with_the_oracle(arguments):
    assert judge(*selection(**arguments)) is None


def test_rows_are_padded_with_minus_infinity_and_a_draft_sees_a_token_less():
    inputs = make(sequences=2, drafts=3, columns=30, k=8, compress_ratio=2, hit_rate=0.6)
    assert inputs["x"].shape == (1, 8, 32)
    assert inputs["valid"].tolist() == [28, 29, 29, 30] * 2
    beyond = torch.arange(32) >= inputs["valid"][:, None]
    assert (inputs["x"][0][beyond] == float("-inf")).all() and inputs["x"][0][~beyond].isfinite().all()


def swap(values, indices, x):
    worst = x[0, 0, :500].argmin()
    values[0, 0, 0], indices[0, 0, 0] = x[0, 0, worst], worst


def repeat(values, indices, x):
    values[0, 0, 1], indices[0, 0, 1] = values[0, 0, 0], indices[0, 0, 0]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (swap, "not the best k: 1 of 2 rows, row 0 the first"),
        (repeat, "an index twice"),
        (lambda values, indices, x: indices[0, 1].fill_(500), "beyond the row's length"),
        (lambda values, indices, x: indices[0, 1, :1].fill_(-1), "wrong number of indices"),
        (lambda values, indices, x: values.add_(1), "values that aren't the scores"),
        (lambda values, indices, x: values[0, 0, :1].fill_(float("nan")), "values that aren't the scores"),
    ],
)
def test_a_wrong_selection_is_found(spoil, complaint):
    out, ref, inputs = selection(rows=2, columns=500)
    values, indices = (torch.stack(each) for each in zip(*out, strict=True))
    spoil(values, indices, inputs["x"])
    assert complaint in judge(list(zip(values, indices, strict=True)), ref, inputs)


def test_equal_scores_may_be_chosen_by_other_indices():
    _, ref, inputs = selection(rows=1, columns=100, distribution="constant")
    others = torch.arange(50, 66, dtype=torch.int32)[None]
    assert judge([(inputs["x"][0, :, 50:66], others)], ref, inputs) is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"columns": 100}, "rows is None and sequences None; wanted one"),
        ({"columns": 100, "rows": 1, "sequences": 1}, "rows is 1 and sequences 1; wanted one"),
        ({"columns": 100, "rows": 0}, "^rows is 0; wanted at least 1$"),
        ({"columns": 100, "sequences": 2, "drafts": -3}, "^drafts is -3; wanted at least 0$"),
        ({"columns": 0, "rows": 1}, "^columns is 0; wanted at least 1$"),
        ({"columns": 100, "rows": 1, "k": 4096}, "^k is 4096; wanted at most 2048$"),
        ({"columns": 100, "rows": 1, "k": 0}, "^k is 0; wanted at least 1$"),
    ],
)
def test_sizes_that_cannot_be_meant_are_refused(arguments, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        make(**arguments)


def test_a_graph_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(Unsupported, match="needs cuda"):
        selection(rows=1, columns=100, launch="graph")


def test_the_catalogue_names_the_backends_and_the_scratch_policy():
    info = get_workload("indexer_topk").info()
    assert {backend.name: backend.requires for backend in info.backends} == {
        "torch": [],
        "flashinfer": ["flashinfer-python:flashinfer", "cuda"],
        "triton_radix": ["triton"],
        "triton_gvr": ["triton"],
    }
    (scratch,) = (axis for axis in info.axes if axis.name == "scratch")
    assert (scratch.choices, scratch.backends) == (["owned", "per_call"], ["triton_radix"])


def test_work_is_every_score_once_and_time_is_per_decode_step():
    workload = get_workload("indexer_topk")
    sizes = {"columns": 100, "k": 10, "rows": None, "sequences": 2, "drafts": 1, "dtype": "bfloat16", "steps": 3}
    assert workload.bytes_function(**sizes) == 3 * 4 * (100 * 2 + 10 * (2 + 4))
    assert workload.metrics["decode_step_time"].function(SimpleNamespace(steps=4), 0.5) == 0.125
    assert workload.label_function(columns=25110, compress_ratio=4) == {"tokens": 100440}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_scores_baseline_agrees_with_its_oracle(dtype):
    workload = get_workload("indexer_score")
    torch.manual_seed(0)
    inputs = workload.make(sequences=2, isl=101, model="deepseek-v4-flash", dtype=dtype)
    out = workload.backends["torch"].setup(**inputs, launch="eager")()
    expected = workload.oracle_function(**inputs)
    assert out.shape == (2, 25) and out.dtype is torch.float32
    assert workload.compare_function(out, expected, inputs["q"]) is None


@pytest.mark.parametrize("wrong", [1.02, 0.98, float("nan")])
def test_a_single_score_that_is_off_is_found_and_named(wrong):
    workload = get_workload("indexer_score")
    torch.manual_seed(0)
    inputs = workload.make(sequences=2, isl=101, model="deepseek-v4-flash")
    expected = workload.oracle_function(**inputs)
    out = expected.float()
    out[1, 7] *= wrong
    assert "1 of 50 scores are off by more than 0.01 of themselves, the first at [1, 7]: got" in (
        workload.compare_function(out, expected, inputs["q"])
    )


def test_a_scores_work_is_its_keys():
    workload = get_workload("indexer_score")
    assert workload.flop_function(sequences=2, isl=100, model="deepseek-v3.2") == 2 * 100 * 64 * (2 * 128 + 3)
    moved = workload.bytes_function(sequences=2, isl=100, model="deepseek-v3.2", dtype="bfloat16")
    assert moved == 2 * ((100 * 128 + 64 * 129) * 2 + 100 * 4)
    with pytest.raises(ArgumentError, match="isl is 3; wanted at least 4"):
        workload.make(sequences=1, isl=3, model="deepseek-v4-pro")
