"""A sweep that is stopped, killed or starved loses nothing that it had recorded, and goes on where it was."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from support import PLUGINS, gpubench_here, is_running, only_run, start, wait_until, write_sweep

from gpubench.analysis.merge import merge_cells
from gpubench.records import Outcome
from gpubench.store import read_run

CELLS = 30
MANY = f"""
name: many
workload: bad_luck
plugins: [{PLUGINS / "bad_luck.py"}]
axes:
  size: [{", ".join(str(8 + n) for n in range(CELLS))}]
params: {{seconds: 0.01}}
measure: {{trials: 2, warmup_time_s: 0, min_samples: 3, max_samples: 3}}
"""
HANGING = MANY.replace("axes:", "axes:\n  backend: [hangs]")


def wait_for_records(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until a sweep has written so many, or has ended."""

    def holds() -> bool:
        files = list((folder / "results").glob("*/cells.jsonl"))
        return process.poll() is not None or (bool(files) and files[0].read_bytes().count(b"\n") >= count)

    wait_until(holds, f"there are {count} records")


def wait_for_the_hang(folder: Path) -> None:
    """Until the first worker of a sweep is in the step of a cell that hangs."""

    def holds() -> bool:
        events = list(folder.glob("results/*/artifacts/worker_000/events.jsonl"))
        return bool(events) and b'"check"' in events[0].read_bytes()

    wait_until(holds, "the cell is being checked")


