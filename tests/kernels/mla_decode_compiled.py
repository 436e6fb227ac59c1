"""The kernels of latent attention compiled for GPUs that needn't be there: how much shared memory they take."""

from __future__ import annotations

from triton import compile as build
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

ROWS = "tensordesc<{dtype}[64, {width}],{layout!r}>"


def shared_bytes(kernel, capability, dtype, num_warps, num_stages=3, gluon=False, widths=(), **constants):
    """Compile a kernel whose pointers are aligned; constants are its capitals, widths those of its descriptors."""
    from gpubench.kernels.mla_hopper_page import SHARED

    dtypes = {"table_ptr": "i32", "lengths_ptr": "i32", "scratch_ptr": "fp32"}
    widths = dict(zip(("latent_desc", "rope_desc"), widths, strict=False))
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in widths:
            signature[name] = ROWS.format(dtype=dtype, width=widths[name], layout=SHARED)
        elif name.endswith("_ptr"):
            signature[name] = f"*{dtypes.get(name, dtype)}"
        else:
            signature[name] = "fp32" if name == "scale_log2" else "i32"
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name.endswith("_ptr")}
    source = (GluonASTSource if gluon else ASTSource)(
        fn=kernel, signature=signature, constexprs=constants, attrs=aligned
    )
    target = GPUTarget("cuda", capability, 32)
    return build(source, target=target, options={"num_warps": num_warps, "num_stages": num_stages}).metadata.shared
