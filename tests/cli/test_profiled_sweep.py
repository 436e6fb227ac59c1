"""Sweeps with a profiled pass, under a real nsys: without a GPU it records ranges, and so what becomes of them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support import (
    PLUGINS,
    Finished,
    command_line,
    environment,
    gpubench,
    only_run,
    require_nsys,
    wait_until,
    write_sweep,
)

from gpubench.analysis.conditions import labels_of
from gpubench.analysis.merge import CellResult, merge_cells
from gpubench.errors import ProfilerError
from gpubench.profilers.names import cell_range, repetition_range
from gpubench.profilers.nsys import find_nsys
from gpubench.profilers.projection import Projection, project
from gpubench.records import CellRecord, Outcome, Pass, Stage
from gpubench.store import StoredRun, read_run

INSTALLED = Path(__file__).parents[2] / ".nsys"
REPETITIONS = 40
MEASURE = "measure: {trials: 1, warmup_time_s: 0, min_samples: 3, max_samples: 3}"
SWEEP = f"""
name: profiled
workload: under_nsys
plugins: [{PLUGINS / "under_nsys.py"}]
axes:
  backend: [healthy, dies_under_nsys, lives_only_once]
{MEASURE}
include:
  - {{backend: healthy, size: 128}}
"""
"""Two cells that nothing happens to, one that nsys kills, and one that dies whenever it is run again."""
PROGRAM = f"""
name: program
workload: command
axes: {{number: [1]}}
params:
  command:
    - {sys.executable}
    - -c
    - |
      import nvtx
      with nvtx.annotate("the program's own"):
          print("rate", 41 + {{number}})
  metrics:
    rate: {{pattern: 'rate ([0-9]+)', unit: 1/s}}
{MEASURE}
"""


@pytest.fixture(scope="module")
def nsys() -> dict[str, str]:
    """The variables by which gpubench finds a real nsys, and its workers an nvtx that it understands."""
    tool, nvtx = require_nsys(INSTALLED / "bin" / "nsys"), require_nsys(INSTALLED / "nvtx")
    return {"GPUBENCH_NSYS": str(tool), "PYTHONPATH": str(nvtx)}


@pytest.fixture(scope="module")
def secret() -> str:
    """In the environment of the sweep that most tests here read, and nowhere else: nsys reads every process's."""
    return secrets.token_hex(16)


def sweep(folder: Path, file: Path, *arguments: str, **variables: str) -> Finished:
    return gpubench(folder, "sweep", str(file), "--gpus", "none", "--timer", "nsys", *arguments, **variables)


def profile_of(result: CellResult) -> CellRecord:
    (record,) = result.of(Pass.PROFILE)
    return record


