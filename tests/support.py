"""What many tests need: a run on disk made by hand, and the program run as a user runs it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gpubench.cli import main

PLUGINS = Path(__file__).parent / "data" / "plugins"


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    code: int
    out: str
    err: str


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "gpubench", *arguments]  # -P: like the command `gpubench`


def environment(**variables: str) -> dict[str, str]:
    """A user's environment with a wide terminal, no colour and no GPU."""
    return {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "CUDA_VISIBLE_DEVICES": "", **variables}


def gpubench(folder: Path, *arguments: str, timeout_s: float = 120, **variables: str) -> Finished:
    """Run `gpubench ARGUMENTS` in a folder."""
    done = subprocess.run(
        command_line(*arguments),
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    return Finished(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def gpubench_here(folder: Path, *arguments: str, **variables: str) -> Finished:
    """The same in this process, which has imported what the command needs: most of a short command's time."""
    written = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, "utf-8", write_through=True) for stream in written)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["gpubench", *arguments])
        for name, value in environment(**variables).items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        else:
            code = 0
    assert isinstance(code, int)
    return Finished(code, *(stream.getvalue().decode() for stream in written))


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start `gpubench ARGUMENTS` in a folder, as a terminal's own, with both outputs in one pipe."""
    return subprocess.Popen(
        command_line(*arguments),
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def is_running(pid: int) -> bool:
    """Whether a process still runs: one that has died may wait for a lazy init to collect it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(holds: Callable[[], object], what: str, timeout_s: float = 120) -> None:
    """Return once it holds; the limit is for what never comes, far beyond what a busy machine needs."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"after {timeout_s:g} s still not so: {what}"
        time.sleep(0.02)


def require_nsys(path: Path) -> Path:
    """What .ci/install-nsys installs; without it there is nothing to test with, but on CI it has to be there."""
    if not path.exists() and not os.environ.get("CI"):
        pytest.skip(f"no {path}; .ci/install-nsys .nsys installs it")
    if " " in str(path):
        pytest.skip(f"{path}: nsys can't be started from a path with a space in it")
    return path


def write_sweep(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def only_run(folder: Path) -> Path:
    """The one run in a folder's results."""
    runs: Sequence[Path] = [path.parent for path in (folder / "results").glob("*/run.json")]
    assert len(runs) == 1, f"one run was expected, found {runs}"
    return runs[0]
