"""Kernel times from CUPTI inside this process: what the GPU itself says of each repetition, without nsys.

Each repetition's launches carry an external correlation id, so that an operation belongs to the repetition that
launched it, whenever it ran. CUPTI has one user per process: not together with nsys, ncu or torch.profiler.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import torch

from gpubench.errors import ProfilerError
from gpubench.records import KernelShare, Measurement, Timer

__all__ = [
    "BETWEEN",
    "CuptiRecorder",
    "Operation",
    "Repetition",
    "kernel_shares",
    "measurements",
    "open_recorder",
    "summarise",
]

BUFFER_BYTES = 8 << 20
FLUSH_FORCED = 1
BETWEEN = 0
"""The tag of what runs between repetitions; they are numbered from 1."""
MAX_UNATTRIBUTED_SHARE = 0.01
"""More GPU time than this without a tag, as from a thread of the step's own, and the figures are refused."""


KERNEL = "kernel"
_DIRECTIONS = {1: "Host-to-Device", 2: "Device-to-Host", 8: "Device-to-Device", 9: "Host-to-Host", 10: "Peer-to-Peer"}
"""`CUpti_ActivityMemcpyKind`, in nsys's words."""


@dataclass(frozen=True)
class Operation:
    """A kernel, copy or fill that ran on the GPU."""

    start_ns: int
    end_ns: int
    correlation_id: int
    """Of the call that launched it."""
    kind: str = KERNEL
    """As `KernelShare.kind` has it: `kernel`, `memcpy` or `memset`."""
    name: str = ""
    """A kernel's as the compiler mangled it; what copies and fills are, in brackets."""

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class Repetition:
    """The figures of one repetition, in ns; defined as for a projected nsys range."""

    span_ns: int
    """Last end − first start."""
    busy_ns: int
    """The length of the union of the operations' intervals."""
    kernel_sum_ns: int
    """Σ durations of the kernels alone; overlapping ones count twice."""
    operations: list[Operation]


class CuptiRecorder:
    """Records operations and the tags of their launches; `api` is cupti-python's module `cupti.cupti`.

    `KERNEL` would serialise kernels and `GRAPH_TRACE` hide those of a graph; the API kinds are what makes CUPTI emit
    external correlations at all.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        kinds = api.ActivityKind
        self._kinds = [
            kinds.CONCURRENT_KERNEL,
            kinds.MEMCPY,
            kinds.MEMSET,
            kinds.RUNTIME,
            kinds.DRIVER,
            kinds.EXTERNAL_CORRELATION,
        ]
        self._operations: list[Operation] = []
        self._tags: dict[int, int] = {}
        api.activity_register_callbacks(lambda: (BUFFER_BYTES, 0), self._receive)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record meanwhile; what was recorded before is forgotten. The device is idle on both sides."""
        self._api.activity_flush_all(FLUSH_FORCED)
        self._operations.clear()
        self._tags.clear()
        enabled = []
        try:
            for kind in self._kinds:
                self._api.activity_enable(kind)
                enabled.append(kind)
            yield
            self._api.activity_flush_all(FLUSH_FORCED)
        finally:
            for kind in enabled:
                self._api.activity_disable(kind)

    @contextlib.contextmanager
    def tagged(self, tag: int) -> Iterator[None]:
        """What this thread launches meanwhile belongs to repetition `tag`, or to none with BETWEEN."""
        kind = self._api.ExternalCorrelationKind.CUSTOM2  # torch.profiler has the first two
        self._api.activity_push_external_correlation_id(kind, tag)
        try:
            yield
        finally:
            self._api.activity_pop_external_correlation_id(kind)

    def repetitions(self) -> list[Repetition]:
        """The last recording's repetitions in order; ProfilerError where what was recorded can't be trusted."""
        if any(not (0 < operation.start_ns <= operation.end_ns) for operation in self._operations):
            raise ProfilerError("CUPTI gave operations without times, so that kernel times are unknown; use timer nsys")
        by_tag: defaultdict[int | None, list[Operation]] = defaultdict(list)
        for operation in self._operations:
            by_tag[self._tags.get(operation.correlation_id)].append(operation)
        self._refuse_unattributed(by_tag.pop(None, []))
        by_tag.pop(BETWEEN, None)
        return [summarise(by_tag[tag]) for tag in sorted(tag for tag in by_tag if tag is not None)]

    def _refuse_unattributed(self, untagged: list[Operation]) -> None:
        missed = sum(operation.duration_ns for operation in untagged)
        total = sum(operation.duration_ns for operation in self._operations)
        if missed > MAX_UNATTRIBUTED_SHARE * total:
            raise ProfilerError(
                f"kernel times refused: {missed / total:.0%} of the GPU time was launched by threads other than the "
                "step's, to which no repetition is known"
            )

    def _receive(self, activities: list[Any]) -> None:
        kinds = self._api.ActivityKind
        for activity in activities:
            if activity.kind == kinds.EXTERNAL_CORRELATION:
                if activity.external_kind == self._api.ExternalCorrelationKind.CUSTOM2:
                    self._tags[activity.correlation_id] = activity.external_id
            elif activity.kind == kinds.CONCURRENT_KERNEL:
                self._add(activity, KERNEL, activity.name)
            elif activity.kind == kinds.MEMCPY:
                direction = _DIRECTIONS.get(activity.copy_kind, "")
                self._add(activity, "memcpy", f"[memcpy {direction}]" if direction else "[memcpy]")
            elif activity.kind == kinds.MEMSET:
                self._add(activity, "memset", "[memset]")

    def _add(self, activity: Any, kind: str, name: str) -> None:
        self._operations.append(Operation(activity.start, activity.end, activity.correlation_id, kind, name))


