"""`gpubench triage --escalate`: failed cells run again in real workers, one thing changed at a time."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support import PLUGINS, command_line, environment, gpubench_here, only_run, wait_until, write_sweep

from gpubench.triage import VERDICTS, read_verdicts

SWEEP = f"""
name: moody
workload: moody
plugins: [{PLUGINS / "moody.py"}]
axes: {{backend: [BACKENDS]}}
measure: {{trials: 1, warmup_time_s: 0, max_samples: 10, max_time_s: 1}}
timeout_s: {{cell: 30, check: 2}}
"""
HOST = "leaves_something, minds, segfaults, hangs, fails_once"
GPUS = "healthy, replays, launches"
LOGS = Path(__file__).parent.parent / "data" / "sanitizer"
"""Of compute-sanitizer, as an H200 made them."""

SANITIZER = """#!/bin/sh
# writes the log that it is given for its tool, and runs the program
while [ $# -gt 0 ]; do
  case "$1" in
    --tool) tool=$2; shift 2;;
    --log-file) log=$2; shift 2;;
    --target-processes) shift 2;;
    *) break;;
  esac
done
echo "$tool" >> '{folder}/asked'
if [ -e '{folder}'/$tool ]; then cat '{folder}'/$tool > "$log"; else echo "========= COMPUTE-SANITIZER" > "$log"; fi
exec "$@"
"""


def sweep(folder: Path, backends: str) -> Path:
    done = gpubench_here(folder, "sweep", str(write_sweep(folder, SWEEP.replace("BACKENDS", backends))), "-q")
    assert done.code == 3, done.err
    return only_run(folder)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("moody")
    sweep(folder, HOST)
    return folder


def copy_of(swept: Path, tmp_path: Path) -> Path:
    shutil.copytree(swept / "results", tmp_path / "results")
    return only_run(tmp_path)


def answers(run: Path) -> dict[str, dict[str, str]]:
    """By backend and rung."""
    found: dict[str, dict[str, str]] = {}
    for verdict in read_verdicts(run).found:
        found.setdefault(verdict.cell_id.split("_", 2)[2], {})[verdict.rung] = verdict.verdict
    return found


def own_files(run: Path) -> dict[str, bytes]:
    paths = [path for path in run.rglob("*") if path.is_file() and "reproduced" not in path.parts]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths if path.name != VERDICTS}


def test_faults_of_the_host_are_run_again_and_what_they_are_is_said(swept: Path, tmp_path: Path) -> None:
    run = copy_of(swept, tmp_path)
    before = own_files(run)
    done = gpubench_here(tmp_path, "triage", "--escalate", MOOD="later")
    assert done.code == 0, done.err
    found = answers(run)
    assert (found["segfaults"]["alone"], found["hangs"]["alone"]) == ("fails the same", "fails the same")
    assert found["minds"]["alone"] == "passes"
    assert found["minds"]["after others"] == "fails the same"
    assert (found["fails-once"]["alone"], found["fails-once"]["after others"]) == ("passes", "not applicable")
    assert all(rungs["memcheck"] == "not applicable" for rungs in found.values())
    told = " ".join(done.out.split())
    assert re.search(r"diagnosis segfault at moody\.py:\d+ in <lambda>: repeats alone \(rerun\)", told)
    assert re.search(r"diagnosis host hang at moody\.py:\d+ in <lambda>: repeats alone \(rerun\)", told)
    assert "diagnosis needs the cells before it: alone it passes" in told
    assert "diagnosis flaky: RuntimeError at moody.py" in told
    assert "not asked" in done.err
    assert own_files(run) == before, "the run itself stays as it was"
    records = {verdict.records for verdict in read_verdicts(run).found if verdict.records}
    assert all((run / each / "cells.jsonl").exists() for each in records)
    assert only_run(tmp_path) == run, "a rerun is no run among the others"


def test_one_cell_can_be_named_and_asked_again_and_the_table_is_all_that_stdout_gets(swept: Path, tmp_path: Path):
    run = copy_of(swept, tmp_path)
    for _ in range(2):
        done = gpubench_here(tmp_path, "triage", "--escalate", "--cell", "2", "--format", "json")
        assert done.code == 0, done.err
    rows = {row["class"]: row for row in json.loads(done.out)["signatures"]}
    assert [verdict["rung"] for verdict in rows["segfault"]["verdicts"]].count("alone") == 2
    assert rows["segfault"]["diagnosis"]["basis"] == "rerun"
    assert "2 of 2 times" in rows["segfault"]["diagnosis"]["text"]
    assert rows["host hang"]["diagnosis"] is None, "nothing was asked of it"
    assert set(answers(run)) == {"segfaults"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "2"], "--cell: which cells to run again, with --escalate"),
        (["--escalate", "--cell", "0"], "only cells that failed are escalated"),
        (["--escalate", "--cell", "cell_9"], "no cell 'cell_9'"),
        (["--escalate", "--cell", "2", "--all"], "one cell, or all"),
    ],
)
def test_what_cannot_be_meant_is_refused(swept: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    run = copy_of(swept, tmp_path)
    done = gpubench_here(tmp_path, "triage", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not (run / VERDICTS).exists()


def test_an_interrupted_ladder_leaves_what_it_has_found_and_nothing_running(swept: Path, tmp_path: Path) -> None:
    run = copy_of(swept, tmp_path)
    running = subprocess.Popen(
        command_line("triage", "--escalate"),
        cwd=tmp_path,
        env=environment(MOOD="later"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: read_verdicts(run).found, "there is a first verdict")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert b"interrupted" in err
    assert b"Traceback" not in err + out
    found = read_verdicts(run)
    assert found.found
    assert found.note == ""
    assert gpubench_here(tmp_path, "triage").code == 0


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose records say that its cells ran on a GPU: its ladder is climbed on the CPU for all that."""
    folder = tmp_path_factory.mktemp("gpu")
    cells = sweep(folder, GPUS) / "cells.jsonl"
    cells.write_bytes(cells.read_bytes().replace(b'"gpu":"cpu"', b'"gpu":"cuda:0 NVIDIA H200"'))
    return folder


