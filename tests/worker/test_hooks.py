"""Hooks that can't be called as they will be are refused where they are registered, not after a cell was measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from worker_cells import QUICK, bare, run_cell

import gpubench
from gpubench.errors import PluginError
from gpubench.records import Outcome, Stage
from gpubench.registry import OwnMeasurement, Step
from gpubench.worker.plugins import load_all

PLUGIN = """
import gpubench

@gpubench.workload("misspelt_hooks")
def misspelt_hooks(n: int):
    return {}

@misspelt_hooks.metric("flop_per_s2", unit="FLOP/s")
def _(seconds):
    return 1 / seconds
"""


def needs_a_keyword(cell: Any, seconds: float, *, rows: int) -> float:
    return rows / seconds


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (lambda seconds: 1 / seconds, "(seconds)"),
        (lambda cell, seconds, rows: rows / seconds, "(cell, seconds, rows)"),
        (lambda **everything: 1.0, "(**everything)"),
        (needs_a_keyword, "*, rows: 'int'"),
    ],
)
def test_a_metric_must_take_the_cell_and_the_seconds(function: Callable[..., float], takes: str) -> None:
    workload = bare(lambda: None)

    with pytest.raises(TypeError) as caught:
        workload.metric("rate", unit="1/s")(function)

    assert f"metric 'rate' of {workload.name} is called with (cell, seconds), but takes " in str(caught.value)
    assert takes in str(caught.value)
    assert not workload.metrics


def test_what_a_set_up_measured_is_kept_when_the_step_fails() -> None:
    def step() -> None:
        raise ValueError("not today")

    step.measured = [OwnMeasurement("capture_time", "s", 0.5)]  # type: ignore[attr-defined]

    record = run_cell(bare(step).name, "tested").record

    assert record.outcome is Outcome.ERROR
    assert [(found.metric, found.samples) for found in record.measurements] == [("capture_time", [0.5])]


def test_what_a_set_up_measured_is_in_the_first_trials_record_alone() -> None:
    def step() -> None: ...

    readings = ((0.5, "bucket 8"), (0.25, "bucket 4"))
    step.measured = [OwnMeasurement("capture_time", "s", *reading) for reading in readings]  # type: ignore[attr-defined]

    first, second = run_cell(bare(step).name, "tested", trials=(0, 1)).records

    found = {(m.metric, m.range): m.samples for m in first.measurements if m.metric != "step_time"}
    assert found == {("capture_time", "bucket 8"): [0.5], ("capture_time", "bucket 4"): [0.25]}
    assert [m.metric for m in second.measurements] == ["step_time"]


@pytest.mark.parametrize(
    "function",
    [lambda *both: 1.0, lambda cell, seconds, per=2: per / seconds, partial(needs_a_keyword, rows=3)],
)
def test_a_metric_may_take_more_if_it_has_a_default(function: Callable[..., float]) -> None:
    workload = bare(lambda: None)

    workload.metric("rate", unit="1/s")(function)

    assert run_cell(workload.name, "tested").record.outcome is Outcome.OK


def test_a_compare_hook_must_take_both_outputs_before_any_input() -> None:
    workload = bare(lambda: None)

    for function in (lambda out: None, lambda *outputs: None, lambda out, *, ref: None, lambda: None):
        with pytest.raises(TypeError, match=r"\.compare of bare_\d+ is called with \(out, ref\) before any input"):
            workload.compare(function)
    assert workload.compare_function is None

    workload.compare(lambda got, want, **inputs: None)
    assert workload.compare_function is not None


def test_a_plugin_with_a_wrong_metric_is_told_at_its_own_line(tmp_path: Path) -> None:
    file = tmp_path / "misspelt.py"
    file.write_text(PLUGIN)

    with pytest.raises(PluginError) as caught:
        load_all([str(file)])

    assert "metric 'flop_per_s2' of misspelt_hooks is called with (cell, seconds), but takes (seconds)" in str(
        caught.value
    )
    assert str(caught.value).endswith(f"(at {file}:8)")


def test_a_metric_that_raises_is_named_with_its_line_and_costs_no_samples() -> None:
    workload = bare(lambda: None)

    @workload.metric("good", unit="1/s")
    def _(cell: Any, seconds: float) -> float:
        return 2.0

    @workload.metric("rate", unit="1/s")
    def _(cell: Any, seconds: float) -> float:
        return float(cell.rows / seconds)

    record = run_cell(workload.name, "tested", trials=(0, 1)).record

    line = workload.metrics["rate"].origin.rpartition(":")[2]
    assert record.outcome is Outcome.ERROR
    assert record.stage is Stage.MEASURE
    assert record.reason.startswith(f"metric 'rate' (test_hooks.py:{line}) raised AttributeError: ")
    assert record.crash is not None
    assert record.crash.exception == "AttributeError"
    assert Path(record.crash.frames[0].file).name == "test_hooks.py"
    assert [measurement.metric for measurement in record.measurements] == ["step_time", "good"]
    assert len(record.measurements[0].samples) >= QUICK.min_samples
    assert record.measured_s > 0


def test_a_metric_that_gives_no_number_is_named() -> None:
    workload = bare(lambda: None)
    workload.metric("rate", unit="1/s")(lambda cell, seconds: None)

    record = run_cell(workload.name, "tested").record

    assert record.outcome is Outcome.ERROR
    assert record.reason.startswith("metric 'rate' (test_hooks.py:")
    assert "raised TypeError: float() argument" in record.reason


def test_a_check_of_a_step_that_measures_nothing_itself_is_refused_as_it_would_never_be_made() -> None:
    workload = bare(lambda: None)

    with pytest.raises(TypeError, match=r"\.check of bare_\d+ would never be called"):
        workload.check(lambda step: None)

    assert workload.check_function is None


def test_an_option_of_several_backends_takes_what_any_of_them_does() -> None:
    workload = bare(lambda: None)

    @workload.backend("fixed")
    def _(*, tile: int = 64, mode: Literal["a", "b"] = "a", depth: int = 1) -> Step: ...

    @workload.backend("tuned")
    def _(*, tile: Literal["auto"] | None = "auto", mode: Literal["b", "c"] = "b", depth: int = 2) -> Step: ...

    tile, mode, depth = workload.info().axes
    assert (tile.kind, tile.choices, tile.optional) == ("any", [], True)
    assert (mode.kind, mode.choices) == ("str", ["a", "b", "c"])
    assert (depth.kind, depth.default, depth.backends) == ("int", "1 or 2", ["fixed", "tuned"])


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (lambda *, dtype=torch.bfloat16: None, "'dtype': no sweep can hold its default, torch.bfloat16; take a name"),
        (lambda *, cell=3: None, "'cell': an axis can't be called that"),
    ],
)
def test_an_option_that_can_be_no_axis_is_refused_where_it_is_registered(setup: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^parameter {message}"):
        bare(lambda: None).backend("other")(setup)


def test_a_workload_takes_its_arguments_by_name() -> None:
    with pytest.raises(TypeError, match=r"^parameter 'sizes': sweeps give arguments by name"):
        gpubench.workload("nameless")(lambda *sizes: {})


def test_there_is_one_baseline() -> None:
    workload = bare(lambda: None, baseline=True)
    with pytest.raises(ValueError, match=r"has a baseline, 'tested' \(.*\); 'other' can't be another"):
        workload.backend("other", baseline=True)(lambda: None)


def test_in_process_is_said_of_what_measures_itself_alone() -> None:
    with pytest.raises(TypeError, match="'lonely' is in_process, which is said of one that measures_itself alone"):
        gpubench.workload("lonely", in_process=True)