def workers_of(folder: Path) -> list[int]:
    """The workers of sweeps that were started in this folder, dead parents or not."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "cwd"])
        if "gpubench.worker" in (process.info["cmdline"] or []) and process.info["cwd"] == str(folder)
    ]


def test_kills_while_records_are_written_or_workers_start_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, MANY)
    moments = random.Random(20)
    recorded: list[bytes] = []
    for kill in range(5):
        process = start(tmp_path, "sweep", str(sweep), *(["--resume"] if kill else []))
        if kill % 3 == 1:
            time.sleep(moments.uniform(0.1, 2.0))
        else:
            wait_for_records(tmp_path, len(recorded) + moments.randrange(1, 6), process)
            time.sleep(moments.uniform(0, 0.03))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        lines = (only_run(tmp_path) / "cells.jsonl").read_bytes().split(b"\n")[:-1]
        assert lines[: len(recorded)] == recorded, "what was once on disk stays"
        recorded = lines
    finished = gpubench_here(tmp_path, "sweep", str(sweep), "--resume")
    assert finished.code == 0, finished.out + finished.err
    run = read_run(only_run(tmp_path))
    times = Counter((record.cell_id, record.trial) for record in run.records)
    assert set(times.values()) == {1}
    assert [result.outcome for result in merge_cells(run)] == [Outcome.OK] * CELLS
    assert len(times) == 2 * CELLS


def test_one_ctrl_c_lets_the_cell_end_and_says_how_to_resume(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, MANY)
    process = start(tmp_path, "sweep", str(sweep))
    wait_for_records(tmp_path, 4, process)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, out
    assert f"gpubench sweep {shlex.quote(str(sweep))} --resume" in out
    assert "not run" in out
    outcomes = {record.outcome for record in read_run(only_run(tmp_path)).records}
    assert outcomes == {Outcome.OK}, "a stop is no failure of any cell"
    assert gpubench_here(tmp_path, "sweep", str(sweep), "--resume").code == 0


def test_two_ctrl_c_stop_a_hanging_cell_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "sweep", str(write_sweep(tmp_path, HANGING)))
    wait_for_the_hang(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any(b"Ctrl-C again stops now" in line for line in process.stdout), "two before that may count as one"
    time.sleep(0.3)
    assert process.poll() is None, "one Ctrl-C waits for the running cell"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert workers_of(tmp_path) == []


def test_a_resume_after_a_change_is_refused_with_the_change_named_and_force_is_recorded(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, MANY)
    few = ["--only", "size=<12"]
    assert gpubench_here(tmp_path, "sweep", str(sweep), *few).code == 0
    refused = gpubench_here(tmp_path, "sweep", str(sweep), *few, "--resume", "--set", "params.seconds=0.02")
    assert refused.code == 2
    assert "sweep.params.seconds: 0.01 → 0.02" in refused.err
    assert "--force" in refused.err
    forced = gpubench_here(tmp_path, "sweep", str(sweep), *few, "--resume", "--set", "measure.max_samples=4", "--force")
    assert forced.code == 0, forced.err
    assert "sweep.measure.max_samples: 3 → 4" in read_run(only_run(tmp_path)).sessions[-1].forced


def test_failed_cells_run_again_when_asked_and_the_last_attempt_counts(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, MANY.replace("axes:", "axes:\n  backend: [healthy, raises_in_step]"))
    assert gpubench_here(tmp_path, "sweep", str(sweep), "--only", "size=8").code == 3
    again = gpubench_here(tmp_path, "sweep", str(sweep), "--only", "size=8", "--retry-failed", "error")
    assert again.code == 3
    failed = [result for result in merge_cells(read_run(only_run(tmp_path))) if result.cell.backend != "healthy"]
    assert [result.attempt for result in failed] == [1]
    assert "1 of 2 cells (1 has its answer)" in again.out
    assert "retry    gpubench sweep" in again.out


def test_what_only_leaves_out_is_counted_and_no_command_is_named_that_would_not_run_it(tmp_path: Path) -> None:
    sweep = str(write_sweep(tmp_path, MANY.replace("axes:", "axes:\n  backend: [healthy, raises_in_step]")))
    assert gpubench_here(tmp_path, "sweep", sweep, "--only", "size=8").code == 3
    healthy = gpubench_here(tmp_path, "sweep", sweep, "--only", "size=8", "--only", "backend=healthy", "--resume")
    assert healthy.code == 3, "a cell of the run has failed all the same"
    assert "2 cells: 1 ok, 1 error" in healthy.out
    assert "triage   gpubench triage" in healthy.out
    assert "retry " not in healthy.out
    assert "resume " not in healthy.out


def test_a_timeout_takes_every_descendant_with_it(tmp_path: Path) -> None:
    text = MANY.replace("axes:", "axes:\n  backend: [hangs_with_children]") + "timeout_s: 2\n"
    pid_file = tmp_path / "pid"
    finished = gpubench_here(
        tmp_path, "sweep", str(write_sweep(tmp_path, text)), "--only", "size=8", BAD_LUCK_PID_FILE=str(pid_file)
    )
    assert finished.code == 3, finished.err
    assert "timeout" in finished.out
    assert not is_running(int(pid_file.read_text()))


def test_every_cell_gets_a_process_of_its_own_under_isolation_cell(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, MANY)
    assert gpubench_here(tmp_path, "sweep", str(sweep), "--only", "size=<10", "--isolation", "cell").code == 0
    by_cell = {record.cell_id: record.worker for record in read_run(only_run(tmp_path)).records}
    assert len(set(by_cell.values())) == len(by_cell) == 2


def test_a_disk_that_fills_up_stops_the_sweep_and_the_resume_finishes_it(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        sweep = write_sweep(tmp_path, MANY)
        full = gpubench_here(tmp_path, "sweep", str(sweep), "--out", str(small))
        assert full.code == 2, full.out + full.err
        assert "--resume" in full.err
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        resumed = gpubench_here(tmp_path, "sweep", str(sweep), "--out", str(small), "--resume")
        assert resumed.code == 0, resumed.out + resumed.err
        run = read_run(next(small.glob("*/run.json")).parent)
        assert len({(record.cell_id, record.trial) for record in run.records}) == len(run.records) == 2 * CELLS
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_json_events_are_one_object_a_line_and_quiet_is_quiet(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path, MANY)
    told = gpubench_here(tmp_path, "sweep", str(sweep), "--only", "size=8", "--json")
    events = [json.loads(line) for line in told.out.splitlines()]
    assert events[0]["event"] == "sweep_started"
    assert events[-1] == {
        "event": "sweep_ended",
        "outcomes": {"ok": 1},
        "asked": {"ok": 1},
        "warned": 0,
        "unprofiled": 0,
        "is_interrupted": False,
        "path": events[0]["path"],
    }
    recorded = [event["record"] for event in events if event["event"] == "cell_recorded"]
    assert [(record["trial"], record["pass"], record["outcome"]) for record in recorded] == [
        (0, "timing", "ok"),
        (1, "timing", "ok"),
    ]
    quiet = gpubench_here(tmp_path, "sweep", str(sweep), "--only", "size=8", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
