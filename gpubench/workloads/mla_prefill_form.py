"""Which of its forms a prefill takes: what a backend's option asks for, or the fastest one that is known."""

from __future__ import annotations

from typing import Literal

import torch

from gpubench.errors import Unsupported
from gpubench.kernels.gpu import gpu_name
from gpubench.kernels.mla_prefill_tiling import Form, Sizes, choose_form, is_sdpa_faster
from gpubench.models.shapes import MlaShape
from gpubench.workloads.mla_prefill_batch import Batch

__all__ = ["choose_fastest_form", "choose_triton_form", "sizes_of", "this_gpu"]


def sizes_of(batch: Batch, shape: MlaShape, itemsize: int) -> Sizes:
    """What the choice of a form and of tiles needs to know."""
    return Sizes(
        tokens=batch.tokens,
        keys=sum(batch.keys),
        sequences=len(batch.new),
        heads=shape.heads,
        latent=shape.kv_lora,
        rope=shape.rope,
        nope=shape.nope,
        v=shape.v,
        itemsize=itemsize,
    )


def choose_triton_form(form: str, is_expanded: bool, sizes: Sizes) -> Form:
    """The form that the option asks for; `auto` takes the faster one."""
    if form == "absorbed" and is_expanded:
        raise Unsupported("form: absorbed has no use for the expanded keys and values that scope: core starts from")
    if form == "absorbed" or (form == "auto" and not is_expanded and choose_form(sizes) == "absorbed"):
        return "absorbed"
    return "expanded"


def choose_fastest_form(gpu: str, batch: Batch, is_expanded: bool, sizes: Sizes) -> Form | Literal["sdpa"]:
    """Of the kernel's forms the faster one, or torch's SDPA where on this GPU that is faster than both."""
    # SDPA takes a batch at once, and by its fastest kernels, if its sequences are alike and nothing comes before them.
    is_simple = batch.is_equal and batch.new == batch.keys and not batch.padding
    if is_simple and is_sdpa_faster(gpu, sizes, is_expanded=is_expanded):
        return "sdpa"
    return choose_triton_form("auto", is_expanded, sizes)


def this_gpu() -> str:
    """Its name; "" without one."""
    return gpu_name() if torch.cuda.is_available() else ""
