"""One trial of the timing pass: warm up, take samples, derive the workload's own metrics."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gpubench.collection import garbage_collection_paused
from gpubench.errors import UsageError
from gpubench.records import KernelShare, Measurement, Outcome, Stage, Timer
from gpubench.registry import OwnMeasurement
from gpubench.settings import MeasureSettings
from gpubench.worker.cache_flush import L2Flush
from gpubench.worker.clocks import ClockWatch, watch_clocks
from gpubench.worker.device import Device
from gpubench.worker.failure import CellStopped, HookFailed
from gpubench.worker.sampling import Samples, take_samples
from gpubench.worker.subject import Prepared, Subject
from gpubench.worker.timer_choice import ChosenTimer, choose_timer
from gpubench.worker.timers import WallTimer

__all__ = ["Trial", "WarmUp", "collect_own", "measure_own", "measure_trial", "warm_up"]

Enter = Callable[[Stage], None]
STEP_TIME = "step_time"

SECONDS_DECIMALS = 12
"""A thousandth of a nanosecond, beyond which a sample's decimals are its arithmetic's."""
DERIVED_DIGITS = 9

SLOW_FIRST_STEP_RATIO = 10
SLOW_FIRST_STEP_S = 0.01
"""A first step that took so many times as long as those after it, and so long, was busy with something else."""


@dataclass(frozen=True)
class Trial:
    """What one trial found."""

    measurements: list[Measurement]
    stopped: str
    """Why there are no more samples, in words."""
    measured_s: float
    """Warm-up and sampling together."""
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    kernels: list[KernelShare] = field(default_factory=list)
    fault: Exception | None = None
    """What a metric or a check raised after the samples were taken: the cell has failed, they are as good as ever."""


@dataclass(frozen=True)
class WarmUp:
    """Steps that were run so that the next ones find caches, clocks and compilers settled."""

    steps: int
    """The first included."""
    first_step_s: float
    """It may compile, for seconds, and says nothing of the others."""
    step_s: float
    """The mean of the steps after the first."""

    @property
    def elapsed_s(self) -> float:
        return self.first_step_s + (self.steps - 1) * self.step_s

    @property
    def details(self) -> dict[str, Any]:
        """For the record: how many steps, and how long the first took if that is worth a word."""
        found: dict[str, Any] = {"warmup_steps": self.steps}
        if self.first_step_s > max(SLOW_FIRST_STEP_S, SLOW_FIRST_STEP_RATIO * self.step_s):
            found["first_step_s"] = round(self.first_step_s, 6)
        return found


@dataclass(frozen=True)
class _Sampled:
    """A trial's samples, and all that explains them."""

    samples: Samples
    repeats: int
    chosen: ChosenTimer
    warmed: WarmUp
    flush: L2Flush

    def details(self, device: Device) -> dict[str, Any]:
        found: dict[str, Any] = {
            "l2": self.flush.state_of(self.repeats),
            "launch": self.chosen.timer.account().launch if device.is_cuda else "n/a",
            "stopped": self.samples.stopped,
            "timer_choice": self.chosen.why,
            **self.warmed.details,
        }
        return found if self.repeats == 1 else {**found, "inner_repeats": self.repeats}

    def warnings(self) -> list[str]:
        found = list(self.chosen.timer.account().warnings)
        if self.samples.is_short:
            found.append("the time was over before min_samples were taken")
        if self.flush.state_of(self.repeats) != self.flush.state:
            found.append(
                f"of the {self.repeats} steps in a sample only the first finds the L2 {self.flush.state}; "
                "use l2: rotate, or hot if that is meant"
            )
        return found


def measure_trial(prepared: Prepared, settings: MeasureSettings, enter: Enter) -> Trial:
    """Warm up and sample the step; every sample starts from a restored state and, if asked for, a cold L2."""
    device = prepared.subject.device
    chosen = choose_timer(settings, prepared)
    flush = L2Flush(device, settings.l2)
    watch = watch_clocks(device)
    if watch is not None:
        watch.look(0)  # now, for the first of all takes long enough to let the GPU cool down

    def prepare(samples: int) -> None:
        prepared.restore()
        flush()
        if watch is not None:
            watch.look(samples)

    enter(Stage.WARMUP)
    began = time.perf_counter()
    warmed = warm_up(prepared, settings.warmup_time_s)
    prepared.restore()
    repeats = chosen.timer.calibrate(prepared.step)
    enter(Stage.MEASURE)
    samples = take_samples(prepared.step, chosen.timer, repeats, prepare, settings)
    measured_s = time.perf_counter() - began
    sampled = _Sampled(samples, repeats, chosen, warmed, flush)
    details, warnings = sampled.details(device), sampled.warnings()
    if watch is not None:
        watch.look(len(samples.seconds), at_once=True)
        _note_clocks(watch, len(samples.seconds), details, warnings)
    step_time = Measurement(
        STEP_TIME, "s", chosen.timer.kind, [round(seconds, SECONDS_DECIMALS) for seconds in samples.seconds]
    )
    measurements, fault = [step_time], None
    try:
        measurements.extend(_derive_metrics(prepared.subject, step_time))
    except (CellStopped, HookFailed) as error:
        fault = error
    return Trial(measurements, samples.stopped, measured_s, details, warnings, fault=fault)


