"""Where output goes to is the user's business: a terminal without a µ, a log on a full disk, nowhere at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import command_line, environment, gpubench, write_sweep

PLAN = "workload: matmul\naxes: {backend: [torch], m: [8, 16]}\nparams: {n: 8, k: 8, dtype: float32}\n"


@pytest.fixture
def plan(tmp_path: Path) -> list[str]:
    """A command that prints a ×."""
    return ["sweep", str(write_sweep(tmp_path, PLAN)), "--dry-run", "--gpus", "none"]


def test_a_letter_that_the_terminal_lacks_ends_nothing(tmp_path: Path, plan: list[str]) -> None:
    told = gpubench(tmp_path, *plan, PYTHONIOENCODING="ascii")
    assert (told.code, told.err) == (0, "")
    assert "2 cells on the CPU" in told.out
    assert "3 ? up to" in told.out


def test_output_that_was_closed_is_not_missed(tmp_path: Path, plan: list[str]) -> None:
    closed = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command_line(*plan)],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_to_a_full_disk_is_told_and_is_no_defect(tmp_path: Path, plan: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command_line(*plan),
            cwd=tmp_path,
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    told = "can't write standard output: No space left on device; what was recorded is safe, and a sweep goes on with"
    assert (done.returncode, done.stderr.decode()) == (2, f"gpubench: {told} --resume\n")
