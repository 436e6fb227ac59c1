"""Several set-ups of one step that take turns, each on memory of its own: when one's turn comes, its inputs have left
the L2 again, without anything having to be overwritten between steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpubench.registry import Step
from gpubench.tensors import count_bytes, find_tensors
from gpubench.worker.subject import Prepared

__all__ = ["Rotation", "rotate"]

COVER = 2
"""The inputs of all sets come to at least so many times the L2, so that no replacement policy keeps a line of them."""
MOST_SETS = 64
MEMORY_SHARE = 0.25
"""Of the memory that is free, what the sets may take in all."""


@dataclass(frozen=True)
class Rotation(Prepared):
    """Equal set-ups that take turns; `step` runs the next one's, and `subject` and `inputs` are the first's."""

    sets: tuple[Prepared, ...]
    input_bytes: int
    """Of all sets together."""
    l2_bytes: int

    @property
    def turns(self) -> int:
        return len(self.sets)

    @property
    def eager(self) -> Step | None:
        return self.sets[0].eager

    def restore(self) -> None:
        """Restore every set, the next one first, so that those after it push it out of the L2 again."""
        assert isinstance(self.step, _Turns), "it was made by rotate"
        for prepared in self.sets[self.step.next :] + self.sets[: self.step.next]:
            prepared.restore()

    def describe(self) -> str:
        sets = "1 set" if self.turns == 1 else f"{self.turns} sets"
        return f"{sets} of inputs, {self.input_bytes / 1e6:,.1f} MB in all: {self._cover:.2g} × the L2"

    def warning(self) -> str:
        """One sentence if the sets fit into the L2 together; else ""."""
        if self._cover >= 1:
            return ""
        return f"measure.l2: rotate: the L2 holds all inputs ({self.describe()}), so that it is hot; cold empties it"

    @property
    def _cover(self) -> float:
        return self.input_bytes / self.l2_bytes


class _Turns:
    """Calls one step after the other, and the first again after the last."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps
        self.next = 0

    def __call__(self) -> Any:
        step = self._steps[self.next]
        self.next = (self.next + 1) % len(self._steps)
        return step()


def rotate(prepared: Prepared, l2_bytes: int) -> Rotation:
    """Set the step up again and again until all inputs together are twice as large as the L2.

    Each set has a seed of its own. What ends it earlier is 64 sets, or a quarter of the free memory.
    """
    subject, device = prepared.subject, prepared.subject.device
    memory, allocated = device.memory(), device.allocated_bytes()
    cached = memory.get("reserved", 0.0) - memory.get("allocated", 0.0)
    budget = MEMORY_SHARE * (memory["device_free"] + cached)
    sets = [prepared]
    input_bytes = _count_bytes(sets)
    taken = 0
    while input_bytes < COVER * l2_bytes and len(sets) < MOST_SETS and taken < budget:
        another = replace(subject, seed=(subject.seed + len(sets)) % 2**32)
        sets.append(another.set_up(another.backend, another.make_inputs()))
        input_bytes = _count_bytes(sets)
        taken = max(device.allocated_bytes() - allocated, input_bytes)
    steps = tuple(each.step for each in sets)
    return Rotation(subject, prepared.inputs, _Turns(steps), tuple(sets), input_bytes, l2_bytes)


def _count_bytes(sets: list[Prepared]) -> int:
    """What the inputs on the device take; what several sets share is counted once."""
    is_cuda = sets[0].subject.device.is_cuda
    return count_bytes(
        tensor for prepared in sets for tensor in find_tensors(prepared.inputs) if tensor.is_cuda == is_cuda
    )
