"""One worker per GPU until every task has its records, whatever becomes of the workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pretend import HAZARD, PretendLauncher, task
from support import PLUGINS

from gpubench.catalogue import WorkloadInfo
from gpubench.errors import WorkerError
from gpubench.protocol import Task
from gpubench.records import Cell, Outcome, Pass, Stage
from gpubench.run.events import CellRecorded, CellStarted, SweepEvent, WorkerStarted
from gpubench.run.launcher import Launcher, PlainLauncher
from gpubench.run.scheduler import Scheduler, StopSignal, WorkerSettings
from gpubench.settings import CheckSettings, MeasureSettings, TimeoutSettings
from gpubench.store import RunHeader, RunStore, create_run, read_run


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    header = RunHeader(
        run_id="run",
        name="run",
        created_at="2026-01-01T00:00:00.000+00:00",
        sweep={},
        sweep_file="sweep.yaml",
        cells=[],
        workload=WorkloadInfo("w", "", [], [], [], "w.py:1"),
        environment={},
        fingerprint={},
    )
    with RunStore(tmp_path / create_run(tmp_path, header).run_id) as store:
        yield store


def scheduler(
    store: RunStore,
    lanes: int,
    launcher: Launcher | None = None,
    timeout: TimeoutSettings | None = None,
    tasks_per_worker: int | None = None,
) -> Scheduler:
    settings = WorkerSettings([], launcher or PretendLauncher(), timeout or TimeoutSettings(), tasks_per_worker)
    return Scheduler(store, settings, StopSignal(), [None] * lanes)


def recorded(store: RunStore) -> Counter[tuple[str, int]]:
    """How often each trial of each cell is on disk."""
    return Counter((record.cell_id, record.trial) for record in read_run(store.path).records)


def started(events: Sequence[SweepEvent]) -> list[str]:
    """Why each worker was started."""
    return [event.reason for event in events if isinstance(event, WorkerStarted)]


def workers_alive(store: RunStore) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if str(store.path) in " ".join(p.info["cmdline"] or [])]


def bad_luck(index: int, backend: str, artifacts: Path) -> Task:
    cell = Cell(
        index, f"cell_{index:03d}", f"key{index}", "bad_luck", backend, {"backend": backend, "size": 8 + index}, {}
    )
    measure = MeasureSettings(trials=2, warmup_time_s=0, min_samples=3, max_samples=3)
    folder = str(artifacts / cell.cell_id)
    return Task(cell, [0, 1], Pass.TIMING, 0, measure, CheckSettings(), TimeoutSettings(), folder)


def test_two_real_workers_share_the_cells_and_outlive_the_death_of_one(store: RunStore, tmp_path: Path) -> None:
    tasks = [bad_luck(index, "killed" if index == 3 else "healthy", tmp_path / "artifacts") for index in range(12)]
    settings = WorkerSettings([str(PLUGINS / "bad_luck.py")], PlainLauncher(), TimeoutSettings())
    events = list(Scheduler(store, settings, StopSignal(), [None, None]).run(tasks))
    healthy = [each.cell.cell_id for each in tasks if each.cell.backend == "healthy"]
    assert recorded(store) == {("cell_003", 0): 1, **{(cell, trial): 1 for cell in healthy for trial in (0, 1)}}
    records = read_run(store.path).records
    assert {r.cell_id: r.outcome for r in records if r.outcome is not Outcome.OK} == {"cell_003": Outcome.CRASH}
    assert {record.worker for record in records} >= {0, 1}
    assert started(events)[:2] == ["", ""]
    ended = [event.record.cell_id for event in events if isinstance(event, CellRecorded) and event.is_last]
    assert sorted(ended) == [each.cell.cell_id for each in tasks], "each cell ends once"
    assert workers_alive(store) == []


def test_every_gpu_gets_a_cell_before_any_gets_a_spare_one(store: RunStore, tmp_path: Path) -> None:
    tasks = [task(index, tmp_path, "is slow" if index < 3 else "well") for index in range(3)]
    list(scheduler(store, lanes=3).run(tasks))
    assert {record.worker for record in read_run(store.path).records} == {0, 1, 2}


def test_two_workers_divide_the_kin_between_them(store: RunStore, tmp_path: Path) -> None:
    tasks = [
        replace(task(index, tmp_path, "is slow" if index == 0 else "well"), kin="abab"[index]) for index in range(4)
    ]
    list(scheduler(store, lanes=2).run(tasks))
    by_worker = {record.cell_id: record.worker for record in read_run(store.path).records}
    assert by_worker["cell_000"] == by_worker["cell_002"] != by_worker["cell_001"] == by_worker["cell_003"]


def test_no_more_workers_start_than_there_are_cells(store: RunStore, tmp_path: Path) -> None:
    events = list(scheduler(store, lanes=8).run([task(0, tmp_path), task(1, tmp_path)]))
    assert started(events) == ["", ""]
    assert recorded(store) == {("cell_000", 0): 1, ("cell_001", 0): 1}


def test_a_lost_context_costs_its_own_cell_and_a_new_worker_takes_the_rest(store: RunStore, tmp_path: Path) -> None:
    tasks = [task(index, tmp_path, "loses its context" if index == 1 else "well", trials=2) for index in range(4)]
    events = list(scheduler(store, lanes=1).run(tasks))
    assert recorded(store) == {
        ("cell_001", 0): 1,
        **{(f"cell_{index:03d}", trial): 1 for index in (0, 2, 3) for trial in (0, 1)},
    }
    assert started(events) == ["", "nothing more could run in the one before"]


@pytest.mark.parametrize("does", ["reads its input", "forks"])
def test_a_cell_neither_takes_tasks_from_the_workers_input_nor_waits_for_it(store, tmp_path, does) -> None:
    timeout = TimeoutSettings(cell=20)
    list(scheduler(store, lanes=1, timeout=timeout).run([task(0, tmp_path, does), task(1, tmp_path)]))
    assert [record.outcome for record in read_run(store.path).records] == [Outcome.OK, Outcome.OK]
    assert len(list(store.path.glob("artifacts/worker_*"))) == 1


def test_what_an_earlier_attempt_has_printed_is_no_evidence_of_this_death(store: RunStore, tmp_path: Path) -> None:
    log = tmp_path / "cell_000" / "stderr.txt"
    log.parent.mkdir()
    stack = 'Current thread 0x1 (most recent call first):\n  File "/u/a.py", line 3 in f\n'
    log.write_text(f"cudaErrorAssert\nFatal Python error: Aborted\n\n{stack}")
    list(scheduler(store, lanes=1).run([task(0, tmp_path, "dies")]))
    (record,) = read_run(store.path).records
    assert record.crash is not None
    assert (record.crash.cuda_error, record.crash.stderr_tail, record.crash.host_frames) == ("", "", [])
    assert record.reason == "the worker exited with status 5 during measure"


def test_a_cell_that_dies_is_recorded_with_its_trial_and_stage(store: RunStore, tmp_path: Path) -> None:
    list(scheduler(store, lanes=1).run([task(0, tmp_path, "dies", trials=3), task(1, tmp_path)]))
    dead, well = read_run(store.path).records
    assert (dead.cell_id, dead.trial, dead.stage, dead.outcome) == ("cell_000", 0, Stage.MEASURE, Outcome.CRASH)
    assert "exited with status 5" in dead.reason
    assert well.outcome is Outcome.OK


def test_a_status_is_taken_for_a_signal_only_where_a_program_around_the_worker_reports_it(
    store: RunStore, tmp_path: Path
) -> None:
    shell = PretendLauncher(wrapper=("/bin/sh", "-c", '"$@"; exit $?', "sh"))
    tasks = [task(0, tmp_path, "exits with 139"), task(1, tmp_path, "dies of a signal")]
    for launcher in (PretendLauncher(), shell):
        list(scheduler(store, lanes=1, launcher=launcher).run(tasks))
    crashes = [record.crash for record in read_run(store.path).records if record.crash]
    assert [(crash.exit_status, crash.signal) for crash in crashes] == [
        (139, ""),
        (-11, "SIGSEGV"),
        (139, "SIGSEGV"),
        (139, "SIGSEGV"),
    ]


def test_what_a_cell_told_before_it_died_is_in_its_record(store: RunStore, tmp_path: Path) -> None:
    list(scheduler(store, lanes=1).run([task(0, tmp_path, "dies of what it told"), task(1, tmp_path, "dies")]))
    told, silent = read_run(store.path).records
    assert (told.outcome, told.hazards) == (Outcome.CRASH, [HAZARD])
    assert silent.hazards == []


def test_what_a_cell_writes_among_the_events_is_counted_and_told_and_does_no_harm(
    store: RunStore, tmp_path: Path
) -> None:
    tasks = [task(0, tmp_path), task(1, tmp_path, "scribbles"), task(2, tmp_path)]
    list(scheduler(store, lanes=1).run(tasks))
    records = read_run(store.path).records
    assert [record.outcome for record in records] == [Outcome.OK] * 3
    assert [len(record.warnings) for record in records] == [0, 1, 0]
    (warning,) = records[1].warnings
    assert warning.startswith("the worker didn't write 3 lines of artifacts/worker_000/events.jsonl")
    assert b"no event" in (store.path / "artifacts" / "worker_000" / "events.jsonl").read_bytes()


def test_trials_that_are_tasks_of_their_own_are_given_up_once_one_fails(store: RunStore, tmp_path: Path) -> None:
    first = task(0, tmp_path, "dies", trials=2)
    again = [first.__class__(**{**vars(first), "trials": [trial]}) for trial in (0, 1)]
    list(scheduler(store, lanes=1, tasks_per_worker=1).run([*again, task(1, tmp_path)]))
    assert recorded(store) == {("cell_000", 0): 1, ("cell_001", 0): 1}


def test_under_isolation_every_cell_has_a_worker_of_its_own(store: RunStore, tmp_path: Path) -> None:
    events = list(scheduler(store, lanes=2, tasks_per_worker=1).run([task(index, tmp_path) for index in range(5)]))
    assert sorted(record.worker for record in read_run(store.path).records) == [0, 1, 2, 3, 4]
    assert len(started(events)) == 5


def test_workers_that_die_before_they_begin_anything_end_the_sweep_with_what_they_said(
    store: RunStore, tmp_path: Path
) -> None:
    with pytest.raises(WorkerError, match=r"2 workers in a row died .*status 1(.|\n)*no room in this inn"):
        list(scheduler(store, lanes=1, launcher=PretendLauncher("dies at birth")).run([task(0, tmp_path)]))
    assert recorded(store) == {}
    assert workers_alive(store) == []


def test_a_worker_that_is_never_ready_is_given_up_after_its_limit(store: RunStore, tmp_path: Path) -> None:
    late = scheduler(store, 1, PretendLauncher("is never ready"), TimeoutSettings(start=0.3))
    with pytest.raises(WorkerError, match=r"was still starting after 0\.3 s \(timeout_s\.start\)"):
        list(late.run([task(0, tmp_path)]))
    assert workers_alive(store) == []


def test_what_a_worker_holds_and_does_not_begin_is_the_next_ones(store: RunStore, tmp_path: Path) -> None:
    idle = scheduler(store, 1, PretendLauncher("begins nothing"), TimeoutSettings(start=5))
    events = list(idle.run([task(index, tmp_path) for index in range(3)]))
    assert recorded(store) == {(f"cell_{index:03d}", 0): 1 for index in range(3)}
    why = "worker 0 had begun none of the cells it held after 5 s (timeout_s.start)"
    assert started(events) == ["", why]


def test_a_worker_that_does_not_leave_is_ended_and_nothing_is_lost(store: RunStore, tmp_path: Path) -> None:
    list(scheduler(store, 1, PretendLauncher("never leaves", goodbye_s=0.3)).run([task(0, tmp_path)]))
    assert recorded(store) == {("cell_000", 0): 1}
    assert workers_alive(store) == []


def test_once_asked_to_stop_the_running_cell_ends_and_no_other_begins(store: RunStore, tmp_path: Path) -> None:
    stoppable = scheduler(store, lanes=1)
    begun = []
    for event in stoppable.run([task(index, tmp_path, "is slow") for index in range(3)]):
        if isinstance(event, CellStarted):
            begun.append(event.cell_id)
            stoppable.stop.is_requested = True
    assert begun == ["cell_000"]
    assert recorded(store) == {("cell_000", 0): 1}
    assert workers_alive(store) == []


def test_when_it_is_urgent_the_running_cell_ends_too_and_counts_as_not_run(store: RunStore, tmp_path: Path) -> None:
    stoppable = scheduler(store, lanes=1)
    for event in stoppable.run([task(0, tmp_path, "is slow")]):
        if isinstance(event, CellStarted):
            stoppable.stop.is_requested = stoppable.stop.is_urgent = True
    assert recorded(store) == {}
    assert workers_alive(store) == []
