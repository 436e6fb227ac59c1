"""What runs in the interpreter's process: one launch, and how far its result is from fp64's."""

from __future__ import annotations

import torch


def relative_error(out, reference):
    return ((out.double() - reference).norm() / reference.norm()).item()


def matmul_error(m, n, k, dtype, transposed=False):
    from gpubench.kernels.matmul import matmul

    torch.manual_seed(m + n + k)
    a = torch.randn(m, k).to(dtype)
    b = torch.randn(n, k).to(dtype).T if transposed else torch.randn(k, n).to(dtype)
    border = torch.full((m + 1, n + 1), 7.0, dtype=dtype)
    out = matmul(a, b, border[:m, :n])
    assert (border[m] == 7).all() and (border[:, n] == 7).all(), "nothing is written beyond the output"
    return relative_error(out, a.double() @ b.double())


def rmsnorm_error(rows, dim, dtype, scale=1.0):
    from gpubench.kernels.rmsnorm import rmsnorm

    torch.manual_seed(rows + dim)
    x = (torch.randn(rows, dim + 3) * scale).to(dtype)[:, :dim]
    weight = torch.randn(dim).to(dtype)
    border = torch.full((rows + 1, dim + 1), 7.0, dtype=dtype)
    out = rmsnorm(x, weight, border[:rows, :dim], eps=1e-6)
    assert (border[rows] == 7).all() and (border[:, dim] == 7).all(), "nothing is written beyond the output"
    wide = x.double()
    return relative_error(out, wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double())


def gated_silu_error(rows, width, dtype, scale):
    from gpubench.kernels.gated_silu import gated_silu

    torch.manual_seed(rows + width)
    gate_up = (torch.randn(rows, 2 * width) * scale).to(dtype)
    border = torch.full((rows + 1, width), 7.0, dtype=dtype)
    gated_silu(gate_up, border[:rows])
    assert (border[rows] == 7).all(), "nothing is written beyond the output"
    gate, up = gate_up.double().chunk(2, dim=1)
    return relative_error(border[:rows], gate * gate.sigmoid() * up)


def call_gated_silu(gate_up, out):
    from gpubench.kernels.gated_silu import gated_silu

    return gated_silu(gate_up, out)


def call_matmul(*shapes):
    from gpubench.kernels.matmul import matmul

    matmul(*(torch.zeros(shape) for shape in shapes))


def call_rmsnorm(x, weight, out):
    from gpubench.kernels.rmsnorm import rmsnorm

    return rmsnorm(x, weight, out)
