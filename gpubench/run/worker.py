"""The parent's end of one worker process: start it, hand it tasks, read its events, end it with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import psutil
from pydantic import ValidationError

from gpubench.errors import StoreError
from gpubench.machine import Gpu
from gpubench.marks import FILE_NAME, read_marks
from gpubench.protocol import TAKE_BACK, Event, Job, Task, WorkerReady, parse_event
from gpubench.records import CellRecord, dump_line
from gpubench.run.coredump import ask_for_cores, remove_pipes
from gpubench.run.launcher import Launcher
from gpubench.run.logs import read_tail, relieve, settle
from gpubench.store import ARTIFACTS

__all__ = ["EVENTS", "LOG_NAMES", "WorkerProcess"]

EVENTS = "events.jsonl"

LOG_NAMES = ("stdout.txt", "stderr.txt")
STACK_GRACE_S = 0.3
"""How long a hung worker gets to write its stacks before it is killed."""


TAG = "GPUBENCH_WORKER"
"""In the environment of a worker, and so of all that it starts: by its value, of that worker alone, what has left both
its session and its ancestors, as a daemon does, is still known for the sweep's."""

GUARD = """read -r group && {
    read -r _
    kill -s KILL -- "-$group"
    for found in $(grep -lsF "$0" /proc/[0-9]*/environ); do
        found=${found%/environ}
        kill -s KILL "${found#/proc/}"
    done
}"""
"""For a shell that is told a worker's process group and lives until it is ended or its input is closed, as it is when
this process has died, however it died: then what the worker had started would run on beside the sweeps that follow.
Its $0 is the worker's tag."""

PROFILER_GRACE_S = 5.0
"""How long nsys gets to end once its worker is gone; killed outright it leaves an agent behind that never ends."""

DUMP_GRACE_S = 5.0
"""How long its GPU gets to write what it is running: a second, of a GPU full of threads."""


