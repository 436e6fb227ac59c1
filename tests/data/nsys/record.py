"""What the traces in this folder recorded: `record.sh` runs it under nsys, on a GPU.

python record.py nested    nested and repeated ranges, two streams, two threads, copies and fills, torch's own NVTX,
                           a graph captured layer by layer while recording was on, and its replays
python record.py died      a cell that ends well; then one with an illegal access, which ends the process with two
                           ranges open
"""

from __future__ import annotations

import os
import sys
import threading

import nvtx
import torch

DOMAIN = "gpubench"


def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    with nvtx.annotate("attention", domain=DOMAIN):
        y = torch.softmax(x @ w, dim=-1)
    with nvtx.annotate("mlp", domain=DOMAIN):
        return torch.relu(y @ w) + x


def step(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        with nvtx.annotate("layer", domain=DOMAIN):
            x = layer(x, w)
    return x


def eager(x: torch.Tensor, w: torch.Tensor) -> None:
    for _ in range(4):
        torch.cuda.synchronize()
        with nvtx.annotate("cell=eager/rep", domain=DOMAIN):
            step(x, w)
    torch.cuda.synchronize()
    torch.cuda.nvtx.range_push("torch's own")
    step(x, w)
    torch.cuda.nvtx.range_pop()


def streams(x: torch.Tensor, w: torch.Tensor) -> None:
    side = torch.cuda.Stream()
    host = torch.empty(1 << 20, pin_memory=True)
    device = torch.empty(1 << 20, device="cuda")
    for _ in range(3):
        torch.cuda.synchronize()
        with nvtx.annotate("cell=streams/rep", domain=DOMAIN):
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                device.copy_(host, non_blocking=True)
                device.sum()  # a reduction over all blocks begins with a fill of its semaphores
            step(x, w)
            torch.cuda.current_stream().wait_stream(side)


def queued(x: torch.Tensor, w: torch.Tensor) -> None:
    large = torch.randn(4096, 4096, device="cuda")  # takes the GPU longer than the host to launch
    step(large, large)  # else the first repetition would load kernels meanwhile
    torch.cuda.synchronize()
    for _ in range(3):  # nothing waits in between: each is queued behind the one before
        with nvtx.annotate("cell=queued/rep", domain=DOMAIN):
            step(large, large)
    torch.cuda.synchronize()


def threads(x: torch.Tensor, w: torch.Tensor) -> None:
    def work() -> None:
        with nvtx.annotate("on another thread", domain=DOMAIN):
            step(x, w)
        torch.relu(x @ w)  # in no range

    with nvtx.annotate("cell=threads/rep", domain=DOMAIN):
        thread = threading.Thread(target=work)
        thread.start()
        step(x, w)
        thread.join()
        torch.cuda.synchronize()


def graph(x: torch.Tensor, w: torch.Tensor) -> None:
    captured = torch.cuda.CUDAGraph()
    with nvtx.annotate("cell=graph/capture", domain=DOMAIN), torch.cuda.graph(captured):
        step(x, w)
    for _ in range(4):
        torch.cuda.synchronize()
        with nvtx.annotate("cell=graph/rep", domain=DOMAIN):
            captured.replay()
    torch.cuda.synchronize()


def died(x: torch.Tensor, w: torch.Tensor) -> None:
    import triton
    import triton.language as tl

    @triton.jit
    def wild_store(pointer):
        tl.store(pointer + 1_000_000_000_000 + tl.arange(0, 128), 1.0)

    with nvtx.annotate("cell=died/rep", domain=DOMAIN):
        step(x, w)
        with nvtx.annotate("attention", domain=DOMAIN):
            wild_store[(1,)](x)
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                os.abort()  # as a library does that can't raise; an exception would close the ranges on its way


def main() -> None:
    x, w = torch.randn(256, 256, device="cuda"), torch.randn(256, 256, device="cuda")
    step(x, w)
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    if sys.argv[1] == "nested":
        for scene in (eager, streams, queued, threads, graph):
            scene(x, w)
        torch.cuda.profiler.stop()
    else:
        eager(x, w)
        torch.cuda.synchronize()
        # as a worker does between cells: what was recorded so far is written out, and survives what comes
        torch.cuda.profiler.stop()
        torch.cuda.profiler.start()
        died(x, w)


main()
