"""sparse_gqa_decode: torch agrees with the oracle, the comparison can't be fooled, and the figures are right."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload
from gpubench.worker.subject import call_by_name

NAME = "sparse_gqa_decode"
KEPT, BLOCK = 16, 128
LONG = {"batch": 2, "isl": 20 * BLOCK - 5, "tp": 4, "dtype": "float32"}
"""More blocks than are kept, and a last one that isn't full."""


def ready(backend, **arguments):
    """A backend set up as a worker does it: inputs and arguments by name."""
    torch.manual_seed(0)
    workload = get_workload(NAME)
    arguments = {"model": "minimax-m3", "tp": 1, "launch": "eager", "scope": "op", "ragged": False, **arguments}
    inputs = call_by_name(workload.make, "inputs", arguments)
    step = call_by_name(workload.backends[backend].setup, backend, inputs, arguments)
    return SimpleNamespace(arguments=arguments, inputs=inputs, step=step)


def judge(case, out, **changes):
    """What the comparison says of `out`, the oracle's own outputs beside it."""
    workload, arguments = get_workload(NAME), {**case.arguments, **changes}
    reference = call_by_name(workload.oracle_function, "oracle", case.inputs, arguments)
    return call_by_name(workload.compare_function, "compare", case.inputs, arguments, leading=(out, reference))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tp", [1, 4])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("backend", ["torch_dense", "torch_gather"])
def test_torch_agrees_with_the_oracle(backend, ragged, tp, dtype):
    case = ready(backend, batch=3, isl=2500, tp=tp, ragged=ragged, dtype=dtype)
    out = case.step()
    assert out["out"].dtype is getattr(torch, dtype)
    assert judge(case, out) is None


def test_below_2048_tokens_sparse_is_dense():
    sparse, dense = (ready(b, batch=2, isl=2048, dtype="float32").step() for b in ("torch_gather", "torch_dense"))
    torch.testing.assert_close(sparse["out"], dense["out"], rtol=1e-4, atol=1e-5)


def test_above_2048_tokens_dense_is_held_to_full_attention_and_sparse_is_not_full():
    sparse, dense = ready("torch_gather", **LONG), ready("torch_dense", **LONG)
    full, chosen = dense.step()["out"], sparse.step()["out"]
    assert judge(dense, {"out": full}) is None
    assert "is off by" in judge(dense, {"out": chosen})
    assert "is off by" in judge(sparse, {**sparse.step(), "out": full})


def test_given_blocks_are_attended_to_and_handed_back():
    case = ready("torch_gather", scope="core", **LONG)
    out = case.step()
    assert judge(case, out) is None
    assert judge(case, {**out, "blocks": out["blocks"].flip(-1)}) == "blocks aren't those that were given"


def test_dense_attention_has_no_core_of_given_blocks():
    with pytest.raises(Unsupported, match="scope: core"):
        ready("torch_dense", scope="core", **LONG)


def test_a_padded_row_is_zero():
    for backend in ("torch_dense", "torch_gather"):
        case = ready(backend, batch=3, isl=300, ragged=True, dtype="float32")
        assert case.inputs["lengths"].tolist() == [300, 150, 0]
        assert not case.step()["out"][2].any()


