"""The worker on a real GPU: its timer, its checks on device memory, and failures that only a GPU has."""

from __future__ import annotations

import ctypes
import importlib.util
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from worker_cells import QUICK, bare, doubling, run_cell

import gpubench
from gpubench.records import CellRecord, Outcome, Pass, Stage, Timer, parse_record
from gpubench.registry import Step
from gpubench.settings import CheckSettings, MeasureSettings
from gpubench.worker.cache_flush import L2Flush
from gpubench.worker.ceilings import measure_ceilings
from gpubench.worker.device import open_device
from gpubench.worker.failure import is_context_lost

NO_CHECK = CheckSettings(against="none")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_a_cell_is_timed_by_events_from_a_cold_cache() -> None:
    record = run_cell(doubling(lambda x: x + x), "tested", rows=1024, columns=1024).record

    assert record.outcome is Outcome.OK, record.reason
    assert record.gpu == f"cuda:0 {torch.cuda.get_device_name(0)}"
    assert record.measurements[0].timer is Timer.CUDA_EVENT
    assert all(1e-6 < seconds < 1 for seconds in record.measurements[0].samples)
    assert (record.details["l2"], record.details["timer_choice"]) == ("cold", "auto, on a GPU")
    clocks = record.details["clocks"]
    assert 1e8 < clocks["sm_hz"][0] <= clocks["sm_hz"][1] < 1e10
    assert 10 < clocks["temperature_c"][0] <= clocks["temperature_c"][1] < 120
    assert clocks["readings"] >= 2


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("cuda_event", "cuda_event was asked for"),
        ("nsys", "nsys times the profile pass"),
        ("wall", "wall was asked for"),
    ],
)
def test_the_timing_pass_is_unprofiled_whoever_profiles_later(wanted: Any, why: str) -> None:
    measure = QUICK.model_copy(update={"timer": wanted})

    record = run_cell(doubling(lambda x: x + x), "tested", measure=measure).record

    assert why in record.details["timer_choice"]
    assert record.measurements[0].timer is (Timer.WALL if wanted == "wall" else Timer.CUDA_EVENT)


def test_a_blocked_launch_leaves_out_what_the_host_took_and_a_graph_times_the_same_kernels() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = x + 0  # a launch of some µs each, for a kernel of less
        return x + x

    name = doubling(step)
    medians, records = {}, {}
    for launch in ("idle", "blocked", "graph"):
        measure = QUICK.model_copy(update={"launch": launch, "l2": "hot", "warmup_time_s": 0.05, "max_samples": 50})
        records[launch] = run_cell(name, "tested", measure=measure).record
        assert records[launch].outcome is Outcome.OK, records[launch].reason
        assert records[launch].details["launch"].startswith(launch), records[launch].details["launch"]
        assert not any("launch" in warning for warning in records[launch].warnings), records[launch].warnings
        medians[launch] = statistics.median(records[launch].measurements[0].samples)

    assert medians["blocked"] < 0.8 * medians["idle"], medians
    assert medians["graph"] < 1.5 * medians["blocked"], medians
    assert records["graph"].details["inner_repeats"] > 1


def test_a_step_that_synchronises_can_not_be_blocked_and_says_so() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        (x.sum()).item()
        return x + x

    measure = QUICK.model_copy(update={"launch": "blocked"})
    record = run_cell(doubling(step), "tested", measure=measure).record

    assert record.outcome is Outcome.OK, record.reason
    assert record.details["launch"].startswith("idle, for it can't be blocked")
    assert any("blocked is not to be had" in warning for warning in record.warnings)


def test_many_steps_in_a_graph_do_not_pass_for_cold() -> None:
    measure = QUICK.model_copy(update={"launch": "graph", "l2": "cold"})
    record = run_cell(doubling(lambda x: x + x), "tested", measure=measure).record

    assert record.outcome is Outcome.OK, record.reason
    assert record.details["l2"] == "hot"
    assert any("only the first finds the L2 cold" in warning for warning in record.warnings)


