"""compute-sanitizer's logs: recorded on an H200, in the shapes of its other tools, and noise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.machine import Gpu
from gpubench.run.sanitizer import SanitizerLauncher, find_sanitizer, parse_sanitizer
from gpubench.triage.verdicts import Answer

SPECIMENS = Path(__file__).parent.parent / "data" / "sanitizer"


def specimen(name: str) -> str:
    return (SPECIMENS / f"{name}.memcheck").read_text()


def log(*lines: str) -> str:
    return "\n".join(["========= COMPUTE-SANITIZER", *(f"========= {line}" for line in lines)])


def test_an_access_out_of_bounds_is_read_with_its_line_its_size_and_how_far_off_it_was():
    report = parse_sanitizer(specimen("wild_eager"))
    first = report.findings[0]
    assert (first.answer, first.told) == (Answer.INVALID_ACCESS, "Invalid __global__ write of size 16 bytes")
    assert (first.kernel, first.file, first.line, first.place) == (
        "wild_store",
        "faults.py",
        7,
        "wild_store (faults.py:7)",
    )
    assert (first.access, first.size_bytes) == ("write", 16)
    assert first.note == (
        "is out of bounds and is 274,739,495,937 bytes after the nearest allocation at 0x7f227ac00000 of size 512 bytes"
    )
    assert report.problem == "", "the tool did its work, though the program didn't end well"


def test_the_launch_is_that_of_the_users_line_not_of_tritons():
    first = parse_sanitizer(specimen("wild_eager")).findings[0]
    assert [frame.function for frame in first.host][:2] == ["launch", ""]
    launched = first.launched_at
    assert launched is not None
    assert (launched.file, launched.line, launched.function) == ("faults.py", 35, "<module>")


def test_every_thread_that_went_wrong_is_a_finding_and_other_text_is_none():
    found = parse_sanitizer(specimen("misaligned")).findings
    assert len(found) == specimen("misaligned").count("Invalid __global__ read")
    assert {finding.note.partition(" and ")[0] for finding in found} == {"is misaligned"}


def test_an_assertion_is_told_from_an_access():
    (found,) = parse_sanitizer(specimen("index_assert")).findings
    assert (found.answer, found.kernel) == (Answer.DEVICE_ASSERT, "__assertfail")


@pytest.mark.parametrize(
    ("lines", "answer", "place"),
    [
        (
            ["Uninitialized __global__ memory read of size 4 bytes", "    at merge(int *)+0x70 in /k/merge.cu:41"],
            Answer.UNINITIALISED,
            "merge(int *) (merge.cu:41)",
        ),
        (
            [
                "Error: Race reported between Write access at fold(int *, int)+0x90 in /k/fold.cu:41",
                "    and Read access at fold(int *, int)+0x100 in /k/fold.cu:51 [508 hazards]",
            ],
            Answer.RACE,
            "fold(int *, int) (fold.cu:41)",
        ),
        (
            [
                "Warning: (Warp Level Programming) Potential RAW hazard detected at __shared__ 0x8c in block (0,0,0) :",
                "    Write Thread (35,0,0) at fold(int *)+0x90 in fold.cu:44",
            ],
            Answer.RACE,
            "fold(int *) (fold.cu:44)",
        ),
        (
            ["Barrier error detected. Divergent thread(s) in warp", "    at spin()+0xf0 in spin.cu:79"],
            Answer.BARRIER,
            "spin() (spin.cu:79)",
        ),
        (
            [
                "Barrier error detected. Invalid arguments",
                "    at __cuda_sm70_warpsync+0x30",
                "    by thread (0,0,0) in block (0,0,0)",
                "        Device Frame:__syncwarp(unsigned int)+0xf0 in /usr/local/cuda/include/sync.hpp:110",
                "        Device Frame:outer(int *)+0x3c0 in outer.cu:48",
            ],
            Answer.BARRIER,
            "outer(int *) (sync.hpp:110)",
        ),
        (["Deadlock detected in Cuda::barrier wait called by threads starting at (0,0,0)"], Answer.BARRIER, ""),
        (
            ["Invalid __shared__ write of size 4 bytes", "    at old():0x160 in old.cu:6"],
            Answer.INVALID_ACCESS,
            "old() (old.cu:6)",
        ),
        (
            ["Invalid __local__ read of size 8 bytes", "    at nvjet_hsh_128+0x10"],
            Answer.INVALID_ACCESS,
            "nvjet_hsh_128",
        ),
    ],
)
def test_each_tool_is_read(lines: list[str], answer: Answer, place: str):
    (found,) = parse_sanitizer(log(*lines, "", "ERROR SUMMARY: 1 error")).findings
    assert (found.answer, found.place) == (answer, place)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["ERROR SUMMARY: 0 errors"], ""),
        (["Target application returned an error", "Error: process didn't terminate successfully"], ""),
        (
            ['Program hit cudaErrorNotReady (error 600) due to "device not ready" on CUDA API call to cudaEventQuery.'],
            "",
        ),
        (["Internal Sanitizer Error: a launch was not tracked."], "a launch was not tracked."),
        (["Error: Target application terminated before first instrumented API call"], "Target application terminated"),
        (["Unable to find injection library libsanitizer-collection.so"], "Unable to find injection library"),
    ],
)
def test_silence_is_told_from_a_tool_that_did_not_work(lines: list[str], problem: str):
    report = parse_sanitizer(log(*lines))
    assert report.findings == ()
    assert report.problem.startswith(problem)
    assert bool(report.problem) == bool(problem)


@given(st.binary(max_size=400))
def test_noise_is_no_finding(noise: bytes):
    assert parse_sanitizer(noise.decode(errors="replace")).findings == ()


_WORDS = st.sampled_from(
    [
        "========= ", "=========", "    ", "at ", " in ", ":", "+0x1", "Invalid __global__ write of size ", "1,0,",
        "9" * 40, "Host Frame: ", "Device Frame:", "[0x1]", "and is ", "Access to 0x1 ", "Error: Race reported", "\n",
        "\x00", "💥", "Barrier error detected", "Uninitialized __x__ memory read",
    ]
)  # fmt: skip


@given(st.lists(_WORDS, max_size=60).map("".join))
def test_a_log_that_is_torn_anywhere_is_read_as_far_as_it_goes(text: str):
    for finding in parse_sanitizer(text).findings:
        assert finding.told
        assert finding.line is None or finding.line >= 0
        assert isinstance(finding.place, str)


@given(st.integers(0, 6000))
def test_a_recorded_log_can_end_in_the_midst_of_a_line(length: int):
    whole = specimen("wild_eager")
    found = parse_sanitizer(whole[:length]).findings
    assert [finding.told for finding in found[:-1]] == [finding.told for finding in parse_sanitizer(whole).findings][
        : len(found) - 1 if found else 0
    ]


def test_a_long_log_is_read_in_no_time():
    lines = ["Invalid __global__ write of size 4 bytes", "    at " + " at in x:1" * 20_000]
    assert len(parse_sanitizer(log(*lines * 20)).findings) == 20


def test_the_program_is_found_where_it_is_named(tmp_path: Path):
    program = tmp_path / "compute-sanitizer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_sanitizer({"GPUBENCH_COMPUTE_SANITIZER": str(program)}) == str(program)
    assert find_sanitizer({"PATH": str(tmp_path)}) == str(program)
    assert find_sanitizer({"GPUBENCH_COMPUTE_SANITIZER": str(tmp_path / "none")}) == ""


def test_the_worker_is_wrapped_without_graphs_without_torchs_cache_and_without_dumps(tmp_path: Path):
    job = tmp_path / "100%p" / "job.json"
    gpu = Gpu(index=0, uuid="GPU-1", name="NVIDIA H200", capability="9.0", memory_bytes=1)
    launch = SanitizerLauncher("/cuda/compute-sanitizer", "memcheck").launch(job, gpu)
    assert launch.command[:3] == ["/cuda/compute-sanitizer", "--tool", "memcheck"]
    assert launch.command[launch.command.index("--log-file") + 1] == f"{tmp_path}/100%%p/sanitizer.txt"
    assert launch.command[-2:] == ["gpubench.worker", str(job)]
    environment = launch.environment
    assert (environment["PYTORCH_NO_CUDA_MEMORY_CACHING"], environment["GPUBENCH_GRAPHS"]) == ("1", "off")
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert not [name for name in environment if name.startswith(("CUDA_ENABLE_CORE", "CUDA_COREDUMP"))]
