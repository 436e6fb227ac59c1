"""What the debugger said of real crashes on an H200, and whatever else it may say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.records import FaultingKernel
from gpubench.run.coredump import (
    CoreReader,
    ask_for_cores,
    cuda_error_of,
    dump_environment,
    find_cores,
    find_cuda_gdb,
    parse_cuda_gdb,
    remove_pipes,
)
from gpubench.run.examine import examine

CRASHES = Path(__file__).parents[1] / "data" / "crashes"
KERNELS = "/home/user/kernels/faults.py"


@pytest.mark.parametrize(
    ("specimen", "kernel", "line", "exception", "error"),
    [
        ("wild_eager", "wild_store", 7, "Warp Illegal Address", "cudaErrorIllegalAddress"),
        ("wild_graph", "wild_store", 7, "Warp Illegal Address", "cudaErrorIllegalAddress"),
        ("misaligned", "misaligned_load", 12, "Warp Misaligned Address", "cudaErrorMisalignedAddress"),
    ],
)
def test_a_real_core_names_the_kernel_its_line_and_the_exception(specimen, kernel, line, exception, error) -> None:
    found = parse_cuda_gdb((CRASHES / f"{specimen}.gdb").read_text())
    assert found == FaultingKernel(kernel, KERNELS, line, [0, 0, 0], [0, 0, 0], exception)
    assert cuda_error_of(found.exception) == error


def test_a_librarys_kernel_has_a_long_name_and_no_line() -> None:
    found = parse_cuda_gdb((CRASHES / "index_assert.gdb").read_text())
    assert found.kernel.startswith("at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel<")
    assert found.kernel.endswith("::{lambda(int)#1})")
    assert (found.file, found.line, found.exception) == ("", None, "Assertion failed")
    assert cuda_error_of(found.exception) == "cudaErrorAssert"


def test_a_full_gpu_names_the_block_and_thread_that_raised() -> None:
    found = parse_cuda_gdb((CRASHES / "stale_graph.gdb").read_text())
    assert found.kernel.startswith("at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctorOnSelf_add<")
    assert (found.block, found.thread) == ([720, 0, 0], [32, 0, 0])
    assert (found.file, found.line, found.exception) == ("", None, "Warp Illegal Address")


def test_of_a_function_within_a_kernel_the_line_is_taken_and_the_kernels_name() -> None:
    output = """[Current focus set to CUDA kernel 0, grid 7, block (3,0,1), thread (96,2,0), device 0, sm 1]

CUDA Exception: Lane Illegal Address
#0  0x00007f17d77a2b60 in load_tile () at /a b/tiles.py:31
#1  0x00007f17d77a2b00 in attend<<<(4,1,1),(128,1,1)>>> () at /a b/attention.py:90
"""
    found = parse_cuda_gdb(output)
    assert (found.kernel, found.file, found.line) == ("attend", "/a b/tiles.py", 31)
    assert (found.block, found.thread) == ([3, 0, 1], [96, 2, 0])
    assert cuda_error_of(found.exception) == "cudaErrorIllegalAddress"


@pytest.mark.parametrize("exception", ["Device Unknown Exception", "Cluster Block Not Present", ""])
def test_an_exception_without_a_name_in_the_runtime_gets_none(exception: str) -> None:
    assert cuda_error_of(exception) == ""


def test_what_is_no_account_of_a_crash_becomes_a_note() -> None:
    found = parse_cuda_gdb("Opening GPU coredump: gpu.1.core\nFailed to read core file: File format not recognized\n")
    assert found.kernel == found.exception == ""
    assert found.note.endswith("Failed to read core file: File format not recognized")
    assert parse_cuda_gdb("").note.endswith("it said nothing")


@pytest.mark.parametrize(
    ("specimen", "note"),
    [
        ("core_of_noise", "Failed to read core file: elfOpenByName() failed: ELF header 'ident' verification failed"),
        ("core_cut_short", "internal-error: initialize: Assertion `m_instance.m_num_devices > 0' failed."),
    ],
)
def test_a_real_debugger_before_a_file_that_is_no_core_leaves_a_note(specimen: str, note: str) -> None:
    found = parse_cuda_gdb((CRASHES / f"{specimen}.gdb").read_text())
    assert found.kernel == found.exception == ""
    assert found.note.endswith(note)


LINES = st.sampled_from([line for file in CRASHES.glob("*.gdb") for line in file.read_text().splitlines()])


@given(st.binary().map(lambda raw: raw.decode(errors="replace")) | st.lists(LINES | st.text()).map("\n".join))
def test_any_output_is_read_without_a_complaint_and_something_is_said(output: str) -> None:
    found = parse_cuda_gdb(output)
    assert found.kernel or found.exception or found.note


# The core file, and where it goes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with one worker and one cell."""
    for folder in ("worker_000", "cell_000"):
        (tmp_path / "artifacts" / folder).mkdir(parents=True)
    return tmp_path


