"""`gpubench reproduce RUN CELL`: one cell again, in a real worker, told apart from what it did before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import PLUGINS, Finished, gpubench_here, only_run, write_sweep

from gpubench.analysis.run import load_run
from gpubench.records import Outcome

SWEEP = f"""
name: moody
workload: moody
plugins: [{PLUGINS / "moody.py"}]
axes:
  backend: [healthy, segfaults, raises, hangs, fails_once, fails_later, fails_otherwise]
  size: [8, 16]
exclude: [{{size: 16, backend: [segfaults, hangs]}}]
measure: {{trials: 1, warmup_time_s: 0, max_samples: 10, max_time_s: 1}}
timeout_s: {{cell: 30, check: 30}}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it."""
    folder = tmp_path_factory.mktemp("moody")
    file = write_sweep(folder, SWEEP)
    done = gpubench_here(folder, "sweep", str(file), "--set", "timeout_s.check=2", "-q")
    assert done.code == 3, done.err
    file.write_text("name: another\n")  # what is reproduced is the sweep that the run recorded
    return folder


@pytest.fixture
def folder(swept: Path, tmp_path: Path) -> Path:
    """A copy of the run to work on."""
    shutil.copytree(swept / "results", tmp_path / "results")
    return tmp_path


def reproduce(folder: Path, *arguments: str) -> Finished:
    """`gpubench reproduce ARGUMENTS`, in another world than the sweep's."""
    return gpubench_here(folder, "reproduce", *arguments, MOOD="later")


