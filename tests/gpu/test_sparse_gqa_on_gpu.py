"""Block-sparse attention where it belongs: real sizes, every dtype, without a sync, replayed on changing inputs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpubench.registry import get_workload
from gpubench.worker.subject import call_by_name
from gpubench.workloads import load_builtin

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

NAME = "sparse_gqa_decode"
DTYPES = ("float32", "float16", "bfloat16")

load_builtin()


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


def ready(backend, **arguments):
    """A backend set up as a worker does it: inputs and arguments by name."""
    workload = get_workload(NAME)
    arguments = {
        "model": "minimax-m3",
        "tp": 1,
        "dtype": "bfloat16",
        "launch": "eager",
        "scope": "op",
        "ragged": False,
        **arguments,
    }
    inputs = call_by_name(workload.make, "inputs", arguments)
    step = call_by_name(workload.backends[backend].setup, backend, inputs, arguments)
    return SimpleNamespace(arguments=arguments, inputs=inputs, step=step)


def judge(case, out):
    """What the comparison says of `out`; the oracle's own outputs pass."""
    workload = get_workload(NAME)
    reference = call_by_name(workload.oracle_function, "oracle", case.inputs, case.arguments)
    compare = workload.compare_function
    assert call_by_name(compare, "compare", case.inputs, case.arguments, leading=(reference, reference)) is None
    return call_by_name(compare, "compare", case.inputs, case.arguments, leading=(out, reference))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "isl": 1},
        {"batch": 1, "isl": 129},
        {"batch": 2, "isl": 2047},
        {"batch": 2, "isl": 2048},
        {"batch": 2, "isl": 2049},
        {"batch": 3, "isl": 5000, "ragged": True},
        {"batch": 3, "isl": 5000, "ragged": True, "tp": 4},
        {"batch": 40, "isl": 4096, "tp": 2},
        {"batch": 100, "isl": 2200},
        {"batch": 1, "isl": 131072},
        {"batch": 5, "isl": 40000, "ragged": True},
        {"batch": 3, "isl": 5000, "ragged": True, "scope": "core"},
    ],
    ids=lambda sizes: "-".join(f"{name}{value}" for name, value in sizes.items()),
)
@pytest.mark.parametrize("launch", ["eager", "graph"])
def test_the_kernels_agree_with_fp32(sizes, dtype, launch):
    case = ready("triton", dtype=dtype, launch=launch, **sizes)
    assert judge(case, case.step()) is None


@pytest.mark.parametrize("backend", ["torch_dense", "torch_gather"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("launch", ["eager", "graph"])
def test_torch_agrees_with_fp32(backend, ragged, launch):
    case = ready(backend, batch=3, isl=5000, ragged=ragged, launch=launch)
    assert judge(case, case.step()) is None


def test_a_million_tokens_are_searched():
    case = ready("triton", batch=1, isl=1 << 20)
    assert judge(case, case.step()) is None


def test_up_to_2048_tokens_it_is_dense_attention():
    sparse, dense = (ready(backend, batch=4, isl=2048) for backend in ("triton", "torch_dense"))
    for name, value in sparse.inputs.items():
        dense.inputs[name].copy_(value)
    dense.step = call_by_name(get_workload(NAME).backends["torch_dense"].setup, "", dense.inputs, dense.arguments)
    torch.testing.assert_close(sparse.step()["out"], dense.step()["out"], rtol=2e-2, atol=1e-3)


def test_eight_replays_follow_their_inputs_and_equal_eager_launches():
    replayed = ready("triton", batch=4, isl=9000, launch="graph")
    for turn in range(8):
        x = replayed.inputs
        for name in ("q", "index_q"):
            x[name].normal_()
        lengths = torch.randint(0, 9001, (4,), dtype=torch.int32)
        lengths[turn % 4] = (0, 1, 127, 128, 2048, 2049, 8999, 9000)[turn]
        x["lengths"].copy_(lengths)
        x["block_table"].copy_(x["block_table"].flatten()[torch.randperm(x["block_table"].numel())].view(4, -1))
        setup = get_workload(NAME).backends["triton"].setup
        eager = call_by_name(setup, "triton", x, {**replayed.arguments, "launch": "eager"})()
        out = replayed.step()
        torch.testing.assert_close(out["blocks"], eager["blocks"], rtol=0, atol=0)
        torch.testing.assert_close(out["out"], eager["out"], rtol=0, atol=0)
        assert judge(replayed, out) is None, f"turn {turn}"


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
def test_a_step_neither_synchronises_nor_allocates():
    case = ready("triton", batch=4, isl=9000)
    case.step()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.* is deprecated:DeprecationWarning")
def test_the_operators_compile():
    case = ready("triton", batch=2, isl=5000)
    want = {name: value.clone() for name, value in case.step().items()}
    x = case.inputs
    partial, lse = x["q"].new_empty(2, 64, 2, 128, dtype=torch.float32), x["q"].new_empty(2, 64, 2, dtype=torch.float32)
    scores = x["q"].new_empty(2, 4, x["block_table"].shape[1], dtype=torch.float32)
    ops = torch.ops.gpubench

    @torch.compile(fullgraph=True)
    def step(q, index_q):
        out, blocks = torch.empty_like(q), torch.empty_like(x["chosen"])
        ops.sparse_gqa_scores(index_q, x["index_k"], x["block_table"], x["lengths"], scores, 16)
        ops.sparse_gqa_select(scores, x["lengths"], blocks, 128)
        ops.sparse_gqa_attend(q, x["k_cache"], x["v_cache"], blocks, x["block_table"], x["lengths"], out, partial, lse)
        return out * 1.0, blocks

    out, blocks = step(x["q"], x["index_q"])
    assert torch.equal(blocks, want["blocks"])
    torch.testing.assert_close(out, want["out"], rtol=2e-2, atol=1e-3)


def test_offsets_beyond_32_bits_are_right():
    case = ready("triton", batch=18, isl=262144, scope="core")  # 2.4e9 elements of keys
    assert judge(case, case.step()) is None
