"""Scores of a sparse-attention indexer, of one query a sequence.

    out[b, t] = Σ over heads j of weights[b, j] · ReLU(q[b, j] · keys[b, t]),   t < lengths[b]; −inf beyond

q [sequences, heads, dim], weights [sequences, heads], keys [sequences, columns, dim], in one of float32, float16 and
bfloat16, a sequence's queries and its weights adjacent; lengths int32 [sequences]; out float32 [sequences, width],
width ≥ columns: a row of top-k's, padding and all. Each product is summed in float32, and a float32 one is exact to
rounding: no TF32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_adjacent, check_contiguous, check_index, check_launchable, check_operand
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["indexer_score"]

# Keys per program by bytes per element: 128 of them and 64 queries of 128 dimensions are 48 KiB in 16 bits. Not tuned.
_KEYS = {2: 128, 4: 64}


@triton.jit
def _indexer_score_kernel(
    q,
    weights,
    keys,
    lengths,
    out,
    query_stride,
    weight_stride,
    key_stride,
    out_stride,
    width,
    heads,
    dim,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    KEYS: tl.constexpr,
):
    sequence = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    length = tl.load(lengths + sequence)
    out += sequence * out_stride
    if tl.program_id(0) * KEYS >= length:
        tl.store(out + token, tl.full((KEYS,), float("-inf"), tl.float32), mask=token < width)
        return
    head, d = tl.arange(0, HEADS), tl.arange(0, DIM)
    within = (head[:, None] < heads) & (d[None, :] < dim)
    query = tl.load(q + sequence * query_stride + head[:, None] * dim + d[None, :], mask=within, other=0.0)
    weight = tl.load(weights + sequence * weight_stride + head, mask=head < heads, other=0.0).to(tl.float32)
    row = keys + sequence * key_stride + token[None, :].to(tl.int64) * dim + d[:, None]
    key = tl.load(row, mask=(token[None, :] < length) & (d[:, None] < dim), other=0.0)
    product = tl.dot(query, key, input_precision="ieee")
    score = tl.sum(tl.maximum(product, 0.0) * weight[:, None], axis=0)
    tl.store(out + token, tl.where(token < length, score, float("-inf")), mask=token < width)


_LAUNCH = Launcher(_indexer_score_kernel)


@as_op("indexer_score", mutates=("out",))
def indexer_score(q: Tensor, weights: Tensor, keys: Tensor, lengths: Tensor, out: Tensor) -> None:
    """Write the scores. Neither allocates nor synchronises; ArgumentError names an argument that doesn't fit."""
    kernel = "indexer_score"
    check_launchable(kernel, "q", q)
    if q.dim() != 3 or min(q.shape) < 1 or q.shape[1] > 128 or q.shape[2] > 128:
        raise ArgumentError(
            f"{kernel}: q has shape {tuple(q.shape)}; wanted (sequences, heads, dim), up to 128 of each of the last two"
        )
    sequences, heads, dim = q.shape
    columns = keys.shape[1] if keys.dim() == 3 else 0
    check_operand(kernel, "weights", weights, (sequences, heads), like=q)
    check_operand(kernel, "keys", keys, (sequences, columns, dim), like=q)
    check_index(kernel, "lengths", lengths, (sequences,), like=q)
    if q.stride()[1:] != (dim, 1):
        raise ArgumentError(f"{kernel}: q has strides {q.stride()}; wanted a sequence's heads adjacent: (…, {dim}, 1)")
    check_adjacent(kernel, "weights", weights)
    check_contiguous(kernel, "keys", keys)
    if out.dim() != 2 or out.shape[0] != sequences or out.shape[1] < columns or columns < 1:
        raise ArgumentError(
            f"{kernel}: out has shape {tuple(out.shape)}; wanted ({sequences}, width), at least {max(columns, 1)} wide"
        )
    if out.dtype is not torch.float32 or out.device != q.device:
        raise ArgumentError(f"{kernel}: out is {out.dtype} on {out.device}; wanted float32 on {q.device}")
    check_adjacent(kernel, "out", out)
    block = _KEYS[q.element_size()]
    _LAUNCH(
        (triton.cdiv(out.shape[1], block), sequences, 1),
        (q, weights, keys, lengths, out),
        (q.stride(0), weights.stride(0), keys.stride(0), out.stride(0), out.shape[1], heads, dim),
        {
            "HEADS": max(triton.next_power_of_2(heads), 16),
            "DIM": max(triton.next_power_of_2(dim), 16),
            "KEYS": block,
        },
        num_warps=4,
    )
