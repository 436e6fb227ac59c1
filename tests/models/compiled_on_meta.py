"""How often the default Pareto's models are compiled over its shapes, at their real widths and without their memory.

A program of its own, for Triton decides at import whether it interprets. Tensors are on the device `meta`: operators
give shapes and compute nothing.
"""

from __future__ import annotations

import sys

import torch
from torch._dynamo.utils import counters

from gpubench.models.compiled import CompiledStep
from gpubench.models.variant import Variant
from gpubench.ranges import prepare_ranges
from gpubench.workloads.decode_step import next_tokens

MODELS = [Variant("qwen3.5-35b-a3b", layers=4), Variant("deepseek-v3.2", layers=4, parallel="TEP", ranks=16)]


def count(variant: Variant) -> list[int]:
    """How many compilations there were after each batch."""
    torch.compiler.reset()
    counters["stats"].clear()
    found = []
    with torch.device("meta"):
        model = variant.config.build(torch.bfloat16, "triton")
        step = CompiledStep(next_tokens, model, backend="eager")
    for batch in (1, 4, 16, 64, 256):
        for length in (1024, 8192, 32768):
            with torch.device("meta"):
                cache, tokens = model.make_cache(batch, length), torch.zeros(batch, dtype=torch.int64)
            step.expect(cache, tokens)
            step(cache, tokens)
        found.append(counters["stats"]["unique_graphs"])
    return found


if __name__ == "__main__":
    prepare_ranges(None, torch.compiler.is_dynamo_compiling)
    for variant in MODELS:
        sys.stdout.write(f"{' '.join(map(str, count(variant)))}\n")
