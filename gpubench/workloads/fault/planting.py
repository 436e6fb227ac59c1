"""The kinds of faults by name, and what each is planted with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpubench.errors import Unsupported
from gpubench.registry import Step

__all__ = ["PLANTS", "Plant", "plant"]

SetUp = Callable[[Tensor], Step]


@dataclass(frozen=True)
class Plant:
    """One kind: the set-up that takes `x` and goes wrong, or returns a step that does, and its healthy twin."""

    set_up: SetUp
    healthy: SetUp
    needs_gpu: bool

    def grow(self, kind: str, x: Tensor) -> Step:
        """The step that comes to grief; Unsupported where there is no GPU to do so on."""
        if self.needs_gpu and not torch.cuda.is_available():
            raise Unsupported(f"the fault {kind} needs cuda: it is a GPU's")
        return self.set_up(x)


def add_one(x: Tensor) -> Step:
    """What a cell without a fault runs."""
    return lambda: x + 1


PLANTS: dict[str, Plant] = {"none": Plant(add_one, add_one, needs_gpu=False)}


def plant(kind: str, *, needs_gpu: bool = False, healthy: SetUp = add_one) -> Callable[[SetUp], SetUp]:
    """Register the set-up of a kind of fault; `healthy` is what the cells run that are spared."""

    def register(set_up: SetUp) -> SetUp:
        assert kind not in PLANTS, f"{kind} is planted twice"
        PLANTS[kind] = Plant(set_up, healthy, needs_gpu)
        return set_up

    return register
