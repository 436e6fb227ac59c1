"""Finding nsys, running workers under it, saying what is wrong: with programs that stand in for it, and with it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import require_nsys

from gpubench.errors import ProfilerError, ReportLost
from gpubench.profilers.nsys import (
    Nsys,
    check_ranges,
    export_report,
    find_nsys,
    find_report,
    profile_command,
    try_nsys,
    worker_environment,
)
from gpubench.profilers.projection import project
from gpubench.profilers.scrub import scrub

ROOT = Path(__file__).parents[2]
VERSION = "NVIDIA Nsight Systems version {}-234433681190v0"


def program(folder: Path, script: str, name: str = "nsys") -> Path:
    """An executable that stands in for nsys."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def speaking(folder: Path, version: str, name: str = "nsys") -> Path:
    return program(folder, f"echo '{VERSION.format(version)}'", name)


class TestFinding:
    def test_the_one_on_path_is_taken(self, tmp_path: Path) -> None:
        found = find_nsys({"PATH": str(speaking(tmp_path, "2025.3.1.90").parent)}, places=[])
        assert (found.path, found.version) == (tmp_path / "nsys", "2025.3.1.90")

    def test_the_one_that_is_named_goes_before_it(self, tmp_path: Path) -> None:
        speaking(tmp_path / "path", "2025.3.1.90")
        named = speaking(tmp_path / "named", "2024.1.1")
        environ = {"PATH": str(tmp_path / "path"), "GPUBENCH_NSYS": str(named)}
        assert find_nsys(environ, places=[]).version == "2024.1.1"

    def test_without_one_on_path_the_newest_in_the_usual_places_is_taken(self, tmp_path: Path) -> None:
        for version in ("2024.10.1", "2024.9.2", "2023.4.4"):
            speaking(tmp_path / version / "bin", version)
        assert find_nsys({"PATH": ""}, places=[f"{tmp_path}/*/bin/nsys"]).version == "2024.10.1"

    def test_none_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(ProfilerError, match=r"no nsys on PATH.*install Nsight Systems.*GPUBENCH_NSYS"):
            find_nsys({"PATH": str(tmp_path)}, places=[f"{tmp_path}/*/nsys"])

    def test_one_that_is_too_old(self, tmp_path: Path) -> None:
        old = speaking(tmp_path, "2021.3.2.4")
        with pytest.raises(ProfilerError, match=r"is version 2021\.3\.2\.4, and 2023\.1 is the oldest that serves"):
            find_nsys({"GPUBENCH_NSYS": str(old)})

    def test_one_that_does_not_start(self, tmp_path: Path) -> None:
        broken = program(tmp_path, "echo 'error while loading shared libraries: libdw.so.1' >&2; exit 127")
        with pytest.raises(ProfilerError, match=r"does not start: error while loading shared libraries: libdw\.so\.1"):
            find_nsys({"GPUBENCH_NSYS": str(broken)})

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ProfilerError, match="can't be started: No such file or directory"):
            find_nsys({"GPUBENCH_NSYS": str(tmp_path / "nsys")})


class TestCommand:
    tool = Nsys(Path("/opt/nsys"), "2025.3.1")

    def test_with_a_gpu_only_what_the_worker_brackets_is_recorded(self) -> None:
        command = profile_command(self.tool, ["python", "-m", "w"], Path("/out/trace"), has_gpu=True)
        assert command[:2] == ["/opt/nsys", "profile"]
        assert command[-3:] == ["python", "-m", "w"]
        assert {"--capture-range=cudaProfilerApi", "--capture-range-end=none", "--cuda-graph-trace=node"} < set(command)

    def test_without_a_gpu_recording_is_on_from_the_start(self) -> None:
        command = profile_command(self.tool, ["python"], Path("/out/trace"), has_gpu=False)
        assert not [word for word in command if word.startswith("--capture-range")]


