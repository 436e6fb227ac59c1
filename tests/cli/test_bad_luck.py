"""Cells that come to grief in every way there is, in real workers: each is recorded, and the sweep goes on."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from support import PLUGINS, Finished, gpubench_here, only_run, write_sweep

from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.records import Outcome, Stage
from gpubench.store import read_run

SWEEP = f"""
name: bad-luck
workload: bad_luck
plugins: [{PLUGINS / "bad_luck.py"}]
axes:
  backend: [healthy, raises_in_setup, raises_in_step, calls_sys_exit, exits_3, killed, segfaults, hangs, returns_nan,
            is_wrong, leaves_a_hole, closes_its_output, prints_100_mb, needs_the_moon, out_of_memory]
measure: {{trials: 1, warmup_time_s: 0, max_samples: 10, max_time_s: 1}}
timeout_s: {{cell: 30, check: 4}}
include:
  - {{backend: healthy, size: 128}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad_luck")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Finished:
    return gpubench_here(folder, "sweep", str(write_sweep(folder, SWEEP)))


@pytest.fixture(scope="module")
def results(folder: Path, finished: Finished) -> dict[str, CellResult]:
    merged = merge_cells(read_run(only_run(folder)))
    return {result.cell.backend + ("_after" if result.cell.index == 15 else ""): result for result in merged}


EXPECTED = {
    "healthy": (Outcome.OK, Stage.DONE, "interval"),
    "raises_in_setup": (Outcome.ERROR, Stage.SETUP, "ValueError: set-up has a fault"),
    "raises_in_step": (Outcome.ERROR, Stage.CHECK, "RuntimeError: the step has a fault"),
    "calls_sys_exit": (Outcome.ERROR, Stage.CHECK, "sys.exit(3)"),
    "exits_3": (Outcome.CRASH, Stage.CHECK, "exited with status 3"),
    "killed": (Outcome.CRASH, Stage.CHECK, "SIGKILL"),
    "segfaults": (Outcome.CRASH, Stage.CHECK, "SIGSEGV"),
    "hangs": (Outcome.TIMEOUT, Stage.CHECK, "after 4 s (timeout_s.check)"),
    "returns_nan": (Outcome.INVALID, Stage.CHECK, "NaN"),
    "is_wrong": (Outcome.MISMATCH, Stage.CHECK, ""),
    "leaves_a_hole": (Outcome.INVALID, Stage.CHECK, "unwritten"),
    "closes_its_output": (Outcome.OK, Stage.DONE, ""),
    "prints_100_mb": (Outcome.OK, Stage.DONE, ""),
    "needs_the_moon": (Outcome.SKIPPED, Stage.SETUP, "pip install lunar-lander"),
    "out_of_memory": (Outcome.OOM, Stage.CHECK, ""),
    "healthy_after": (Outcome.OK, Stage.DONE, ""),
}


@pytest.mark.parametrize("backend", EXPECTED)
def test_each_end_is_recorded_with_its_outcome_stage_and_reason(results: dict[str, CellResult], backend: str) -> None:
    outcome, stage, reason = EXPECTED[backend]
    record = results[backend].decisive
    assert record is not None
    assert (record.outcome, record.stage) == (outcome, stage), record.reason
    assert reason in record.reason or backend == "healthy"


def test_the_exit_code_says_that_some_cells_failed_and_how_to_go_on(folder: Path, finished: Finished) -> None:
    assert finished.code == 3, finished.err
    assert "--retry-failed all" in finished.out
    assert f"gpubench triage results/{only_run(folder).name}" in finished.out
    assert "segfaults" in finished.out


def test_a_native_crash_leaves_its_python_stack(results: dict[str, CellResult]) -> None:
    record = results["segfaults"].decisive
    assert record is not None
    assert record.crash is not None
    assert "Segmentation fault" in record.crash.stderr_tail
    assert "bad_luck.py" in record.crash.stderr_tail


def test_a_hang_leaves_the_stack_it_hung_in(results: dict[str, CellResult]) -> None:
    record = results["hangs"].decisive
    assert record is not None
    assert record.crash is not None
    assert "bad_luck.py" in record.crash.stderr_tail


def test_output_is_kept_at_both_ends_and_bounded(folder: Path, results: dict[str, CellResult]) -> None:
    log = only_run(folder) / "artifacts" / results["prints_100_mb"].cell.cell_id / "stdout.txt"
    assert log.stat().st_size < 9 << 20
    text = log.read_text()
    assert text.startswith("xxxx")
    assert text.rstrip().endswith("the last line")


def test_the_report_has_every_cell(folder: Path, finished: Finished) -> None:
    page = (only_run(folder) / "report.html").read_text()
    assert "segfaults" in page
    assert "needs_the_moon" in page


SCRIBBLER = """
import os
import gpubench, torch

@gpubench.workload("scribbler")
def scribbler(size: int = 8):
    return {"x": torch.ones(size)}

@scribbler.backend("tidy", baseline=True)
def _(x):
    return lambda: x + 1

@scribbler.backend("scribbles")
def _(x):
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").endswith("events.jsonl"):
                os.write(int(name), bytes(range(256)) + b'{"kind": "ended"}')
        except OSError:
            pass
    return lambda: x + 1

@scribbler.backend("tidy_after")
def _(x):
    return lambda: x + 1
"""


def test_a_cell_that_writes_into_the_workers_event_file_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "scribbler.py").write_text(SCRIBBLER)
    sweep = """
name: scribbler
workload: scribbler
plugins: [scribbler.py]
axes: {backend: [tidy, scribbles, tidy_after]}
measure: {trials: 1, warmup_time_s: 0, max_samples: 10, max_time_s: 1}
"""
    done = gpubench_here(tmp_path, "sweep", str(write_sweep(tmp_path, sweep)))
    assert done.code == 0, done.err
    tidy, scribbles, after = merge_cells(read_run(only_run(tmp_path)))
    assert {tidy.outcome, scribbles.outcome, after.outcome} == {Outcome.OK}
    warnings = [warning for record in scribbles.records for warning in record.warnings]
    assert any("the worker didn't write 2 lines" in warning for warning in warnings), "they hold a line break"
    assert not [record.warnings for record in (*tidy.records, *after.records) if record.warnings]


