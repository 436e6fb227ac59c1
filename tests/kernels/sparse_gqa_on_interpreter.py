"""What runs in the interpreter's process: block-sparse attention in parts, and how far each is from fp64's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

INF = float("inf")


@dataclass(frozen=True)
class Case:
    """One row of `lengths` each; caches are paged, in pages of one block."""

    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    kv_heads: int = 2
    group: int = 2
    dim: int = 16
    block: int = 16
    kept: int = 4
    splits: int = 1
    values: str = "normal"
    """Index keys: `normal`, `few` different ones (so that scores tie), or `equal`."""


@dataclass(frozen=True)
class Tensors:
    q: torch.Tensor
    index_q: torch.Tensor
    index_k: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    block_table: torch.Tensor
    lengths: torch.Tensor


def make(case):
    """Random tensors; what no row may read is NaN or nonsense: a spare page, the table's tail, the last page's rest."""
    torch.manual_seed(sum(case.lengths) + len(case.lengths))
    rows, block = len(case.lengths), case.block
    counts = [-(-length // block) for length in case.lengths]
    max_blocks = max(*counts, 1) + 1
    pages = sum(counts) + 1
    order = torch.randperm(pages)
    used, spare = order[:-1].split(counts), order[-1]
    table = torch.full((rows, max_blocks), 2**31 - 1, dtype=torch.int32)
    shape = (pages, case.kv_heads, block, case.dim)
    k, v = torch.randn(shape), torch.randn(shape)
    index_k = torch.randn(pages, block, case.dim)
    if case.values == "few":
        index_k = index_k.sign()
        index_k[..., 2:] = 0
    elif case.values == "equal":
        index_k = torch.ones_like(index_k)
    for row, (length, own) in enumerate(zip(case.lengths, used, strict=True)):
        table[row, : len(own)] = own
        if length % block:
            for cache in (k, v):
                cache[own[-1], ..., length % block :, :] = float("nan")
            index_k[own[-1], length % block :] *= 1000.0  # the interpreter's maximum passes over NaN
    for cache in (k, v, index_k):
        cache[spare] = float("nan")
    q = torch.randn(rows, case.kv_heads * case.group, case.dim)
    index_q = torch.randn(rows, case.kv_heads, case.dim)
    floats = (tensor.to(case.dtype) for tensor in (q, index_q, index_k, k, v))
    return Tensors(*floats, table, torch.tensor(case.lengths, dtype=torch.int32))


def tokens_of(cache, tensors, row):
    """A row's tokens out of its pages, in order, in fp64: [tokens, …]."""
    length = int(tensors.lengths[row])
    block = cache.shape[-2]
    pages = tensors.block_table[row, : -(-length // block)].long()
    return cache[pages].double().movedim(-2, 1).flatten(0, 1)[:length]


def true_scores(tensors, row):
    """Block scores in fp64: [heads, blocks]."""
    keys = tokens_of(tensors.index_k, tensors, row)
    block = tensors.index_k.shape[-2]
    per_token = tensors.index_q[row].double() @ keys.T * keys.shape[-1] ** -0.5
    return torch.stack([part.amax(1) for part in per_token.split(block, 1)], 1)


def true_attention(tensors, row, kv_head, blocks):
    """Masked attention in fp64 of the query heads of one KV head: [group, dim]."""
    heads, kv_heads = tensors.q.shape[1], tensors.k.shape[1]
    group, block = heads // kv_heads, tensors.k.shape[-2]
    q = tensors.q[row, kv_head * group : (kv_head + 1) * group].double()
    if not blocks:
        return torch.zeros_like(q)
    k = tokens_of(tensors.k, tensors, row)[:, kv_head]
    v = tokens_of(tensors.v, tensors, row)[:, kv_head]
    seen = torch.isin(torch.arange(len(k)) // block, torch.tensor(blocks))
    products = (q @ k.T * k.shape[-1] ** -0.5).masked_fill(~seen, -INF)
    return products.softmax(-1) @ v


def scores_error(case):
    """The largest error of any block's score, and whether anything else was written."""
    from gpubench.kernels.sparse_gqa_scores import sparse_gqa_scores

    t = make(case)
    rows, max_blocks = t.block_table.shape
    out = torch.full((rows, case.kv_heads, max_blocks), 7.0)
    sparse_gqa_scores(t.index_q, t.index_k, t.block_table, t.lengths, out, case.kept)
    worst = 0.0
    for row, length in enumerate(case.lengths):
        blocks = -(-length // case.block)
        scored = blocks if blocks > case.kept else 0
        assert (out[row, :, scored:] == 7).all(), "nothing is written beyond the scores"
        if scored:
            worst = max(worst, (out[row, :, :scored] - true_scores(t, row)).abs().max().item())
    return worst


def select(scores, lengths, block, kept):
    from gpubench.kernels.sparse_gqa_select import sparse_gqa_select

    rows, heads, _ = scores.shape
    border = torch.full((rows, heads, kept + 1), 7, dtype=torch.int32)
    sparse_gqa_select(scores, torch.tensor(lengths, dtype=torch.int32), border[..., :kept], block)
    assert (border[..., kept] == 7).all(), "nothing is written beyond the choice"
    return border[..., :kept]


def attend(case, t, blocks):
    from gpubench.kernels.sparse_gqa import sparse_gqa_attend

    rows, heads, dim = t.q.shape
    border = torch.full((rows + 1, heads, dim + 1), 7.0, dtype=case.dtype)
    partial, lse = (
        torch.full((rows, heads, case.splits, dim), float("nan")),
        torch.full((rows, heads, case.splits), 7.0),
    )
    sparse_gqa_attend(t.q, t.k, t.v, blocks, t.block_table, t.lengths, border[:rows, :, :dim], partial, lse)
    assert (border[rows] == 7).all() and (border[..., dim] == 7).all(), "nothing is written beyond the output"
    return border[:rows, :, :dim]


def attend_error(case):
    """How far attention over random choices of blocks is from fp64's: the worst row and head."""
    t = make(case)
    blocks = torch.full((len(case.lengths), case.kv_heads, case.kept), -1, dtype=torch.int32)
    for row, length in enumerate(case.lengths):
        count = -(-length // case.block)
        for head in range(case.kv_heads):
            chosen = torch.randperm(count)[: case.kept]
            blocks[row, head, : len(chosen)] = chosen
    return attention_error(t, blocks, attend(case, t, blocks))


def attention_error(t, blocks, out):
    """The worst relative error of a row's KV head; infinite where out isn't finite, or not zero for an empty row."""
    worst = 0.0
    group = t.q.shape[1] // t.k.shape[1]
    for row in range(len(out)):
        for head in range(t.k.shape[1]):
            chosen = [block for block in blocks[row, head].tolist() if block >= 0]
            want = true_attention(t, row, head, chosen)
            got = out[row, head * group : (head + 1) * group].double()
            if not chosen:
                error = INF if got.any() or got.isnan().any() else 0.0
            else:
                error = ((got - want).norm() / want.norm()).item()
            worst = max(worst, error if error == error else INF)
    return worst


def decode_error(case, dense=False):
    """Scores, choice and attention in a row: the error of attention over what was chosen, or over everything."""
    from gpubench.kernels.sparse_gqa_scores import sparse_gqa_scores

    t = make(case)
    rows, max_blocks = t.block_table.shape
    scores = torch.full((rows, case.kv_heads, max_blocks), float("nan"))
    sparse_gqa_scores(t.index_q, t.index_k, t.block_table, t.lengths, scores, case.kept)
    blocks = select(scores, case.lengths, case.block, case.kept).contiguous()
    out = attend(case, t, blocks)
    if dense:
        counts = [-(-length // case.block) for length in case.lengths]
        blocks = torch.arange(max(*counts, 1)).expand(rows, case.kv_heads, -1)
        blocks = blocks.where(blocks < torch.tensor(counts)[:, None, None], -1)
    return attention_error(t, blocks, out)


def operands(case):
    """The three operators' arguments, in order."""
    t = make(case)
    rows, heads, dim = t.q.shape
    scores = torch.zeros(rows, case.kv_heads, t.block_table.shape[1])
    blocks = torch.zeros(rows, case.kv_heads, case.kept, dtype=torch.int32)
    partial, lse = torch.zeros(rows, heads, case.splits, dim), torch.zeros(rows, heads, case.splits)
    return (
        (t.index_q, t.index_k, t.block_table, t.lengths, scores, case.kept),
        (scores, t.lengths, blocks, case.block),
        (t.q, t.k, t.v, blocks, t.block_table, t.lengths, torch.zeros_like(t.q), partial, lse),
    )


def check_operators():
    import gpubench.kernels.sparse_gqa
    import gpubench.kernels.sparse_gqa_scores
    import gpubench.kernels.sparse_gqa_select  # noqa: F401 - registers

    ops = torch.ops.gpubench
    scoring, choosing, attending = operands(Case((96, 96), splits=2))  # whole blocks: opcheck compares, and NaN ≠ NaN
    for op, args in (
        (ops.sparse_gqa_scores, scoring),
        (ops.sparse_gqa_select, choosing),
        (ops.sparse_gqa_attend, attending),
    ):
        torch.library.opcheck(op.default, args)


def compiled_equals_eager():
    """Whether compiled code sees what each operator wrote for the next: three calls, and a sum before and after."""
    import gpubench.kernels.sparse_gqa
    import gpubench.kernels.sparse_gqa_scores
    import gpubench.kernels.sparse_gqa_select  # noqa: F401 - registers

    ops = torch.ops.gpubench

    def step(scoring, choosing, attending):
        out = attending[6]
        before = out.sum()
        ops.sparse_gqa_scores(*scoring)
        ops.sparse_gqa_select(*choosing)
        ops.sparse_gqa_attend(*attending)
        return before, out * 1.0

    case = Case((200, 0, 37), splits=2)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(*operands(case))
    eager = step(*operands(case))
    return compiled[0] == 0 and torch.equal(compiled[1], eager[1]) and bool(eager[1].any())


def call(launcher, *args):
    from gpubench.kernels import sparse_gqa, sparse_gqa_scores, sparse_gqa_select

    module = {
        "sparse_gqa_attend": sparse_gqa,
        "sparse_gqa_scores": sparse_gqa_scores,
        "sparse_gqa_select": sparse_gqa_select,
    }
    getattr(module[launcher], launcher)(*args)