def test_in_rotation_a_step_finds_its_inputs_as_cold_as_after_a_flush() -> None:
    name = doubling(lambda x: x.sum())  # 16 MB: read from the L2 if it is there
    medians, records = {}, {}
    for l2, launch in (("hot", "blocked"), ("cold", "blocked"), ("rotate", "blocked"), ("rotate", "graph")):
        measure = QUICK.model_copy(update={"launch": launch, "l2": l2, "warmup_time_s": 0.05, "max_samples": 50})
        record = run_cell(name, "tested", measure=measure, check=NO_CHECK, rows=2048, columns=2048).record
        assert record.outcome is Outcome.OK, record.reason
        assert record.details["l2"] == l2
        records[l2, launch] = record
        medians[l2, launch] = statistics.median(record.measurements[0].samples)

    sets = int(records["rotate", "graph"].details["l2_rotation"].split()[0])
    assert sets >= 2
    assert records["rotate", "graph"].details.get("inner_repeats", 1) % sets == 0
    assert medians["rotate", "blocked"] > 1.05 * medians["hot", "blocked"], medians
    assert medians["rotate", "graph"] > 0.7 * medians["cold", "blocked"], medians


def test_what_torch_has_in_reserve_is_available_to_a_cell_and_what_others_hold_is_not() -> None:
    device, size = open_device(), 1 << 30
    before = device.available_bytes()
    tensor = torch.empty(size, dtype=torch.uint8, device="cuda")
    assert abs(device.available_bytes() - before) < size / 8
    del tensor
    assert abs(device.available_bytes() - before) < size / 8
    driver, address = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) == 0
    try:
        assert abs(device.available_bytes() - (before - size)) < size / 8
    finally:
        driver.cuMemFree_v2(address)


def test_the_cache_is_flushed_by_writing_twice_its_size() -> None:
    device = open_device()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()

    flush = L2Flush(device, "cold")
    flush()

    assert device.l2_bytes >= 1 << 20
    assert torch.cuda.memory_allocated() - before >= 2 * device.l2_bytes
    assert L2Flush(device, "hot").state == "hot"


def test_inputs_and_set_ups_are_on_the_gpu_by_default_and_steps_pay_nothing_for_it() -> None:
    places: dict[str, str] = {}

    @gpubench.workload("default_device")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.ones(4)}

    @make.backend("tested", baseline=True)
    def _(x: torch.Tensor) -> Step:
        places.update(make=x.device.type, set_up=torch.empty(1).device.type)

        def step() -> torch.Tensor:
            places["step"] = torch.empty(1).device.type
            return x + 1

        return step

    assert run_cell("default_device", "tested").record.outcome is Outcome.OK
    assert places == {"make": "cuda", "set_up": "cuda", "step": "cpu"}


def test_a_cell_that_runs_out_of_memory_leaves_all_of_it_to_the_next() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        blocks = []  # a local of its own: what a comprehension has made so far is let go as soon as it fails
        while True:
            blocks.append(torch.empty(chunk, dtype=torch.uint8, device=x.device))

    torch.cuda.empty_cache()  # of earlier tests
    chunk = torch.cuda.mem_get_info()[0] // 4
    before = torch.cuda.memory_reserved()
    record = run_cell(doubling(step), "tested").record

    assert record.outcome is Outcome.OOM, record.reason
    assert record.crash is not None
    assert record.crash.memory["asked"] == pytest.approx(chunk, rel=1e-3), "the message has two decimals"
    assert record.crash.memory["allocated"] >= 2 * chunk, "read while the cell still held its blocks"
    assert not open_device().is_spoiled()
    kept = torch.cuda.memory_reserved() - before
    assert kept <= 8 << 20, f"{kept / 2**20:.1f} MiB are still taken from the device after the cell"
    assert run_cell(doubling(lambda x: x + x), "tested").record.outcome is Outcome.OK


