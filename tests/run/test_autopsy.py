"""What is found around a dead worker: the driver's lines, a program's core, the host's memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import answer, task

from gpubench.records import Crash, Outcome
from gpubench.run import autopsy
from gpubench.run.autopsy import attach_core, find_group, read_xid
from gpubench.run.coredump import CoreReader

XID = "NVRM: Xid (PCI:0000:19:00): 31, pid={pid}, name=python, Ch 00000008, MMU Fault: ENGINE GRAPHICS"


def log(folder: Path, *lines: tuple[float, str]) -> Path:
    """The kernel's log with lines of so many seconds ago, as /dev/kmsg gives them."""
    now = time.monotonic()
    path = folder / "kmsg"
    path.write_text("".join(f"4,{n},{int((now - ago) * 1e6)},-;{text}\n" for n, (ago, text) in enumerate(lines)))
    return path


def test_the_drivers_lines_are_those_about_this_process_in_its_time(tmp_path: Path) -> None:
    own = XID.format(pid=4711)
    warp = "NVRM: Xid (PCI:0000:19:00): 13, Graphics SM Warp Exception on (GPC 0, TPC 8, SM 0): MMU Fault"
    lines = log(
        tmp_path,
        (500, own.replace("31", "13")),
        (3, XID.format(pid=12)),
        (2, "usb 1-1: new high-speed device"),
        (1.5, warp.replace("19:00", "3b:00")),
        (1.5, warp),
        (1, own),
    )
    assert read_xid(4711, since_s=60, log=lines) == [own, warp]


@pytest.mark.parametrize("sees_all", [True, False])
def test_in_a_container_of_which_the_driver_knows_no_numbers_the_time_decides(tmp_path, monkeypatch, sees_all) -> None:
    monkeypatch.setattr(autopsy, "_sees_all_processes", lambda: sees_all)
    lines = log(tmp_path, (1, XID.format(pid=90_000)))
    assert read_xid(17, since_s=60, log=lines) == ([] if sees_all else [XID.format(pid=90_000)])


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert read_xid(17, since_s=60, log=tmp_path / "none") == []
    assert read_xid(17, since_s=60, log=tmp_path) == []


@given(st.binary() | st.text(alphabet="0123456789,;-NVRM: Xid(pid=\n ").map(str.encode))
def test_any_log_is_read_without_a_complaint(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("log") / "kmsg"
    path.write_bytes(content)
    assert isinstance(read_xid(1, since_s=1e9, log=path), list)


def test_the_core_of_a_program_that_a_cell_ran_is_put_into_the_cells_record(tmp_path: Path) -> None:
    worker, cell = tmp_path / "artifacts" / "worker_000", tmp_path / "artifacts" / "cell_003"
    worker.mkdir(parents=True)
    (worker / "gpu.1.core").write_bytes(b"core")
    specimen = Path(__file__).parents[1] / "data" / "crashes" / "wild_eager.gdb"
    reader = tmp_path / "cuda-gdb"
    reader.write_text(f"#!/bin/sh\ncat '{specimen}'\n")
    reader.chmod(0o755)
    asked = task(3, tmp_path / "artifacts")
    died = asked.record(0, Outcome.CRASH, answer(asked, 0, 1).stage, crash=Crash(signal="SIGABRT"))
    found = attach_core(died, worker, cell, CoreReader(str(reader)))
    assert found.crash is not None
    assert found.crash.faulting is not None
    assert found.crash.faulting.kernel == "wild_store"
    assert (found.crash.signal, found.crash.cuda_error) == ("SIGABRT", "cudaErrorIllegalAddress")
    assert attach_core(died, worker, cell, CoreReader(str(reader))) == died, "it has been taken"
    well = answer(asked, 0, 1)
    assert attach_core(well, worker, cell, CoreReader("")) == well


V2 = ("memory.events", "memory.current", "memory.peak", "memory.max")
V1 = ("memory.oom_control", "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes")


@pytest.mark.parametrize(
    ("told", "folder", "names", "limit", "found"),
    [
        ("0::/job.slice\n", "job.slice", V2, "1500\n", {"host_limit": 1500}),
        ("0::/job.slice\n", "job.slice", V2, "max\n", {}),
        ("0::/../of/the/host\n", "", V2, "max\n", {}),
        ("4:memory:/job\n1:cpu:/\n0::/\n", "memory/job", V1, "1500\n", {"host_limit": 1500}),
        ("5:cpu,memory:/docker/4f3a\n0::/\n", "memory", V1, f"{2**63 - 4096}\n", {}),
    ],
)
def test_a_control_groups_memory_and_victims_are_read_under_both_versions(tmp_path, told, folder, names, limit, found):
    (tmp_path / "cgroup").write_text(told)
    files = tmp_path / "fs" / folder
    files.mkdir(parents=True)
    for name, text in zip(names, ("oom 3\noom_kill 2\n", "700\n", "1400\n", limit), strict=True):
        (files / name).write_text(text)
    group = find_group(tmp_path / "cgroup", tmp_path / "fs")
    assert group is not None
    assert group.count_kills() == 2
    assert group.read() == {"host_used": 700, "host_peak": 1400, **found}


def test_where_no_control_group_counts_memory_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("3:cpuset:/\nodd\n0::/job\n")
    assert find_group(tmp_path / "cgroup", tmp_path / "fs") is None
    assert find_group(tmp_path / "none", tmp_path / "fs") is None
