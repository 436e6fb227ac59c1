"""The faults that are planted, so far as a test's own process can survive them, and the cells that they spare."""

from __future__ import annotations

import typing

import pytest
import torch

from gpubench.errors import ArgumentError, Unsupported
from gpubench.registry import get_workload
from gpubench.workloads.fault import Kind
from gpubench.workloads.fault.planting import PLANTS

HOSTS = [kind for kind, plant in PLANTS.items() if not plant.needs_gpu]
GPUS = [kind for kind, plant in PLANTS.items() if plant.needs_gpu]


def make(**arguments):
    return get_workload("fault").make(**arguments)


def set_up(**arguments):
    """The step of the one backend, and its inputs."""
    inputs = make(**arguments)
    backend = get_workload("fault").backends["planted"]
    return backend.setup(x=inputs["x"], kind=arguments["kind"], is_faulty=inputs["is_faulty"]), inputs["x"]


def test_every_kind_is_planted_and_can_be_asked_for() -> None:
    assert set(typing.get_args(Kind)) == set(PLANTS)


@pytest.mark.parametrize("kind", PLANTS)
def test_a_spared_cell_does_what_the_oracle_does(kind: str) -> None:
    step, x = set_up(kind=kind, batch=3, only={"batch": 8})
    torch.testing.assert_close(step().double(), get_workload("fault").oracle_function(x))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", GPUS)
def test_a_gpus_fault_is_skipped_without_one(kind: str) -> None:
    with pytest.raises(Unsupported, match=f"the fault {kind} needs cuda"):
        set_up(kind=kind)


@pytest.mark.parametrize(
    ("only", "meant"),
    [
        (None, {1, 2, 4, 8}),
        ({"concurrency": ">=4"}, {4, 8}),
        ({"concurrency": ">=4", "gvr": False}, {4, 8}),
        ({"concurrency": ">=4", "gvr": True}, set()),
        ([{"concurrency": 1}, {"concurrency": 8, "batch": 1}], {1, 8}),
        ({"kind": "mismatch"}, {1, 2, 4, 8}),
        ({"parallel": "TEP"}, set()),
    ],
)
def test_only_says_which_cells_are_meant_by_axes_that_nobody_declared(only, meant) -> None:
    found = {c for c in (1, 2, 4, 8) if make(kind="mismatch", only=only, concurrency=c, gvr=False)["is_faulty"]}
    assert found == meant


@pytest.mark.parametrize("only", ["batch", 8, [8], {}, {"batch": {}}, {"batch": ">x"}, {"batch": []}])
def test_a_predicate_that_cannot_be_meant_is_refused(only) -> None:
    with pytest.raises(ArgumentError, match=r"^only: "):
        make(kind="mismatch", only=only)


@pytest.mark.parametrize("kind", ["mismatch", "nan", "unwritten"])
def test_a_wrong_answer_is_none_of_the_oracles(kind: str) -> None:
    step, x = set_up(kind=kind)
    assert not torch.allclose(step().double(), get_workload("fault").oracle_function(x), equal_nan=True)


def test_running_out_of_the_hosts_memory_leaves_the_process_as_it_was() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    step, _ = set_up(kind="host_oom")
    with pytest.raises(MemoryError):
        step()
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize(("kind", "error"), [("setup_error", ValueError), ("import_error", ModuleNotFoundError)])
def test_a_set_up_may_fail(kind: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        set_up(kind=kind)
