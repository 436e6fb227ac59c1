"""Real graphs under audit: every stale pointer that is planted is found before a replay, and none in our own graphs."""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from support import gpubench as run_gpubench
from support import only_run
from worker.worker_cells import QUICK, run_cell

import gpubench
from gpubench.analysis.merge import merge_cells
from gpubench.graphs.audit import Audit
from gpubench.graphs.hazards import make_hazards
from gpubench.graphs.nodes import is_valid_address, read_nodes
from gpubench.records import CellRecord, Outcome, PointerState, Stage
from gpubench.registry import Step, get_workload, registered
from gpubench.settings import CheckSettings
from gpubench.store import read_run
from gpubench.worker.capture_watch import CaptureWatch
from gpubench.workloads import BUILTIN, load_builtin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="needs cuda-bindings"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def workloads() -> None:
    load_builtin()


@pytest.fixture
def watch():
    """A watch that is open, and the GPU as where tensors go."""
    opened = CaptureWatch()
    opened.open()
    with torch.device("cuda:0"):
        yield opened
    opened.close()


def capture(work: Any) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def only(audits: list[Audit]) -> Audit:
    assert len(audits) == 1
    return audits[0]


# What is planted ------------------------------------------------------------------------------------------------------

PLANTED = {
    "stale_scratch": ({"fill_scratch", "read_scratch"}, {"scratch"}, {PointerState.REUSED}),
    "unmapped_scratch": ({"fill_scratch", "read_scratch"}, {"scratch"}, {PointerState.UNMAPPED}),
    "stale_topk": ({"_radix_kernel"}, {"candidates", "places"}, {PointerState.UNMAPPED, PointerState.FREED}),
    "moved_cache": (None, None, {PointerState.FREED, PointerState.REUSED}),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_stale_pointer_stops_the_cell_before_its_first_replay(kind: str) -> None:
    ran = run_cell("fault", "planted", check=CheckSettings(graph_pointers="error"), kind=kind, batch=8)

    record = ran.record
    assert (record.outcome, record.stage) == (Outcome.INVALID, Stage.SETUP), record.reason
    assert record.reason.startswith("a CUDA graph holds a stale address: ")
    hold_against(record, kind)


def hold_against(record: CellRecord, kind: str) -> None:
    kernels, parameters, states = PLANTED[kind]
    assert record.hazards
    for hazard in record.hazards:
        if kernels is not None:
            assert hazard.kernel in kernels
            assert hazard.parameter in parameters
            assert "def " in "".join(Path(hazard.file).read_text().splitlines()[hazard.line - 1 : hazard.line + 3])
        assert hazard.state in states
        assert hazard.freed_at is not None, "the allocator's traffic was recorded"
        assert Path(hazard.freed_at.file).parent.name in ("fault", "kernels")
        assert hazard.allocated_at is not None


@pytest.mark.parametrize("kind", ["stale_scratch", "moved_cache"])
def test_a_warned_cell_goes_on_and_ends_as_it_would_have(kind: str) -> None:
    record = run_cell("fault", "planted", kind=kind, batch=8).record

    assert record.outcome is Outcome.MISMATCH
    assert any("stale address" in warning for warning in record.warnings)
    hold_against(record, kind)


def test_a_cell_that_is_not_audited_says_nothing() -> None:
    record = run_cell("fault", "planted", check=CheckSettings(graph_pointers="off"), kind="moved_cache", batch=8).record

    assert record.outcome is Outcome.MISMATCH
    assert (record.hazards, record.warnings) == ([], [])
    assert "graph_pointers" not in record.details


def test_a_cell_that_dies_of_its_stale_pointer_has_told_of_it(tmp_path: Path) -> None:
    only_these = ("--only", "kind=unmapped_scratch,stale_topk", "--no-profile")
    done = run_gpubench(
        tmp_path, "sweep", str(ROOT / "sweeps" / "faults.yaml"), *only_these, timeout_s=200, CUDA_VISIBLE_DEVICES="0"
    )
    assert done.code == 3, done.err
    for result in merge_cells(read_run(only_run(tmp_path))):
        record = result.decisive
        assert record is not None
        if result.cell.axes["batch"] == 8:
            assert record.outcome is Outcome.CRASH
            hold_against(record, str(result.cell.axes["kind"]))
        else:
            assert record.outcome is Outcome.OK, record.reason
            assert record.hazards == []


# Our own graphs -------------------------------------------------------------------------------------------------------

OWN: dict[str, dict[str, Any]] = {
    "gated_delta_decode": {"batch": 4, "launch": "graph"},
    "gated_delta_prefill": {"tokens": 128, "launch": "graph"},
    "indexer_score": {"sequences": 2, "isl": 2048, "launch": "graph"},
    "indexer_topk": {"columns": 8192, "rows": 8, "launch": "graph"},
    "mla_decode": {"batch": 2, "isl": 1024, "launch": "graph"},
    "mla_prefill": {"tokens": 256, "launch": "graph"},
    "sparse_gqa_decode": {"batch": 2, "isl": 2048, "launch": "graph"},
}
OPTIONS: dict[tuple[str, str], dict[str, Any]] = {("indexer_topk", "triton_radix"): {"scratch": "per_call"}}


def own_cells() -> list[tuple[str, str]]:
    load_builtin()
    return [(name, backend) for name in OWN for backend in get_workload(name).backends]


def test_every_workload_with_graphs_is_among_these() -> None:
    launched = {
        name for name, workload in registered().items() if "launch" in inspect.signature(workload.make).parameters
    }
    assert launched & set(BUILTIN) == set(OWN)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ImportWarning")
@pytest.mark.parametrize(("workload", "backend"), own_cells())
def test_no_kernel_of_ours_holds_a_stale_pointer(workload: str, backend: str) -> None:
    axes = {**OWN[workload], **OPTIONS.get((workload, backend), {})}
    record = run_cell(workload, backend, check=CheckSettings(against="none"), **axes).record
    if record.outcome is Outcome.SKIPPED:
        pytest.skip(record.reason)

    assert record.outcome is Outcome.OK, record.reason
    assert_clean(record)


@pytest.mark.parametrize(
    ("model", "layers"), [("tiny-dense", 2), ("llama-3.1-8b", 2), ("tiny-hybrid", None), ("qwen3.5-35b-a3b", 4)]
)
def test_no_decode_step_of_ours_holds_a_stale_pointer(model: str, layers: int | None) -> None:
    record = run_cell("decode_step", "graph", concurrency=4, isl=128, model=model, layers=layers).record

    assert record.outcome is Outcome.OK, record.reason
    assert_clean(record)


def assert_clean(record: CellRecord) -> None:
    assert record.hazards == [], record.warnings
    told = record.details["graph_pointers"]
    assert told.endswith(", none stale"), told
    assert " 0 addresses" not in told


# What a graph is made of ----------------------------------------------------------------------------------------------


def test_copies_and_fills_are_looked_at_too(watch: CaptureWatch) -> None:
    torch.cuda.empty_cache()  # so that they get segments of their own, which can be unmapped
    held = [torch.ones(8 << 20), torch.zeros(8 << 20)]
    driver = ctypes.CDLL("libcuda.so.1")

    def work() -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        held[1].copy_(held[0])
        driver.cuMemsetD8Async(ctypes.c_uint64(held[1].data_ptr()), 0, ctypes.c_size_t(held[1].nbytes), stream)

    graph = capture(work)
    assert [audit.stale for audit in watch.audit()] == [()]

    held.clear()
    torch.cuda.empty_cache()

    found = only(watch.audit()).stale
    assert {(stale.kernel, stale.argument.parameter) for stale in found} == {
        ("[memcpy]", "source"),
        ("[memcpy]", "destination"),
        ("[memset]", "destination"),
    }
    assert {stale.state for stale in found} == {PointerState.UNMAPPED}
    del graph


def test_pointers_in_structs_are_looked_at_too(watch: CaptureWatch) -> None:
    tensors = [torch.ones(1 << 16) for _ in range(4)]
    graph = capture(lambda: torch._foreach_add_(tensors, 1.0))
    addresses = {tensor.data_ptr() for tensor in tensors}
    assert [audit.stale for audit in watch.audit()] == [()]

    tensors.clear()

    found = only(watch.audit()).stale
    assert {stale.argument.value for stale in found} == addresses
    assert not any(stale.argument.is_whole for stale in found)
    del graph


def test_what_earlier_launches_left_on_the_stack_is_no_hazard(watch: CaptureWatch) -> None:
    torch.cat([torch.ones(64) for _ in range(100)])  # fills a table in a struct, of which the next fills a part
    parts = [torch.ones(64) for _ in range(3)]
    graph = capture(lambda: torch.cat(parts))

    audit = only(watch.audit())

    assert audit.stale == ()
    assert audit.pointers >= 4
    del graph


def test_memory_that_a_library_took_is_its_own(watch: CaptureWatch) -> None:
    from gpubench.kernels.faulty import BLOCK, fill_scratch

    driver = ctypes.CDLL("libcuda.so.1")
    address = ctypes.c_void_p()
    assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(BLOCK * 4)) == 0
    x = torch.ones(BLOCK)
    graph = capture(lambda: fill_scratch[(1,)](x, Foreign(address.value), BLOCK, BLOCK=BLOCK))
    assert is_valid_address(address.value)
    assert [audit.stale for audit in watch.audit()] == [()]

    assert driver.cuMemFree_v2(address) == 0

    assert not is_valid_address(address.value)
    assert [stale.state for stale in only(watch.audit()).stale] == [PointerState.UNKNOWN]
    del graph


