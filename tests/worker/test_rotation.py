"""Sets of inputs that take turns: how many there are, what each holds, and when each is restored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from worker_cells import set_up

import gpubench
from gpubench.registry import Step
from gpubench.worker.device import Device
from gpubench.worker.rotation import MOST_SETS, Rotation, rotate
from gpubench.worker.subject import Prepared

MB = 1 << 20


@pytest.fixture(scope="module")
def workload() -> Any:
    """Its state counts the steps since it was restored; `x` and `view` share one megabyte per column."""

    @gpubench.workload("taking_turns")
    def make(columns: int = 1) -> dict[str, torch.Tensor]:
        x = torch.rand(columns, MB // 4)
        return {"x": x, "view": x[:, :2], "state": torch.zeros(1)}

    @make.backend("tested", baseline=True)
    def _(x: torch.Tensor, state: torch.Tensor) -> Step:
        def step() -> torch.Tensor:
            state.add_(1)
            return x

        return step

    @make.reset
    def _(state: torch.Tensor) -> None:
        state.zero_()

    return make


@pytest.fixture
def one(workload: Any) -> Prepared:
    return set_up(workload.name, columns=1)


def states(rotation: Rotation) -> list[float]:
    return [prepared.inputs["state"].item() for prepared in rotation.sets]


@pytest.mark.parametrize(("l2_mb", "sets"), [(0.1, 1), (0.5, 1), (1, 2), (3.5, 7), (1000, MOST_SETS)])
def test_there_are_as_many_sets_as_come_to_twice_the_cache(one: Prepared, l2_mb: float, sets: int) -> None:
    rotation = rotate(one, int(l2_mb * MB))

    assert rotation.turns == sets
    assert rotation.input_bytes == sets * (MB + 4), "memory that inputs share is counted once"


class Cramped(Device):
    """A device with ten megabytes left."""

    def memory(self) -> dict[str, float]:
        return {"device_free": 10 * MB}


def test_no_more_than_a_quarter_of_the_free_memory_is_taken(one: Prepared) -> None:
    cramped = Cramped("cpu", 1 << 30, 0, None)

    rotation = rotate(replace(one, subject=replace(one.subject, device=cramped)), 1000 * MB)

    assert rotation.turns == 3, "the third set is the one that goes over two and a half megabytes"


def test_every_set_has_values_and_memory_of_its_own_and_is_run_in_turn(one: Prepared) -> None:
    rotation = rotate(one, MB)

    outputs = [rotation.step() for _ in range(4)]

    assert rotation.sets[0] is one, "what was checked is among them"
    assert outputs[0] is outputs[2] is one.inputs["x"]
    assert outputs[1] is outputs[3] is rotation.sets[1].inputs["x"]
    assert not torch.equal(outputs[0], outputs[1])
    assert states(rotation) == [2, 2]


def test_every_set_is_restored_before_a_sample(one: Prepared) -> None:
    rotation = rotate(one, 2 * MB)
    for _ in range(5):
        rotation.step()

    rotation.run()

    assert states(rotation) == [0, 1, 0, 0], "the second set's turn came after the restoring"


def test_inputs_that_the_cache_holds_all_the_same_are_warned_of(one: Prepared) -> None:
    small = rotate(one, 1000 * MB)
    large = rotate(one, 3 * MB)

    assert small.describe() == f"64 sets of inputs, {64 * (MB + 4) / 1e6:.1f} MB in all: 0.064 × the L2"
    assert "so that it is hot" in small.warning()
    assert (large.warning(), large.describe()[:6]) == ("", "6 sets")