def debugger(folder: Path, script: str) -> str:
    """A stand-in for cuda-gdb: a shell script."""
    path = folder / "cuda-gdb"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def dump(run: Path, pid: int = 812, size: int = 5000) -> Path:
    core = run / "artifacts" / "worker_000" / f"gpu.{pid}.core"
    core.write_bytes(os.urandom(size))
    return core


def collect(reader: CoreReader, run: Path) -> FaultingKernel | None:
    return reader.collect(run / "artifacts" / "worker_000", run / "artifacts" / "cell_000")


def test_the_core_is_read_where_it_is_and_then_kept_with_its_cell(run: Path) -> None:
    reader = CoreReader(debugger(run, f'test -f gpu.812.core && cat "{CRASHES / "wild_graph.gdb"}"'))
    core = dump(run)
    content = core.read_bytes()
    found = collect(reader, run)
    assert found is not None
    assert (found.kernel, found.core) == ("wild_store", "artifacts/cell_000/gpu.812.core")
    assert (run / found.core).read_bytes() == content
    assert find_cores(core.parent) == []


def test_no_core_is_no_finding(run: Path) -> None:
    assert collect(CoreReader("/no/such/debugger"), run) is None


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("echo 'not a core' >&2; exit 1", "could not read the core: not a core"),
        ("exit 0", "it said nothing"),
        ("sleep 60", "was not done with the core after 0.3 s"),
        ("head -c 5000000 /dev/urandom", "could not read the core"),
        ("kill -SEGV $$", "it said nothing"),
    ],
)
def test_a_debugger_that_fails_leaves_a_note_and_the_core(run: Path, script: str, note: str) -> None:
    timeout_s = 0.3 if "sleep" in script else 30
    dump(run)
    found = collect(CoreReader(debugger(run, script), timeout_s=timeout_s), run)
    assert found is not None
    assert note in found.note
    assert (run / found.core).is_file()


@pytest.mark.parametrize(("path", "note"), [("", "no cuda-gdb here"), ("/no/such/debugger", "can't be started")])
def test_without_a_debugger_the_core_is_kept_and_the_way_to_read_it_told(run: Path, path: str, note: str) -> None:
    dump(run)
    found = collect(CoreReader(path), run)
    assert found is not None
    assert note in found.note
    assert (run / found.core).is_file()
    assert path or "GPUBENCH_CUDA_GDB" in found.note


def test_of_several_cores_the_first_is_the_cause(run: Path) -> None:
    first = dump(run, 900)
    os.utime(first, (time.time() - 5, time.time() - 5))
    dump(run, 7)
    found = collect(CoreReader(debugger(run, "echo $*")), run)
    assert found is not None
    assert found.core == "artifacts/cell_000/gpu.900.core"
    assert [core.name for core in run.rglob("*.core")] == ["gpu.900.core"]


def test_of_crashes_with_one_cause_one_core_is_kept(run: Path) -> None:
    reader = CoreReader(debugger(run, f'cat "{CRASHES / "wild_graph.gdb"}"'))
    found = []
    for pid in range(3):
        dump(run, pid)
        found.append(collect(reader, run))
    assert [each.core for each in found if each] == ["artifacts/cell_000/gpu.0.core", "", ""]
    assert {each.note for each in found[1:] if each} == {
        "its core is not kept: artifacts/cell_000/gpu.0.core is like it"
    }
    unread = CoreReader("")
    for pid in range(3, 6):
        dump(run, pid)
        assert collect(unread, run)
    assert len(list(run.rglob("*.core"))) == 4, "what nobody has read isn't known to be like another"


