"""The commands on good days: help, plans, a run and its reports, in real processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support import Finished, command_line, environment, gpubench, gpubench_here, only_run, write_sweep

import gpubench as api
from gpubench.cli.app import app

COMMANDS = sorted(typer.main.get_command(app).commands)
HEAVY = ["numpy", "nvtx", "pandas", "plotly", "pyarrow", "torch", "triton"]
SWEEP = """
name: four-products
workload: matmul
axes:
  backend: [torch]
  m: [8, 16]
  n: [8, 16]
params: {k: 8, dtype: float32}
measure: {trials: 2, warmup_time_s: 0, min_samples: 5, max_samples: 5}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    write_sweep(folder, SWEEP)
    return folder


@pytest.fixture(scope="module")
def swept(folder: Path) -> Finished:
    return gpubench(folder, "sweep", "sweep.yaml")


@pytest.fixture(scope="module")
def run(folder: Path, swept: Finished) -> Path:
    assert swept.code == 0, swept.out + swept.err
    return only_run(folder)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_help_names_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    shown = gpubench(tmp_path, "--help")
    assert shown.code == 0
    for command in COMMANDS:
        assert f" {command} " in shown.out
    assert "130 interrupted, resumable" in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    shown = gpubench_here(tmp_path, command, "--help")
    assert (shown.code, shown.err) == (0, "")
    flags = [flag for option in typer.main.get_command(app).commands[command].params for flag in option.opts]
    for flag in flags:
        assert flag in shown.out or not flag.startswith("-")


