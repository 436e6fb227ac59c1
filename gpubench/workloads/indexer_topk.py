"""Top-k of a sparse-attention indexer: the k best-scored columns of each row, exact, in any order."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

import gpubench
from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import Step
from gpubench.workloads.correlated_scores import FITS, LIKE, Distribution, make_hint, make_rows, next_rows
from gpubench.workloads.dtypes import FloatType, itemsize, torch_dtype
from gpubench.workloads.launch import Launch, launched
from gpubench.workloads.sizes import check_sizes


@gpubench.workload("indexer_topk")
def indexer_topk(  # noqa: PLR0913, PLR0917 (its parameters are the axes)
    columns: int,
    k: int = 2048,
    rows: int | None = None,
    sequences: int | None = None,
    drafts: int = 0,
    compress_ratio: int = 1,
    dtype: FloatType = "float32",
    distribution: Distribution = "flash_moderate",
    hit_rate: float | None = None,
    lengths: Literal["full", "ragged"] = "full",
    steps: int = 1,
    launch: Launch = "eager",
) -> dict[str, Any]:
    """The k best columns of each row of scores: values and indices, in any order.

    `rows`, or `sequences` × (1 + `drafts`); a sequence's rows see one token more each, and a column stands for
    `compress_ratio` tokens. `hit_rate` is the share of a row's best k that the step before had selected (by default
    the distribution's own). With `steps` a step of the benchmark runs that many decode steps, each of which gets the
    result of the one before as its hint.
    """
    rows = _count_rows(rows, sequences, drafts)
    check_sizes(columns=columns, compress_ratio=compress_ratio, steps=steps, k=k)
    if k > 2048:
        raise ArgumentError(f"k is {k}; wanted at most 2048")
    if hit_rate is None:
        hit_rate = FITS.get(distribution, FITS[LIKE]).hit_rate
    valid = _lengths(rows, columns, drafts, compress_ratio, lengths)
    scores = make_rows(distribution, rows, columns)
    hint = make_hint(scores, valid, k, hit_rate)
    sequence = [scores]
    for _ in range(steps - 1):
        sequence.append(next_rows(sequence[-1], valid, k, hit_rate, distribution))
    # Each row is padded to a multiple of 8 with −inf; so is what lies beyond its length.
    padded = torch.full((steps, rows, math.ceil(columns / 8) * 8), -math.inf)
    padded[:, :, :columns] = torch.stack(sequence)
    padded.masked_fill_(torch.arange(padded.shape[2]) >= valid[:, None], -math.inf)
    return {"x": padded.to(torch_dtype(dtype)), "valid": valid, "hint": hint}


def _count_rows(rows: int | None, sequences: int | None, drafts: int) -> int:
    check_sizes(rows=rows, sequences=sequences)
    check_sizes(0, drafts=drafts)
    if rows is not None and sequences is None:
        return rows
    if sequences is not None and rows is None:
        return sequences * (1 + drafts)
    raise ArgumentError(f"rows is {rows} and sequences {sequences}; wanted one of the two")


def _lengths(rows: int, columns: int, drafts: int, compress_ratio: int, lengths: str) -> Tensor:
    """Valid columns by row: the last draft of a sequence sees all its tokens, the others a token less each."""
    tokens = torch.full((rows,), columns * compress_ratio)
    if lengths == "ragged":
        sequences = math.ceil(rows / (1 + drafts))
        tokens = torch.randint(columns // 2, columns + 1, (sequences,)).repeat_interleave(1 + drafts)[:rows]
        tokens = tokens * compress_ratio
    before_last = drafts - torch.arange(rows) % (1 + drafts)
    return ((tokens - before_last) // compress_ratio).clamp_min(0).to(torch.int32)


def _outputs(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    steps, rows, _ = x.shape
    return x.new_empty(steps, rows, k), x.new_empty(steps, rows, k, dtype=torch.int32)


@indexer_topk.backend("torch", baseline=True)
def _(x: Tensor, valid: Tensor, k: int, launch: Launch) -> Step:
    return launched(_selecting(x, valid, k, lambda scores, most: torch.topk(scores, most, sorted=False)), launch)


@indexer_topk.backend("flashinfer", requires=["flashinfer-python:flashinfer", "cuda"])
def _(x: Tensor, valid: Tensor, k: int, launch: Launch) -> Step:
    import flashinfer

    if k > x.shape[2]:
        raise Unsupported(f"flashinfer.top_k selects from at least k columns; k {k}, columns {x.shape[2]}")
    return launched(_selecting(x, valid, k, flashinfer.top_k), launch)


def _selecting(x: Tensor, valid: Tensor, k: int, select: Any) -> Step:
    """A step that selects by a library's function; −1 takes the place of what it took from beyond a row's length."""
    most = min(k, x.shape[2])
    is_short = bool((valid < k).any())

    def step() -> list[tuple[Tensor, Tensor]]:
        found = []
        for scores in x:
            values, indices = select(scores, most)
            if is_short:
                indices = torch.where(indices < valid[:, None], indices, -1)
                values = torch.nn.functional.pad(values, (0, k - most), value=-math.inf)
                indices = torch.nn.functional.pad(indices, (0, k - most), value=-1)
            found.append((values, indices))
        return found

    return step


@indexer_topk.backend("triton_radix", requires=["triton"])
def _(x: Tensor, valid: Tensor, k: int, launch: Launch, *, scratch: Literal["owned", "per_call"] = "owned") -> Step:
    from gpubench.kernels.topk_radix import PerCallRadix, make_radix_scratch, topk_radix

    values, indices = _outputs(x, k)
    if scratch == "per_call":
        select: Any = PerCallRadix()
    else:
        owned = make_radix_scratch(x.shape[1], x.shape[2], k)
        select = functools.partial(topk_radix, candidates=owned.candidates, places=owned.places)

    def step() -> list[tuple[Tensor, Tensor]]:
        for now in range(len(x)):
            select(x[now], valid, values[now], indices[now])
        return list(zip(values, indices, strict=True))

    return launched(step, launch)


@indexer_topk.backend("triton_gvr", requires=["triton"])
def _(x: Tensor, valid: Tensor, hint: Tensor, k: int, launch: Launch) -> Step:
    from gpubench.kernels.topk_gvr import make_gvr_scratch, topk_gvr

    values, indices = _outputs(x, k)
    owned = make_gvr_scratch(x.shape[1], x.shape[2], k)

    def step() -> list[tuple[Tensor, Tensor]]:
        before = hint
        for now in range(len(x)):
            topk_gvr(x[now], valid, before, values[now], indices[now], owned.candidates, owned.places)
            before = indices[now]
        return list(zip(values, indices, strict=True))

    return launched(step, launch)


@indexer_topk.oracle
def _(x: Tensor, k: int) -> list[Tensor]:
    best = x.float().topk(min(k, x.shape[2]), dim=-1).values
    return list(torch.nn.functional.pad(best, (0, k - best.shape[-1]), value=-math.inf))


@indexer_topk.compare
def _(out: Any, ref: Any, x: Tensor, valid: Tensor) -> str | None:
    """Judge each decode step by the best k's values: the oracle's, or those of another backend's (values, indices)."""
    for number, (scores, (values, indices), best) in enumerate(zip(x, out, ref, strict=True)):
        wanted = best if isinstance(best, Tensor) else best[0]
        if difference := describe_difference(scores, valid, values, indices, wanted):
            return f"step {number}: {difference}" if len(x) > 1 else difference
    return None


