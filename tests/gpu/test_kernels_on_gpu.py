"""The Triton kernels where they belong: every dtype, bfloat16 too, without a sync, and under capture."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


def relative_error(out, reference):
    return ((out.double() - reference).norm() / reference.norm()).item()


def matmul_case(m, n, k, dtype):
    from gpubench.kernels.matmul import matmul

    a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    out = torch.full((m, n), float("nan"), dtype=dtype)
    return lambda: matmul(a, b, out), lambda: a.double() @ b.double()


def rmsnorm_case(rows, dim, dtype):
    from gpubench.kernels.rmsnorm import rmsnorm

    x, weight = torch.randn(rows, dim, dtype=dtype), torch.randn(dim, dtype=dtype)
    out = torch.full((rows, dim), float("nan"), dtype=dtype)
    scale = x.double().square().mean(-1, keepdim=True) + 1e-6
    return lambda: rmsnorm(x, weight, out), lambda: x.double() / scale.sqrt() * weight.double()


CASES = [
    (matmul_case, (1, 1, 1)),
    (matmul_case, (1, 4096, 4096)),
    (matmul_case, (17, 1000, 333)),
    (matmul_case, (64, 14336, 4096)),
    (matmul_case, (1024, 1024, 1024)),
    (rmsnorm_case, (1, 1)),
    (rmsnorm_case, (3, 1000)),
    (rmsnorm_case, (4096, 8192)),
    (rmsnorm_case, (2, 32768)),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("case", "sizes"), CASES)
def test_a_kernel_agrees_with_fp64(case, sizes, dtype):
    launch, reference = case(*sizes, dtype)
    assert relative_error(launch(), reference()) < TOLERANCE[dtype]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize(("case", "sizes"), [(matmul_case, (64, 512, 512)), (rmsnorm_case, (64, 512))])
def test_a_launch_neither_synchronises_nor_allocates_and_can_be_captured(case, sizes):
    launch, reference = case(*sizes, torch.bfloat16)
    launch()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        launch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = launch()
    out.fill_(float("nan"))
    graph.replay()
    assert relative_error(out, reference()) < TOLERANCE[torch.bfloat16]


def test_offsets_beyond_32_bits_are_right():
    from gpubench.kernels.rmsnorm import rmsnorm

    rows, dim = 65_600, 32_768  # 2.15e9 elements
    x = torch.randn(rows, dim, dtype=torch.bfloat16)
    weight = torch.ones(dim, dtype=torch.bfloat16)
    out = rmsnorm(x, weight, torch.empty_like(x))
    last = x[-1].double()
    assert relative_error(out[-1], last / (last.square().mean() + 1e-6).sqrt()) < TOLERANCE[torch.bfloat16]
