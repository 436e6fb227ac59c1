"""A decode step through torch.compile: traced and compiled once for one sequence, and once more for all larger batches.

Lengths and batches are symbols of what is compiled; weights' shapes are not. Dynamo makes a case of its own of 1, so
that a batch of one has code without a batch. What is compiled serves every cell of the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

__all__ = ["CompiledStep"]

T = TypeVar("T")


class CompiledStep(Generic[T]):
    """`step`, compiled as a whole when it is first called with a shape that isn't covered yet.

    Nothing of it ever runs eagerly: a graph break is an error (`fullgraph`), and so is another compilation once
    Dynamo's limit of them is reached.
    """

    def __init__(self, step: Callable[..., T]) -> None:
        self._run: Callable[..., T] = torch.compile(step, fullgraph=True, dynamic=True)

    def __call__(self, *arguments: Any) -> T:
        """Run the step; outside of any default device, whose hooks would be compiled in."""
        return self._run(*arguments)

    def close(self) -> None:
        """Forget what was compiled, here and anywhere: code of another model neither counts against Dynamo's limit nor
        keeps memory.
        """
        torch.compiler.reset()