class WorkerProcess:
    """One worker, alive or just dead. Nothing here waits: `poll` returns what is there."""

    def __init__(self, folder: Path, job: Job, gpu: Gpu | None, launcher: Launcher) -> None:
        self.folder = folder
        self.number = job.number
        self.is_traced = job.is_traced
        self.gpu = gpu
        self.pid: int | None = None
        """The worker's own, once it is ready; a profiler around it has another."""
        self.sent: deque[Task] = deque()
        """Tasks that were handed over and have not ended, in the order in which they will run."""
        self.last_ranges: list[str] = []
        """The ranges that were open when it ended, outermost first; known once it is closed."""
        self.num_unreadable = 0
        """Lines of the event file that are none of the worker's: a cell can write there, too."""
        self.started_at = time.monotonic()
        events = Path(job.events)
        events.touch()
        self._events: BinaryIO = events.open("rb")
        self._partial = b""
        (folder / "job.json").write_bytes(dump_line(job))
        launch = launcher.launch(folder / "job.json", gpu)
        self._tag = uuid.uuid4().hex
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, f"{TAG}={self._tag}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with (folder / LOG_NAMES[0]).open("ab") as out, (folder / LOG_NAMES[1]).open("ab") as err:
            self._process = subprocess.Popen(
                launch.command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                # not around a profiler: its own helpers would have it too, and they may serve others
                env=launch.environment if job.is_traced else {**launch.environment, TAG: self._tag},
                start_new_session=True,
            )

    def send(self, task: Task) -> None:
        """Hand over one more task; a worker that has just died is noticed by `poll`, not here."""
        self.sent.append(task)
        _write(self._process, dump_line(task))

    def take_back(self) -> None:
        """Have the worker end after the task that it is in; what else it holds it will not begin."""
        _write(self._process, TAKE_BACK)

    def finish(self) -> None:
        """Tell the worker that no more tasks will come."""
        assert self._process.stdin is not None, "it was started with a pipe"
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def poll(self) -> Iterator[Event]:
        """The events since the last call. A torn last line waits for its end; what is no event is counted and stays."""
        *lines, self._partial = (self._partial + self._events.read()).split(b"\n")
        for line in filter(None, lines):
            try:
                event = parse_event(line)
            except ValidationError:
                self.num_unreadable += 1
                continue
            if isinstance(event, WorkerReady) and self.pid is None:
                self._know(event.pid)
            yield event

    def _know(self, pid: int) -> None:
        self.pid = pid
        with contextlib.suppress(ProcessLookupError):
            _write(self._guard, b"%d\n" % os.getpgid(pid))

    def warn(self, record: CellRecord) -> CellRecord:
        """Its record, with what was in the event file while the cell ran and can't be read."""
        if not self.num_unreadable:
            return record
        lines = "1 line" if self.num_unreadable == 1 else f"{self.num_unreadable:,} lines"
        events = f"{ARTIFACTS}/{self.folder.name}/{EVENTS}"
        self.num_unreadable = 0
        return replace(
            record, warnings=[*record.warnings, f"the worker didn't write {lines} of {events}: the cell did?"]
        )

    def cannot_write(self) -> StoreError:
        """What to raise when it ended because it can't write its files."""
        return StoreError(
            f"{self.folder}: worker {self.number} can't write here: {self.stderr_tail() or 'it could not say why'}; "
            "what was recorded before is safe: free some room and run the same command with --resume"
        )

    @property
    def is_wrapped(self) -> bool:
        """Whether its exit status is that of a profiler around it, which reports a signal as a number."""
        return self.pid is not None and self.pid != self._process.pid

    def exit_status(self) -> int | None:
        """None while it runs; negative for the signal that ended it. Events may still be unread."""
        return self._process.poll()

    def bound_logs(self) -> None:
        """Keep what its cell and the worker itself print within limits."""
        folders = [self.folder, *(Path(task.artifacts) for task in list(self.sent)[:1])]
        for folder in folders:
            for name in LOG_NAMES:
                relieve(folder / name)

    def stderr_tail(self) -> str:
        return read_tail(self.folder / LOG_NAMES[1])

    def ask_for_stacks(self) -> None:
        """Have a hung worker write every thread's Python stack to its cell's standard error."""
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGUSR1)
                time.sleep(STACK_GRACE_S)
            except ProcessLookupError:
                return

    def ask_for_core(self) -> None:
        """Have a hung worker's GPU say what it is running, by a core dump, which ends the worker."""
        if ask_for_cores(self.folder):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(DUMP_GRACE_S)

    def kill_inside(self) -> None:
        """End the worker alone and leave the profiler around it."""
        assert self.pid is not None, "it has said that it is ready"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the worker and everything it started, also what went into a session of its own."""
        victims = _descendants(self._process.pid)
        if self.is_traced:
            _kill(victim for victim in victims if not self._is_profilers(victim))
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(PROFILER_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _kill(victims)
        self._process.wait()

    def _is_profilers(self, process: psutil.Process) -> bool:
        """Whether a descendant is a helper of nsys, which starts its target in a session of its own."""
        try:
            return os.getpgid(process.pid) == self._process.pid
        except ProcessLookupError:
            return False

    def close(self) -> None:
        """Let go of a worker that has ended; what it left running goes too."""
        self.finish()
        self.kill()
        _kill(_tagged(self._tag))
        self._guard.kill()
        self._guard.communicate()
        self._events.close()
        marks = self.folder / FILE_NAME
        self.last_ranges = read_marks(marks)
        marks.unlink(missing_ok=True)
        remove_pipes(self.folder)
        settle(self.folder, *LOG_NAMES)


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Give a child a line of input; one that has died doesn't read it."""
    assert process.stdin is not None, "it was started with a pipe"
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line)
        process.stdin.flush()


def _kill(victims: Iterable[psutil.Process]) -> None:
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


def _tagged(tag: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it has ended, or is another user's
            if process.environ().get(TAG) == tag:
                yield process


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