def processes_in(run: Path) -> list[list[str]]:
    """The command lines of what was started for this run and hasn't ended."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in found if run.name in " ".join(command)]


def kept_files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiled")


@pytest.fixture(scope="module")
def finished(folder: Path, nsys: dict[str, str], secret: str) -> Finished:
    return sweep(folder, write_sweep(folder, SWEEP), **nsys, MY_TOKEN=secret)


@pytest.fixture(scope="module")
def results(folder: Path, finished: Finished) -> dict[str, CellResult]:
    assert finished.code == 3, finished.out + finished.err
    return {
        f"{result.cell.backend}{result.cell.axes.get('size', '')}": result
        for result in merge_cells(read_run(only_run(folder)))
    }


@pytest.fixture(scope="module")
def traces(folder: Path, results: dict[str, CellResult]) -> dict[str, Projection]:
    artifacts = only_run(folder) / "artifacts"
    found = sorted(artifacts.glob("worker_*/trace.sqlite"))
    return {str(path.relative_to(artifacts)): project(path, may_be_empty=True) for path in found}


@pytest.mark.parametrize("cell", ["healthy", "healthy128"])
def test_a_cell_has_a_profile_that_names_its_profiler_and_its_trace(
    results: dict[str, CellResult], traces: dict[str, Projection], cell: str
) -> None:
    record = profile_of(results[cell])
    assert (record.outcome, record.stage) == (Outcome.OK, Stage.DONE)
    assert record.details["profiler"].startswith("nsys 20")
    assert record.details["trace"] in traces
    assert record.details["repetitions"] == REPETITIONS
    assert record.measurements == [], "without a GPU no figure can come from a trace"
    (warning,) = record.warnings
    assert warning.startswith(f"nothing that ran on the GPU of {record.cell_id} is in the trace")


@pytest.mark.parametrize("cell", ["healthy", "healthy128"])
def test_every_repetition_is_in_the_trace_within_its_cell_with_what_it_annotated(
    results: dict[str, CellResult], traces: dict[str, Projection], cell: str
) -> None:
    record = profile_of(results[cell])
    instances = traces[record.details["trace"]].instances
    repetitions = instances[instances["range"] == repetition_range(record.cell_id)]
    assert len(repetitions) == REPETITIONS
    (around,) = set(repetitions["parent"])
    assert instances.loc[around, "range"] == cell_range(record.cell_id)
    annotated = instances[(instances["range"] == "gpubench:add") & instances["parent"].isin(repetitions.index)]
    assert annotated["parent"].tolist() == repetitions.index.tolist()


def test_what_both_passes_note_of_a_cell_is_not_taken_for_its_workloads_label(results: dict[str, CellResult]) -> None:
    assert [labels_of(result) for result in results.values()] == [{}] * len(results)


def test_a_cell_that_nsys_kills_keeps_its_timings_and_says_who_did_it(results: dict[str, CellResult]) -> None:
    result = results["dies_under_nsys"]
    assert result.outcome is Outcome.OK
    (timing,) = result.of(Pass.TIMING)
    assert len(timing.measurements[0].samples) == 3
    (warning,) = profile_of(result).warnings
    assert warning.startswith("no kernel times: under nsys, ")
    assert "SIGSEGV" in warning
    assert warning.endswith("without it the cell then ran, so nsys is the likely cause")


def test_a_cell_that_dies_without_nsys_as_well_has_crashed(results: dict[str, CellResult]) -> None:
    result = results["lives_only_once"]
    assert result.outcome is Outcome.CRASH
    assert result.reason.count("SIGSEGV") == 2
    assert "and without nsys, once more: " in result.reason


def test_what_is_kept_of_a_trace_has_no_environment_in_it(
    folder: Path, results: dict[str, CellResult], secret: str
) -> None:
    kept = kept_files(only_run(folder))
    traces = [text for name, text in kept.items() if name.endswith("trace.sqlite")]
    assert traces
    assert not [text for text in traces if os.environ["PATH"].encode() in text]
    assert not [name for name, text in kept.items() if secret.encode() in text]
    assert not [name for name in kept if "/trace." in name and not name.endswith("/trace.sqlite")]


def test_the_user_is_told_of_both_passes(finished: Finished, results: dict[str, CellResult]) -> None:
    assert "profiled pass 4 cells under nsys" in finished.out
    assert "so nsys is the likely cause" in finished.out
    assert "4 cells: 3 ok, 1 crash" in finished.out


def test_ranges_that_nsys_does_not_hear_of_are_missed_in_one_sentence(tmp_path: Path, nsys: dict[str, str]) -> None:
    version = find_nsys(nsys).version
    if not version.startswith("2023."):
        pytest.skip(f"nsys {version} hears every nvtx")
    file = write_sweep(tmp_path, SWEEP)
    finished = sweep(tmp_path, file, "--only", "backend=healthy", "--keep-traces", **{**nsys, "PYTHONPATH": ""})
    assert finished.code == 0, finished.err
    run = only_run(tmp_path)
    warnings = {warning for result in merge_cells(read_run(run)) for warning in profile_of(result).warnings}
    (warning,) = warnings
    assert warning.startswith(f"no kernel times: nsys {version} recorded none of the ranges that nvtx 0.2.")
    assert warning.endswith("or the last nvtx that older ones understand (pip install nvtx==0.2.11)")

    assert kept_files(run)["artifacts/worker_001/trace.nsys-rep"], "--keep-traces keeps nsys's own report"


@pytest.mark.parametrize("is_named", [True, False])
def test_without_an_nsys_to_profile_with_nothing_is_begun(tmp_path: Path, is_named: bool) -> None:
    variables = {"GPUBENCH_NSYS": str(tmp_path / "nsys") if is_named else "", "PATH": str(tmp_path)}
    try:
        tool = find_nsys(variables)
    except ProfilerError:
        pass
    else:
        pytest.skip(f"{tool.path} is found without being named")
    finished = sweep(tmp_path, write_sweep(tmp_path, SWEEP), **variables)
    assert finished.code == 2
    assert "install Nsight Systems (https://developer.nvidia.com/nsight-systems)" in finished.err
    assert finished.err.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_pass_that_was_left_out_and_then_killed_is_made_up_for(tmp_path: Path, nsys: dict[str, str]) -> None:
    file = write_sweep(tmp_path, SWEEP)
    healthy = ("--only", "backend=healthy")
    assert sweep(tmp_path, file, *healthy, "--no-profile", **nsys).code == 0
    run = only_run(tmp_path)
    before = read_run(run).records
    assert [record.pass_ for record in before] == [Pass.TIMING] * 2

    command = command_line("sweep", str(file), "--gpus", "none", "--timer", "nsys", *healthy, "--resume")
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(**nsys), stdout=subprocess.DEVNULL)
    events = run / "artifacts" / "worker_001" / "events.jsonl"
    wait_until(lambda: events.exists() and b'"profile"' in events.read_bytes(), "a cell is being profiled")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not processes_in(run), "nsys and the worker in it have ended by themselves")

    finished = sweep(tmp_path, file, *healthy, "--resume", **nsys)
    assert finished.code == 0, finished.err
    records = read_run(run).records
    assert records[:2] == before
    assert [record.pass_ for record in records[2:]] == [Pass.PROFILE] * 2
    assert {record.details["profiler"].split()[0] for record in records[2:]} == {"nsys"}
    assert not list(run.glob("artifacts/*/trace.nsys-rep")), "nsys wrote one when it had been killed"


FORGETFUL = """#!/bin/sh
'{nsys}' "$@"; status=$?
case "$*" in profile*/artifacts/*)
    echo >>'{folder}/told'
    [ "$(wc -l <'{folder}/told')" -gt {losses} ] && exit $status
    rm '{folder}'/results/program-*/artifacts/*/trace.nsys-rep
    echo 'Importer error status: Importation failed.'
esac
exit $status
"""
"""Loses its first reports, as nsys itself does now and then on a busy machine."""


def sweep_forgetfully(folder: Path, nsys: dict[str, str], losses: int) -> StoredRun:
    """A sweep of a program whose first reports are lost, so many of them."""
    tool = folder / "nsys"
    tool.write_text(FORGETFUL.format(nsys=nsys["GPUBENCH_NSYS"], folder=folder, losses=losses))
    tool.chmod(0o755)
    finished = sweep(folder, write_sweep(folder, PROGRAM), **{**nsys, "GPUBENCH_NSYS": str(tool)})
    assert finished.code == 0, finished.err
    assert "profiled again, as their trace was lost: 1 cell under nsys" in finished.out
    return read_run(only_run(folder))


@pytest.fixture(scope="module")
def lost_once(tmp_path_factory: pytest.TempPathFactory, nsys: dict[str, str]) -> StoredRun:
    """Of a few goes one in which nsys, on a busy machine, didn't lose the second report by itself."""
    for _ in range(3):
        run = sweep_forgetfully(tmp_path_factory.mktemp("lost_once"), nsys, losses=1)
        if "trace" in profile_of(*merge_cells(run)).details:
            break
    return run


def test_a_trace_that_nsys_loses_is_recorded_once_more(lost_once: StoredRun) -> None:
    (result,) = merge_cells(lost_once)
    assert "trace" in profile_of(result).details


def test_a_trace_that_nsys_loses_twice_is_missing_with_what_nsys_said(tmp_path: Path, nsys: dict[str, str]) -> None:
    (result,) = merge_cells(sweep_forgetfully(tmp_path, nsys, losses=2))
    profile = profile_of(result)
    assert "trace" not in profile.details
    (warning,) = profile.warnings
    assert warning.endswith("trace.nsys-rep: Importer error status: Importation failed.")


def test_a_program_is_recorded_with_the_ranges_that_it_opens_itself(lost_once: StoredRun) -> None:
    (result,) = merge_cells(lost_once)
    (timing,) = result.of(Pass.TIMING)
    assert [(found.metric, found.samples) for found in timing.measurements[1:]] == [("rate", [42.0])]
    profile = profile_of(result)
    assert profile.measurements == [], "what a program reports under a profiler is no timing"
    assert profile.warnings == ["no kernel times: the program ran nothing on the GPU within its NVTX ranges"]
    trace = project(lost_once.path / "artifacts" / profile.details["trace"], may_be_empty=True)
    own = [name for name in trace.ranges["range"] if not name.startswith("gpubench:")]
    assert own == ["the program's own"]
