"""How long the pointer audit of a captured graph takes, part by part.

    python benchmarks/audit.py [--nodes N] [--blocks N]

The target is under 50 ms for a graph of 1,000 nodes. The judging is timed anywhere, on made-up nodes and memory;
reading a real graph's nodes and the allocator's state, and what watching adds to a capture, need a GPU and
cuda-bindings.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import torch

from gpubench.graphs.audit import Captured, audit
from gpubench.graphs.memory import Memory, read_memory
from gpubench.graphs.nodes import Argument, GraphNodes, Node, can_read_nodes, read_nodes

TARGET_S = 0.05
BASE = 0x7F00_0000_0000
SEGMENT = 20 << 20
BLOCKS_PER_SEGMENT = 20
ARGUMENTS = 8
ROUNDS = 7


def best_s(work: Callable[[], Any]) -> float:
    """The shortest of several runs."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def make_snapshot(num_blocks: int, num_freed: int) -> dict[str, Any]:
    """As torch gives it: segments in blocks, every eighth of them free, and a record of what was taken and freed."""
    size = SEGMENT // BLOCKS_PER_SEGMENT
    segments, trace = [], []
    for number in range(num_blocks // BLOCKS_PER_SEGMENT):
        start = BASE + number * SEGMENT
        blocks = [
            {
                "address": start + place * size,
                "size": size,
                "state": "inactive" if place % 8 == 7 else "active_allocated",
            }
            for place in range(BLOCKS_PER_SEGMENT)
        ]
        segments.append({"device": 0, "address": start, "total_size": SEGMENT, "blocks": blocks})
    for number in range(num_freed):
        address = BASE + (number * 7919 % num_blocks) * size
        trace += [{"action": action, "addr": address, "size": size} for action in ("alloc", "free_requested")]
    return {"segments": segments, "device_traces": [trace]}


def make_nodes(num_nodes: int, memory: Memory) -> GraphNodes:
    """Kernels whose parameters are addresses, half of them, and numbers."""
    chance = random.Random(0)
    ends = [(block.start, block.end) for segment in memory.segments for block in segment.blocks if block.is_live]

    def arguments() -> tuple[Argument, ...]:
        words = (
            chance.randrange(*chance.choice(ends)) if n % 2 else chance.randrange(1 << 33, 1 << 40)
            for n in range(ARGUMENTS)
        )
        return tuple(Argument(number, 0, 8, word) for number, word in enumerate(words))

    return GraphNodes([Node(f"kernel_{number % 20}", arguments(), ARGUMENTS) for number in range(num_nodes)])


def time_judging(num_nodes: int, num_blocks: int) -> list[tuple[str, float]]:
    before = read_memory(make_snapshot(num_blocks, 0)).without_trace()
    snapshot = make_snapshot(num_blocks, num_freed=2000)
    now = read_memory(snapshot)
    captured = Captured(make_nodes(num_nodes, before), (1, 0), before, before)
    return [
        (f"a state of {num_blocks:,} blocks, from its snapshot", best_s(lambda: read_memory(snapshot))),
        (f"judging {num_nodes:,} nodes", best_s(lambda: audit(captured, now, set(), lambda _: True))),
    ]


def time_on_gpu(num_nodes: int) -> list[tuple[str, float]]:
    """A real graph of so many nodes."""
    from gpubench.kernels.faulty import BLOCK, fill_scratch
    from gpubench.worker.capture_watch import CaptureWatch, read_state

    x, scratch = torch.ones(BLOCK, device="cuda"), torch.empty(BLOCK, device="cuda")

    def capture() -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(num_nodes):
                fill_scratch[(1,)](x, scratch, BLOCK, BLOCK=BLOCK)
        return graph

    fill_scratch[(1,)](x, scratch, BLOCK, BLOCK=BLOCK)
    plain_s = best_s(capture)
    watch = CaptureWatch()
    watch.open()
    try:
        watched_s = best_s(capture)
        graph = capture()
        return [
            ("a capture", plain_s),
            ("a capture that is watched", watched_s),
            (f"reading {num_nodes:,} nodes", best_s(lambda: read_nodes(graph.raw_cuda_graph()))),
            ("the allocator's state", best_s(read_state)),
            ("an audit: state and judging", best_s(watch.audit)),
        ]
    finally:
        watch.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=5000)
    arguments = parser.parse_args()
    print(f"target: {TARGET_S * 1e3:.0f} ms")
    for what, seconds in time_judging(arguments.nodes, arguments.blocks):
        print(f"{what:<48} {seconds * 1e3:8.2f} ms")
    if not torch.cuda.is_available() or not can_read_nodes():
        print("reading a real graph: needs a GPU and cuda-bindings")
        return
    print(torch.cuda.get_device_name())
    for what, seconds in time_on_gpu(arguments.nodes):
        print(f"{what:<48} {seconds * 1e3:8.2f} ms")


if __name__ == "__main__":
    main()
