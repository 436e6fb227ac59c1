"""`python -m gpubench.worker JOB`: take tasks from standard input, run them one by one, tell the event file.

The parent may die, a cell may do anything: the worker follows its parent into death, keeps each cell's output apart,
and says what happened in the order in which it happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import os
import queue
import resource
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from gpubench.protocol import (
    CANNOT_WRITE,
    TAKE_BACK,
    CellEnded,
    Event,
    FiguresTaken,
    HazardsFound,
    Job,
    StageEntered,
    Task,
    WorkerReady,
    parse_job,
    parse_task,
)
from gpubench.records import CellRecord, Hazard, Measurement, Outcome, Stage, dump_line

if TYPE_CHECKING:
    from gpubench.worker.device import Device

ORPHANED = 3
"""The exit status of a worker whose parent is gone."""

TAKING_HOLD_S = 1.5
"""What nsys may need to take hold of a process, on a busy machine. With a GPU it is done before CUDA is."""

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def main() -> None:
    """Serve until there is no more to do; the exit status says how it ended."""
    die_with_parent()
    # A native crash leaves its Python stack on standard error; so does a hang, when the parent asks before it kills.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # A GPU's exception aborts the process, and its own core is asked for; the host's would be gigabytes of nothing new.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    job = parse_job(Path(sys.argv[1]).read_bytes())
    status = 0
    try:
        with Path(job.events).open("ab") as events:
            serve(job, events)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        # What a cell raises is its record's; an OSError that comes this far is about our own files.
        with contextlib.suppress(OSError):  # its own log may be on that disk
            sys.stderr.write(f"{error}\n")
        status = CANNOT_WRITE
    if job.is_traced:
        sys.exit(status)  # the profiler's last events are written by an exit handler
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # threads and exit handlers of cells, and CUDA after a lost context, must not hold it up


def serve(job: Job, events: BinaryIO) -> None:
    """Run every task that comes, until the input ends or a cell leaves nothing to run in; the parent knows which."""
    from gpubench.worker.plugins import load_all

    load_all(job.plugins)  # torch, too; it knows how that is faster
    import torch

    from gpubench.marks import FILE_NAME, RangeMarks
    from gpubench.ranges import prepare_ranges
    from gpubench.worker.ceilings import measure_ceilings
    from gpubench.worker.cell import run_task
    from gpubench.worker.device import open_device
    from gpubench.worker.shelf import WorkerShelf

    marks = RangeMarks(Path(job.events).with_name(FILE_NAME))
    prepare_ranges(marks, torch.compiler.is_dynamo_compiling)
    device = open_device(needs_cuda=job.needs_cuda)
    if job.is_traced and not device.is_cuda:
        time.sleep(TAKING_HOLD_S)  # ranges that are opened before would be missing from the trace
    inbox, shelf = Inbox(), WorkerShelf(device)

    def tell(event: Event) -> None:
        events.write(b"\n" + dump_line(event))  # a line of its own, whatever a cell may have written there
        events.flush()

    ceilings = measure_ceilings(device) if job.measure_ceilings else None
    tell(WorkerReady(os.getpid(), job.gpu or device.name, ceilings))
    for task in inbox:
        logs = CellLogs(Path(task.artifacts))

        def enter(trial: int, stage: Stage, cell_id: str = task.cell.cell_id) -> None:
            tell(StageEntered(cell_id, trial, stage, time.time()))

        def report(hazards: list[Hazard], cell_id: str = task.cell.cell_id) -> None:
            tell(HazardsFound(cell_id, hazards))

        def keep(figures: list[Measurement], cell_id: str = task.cell.cell_id) -> None:
            tell(FiguresTaken(cell_id, figures))

        ended: CellEnded | None = None
        for record in run_task(task, device, shelf, enter, report, keep):
            ended = describe_end(record, job, device)
            if record.outcome is Outcome.OK and record.trial != task.trials[-1]:
                tell(ended)  # at once: the next trial may not live to tell of this one
        logs.close()
        assert ended is not None, "a task yields a record for every trial that it began"
        # Only now: the parent may read the cell's logs as soon as it knows that the cell has ended.
        tell(replace(ended, is_last=True))
        inbox.task_ended()
        if ended.context_lost:
            return


def describe_end(record: CellRecord, job: Job, device: Device) -> CellEnded:
    from gpubench.worker.failure import is_context_lost

    named = replace(record, worker=job.number, gpu=job.gpu or record.gpu)
    is_over = is_context_lost(record) or (record.outcome.is_failure and device.is_spoiled())
    return CellEnded(named, is_last=False, context_lost=is_over)


class Inbox:
    """Tasks from standard input, read by a thread of its own.

    The parent closes the input only when all of its tasks have ended. So an input that ends while a task runs means
    that the parent is gone, and the worker ends at once rather than measure for nobody.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._unfinished = 0
        self._lock = threading.Lock()
        self._input = take_input()
        threading.Thread(target=self._wait_for_tasks, name="gpubench-inbox", daemon=True).start()

    def __iter__(self) -> Inbox:
        return self

    def __next__(self) -> Task:
        task = self._tasks.get()
        if task is None:
            raise StopIteration
        return task

    def task_ended(self) -> None:
        with self._lock:
            self._unfinished -= 1

    def _drop(self) -> None:
        """Forget what has not begun, and let the one who runs tasks end."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
                self.task_ended()
        self._tasks.put(None)

    def _wait_for_tasks(self) -> None:
        for line in self._input:
            if line == TAKE_BACK:
                self._drop()
                continue
            with self._lock:
                self._unfinished += 1
            self._tasks.put(parse_task(line))
        with self._lock:
            if self._unfinished:
                os._exit(ORPHANED)
        self._tasks.put(None)


def take_input() -> BinaryIO:
    """Standard input, out of a cell's reach: it and its children find an empty one.

    A program that a step starts would else take the next task from it. And a process that a step forks, as a DataLoader
    does, closes its standard input first, for which it waits forever if a thread was reading from it at the fork.
    """
    own = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return own


class CellLogs:
    """Sends file descriptors 1 and 2 to the cell's own files, also for what C code and child processes write.

    The files are opened for appending, so that the parent can cut them while they grow.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._saved = [os.dup(1), os.dup(2)]
        for descriptor, name in ((1, "stdout.txt"), (2, "stderr.txt")):
            file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(file, descriptor)
            os.close(file)

    def close(self) -> None:
        is_broken = {name: not _can_flush(getattr(sys, name)) for name in ("stdout", "stderr")}
        for descriptor, (saved, name) in enumerate(zip(self._saved, is_broken, strict=True), start=1):
            os.dup2(saved, descriptor)
            os.close(saved)
            if is_broken[name]:  # the next cell prints, whatever this one did to it
                setattr(sys, name, os.fdopen(descriptor, "w", buffering=1, closefd=False))


def _can_flush(stream: TextIO | None) -> bool:
    """Flush what a cell printed; False if it has closed the stream, or put none in its place."""
    try:
        if stream is not None:
            stream.flush()
    except ValueError:
        return False
    return stream is not None


def die_with_parent() -> None:
    """Ask Linux to kill this process when the parent dies, whatever it is doing then."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(ORPHANED)


if __name__ == "__main__":
    main()