def describe_difference(scores: Tensor, valid: Tensor, values: Tensor, indices: Tensor, wanted: Tensor) -> str | None:
    """None if these are each row's best k, `wanted` being their values in any order; else what is wrong, by row."""
    k = indices.shape[1]
    is_there = indices >= 0
    checks = {
        "indices below −1 or beyond the row's length": (indices < -1) | (indices >= valid[:, None]),
        "wrong number of indices": is_there.sum(-1, keepdim=True) != valid.clamp_max(k)[:, None],
        "an index twice": _repeats(indices),
        "values that aren't the scores at their indices": ~_same(
            values, scores.gather(1, indices.long().clamp(0, scores.shape[1] - 1)).where(is_there, -math.inf)
        ),
        "not the best k": ~_same(_descending(values), _descending(wanted)),
    }
    for name, is_wrong in checks.items():
        bad = is_wrong.any(-1).nonzero()
        if bad.numel():
            return f"{name}: {bad.numel()} of {len(indices)} rows, row {int(bad[0])} the first"
    return None


def _repeats(indices: Tensor) -> Tensor:
    ordered = indices.sort(dim=-1).values
    return torch.nn.functional.pad((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0), (1, 0))


def _descending(values: Tensor) -> Tensor:
    return values.float().sort(dim=-1, descending=True).values


def _same(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.float() == theirs.float()) | (ours.isnan() & theirs.isnan())


@indexer_topk.bytes
def _(columns: int, k: int, dtype: FloatType, steps: int, **sizes: Any) -> int:
    """Every score read once, values and indices written; a hint, where one is used, is small beside them."""
    rows = _count_rows(sizes["rows"], sizes["sequences"], sizes["drafts"])
    return steps * rows * (columns * itemsize(dtype) + k * (itemsize(dtype) + 4))


@indexer_topk.label
def _(columns: int, compress_ratio: int) -> dict[str, Any]:
    return {"tokens": columns * compress_ratio}


@indexer_topk.metric("decode_step_time", unit="s", higher_is_better=False)
def _(cell: SimpleNamespace, seconds: float) -> float:
    """Seconds per decode step: the step time over `steps`."""
    return float(seconds / cell.steps)