def test_the_installed_command_and_the_module_are_the_same_program(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("gpubench")
    told = subprocess.run([script, "--version"], capture_output=True, text=True, env=environment(), check=True).stdout
    assert told == gpubench(tmp_path, "--version").out == f"gpubench {api.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["sweep", "sweep.yaml", "--dry-run"]])
def test_what_runs_nothing_imports_nothing_heavy(folder: Path, arguments: list[str]) -> None:
    program = f"""
import sys
from typer.testing import CliRunner
from gpubench.cli.app import app
done = CliRunner().invoke(app, {arguments!r})
assert done.exit_code == 0, done.output
print(*sorted({set(HEAVY)!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


def test_a_dry_run_shows_the_cells_that_the_run_then_has_and_writes_nothing(tmp_path: Path, run: Path) -> None:
    sweep = write_sweep(tmp_path, SWEEP)
    planned = gpubench(tmp_path, "sweep", str(sweep), "--dry-run")
    assert planned.code == 0, planned.err
    for cell in api.load_run(run).header.cells:
        assert cell.cell_id in planned.out
    assert "4 cells on the CPU" in planned.out
    part = gpubench(tmp_path, "sweep", str(sweep), "--dry-run", "--only", "m=8", "--set", "axes.n=[8,16,32]")
    assert "3 cells on the CPU" in part.out
    assert list(tmp_path.iterdir()) == [sweep]


def test_a_dry_run_on_a_narrow_terminal_cuts_names_and_no_values(tmp_path: Path) -> None:
    pareto = Path(__file__).parents[2] / "configs" / "pareto.yaml"
    planned = gpubench_here(tmp_path, "sweep", str(pareto), "--dry-run", "--gpus", "none", COLUMNS="80")
    rows = [line for line in planned.out.splitlines() if line.lstrip().startswith("cell_")]
    assert len(rows) == 20
    assert all(len(row) <= 80 for row in rows)
    first, second = rows[0].split(), rows[1].split()
    assert first[1:] == ["eager", "1", "128", "tiny-hybrid", "4", "null", "1"]
    assert second[1:] == ["eager", "1", "128", "tiny-mla-indexer", "3", "TEP", "2"]
    assert second[0].startswith("cell_001")


def test_a_sweep_tells_of_each_cell_and_where_its_report_is(run: Path, swept: Finished) -> None:
    assert swept.err == ""
    for number, cell in enumerate(api.load_run(run).header.cells, start=1):
        assert f"{number}/4 ok       {cell.cell_id}  step_time" in swept.out
    assert "4 cells: 4 ok" in swept.out
    assert f"results/{run.name}/report.html" in swept.out


def test_one_cell_is_no_cells(tmp_path: Path) -> None:
    told = gpubench(tmp_path, "sweep", str(write_sweep(tmp_path, SWEEP)), "--only", "m=8", "--only", "n=8")
    assert "\n1 cell: 1 ok" in told.out


def test_a_report_is_written_in_every_format_beside_the_page(folder: Path, run: Path) -> None:
    cells = {cell.cell_id for cell in api.load_run(run).header.cells}
    told = gpubench(folder, "report", "--format", "md,csv,json")
    assert told.code == 0, told.err
    assert told.out.split() == [f"results/{run.name}/report.{name}" for name in ("md", "csv", "json")]
    assert {row["cell_id"] for row in read_csv(run / "report.csv")} == cells
    assert "All 4 cells are ok" in (run / "report.md").read_text()
    exported = json.dumps(json.loads((run / "report.json").read_text()))
    page = (run / "report.html").read_text()
    for cell in cells:
        assert cell in exported
        assert cell in page


def test_a_run_reports_as_well_wherever_its_folder_is_copied(tmp_path: Path, run: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "elsewhere" / "renamed")
    (copy / "report.html").unlink()
    for name in ("report.md", "report.csv"):
        (copy / name).unlink(missing_ok=True)
    told = gpubench(tmp_path, "report", str(copy), "--format", "html,csv", "--out", "pages")
    assert told.code == 0, told.err
    assert (tmp_path / "pages" / "report.html").stat().st_size > 10_000
    assert read_csv(tmp_path / "pages" / "report.csv")
    assert not (copy / "report.html").exists()


def test_two_runs_are_laid_over_one_another_in_one_page(tmp_path: Path, run: Path) -> None:
    for name in ("before", "after"):
        copy = shutil.copytree(run, tmp_path / "results" / name)
        header = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps({**header, "run_id": name}))
    told = gpubench(tmp_path, "report", "before", "after", "--out", ".", "--format", "html,md")
    assert told.code == 0, told.err
    for page in ("report.html", "report.md"):
        text = (tmp_path / page).read_text()
        assert "before" in text
        assert "after" in text


def test_a_notebook_reads_what_the_command_line_wrote(run: Path) -> None:
    loaded = api.load_run(run)
    assert [str(cell.outcome) for cell in loaded.cells] == ["ok"] * 4
    assert loaded.timers() == ["wall"]
    samples = loaded.samples()
    steps = samples[samples["metric"] == "step_time"]
    assert len(steps) == 4 * 2 * 5, "cells × trials × samples: every one is kept"
    assert (steps["value"] > 0).all()
    assert {"m", "n", "backend", "metric", "median"} <= set(loaded.frame().columns)
    frontier = loaded.frontier("flop_per_s", "step_time")
    assert 1 <= len(frontier) <= 4


def test_doctor_says_the_same_to_people_and_to_programs(tmp_path: Path) -> None:
    findings = json.loads(gpubench(tmp_path, "doctor", "--json").out)
    assert {"python", "torch", "GPU", "timer wall"} <= {finding["subject"] for finding in findings}
    for finding in findings:
        assert finding["state"] in ("good", "missing", "bad")
        assert finding["told"]
        assert finding["remedy"] or finding["state"] == "good", f"{finding['subject']}: what is missing has a remedy"
    shown = gpubench(tmp_path, "doctor")
    assert shown.code == 0
    assert all(finding["subject"] in shown.out for finding in findings)


def test_list_shows_what_its_json_says(tmp_path: Path) -> None:
    catalogue = json.loads(gpubench_here(tmp_path, "list", "--json").out)["workloads"]
    shown = gpubench_here(tmp_path, "list").out
    for name, workload in catalogue.items():
        assert name in shown
        assert all(backend["name"] in shown for backend in workload["backends"])
    alone = gpubench_here(tmp_path, "list", "matmul").out
    assert "matmul" in alone
    assert "rmsnorm" not in alone


@pytest.mark.parametrize("arguments", [["list"], ["--version"], ["--help"]])
def test_a_pipe_that_closes_early_is_no_regression(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command_line(*arguments), env=environment(), stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_interpreter_is_named_at_once_and_what_it_cannot_do_is_skipped(tmp_path: Path) -> None:
    text = SWEEP.replace("[torch]", "[triton]").replace("8, 16", "8").replace("float32", "bfloat16")
    told = gpubench(tmp_path, "sweep", str(write_sweep(tmp_path, text)), "--gpus", "none", TRITON_INTERPRET="1")
    assert "Triton in its interpreter, whose times say nothing of a GPU" in told.out
    assert "1 cell: 1 skipped" in told.out
    assert "dtype bfloat16, which Triton's interpreter computes wrongly" in told.out
