"""What is said of a cell that could not speak for itself: by its worker's end, its last stage and what it printed."""

from __future__ import annotations

import dataclasses
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretend import task

from gpubench.records import FaultingKernel, Frame, Outcome, Stage, dump_line, parse_record
from gpubench.run.autopsy import Remains
from gpubench.run.classify import Death, record_death


@pytest.fixture
def death(tmp_path: Path) -> Death:
    return Death(task(7, tmp_path, trials=3), 2, Stage.CHECK, -11, worker=4, gpu="cuda:1 NVIDIA H200", lived_s=2.5)


def printed(death: Death, text: str) -> Death:
    """The same death, with this on the cell's standard error."""
    folder = Path(death.task.artifacts)
    folder.mkdir()
    (folder / "stderr.txt").write_text(text)
    return death


def test_the_record_is_the_cells_and_says_where_when_and_by_whom_it_was_run(death: Death) -> None:
    record = record_death(death)
    assert (record.cell_id, record.key, record.trial, record.attempt) == ("cell_007", "key7", 2, 0)
    assert (record.stage, record.worker, record.gpu) == (Stage.CHECK, 4, "cuda:1 NVIDIA H200")
    assert record.duration_s == 2.5
    ago = datetime.now(UTC) - datetime.fromisoformat(record.started_at)
    assert timedelta(seconds=2.4) < ago < timedelta(seconds=60)


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTERM"])
def test_a_signal_is_a_crash_by_its_name_also_where_a_profiler_reports_it(death, is_wrapped, name) -> None:
    number = signal.Signals[name].value
    status = 128 + number if is_wrapped else -number
    record = record_death(dataclasses.replace(death, exit_status=status, is_wrapped=is_wrapped))
    assert record.outcome is Outcome.CRASH
    assert record.reason == f"killed by {name} during check"
    assert record.crash is not None
    assert (record.crash.signal, record.crash.exit_status) == (name, status)


@pytest.mark.parametrize("status", [0, 1, 3, 128, 134, 139, 200, 255])
def test_an_exit_status_is_no_signal(death: Death, status: int) -> None:
    record = record_death(dataclasses.replace(death, exit_status=status))
    assert (record.outcome, record.reason) == (Outcome.CRASH, f"the worker exited with status {status} during check")
    assert record.crash is not None
    assert record.crash.signal == ""


def test_a_sigkill_is_the_hosts_when_the_host_has_counted_a_victim_and_else_unexplained(death: Death) -> None:
    killed = dataclasses.replace(death, exit_status=-9)
    unexplained = record_death(killed)
    assert unexplained.outcome is Outcome.CRASH
    assert "not by gpubench" in unexplained.reason
    by_host = record_death(dataclasses.replace(killed, killed_by_host=True))
    assert by_host.outcome is Outcome.OOM
    assert "the host ran out of memory during check" in by_host.reason
    other = record_death(dataclasses.replace(death, killed_by_host=True))
    assert other.outcome is Outcome.CRASH, "another process may have been the host's victim"


def test_a_timeout_names_the_limit_and_is_no_crash_by_the_signal_that_ended_it(death: Death) -> None:
    late = dataclasses.replace(death, exit_status=-9, timed_out="after 4 s (timeout_s.check)", killed_by_host=True)
    record = record_death(late)
    assert record.outcome is Outcome.TIMEOUT
    assert record.reason == "still in check after 4 s (timeout_s.check); the worker was killed"
    assert record.crash is not None
    assert record.crash.signal == ""


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (
            "RuntimeError: CUDA error: an illegal memory access was encountered",
            "an illegal memory access was encountered",
        ),
        ("terminate called: cudaErrorLaunchFailure (719)", "cudaErrorLaunchFailure"),
        ("driver said CUDA_ERROR_MISALIGNED_ADDRESS here", "CUDA_ERROR_MISALIGNED_ADDRESS"),
        ("cublas: CUBLAS_STATUS_EXECUTION_FAILED when calling", "CUBLAS_STATUS_EXECUTION_FAILED"),
    ],
)
def test_the_first_cuda_error_that_it_printed_is_what_it_died_of(death: Death, line: str, name: str) -> None:
    noise = "\n".join(f"line {number}" for number in range(20))
    record = record_death(printed(death, f"{noise}\n{line}\ncudaErrorUnknown came of it\n"))
    assert record.crash is not None
    assert record.crash.cuda_error == name
    assert record.reason == f"killed by SIGSEGV during check: {name}"
    assert record.crash.stderr_tail.endswith("cudaErrorUnknown came of it")


def test_without_a_gpu_it_died_of_no_cuda_error(death: Death) -> None:
    record = record_death(printed(dataclasses.replace(death, gpu="cpu"), "CUDA error: so somebody's log says"))
    assert record.reason == "killed by SIGSEGV during check"


def test_of_a_long_output_the_end_is_kept(death: Death) -> None:
    record = record_death(printed(death, "x" * 100_000 + "\nthe last words\n"))
    assert record.crash is not None
    assert record.crash.stderr_tail.endswith("the last words")
    assert len(record.crash.stderr_tail) <= 4096
    assert record.crash.cuda_error == ""


def test_what_was_printed_before_the_task_began_tells_of_another_death(death: Death) -> None:
    before = "cudaErrorAssert\n" + ABORTED
    then = printed(dataclasses.replace(death, printed_before=len(before.encode())), before + "the last words\n")
    crash = record_death(then).crash
    assert crash is not None
    assert (crash.stderr_tail, crash.cuda_error, crash.host_frames) == ("the last words", "", [])
    cut = record_death(dataclasses.replace(then, printed_before=1 << 40)).crash
    assert cut is not None
    assert cut.stderr_tail.endswith("the last words"), "the log has been cut since"