class Foreign:
    """A pointer to floats, as Triton takes them."""

    dtype = torch.float32

    def __init__(self, address: int) -> None:
        self._address = address

    def data_ptr(self) -> int:
        return self._address


def test_a_graph_within_a_graph_is_looked_through(watch: CaptureWatch) -> None:
    from cuda.bindings import driver

    x = torch.ones(1 << 16)
    inner = capture(lambda: x.mul_(2))
    status, outer = driver.cuGraphCreate(0)
    assert status == driver.CUresult.CUDA_SUCCESS
    status, _ = driver.cuGraphAddChildGraphNode(outer, None, 0, driver.CUgraph(inner.raw_cuda_graph()))
    assert status == driver.CUresult.CUDA_SUCCESS

    found = read_nodes(int(outer))

    assert x.data_ptr() in {argument.value for node in found.nodes for argument in node.arguments}
    driver.cuGraphDestroy(outer)


def test_a_graphs_own_memory_and_another_graphs_are_no_hazards(watch: CaptureWatch) -> None:
    x = torch.ones(1 << 16)
    kept: list[torch.Tensor] = []
    first = capture(lambda: kept.append((x + 1) * 2))
    second = capture(lambda: kept.append(kept[1] + 1))
    kept.clear()

    assert [audit.stale for audit in watch.audit()] == [(), ()]

    first.reset()
    torch.cuda.empty_cache()
    found = only(watch.audit()).stale
    assert found, "the second reads what was the first's"
    del second


