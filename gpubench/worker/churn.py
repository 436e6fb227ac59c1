"""Fills the memory that torch holds but nobody owns, so that reading it shows.

A graph that remembers a freed address, a step that reads what it never wrote: both often get away with it because
the old contents are still there. After this they aren't.
"""

from __future__ import annotations

from typing import Any

import torch

from gpubench.worker.device import Device
from gpubench.worker.outputs import is_poisonable, leaves, view_bits

__all__ = ["poison_free_memory", "scatter"]

DECOYS = 8
LARGEST_DECOY_BYTES = 32 << 20
"""The C library maps larger blocks anew each time, zeroed by the kernel."""
NAN_BYTE = 0xFF
"""Repeated, it is a NaN in every float type, and −1 in every signed integer."""


def poison_free_memory(device: Device) -> int:
    """Overwrite every cached block that is free on the current stream; gives the bytes written. Nothing on a CPU.

    Blocks in a graph's private pool stay as they are: they are the graph's to use.
    """
    if not device.is_cuda:
        return 0
    stream = torch.cuda.current_stream().cuda_stream
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    sizes = sorted(_free_blocks(segments, stream), reverse=True)
    # Each is asked for by its exact size, the largest first, so that the allocator hands out those very blocks; all
    # are held until the last is written, or one block would be written again and again.
    held: list[torch.Tensor] = []
    reserved = torch.cuda.memory_reserved()
    with device.default():
        for size in sizes:
            block = torch.empty(size, dtype=torch.uint8)
            if torch.cuda.memory_reserved() > reserved:  # it was not there to be had; never take more than there was
                break
            held.append(block.fill_(NAN_BYTE))
    return sum(block.numel() for block in held)


def scatter(outputs: Any) -> None:
    """Leave copies of poisoned outputs behind in the host's free memory, for a step that allocates its own to get.

    The CPU's allocator has no list of free blocks to fill. But asking for several of an output's size, all held at
    once, takes those that the next request of that size would have got.
    """
    held = [
        view_bits(leaf).clone()
        for _, leaf in leaves(outputs)
        for _ in range(DECOYS)
        if is_poisonable(leaf) and leaf.device.type == "cpu" and leaf.nbytes <= LARGEST_DECOY_BYTES
    ]
    held.clear()


def _free_blocks(segments: list[dict[str, Any]], stream: int) -> list[int]:
    return [
        block["size"]
        for segment in segments
        if segment["stream"] == stream and tuple(segment.get("segment_pool_id", (0, 0))) == (0, 0)
        for block in segment["blocks"]
        if block["state"] == "inactive"
    ]