@cache
def open_recorder() -> CuptiRecorder:
    """The process's one recorder; ProfilerError if CUPTI can't be had."""
    try:
        from cupti import cupti
    except ImportError as error:
        raise ProfilerError(
            f"measure.timer: cupti needs cupti-python ({error}): pip install 'gpubench[cupti]', or use timer nsys"
        ) from None
    return CuptiRecorder(cupti)


def summarise(operations: list[Operation]) -> Repetition:
    """The figures of the operations of one repetition, of which there is one at least."""
    ordered = sorted(operations, key=lambda operation: operation.start_ns)
    reached, busy_ns = ordered[0].start_ns, 0
    for operation in ordered:
        busy_ns += max(0, operation.end_ns - max(operation.start_ns, reached))
        reached = max(reached, operation.end_ns)
    return Repetition(
        span_ns=reached - ordered[0].start_ns,
        busy_ns=busy_ns,
        kernel_sum_ns=sum(operation.duration_ns for operation in ordered if operation.kind == KERNEL),
        operations=ordered,
    )


def measurements(repetitions: list[Repetition]) -> list[Measurement]:
    """Kernel sum, busy time, span and gap with a sample per repetition; none of none."""
    if not repetitions:
        return []
    columns = {
        "kernel_sum": [repetition.kernel_sum_ns for repetition in repetitions],
        "busy": [repetition.busy_ns for repetition in repetitions],
        "span": [repetition.span_ns for repetition in repetitions],
        "gap": [repetition.span_ns - repetition.busy_ns for repetition in repetitions],
    }
    return [Measurement(metric, "s", Timer.CUPTI, [ns / 1e9 for ns in column]) for metric, column in columns.items()]


def kernel_shares(repetitions: list[Repetition]) -> list[KernelShare]:
    """What the repetitions ran, by kind and name, most time first."""
    durations: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for repetition in repetitions:
        for operation in repetition.operations:
            durations[operation.kind, operation.name].append(operation.duration_ns)
    total_ns = sum(map(sum, durations.values()))
    count = len(repetitions)
    return [
        KernelShare(
            name=torch._C._demangle(name),
            kind=kind,
            count=round(len(each) / count, 6),
            total_s=round(sum(each) / count / 1e9, 12),
            median_s=median(each) / 1e9,
            share=round(sum(each) / max(total_ns, 1), 9),
        )
        for (kind, name), each in sorted(durations.items(), key=lambda item: -sum(item[1]))
    ]