def _note_clocks(watch: ClockWatch, samples: int, details: dict[str, Any], warnings: list[str]) -> None:
    summary = watch.summarise()
    if summary is not None:
        details["clocks"] = asdict(summary)
        warnings += summary.warnings(samples)
    if watch.problem:
        warnings.append(f"the GPU's clocks are not known: {watch.problem}")


def warm_up(prepared: Prepared, seconds: float, clock: Callable[[], float] = time.perf_counter) -> WarmUp:
    """Run the step once, which may compile, and then for so long; once more at least, and everyone's turn."""
    began = clock()
    prepared.run()
    settled = clock()
    steps = 0
    while True:
        prepared.run()
        steps += 1
        elapsed_s = clock() - settled
        if elapsed_s >= seconds and steps >= prepared.turns - 1:
            return WarmUp(1 + steps, settled - began, elapsed_s / steps)


def measure_own(prepared: Prepared, enter: Enter) -> Trial:
    """Run a step that measures itself, once: its own measurements.

    Where the whole step's time isn't among them, it is how long the run took by the wall clock.
    """
    enter(Stage.MEASURE)
    reported: list[OwnMeasurement] = []

    def step() -> None:
        reported.extend(_own_measurements(prepared))

    prepared.restore()
    with garbage_collection_paused():
        seconds = WallTimer(prepared.subject.device.synchronize).time(step, repeats=1)
    found, fault = collect_own(reported, prepared.subject.workload.name)
    if not any(measurement.metric == STEP_TIME and not measurement.range for measurement in found):
        found.insert(0, Measurement(STEP_TIME, "s", Timer.WALL, [round(seconds, SECONDS_DECIMALS)]))
    stopped = "it measures itself; one run is one trial"
    return Trial(found, stopped, seconds, {"stopped": stopped}, fault=fault)


def collect_own(readings: Iterable[OwnMeasurement], name: str) -> tuple[list[Measurement], Exception | None]:
    """What the workload of that name measured itself, and what is wrong with the first figure that is no number.

    Readings of the same figure are samples of one measurement.
    """
    found: defaultdict[tuple[str, str, str, Timer | None], list[Measurement]] = defaultdict(list)
    faults: list[Exception] = []
    for own in readings:
        try:
            read = _read(own)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            place = ".".join(map(str, wrong["loc"]))
            faults.append(UsageError(f"{own.metric} of {name}: {place}: {wrong['msg']}, got {wrong['input']!r:.80}"))
            continue
        unknown = [value for value in read.samples if not math.isfinite(value)]
        faults += [CellStopped(Outcome.INVALID, f"{read.metric} of {name} is {value}") for value in unknown[:1]]
        found[read.metric, read.unit, read.range, read.timer].append(read)
    merged = [replace(parts[0], samples=[x for part in parts for x in part.samples]) for parts in found.values()]
    return merged, next(iter(faults), None)


def _read(own: OwnMeasurement) -> Measurement:
    return Measurement(
        metric=own.metric,
        unit=own.unit,
        timer=own.timer,
        samples=own.value if isinstance(own.value, list) else [own.value],
        range=own.range,
        repeats=own.repeats,
        higher_is_better=own.higher_is_better,
    )


def _own_measurements(prepared: Prepared) -> list[OwnMeasurement]:
    returned = prepared.step()
    if isinstance(returned, list) and all(isinstance(item, OwnMeasurement) for item in returned):
        return returned
    name = prepared.subject.workload.name
    raise UsageError(f"{name} measures itself, so its step returns a list of OwnMeasurement, not {returned!r:.80}")


def _derive_metrics(subject: Subject, step_time: Measurement) -> Iterator[Measurement]:
    """The workload's own metrics of every sample; HookFailed or CellStopped at the first that is no number."""
    for metric in subject.workload.metrics.values():
        try:
            values = [float(metric.function(subject.namespace, seconds)) for seconds in step_time.samples]
        except Exception as error:
            raise HookFailed(f"metric {metric.name!r} ({Path(metric.origin).name})") from error
        wrong = next((value for value in values if not math.isfinite(value)), None)
        if wrong is not None:
            raise CellStopped(Outcome.INVALID, f"metric {metric.name} of {subject.workload.name} is {wrong}")
        yield Measurement(metric.name, metric.unit, step_time.timer, [_shorten(value) for value in values])


def _shorten(value: float) -> float:
    """A derived figure to as many digits as its sample can have meant; whole numbers stay as they are."""
    return value if value.is_integer() else float(f"{value:.{DERIVED_DIGITS}g}")
