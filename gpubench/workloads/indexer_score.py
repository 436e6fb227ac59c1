"""Scores of a sparse-attention indexer for one decode step: what its top-k selects from."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

import gpubench
from gpubench.models.shapes import INDEXER
from gpubench.registry import Step
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.sizes import check_sizes

Model = Literal["deepseek-v3.2", "deepseek-v4-flash", "deepseek-v4-pro"]

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""By the inputs: how far a score may be from the oracle's, as a share of it. torch rounds products to their dtype."""


@gpubench.workload("indexer_score")
def indexer_score(
    sequences: int,
    isl: int,
    model: Model = "deepseek-v3.2",
    dtype: FloatType = "bfloat16",
    launch: Launch = "eager",
) -> dict[str, Tensor]:
    """Indexer scores of one query a sequence: I[t] = Σ_j w_j · ReLU(q_j · k_t), over `isl` tokens, compressed."""
    shape, columns = INDEXER[model], _columns(isl, model)
    check_sizes(sequences=sequences)
    check_sizes(shape.compress_ratio, isl=isl)
    wanted = torch_dtype(dtype)
    return {
        "q": torch.randn(sequences, shape.heads, shape.dim).to(wanted),
        "weights": (torch.rand(sequences, shape.heads) / (shape.heads * shape.dim**0.5)).to(wanted),
        "keys": torch.randn(sequences, columns, shape.dim).to(wanted),
    }


def _columns(isl: int, model: Model) -> int:
    return isl // INDEXER[model].compress_ratio


@indexer_score.backend("torch", baseline=True)
def _(q: Tensor, weights: Tensor, keys: Tensor, launch: Launch) -> Step:
    def step() -> Tensor:
        products = torch.matmul(q, keys.mT).relu_()
        return torch.matmul(weights[:, None], products)[:, 0].float()

    return launched(step, launch)


@indexer_score.backend("triton", requires=["triton"])
def _(q: Tensor, weights: Tensor, keys: Tensor, launch: Launch) -> Step:
    from gpubench.kernels.indexer_score import indexer_score as run

    sequences, columns, _ = keys.shape
    lengths = torch.full((sequences,), columns, dtype=torch.int32, device=q.device)
    padded = q.new_empty(sequences, math.ceil(columns / 8) * 8, dtype=torch.float32)

    def step() -> Tensor:
        run(q, weights, keys, lengths, padded)
        return padded[:, :columns]

    return launched(step, launch)


@indexer_score.oracle
def _(q: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    scores = [
        (weight[:, None] * torch.relu(query @ key.T)).sum(0)
        for query, weight, key in zip(q.double(), weights.double(), keys.double(), strict=True)
    ]
    return torch.stack(scores)


@indexer_score.compare
def _(out: Tensor, ref: Tensor, q: Tensor) -> str | None:
    """Every score close to the reference's. A score is a sum of what isn't negative, so nothing cancels."""
    limit, off = _TOLERANCE[q.dtype], (out - ref).abs() / ref.abs()
    is_wrong = ~(off <= limit)  # a NaN is
    if not is_wrong.any():
        return None
    row, column = (int(place) for place in is_wrong.nonzero()[0])
    return (
        f"{int(is_wrong.sum()):,} of {out.numel():,} scores are off by more than {limit:g} of themselves, the first at "
        f"[{row}, {column}]: got {float(out[row, column]):.6g}, want {float(ref[row, column]):.6g}"
    )


@indexer_score.bytes
def _(sequences: int, isl: int, model: Model, dtype: FloatType) -> int:
    """Keys, queries and weights read once, float32 scores written."""
    shape, columns = INDEXER[model], _columns(isl, model)
    return sequences * ((columns * shape.dim + shape.heads * (shape.dim + 1)) * itemsize(dtype) + columns * 4)


@indexer_score.flop
def _(sequences: int, isl: int, model: Model) -> int:
    """The products with every key; ReLU and weights are small beside them."""
    shape = INDEXER[model]
    return sequences * _columns(isl, model) * shape.heads * (2 * shape.dim + 3)