@pytest.mark.parametrize(("specimen", "kernel"), [("hang", "spin"), (None, None)])
def test_the_core_of_a_hang_tells_what_was_running_or_is_thrown_away(run: Path, specimen, kernel) -> None:
    words = f'cat "{CRASHES / f"{specimen}.gdb"}"' if specimen else "echo 'No CUDA kernels.'"
    dump(run)
    reader = CoreReader(debugger(run, words))
    found = reader.collect(run / "artifacts" / "worker_000", run / "artifacts" / "cell_000", is_hang=True)
    assert (found.kernel if found else None) == kernel
    assert found is None or found.note == "it raised nothing: it was running"
    assert len(list(run.rglob("*.core"))) == bool(specimen)


def test_a_line_without_a_path_is_not_put_into_another_file() -> None:
    output = """CUDA Exception: Warp Illegal Address
The exception was triggered at PC 0x7fc75b7bc200  attend  (tiles.py:146)
#0  attend<<<(8,10,1),(1024,1,1)>>> () at /a/attention.py:87
"""
    found = parse_cuda_gdb(output)
    assert (found.kernel, found.file, found.line) == ("attend", "tiles.py", 146)
    found = parse_cuda_gdb(output.replace("tiles.py", "attention.py"))
    assert (found.file, found.line) == ("/a/attention.py", 146)


def test_what_is_kept_is_bounded_and_a_core_beyond_it_is_read_nevertheless(run: Path) -> None:
    words = f'sed "s/wild_store/wild_$(ls)/" "{CRASHES / "wild_graph.gdb"}"'  # another kernel each time
    reader = CoreReader(debugger(run, words), kept_bytes=12_000)
    notes = []
    for pid in range(4):
        dump(run, pid)
        found = collect(reader, run)
        assert found is not None
        assert found.kernel.startswith("wild_")
        notes.append(found.note)
    assert len(list(run.rglob("*.core"))) == 2
    assert [bool(note) for note in notes] == [False, False, True, True]
    assert "is not kept" in notes[-1]


def test_dumps_are_light_and_end_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variables = dump_environment(Path("results/run/artifacts/worker_000"))
    assert variables["CUDA_COREDUMP_FILE"] == f"{tmp_path}/results/run/artifacts/worker_000/gpu.%p.core"
    assert variables["CUDA_ENABLE_COREDUMP_ON_EXCEPTION"] == "1"
    left_out = variables["CUDA_COREDUMP_GENERATION_FLAGS"].split(",")
    assert {"skip_global_memory", "skip_shared_memory", "skip_local_memory"} < set(left_out)
    assert "skip_abort" not in left_out


def test_the_debugger_is_the_one_named_else_the_one_on_the_path(tmp_path: Path) -> None:
    own = debugger(tmp_path, "exit 0")
    assert find_cuda_gdb({"GPUBENCH_CUDA_GDB": own, "PATH": ""}) == own
    assert find_cuda_gdb({"PATH": str(tmp_path)}) == own
    assert find_cuda_gdb({"GPUBENCH_CUDA_GDB": "/no/such/debugger", "PATH": str(tmp_path)}) == ""


# A GPU that hangs


def test_whoever_listens_at_a_pipe_is_asked_for_a_core(tmp_path: Path) -> None:
    pipe = tmp_path / "gpu.812.pipe"
    os.mkfifo(pipe)
    listener = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert ask_for_cores(tmp_path)
    assert os.read(listener, 10)
    os.close(listener)
    remove_pipes(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_pipe_at_which_nobody_listens_holds_nobody_up(tmp_path: Path) -> None:
    assert not ask_for_cores(tmp_path)
    os.mkfifo(tmp_path / "gpu.812.pipe")
    assert not ask_for_cores(tmp_path)
    (tmp_path / "gpu.813.pipe").mkdir()
    assert not ask_for_cores(tmp_path)


def test_a_running_kernel_is_named_without_an_exception() -> None:
    found = parse_cuda_gdb((CRASHES / "hang.gdb").read_text())
    assert (found.kernel, found.line, found.thread) == ("spin", 12, [32, 0, 0])
    assert found.exception == found.note == ""


@pytest.mark.parametrize("is_there", [True, False])
def test_the_doctor_says_whether_cores_can_be_read_here(tmp_path: Path, monkeypatch, is_there: bool) -> None:
    named = debugger(tmp_path, "exit 0") if is_there else "/no/such/debugger"
    monkeypatch.setenv("GPUBENCH_CUDA_GDB", named)
    (found,) = (finding for finding in examine() if finding.subject == "cuda-gdb")
    assert (found.state == "good", bool(found.remedy)) == (is_there, not is_there)
    assert is_there == (named in found.told)