def files(run: Path) -> dict[str, bytes]:
    """A run's own files, without its reproductions."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and "reproduced" not in path.parts
    }


@pytest.mark.parametrize(
    ("cell", "code", "words"),
    [
        ("5", 0, ["error", "RuntimeError at moody.py:", "the same signature"]),
        ("cell_000_SIZE008_healthy", 0, ["ok", "step_time", "the same"]),
        ("cell_008_SIZE008_fails-once", 1, ["then error", "now ok", "alone it did not fail"]),
        ("cell_010_SIZE008_fails-later", 1, ["then ok", "now crash", "exit status 7", "what did not fail"]),
        ("cell_012", 1, ["cell_012_SIZE008_fails-otherwise", "ValueError", "KeyError", "another signature"]),
    ],
)
def test_a_cell_runs_alone_and_its_end_is_compared(folder: Path, cell: str, code: int, words: list[str]) -> None:
    run = only_run(folder)
    before = files(run)
    told = reproduce(folder, run.name, cell)
    assert (told.code, told.err) == (code, ""), told.out
    text = " ".join(told.out.split())
    for word in words:
        assert word in text
    assert files(run) == before, "the run itself stays as it was"


def test_the_settings_are_those_that_the_run_was_made_with(folder: Path) -> None:
    told = reproduce(folder, only_run(folder).name, "cell_006_SIZE008_hangs")
    assert told.code == 0, told.out
    assert told.out.count("after 2 s (timeout_s.check)") == 2


def test_a_reproduction_is_a_small_run_of_its_own_that_changes_no_results(folder: Path) -> None:
    run = only_run(folder)
    table = gpubench_here(folder, "triage", "--format", "json").out
    for _ in range(2):
        told = reproduce(folder, run.name, "cell_005_SIZE016_raises")
        assert told.code == 0, told.out
    found = sorted((run / "reproduced" / "cell_005_SIZE016_raises").iterdir())
    assert len(found) == 2, "each has a folder of its own"
    assert str(found[-1].relative_to(folder)) in " ".join(told.out.split())
    again = load_run(found[-1])
    assert [(cell.cell.cell_id, cell.outcome) for cell in again.cells] == [("cell_005_SIZE016_raises", Outcome.ERROR)]
    assert gpubench_here(folder, "triage", "--format", "json").out == table
    assert "1 of 1 cells failed" in gpubench_here(folder, "triage", str(found[-1])).out
    assert only_run(folder) == run, "it is no run among the others"


def test_the_command_in_the_table_is_one_that_reproduces(folder: Path) -> None:
    found = json.loads(gpubench_here(folder, "triage", "--format", "json").out)["signatures"]
    command = next(row["reproduce"] for row in found if row["class"] == "segfault").split()
    only_run(folder).rename(folder / "results" / "renamed")
    told = gpubench_here(folder, *command[1:])
    assert told.code == 0, told.out
    assert "the same signature" in told.out
    assert next(row["id"] for row in found if row["class"] == "segfault") in told.out


def test_a_place_elsewhere_can_be_named_for_its_records(folder: Path) -> None:
    told = reproduce(folder, only_run(folder).name, "5", "--out", "elsewhere")
    assert told.code == 0, told.out
    assert len(list((folder / "elsewhere").glob("moody-*/run.json"))) == 1
    assert not (only_run(folder) / "reproduced").exists()


@pytest.mark.parametrize(
    ("run", "cell", "words"),
    [
        ("nowhere", "0", ["nowhere: no run of that name or path", "moody-"]),
        (
            "",
            "cell_002_SIZE008_sigfaults",
            ["no cell 'cell_002_SIZE008_sigfaults'", "did you mean cell_002_SIZE008_segfaults?"],
        ),
        ("", "cell_01", ["'cell_01' begins 4 cells' ids: cell_010"]),
        ("", "99", ["no cell '99'", "its 12 cells: cell_000_SIZE008_healthy"]),
    ],
)
def test_what_is_not_there_is_said_with_what_is(folder: Path, run: str, cell: str, words: list[str]) -> None:
    told = reproduce(folder, run or only_run(folder).name, cell)
    assert (told.code, told.out) == (2, "")
    for word in words:
        assert word in told.err


def test_a_cell_without_an_answer_has_no_end_to_reproduce(folder: Path) -> None:
    run = only_run(folder)
    lines = (run / "cells.jsonl").read_bytes().splitlines(keepends=True)
    (run / "cells.jsonl").write_bytes(b"".join(lines[:3]))
    told = reproduce(folder, run.name, "cell_013_SIZE016_fails-otherwise")
    assert (told.code, "has not been run" in told.err, "--resume" in told.err) == (2, True, True)
    assert "9 not run" in gpubench_here(folder, "triage").out, "and its run can be triaged all the same"


def change_header(run: Path, **changed: object) -> None:
    header = json.loads((run / "run.json").read_text())
    for key, value in changed.items():
        header[key] = {**header[key], **value} if isinstance(value, dict) else value
    (run / "run.json").write_text(json.dumps(header))


def test_a_cell_of_a_gpu_is_not_reproduced_without_one(folder: Path) -> None:
    change_header(only_run(folder), environment={"gpus": [{"name": "NVIDIA H200", "index": 0}]})
    told = reproduce(folder, only_run(folder).name, "0")
    assert (told.code, "there is none to use here" in told.err) == (2, True), told.err


def test_a_plugin_that_is_gone_or_a_sweep_that_is_of_another_time_is_named(folder: Path) -> None:
    run = only_run(folder)
    change_header(run, sweep={"plugins": ["/gone/plugin.py"]})
    told = reproduce(folder, run.name, "0")
    assert (told.code, "sweep.plugins[0]" in told.err, "/gone/plugin.py" in told.err) == (2, True, True)
    change_header(run, sweep={"plugins": [], "measure": {"phase_of_the_moon": 3}})
    told = reproduce(folder, run.name, "0")
    assert (told.code, "sweep.measure.phase_of_the_moon" in told.err) == (2, True), told.err


def test_what_has_changed_since_the_run_is_said(folder: Path) -> None:
    change_header(only_run(folder), fingerprint={"torch": "1.0.0"})
    told = reproduce(folder, only_run(folder).name, "5")
    assert "torch: 1.0.0 → " in told.out
