"""CUPTI's records to figures, on an imitation of its Python module; the real one needs a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worker_cells import QUICK, doubling, run_cell

from gpubench.errors import ProfilerError
from gpubench.records import Outcome, Pass, Timer
from gpubench.worker.cupti import (
    BETWEEN,
    CuptiRecorder,
    Operation,
    kernel_shares,
    measurements,
    open_recorder,
    summarise,
)


class ActivityKind(IntEnum):
    MEMCPY = 1
    MEMSET = 2
    DRIVER = 4
    RUNTIME = 5
    CONCURRENT_KERNEL = 10
    EXTERNAL_CORRELATION = 39


class ExternalCorrelationKind(IntEnum):
    CUSTOM0 = 3
    CUSTOM2 = 5


class FakeCupti:
    """The calls of cupti.cupti that are used: launches become records, delivered by a flush."""

    ActivityKind = ActivityKind
    ExternalCorrelationKind = ExternalCorrelationKind

    def __init__(self) -> None:
        self.enabled: set[int] = set()
        self.pending: list[Any] = []
        self.stack: list[tuple[int, int]] = []
        self.correlation_id = 0
        self.deliver: Callable[[list[Any]], None] = lambda _: None

    def activity_register_callbacks(self, request: Callable[[], tuple[int, int]], done: Any) -> None:
        size, limit = request()
        assert size > 1 << 20
        assert limit == 0
        self.deliver = done

    def activity_enable(self, kind: int) -> None:
        self.enabled.add(kind)

    def activity_disable(self, kind: int) -> None:
        self.enabled.remove(kind)

    def activity_push_external_correlation_id(self, kind: int, tag: int) -> None:
        self.stack.append((kind, tag))

    def activity_pop_external_correlation_id(self, kind: int) -> int:
        return self.stack.pop()[1]

    def activity_flush_all(self, flag: int) -> None:
        assert flag == 1
        records, self.pending = self.pending, []
        self.deliver(records)

    def launch(
        self,
        *intervals: tuple[int, int],
        kind: ActivityKind = ActivityKind.CONCURRENT_KERNEL,
        name: str = "kernel",
        copy_kind: int = 8,
    ) -> None:
        """One call that runs an operation per interval, as a graph's replay does."""
        self.correlation_id += 1
        if kind not in self.enabled:
            return
        self.pending.append(SimpleNamespace(kind=ActivityKind.RUNTIME, correlation_id=self.correlation_id))
        for kind_of_tag, tag in self.stack:
            self.pending.append(
                SimpleNamespace(
                    kind=ActivityKind.EXTERNAL_CORRELATION,
                    external_kind=kind_of_tag,
                    external_id=tag,
                    correlation_id=self.correlation_id,
                )
            )
        for start, end in intervals:
            self.pending.append(
                SimpleNamespace(
                    kind=kind,
                    start=start,
                    end=end,
                    correlation_id=self.correlation_id,
                    name=name,
                    copy_kind=copy_kind,
                )
            )


def test_each_repetition_gets_the_operations_that_it_launched() -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)
    cupti.launch((1, 1000))  # before the recording: not seen

    with recorder.recording():
        for number, start in ((1, 100), (2, 500)):
            with recorder.tagged(BETWEEN):
                cupti.launch((start - 50, start - 1), kind=ActivityKind.MEMSET)
            with recorder.tagged(number):
                cupti.launch((start, start + 20), (start + 30, start + 40))
                cupti.launch((start + 60, start + 70), kind=ActivityKind.MEMCPY)

    found = {measurement.metric: measurement for measurement in measurements(recorder.repetitions())}
    assert {metric: pytest.approx([s * 1e9 for s in m.samples]) for metric, m in found.items()} == {
        "kernel_sum": [30, 30],
        "busy": [40, 40],
        "span": [70, 70],
        "gap": [30, 30],
    }
    assert {(m.unit, m.timer) for m in found.values()} == {("s", Timer.CUPTI)}
    assert cupti.enabled == set()
    assert cupti.stack == []


def test_a_second_recording_knows_nothing_of_the_first() -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)
    for tag in (1, 2):
        with recorder.recording(), recorder.tagged(tag):
            cupti.launch((10, 10 + tag))

    assert [repetition.span_ns for repetition in recorder.repetitions()] == [2]


