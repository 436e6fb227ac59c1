"""Exact top-k where it belongs: every dtype, real sizes, hostile scores and hints, captured and compiled."""

from __future__ import annotations

import pytest
import torch

from gpubench.registry import get_workload
from gpubench.workloads import load_builtin

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

load_builtin()

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(1, 25110, 512), (3, 7530, 1024), (8, 14474, 2048), (2, 131072, 2048), (5, 600, 1024), (256, 4096, 512)]


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


class Case:
    """A launch of one algorithm, and whether it gives the best k."""

    def __init__(self, algorithm, rows, columns, k, dtype, kind="flash_moderate", hint="good"):
        from gpubench.kernels.topk_gvr import make_gvr_scratch
        from gpubench.kernels.topk_radix import make_radix_scratch

        self.algorithm, self.k = algorithm, k
        self.x = torch.full((rows, -(-columns // 8) * 8), 6e4, dtype=dtype)  # beyond its length a row is no good
        self.lengths = torch.full((rows,), columns, dtype=torch.int32)
        self.lengths[1:] -= torch.randint(0, columns // 3, (rows - 1,), dtype=torch.int32)
        self.values = torch.full((rows, k), float("nan"), dtype=dtype)
        self.indices = torch.full((rows, k), -7, dtype=torch.int32)
        self.hint = torch.zeros(rows, k, dtype=torch.int32)
        make = make_gvr_scratch if algorithm == "gvr" else make_radix_scratch
        self.scratch = make(rows, self.x.shape[1], k)
        self.fill(kind, hint)

    def fill(self, kind, hint="good"):
        rows, k, columns = len(self.x), self.k, int(self.lengths.max())
        from gpubench.workloads.correlated_scores import make_hint, make_rows

        scores = make_rows("heavy_tail" if kind in ("infinite", "nan") else kind, rows, columns)
        good = make_hint(scores, self.lengths, k, 0.9)
        if kind == "infinite":
            scores = torch.where(scores < -2, float("-inf"), scores)
        if kind == "nan":
            scores[:, ::311] = float("nan")
        self.x[:, :columns] = scores
        hostile = torch.randint(-(2**31), 2**31 - 1, (rows, k), dtype=torch.int32)
        self.hint.copy_({"good": good, "hostile": hostile, "one": torch.zeros_like(good)}[hint])

    def launch(self):
        hint = (self.hint,) if self.algorithm == "gvr" else ()
        run = getattr(torch.ops.gpubench, f"topk_{self.algorithm}")
        run(self.x, self.lengths, *hint, self.values, self.indices, self.scratch.candidates, self.scratch.places)

    def difference(self):
        from gpubench.workloads.indexer_topk import describe_difference

        inside = torch.arange(self.x.shape[1]) < self.lengths[:, None]
        scores = self.x.masked_fill(~inside, float("-inf"))
        best = scores.topk(min(self.k, scores.shape[1])).values
        best = torch.nn.functional.pad(best, (0, self.k - best.shape[1]), value=float("-inf"))
        return describe_difference(self.x, self.lengths, self.values, self.indices, best)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("algorithm", ["radix", "gvr"])
def test_real_sizes_are_exact(algorithm, sizes, dtype):
    case = Case(algorithm, *sizes, dtype)
    case.launch()
    assert case.difference() is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hint", ["hostile", "one"])
@pytest.mark.parametrize("kind", ["ties", "constant", "infinite", "nan", "uniform", "heavy_tail"])
def test_gvr_is_exact_whatever_the_scores_and_the_hint(kind, hint, dtype):
    for columns in (25110, 70000):
        case = Case("gvr", 3, columns, 512, dtype, kind, hint)
        case.launch()
        assert case.difference() is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["ties", "constant", "infinite", "nan", "uniform", "heavy_tail"])
def test_radix_is_exact_whatever_the_scores(kind, dtype):
    for rows, columns in ((3, 25110), (200, 9000)):
        case = Case("radix", rows, columns, 512, dtype, kind)
        case.launch()
        assert case.difference() is None


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize("columns", [14474, 70000])
@pytest.mark.parametrize("algorithm", ["radix", "gvr"])
def test_eight_replays_equal_eager_launches_and_nothing_is_allocated_or_waited_for(algorithm, columns):
    case = Case(algorithm, 4, columns, 512, torch.float32)
    case.launch()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.launch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        case.launch()
    for kind in ["flash_deep", "constant", "pro_deep", "uniform", "ties", "nan", "infinite", "heavy_tail"]:
        case.fill(kind)
        case.launch()
        eager = case.values.sort(dim=-1).values
        case.values.fill_(7)
        case.indices.fill_(-7)
        graph.replay()
        assert case.difference() is None
        assert torch.equal(case.values.sort(dim=-1).values.nan_to_num(), eager.nan_to_num())


@pytest.mark.parametrize("algorithm", ["radix", "gvr"])
def test_compiled_code_reads_what_the_operator_wrote(algorithm):
    case = Case(algorithm, 2, 7530, 512, torch.bfloat16)

    def step(values):
        case.launch()
        return values.float().sum(-1)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(case.values)
    assert case.difference() is None
    torch.testing.assert_close(compiled, case.values.float().sum(-1))


def test_a_graph_that_was_captured_with_remembered_scratch_goes_stale_when_it_is_dropped():
    from gpubench.kernels.topk_radix import PerCallRadix

    case = Case("radix", 1, 25110, 512, torch.float32)
    launcher = PerCallRadix()
    launcher(case.x, case.lengths, case.values, case.indices)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launcher(case.x, case.lengths, case.values, case.indices)
    held = launcher._scratch.candidates
    address, size = held.data_ptr(), held.numel()
    del held
    launcher.release()
    others = [torch.full((size,), 7) for _ in range(8)]  # somebody takes the memory
    victim = next(tensor for tensor in others if tensor.data_ptr() == address)
    graph.replay()
    assert (victim != 7).any(), "the graph wrote to memory that isn't its own"


@pytest.mark.parametrize("launch", ["eager", "graph"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("model", ["deepseek-v3.2", "deepseek-v4-flash"])
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_scores_to_select_from_are_close_to_the_oracles(backend, model, dtype, launch):
    workload = get_workload("indexer_score")
    inputs = workload.make(sequences=3, isl=5001, model=model, dtype=dtype)
    out = workload.backends[backend].setup(**inputs, launch=launch)()
    assert workload.compare_function(out, workload.oracle_function(**inputs), inputs["q"]) is None
