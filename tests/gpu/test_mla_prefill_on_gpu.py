"""MLA prefill on a GPU: real sizes in every dtype, without a sync, and replayed from a graph as its inputs change."""

from __future__ import annotations

import pytest
import torch
from kernels.mla_prefill_on_interpreter import Case, error, prepared

from gpubench.kernels.mla_prefill_tiling import Sizes, choose_splits
from gpubench.models.shapes import MLA, local_heads
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
FORMS = ["expanded", "absorbed"]
BATCHES = {
    "one": ((512,), (0,)),
    "behind a prefix": ((65,), (4000,)),
    "ragged": ((1, 200, 63, 0, 64, 77), (3000, 0, 129, 5, 64, 1000)),
}

load_builtin()


def case(model, batch, form, dtype, tp=1, padding=7):
    shape = MLA[model]
    new, prefixes = BATCHES[batch]
    heads, tokens = local_heads(shape.heads, tp), sum(new) + padding
    keys, dims = sum(new) + sum(prefixes), (shape.kv_lora, shape.rope, shape.nope, shape.v)
    sizes = Sizes(tokens, keys, len(new), heads, *dims, dtype.itemsize)
    splits = choose_splits(form, sizes)
    return Case(new, prefixes, heads, dims, padding, splits, dtype, device="cuda")


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [*((batch, torch.bfloat16) for batch in BATCHES), ("ragged", torch.float16), ("ragged", torch.float32)],
)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("model", "tp"), [("deepseek-v3", 8), ("mistral-small-4-119b", 4), ("glm-4.7-flash", 2)])
def test_both_forms_agree_with_fp64_at_the_sizes_of_real_models(model, tp, form, batch, dtype):
    assert error(case(model, batch, form, dtype, tp), form) < TOLERANCE[dtype]


@pytest.mark.parametrize("heads", [1, 5, 20])
@pytest.mark.parametrize("form", FORMS)
def test_any_number_of_heads_fits(form, heads):
    for tokens in (1, 63, 64, 65, 77):
        few = Case((tokens,), (3,), heads, (256, 64, 64, 128), padding=1, dtype=torch.bfloat16, device="cuda")
        assert error(few, form) < TOLERANCE[torch.bfloat16]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("form", FORMS)
def test_a_launch_neither_synchronises_nor_allocates(form, batch):
    launch, arguments, _ = prepared(case("deepseek-v3", batch, form, torch.bfloat16, tp=8), form)
    launch(*arguments)
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        launch(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("form", FORMS)
def test_eight_replays_equal_eager_while_inputs_and_lengths_change(form):
    ready = case("deepseek-v3", "ragged", form, torch.bfloat16, tp=8)
    launch, arguments, out = prepared(ready, form)
    q, cache, _, cu_q, cu_k = arguments[:5]
    launch(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(*arguments)
    for step in range(8):
        torch.manual_seed(step)
        q.copy_(torch.randn_like(q))
        cache.copy_(torch.randn_like(cache))
        cu_q[1:-1] = torch.randint(0, int(cu_q[-1]), (len(cu_q) - 2,), device="cuda").sort().values.int()
        cu_k[1:] = cu_q[1:] + 100 * torch.arange(1, len(cu_k), device="cuda")
        out.fill_(float("nan"))
        graph.replay()
        replayed = out.clone()
        launch(*arguments)
        assert torch.equal(replayed, out)
        assert not replayed.isnan().any()


def test_offsets_beyond_32_bits_are_right():
    # 80,000 cached tokens · 128 heads · 256 values: 2.6e9 elements of expanded keys and values.
    long = Case((3,), (80_000,), 128, (256, 64, 128, 128), dtype=torch.bfloat16, device="cuda")
    assert error(long, "expanded") < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("launch", ["eager", "graph"])
@pytest.mark.parametrize("scope", ["op", "core"])
@pytest.mark.parametrize("lengths", ["equal", "ragged"])
@pytest.mark.parametrize("backend", ["torch", "sdpa", "triton", "auto"])
def test_every_backend_passes_the_check_of_a_sweep(backend, lengths, scope, launch):
    workload = get_workload("mla_prefill")
    with torch.device("cuda"):
        torch.manual_seed(0)
        arguments = {"tokens": 256, "sequences": 4, "prefix": 100, "lengths": lengths, "tp": 8, "scope": scope}
        inputs = workload.make(**arguments)
        step = workload.backends[backend].setup(launch=launch, **inputs)
        out, expected = step(), workload.oracle_function(**inputs)
        assert workload.compare_function(out, expected, batch=inputs["batch"], q=inputs["q"]) is None


@pytest.mark.parametrize(("tokens", "scope", "form"), [(1024, "core", "sdpa"), (512, "core", "expanded")])
def test_auto_takes_what_its_table_says_and_passes_the_check(tokens, scope, form):
    if torch.cuda.get_device_name() != "NVIDIA H200":
        pytest.skip("nothing was measured on this GPU")
    workload = get_workload("mla_prefill")
    arguments = {"tokens": tokens, "sequences": 1, "prefix": 0, "lengths": "equal", "tp": 8, "scope": scope}
    label = workload.label_function(**arguments, dtype="bfloat16", model="deepseek-v3")
    assert label["auto_form"] == form
    with torch.device("cuda"):
        torch.manual_seed(0)
        inputs = workload.make(**arguments)
        out, expected = workload.backends["auto"].setup(launch="eager", **inputs)(), workload.oracle_function(**inputs)
        assert workload.compare_function(out, expected, batch=inputs["batch"], q=inputs["q"]) is None