MORTAL = """
import os
import gpubench
from gpubench.records import CheckResult
from gpubench.registry import OwnMeasurement

runs = []

@gpubench.workload("mortal", measures_itself=True, in_process=True)
def mortal(dies_in: str):
    return {}

@mortal.backend("only", baseline=True)
def _(dies_in):
    def step():
        runs.append(dies_in)
        if dies_in == "step" and len(runs) == 2:
            os._exit(3)
        return [OwnMeasurement("rate", "1/s", 7.0)]
    return step

@mortal.check
def _(dies_in):
    if dies_in == "check" and len(runs) == 2:
        os._exit(3)
    return CheckResult(against="nobody", passed=True)
"""


def test_what_was_measured_before_a_worker_died_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    sweep = "workload: mortal\nplugins: [mortal.py]\naxes: {dies_in: [step, check]}\nmeasure: {trials: 3}\n"
    done = gpubench_here(tmp_path, "sweep", str(write_sweep(tmp_path, sweep)))
    assert done.code == 3, done.err
    in_step, in_check = merge_cells(read_run(only_run(tmp_path)))
    kept = [
        (record.trial, record.outcome, [found.samples for found in record.measurements if found.metric == "rate"])
        for record in (*in_step.records, *in_check.records)
    ]
    assert kept == [
        (0, Outcome.OK, [[7.0]]),
        (1, Outcome.CRASH, []),
        (0, Outcome.OK, [[7.0]]),
        (1, Outcome.CRASH, [[7.0]]),
    ]
    assert in_step.reason == "the worker exited with status 3 during measure"
    assert in_check.reason == "the worker exited with status 3 during check; measured, but not checked"


def test_the_command_that_is_printed_tries_the_same_cells_again_whatever_options_there_were(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, SWEEP)
    options = ["--only", "backend=raises_in_step", "--set", "measure.seed=7", "--out", "kept here", "--gpus", "none"]
    first = gpubench_here(tmp_path, "sweep", str(sweep), *options)
    retry = next(line for line in first.out.splitlines() if line.startswith("retry"))
    words = shlex.split(retry.split("(")[0])[1:]
    assert words[0] == "gpubench"
    second = gpubench_here(tmp_path, *words[1:])
    assert second.code == 3, second.err
    runs = list((tmp_path / "kept here").glob("*/run.json"))
    assert len(runs) == 1
    assert [record.attempt for record in read_run(runs[0].parent).records] == [0, 1]