def test_what_other_profilers_tag_is_left_alone() -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)
    with recorder.recording(), recorder.tagged(1):
        cupti.activity_push_external_correlation_id(ExternalCorrelationKind.CUSTOM0, 77)
        cupti.launch((10, 20))
        cupti.activity_pop_external_correlation_id(ExternalCorrelationKind.CUSTOM0)

    assert len(recorder.repetitions()) == 1


def test_gpu_time_that_no_repetition_launched_refuses_the_figures() -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)
    with recorder.recording():
        with recorder.tagged(1):
            cupti.launch((10, 60))
        cupti.launch((60, 110))

    with pytest.raises(ProfilerError, match="50% of the GPU time"):
        recorder.repetitions()


@pytest.mark.parametrize("times", [(0, 0), (0, 5), (9, 3)])
def test_records_without_times_refuse_the_figures(times: tuple[int, int]) -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)
    with recorder.recording(), recorder.tagged(1):
        cupti.launch((10, 20), times)

    with pytest.raises(ProfilerError, match="without times"):
        recorder.repetitions()


def test_recording_ends_when_the_step_fails() -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)

    with pytest.raises(ValueError, match="broken"), recorder.recording(), recorder.tagged(1):
        raise ValueError("broken")

    assert (cupti.enabled, cupti.stack) == (set(), [])


operations = st.builds(
    lambda start, duration, kind, name: Operation(start, start + duration, 1, kind, name),
    st.integers(1, 60),
    st.integers(0, 20),
    st.sampled_from(["kernel", "memcpy"]),
    st.sampled_from("abc"),
)


@given(st.lists(operations, min_size=1))
def test_the_figures_are_those_of_the_definition(operations: list[Operation]) -> None:
    figures = summarise(operations)

    covered = {ns for operation in operations for ns in range(operation.start_ns, operation.end_ns)}
    assert figures.busy_ns == len(covered)
    assert figures.span_ns == max(o.end_ns for o in operations) - min(o.start_ns for o in operations)
    assert figures.kernel_sum_ns == sum(o.end_ns - o.start_ns for o in operations if o.kind == "kernel")


@given(st.lists(st.lists(operations, min_size=1), min_size=1, max_size=5))
def test_the_kernels_add_up_to_all_that_ran(runs: list[list[Operation]]) -> None:
    shares = kernel_shares([summarise(run) for run in runs])

    total_ns = sum(operation.duration_ns for run in runs for operation in run)
    assert sum(share.total_s for share in shares) * len(runs) == pytest.approx(total_ns / 1e9, abs=1e-10)
    assert sum(share.count for share in shares) * len(runs) == pytest.approx(sum(map(len, runs)), rel=1e-3)
    assert sum(share.share for share in shares) == pytest.approx(1 if total_ns else 0)
    assert [share.total_s for share in shares] == sorted((share.total_s for share in shares), reverse=True)


def test_kernels_copies_and_fills_are_told_apart_by_name() -> None:
    cupti = FakeCupti()
    recorder = CuptiRecorder(cupti)
    with recorder.recording():
        for tag in (1, 2):
            with recorder.tagged(tag):
                cupti.launch((100, 150), (200, 230), name="_Z4gemmPKfi")
                cupti.launch((300, 310), kind=ActivityKind.MEMCPY)
                cupti.launch((320, 325), kind=ActivityKind.MEMCPY, copy_kind=7)
                cupti.launch((330, 331), kind=ActivityKind.MEMSET)
                cupti.launch((340, 344 + tag), name="triton_norm")

    shares = kernel_shares(recorder.repetitions())

    assert [(s.name, s.kind, s.count, round(s.total_s * 1e9, 3), round(s.median_s * 1e9, 3)) for s in shares] == [
        ("gemm(float const*, int)", "kernel", 2, 80, 40),
        ("[memcpy Device-to-Device]", "memcpy", 1, 10, 10),
        ("triton_norm", "kernel", 1, 5.5, 5.5),
        ("[memcpy]", "memcpy", 1, 5, 5),
        ("[memset]", "memset", 1, 1, 1),
    ]


@pytest.mark.skipif(importlib.util.find_spec("cupti") is not None, reason="cupti-python is installed here")
def test_without_cupti_python_the_cell_is_told_how_to_get_it() -> None:
    with pytest.raises(ProfilerError):
        open_recorder()

    measure = QUICK.model_copy(update={"timer": "cupti"})
    record = run_cell(doubling(lambda x: x + x), "tested", measure=measure, pass_=Pass.PROFILE).record

    assert record.outcome is Outcome.ERROR
    assert "pip install 'gpubench[cupti]'" in record.reason
