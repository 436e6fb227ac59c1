"""Launches that are planned once: whatever a plan may depend on gets one of its own. On a GPU: tests/gpu."""

from __future__ import annotations

import pytest
import torch

from gpubench.errors import ArgumentError
from gpubench.kernels import launching
from gpubench.kernels.launching import Planned

X = torch.zeros(8, 16)
KINDS = {
    "as it is": (X,),
    "of another shape": (X[:4],),
    "of other strides": (X.as_strided((8, 16), (1, 8)),),
    "of another dtype": (X.half(),),
    "elsewhere": (X.to("meta"),),
    "off a multiple of 16 bytes": (torch.zeros(8 * 16 + 1)[1:].view(8, 16),),
    "with an option": (X, 2),
}


class Planner:
    """Counts its plans, and remembers what was launched on."""

    def __init__(self):
        self.plans, self.launched = 0, []

    def plan(self, tensors, *options):
        self.plans += 1
        number = self.plans
        if options == (0,):
            raise ArgumentError("options is 0")
        return lambda given: self.launched.append((number, given[0].data_ptr()))


def test_each_kind_of_arguments_is_planned_once():
    planner = Planner()
    launch = Planned(planner.plan)
    for _ in range(3):
        for x, *options in KINDS.values():
            launch((x,), *options)
    assert planner.plans == len(KINDS)
    assert [number for number, _ in planner.launched] == [*range(1, len(KINDS) + 1)] * 3


def test_a_plan_launches_on_the_tensors_of_the_call_and_not_on_those_that_it_was_made_for():
    planner = Planner()
    launch = Planned(planner.plan)
    first, second = torch.zeros(8), torch.zeros(8)
    launch((first,))
    launch((second,))
    assert planner.launched == [(1, first.data_ptr()), (1, second.data_ptr())]


def test_of_kinds_without_end_the_first_are_forgotten(monkeypatch):
    monkeypatch.setattr(launching, "_MOST_KINDS", 4)
    planner = Planner()
    launch = Planned(planner.plan)
    for size in [*range(1, 11), 10, 1]:
        launch((torch.zeros(size),))
    assert planner.plans == 11  # ten, and the first one again


def test_what_does_not_fit_is_refused_every_time():
    launch = Planned(Planner().plan)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="options is 0"):
            launch((X,), 0)
