"""A decode step through torch.compile: compiled as a whole, once for one sequence and once for all larger batches.

What depends on the batch or on the length is symbolic in what is compiled, all else is as it is. So one compilation
serves every cell of a model. A batch of 1 is a case of its own to Dynamo, whose code has no batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpubench.models.base import DecodeModel
from gpubench.tensors import find_tensors

__all__ = ["CompiledStep"]

_PROBES = ((2, 256), (3, 512))
"""Batches and lengths of two caches: in what their shapes differ depends on them."""


class CompiledStep:
    """`step(decoder, cache, tokens)`, compiled when it is first called with a shape that isn't covered yet.

    Nothing of it ever runs eagerly: a graph break is an error (`fullgraph`), and so is one compilation more than
    Dynamo's limit allows.
    """

    def __init__(self, step: Any, decoder: DecodeModel, backend: str = "inductor") -> None:
        self._run: Any = torch.compile(step, fullgraph=True, backend=backend)
        self._decoder = decoder
        small, large = (find_tensors(decoder.make_cache(*sizes)) for sizes in _PROBES)
        self._dims = [_differing(*pair) for pair in zip(small, large, strict=True)]

    def __call__(self, cache: Any, tokens: Tensor) -> Any:
        """Run the step; outside of any default device, whose hooks would be compiled in."""
        return self._run(self._decoder, cache, tokens)

    def expect(self, cache: Any, tokens: Tensor) -> None:
        """Tell Dynamo what of these depends on the batch or on the length; before the first call with them."""
        for tensor, dims in zip([*find_tensors(cache), tokens], [*self._dims, [0]], strict=True):
            for dim in dims:
                if tensor.shape[dim] > 1:
                    torch._dynamo.maybe_mark_dynamic(tensor, dim)

    def close(self) -> None:
        """Forget what was compiled, here and anywhere: code of another model neither counts against Dynamo's limit nor
        keeps memory.
        """
        torch.compiler.reset()


def _differing(small: Tensor, large: Tensor) -> list[int]:
    return [dim for dim in range(small.dim()) if small.shape[dim] != large.shape[dim]]
