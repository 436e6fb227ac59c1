"""What counts as a right answer, and what is caught before anything is timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worker_cells import bare, doubling, run_cell

import gpubench
from gpubench.records import CellRecord, Outcome, Stage
from gpubench.registry import Step, get_workload
from gpubench.settings import CheckSettings


def with_backends(name: str, **backends: Any) -> None:
    """A workload of that name on x; the first backend is the baseline."""

    @gpubench.workload(name)
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.rand(16) + 1}

    for index, (backend, step) in enumerate(backends.items()):

        @make.backend(backend, baseline=index == 0)
        def _(x: torch.Tensor, step: Any = step) -> Step:
            return lambda: step(x)


def check(name: str, backend: str = "tested", against: str = "auto") -> CellRecord:
    return run_cell(name, backend, check=CheckSettings(against=against)).record


def test_a_wrong_element_is_named_with_both_values_and_what_was_allowed() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        out = 2 * x
        out[2, 5] = 100
        return out

    record = check(doubling(step))

    assert (record.outcome, record.stage) == (Outcome.MISMATCH, Stage.CHECK)
    assert "out[2, 5]: got 100, want " in record.reason
    assert "(allowed ±" in record.reason
    assert "1 of 32 elements" in record.reason
    assert [(result.against, result.passed) for result in record.checks] == [("oracle", False)]
    assert record.checks[0].relative_error is not None
    assert record.checks[0].relative_error > 1
    assert record.measurements == []


def test_without_an_oracle_the_baseline_is_the_reference() -> None:
    with_backends("baseline_is_reference", torch=lambda x: x + 1, good=lambda x: 1 + x, bad=lambda x: x + 2)

    good, bad = check("baseline_is_reference", "good"), check("baseline_is_reference", "bad")

    assert (good.outcome, good.checks[0].against) == (Outcome.OK, "torch")
    assert (bad.outcome, bad.checks[0].against) == (Outcome.MISMATCH, "torch")


def test_the_baseline_itself_has_nothing_to_be_compared_with() -> None:
    with_backends("baseline_alone", torch=lambda x: x + 1)

    record = check("baseline_alone", "torch")

    assert record.outcome is Outcome.OK
    assert [(result.against, result.passed) for result in record.checks] == [("none", True)]


def test_a_reference_can_be_chosen() -> None:
    with_backends("chosen_reference", torch=lambda x: x, other=lambda x: x + 5, tested=lambda x: x + 5)

    assert check("chosen_reference").outcome is Outcome.MISMATCH
    assert check("chosen_reference", against="other").outcome is Outcome.OK
    assert check("chosen_reference", against="none").outcome is Outcome.OK


@pytest.mark.parametrize(
    ("against", "reason"),
    [("oracle", "has no oracle"), ("othr", "has no backend 'othr'; known: auto, oracle, none, torch, tested")],
)
def test_a_reference_that_does_not_exist_is_an_error(against: str, reason: str) -> None:
    name = f"no_reference_{against}"
    with_backends(name, torch=lambda x: x, tested=lambda x: x)

    record = check(name, against=against)

    assert record.outcome is Outcome.ERROR
    assert reason in record.reason


def test_a_baseline_that_cannot_run_here_costs_the_comparison_unless_it_was_asked_for() -> None:
    @gpubench.workload("absent_baseline")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.ones(3)}

    make.backend("peer", baseline=True, requires=["no_such_peer"])(lambda x: lambda: x)
    make.backend("tested")(lambda x: lambda: x + 1)

    auto, asked = check("absent_baseline"), check("absent_baseline", against="peer")

    assert auto.outcome is Outcome.OK
    assert auto.warnings == ["not compared: the baseline peer needs no_such_peer: pip install no_such_peer"]
    assert asked.outcome is Outcome.ERROR
    assert "pip install no_such_peer" in asked.reason


def test_a_reference_that_runs_out_of_memory_costs_the_comparison_not_the_cell() -> None:
    workload = get_workload(doubling(lambda x: x + x))
    workload.oracle(lambda x: torch.empty(1 << 60))

    record = check(workload.name)

    assert record.outcome is Outcome.OK
    assert record.checks[0].against == "none"
    assert record.warnings == ["not compared: oracle, the reference, ran out of memory"]


def test_a_reference_may_work_in_place_without_spoiling_the_inputs_of_the_tested() -> None:
    workload = get_workload(doubling(lambda x: x + x))
    workload.oracle(lambda x: x.mul_(2))

    assert check(workload.name).outcome is Outcome.OK


def test_the_references_inputs_are_gone_before_the_tested_backend_is_set_up() -> None:
    import weakref

    references: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    @gpubench.workload("memory_of_the_reference")
    def make() -> dict[str, torch.Tensor]:
        x = torch.ones(4)
        references.append(weakref.ref(x))
        return {"x": x}

    @make.backend("tested")
    def _(x: torch.Tensor) -> Step:
        alive.append(references[0]() is not None)
        return lambda: x + 1

    make.oracle(lambda x: x + 1)

    assert check("memory_of_the_reference").outcome is Outcome.OK
    assert alive == [False]


def test_nan_never_passes_even_without_a_reference() -> None:
    def step() -> dict[str, torch.Tensor]:
        out = torch.ones(4, 4)
        out[1, 2] = float("nan")
        return {"tokens": torch.arange(3), "logits": out}

    record = check(bare(step).name)

    assert record.outcome is Outcome.INVALID
    assert record.reason == 'out["logits"] holds NaN: 1 of 16 elements, the first at [1, 2]'


def test_nan_passes_where_the_reference_has_it_too() -> None:
    def with_nan(x: torch.Tensor) -> torch.Tensor:
        out = 2 * x
        out[0, 0] = float("nan")
        return out

    workload = get_workload(doubling(with_nan))
    workload.oracle(with_nan)

    assert check(workload.name).outcome is Outcome.OK


def test_zeros_where_the_reference_has_values_are_invalid() -> None:
    record = check(doubling(torch.zeros_like))

    assert record.outcome is Outcome.INVALID
    assert record.reason == "out is all zeros, and oracle's is not"
    assert record.checks[0].passed is False


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "bool"])
def test_an_output_that_is_only_partly_written_is_invalid(dtype: str) -> None:
    """The set-up's buffer happens to hold the right answer; the step leaves its last three elements alone."""

    @gpubench.workload(f"partly_written_{dtype}")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.randint(0, 2, (4, 5)).to(getattr(torch, dtype))}

    make.oracle(lambda x: x.clone())

    @make.backend("tested")
    def _(x: torch.Tensor) -> Step:
        out = x.clone()

        def step() -> tuple[torch.Tensor, None]:
            out.view(-1)[:-3] = x.view(-1)[:-3]
            return out, None

        return step

    make.oracle(lambda x: (x.clone(), None))

    record = check(f"partly_written_{dtype}")

    assert record.outcome is Outcome.INVALID, record.reason
    assert record.reason.startswith("unwritten output: 3 of 20 elements of out[0] ")


