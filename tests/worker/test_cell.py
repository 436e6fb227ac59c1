"""One cell in the worker: what becomes of it is in its record, whatever it does."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import re
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from worker_cells import QUICK, Ran, bare, doubling, run_cell

import gpubench
from gpubench.records import CheckResult, Outcome, Pass, Stage, Timer, dump_line, parse_record
from gpubench.registry import OwnMeasurement, Step, get_workload
from gpubench.settings import CheckSettings, MeasureSettings
from gpubench.worker.device import open_device
from gpubench.worker.failure import is_context_lost
from gpubench.workloads import load_builtin


def measurement(ran: Ran, metric: str) -> Any:
    return next(found for found in ran.record.measurements if found.metric == metric)


def test_a_healthy_cell_gives_its_samples_its_check_and_its_circumstances() -> None:
    ran = run_cell(doubling(lambda x: x + x), "tested", rows=3)

    record = ran.record
    assert (record.outcome, record.stage) == (Outcome.OK, Stage.DONE), record.reason
    step_time = measurement(ran, "step_time")
    assert step_time.timer is Timer.WALL
    assert step_time.unit == "s"
    assert 6 <= len(step_time.samples) <= 8
    assert all(0 < seconds < 1 for seconds in step_time.samples)
    assert [(check.against, check.passed) for check in record.checks] == [("oracle", True)]
    assert (record.details["l2"], record.details["launch"]) == ("n/a", "n/a")
    assert record.details["timer_choice"] == "auto, on a CPU"
    assert record.reason == record.details["stopped"]
    assert record.gpu == "cpu"
    assert 0 < record.measured_s <= record.duration_s
    assert parse_record(dump_line(record)) == record


def test_trials_share_one_set_up_and_one_check_but_not_their_samples() -> None:
    set_ups = []

    @gpubench.workload("shared_set_up")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.ones(3)}

    @make.backend("tested", baseline=True)
    def _(x: torch.Tensor) -> Step:
        set_ups.append(x)
        return lambda: x + 1

    ran = run_cell("shared_set_up", "tested", trials=(0, 1, 2))

    assert [record.trial for record in ran.records] == [0, 1, 2]
    assert {record.outcome for record in ran.records} == {Outcome.OK}
    assert len(set_ups) == 1
    assert len({tuple(record.measurements[0].samples) for record in ran.records}) == 3
    assert all(record.checks == ran.records[0].checks != [] for record in ran.records)


def test_stages_are_announced_in_the_order_in_which_they_are_entered() -> None:
    ran = run_cell(doubling(lambda x: x + x), "tested", trials=(0, 4))

    each = [Stage.WARMUP, Stage.MEASURE, Stage.DONE]
    preparing = [Stage.SETUP, Stage.CHECK, Stage.SETUP, Stage.CHECK]
    assert ran.stages == [(0, stage) for stage in [*preparing, *each]] + [(4, stage) for stage in each]


def test_every_backend_gets_the_same_inputs_and_another_cell_others() -> None:
    seen: dict[tuple[str, int, int], list[float]] = {}

    @gpubench.workload("seeded")
    def make(rows: int, scale: int = 1) -> dict[str, Any]:
        return {"x": torch.randn(rows), "y": random.random()}

    for name in ("one", "two"):

        @make.backend(name)
        def _(x: torch.Tensor, y: float, scale: int, name: str = name, *, block: int = 1) -> Step:
            seen[name, scale, block] = [*x.tolist(), y]
            return lambda: x + 1

    for backend, scale in itertools.product(("one", "two"), (1, 2)):
        run_cell("seeded", backend, rows=4, scale=scale)
    run_cell("seeded", "one", rows=4, scale=1, block=2)
    default = run_cell("seeded", "one", rows=4)
    reseeded = run_cell("seeded", "two", rows=4, measure=QUICK.model_copy(update={"seed": 1}))

    assert seen["one", 1, 1] == seen["one", 1, 2], "an option of a backend changes no input"
    assert seen["one", 2, 1] == seen["two", 2, 1]
    assert seen["one", 1, 1] != seen["one", 2, 1]
    assert seen["two", 1, 1] != seen["one", 1, 1], "the last cell has another seed"
    assert default.record.details["seed"] != reseeded.record.details["seed"]


def test_a_workloads_metrics_are_computed_from_every_sample() -> None:
    workload = get_workload(doubling(lambda x: x + x))

    @workload.metric("rows_per_s", unit="1/s")
    def _(cell: SimpleNamespace, seconds: float) -> float:
        return cell.rows / seconds

    @workload.metric("name_length", unit="")
    def _(cell: SimpleNamespace, seconds: float) -> float:
        return len(cell.backend)

    ran = run_cell(workload.name, "tested", rows=6)

    rate, step_time = measurement(ran, "rows_per_s"), measurement(ran, "step_time")
    assert rate.samples == pytest.approx([6 / seconds for seconds in step_time.samples])
    assert (rate.unit, rate.timer) == ("1/s", Timer.WALL)
    assert set(measurement(ran, "name_length").samples) == {len("tested")}


def test_a_metric_that_is_no_number_makes_the_cell_invalid() -> None:
    workload = get_workload(doubling(lambda x: x + x))

    @workload.metric("ratio", unit="")
    def _(cell: SimpleNamespace, seconds: float) -> float:
        return float("nan")

    record = run_cell(workload.name, "tested").record

    assert record.outcome is Outcome.INVALID
    assert "metric ratio" in record.reason


def test_bytes_flop_and_labels_come_from_the_arguments_defaults_included() -> None:
    workload = get_workload(doubling(lambda x: x + x))

    @workload.bytes
    def _(rows: int, columns: int) -> int:
        return rows * columns * 8

    @workload.flop
    def _(**arguments: int) -> int:
        return arguments["rows"] * arguments["columns"]

    @workload.label
    def _(rows: int) -> dict[str, Any]:
        return {"layers": f"{rows} of 61", "shape": torch.Size([rows, 8]), "odd": {1: torch.float32}}

    record = run_cell(workload.name, "tested", rows=5).record

    assert record.work == {"bytes": 5 * 8 * 8, "flop": 5 * 8}
    assert record.details["layers"] == "5 of 61"
    assert record.details["shape"] == [5, 8]
    assert record.details["odd"] == {"1": "torch.float32"}
    assert parse_record(dump_line(record)) == record


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("cuda", "needs cuda: a CUDA GPU; this is cpu"),
        ("sm90", "needs compute capability 9.0 or newer; cpu has none"),
        ("no_such_module", "needs no_such_module: pip install no_such_module"),
        ("its-pip-name:no_such_module", "needs no_such_module: pip install its-pip-name"),
        ("no_such_package.module", "pip install no_such_package.module"),
        ("triton", "TRITON_INTERPRET=1"),
    ],
)
def test_a_missing_requirement_skips_the_cell_and_says_how_to_get_it(requirement: str, reason: str) -> None:
    def must_not_run(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a skipped cell must not be run")

    record = run_cell(doubling(must_not_run, requires=["torch", requirement]), "tested").record

    assert (record.outcome, record.stage) == (Outcome.SKIPPED, Stage.SETUP)
    assert reason in record.reason
    assert record.crash is None


def test_all_missing_requirements_are_named_at_once() -> None:
    record = run_cell(doubling(lambda x: x, requires=["cuda", "no_such_module"]), "tested").record

    assert "a CUDA GPU" in record.reason
    assert "pip install no_such_module" in record.reason


def test_the_interpreter_stands_in_for_a_gpu_and_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")

    record = run_cell(doubling(lambda x: x + x, requires=["triton"]), "tested").record

    assert record.outcome is Outcome.OK
    assert record.details["triton"] == "interpreter"
    assert any("interpreter" in warning for warning in record.warnings)


def test_sizes_that_cannot_fit_skip_the_cell_before_anything_is_allocated() -> None:
    @gpubench.workload("too_big")
    def make(rows: int) -> dict[str, Any]:
        raise AssertionError("nothing may be allocated for a cell that can't fit")

    @make.fits
    def _(rows: int, device_bytes: int) -> str | None:
        return f"{rows} rows against {device_bytes > 0}" if rows > 10 else None

    @make.backend("tested")
    def _() -> Step:
        return lambda: None

    record = run_cell("too_big", "tested", rows=11).record

    assert record.outcome is Outcome.SKIPPED
    assert record.reason == "can't fit: 11 rows against True"


def test_sizes_that_would_fit_if_others_held_less_are_skipped_with_what_they_hold() -> None:
    def make(times: int) -> dict[str, Any]:
        raise AssertionError("nothing may be allocated for a cell that can't fit")

    machine = open_device()
    workload = bare(lambda: None, make)

    @workload.fits
    def _(times: int, device_bytes: int) -> str | None:
        return f"needs {times}" if times * machine.total_bytes > device_bytes else None

    crowded = replace(machine, total_bytes=10 * machine.total_bytes)  # most of it is somebody's

    now = run_cell(workload.name, "tested", device=crowded, times=5).record
    ever = run_cell(workload.name, "tested", device=crowded, times=11).record

    assert (now.outcome, ever.outcome) == (Outcome.SKIPPED, Outcome.SKIPPED)
    total_gb = f"{crowded.total_bytes / 1e9:.1f} GB"
    assert re.match(rf"can't fit now: needs 5; other processes hold [\d.]+ of {re.escape(total_gb)}", now.reason)
    assert ever.reason == "can't fit: needs 11"


def test_a_set_up_that_cannot_serve_these_sizes_skips_the_cell_with_its_own_words() -> None:
    def refuse(x: torch.Tensor) -> Step:
        raise gpubench.Unsupported(f"theirs takes at most 2 rows; these are {len(x)}")

    workload = get_workload(doubling(lambda x: x + x))
    workload.backend("refuses")(refuse)

    record = run_cell(workload.name, "refuses").record

    assert (record.outcome, record.crash) == (Outcome.SKIPPED, None)
    assert record.reason.startswith("theirs takes at most 2 rows; these are")


def test_an_exception_in_each_place_is_an_error_of_that_stage_with_its_line() -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("the shelf is empty")

    @gpubench.workload("fails_in_make")
    def make(rows: int = 1) -> dict[str, Any]:
        return fail()

    make.backend("tested")(lambda: lambda: None)
    set_up = get_workload(bare(lambda: None).name)
    set_up.backends["tested"] = set_up.backends["tested"].__class__("tested", fail, False, (), "here")
    oracle = get_workload(doubling(lambda x: x + x))
    oracle.oracle(fail)

    records = {
        "make": run_cell("fails_in_make", "tested").record,
        "set-up": run_cell(set_up.name, "tested").record,
        "oracle": run_cell(oracle.name, "tested").record,
        "step": run_cell(bare(fail).name, "tested").record,
    }

    assert {place: record.outcome for place, record in records.items()} == dict.fromkeys(records, Outcome.ERROR)
    stages = {place: record.stage for place, record in records.items()}
    assert stages == {"make": Stage.SETUP, "set-up": Stage.SETUP, "oracle": Stage.CHECK, "step": Stage.CHECK}
    line = fail.__code__.co_firstlineno + 1
    for record in records.values():
        assert record.reason == f"ValueError: the shelf is empty (test_cell.py:{line})"
        assert record.crash is not None
        assert record.crash.exception == "ValueError"
        first = record.crash.frames[0]
        assert (Path(first.file).name, first.line) == ("test_cell.py", line)


def test_a_failure_while_sampling_is_an_error_of_the_measure_stage_and_ends_the_task() -> None:
    calls = itertools.count()

    def step() -> None:
        time.sleep(1e-5)  # long enough for the clock, so that a sample is one step
        if next(calls) == 20:
            raise RuntimeError("worn out")

    # 2 steps for the check, then 2 to warm up, 3 to calibrate and 6 samples a trial: the 21st is of trial 1
    exactly = MeasureSettings(warmup_time_s=0, min_samples=6, max_samples=6, max_time_s=60)
    ran = run_cell(bare(step).name, "tested", trials=(0, 1, 2), measure=exactly)

    assert [record.outcome for record in ran.records] == [Outcome.OK, Outcome.ERROR]
    assert ran.records[-1].stage is Stage.MEASURE
    assert ran.records[-1].trial == 1
    assert gc.isenabled(), "garbage collection is on again after a sample that failed"


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit])
def test_what_is_no_exception_of_pythons_ends_the_cell_and_nothing_else(kind: type[BaseException]) -> None:
    def step() -> None:
        raise kind

    record = run_cell(bare(step).name, "tested").record
    assert record.outcome is Outcome.ERROR
    assert record.crash is not None
    assert record.crash.exception.endswith(kind.__name__)
    assert record.reason.startswith(f"{kind.__name__} (test_cell.py:")


def test_sys_exit_in_a_cell_ends_the_cell_and_nothing_else() -> None:
    record = run_cell(bare(lambda: sys.exit(3)).name, "tested").record

    assert record.outcome is Outcome.ERROR
    assert record.reason.startswith("called sys.exit(3) (test_cell.py:")


def test_an_interrupt_passes() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(bare(interrupt).name, "tested")


@pytest.mark.parametrize("bytes_asked", [1 << 50, 1 << 60])
def test_memory_that_the_host_has_not_got_is_out_of_memory_with_the_size_asked(bytes_asked: int) -> None:
    record = run_cell(bare(lambda: torch.empty(bytes_asked, dtype=torch.uint8)).name, "tested").record

    assert record.outcome is Outcome.OOM
    assert record.crash is not None
    assert record.crash.memory["asked"] == bytes_asked
    assert 0 < record.crash.memory["device_free"] < record.crash.memory["device_total"]
    assert record.reason.startswith(f"out of memory: asked for {bytes_asked / 2**30:,.2f} GiB")


def test_pythons_own_memory_error_is_out_of_memory_too() -> None:
    record = run_cell(bare(lambda: bytearray(1 << 62)).name, "tested").record

    assert record.outcome is Outcome.OOM


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_cell_held_is_gone_when_its_task_is_over(fails: bool) -> None:
    held: list[weakref.ref[Any]] = []

    def step(x: torch.Tensor) -> torch.Tensor:
        held.append(weakref.ref(x))
        if fails:
            cycle: list[Any] = [x]
            cycle.append(cycle)
            raise ValueError("with a cycle in a frame of the traceback")
        return x + x

    outcome = run_cell(doubling(step), "tested").record.outcome

    assert outcome is (Outcome.ERROR if fails else Outcome.OK)
    assert held
    assert {reference() for reference in held} == {None}


def test_reset_restores_the_state_before_every_sample_untimed() -> None:
    restored = []

    @gpubench.workload("stateful")
    def make() -> dict[str, torch.Tensor]:
        return {"state": torch.zeros(4), "x": torch.arange(4.0)}

    @make.backend("tested")
    def _(state: torch.Tensor, x: torch.Tensor) -> Step:
        return lambda: state.add_(x)

    @make.oracle
    def _(state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return state + x

    @make.reset
    def _(state: torch.Tensor) -> None:
        restored.append(state.clone())
        state.zero_()

    ran = run_cell("stateful", "tested")

    assert ran.record.outcome is Outcome.OK, ran.record.reason
    assert ran.record.warnings == []
    steps = [state[1].item() for state in restored]
    repeats = ran.record.details.get(
        "inner_repeats", 1
    )  # a sample's own steps, more than one on a clock that is coarse
    assert set(steps[1:]) <= {0.0, 1.0, 3.0, repeats}, (
        "never more than a sample's or a calibration's steps without a reset"
    )
    assert len(restored) >= 2 + 1 + len(measurement(ran, "step_time").samples)


def test_a_step_that_changes_its_inputs_without_a_reset_is_measured_with_a_warning() -> None:
    ran = run_cell(doubling(lambda x: x.mul_(2)), "tested")

    assert ran.record.outcome is Outcome.OK, ran.record.reason
    assert ["register" in warning and ".reset" in warning for warning in ran.record.warnings] == [True]


def test_a_set_up_that_asks_for_what_is_not_there_is_told_what_is() -> None:
    @gpubench.workload("misspelt")
    def make(rows: int = 2) -> dict[str, torch.Tensor]:
        return {"weight": torch.ones(rows)}

    @make.backend("tested")
    def _(weights: torch.Tensor) -> Step:
        return lambda: weights

    record = run_cell("misspelt", "tested").record

    assert record.outcome is Outcome.ERROR
    assert record.reason == (
        "backend 'tested' of misspelt asks for 'weights'; did you mean 'weight'? there is: artifacts, rows, weight"
    )


def test_a_set_up_that_forgets_to_return_the_step_is_told_so() -> None:
    workload = bare(lambda: None)
    workload.backend("forgetful")(lambda: None)

    record = run_cell(workload.name, "forgetful").record

    assert record.outcome is Outcome.ERROR
    assert "returns the step" in record.reason


def test_unknown_names_are_errors_that_suggest_the_known_ones() -> None:
    name = doubling(lambda x: x + x)

    assert "did you mean 'tested'" in run_cell(name, "testet").record.reason
    assert "no workload 'no such'" in run_cell("no such", "tested").record.reason


def test_a_timer_that_a_cpu_has_not_got_is_an_error_that_names_the_way_out() -> None:
    measure = MeasureSettings(timer="cuda_event")

    record = run_cell(doubling(lambda x: x + x), "tested", measure=measure).record

    assert record.outcome is Outcome.ERROR
    assert record.reason == "measure.timer: cuda_event needs a CUDA GPU, and this is cpu; use wall or auto"


@pytest.mark.parametrize("launch", ["blocked", "graph"])
def test_a_cpu_has_no_launching_to_leave_out(launch: str) -> None:
    record = run_cell(doubling(lambda x: x + x), "tested", measure=QUICK.model_copy(update={"launch": launch})).record

    assert (record.outcome, record.details["launch"]) == (Outcome.OK, "n/a")


def test_a_workload_that_measures_itself_is_run_once_per_trial_and_believed() -> None:
    runs = []

    @gpubench.workload("own_figures", open_axes=True, measures_itself=True)
    def make(**axes: Any) -> dict[str, Any]:
        return dict(axes)

    @make.backend("tested")
    def _(rate: int) -> Step:
        def step() -> list[OwnMeasurement]:
            runs.append(rate)
            return [
                OwnMeasurement("tok_s", "1/s", rate),
                OwnMeasurement("ttft", "s", 0.5),
                OwnMeasurement("ttft", "s", 0.75),
            ]

        return step

    ran = run_cell("own_figures", "tested", trials=(0, 1), rate=7)

    assert [record.outcome for record in ran.records] == [Outcome.OK, Outcome.OK], ran.records[-1].reason
    assert runs == [7, 7]
    step_time, rate, ttft = ran.records[0].measurements
    assert (step_time.metric, step_time.timer, len(step_time.samples)) == ("step_time", Timer.WALL, 1)
    assert (rate.samples, rate.unit, rate.timer) == ([7], "1/s", None)
    assert ttft.samples == [0.5, 0.75]
    assert Stage.CHECK not in {stage for _, stage in ran.stages}


def test_a_workload_that_measures_itself_gives_all_samples_at_once_and_its_own_step_time() -> None:
    step_times = OwnMeasurement("step_time", "s", [0.25, 0.5], timer=Timer.WALL)
    workload = bare(lambda: [step_times, OwnMeasurement("rate", "1/s", 3.0)])
    workload.measures_itself = True

    step_time, rate = run_cell(workload.name, "tested").record.measurements

    assert (step_time.metric, step_time.timer, step_time.samples) == ("step_time", Timer.WALL, [0.25, 0.5])
    assert (rate.timer, rate.samples) == (None, [3.0])


def test_a_step_time_of_a_part_alone_leaves_the_wall_clock_that_of_the_whole() -> None:
    workload = bare(lambda: [OwnMeasurement("step_time", "s", 9.0, range="bucket 8")])
    workload.measures_itself = True

    whole, part = run_cell(workload.name, "tested").record.measurements

    assert (whole.metric, whole.range, whole.timer) == ("step_time", "", Timer.WALL)
    assert (part.metric, part.range, part.samples) == ("step_time", "bucket 8", [9.0])


@pytest.mark.parametrize(("against", "checked"), [("auto", 2), ("none", 0)])
def test_a_workload_that_measures_itself_may_be_asked_whether_it_was_right(against: str, checked: int) -> None:
    workload = bare(lambda: [OwnMeasurement("rate", "1/s", 3.0)])
    workload.measures_itself = True
    steps = []

    @workload.check
    def _(step: Step) -> CheckResult:
        steps.append(step)
        return CheckResult(against="1 of 3 answers", passed=len(steps) == 1, worst="token 7 is another")

    ran = run_cell(workload.name, "tested", trials=(0, 1), check=CheckSettings(against=against))

    assert len(steps) == checked
    first, second = ran.records
    assert first.outcome is Outcome.OK
    assert [check.passed for check in first.checks] == [True] * bool(checked)
    assert second.outcome is (Outcome.MISMATCH if checked else Outcome.OK)
    if checked:
        assert second.reason == "1 of 3 answers: token 7 is another"
        assert [check.passed for check in second.checks] == [False]
        assert [found.samples for found in second.measurements if found.metric == "rate"] == [[3.0]]


@pytest.mark.parametrize(
    ("value", "outcome", "why"),
    [
        ([0.5, math.nan], Outcome.INVALID, "wait of {} is nan"),
        (math.inf, Outcome.INVALID, "wait of {} is inf"),
        (None, Outcome.ERROR, "wait of {}: samples.0: Input should be a valid number, got None"),
        ((0.5, 0.25), Outcome.ERROR, "wait of {}: samples.0: Input should be a valid number, got (0.5, 0.25)"),
    ],
)
def test_a_figure_that_is_no_number_spoils_the_cell_and_none_of_its_other_figures(
    value: Any, outcome: Outcome, why: str
) -> None:
    workload = bare(lambda: [OwnMeasurement("wait", "s", value), OwnMeasurement("rate", "1/s", 3.0)])
    workload.measures_itself = True
    workload.check(lambda: CheckResult(against="nobody", passed=True))

    record = run_cell(workload.name, "tested").record

    assert (record.outcome, record.reason) == (outcome, why.format(workload.name))
    assert {"step_time", "rate"} <= {found.metric for found in record.measurements}


def out_of_memory() -> CheckResult:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def of_two_minds() -> CheckResult:
    raise SystemExit("no")


@pytest.mark.parametrize(
    ("check", "outcome", "why"),
    [
        (out_of_memory, Outcome.OOM, "raised out of memory: asked for 2.00 GiB"),
        (of_two_minds, Outcome.ERROR, "raised called sys.exit('no')"),
        (lambda: None, Outcome.ERROR, "raised TypeError: returned NoneType, where a CheckResult is wanted"),
    ],
)
def test_figures_whose_check_could_not_be_made_are_kept_and_not_ok(
    check: Callable[[], CheckResult], outcome: Outcome, why: str
) -> None:
    workload = bare(lambda: [OwnMeasurement("rate", "1/s", 3.0)])
    workload.measures_itself = True
    answers = iter([lambda: CheckResult(against="1 of 3 answers", passed=True), check])

    @workload.check
    def _() -> CheckResult:
        return next(answers)()

    first, second = run_cell(workload.name, "tested", trials=(0, 1, 2)).records

    assert first.outcome is Outcome.OK
    assert (second.outcome, second.stage) == (outcome, Stage.CHECK)
    assert second.reason.startswith(f"measured, but not checked: .check of {workload.name} {why}")
    assert [found.samples for found in second.measurements if found.metric == "rate"] == [[3.0]]
    assert second.checks == [], "the first trial's check says nothing of the second"


def test_a_workload_that_measures_itself_must_return_measurements() -> None:
    workload = bare(lambda: 12)
    workload.measures_itself = True

    record = run_cell(workload.name, "tested").record

    assert record.outcome is Outcome.ERROR
    assert "OwnMeasurement" in record.reason


def test_the_profile_pass_repeats_the_step_and_reports_no_times_of_its_own() -> None:
    steps = []
    name = doubling(lambda x: steps.append(1))

    ran = run_cell(name, "tested", pass_=Pass.PROFILE)

    record = ran.record
    assert (record.outcome, record.pass_) == (Outcome.OK, Pass.PROFILE), record.reason
    assert record.measurements == []
    assert record.checks == [], "outputs were checked in the timing pass"
    assert record.details["repetitions"] == 40
    assert len(steps) == 40 + record.details["warmup_steps"]
    assert [stage for _, stage in ran.stages] == [Stage.SETUP, Stage.WARMUP, Stage.PROFILE, Stage.DONE]


def test_a_step_that_replays_is_run_eagerly_once_after_its_profiled_repetitions() -> None:
    trace: list[str] = []

    class Replay:
        def __call__(self) -> None:
            trace.append("replay")

        def eager(self) -> None:
            trace.append("eager")

    workload = bare(lambda: None)

    @workload.backend("replay")
    def _() -> Step:
        return Replay()

    profiled = run_cell(workload.name, "replay", pass_=Pass.PROFILE).record
    assert profiled.outcome is Outcome.OK, profiled.reason
    assert trace[-11:] == ["replay"] * 10 + ["eager"]

    trace.clear()
    timed = run_cell(workload.name, "replay").record
    assert timed.outcome is Outcome.OK, timed.reason
    assert set(trace) == {"replay"}


def test_a_check_setting_reaches_the_comparison() -> None:
    name = doubling(lambda x: 2.1 * x)

    strict = run_cell(name, "tested").record
    loose = run_cell(name, "tested", check=CheckSettings(rtol=0.1)).record

    assert (strict.outcome, loose.outcome) == (Outcome.MISMATCH, Outcome.OK)
    assert strict.checks[0].passed is False
    assert loose.checks[0].rtol == 0.1


def test_a_swept_command_that_a_signal_ended_has_crashed_and_the_worker_can_go_on() -> None:
    load_builtin()

    record = run_cell("command", "shell", command="echo oh no >&2; kill -SEGV $$", shell=True).record

    assert record.outcome is Outcome.CRASH
    assert record.crash is not None
    assert (record.crash.signal, record.crash.exit_status) == ("SIGSEGV", -11)
    assert record.crash.stderr_tail == "oh no\n"
    assert not is_context_lost(record)