def test_an_output_that_a_step_allocates_and_does_not_write_is_always_caught() -> None:
    def step(x: torch.Tensor) -> torch.Tensor:
        out = torch.empty(512, 512, device=x.device)
        out[:256] = 1
        if not calls:
            out[256:] = 1
        calls.append(1)
        return out

    calls: list[int] = []
    record = run_cell(doubling(step), "tested", check=CheckSettings(against="none")).record

    assert record.outcome is Outcome.INVALID
    assert "131,072 of 262,144 elements" in record.reason


def test_a_graph_that_remembers_freed_scratch_is_caught_before_it_is_timed() -> None:
    @gpubench.workload("stale_scratch")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.rand(1 << 20)}

    make.oracle(lambda x: 2 * x)

    @make.backend("tested")
    def _(x: torch.Tensor) -> Step:
        scratch = x.clone()  # from the common pool, before the capture …
        out = torch.empty_like(x)
        torch.add(x, scratch, out=out)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            torch.add(x, scratch, out=out)
        del scratch  # … and gone after it

        def step() -> torch.Tensor:
            graph.replay()
            return out

        return step

    record = run_cell("stale_scratch", "tested").record

    assert record.outcome in (Outcome.MISMATCH, Outcome.INVALID), record.reason


def test_the_profile_pass_runs_without_a_profiler_too() -> None:
    record = run_cell(doubling(lambda x: x + x), "tested", pass_=Pass.PROFILE).record

    assert (record.outcome, record.measurements) == (Outcome.OK, [])
    assert record.details["repetitions"] == 40


@pytest.mark.skipif(importlib.util.find_spec("cupti") is None, reason="needs cupti-python")
def test_cupti_gives_kernel_times_of_every_repetition_and_replays_too() -> None:
    @gpubench.workload("under_cupti")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.rand(1 << 22)}

    @make.backend("eager", baseline=True)
    def _(x: torch.Tensor) -> Step:
        return lambda: (x + 1) * 2

    @make.backend("graph")
    def _(x: torch.Tensor) -> Step:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            (x + 1) * 2
        return graph.replay

    measure = QUICK.model_copy(update={"timer": "cupti"})
    for backend in ("eager", "graph"):
        record = run_cell("under_cupti", backend, measure=measure, pass_=Pass.PROFILE).record

        assert record.outcome is Outcome.OK, record.reason
        assert record.warnings == []
        found = {measurement.metric: measurement.samples for measurement in record.measurements}
        assert set(found) == {"kernel_sum", "busy", "span", "gap"}
        assert all(len(samples) == 40 for samples in found.values())
        assert all(0 < busy <= span for busy, span in zip(found["busy"], found["span"], strict=True))
        assert found["kernel_sum"] == pytest.approx(found["busy"]), "two kernels on one stream don't overlap"
        assert [(kernel.kind, kernel.count) for kernel in record.kernels] == [("kernel", 1)] * 2
        assert all("elementwise_kernel" in kernel.name for kernel in record.kernels)
        assert all("(" in kernel.name for kernel in record.kernels), "names are as in the source"


FAULTS = """
import sys
import torch, triton, triton.language as tl
sys.path.insert(0, sys.argv[2])
from gpubench.records import dump_line
from gpubench.worker.device import open_device
from worker_cells import QUICK, bare, doubling, run_cell

@triton.jit
def wild_store(x, offset, B: tl.constexpr):
    tl.store(x + offset + tl.arange(0, B), 1.0)

def wild():
    x = torch.ones(1024, device="cuda")
    wild_store[(1,)](x, 1 << 36, B=1024)
    return x @ torch.ones(1024, device="cuda")

def index_assert():
    return torch.ones(4, device="cuda")[torch.tensor([9], device="cuda")]

def open_capture():
    torch.cuda.set_stream(torch.cuda.Stream())
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    raise ValueError("in the middle of a capture")

def uncapturable():
    return torch.ones(4, device="cuda").sum().item()

def failed_capture():
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.ones(4, device="cuda").sum().item()

name = sys.argv[1]
measure = QUICK.model_copy(update={"launch": "graph" if name == "uncapturable" else "idle"})
sys.stdout.buffer.write(dump_line(run_cell(bare(globals()[name]).name, "tested", measure=measure).record))
if name == "failed_capture":
    says = open_device().is_spoiled()
    later = run_cell(doubling(lambda x: x + x), "tested").record
    sys.stdout.write(f"{says} {later.outcome} {later.reason}")
sys.stdout.flush()
import os
os._exit(0)
"""