def test_graphs_that_are_gone_are_not_judged(watch: CaptureWatch) -> None:
    held = [torch.ones(1 << 16)]
    graph = capture(lambda: held[0].mul_(2))
    held.clear()
    assert only(watch.audit()).stale
    graph.reset()
    assert watch.audit() == []
    y = torch.ones(1 << 16)
    graph = capture(lambda: y.mul_(2))
    assert only(watch.audit()).stale == ()
    del graph
    assert watch.audit() == []


def test_a_watched_graph_is_as_its_maker_wanted_it(watch: CaptureWatch) -> None:
    x = torch.ones(4)
    capture(lambda: x.mul_(2)).replay()
    assert x.tolist() == [4.0] * 4  # warm-up and replay
    kept = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(kept):
        x.mul_(2)
    with pytest.raises(RuntimeError, match="instantiate"):
        kept.raw_cuda_graph_exec()
    kept.instantiate()
    kept.replay()
    assert x.tolist() == [8.0] * 4


def test_nothing_is_left_of_a_watch_that_is_closed() -> None:
    hooked = {name: vars(torch.cuda.CUDAGraph).get(name) for name in ("__init__", "capture_begin", "capture_end")}
    watch = CaptureWatch()
    watch.open()
    watch.close()
    assert {name: vars(torch.cuda.CUDAGraph).get(name) for name in hooked} == hooked
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        torch.ones(4, device="cuda").mul_(2)
    with pytest.raises(RuntimeError, match="keep_graph"):
        graph.raw_cuda_graph()


def test_a_graph_that_the_timer_captures_is_audited_too() -> None:
    @gpubench.workload("remembers_an_address")
    def make() -> dict[str, torch.Tensor]:
        return {"x": torch.rand(1 << 20)}

    @make.backend("tested", baseline=True)
    def _(x: torch.Tensor) -> Step:
        from gpubench.kernels.faulty import BLOCK, fill_scratch

        scratch = Foreign(torch.empty_like(x).data_ptr())  # nobody keeps it
        return lambda: fill_scratch[(1,)](x, scratch, BLOCK, BLOCK=BLOCK) and x + 1

    record = run_cell(
        "remembers_an_address",
        "tested",
        measure=QUICK.model_copy(update={"launch": "graph"}),
        check=CheckSettings(graph_pointers="error", against="none"),
    ).record

    assert (record.outcome, record.stage) == (Outcome.INVALID, Stage.WARMUP), record.reason
    assert {hazard.kernel for hazard in record.hazards} == {"fill_scratch"}


def test_hazards_name_the_kernel_that_somebody_wrote(watch: CaptureWatch) -> None:
    from gpubench.kernels.faulty import BLOCK, read_scratch

    scratch, out = [torch.ones(BLOCK)], torch.empty(BLOCK)
    graph = capture(lambda: read_scratch[(1,)](scratch[0], out, BLOCK, BLOCK=BLOCK))
    scratch.clear()
    hazard = make_hazards(watch.audit())[0]

    assert (hazard.kernel, hazard.parameter, Path(hazard.file).name) == ("read_scratch", "scratch", "faulty.py")
    del graph
