"""Latent attention where it belongs: real sizes, every dtype, without a sync, replayed on changing inputs."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from kernels.mla_decode_on_interpreter import Case, difference, launch, make, scale

from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

load_builtin()

GPU = "cuda:0"
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FORMS = [*((dtype, None) for dtype in TOLERANCE), (torch.bfloat16, 1), (torch.bfloat16, 3)]
ODD = (1, 63, 64, 65, 77, 0, 129, 1000)
SHAPES = [  # heads, R, P, lengths
    (16, 512, 64, (8192, 8192)),
    (16, 512, 64, ODD),
    (128, 512, 64, (4096, 4096)),
    (128, 512, 64, ODD),
    (100, 512, 64, ODD),
    (32, 256, 64, (2048,)),
    (32, 256, 64, ODD),
    (20, 512, 64, ODD),
    (5, 512, 64, ODD),
    (1, 256, 64, ODD),
    (40, 256, 64, ODD),
    (3, 32, 16, ODD),
]


@pytest.mark.parametrize(("dtype", "splits"), FORMS)
@pytest.mark.parametrize(("heads", "kv_lora", "rope", "lengths"), SHAPES)
def test_any_shape_and_dtype_agrees_with_fp64(heads, kv_lora, rope, lengths, dtype, splits):
    case = Case(lengths, heads, kv_lora, rope, dtype, splits)
    arguments = make(case, GPU)
    out = launch(case, arguments)
    assert difference(case, arguments, out) < TOLERANCE[dtype]
    padded = [b for b, length in enumerate(lengths) if length == 0]
    assert not out[padded].any(), "a padded row is zero"


@pytest.mark.parametrize("heads", [16, 32, 128])
def test_the_same_launch_gives_the_same_bits(heads):
    case = Case((3000, 1, 0, 777), heads, 512, 64, torch.bfloat16)
    arguments = make(case, GPU)
    first = launch(case, arguments).clone()
    assert all(torch.equal(launch(case, arguments), first) for _ in range(20))


def captured(arguments, out, scratch, **options):
    """A graph of the append and the attention, and the entries that it appends."""
    from gpubench.kernels.mla_cache import mla_cache_append
    from gpubench.kernels.mla_decode import mla_decode

    cache = arguments[2]
    latent, rope = torch.randn(len(out), cache.shape[2], device=GPU).to(cache.dtype).split((out.shape[2], 64), dim=-1)

    def step():
        mla_cache_append(latent, rope, *arguments[2:])
        mla_decode(*arguments, out, scratch, **options)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph, step


@pytest.mark.parametrize(("heads", "kv_lora"), [(16, 512), (32, 256), (128, 512)])
def test_eight_replays_on_changing_inputs_equal_eager_bit_for_bit(heads, kv_lora):
    from gpubench.kernels.mla_decode import mla_decode_scratch

    case = Case((1000, 1000, 1000), heads, kv_lora, 64, torch.bfloat16)
    arguments = make(case, GPU)
    cache, table, lengths = arguments[2:]
    cache.nan_to_num_()  # lengths change, and with them what counts
    out = torch.empty(3, heads, kv_lora, dtype=torch.bfloat16, device=GPU)
    scratch = torch.empty(mla_decode_scratch(*arguments[:2], table), device=GPU)
    graph, step = captured(arguments, out, scratch, softmax_scale=scale(case))
    for turn in range(8):
        torch.manual_seed(turn)
        for query in arguments[:2]:
            query.copy_(torch.randn(query.shape))
        lengths.copy_(torch.randint(0, 1001, (3,)))
        table.copy_(torch.randperm(len(cache))[: table.numel()].view(table.shape))
        before = cache.clone()
        out.fill_(float("nan"))
        scratch.fill_(float("nan"))
        graph.replay()
        replayed, written = out.clone(), cache.clone()
        cache.copy_(before)
        out.fill_(float("nan"))
        step()
        assert torch.equal(replayed, out) and torch.equal(written, cache)
        assert not out.isnan().any()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize("heads", [16, 32, 128])
def test_a_launch_neither_synchronises_nor_allocates(heads):
    from gpubench.kernels.mla_decode import mla_decode, mla_decode_scratch

    case = Case((500, 20), heads, 512, 64, torch.bfloat16)
    arguments = make(case, GPU)
    out = torch.empty(2, heads, 512, dtype=torch.bfloat16, device=GPU)
    scratch = torch.empty(mla_decode_scratch(*arguments[:2], arguments[3]), device=GPU)
    mla_decode(*arguments, out, scratch, softmax_scale=1.0)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        mla_decode(*arguments, out, scratch, softmax_scale=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_new_entry_lands_in_its_row_bit_for_bit_and_nowhere_else(dtype):
    from gpubench.kernels.mla_cache import mla_cache_append

    case = Case(ODD, 1, 512, 64, dtype)
    _, _, cache, table, lengths = make(case, GPU)
    cache.copy_(torch.randn(cache.shape))
    latent, rope = torch.randn(len(ODD), 576, device=GPU).to(dtype).split((512, 64), dim=-1)
    expected = cache.clone()
    for b, length in enumerate(ODD):
        if length:
            page, row = divmod(length - 1, 64)
            expected[table[b, page].long(), row] = torch.cat([latent[b], rope[b]])
    mla_cache_append(latent, rope, cache, table, lengths)
    assert torch.equal(cache, expected)


def test_an_argument_on_another_device_is_named():
    from gpubench.kernels.mla_decode import mla_decode

    case = Case((65,), 2, 512, 64, torch.bfloat16)
    arguments = list(make(case, GPU))
    arguments[3] = arguments[3].cpu()
    out, scratch = torch.empty(1, 2, 512, dtype=torch.bfloat16, device=GPU), torch.empty(0, device=GPU)
    with pytest.raises(ArgumentError, match=r"block_table is torch\.int32 on cpu; wanted int32 on cuda:0"):
        mla_decode(*arguments, out, scratch, softmax_scale=1.0)


@pytest.mark.parametrize("launch_", ["eager", "graph"])
@pytest.mark.parametrize("scope", ["core", "op"])
@pytest.mark.parametrize("model", ["deepseek-v3", "mistral-small-4-119b", "glm-4.7-flash"])
@pytest.mark.parametrize("backend", ["torch_absorbed", "triton", "triton_splitk", "flashinfer"])
def test_every_backend_passes_the_workloads_own_comparison(backend, model, scope, launch_):
    if backend == "flashinfer" and importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer is not installed")
    workload = get_workload("mla_decode")
    arguments = {"batch": 5, "isl": 700, "model": model, "scope": scope, "lengths": "ragged"}
    with torch.device(GPU):
        torch.manual_seed(0)
        reference = workload.oracle_function(workload.make(**arguments)["problem"])
        torch.manual_seed(0)
        problem = workload.make(**arguments)["problem"]
        try:
            step = workload.backends[backend].setup(problem, launch_)
        except Unsupported as reason:
            pytest.skip(str(reason))
    assert workload.compare_function(step(), reference) is None
