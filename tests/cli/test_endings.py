"""However a sweep ends, nothing that it started runs on, nothing recorded is lost, and what to do next is said."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from support import gpubench_here, is_running, only_run, start, wait_until, write_sweep

from gpubench import report
from gpubench.records import Pass
from gpubench.store import read_run

ENGINE = """
name: engine
workload: command
axes: {n: [1]}
params:
  command: >-
    sh -c 'setsid --fork sh -c "echo \\$\\$ > daemon; exec sleep 8638{n}";
    sleep 8639{n} & echo $! > pid.tmp; while [ ! -s daemon ]; do sleep 0.05; done; mv pid.tmp pid; wait'
"""
"""A program that starts another, as an engine does its server, and a daemon, which is nobody's child any more."""
PRODUCT = """
name: product
workload: matmul
axes: {backend: [torch], m: [8]}
params: {n: 8, k: 8, dtype: float32}
measure: {trials: 1, warmup_time_s: 0, min_samples: 3, max_samples: 3}
"""
NSYS = """#!/bin/sh
[ "$1" = --version ] && echo "NVIDIA Nsight Systems version 2025.3.1.90" && exit
for word; do case "$word" in --output=*) echo trace > "${word#*=}.nsys-rep";; esac; done
case "$*" in *gpubench.worker*) setsid sleep 86396;; esac
"""
"""An nsys that leaves a report at once and never ends before its target does, which it starts in another session."""


def test_a_closed_terminal_and_a_kill_take_along_the_worker_and_what_its_cell_has_started(tmp_path: Path) -> None:
    ends = {signal.SIGHUP: 130, signal.SIGKILL: -signal.SIGKILL}
    folders = {number: tmp_path / number.name for number in ends}
    sweeps = {}
    for number, folder in folders.items():
        folder.mkdir()
        sweeps[number] = start(folder, "sweep", str(write_sweep(folder, ENGINE)))
    for number, folder in folders.items():
        wait_until((folder / "pid").exists, "the program has started another")
        server = psutil.Process(int((folder / "pid").read_text()))
        sweep = psutil.Process(sweeps[number].pid)
        started = [process.pid for process in (server, *server.parents()) if sweep in process.parents()]
        assert len(started) == 3, "the server, the program and the worker"
        daemon = int((folder / "daemon").read_text())
        assert sweep not in psutil.Process(daemon).parents()
        started.append(daemon)
        sweeps[number].send_signal(number)
        out = sweeps[number].communicate()[0].decode()
        assert sweeps[number].returncode == ends[number], out
        wait_until(lambda these=started: not any(map(is_running, these)), "all that it had started is gone")


def test_a_report_that_could_not_be_written_is_told_after_the_counts_with_the_command_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ["sweep", str(write_sweep(tmp_path, PRODUCT))]
    assert gpubench_here(tmp_path, *sweep).code == 0
    run = only_run(tmp_path)
    command = f"what was recorded is safe: gpubench report results/{run.name}"

    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    unwritten = gpubench_here(tmp_path, *sweep, "--resume")
    assert unwritten.code == 2
    assert "1 cell: 1 ok" in unwritten.out
    assert "report.html: can't write the report" in unwritten.err
    assert f"{command} --out DIR" in unwritten.err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_report", interrupted)
    stopped = gpubench_here(tmp_path, *sweep, "--resume")
    assert stopped.code == 130
    assert "1 cell: 1 ok" in stopped.out
    assert stopped.err == f"gpubench: interrupted before the report was written; {command}\n"


def test_a_stopped_profiled_pass_says_what_it_owes_and_leaves_no_trace_that_nobody_reads(tmp_path: Path) -> None:
    nsys = tmp_path / "nsys"
    nsys.write_text(NSYS)
    nsys.chmod(0o755)
    sweep = write_sweep(tmp_path, PRODUCT)
    process = start(tmp_path, "sweep", str(sweep), "--timer", "nsys", GPUBENCH_NSYS=str(nsys))
    wait_until(lambda: list(tmp_path.glob("results/*/artifacts/worker_001/trace.nsys-rep")), "the trace is begun")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert any(b"Ctrl-C again stops now" in line for line in process.stdout), "two before that may count as one"
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, out
    assert "1 cell: 1 ok, 1 not profiled" in out
    assert f"resume   gpubench sweep {sweep} --set measure.timer=nsys --resume" in out
    assert {record.pass_ for record in read_run(only_run(tmp_path)).records} == {Pass.TIMING}
    assert list(tmp_path.rglob("trace.*")) == []
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(nsys) in (p.info["cmdline"] or [])]
