"""flashinfer's attention over a paged latent cache, as an operator of ours: torch.compile sees what it changes."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from gpubench.errors import Unsupported
from gpubench.kernels.ops import as_op
from gpubench.models.shapes import MlaShape

__all__ = ["FlashinferPlan", "check_flashinfer", "flashinfer_mla"]

_LATENT, _ROPE, _PAGE = 512, 64, 64
_WORKSPACE_BYTES = 128 << 20


def check_flashinfer(mla: MlaShape, dtype: torch.dtype) -> None:
    """Unsupported where it isn't installed or has no kernel."""
    if importlib.util.find_spec("flashinfer") is None:
        raise Unsupported("attention: flashinfer needs flashinfer: pip install flashinfer-python")
    if (mla.kv_lora, mla.rope) != (_LATENT, _ROPE):
        raise Unsupported(
            f"attention: flashinfer has a kernel for a latent of {_LATENT} and a rotary key of {_ROPE}; "
            f"got {mla.kv_lora} and {mla.rope}"
        )
    if dtype is torch.float32:
        raise Unsupported("attention: flashinfer has no float32 kernel; bfloat16 and float16 it has")


class FlashinferPlan:
    """What flashinfer works out on the host for one batch of fixed lengths, and the memory that it works in."""

    def __init__(self, table: Tensor, lengths: Tensor, mla: MlaShape, scale: float, dtype: torch.dtype) -> None:
        import flashinfer

        self._given = table, mla, scale, dtype
        batch = table.shape[0]
        pages = [-(-length // _PAGE) for length in lengths.tolist()]
        used = torch.cat([table[b, :count] for b, count in enumerate(pages)])
        first_page = torch.tensor([0, *pages], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        first_query = torch.arange(batch + 1, dtype=torch.int32)
        workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=table.device)
        self.wrapper: Any = flashinfer.mla.BatchMLAPagedAttentionWrapper(workspace)
        layout = (mla.heads, mla.kv_lora, mla.rope, _PAGE, False, scale, dtype, dtype)
        self.wrapper.plan(first_query, first_page, used, lengths, *layout)
        self.number = next(_numbers)
        """How an operator, which takes no objects, is told which plan."""
        _plans[self.number] = self

    def replace_lengths(self, lengths: Tensor) -> FlashinferPlan:
        """The same sequences at other lengths."""
        table, mla, scale, dtype = self._given
        return FlashinferPlan(table, lengths, mla, scale, dtype)


_numbers = itertools.count()
_plans: WeakValueDictionary[int, FlashinferPlan] = WeakValueDictionary()


@as_op("flashinfer_mla", mutates=("out",))
def flashinfer_mla(q_latent: Tensor, q_rope: Tensor, cache: Tensor, out: Tensor, plan: int) -> None:
    """Write the attention into out [batch, heads, R], by the plan of that number, whose owner keeps it alive."""
    kv_lora = q_latent.shape[-1]
    _plans[plan].wrapper.run(q_latent, q_rope, cache[..., :kv_lora], cache[..., kv_lora:], out=out)
