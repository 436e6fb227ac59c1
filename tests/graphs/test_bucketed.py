"""Steps captured whole by bucket, over memory that is recycled and poisoned."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from graphs.fake_graphs import FakeGraphs
from torch import Tensor

from gpubench.errors import ArgumentError, StaleGraphError
from gpubench.graphs.bucketed import BucketedStep

ROWS, WIDTH = 8, 6
IDLE = -1


@dataclass
class State:
    """What the step remembers, a row to each of its own."""

    sums: Tensor


def step(numbers: Tensor, positions: Tensor, state: State) -> Tensor:
    """Rows at a position add their number to their sum, and return it twice; what an idle row returns means nothing."""
    rows = state.sums[: len(numbers)]
    rows.add_(torch.where(positions >= 0, numbers, 0.0)[:, None])
    return torch.cat((rows, rows + 1), dim=1)[:, WIDTH // 2 : -WIDTH // 2] * 2


def make_state() -> State:
    return State(torch.zeros(ROWS, WIDTH))


def start(bucketed: BucketedStep, state: State) -> list[int]:
    """Warm up and capture with rows that are idle; the buckets in the order of their capture."""

    def arguments(bucket: int) -> tuple[Tensor, Tensor, State]:
        return torch.ones(bucket), torch.full((bucket,), IDLE), state

    bucketed.warm_up(arguments)
    costs = bucketed.capture(arguments)
    assert costs[0].pool > 0 and not any(cost.pool for cost in costs[1:]), (
        "the others fit into the largest one's memory"
    )
    return [cost.bucket for cost in costs]


@pytest.fixture
def bucketed():
    return BucketedStep(step, (1, 2, 4, 8), (0, IDLE), FakeGraphs())


def test_rows_after_those_of_a_step_are_idle_in_every_bucket(bucketed):
    state, twin = make_state(), make_state()
    assert start(bucketed, state) == [8, 4, 2, 1]
    for count in (8, 3, 5, 1, 7, 2, 6):
        numbers, positions = torch.rand(count), torch.randint(-1, 3, (count,))
        torch.testing.assert_close(bucketed(numbers, positions, state), step(numbers, positions, twin))
        torch.testing.assert_close(state.sums, twin.sums)


def test_a_state_that_moved_is_refused_until_all_is_captured_again(bucketed):
    state, given = make_state(), (torch.ones(3), torch.zeros(3, dtype=torch.int64))
    start(bucketed, state)
    state.sums = state.sums.clone()
    with pytest.raises(
        StaleGraphError, match=r"step: the graphs of bucket 4 were captured when sums was at 0x\w+; it is"
    ):
        bucketed(*given, state)
    assert not state.sums.any(), "nothing ran"
    bucketed.reset()
    with pytest.raises(RuntimeError, match="bucket 4 isn't captured"):
        bucketed(*given, state)
    start(bucketed, state)
    torch.testing.assert_close(bucketed(*given, state), step(*given, make_state()))


def test_a_step_of_more_rows_than_any_bucket_is_refused_with_the_numbers(bucketed):
    state = make_state()
    start(bucketed, state)
    with pytest.raises(ArgumentError, match=r"a step of 9 tokens: buckets \[1, 2, 4, 8\] hold 1 to 8"):
        bucketed(torch.ones(9), torch.zeros(9), state)
