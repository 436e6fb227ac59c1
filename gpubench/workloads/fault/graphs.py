"""Faults of CUDA graphs: what a capture doesn't allow, and addresses that a replay remembers for too long."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from gpubench.graphs.switch import are_graphs_off
from gpubench.registry import Step
from gpubench.workloads.fault.device import FAR, look_at
from gpubench.workloads.fault.planting import plant

T = TypeVar("T")

SCRATCH_BYTES = 64 << 20
"""So much has a segment of torch's allocator to itself, which is unmapped when the cache is emptied."""


@plant("illegal_address_in_graph", needs_gpu=True)
def _(x: Tensor) -> Step:
    from gpubench.kernels.faulty import BLOCK, wild_store

    target = torch.empty_like(x)
    replay = capture(lambda offset: wild_store[(1,)](target, offset, BLOCK, BLOCK=BLOCK), 0, FAR)

    def step() -> Tensor:
        replay()
        return look_at(target)  # which must live as long as the graph does, or its address would be a fault of its own

    return step


@plant("stale_scratch", needs_gpu=True)
def _(x: Tensor) -> Step:
    scratch = make_scratch()
    address = scratch.data_ptr()
    replay = _capture_with_scratch(x, torch.empty_like(x), scratch)
    del scratch
    others = make_scratch()
    if others.data_ptr() != address and not are_graphs_off():  # without a graph the step itself keeps its scratch
        raise RuntimeError("torch's allocator has not given the freed block to the next who asked for as much")
    kept = others[: x.numel()].view_as(x)

    def step() -> Tensor:
        torch.add(x, 1, out=kept)
        replay()  # writes to where `kept` lies now
        return kept

    return step


@plant("unmapped_scratch", needs_gpu=True)
def _(x: Tensor) -> Step:
    out, scratch = torch.empty_like(x), make_scratch()
    replay = _capture_with_scratch(x, out, scratch)
    del scratch
    torch.cuda.empty_cache()

    def step() -> Tensor:
        replay()
        return look_at(x)

    return step


@plant("undersized_scratch", needs_gpu=True)
def _(x: Tensor) -> Step:
    arena = torch.empty(2 * x.numel())
    half = x.numel() // 2
    scratch, kept = arena[:half], arena[half : half + x.numel()].view_as(x)
    replay = _capture_with_scratch(x, torch.empty_like(x), scratch)

    def step() -> Tensor:
        torch.add(x, 1, out=kept)
        replay()  # fills twice as much as `scratch` is: `kept` begins where that ends
        return kept

    return step


@plant("moved_cache", needs_gpu=True)
def _(x: Tensor) -> Step:
    cache, out = x - 1, torch.empty_like(x)
    replay = capture(lambda _: torch.add(cache, 1, out=out), None, None)
    grown = torch.empty(2 * x.shape[0], *x.shape[1:])
    cache = grown[: x.shape[0]].copy_(x)  # one token later, in a larger cache somewhere else

    def step() -> Tensor:
        replay()  # reads where the cache was
        return out

    return step


@plant("allocation_in_capture", needs_gpu=True)
def _(x: Tensor) -> Step:
    def work(is_captured: bool) -> Tensor:
        if is_captured:
            _allocate_behind_torchs_back(SCRATCH_BYTES)
        return x + 1

    return capture(work, False, True)


@plant("sync_in_capture", needs_gpu=True)
def _(x: Tensor) -> Step:
    return capture(lambda _: x + x.sum().item(), None, None)


def make_scratch() -> Tensor:
    return torch.empty(SCRATCH_BYTES // 4, dtype=torch.float32, device="cuda")


def _capture_with_scratch(x: Tensor, out: Tensor, scratch: Tensor) -> Step:
    """x + 1 -> out, by way of scratch memory whose address the graph remembers."""
    from gpubench.kernels.faulty import BLOCK, fill_scratch, read_scratch

    size = x.numel()
    grid = (-(-size // BLOCK),)

    def work(_: None) -> Tensor:
        fill_scratch[grid](x, scratch, size, BLOCK=BLOCK)
        read_scratch[grid](scratch, out, size, BLOCK=BLOCK)
        return out

    return capture(work, None, None)


def capture(work: Callable[[T], object], warm_up: T, captured: T) -> Step:
    """Capture `work(captured)` after `work(warm_up)` has compiled and loaded all it needs; the replay as a step.

    As everywhere, it is warmed up on a stream of its own: what it allocates then shares no segment with anything else.
    What `work` returns is kept, as a graph doesn't keep the tensors whose addresses it holds. With GPUBENCH_GRAPHS=off
    the step runs `work(captured)` instead.
    """
    if are_graphs_off():
        return lambda: work(captured)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work(warm_up)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = work(captured)

    def replay() -> object:
        graph.replay()
        return outputs

    return replay


def _allocate_behind_torchs_back(size_bytes: int) -> None:
    """As an extension does that calls cudaMalloc itself."""
    address = ctypes.c_void_p()
    status = ctypes.CDLL("libcuda.so.1").cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size_bytes))
    if status:
        name = ctypes.c_char_p()
        ctypes.CDLL("libcuda.so.1").cuGetErrorName(status, ctypes.byref(name))
        raise RuntimeError(f"cuMemAlloc of {size_bytes} bytes: {(name.value or b'?').decode()}")
