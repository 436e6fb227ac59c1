"""A cell from set-up to record: prepares it once, runs its trials, and turns whatever it does into data."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gpubench.protocol import Task
from gpubench.ranges import mark_ranges, switch_ranges
from gpubench.records import CellRecord, CheckResult, Hazard, Measurement, Outcome, Pass, Stage
from gpubench.settings import uses_interpreter
from gpubench.sharing import use_shelf
from gpubench.worker.capture_watch import CaptureWatch
from gpubench.worker.check import NOTHING, check_own, check_step, make_reference
from gpubench.worker.compilations import CompileWatch
from gpubench.worker.device import Device
from gpubench.worker.failure import CellStopped, HookFailed, clean, describe_failure, is_context_lost, release
from gpubench.worker.measure import Trial, collect_own, measure_own, measure_trial
from gpubench.worker.pointers import PointerAudit
from gpubench.worker.profiled import capture_range, profile_trial
from gpubench.worker.requirements import find_unmet
from gpubench.worker.rotation import rotate
from gpubench.worker.shelf import WorkerShelf
from gpubench.worker.subject import Prepared, Subject, find_subject
from gpubench.worker.timer_choice import explain_choice

__all__ = ["run_task"]

Enter = Callable[[int, Stage], None]
Tell = Callable[[list[Hazard]], None]
Keep = Callable[[list[Measurement]], None]

UNTIMED_STAGES = (Stage.SETUP, Stage.CHECK, Stage.WARMUP)
"""While these last, open ranges are marked for whoever asks after a death; in a sample that would cost its share."""

LEAK_BYTES = 1 << 20
"""What may stay allocated after a cell before cycles are searched for, which takes longer than many a cell."""


def run_task(
    task: Task,
    device: Device,
    shelf: WorkerShelf,
    enter: Enter,
    tell: Tell = lambda _: None,
    keep: Keep = lambda _: None,
) -> Iterator[CellRecord]:
    """Run the task's trials; a record each, up to the first that isn't ok, which decides the cell.

    `shelf` keeps what it shares with other cells. `tell` hears of stale addresses in the cell's CUDA graphs before they
    are used, `keep` of a trial's figures before they are checked: a cell may not live to tell of them itself.

    Nothing that a cell raises passes, sys.exit included; KeyboardInterrupt does. What a cell held is released before
    the iterator ends, unless the CUDA context is lost: then the process is to end, and cleaning up would only fail.
    """
    switch_ranges(task.pass_ is Pass.PROFILE)
    own = device.allocated_bytes() - shelf.held_bytes
    run = _TaskRun(task, device, shelf, enter, tell, keep)
    use_shelf(shelf)
    try:
        for trial in task.trials:
            record = run.run_trial(trial)
            yield record
            if record.outcome is not Outcome.OK:
                break
    finally:
        run.close()
        use_shelf(None)
    if is_context_lost(record):
        return
    shelf.end()
    if device.allocated_bytes() - shelf.held_bytes > own + LEAK_BYTES:
        gc.collect()


@dataclass
class _Facts:
    """What is known of a cell once it is prepared: the same in the records of all its trials, failed ones too."""

    checks: list[CheckResult] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    hazards: list[Hazard] = field(default_factory=list)


@dataclass
class _TaskRun:
    """One task under way."""

    task: Task
    device: Device
    shelf: WorkerShelf
    enter: Enter
    tell: Tell
    keep: Keep
    compilations: CompileWatch = field(default_factory=CompileWatch)
    facts: _Facts = field(default_factory=_Facts)
    prepared: Prepared | None = None
    from_set_up: list[Measurement] = field(default_factory=list)
    """What the set-up measured: the first trial's record has it, also if that trial fails."""
    audit: PointerAudit | None = None
    """Of a cell that may capture CUDA graphs, from its set-up on."""
    trial: int = 0
    stage: Stage = Stage.QUEUED

    def close(self) -> None:
        """Let go of what the trials shared."""
        self.prepared = None
        if self.audit is not None:
            self.audit.close()

    def run_trial(self, trial: int) -> CellRecord:
        """One record, whatever happens."""
        self.trial = trial
        started_at, began = datetime.now(UTC), time.perf_counter()
        found: Trial | None = None
        try:
            found = self._measure()
            if found.fault is not None:
                raise found.fault
            self.device.synchronize()  # what fails on a stream that no sample waits for is this cell's fault
            self._enter(Stage.DONE)
            record = self._record(Outcome.OK, found.stopped)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a CancelledError, or a class of the cell's own, must not take the worker along
            failure = describe_failure(error, self.device)
            record = replace(
                self._record(failure.outcome, failure.reason),
                crash=failure.crash,
                checks=failure.checks or self.facts.checks,
            )
            self.prepared = None
            found = found or Trial(self._take_set_up(), "", 0.0)
            if not is_context_lost(failure):
                release(error, self.device)
        return replace(
            _add_figures(record, found),
            started_at=started_at.isoformat(timespec="milliseconds"),
            duration_s=round(time.perf_counter() - began, 6),
        )

    def _measure(self) -> Trial:
        if self.prepared is None:
            self.prepared = self._prepare()
        prepared, settings = self.prepared, self.task.measure
        if prepared.subject.workload.measures_itself:
            self.facts.checks = []  # that of the trial before says nothing of this one
            found = self._check_own(prepared, measure_own(prepared, self._enter))
        elif self.task.pass_ is Pass.PROFILE:
            return profile_trial(prepared, self.task.cell.cell_id, settings, self._enter)
        else:
            found = measure_trial(prepared, settings, self._enter)
        return replace(found, measurements=[*found.measurements, *self._take_set_up()])

    def _take_set_up(self) -> list[Measurement]:
        """What the set-up measured, once: one record has it."""
        taken, self.from_set_up = self.from_set_up, []
        return taken

    def _check_own(self, prepared: Prepared, found: Trial) -> Trial:
        """The trial of a workload that measures itself, with its fault if what it did was wrong, or nobody can tell."""
        is_unasked = prepared.subject.workload.check_function is None or self.task.check.against == NOTHING
        if found.fault is not None or is_unasked:
            return found
        self._enter(Stage.CHECK)
        self.keep([*found.measurements, *self.from_set_up])
        try:
            result = check_own(prepared)
        except HookFailed as error:
            return replace(found, fault=error)
        self.facts.checks = [result]
        fault = None if result.passed else CellStopped(Outcome.MISMATCH, f"{result.against}: {result.worst}", [result])
        return replace(found, fault=fault)

    def _prepare(self) -> Prepared:
        """Everything up to a step that can be timed: requirements, reference, set-up, check."""
        self._enter(Stage.SETUP)
        self.shelf.begin(self.task.cell.cell_id, self.task.kin, self.task.measure.seed)
        subject = find_subject(self.task.cell, self.task.measure.seed, self.device, self.task.artifacts)
        self._note_facts(subject)
        _refuse_unmet(subject)
        if self.task.pass_ is Pass.PROFILE:
            with capture_range(self.device, self.task.cell.cell_id):
                return self._take_turns(subject.set_up(subject.backend, subject.make_inputs()))
        if subject.workload.measures_itself:
            return self._set_up(subject)
        explain_choice(self.task.measure, self.device)  # a timer that can't be had is said before any work
        self._enter(Stage.CHECK)
        reference = make_reference(subject, self.task.check.against)
        self._enter(Stage.SETUP)
        if self.device.is_cuda and self.task.check.graph_pointers != "off":
            is_fatal = self.task.check.graph_pointers == "error"
            self.audit = PointerAudit(CaptureWatch(), self.facts.hazards, self.tell, is_fatal=is_fatal)
        prepared = self._set_up(subject)
        self._look_at_graphs()
        self._enter(Stage.CHECK)
        checked = check_step(prepared, reference, self.task.check)
        self.facts.checks.append(checked.result)
        self.facts.warnings += checked.warnings
        self._look_at_graphs()  # the check may have freed something, and shuffles what is free
        if self.audit is not None and not self.audit.has_captured:
            self.audit.stop_recording()
        return self._take_turns(prepared)

    def _set_up(self, subject: Subject) -> Prepared:
        """The cell's own backend, set up; what that measured is kept for the record."""
        prepared = subject.set_up(subject.backend, subject.make_inputs())
        self.from_set_up, fault = collect_own(prepared.measured, subject.workload.name)
        if fault is not None:
            raise fault
        return prepared

    def _look_at_graphs(self) -> None:
        """Audit what was captured so far, unless that was not asked for."""
        if self.audit is not None:
            try:
                self.facts.warnings += self.audit.look()
            finally:
                self.facts.details.update(self.audit.details)

    def _take_turns(self, prepared: Prepared) -> Prepared:
        """The step, or with `measure.l2: rotate` on a GPU several of them; only the first one's outputs are checked."""
        if self.task.measure.l2 != "rotate" or not self.device.is_cuda or prepared.subject.workload.measures_itself:
            return prepared
        self._enter(Stage.SETUP)
        rotation = rotate(prepared, self.device.l2_bytes)
        self.facts.details["l2_rotation"] = rotation.describe()
        self.facts.warnings += filter(None, [rotation.warning()])
        return rotation

    def _note_facts(self, subject: Subject) -> None:
        workload, facts = subject.workload, self.facts
        if workload.label_function is not None:
            facts.details.update(_jsonable(subject.call_hook(workload.label_function, "label")))
        facts.details["seed"] = subject.seed
        for name, function in (("bytes", workload.bytes_function), ("flop", workload.flop_function)):
            if function is not None:
                facts.work[name] = float(subject.call_hook(function, name))
        if uses_interpreter() and "triton" in subject.backend.requires:
            facts.details["triton"] = "interpreter"
            facts.warnings.append("Triton's interpreter ran the kernels: its times say nothing of a GPU")

    def _enter(self, stage: Stage) -> None:
        if stage is Stage.MEASURE:
            self._look_at_graphs()  # again, and at those that the timer has captured
            if self.audit is not None:
                self.audit.stop_recording()
        self.stage = stage
        mark_ranges(stage in UNTIMED_STAGES)
        self.enter(self.trial, stage)

    def _record(self, outcome: Outcome, reason: str) -> CellRecord:
        facts = self.facts
        facts.details.update(self.compilations.details)
        if shared := self.shelf.describe():
            facts.details["shared"] = shared
        return self.task.record(
            self.trial,
            outcome,
            self.stage,
            reason=reason,
            checks=facts.checks,
            work=facts.work,
            details=facts.details,
            hazards=facts.hazards,
            warnings=facts.warnings,
            gpu=self.device.name,
        )


