"""Remembered launches: each kind of arguments has the compilation that is right for it, and is looked up once."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from gpubench.kernels.launching import Launcher

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


@triton.jit
def _scale_kernel(x, out, stride, count, factor, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, (tl.load(x + i * stride, mask=i < count) * factor).to(out.dtype.element_ty), mask=i < count)


class Counting:
    """A kernel, and how often Triton was left to choose."""

    def __init__(self) -> None:
        self.chosen = 0

    def __getitem__(self, grid):
        self.chosen += 1
        return _scale_kernel[grid]


def test_every_kind_of_arguments_gets_what_was_compiled_for_it():
    kernel = Counting()
    launch = Launcher(kernel)
    kinds = [
        (dtype, offset, stride, count, block)
        for dtype in (torch.float32, torch.bfloat16)
        for offset in (0, 1, 8)
        for stride, count in ((1, 64), (3, 33), (16, 1))
        for block in (64, 128)
    ]
    for factor in (2.0, 0.5):
        for dtype, offset, stride, count, block in kinds:
            x = torch.arange(4096, device="cuda:0").to(dtype)[offset:]
            out = torch.full((block,), -1, dtype=dtype, device="cuda:0")
            launch((1, 1, 1), (x, out), (stride, count, factor), {"BLOCK": block}, num_warps=1)
            assert torch.equal(out[:count], (x[: stride * count : stride].float() * factor).to(dtype))
            assert (out[count:] == -1).all()
    assert kernel.chosen == 2 * 2 * 2 * 3 * 2, (
        "by factor, dtype, alignment (of 0 and 8 it is the same), numbers, constant"
    )


def test_a_remembered_launch_goes_to_the_current_stream_and_into_a_capture():
    launch = Launcher(Counting())
    x, out = torch.ones(64, device="cuda:0"), torch.zeros(64, device="cuda:0")

    def step():
        launch((1, 1, 1), (x, out), (1, 64, 2.0), {"BLOCK": 64}, num_warps=1)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    out.zero_()
    torch.cuda.synchronize()
    assert not out.any(), "a capture runs nothing"
    graph.replay()
    assert (out == 2).all()
