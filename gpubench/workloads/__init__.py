"""What is measured: one file per workload, registered when it is imported."""

from __future__ import annotations

import importlib

__all__ = ["BUILTIN", "load_builtin"]

BUILTIN = (
    "closed_loop",
    "command",
    "decode_step",
    "decode_piecewise",
    "fault",
    "gated_delta_decode",
    "gated_delta_prefill",
    "indexer_score",
    "indexer_topk",
    "matmul",
    "mla_decode",
    "mla_prefill",
    "rmsnorm",
    "sparse_gqa_decode",
)


def load_builtin() -> None:
    """Import, and so register, every workload that comes with gpubench."""
    for name in BUILTIN:
        importlib.import_module(f"{__name__}.{name}")