def test_a_worker_is_not_shown_secrets() -> None:
    needed = {"PATH": "/bin", "HOME": "/root", "LD_LIBRARY_PATH": "/lib", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0"}
    needed |= {
        "PYTHONPATH": "/x",
        "TORCH_LOGS": "all",
        "TRITON_CACHE_DIR": "/t",
        "PYTHONUNBUFFERED": "1",
        "MY_FLAG": "1",
    }
    secrets = {"AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "s", "CUDA_API_KEY": "s", "DATABASE_URL": "s", "PATHS": "s"}
    assert worker_environment({**needed, **secrets}, also=["MY_FLAG"]) == needed


class TestReports:
    def test_a_report_is_found(self, tmp_path: Path) -> None:
        (tmp_path / "trace.v1.nsys-rep").write_bytes(b"x")
        assert find_report(tmp_path / "trace.v1", "") == tmp_path / "trace.v1.nsys-rep"

    @pytest.mark.parametrize(
        ("log", "reason"),
        [
            ("write: No space left on device", "the disk is full: free some room"),
            ("CUPTI_ERROR_INSUFFICIENT_PRIVILEGES", "the driver reserves profiling for root"),
            ("Failed to open /dev/x: Permission denied", "nsys lacks a permission"),
            ("unrecognised option '--cuda-graph-trace=node'", "it does not know an option that gpubench needs"),
            ("Generating\nFailed to create x: Read-only file system\nGenerated:", "Failed to create x: Read-only"),
            ("", "recording never began, or nsys was killed"),
        ],
    )
    def test_no_report_is_explained_by_what_nsys_said(self, tmp_path: Path, log: str, reason: str) -> None:
        with pytest.raises(ProfilerError) as caught:
            find_report(tmp_path / "trace", log)
        assert f"nsys left no report at {tmp_path}/trace.nsys-rep: {reason}" in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("log", "is_lost"),
        [
            ("Importer error status: Importation failed.", True),
            ("Connection to Agent lost. This is most likely a bug.", True),
            ("", True),
            ("Importer error status: The importer binary and its dependencies were not found.", False),
            ("write: No space left on device", False),
        ],
    )
    def test_one_is_lost_where_there_is_nothing_to_mend(self, tmp_path: Path, log: str, *, is_lost: bool) -> None:
        with pytest.raises(ProfilerError) as caught:
            find_report(tmp_path / "trace", log)
        assert isinstance(caught.value, ReportLost) is is_lost

    def test_an_export_that_fails_is_explained(self, tmp_path: Path) -> None:
        (tmp_path / "a.nsys-rep").write_bytes(b"x")
        tool = Nsys(program(tmp_path, "echo 'Exportation error: Invalid version prefix' >&2; exit 1"), "2025.3.1")
        with pytest.raises(ProfilerError, match=r"nsys 2025\.3\.1 can't export it: Exportation error: Invalid version"):
            export_report(tool, tmp_path / "a.nsys-rep", tmp_path / "a.sqlite")

    def test_an_export_that_hangs_is_ended(self, tmp_path: Path) -> None:
        (tmp_path / "a.nsys-rep").write_bytes(b"x")
        tool = Nsys(program(tmp_path, "exec sleep 60"), "2025.3.1")
        with pytest.raises(ProfilerError, match="export did not end within 1 s"):
            export_report(tool, tmp_path / "a.nsys-rep", tmp_path / "a.sqlite", timeout_s=1)


class TestRanges:
    expected = ("gpubench:cell=a/rep", "gpubench:cell=b/rep")

    def test_ranges_that_are_there_are_fine(self) -> None:
        check_ranges({*self.expected, "other"}, self.expected, "2023.4.4", "0.2.17")

    def test_none_at_all_from_a_new_nvtx_names_both_versions_and_the_fix(self) -> None:
        with pytest.raises(ProfilerError) as caught:
            check_ranges([], self.expected, "2023.4.4", "0.2.17")
        assert str(caught.value) == (
            "nsys 2023.4.4 recorded none of the ranges that nvtx 0.2.17 opened: install Nsight Systems 2025.3 or "
            "newer, or the last nvtx that older ones understand (pip install nvtx==0.2.11)"
        )

    @pytest.mark.parametrize(("found", "nvtx"), [([], "0.2.11"), (["gpubench:cell=b/rep"], "0.2.17")])
    def test_some_that_are_missing_are_named(self, found: list[str], nvtx: str) -> None:
        with pytest.raises(ProfilerError, match=r"range 'gpubench:cell=a/rep'.* is missing from the trace"):
            check_ranges(found, self.expected, "2025.3.1", nvtx)


SCRIPT = """
import time
import nvtx
for _ in range(3):
    with nvtx.annotate("cell=a", domain="gpubench"), nvtx.annotate("cell=a/rep", domain="gpubench"):
        time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def tool() -> Nsys:
    """A real nsys: $GPUBENCH_NSYS, or what .ci/install-nsys put into .nsys."""
    path = require_nsys(Path(os.environ.get("GPUBENCH_NSYS", ROOT / ".nsys" / "bin" / "nsys")))
    return find_nsys({"GPUBENCH_NSYS": str(path)})


def record(tool: Nsys, worker: Sequence[str], output: Path, **environ: str) -> Path:
    """The export of what nsys recorded of a program, the second time if it lost the first."""
    command = profile_command(tool, worker, output, has_gpu=False)
    environment = worker_environment({**os.environ, **environ})

    def recorded() -> Path:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return find_report(output, done.stdout + done.stderr)

    try:
        report = recorded()
    except ReportLost:
        report = recorded()
    return export_report(tool, report, output.with_suffix(".sqlite"))


class TestRealNsys:
    def test_the_ranges_of_a_program_are_in_its_trace(self, tool: Nsys, tmp_path: Path) -> None:
        nvtx = require_nsys(ROOT / ".nsys" / "nvtx")
        worker = [sys.executable, "-c", SCRIPT]
        export = record(tool, worker, tmp_path / "trace", PYTHONPATH=str(nvtx))
        clean = scrub(export, tmp_path / "clean.sqlite")
        assert os.environ["PATH"].encode() in export.read_bytes()
        assert os.environ["PATH"].encode() not in clean.read_bytes()
        projection = project(clean, may_be_empty=True)
        assert projection.ranges["range"].tolist() == ["gpubench:cell=a", "gpubench:cell=a/rep"]
        assert projection.ranges["instances"].tolist() == [3, 3]
        assert (projection.ranges["host_ns_median"] >= 1_000_000).all()
        assert projection.about["EXPORT_PRODUCT_VERSION"] == tool.version
        check_ranges(projection.ranges["range"].tolist(), ["gpubench:cell=a/rep"], tool.version, "0.2.11")

    def test_an_nvtx_that_it_does_not_understand_is_found_out(self, tool: Nsys, tmp_path: Path) -> None:
        nvtx = importlib.metadata.version("nvtx")
        if not tool.version.startswith("2023.") or nvtx == "0.2.11":
            pytest.skip(f"nsys {tool.version} records what nvtx {nvtx} opens")
        export = record(tool, [sys.executable, "-c", SCRIPT], tmp_path / "trace", PYTHONPATH="")
        found = project(export, may_be_empty=True).ranges["range"].tolist()
        with pytest.raises(ProfilerError, match=f"nsys {tool.version} recorded none of the ranges that nvtx {nvtx}"):
            check_ranges(found, ["gpubench:cell=a/rep"], tool.version, nvtx)

    def test_a_program_that_dies_leaves_its_report(self, tool: Nsys, tmp_path: Path) -> None:
        # it lives for a moment: what dies while nsys is still taking hold of it may leave none
        program = "import os, signal, time; time.sleep(2); os.kill(os.getpid(), signal.SIGSEGV)"
        worker = [sys.executable, "-c", program]
        assert record(tool, worker, tmp_path / "trace").stat().st_size > 0

    def test_it_passes_its_trial(self, tool: Nsys) -> None:
        try_nsys(tool)

    def test_without_its_importer_it_does_not(self, tool: Nsys, tmp_path: Path) -> None:
        collector = tool.path.resolve().parent
        if not (collector.parent / "host-linux-x64").is_dir():
            pytest.skip("this nsys is laid out differently")
        (tmp_path / "target-linux-x64").mkdir()
        for file in collector.iterdir():
            (tmp_path / "target-linux-x64" / file.name).symlink_to(file)
        alone = tmp_path / "target-linux-x64" / "nsys"
        alone.unlink()
        alone.write_bytes((collector / "nsys").read_bytes())
        alone.chmod(0o755)
        with pytest.raises(ProfilerError, match="its importer is missing or can't be started"):
            try_nsys(Nsys(alone, tool.version))