def test_an_output_that_is_added_to_what_was_there_is_invalid() -> None:
    total = torch.zeros(8)

    @gpubench.workload("adds_to_its_output")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.ones(8)}

    make.oracle(lambda x: x.clone())
    make.backend("tested")(lambda x: lambda: total.add_(x))

    assert check("adds_to_its_output").outcome is Outcome.INVALID


def test_a_fresh_output_that_is_not_written_shows_the_last_ones_poison() -> None:
    def half_written(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(40, 40)
        out[:20] = 1
        if not calls:
            out[20:] = 1  # the first time all is well
        calls.append(1)
        return out

    reasons = []
    for _ in range(5):  # which memory a step gets is the allocator's choice; hardly ever is it none that was poisoned
        calls: list[int] = []
        reasons.append(check(doubling(half_written), against="none").reason)

    assert any("unwritten output: 800 of 1,600 elements of out " in reason for reason in reasons), reasons


def test_an_output_that_is_an_input_is_not_poisoned() -> None:
    workload = get_workload(doubling(lambda x: x))
    workload.oracle(lambda x: x)

    assert check(workload.name).outcome is Outcome.OK


def test_an_output_that_lives_inside_an_inputs_object_is_not_poisoned() -> None:
    class Cache:
        def __init__(self) -> None:
            self.blocks = [torch.ones(4)]

    @gpubench.workload("cache_in_an_object")
    def make() -> dict[str, Any]:
        return {"cache": Cache(), "layer": torch.nn.Linear(2, 2)}

    make.backend("tested")(lambda cache, layer: lambda: (cache.blocks[0], layer.weight))

    assert check("cache_in_an_object").outcome is Outcome.OK


def test_a_second_run_that_comes_to_something_else_is_a_mismatch() -> None:
    runs: list[int] = []

    def step(x: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return 2 * x if len(runs) == 1 else 3 * x

    record = check(doubling(step))

    assert record.outcome is Outcome.MISMATCH
    assert record.reason.startswith("right once, wrong when run again though its inputs are as they were")


def test_a_reset_that_does_not_restore_is_a_mismatch() -> None:
    workload = get_workload(doubling(lambda x: x.mul_(2)))
    workload.reset(lambda x: None)

    record = check(workload.name)

    assert record.outcome is Outcome.MISMATCH
    assert "wrong when run again after .reset" in record.reason


def test_a_compare_hook_decides_where_there_is_one() -> None:
    seen: list[Any] = []

    def compare(out: torch.Tensor, ref: torch.Tensor, x: torch.Tensor, rows: int) -> str | None:
        seen.append((out.shape, ref.shape, x.shape, rows))
        return None if len(out) == len(ref) else f"{len(out)} values for {len(ref)}"

    names = [doubling(lambda x: x - 1), doubling(lambda x: x[1:])]
    for name in names:
        get_workload(name).compare(compare)

    good, bad = (check(name) for name in names)

    assert good.outcome is Outcome.OK
    assert bad.outcome is Outcome.MISMATCH
    assert bad.reason == "not what oracle computes: 3 values for 4"
    assert seen[0] == ((4, 8), (4, 8), (4, 8), 4)


def test_nan_does_not_pass_a_compare_hook_either() -> None:
    workload = get_workload(doubling(lambda x: x * float("nan")))
    workload.compare(lambda out, ref: None)

    assert check(workload.name).outcome is Outcome.INVALID


def test_a_step_that_returns_nothing_where_values_are_due_is_a_mismatch() -> None:
    record = check(doubling(lambda x: None))

    assert record.outcome is Outcome.MISMATCH
    assert "NoneType" in record.reason


def test_an_unwritten_element_that_happened_to_hold_nan_is_named_as_unwritten() -> None:
    @gpubench.workload("hole_of_nan")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.rand(16) + 1}

    make.backend("good", baseline=True)(lambda x: lambda: x + 1)

    @make.backend("tested")
    def _(x: torch.Tensor) -> Step:
        out = torch.full_like(x, float("nan"))

        def step() -> torch.Tensor:
            out[1:] = x[1:] + 1
            return out

        return step

    record = check("hole_of_nan")
    assert record.outcome is Outcome.INVALID
    assert record.reason.startswith("unwritten output: 1 of 16 elements of out ")
