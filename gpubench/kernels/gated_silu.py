"""The activation between the two products of a gated MLP, fused: gate and up lie side by side in one product's rows.

    out[r, i] = silu(gate_up[r, i]) · gate_up[r, N + i]

gate_up [rows, 2 · N], out [rows, N], both contiguous and of one of float32, float16 and bfloat16; computed in float32
and rounded once. Torch's operators take two passes, and read strided halves one element at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gpubench.errors import ArgumentError
from gpubench.kernels.arguments import check_contiguous, check_launchable, check_operand
from gpubench.kernels.dependent_launch import release, wait
from gpubench.kernels.launching import Launcher
from gpubench.kernels.ops import as_op

__all__ = ["gated_silu"]

_BLOCK = 1024
"""Elements of a row that a program has. Not tuned."""


@triton.jit
def _silu_kernel(gate_up_ptr, out_ptr, width, BLOCK: tl.constexpr, IS_DEPENDENT: tl.constexpr):
    release(IS_DEPENDENT)
    wait(IS_DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    gate = tl.load(gate_up_ptr + row * 2 * width + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * width + width + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + place, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=inside)


_LAUNCH = Launcher(_silu_kernel, is_dependent=True)


@as_op("gated_silu", mutates=("out",))
def gated_silu(gate_up: Tensor, out: Tensor) -> None:
    """Write the activation into `out`. Neither allocates nor synchronises.

    ArgumentError names an argument that doesn't fit.
    """
    kernel = "gated_silu"
    check_launchable(kernel, "gate_up", gate_up)
    if gate_up.dim() != 2 or gate_up.numel() == 0 or gate_up.shape[1] % 2:
        raise ArgumentError(f"{kernel}: gate_up has shape {tuple(gate_up.shape)}; wanted (rows, an even number)")
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    check_contiguous(kernel, "gate_up", gate_up)
    check_operand(kernel, "out", out, (rows, width), like=gate_up)
    check_contiguous(kernel, "out", out)
    _LAUNCH((rows, triton.cdiv(width, _BLOCK), 1), (gate_up, out), (width,), {"BLOCK": _BLOCK}, num_warps=4)