def _refuse_unmet(subject: Subject) -> None:
    """Skip a cell that can't run here: something is missing, or its sizes can't fit."""
    if unmet := find_unmet(subject.backend.requires, subject.device):
        raise CellStopped(Outcome.SKIPPED, unmet)
    if why := _find_lack_of_room(subject):
        raise CellStopped(Outcome.SKIPPED, why)


def _find_lack_of_room(subject: Subject) -> str:
    """Why its sizes can't fit, into the device or into what others have left of it; "" if they can, or nobody knows."""
    fits, device = subject.workload.fits_function, subject.device
    if fits is None:
        return ""
    if why := subject.call_hook(fits, "fits", device_bytes=device.total_bytes):
        return f"can't fit: {why}"
    available = min(device.available_bytes(), device.total_bytes)
    if why := subject.call_hook(fits, "fits", device_bytes=available):
        held = f"{(device.total_bytes - available) / 1e9:.1f} of {device.total_bytes / 1e9:.1f} GB"
        who = "other processes and CUDA itself" if device.is_cuda else "other processes"
        return f"can't fit now: {why}; {who} hold {held}; without them --retry-failed skipped measures it"
    return ""


def _add_figures(record: CellRecord, trial: Trial) -> CellRecord:
    return replace(
        record,
        measurements=trial.measurements,
        kernels=trial.kernels,
        details={**record.details, **trial.details},
        warnings=[*record.warnings, *trial.warnings],
        measured_s=round(trial.measured_s, 6),
    )


def _jsonable(value: Any) -> Any:
    """What a label hook said, as JSON can hold it: anything unusual in words."""
    if isinstance(value, Mapping):
        return {clean(str(key)): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value if value is None or type(value) in (bool, int, float) else clean(str(value))
