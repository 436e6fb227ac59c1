"""What runs in the interpreter's process: what stands before block-sparse attention, and how far it is from fp64's."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Case:
    """One row of `lengths` each, the new token its last one; caches are paged."""

    lengths: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    heads: int = 4
    kv_heads: int = 2
    index_heads: int = 2
    dim: int = 32
    index_dim: int = 16
    half: int = 4
    block: int = 16
    room: int = 4
    """Blocks per row, and the angles that there are."""


def operands(case):
    torch.manual_seed(len(case.lengths))
    rows, pages = len(case.lengths), len(case.lengths) * case.room + 1
    width = (case.heads + 2 * case.kv_heads) * case.dim + (case.index_heads + 1) * case.index_dim
    projected = torch.randn(rows, width + 5)[:, :width]  # rows may be strided
    norms = [1 + torch.randn(dim) / 4 for dim in 2 * [case.dim] + 2 * [case.index_dim]]
    angles = torch.randn(case.room * case.block, case.half, dtype=torch.float64)
    queries = torch.zeros(rows, case.heads, case.dim), torch.zeros(rows, case.index_heads, case.index_dim)
    caches = [torch.randn(pages, case.kv_heads, case.block, case.dim) for _ in range(2)]
    caches.append(torch.randn(pages, case.block, case.index_dim))
    floats = [tensor.to(case.dtype) for tensor in (projected, *norms, *queries, *caches)]
    rotary = torch.stack((angles.cos(), angles.sin()), dim=1).float()
    table = torch.randperm(pages).int()[:-1].view(rows, case.room)
    return [*floats[:5], rotary, table, torch.tensor(case.lengths, dtype=torch.int32), *floats[5:]], angles


def turn(heads, norm, angles):
    """heads [count, dim] in fp64, normalised, and their first dims as complex numbers (i, i + half), turned."""
    heads = heads * (heads.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt() * norm.double()
    half = len(angles)
    turned = torch.complex(heads[:, :half], heads[:, half : 2 * half]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, heads[:, 2 * half :]), dim=1)


def inputs_error(case):
    """The largest error of what is written, and of everything else, which must stay as it was."""
    from gpubench.kernels.sparse_gqa_inputs import sparse_gqa_inputs

    given, angles = operands(case)
    projected, *norms = given[:5]
    table, written = given[6], given[8:]
    wanted = [tensor.double() for tensor in written]
    widths = [case.heads * case.dim] + 2 * [case.kv_heads * case.dim] + [case.index_heads * case.index_dim]
    for row, length in enumerate(case.lengths):
        if not 1 <= length <= case.room * case.block:
            continue
        q, k, v, index_q, index_k = projected[row].double().split([*widths, case.index_dim])
        page, slot, own = table[row, (length - 1) // case.block], (length - 1) % case.block, angles[length - 1]
        wanted[0][row] = turn(q.view(-1, case.dim), norms[0], own)
        wanted[1][row] = turn(index_q.view(-1, case.index_dim), norms[2], own)
        wanted[2][page, :, slot] = turn(k.view(-1, case.dim), norms[1], own)
        wanted[3][page, :, slot] = v.view(-1, case.dim)
        wanted[4][page, slot] = turn(index_k[None], norms[3], own)[0]
    sparse_gqa_inputs(*given)
    return max((own.double() - want).abs().max().item() for own, want in zip(written, wanted, strict=True))


def check_operator():
    import gpubench.kernels.sparse_gqa_inputs  # noqa: F401 - registers

    torch.library.opcheck(torch.ops.gpubench.sparse_gqa_inputs.default, tuple(operands(Case((3, 17)))[0]))


def call_with(place, wrong):
    """The launcher on operands that fit, but for the one at `place`."""
    from gpubench.kernels.sparse_gqa_inputs import sparse_gqa_inputs

    given, _ = operands(Case((3, 17)))
    given[place] = wrong
    sparse_gqa_inputs(*given)