def sanitizer(folder: Path, **logs: str) -> dict[str, str]:
    """A compute-sanitizer that tells what it is to tell, and notes what it is asked; by its variable."""
    folder.mkdir()
    program = folder / "compute-sanitizer"
    program.write_text(SANITIZER.format(folder=folder))
    program.chmod(0o755)
    for tool, log in logs.items():
        shutil.copy(LOGS / log, folder / tool)
    return {"GPUBENCH_COMPUTE_SANITIZER": str(program)}


def row_of(folder: Path, backend: str, *arguments: str, **variables: str) -> dict[str, object]:
    done = gpubench_here(folder, "triage", "--format", "json", *arguments, **variables)
    assert done.code == 0, done.err
    rows = json.loads(done.out)["signatures"]
    return next(row for row in rows if any(cell.endswith(backend) for cell in row["cells"]))


def test_what_fails_only_in_a_graph_is_told_from_what_fails_without_one(on_gpu: Path, tmp_path: Path) -> None:
    run = copy_of(on_gpu, tmp_path)
    row = row_of(tmp_path, "replays", "--escalate", "--cell", "1", **sanitizer(tmp_path / "tools"))
    found = answers(run)["replays"]
    assert [found[rung] for rung in ("alone", "blocking", "graphs off")] == ["fails the same"] * 2 + ["passes"]
    asked = (tmp_path / "tools" / "asked").read_text().split()
    assert asked == ["memcheck", "initcheck", "racecheck"], (
        "what takes longest comes last, where the others were silent"
    )
    assert [found[tool] for tool in asked] == ["finds nothing"] * 3
    assert row["diagnosis"]["basis"] == "contrast"
    assert "only when replayed from a CUDA graph" in row["diagnosis"]["text"]
    assert row["culprit"] is None, "nobody was seen doing it"


def test_memcheck_names_the_line(on_gpu: Path, tmp_path: Path) -> None:
    copy_of(on_gpu, tmp_path)
    tools = sanitizer(tmp_path / "tools", memcheck="wild_eager.memcheck")
    row = row_of(tmp_path, "launches", "--escalate", "--cell", "2", **tools)
    assert (row["culprit"]["kernel"], row["culprit"]["file"], row["culprit"]["line"]) == ("wild_store", "faults.py", 7)
    text = row["diagnosis"]["text"]
    assert text.startswith("invalid access: wild_store (faults.py:7): Invalid __global__ write of size 16 bytes")
    assert text.endswith("(memcheck)")
    assert (tmp_path / "tools" / "asked").read_text().split() == ["memcheck"], "it is enough"


def test_a_sanitizer_that_does_not_work_is_told_with_what_it_said_and_not_tried_again(
    on_gpu: Path, tmp_path: Path
) -> None:
    run = copy_of(on_gpu, tmp_path)
    broken = tmp_path / "compute-sanitizer"
    broken.write_text('#!/bin/sh\necho "========= Unable to find injection library" > "$6"\nexit 13\n')
    broken.chmod(0o755)
    arguments = ("--escalate", "--cell", "2")
    row = row_of(tmp_path, "launches", *arguments, GPUBENCH_COMPUTE_SANITIZER=str(broken))
    details = {verdict["rung"]: (verdict["verdict"], verdict["detail"]) for verdict in row["verdicts"]}
    assert details["memcheck"] == ("no answer", "Unable to find injection library")
    assert details["initcheck"] == ("not applicable", "compute-sanitizer had no answer to memcheck")
    assert answers(run)["launches"]["graphs off"] == "fails the same"
    assert row["diagnosis"]["basis"] == ""


def test_a_run_of_a_gpu_is_not_escalated_without_one(on_gpu: Path, tmp_path: Path) -> None:
    run = copy_of(on_gpu, tmp_path)
    header = json.loads((run / "run.json").read_text())
    header["environment"]["gpus"] = [{"name": "NVIDIA H200", "index": 0}]
    (run / "run.json").write_text(json.dumps(header))
    done = gpubench_here(tmp_path, "triage", "--escalate")
    assert (done.code, done.out) == (2, "")
    assert "there is none to use here" in done.err
    assert not (run / VERDICTS).exists()
    assert list(run.parent.iterdir()) == [run], "nothing was run"
