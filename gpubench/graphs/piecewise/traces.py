"""What was traced of a step, for all who cut it: in other ways, for other caches, for other numbers of tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from gpubench.errors import Unsupported
from gpubench.graphs.piecewise.trace import SizesUsed, StateSizes, Step, Traced, trace_step
from gpubench.graphs.places import recall, state_parts

__all__ = ["Traces"]

Kinds = tuple[tuple[Any, ...], tuple[Any, ...]]


class Traces:
    """The graphs of one step, each traced once. They know where tensors are in a state, but nothing of its memory: who
    cuts the step again, for another cache, may have them.

    The sizes of a state are constants of a graph, but for those that another state has differently, one that came
    before or is expected: they are left open. If the step makes use of one of these, a graph is traced for each.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        """The step as it was given."""
        self._found: list[tuple[Kinds, StateSizes, Traced]] = []
        self._expected: list[tuple[Kinds, StateSizes]] = []
        self._may_be_open = True

    def expect(self, state: Any) -> None:
        """Say that a state of these sizes is going to come."""
        if (told := _describe(state)) not in self._expected:
            self._expected.append(told)

    def find(self, per_token: Sequence[Tensor], state: Any, num_tokens: int) -> Traced:
        """The graph for so many tokens; arguments and refusals are those of `trace_step`."""
        kinds, sizes = _describe(state)
        others = [own_sizes for own_kinds, own_sizes in self._expected if own_kinds == kinds]
        fitting = []
        for own_kinds, own_sizes, traced in self._found:
            if own_kinds == kinds:
                others.append(own_sizes)
                if _fit(own_sizes, sizes):
                    fitting.append(traced)
        known = next((traced for traced in fitting if traced.admits(num_tokens)), None)
        if known is not None:
            return known
        began = time.perf_counter()
        opened = _open(sizes, others) if self._may_be_open else sizes
        try:
            traced = trace_step(self.step, per_token, state, num_tokens, opened, fitting)
        except (SizesUsed, Unsupported):
            if opened == sizes:
                raise
            self._may_be_open, opened = False, sizes
            traced = trace_step(self.step, per_token, state, num_tokens, others=fitting)
        traced = replace(traced, seconds=time.perf_counter() - began)
        self._found.append((kinds, opened, traced))
        return traced


def _describe(state: Any) -> tuple[Kinds, tuple[tuple[int, ...], ...]]:
    """What a state is but for its sizes and addresses, and the shapes of its tensors.

    What is no tensor may have been read, and tensors in the same memory change together.
    """
    parts = list(state_parts(state))
    tensors = [(path, value) for path, value in parts if isinstance(value, Tensor)]
    first: dict[Any, int] = {}
    kinds = []
    for place, (path, value) in enumerate(tensors):
        memory = value.untyped_storage().data_ptr()
        same = first.setdefault(id(value), place), first.setdefault(("memory", memory or place), place)
        kinds.append((path, value.dim(), value.is_contiguous(), value.dtype, same))
    values = tuple((path, type(value), recall(value)) for path, value in parts if not isinstance(value, Tensor))
    return (tuple(kinds), values), tuple(tuple(value.shape) for _, value in tensors)


def _fit(sizes: StateSizes, given: Sequence[Sequence[int]]) -> bool:
    return all(
        size == found or (size is None and found > 1)
        for own, other in zip(sizes, given, strict=True)
        for size, found in zip(own, other, strict=True)
    )


def _open(sizes: tuple[tuple[int, ...], ...], others: list[StateSizes]) -> StateSizes:
    """The sizes without those that one of the others has differently; 0 and 1 remain, for they can't be symbols."""
    return tuple(
        tuple(
            size if size < 2 or all(other[place][dim] == size for other in others) else None
            for dim, size in enumerate(own)
        )
        for place, own in enumerate(sizes)
    )