def test_a_hang_that_goes_on_printing_after_it_was_asked_for_its_stack_still_has_one(death: Death) -> None:
    late = printed(
        dataclasses.replace(death, exit_status=-9, timed_out="after 4 s"), ABORTED + "still here\n" * 100_000
    )
    record = record_death(late)
    assert record.crash is not None
    assert record.crash.host_frames == [Frame("/home/user/kernels/faults.py", 39, "<module>")]
    assert record.reason == "still in check (faults.py:39) after 4 s; the worker was killed"


def test_a_sigkill_tells_how_near_the_control_group_was_to_its_limit(death: Death) -> None:
    used = {"host_free": 1e9, "host_peak": 1.5 * 2**30}
    killed = dataclasses.replace(death, exit_status=-9, remains=Remains(memory=used))
    assert record_death(killed).reason.endswith("out-of-memory killer; its control group has used up to 1.50 GiB")
    limited = dataclasses.replace(killed, remains=Remains(memory={**used, "host_limit": 2.0 * 2**30}))
    assert record_death(limited).reason.endswith("used up to 1.50 of 2.00 GiB")


def test_a_signal_without_a_name_is_told_by_its_number(death: Death) -> None:
    record = record_death(dataclasses.replace(death, exit_status=-40))
    assert (record.reason, record.crash and record.crash.signal) == ("killed by signal 40 during check", "signal 40")


FAULTING = FaultingKernel("wild_store<float>(float*)", "/home/user/faults.py", 7, exception="Warp Illegal Address")
ABORTED = (Path(__file__).parents[1] / "data" / "crashes" / "wild_graph.stderr").read_text()


def test_a_core_gives_the_errors_name_and_the_kernel_and_the_stack_gives_the_victim(death: Death) -> None:
    remains = Remains(FAULTING, "layer_03/attention", ["NVRM: Xid 31"], {"host_free": 1e9})
    died = dataclasses.replace(death, exit_status=-6, remains=remains)
    record = record_death(printed(died, ABORTED))
    assert record.outcome is Outcome.CRASH
    assert record.reason == (
        "cudaErrorIllegalAddress raised by kernel wild_store (faults.py:7); the host was in check (faults.py:39)"
    )
    assert record.crash is not None
    assert (record.crash.signal, record.crash.cuda_error) == ("SIGABRT", "cudaErrorIllegalAddress")
    assert record.crash.faulting == FAULTING
    assert record.crash.host_frames == [Frame("/home/user/kernels/faults.py", 39, "<module>")]
    assert (record.crash.open_range, record.crash.xid) == ("layer_03/attention", ["NVRM: Xid 31"])
    assert record.crash.memory == {"host_free": 1e9}


def test_a_core_that_nobody_could_read_leaves_what_was_known_without_it(death: Death) -> None:
    unread = FaultingKernel(core="artifacts/cell_007/gpu.1.core", note="no cuda-gdb here")
    died = dataclasses.replace(death, exit_status=134, remains=Remains(unread))
    record = record_death(printed(died, ABORTED))
    assert record.reason == "the GPU raised an exception (no cuda-gdb here); the host was in check (faults.py:39)"
    assert record.crash is not None
    assert record.crash.faulting == unread


@pytest.mark.parametrize(
    ("faulting", "words", "is_kept"),
    [
        (
            FaultingKernel("spin", "/a/mine.py", 3),
            "still in check, the GPU in kernel spin (mine.py:3), after 4 s",
            True,
        ),
        (FaultingKernel(note="no cuda-gdb here"), "still in check after 4 s", True),
        (None, "still in check after 4 s", False),
    ],
)
def test_a_hang_names_the_kernel_that_the_gpu_was_in_if_it_was_in_any(death: Death, faulting, words, is_kept) -> None:
    late = dataclasses.replace(death, exit_status=-6, timed_out="after 4 s", remains=Remains(faulting))
    record = record_death(late)
    assert record.outcome is Outcome.TIMEOUT
    assert record.reason == f"{words}; the worker was killed"
    assert record.crash is not None
    assert record.crash.cuda_error == ""
    assert (record.crash.faulting is not None) is is_kept


@given(st.binary(), st.integers(-64, 255))
def test_any_last_words_make_a_record(tmp_path_factory: pytest.TempPathFactory, words: bytes, status: int) -> None:
    folder = tmp_path_factory.mktemp("cell")
    died = Death(task(7, folder), 0, Stage.CHECK, status, worker=4, gpu="cpu", lived_s=1)
    (folder / "cell_007").mkdir()
    (folder / "cell_007" / "stderr.txt").write_bytes(words)
    record = record_death(died)
    assert record.crash is not None
    assert parse_record(dump_line(record)) == record
    assert record.crash.stderr_tail == words.decode(errors="replace").strip()


def test_the_evidence_of_an_older_gpubench_is_read_as_it_was() -> None:
    line = (
        b'{"cell_id":"cell_000","index":0,"key":"k","workload":"w","backend":"b","axes":{},"params":{},"trial":0,'
        b'"pass":"timing","attempt":0,"outcome":"crash","stage":"check","crash":{"exit_status":-11,"signal":"SIGSEGV",'
        b'"frames":[{"file":"a.py","line":3,"function":"f"}],"memory":{"device_free":1.0}},"schema":1}\n'
    )
    crash = parse_record(line).crash
    assert crash is not None
    assert (crash.signal, crash.frames, crash.memory) == ("SIGSEGV", [Frame("a.py", 3, "f")], {"device_free": 1.0})
    assert (crash.faulting, crash.host_frames, crash.xid, crash.open_range) == (None, [], [], "")
