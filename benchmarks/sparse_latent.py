"""Attention to selected latents: read where they lie, or gathered first and then read as any other cache.

    python benchmarks/sparse_latent.py [--heads 8,16,128] [--batch 1,4,16,64] [--tokens 8192] [--k 2048]

For the latents of DeepSeek-V3.2 in bfloat16, kernel time of a launch in µs: the shortest of several replays of a graph
of many launches, each on a cache of its own, so that none finds its entries in the L2 cache. `floor` is the selected
entries' bytes over the copy bandwidth of an H200. It decides `_HEADS_IN_PLACE` in gpubench/models/deepseek.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch

from gpubench.kernels.mla_decode import mla_decode, mla_decode_scratch
from gpubench.kernels.mla_gather import mla_gather
from gpubench.kernels.mla_sparse_decode import mla_sparse_decode, mla_sparse_decode_scratch

LATENT, ROPE, PAGE = 512, 64, 64
SCALE = 192**-0.5
BANDWIDTH = 4.27e12
CACHES_BYTES = 1 << 30
"""Of all caches together: many times an L2 cache."""
ROUNDS = 5


def replay_us(launches: Sequence[Callable[[], Any]]) -> float:
    """Of one of these launches."""
    launches[0]()  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(1 + ROUNDS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(launches))
    return min(times[1:])


def measure(batch: int, heads: int, tokens: int, k: int) -> tuple[float, float, float, float]:
    """Times in place, gathering, and gathered; and how far the two outputs are from each other."""
    pages, entry = -(-tokens // PAGE), LATENT + ROPE
    kind = torch.bfloat16
    copies = max(4, CACHES_BYTES // (batch * tokens * entry * 2))
    caches = [torch.randn(batch * pages, PAGE, entry, dtype=kind) for _ in range(copies)]
    chosen = [torch.rand(batch, tokens).topk(k).indices.int() for _ in caches]
    table = torch.randperm(batch * pages).int().view(batch, pages)
    lengths = torch.full((batch,), tokens, dtype=torch.int32)
    latent, rope = torch.randn(batch, heads, LATENT, dtype=kind), torch.randn(batch, heads, ROPE, dtype=kind)
    room = -(-k // PAGE)
    gathered = torch.zeros(batch * room, PAGE, entry, dtype=kind)
    its_table = torch.arange(batch * room, dtype=torch.int32).view(batch, room)
    its_lengths = torch.full((batch,), k, dtype=torch.int32)
    outs = torch.empty_like(latent), torch.empty_like(latent)
    scratch = (
        torch.empty(mla_sparse_decode_scratch(latent, k)),
        torch.empty(mla_decode_scratch(latent, rope, its_table)),
    )

    def in_place(cache: torch.Tensor, indices: torch.Tensor) -> None:
        where = cache, table, lengths, indices
        mla_sparse_decode(latent, rope, *where, outs[0], scratch[0], softmax_scale=SCALE)

    def gather(cache: torch.Tensor, indices: torch.Tensor) -> None:
        mla_gather(cache, table, lengths, indices, gathered)

    def gather_and_attend(cache: torch.Tensor, indices: torch.Tensor) -> None:
        gather(cache, indices)
        mla_decode(latent, rope, gathered, its_table, its_lengths, outs[1], scratch[1], softmax_scale=SCALE)

    times = [
        replay_us([lambda own=own, run=run: run(*own) for own in zip(caches, chosen, strict=True)])
        for run in (in_place, gather, gather_and_attend)
    ]
    difference = ((outs[0].double() - outs[1].double()).norm() / outs[1].double().norm()).item()
    return times[0], times[1], times[2], difference


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=numbers, default=[8, 16, 128])
    parser.add_argument("--batch", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--k", type=int, default=2048)
    given = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, {given.tokens} tokens, {given.k} of them selected; µs")
    print(f"{'heads':>5} {'batch':>5} {'floor':>7} {'in place':>9} {'gathering':>9} {'gathered':>9} {'apart':>9}")
    for heads in given.heads:
        for batch in given.batch:
            floor = batch * given.k * (LATENT + ROPE) * 2 / BANDWIDTH * 1e6
            with torch.device("cuda"):
                in_place, gathering, both, apart = measure(batch, heads, given.tokens, given.k)
            print(f"{heads:5} {batch:5} {floor:7.1f} {in_place:9.1f} {gathering:9.1f} {both:9.1f} {apart:9.1e}")


if __name__ == "__main__":
    main()
