"""What can't be meant is refused with exit code 2 and one clear sentence: where, what, and what would be right."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import PLUGINS, Finished, gpubench, gpubench_here, write_sweep

from gpubench.catalogue import Catalogue, WorkloadInfo
from gpubench.errors import PluginError
from gpubench.records import Cell, CellRecord, Outcome, Pass, Stage, dump_line
from gpubench.run.probe import load_catalogue
from gpubench.store import RunHeader, create_run

GOOD = """\
name: good
workload: matmul
axes:
  backend: [torch]
  m: [8, 16]
params: {n: 8, k: 8, dtype: float32}
"""


def assert_refused(finished: Finished, *told: str) -> None:
    """One sentence of gpubench's on standard error, each of `told` in it, and nothing else."""
    assert finished.code == 2, finished.out + finished.err
    assert finished.out == ""
    assert finished.err.startswith("gpubench: ")
    assert finished.err.count("\n") == 1
    for each in told:
        assert each in finished.err


def assert_usage_error(finished: Finished, told: str) -> None:
    """What the command line's parser refuses: in a box, with the command that helps."""
    assert finished.code == 2, finished.out + finished.err
    assert "Traceback" not in finished.err
    assert told in finished.err


FILES = {
    "an unknown workload": ("workload: matmull\n", ["sweep.yaml:1", "'matmull'", "did you mean 'matmul'?"]),
    "an unknown backend": (GOOD.replace("torch", "tritn"), ["sweep.yaml:4", "axes.backend[0]", "mean 'triton'?"]),
    "an unknown axis": (GOOD.replace("params", "  mm: [1]\nparams"), ["sweep.yaml:6", "axes.mm", "did you mean 'm'?"]),
    "an unknown key": (GOOD + "timout_s: 3\n", ["sweep.yaml:7", "timout_s", "did you mean 'timeout_s'?"]),
    "a word for a number": (GOOD.replace("16", "many"), ["sweep.yaml:5", "axes.m[1]", "'many'", "a whole number"]),
    "a missing argument": (GOOD.replace("k: 8,", ""), ["sweep.yaml", "matmul needs k"]),
    "a plugin that isn't there": (GOOD + "plugins: [mine.py]\n", ["sweep.yaml:7", "plugins[0]", "no file 'mine.py'"]),
    "what is no YAML": (GOOD + "zip: [\n", ["sweep.yaml:7", "not YAML"]),
    "an empty file": ("", ["sweep.yaml", "empty"]),
    "a tag that would run code": ("workload: !!python/object/apply:os.abort []\n", ["sweep.yaml:1", "isn't allowed"]),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_sweep_file_is_refused_at_the_line_of_its_fault(tmp_path: Path, fault: str) -> None:
    text, told = FILES[fault]
    write_sweep(tmp_path, text)
    assert_refused(gpubench_here(tmp_path, "sweep", "sweep.yaml"), *told)
    assert not (tmp_path / "results").exists()


FLAGS = {
    "--only m": "want axis=value",
    "--only mm=8": "unknown axis 'mm'; did you mean 'm'?",
    "--set measure.trials=three": "got 'three'; want a whole number",
    "--timer sundial": "got 'sundial'; known: auto, nsys",
    "--timer cuda_event --gpus none": "CUDA events time a GPU's work, and there is no GPU here: use --timer wall",
    "--isolation galaxy": "got 'galaxy'; known: worker, cell",
    "--gpus 7": "no GPU '7' here",
    "--retry-failed sometimes": "no outcome 'sometimes'; known: all, skipped",
    "--resume": "no run of 'good' to resume",
    "--retry-failed all": "no run of 'good' to resume",
    "--out taken": "choose a folder with --out",
    "--out taken/below": "choose a folder with --out",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_flags_that_cannot_be_meant_are_refused_by_name(tmp_path: Path, flags: str) -> None:
    write_sweep(tmp_path, GOOD)
    (tmp_path / "taken").write_text("a file where results should go")
    assert_refused(gpubench_here(tmp_path, "sweep", "sweep.yaml", *flags.split()), FLAGS[flags])
    assert (tmp_path / "taken").read_text() == "a file where results should go"


PATHS = {
    "sweep nowhere.yaml": "nowhere.yaml: no such file",
    "sweep folder": "folder: a folder; name the YAML file in it",
    "sweep binary": "binary:1: not UTF-8",
    "report folder": "folder: not a run: there is no run.json in it",
    "report nowhere": "nowhere: no run of that name or path",
    "report": "results: no runs here yet",
    "report --results folder": "folder: no runs here yet",
    "list nothing": "unknown workload 'nothing'",
    "list --plugin nowhere.py": "no file 'nowhere.py'",
}


@pytest.mark.parametrize("arguments", PATHS)
def test_a_path_or_a_name_that_leads_nowhere_is_refused(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\x7fELF\xff\xfe")
    assert_refused(gpubench_here(tmp_path, *arguments.split()), PATHS[arguments])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sweeep", "sweep.yaml"], "No such command 'sweeep'"),
        (["sweep"], "Missing argument"),
        (["sweep", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["sweep", "a.yaml", "--onyl", "m=8"], "No such option: --onyl"),
        (["sweep", "a.yaml", "--only"], "requires an argument"),
    ],
)
def test_a_command_line_that_cannot_be_parsed_says_so(tmp_path: Path, arguments: list[str], told: str) -> None:
    assert_usage_error(gpubench_here(tmp_path, *arguments), told)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that this version can't read, each in a way of its own."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("good", "newer", "newer_records", "no_json", "bad_line"):
        create_run(folder / "results", _header(name))
        with (folder / "results" / name / "cells.jsonl").open("wb") as cells:
            cells.write(dump_line(_record(schema=99 if name == "newer_records" else 1)))
            cells.write(b"{}\n" if name == "bad_line" else b"")
    newer = folder / "results" / "newer" / "run.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "schema": 99}))
    (folder / "results" / "no_json" / "run.json").write_text("{")
    (folder / "taken").write_text("")
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("results/newer", "newer/run.json: schema 99 is newer than this gpubench's 1; upgrade"),
        ("results/newer_records", "newer_records/cells.jsonl:1: schema 99 is newer"),
        ("results/no_json", "no_json/run.json: can't be read as a run's header"),
        ("results/bad_line", "bad_line/cells.jsonl:2: not a record"),
        ("results/good --format pdf", "--format pdf: no such format; known: html, md, csv, json"),
        ("results/good --format html,makdown", "--format makdown"),
        ("results/good --format ,", "--format: want at least one of html"),
        ("results/good --out taken", "choose a folder with room for it with --out"),
        ("results/good --against batch", "--against batch: want an axis and its value, as --against streams=1"),
        ("results/good --against batch=99999999999999999999", "'99999999999999999999' is an integer of more than 64"),
        ("results/good --against btach=1", "--against: no axis 'btach' in these runs; known: backend"),
    ],
)
def test_a_report_that_cannot_be_made_says_why_and_writes_nothing(runs: Path, arguments: str, told: str) -> None:
    assert_refused(gpubench_here(runs, "report", *arguments.split()), told)
    assert list(runs.rglob("*report.*")) == []


