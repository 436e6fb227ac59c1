"""What cells of one worker share: built once for kin, equal whoever builds it, dropped in time."""

from __future__ import annotations

import random

import pytest
import torch

import gpubench
from gpubench.errors import UsageError
from gpubench.sharing import use_shelf
from gpubench.worker.device import open_device
from gpubench.worker.shelf import WorkerShelf


@pytest.fixture
def shelf():
    shelf = WorkerShelf(open_device())
    use_shelf(shelf)
    yield shelf
    use_shelf(None)


class Closing:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def weights(of: object = "model") -> torch.Tensor:
    return gpubench.shared("weights", of, lambda: torch.randn(5))


def test_kin_share_and_others_build_anew(shelf):
    shelf.begin("a", "kin", seed=0)
    first = weights()
    assert weights() is first
    assert weights("another") is not first
    shelf.end()
    shelf.begin("b", "kin", seed=0)
    assert weights() is first
    shelf.begin("c", "other kin", seed=0)
    assert weights() is not first


def test_a_cell_without_kin_shares_with_itself_alone(shelf):
    shelf.begin("a", "", seed=0)
    first = weights()
    assert weights() is first
    shelf.end()
    shelf.begin("b", "", seed=0)
    assert weights() is not first


def test_the_value_depends_on_what_it_is_of_and_on_the_sweeps_seed_alone(shelf):
    found = []
    for cell, kin, seed in (("a", "kin", 0), ("b", "other", 0), ("c", "third", 1)):
        shelf.begin(cell, kin, seed)
        torch.manual_seed(len(found))
        found.append(weights())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(weights("another"), found[2])


def test_what_a_cell_draws_next_is_the_same_whether_it_built_or_not(shelf):
    drawn = []
    for cell in ("builds", "takes"):
        shelf.begin(cell, "kin", seed=0)
        torch.manual_seed(7)
        random.seed(7)
        weights()
        drawn.append((torch.rand(3).tolist(), random.random()))
    assert drawn[0] == drawn[1]


def test_a_build_that_fails_leaves_nothing_and_the_generators_where_they_were(shelf):
    def fails():
        torch.rand(3)
        raise RuntimeError("no room")

    shelf.begin("a", "kin", seed=0)
    torch.manual_seed(7)
    with pytest.raises(RuntimeError, match="no room"):
        gpubench.shared("weights", "model", fails)
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), after)
    assert shelf.describe() == []
    assert weights().shape == (5,)


def test_what_is_dropped_is_closed_once_when_other_kin_come(shelf):
    shelf.begin("a", "kin", seed=0)
    kept = gpubench.shared("code", "model", Closing)
    shelf.end()
    shelf.begin("b", "kin", seed=0)
    assert kept.closed == 0
    shelf.begin("c", "other", seed=0)
    shelf.begin("d", "third", seed=0)
    assert kept.closed == 1


def test_the_record_tells_what_was_taken_from_whom_and_how_large_it_is(shelf):
    shelf.begin("a", "kin", seed=0)
    weights()
    (built,) = shelf.describe()
    assert built == {"what": "weights", "bytes": 20, "built_s": built["built_s"]}
    shelf.begin("b", "kin", seed=0)
    assert shelf.describe() == []
    weights()
    assert shelf.describe() == [{"what": "weights", "bytes": 20, "from": "a"}]


def test_what_is_shared_may_be_made_of_what_is_shared(shelf):
    shelf.begin("a", "kin", seed=0)
    twice = gpubench.shared("twice", (), lambda: 2 * weights())
    assert torch.equal(twice, 2 * weights())
    assert [item["what"] for item in shelf.describe()] == ["weights", "twice"]


def test_what_can_not_be_told_apart_is_refused(shelf):
    shelf.begin("a", "kin", seed=0)
    with pytest.raises(UsageError, match="changes from process to process"):
        weights(object())


def test_outside_of_a_worker_everything_is_built():
    assert weights() is not weights()


def test_a_workload_can_only_share_by_its_own_arguments():
    with pytest.raises(TypeError, match="shares by 'modle', which is no argument of it: model, batch"):

        @gpubench.workload("shares_by_mistake", shares=("modle",))
        def _(model: str, batch: int):
            return {}