def run_fault(kind: str, folder: Path) -> tuple[CellRecord, str]:
    """The record of a cell that harms its process, run in one of its own; and what else that process had to say."""
    script = folder / "faults.py"
    script.write_text(FAULTS)
    command: Sequence[str] = [sys.executable, str(script), kind, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    line, _, rest = done.stdout.partition(b"\n")
    return parse_record(line), rest.decode()


@pytest.mark.parametrize(
    ("kind", "cuda_error"), [("wild", "cudaErrorIllegalAddress"), ("index_assert", "cudaErrorAssert")]
)
def test_an_error_that_kills_the_context_is_a_crash_with_cudas_name(kind: str, cuda_error: str, tmp_path: Path) -> None:
    record, _ = run_fault(kind, tmp_path)

    assert (record.outcome, record.stage) == (Outcome.CRASH, Stage.CHECK), record.reason
    assert record.crash.cuda_error == cuda_error
    assert is_context_lost(record)


def test_a_capture_that_is_left_open_ends_the_worker(tmp_path: Path) -> None:
    record, _ = run_fault("open_capture", tmp_path)

    assert record.outcome is Outcome.CRASH, record.reason
    assert "a stream capture was left open" in record.reason


def test_a_failed_capture_is_an_error_and_the_worker_knows_whether_another_cell_would_run(tmp_path: Path) -> None:
    record, rest = run_fault("failed_capture", tmp_path)
    is_spoiled, later, reason = rest.split(" ", 2)

    assert record.outcome is Outcome.ERROR, record.reason
    assert record.crash is not None
    assert record.crash.cuda_error == "cudaErrorStreamCaptureUnsupported"
    assert not is_context_lost(record)
    assert is_spoiled == "True" or later == Outcome.OK, f"after it a healthy cell ended {later}: {reason}"


def test_a_step_that_cannot_be_captured_is_told_why_and_what_to_do(tmp_path: Path) -> None:
    record, _ = run_fault("uncapturable", tmp_path)

    assert (record.outcome, record.stage) == (Outcome.ERROR, Stage.WARMUP), record.reason
    assert record.reason.startswith("measure.launch: graph: the step can't be captured: ")
    assert record.reason.endswith("; use launch: blocked or idle")
    assert record.crash is not None
    assert record.crash.cuda_error == "cudaErrorStreamCaptureUnsupported"
    assert Path(record.crash.frames[0].file).name == "faults.py"


def test_a_healthy_process_is_not_spoiled() -> None:
    assert not open_device().is_spoiled()


def test_the_ceilings_are_what_large_operations_reach_and_leave_nothing_behind() -> None:
    device = open_device()
    torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")  # cuBLAS keeps its workspace
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()

    measured = [measure_ceilings(device) for _ in range(2)]

    first, second = measured
    assert 1e11 < first.copy_bytes_per_s < 1e14
    assert 1e12 < first.matmul_flop_per_s < 1e16
    assert second.copy_bytes_per_s == pytest.approx(first.copy_bytes_per_s, rel=0.1)
    assert second.matmul_flop_per_s == pytest.approx(first.matmul_flop_per_s, rel=0.2)
    kept = torch.cuda.memory_reserved() - before
    assert kept <= 64 << 20, f"{kept / 2**20:.1f} MiB are still taken from the device"


def test_sampling_on_a_gpu_ends_when_the_median_is_known() -> None:
    measure = MeasureSettings(target_rel_ci=0.5, max_time_s=30)
    weight = torch.rand(2048, 2048, device="cuda")

    record = run_cell(bare(lambda: weight @ weight).name, "tested", measure=measure).record

    assert record.reason.startswith("the median is known within ±"), record.reason
