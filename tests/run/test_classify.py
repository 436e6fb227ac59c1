"""What is said of a cell that could not speak for itself: by its worker's end, its last stage and what it printed."""

from __future__ import annotations

import dataclasses
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pretend import task

from gpubench.records import Outcome, Stage
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


@pytest.mark.parametrize("status_of", [lambda number: -number, lambda number: 128 + number], ids=["own", "by a shell"])
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGTERM"])
def test_a_signal_is_a_crash_by_its_name_also_where_a_profiler_reports_it(death, status_of, name) -> None:
    status = status_of(signal.Signals[name].value)
    record = record_death(dataclasses.replace(death, exit_status=status))
    assert record.outcome is Outcome.CRASH
    assert record.reason == f"killed by {name} during check"
    assert record.crash is not None
    assert (record.crash.signal, record.crash.exit_status) == (name, status)


@pytest.mark.parametrize("status", [0, 1, 3, 128, 200, 255])
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


def test_of_a_long_output_the_end_is_kept(death: Death) -> None:
    record = record_death(printed(death, "x" * 100_000 + "\nthe last words\n"))
    assert record.crash is not None
    assert record.crash.stderr_tail.endswith("the last words")
    assert len(record.crash.stderr_tail) <= 4096
    assert record.crash.cuda_error == ""