def change(blocks, kind, scores):
    """A choice that is wrong in one way; `scores` of the first row's first head says which block is worst."""
    wrong, own = blocks.clone(), blocks[0, 0]
    last = max(own.tolist())
    if kind == "repeated":
        wrong[0, 0, 0] = own[1] if own[0] != last else own[0]
        wrong[0, 0, 1] = wrong[0, 0, 0]
    elif kind == "out of range":
        wrong[0, 0, 0] = 20
    elif kind == "missing":
        wrong[0, 0, 0] = -1
    elif kind == "without the last":
        wrong[0, 0, own.tolist().index(last)] = next(b for b in range(20) if b not in own)
    elif kind == "a worse block":
        left = [b for b in range(20) if b not in own]
        taken = max((b for b in own.tolist() if b != last), key=lambda b: scores[b])
        wrong[0, 0, own.tolist().index(taken)] = min(left, key=lambda b: scores[b])
    return wrong


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("repeated", "repeats a block"),
        ("out of range", "out of range"),
        ("missing", "has 15 blocks, want 16 of 20"),
        ("without the last", "lacks the last block, 19"),
        ("a worse block", "left out a block whose score is"),
    ],
)
def test_a_wrong_choice_is_named_also_where_its_attention_is_right(kind, complaint):
    case = ready("torch_gather", **LONG)
    x = case.inputs
    keys = x["index_k"][x["block_table"][0].long()].flatten(0, 1)[: LONG["isl"]]
    per_token = torch.nn.functional.pad(x["index_q"][0, 0] @ keys.T, (0, 5), value=-torch.inf)
    wrong = change(case.step()["blocks"], kind, per_token.view(-1, BLOCK).amax(1))
    attended = ready("torch_gather", scope="core", **LONG)  # attention over the wrong choice, itself right
    attended.inputs["chosen"].copy_(wrong.clamp(max=19))
    assert complaint in judge(case, {"out": attended.step()["out"], "blocks": wrong})


def test_of_blocks_whose_scores_tie_either_may_be_chosen():
    case = ready("torch_gather", **LONG)
    case.inputs["index_k"].fill_(1.0)
    core = ready("torch_gather", scope="core", **LONG)
    for blocks in (range(4, 20), [*range(15), 19]):
        core.inputs["chosen"].copy_(torch.tensor(list(blocks), dtype=torch.int32).expand(2, 1, KEPT))
        assert judge(case, core.step(), scope="op") is None


def test_not_a_number_never_passes():
    case = ready("torch_gather", **LONG)
    out = case.step()
    out["out"][1, 3, 7] = float("nan")
    assert "out[1, 3] is off by inf" in judge(case, out)


def test_work_counts_chosen_blocks_once_and_index_keys_where_there_is_a_choice():
    workload = get_workload(NAME)
    fixed = {"model": "minimax-m3", "dtype": "bfloat16", "ragged": False, "tp": 1}
    queries = 2 * 2 * 64 * 128
    long = workload.bytes_function(batch=1, isl=131072, scope="op", **fixed)
    assert long == 2048 * 2048 + 256 * 131072 + queries + 2 * 4 * 128
    assert workload.bytes_function(batch=1, isl=131072, scope="core", **fixed) == 2048 * 2048 + queries
    assert workload.bytes_function(batch=3, isl=1000, scope="op", **fixed) == 3 * (1000 * 2048 + queries)
    fixed.pop("dtype")
    assert workload.flop_function(batch=2, isl=4096, scope="op", **fixed) == 2 * (4 * 64 * 128 * 2048 + 2 * 512 * 4096)
    assert workload.flop_function(batch=1, isl=4096, scope="core", **fixed) == 4 * 64 * 128 * 2048
    assert workload.flop_function(batch=1, isl=4097, scope="core", **fixed) == 4 * 64 * 128 * (15 * 128 + 1)


def test_what_cannot_fit_is_said_before_anything_is_allocated():
    fits = get_workload(NAME).fits_function
    sizes = {"model": "minimax-m3", "tp": 1, "dtype": "bfloat16", "device_bytes": 141e9}
    assert fits(batch=16, isl=1 << 20, **sizes) is None
    assert "caches need" in fits(batch=64, isl=1 << 20, **sizes)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"batch": 0, "isl": 128}, "batch is 0"),
        ({"batch": 1, "isl": -5}, "^isl is -5; wanted at least 1$"),
        ({"batch": 1, "isl": 128, "tp": 3}, "can't be dealt to 3 GPUs"),
        ({"batch": 1, "isl": 128, "tp": 8}, "4 heads can't be dealt to 8 GPUs"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(arguments, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        get_workload(NAME).make(**arguments)


def test_triton_is_required_by_its_own_backend_alone():
    info = get_workload(NAME).info()
    assert info.baseline == "torch_dense"
    assert {backend.name: backend.requires for backend in info.backends} == {
        "torch_dense": [],
        "torch_gather": [],
        "triton": ["triton"],
    }