def _header(name: str) -> RunHeader:
    return RunHeader(
        run_id=name,
        name=name,
        created_at="2026-01-01T00:00:00.000+00:00",
        sweep={"name": name},
        sweep_file="sweep.yaml",
        cells=[Cell(0, "cell_000", "k0", "w", "b", {}, {})],
        workload=WorkloadInfo("w", "", [], [], [], "w.py:1"),
        environment={},
        fingerprint={},
    )


def _record(schema: int) -> CellRecord:
    return CellRecord(
        "cell_000", 0, "k0", "w", "b", {}, {}, 0, Pass.TIMING, 0, Outcome.SKIPPED, Stage.SETUP, schema=schema
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


HANG_S = 1_000_000 + os.getpid()
"""How long the plugin's child sleeps, and by that it is known from those of tests that run beside these."""
HANGS = f"""import subprocess

subprocess.run(["sleep", "{HANG_S}"], check=True)  # a child that holds on to this one's output
"""


@pytest.fixture(scope="module")
def hangs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("hangs") / "hangs_on_import.py"
    file.write_text(HANGS)
    return file


@pytest.fixture(scope="module", autouse=True)
def hung_import(pool: ThreadPoolExecutor, hangs: Path) -> Future[Catalogue]:
    """Begun before the module's first test, so that its time runs out beside theirs."""
    return pool.submit(load_catalogue, [str(hangs)], timeout_s=15)


SYNTAX_ERROR = "import gpubench\n\n@gpubench.workload('broken'\ndef broken(): ...\n"
PLUGIN_FAULTS = {
    "raises_on_import.py": ["ValueError: this plugin can't be imported", "raises_on_import.py:1"],
    "exits_on_import.py": ["called sys.exit(5) while it was imported", "exits_on_import.py:3"],
    "crashes_on_import.py": ["killed by SIGSEGV during its import", "crashes_on_import.py:3"],
    "syntax_error.py": ["SyntaxError", "syntax_error.py, line 3"],
    "leaves_quietly.py": ["ended its process with status 0 during its import"],
    "is_no_module": ["ModuleNotFoundError: No module named 'is_no_module'"],
}


@pytest.fixture(scope="module")
def plugin_faults(pool: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Finished]]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "syntax_error.py").write_text(SYNTAX_ERROR)
    (folder / "leaves_quietly.py").write_text("import os\nos._exit(0)\n")
    for name in ("raises_on_import.py", "exits_on_import.py", "crashes_on_import.py"):
        (folder / name).write_bytes((PLUGINS / name).read_bytes())
    return {name: pool.submit(gpubench, folder, "list", "--plugin", name) for name in PLUGIN_FAULTS}


@pytest.mark.parametrize("plugin", PLUGIN_FAULTS)
def test_a_plugin_that_cannot_be_imported_takes_nothing_with_it(
    plugin_faults: dict[str, Future[Finished]], plugin: str
) -> None:
    assert_refused(plugin_faults[plugin].result(), f"plugin {'' if plugin == 'is_no_module' else '/'}", plugin)
    assert_refused(plugin_faults[plugin].result(), *PLUGIN_FAULTS[plugin])


def test_a_plugin_that_hangs_is_ended_with_its_children_and_the_line_it_hung_in(
    hung_import: Future[Catalogue], hangs: Path
) -> None:
    told = rf"^plugin {re.escape(str(hangs))}: still importing after 15 s; .* \(at {re.escape(str(hangs))}:3\)$"
    with pytest.raises(PluginError, match=told):
        hung_import.result()
    assert not any(process.info["cmdline"] == ["sleep", str(HANG_S)] for process in psutil.process_iter(["cmdline"]))


def test_a_mistake_in_what_the_overlay_replaces_is_told_without_a_gpu_too(tmp_path: Path) -> None:
    text = "workload: matmul\naxes:\n  backend: [torch, tritn]\n  m: [8]\nparams: {n: 8, k: 8}\n"
    sweep = write_sweep(tmp_path, text + "overlay: {cpu: {axes: {backend: [torch]}}}\n")
    refused = gpubench_here(tmp_path, "sweep", str(sweep), "--dry-run")
    assert refused.code == 2
    assert "sweep.yaml:3: axes.backend[1]: unknown backend 'tritn' of matmul; did you mean 'triton'?" in refused.err
