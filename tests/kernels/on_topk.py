"""What runs in the interpreter's process: a top-k of scores that a seed and a kind make, and what is wrong with it."""

from __future__ import annotations

from unittest import mock

import numpy
import torch

MORE = 40
"""Columns beyond a row's valid ones, full of scores that would all be chosen."""


def make_scores(kind, rows, columns, dtype):
    scores = torch.randn(rows, columns)
    if kind == "ties":
        scores = scores.round(decimals=0) * 0.5
    elif kind == "constant":
        scores = torch.full_like(scores, -1.5)
    elif kind == "infinite":
        scores[scores < 0.3] = float("-inf")
        scores[scores > 2.2] = float("inf")
    elif kind == "nan":
        scores[:, ::97] = float("nan")
    elif kind == "heavy":
        scores = torch.sign(scores) * torch.exp(3 * scores.abs())
    elif kind == "tiny":
        scores = scores * 1e-7
    scores = scores.to(dtype)
    row_stride = -(-columns // 8) * 8 + 8 * MORE // 8
    padded = torch.full((rows, row_stride), 60000.0, dtype=dtype)
    padded[:, :columns] = scores
    return padded[:, : row_stride - MORE]


def make_hint(kind, scores, rows, columns, k):
    if kind == "good":
        noisy = scores[:, :columns].float().nan_to_num() + 0.3 * torch.randn(rows, columns)
        return torch.nn.functional.pad(noisy.topk(min(k, columns)).indices.int(), (0, k - min(k, columns)), value=-1)
    if kind == "hostile":
        return torch.randint(-(2**31), 2**31 - 1, (rows, k), dtype=torch.int32)
    if kind == "one":
        return torch.zeros(rows, k, dtype=torch.int32)
    if kind == "worst":
        worst = (-scores[:, :columns].float().nan_to_num()).topk(min(k, columns)).indices.int()
        return torch.nn.functional.pad(worst, (0, k - min(k, columns)), value=7)
    return torch.full((rows, k), -1, dtype=torch.int32)


def topk_difference(algorithm, columns, k, dtype, kind, hint="good", lengths=None, seed=0, tile=None):
    """None, or what is wrong with a launch on three rows; `tile` columns at most are given to a program."""
    from gpubench.kernels import topk_gvr, topk_radix
    from gpubench.workloads.indexer_topk import describe_difference

    torch.manual_seed(seed)
    scores = make_scores(kind, 3, columns, dtype)
    valid = torch.tensor(lengths or [columns, max(columns - 3, 0), columns // 2], dtype=torch.int32)
    values = torch.full((4, k), 7.0, dtype=dtype)
    indices = torch.full((4, k), -7, dtype=torch.int32)
    out = scores, valid, values[:3], indices[:3]
    small = mock.patch.multiple(topk_radix, _LEAST_CHUNK=tile or 2048, sm_count=lambda: 16)
    with numpy.errstate(all="ignore"), small, mock.patch.object(topk_gvr, "TILE", tile or 32768):
        if algorithm == "radix":
            scratch = topk_radix.make_radix_scratch(3, scores.shape[1], k)
            topk_radix.topk_radix(*out, scratch.candidates, scratch.places)
        else:
            scratch = topk_gvr.make_gvr_scratch(3, scores.shape[1], k)
            guess = make_hint(hint, scores, 3, columns, k)
            topk_gvr.topk_gvr(*out[:2], guess, *out[2:], scratch.candidates, scratch.places)
    if (values[3] != 7).any() or (indices[3] != -7).any():
        return "something was written beyond the outputs"
    inside = torch.arange(scores.shape[1]) < valid[:, None]
    best = scores.masked_fill(~inside, float("-inf")).topk(min(k, scores.shape[1])).values
    best = torch.nn.functional.pad(best, (0, k - best.shape[1]), value=float("-inf"))
    return describe_difference(scores, valid, *out[2:], best)


def call(algorithm, arguments):
    """A launch with these tensors; scratch for rows of 8 where they have none."""
    from gpubench.kernels import topk_gvr, topk_radix

    make = topk_radix.make_radix_scratch if algorithm == "radix" else topk_gvr.make_gvr_scratch
    scratch = vars(make(2, 64, 8)) | arguments
    if algorithm == "radix":
        scratch.pop("hint")
    run = topk_radix.topk_radix if algorithm == "radix" else topk_gvr.topk_gvr
    run(**scratch)


def grow_draft(before, after):
    """The error when scratch for `before` rows meets `after`, and what is wrong once it is sized anew."""
    from gpubench.errors import ArgumentError
    from gpubench.kernels.topk_radix import make_radix_scratch, topk_radix
    from gpubench.workloads.indexer_topk import describe_difference

    k, width = 2048, 2056
    x = torch.randn(after, width)
    lengths = torch.full((after,), width, dtype=torch.int32)
    values, indices = torch.empty(after, k), torch.empty(after, k, dtype=torch.int32)
    scratch = make_radix_scratch(before, width, k)
    try:
        topk_radix(x, lengths, values, indices, scratch.candidates, scratch.places)
    except ArgumentError as error:
        message = str(error)
    scratch = make_radix_scratch(after, width, k)
    topk_radix(x, lengths, values, indices, scratch.candidates, scratch.places)
    return message, describe_difference(x, lengths, values, indices, x.topk(k).values)


def check_operator(name):
    """opcheck, and torch.compile of a step that reads what the operator wrote."""
    from gpubench.kernels.topk_gvr import make_gvr_scratch
    from gpubench.kernels.topk_radix import make_radix_scratch

    x = torch.randn(2, 64)
    lengths = torch.tensor([64, 9], dtype=torch.int32)
    values, indices = torch.zeros(2, 16), torch.zeros(2, 16, dtype=torch.int32)
    hint = (torch.zeros(2, 16, dtype=torch.int32),) if name == "topk_gvr" else ()
    scratch = (make_gvr_scratch if hint else make_radix_scratch)(2, 64, 16)
    arguments = (x, lengths, *hint, values, indices, scratch.candidates, scratch.places)
    operator = getattr(torch.ops.gpubench, name)
    torch.library.opcheck(operator.default, arguments)
    values.zero_()

    def step(*arguments):
        operator(*arguments)
        return values.sum(-1)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(*arguments)
    return compiled, x.topk(16).values[0].sum()


def remembered_scratch():
    """What the per-call launcher remembers: is it the same after an equal launch, a larger one, a smaller one; is it
    gone after a release?"""
    from gpubench.kernels.topk_radix import PerCallRadix

    launcher = PerCallRadix()
    seen = []
    for rows in (1, 1, 3, 2):
        x, lengths = torch.randn(rows, 64), torch.full((rows,), 64, dtype=torch.int32)
        launcher(x, lengths, torch.empty(rows, 8), torch.empty(rows, 8, dtype=torch.int32))
        seen.append(launcher._scratch)
    launcher.release()
    return seen[0] is seen[1], seen[1] is seen[2], seen[2] is seen[3], launcher._scratch is None
