"""The gated delta kernels where they belong: at models' sizes, in every dtype, without a sync, and under capture."""

from __future__ import annotations

import inspect
import random
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from gpubench.graphs.whole import capture_step
from gpubench.kernels import gated_delta_prefill as prefill_module
from gpubench.kernels.gated_delta_decode import gated_delta_decode
from gpubench.kernels.gated_delta_prefill import gated_delta_prefill, scratch_shapes
from gpubench.kernels.gated_delta_step import gated_delta_step
from gpubench.models.gated_delta_formulas import advance, prepare, scan
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

load_builtin()

KEY_HEADS, HEADS, K, V, TAPS = 16, 32, 128, 128, 4
CHANNELS = 2 * KEY_HEADS * K + HEADS * V
OUTPUT = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
CHUNKED = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield


def relative_error(out, reference):
    return ((out.double() - reference).norm() / reference.norm()).item()


def draw_tokens(count, dtype=torch.bfloat16):
    q, k = F.normalize(torch.randn(2, count, KEY_HEADS, K), dim=-1).to(dtype)
    v = torch.randn(count, HEADS, V).to(dtype)
    return [q, k, v, -3 * torch.rand(count, HEADS) ** 4, torch.rand(count, HEADS)]


def draw_layer_token(batch, dtype=torch.bfloat16):
    """A projected token and the layer's weights, by the names of gated_delta_step's parameters."""
    a, b = torch.randn(2, batch, HEADS).to(dtype)
    return {
        "mixed": torch.randn(batch, CHANNELS).to(dtype),
        "conv_weight": (torch.randn(CHANNELS, TAPS) / 2).to(dtype),
        "positions": torch.randint(100, (batch,), dtype=torch.int32),
        "a": a,
        "b": b,
        "a_log": torch.rand(HEADS),
        "dt_bias": torch.randn(HEADS),
    }


def draw_state(sequences, dtype=torch.float32):
    return torch.randn(sequences, HEADS, K, V).to(dtype)


def prefill(tokens, state, lengths, block_v=None):
    v = tokens[2]
    rows, gates = scratch_shapes(*v.shape[:2], K, V)
    out = torch.full_like(v, torch.nan)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    scratch = v.new_full(rows, torch.nan), torch.full(gates, torch.nan)
    gated_delta_prefill(*tokens, bounds, state, out, *scratch, longest=max(lengths), block_v=block_v)
    return out


def assert_prefill_equals_the_scan(lengths, dtype, block_v=None, change=None):
    tokens = draw_tokens(sum(lengths), dtype)
    if change is not None:
        tokens = change(*tokens)
    state = draw_state(len(lengths))
    reference, exact = scan(tokens, state.double(), lengths)
    out = prefill(tokens, state, lengths, block_v)
    assert relative_error(out, reference) < CHUNKED[dtype]
    assert relative_error(state, exact) < CHUNKED[dtype]


@pytest.mark.parametrize("batch", [1, 33])
def test_after_a_thousand_tokens_output_and_state_are_still_fp64s(batch):
    state = draw_state(batch)
    exact, out = state.double(), torch.empty(batch, HEADS, V)
    for _ in range(1000):
        token = draw_tokens(batch, torch.float32)
        gated_delta_decode(*token, state, out)
        reference, exact = advance(*token, exact)
    assert relative_error(out, reference) < 1e-5
    assert relative_error(state, exact) < 1e-5


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_v", [None, 16, 32, 64, 128])
@pytest.mark.parametrize("dtype", OUTPUT)
@pytest.mark.parametrize("batch", [1, 8, 100])
def test_a_token_agrees_with_fp64(batch, dtype, block_v, state_dtype):
    token, state = draw_tokens(batch, dtype), draw_state(batch, state_dtype)
    reference, exact = advance(*token, state.double())
    out = torch.full_like(token[2], torch.nan)
    gated_delta_decode(*token, state, out, block_v=block_v)
    assert relative_error(out, reference) < OUTPUT[dtype]
    assert relative_error(state, exact) < (1e-6 if state_dtype is torch.float32 else 4e-3)


@pytest.mark.parametrize("dtype", OUTPUT)
@pytest.mark.parametrize("batch", [1, 100])
def test_the_fused_step_agrees_with_fp64_over_many_tokens(batch, dtype):
    token, state = draw_layer_token(batch, dtype), draw_state(batch)
    ring = token["mixed"].new_zeros(batch, TAPS, CHANNELS)
    exact, exact_ring, out = state.double(), ring.double(), torch.empty(batch, HEADS, V, dtype=dtype)
    for position in range(20):
        token["mixed"].normal_()
        token["positions"].fill_(position)
        gated_delta_step(**token, conv_state=ring, state=state, out=out, is_settled=position % 2 == 0)
        wide = {name: value.double() if value.is_floating_point() else value for name, value in token.items()}
        *parts, exact_ring = prepare(wide, exact_ring, exact)
        reference, exact = advance(*parts, exact)
    assert relative_error(out, reference) < OUTPUT[dtype]
    assert relative_error(state, exact) < 1e-5
    assert torch.equal(ring.double(), exact_ring)


@pytest.mark.parametrize("dtype", CHUNKED)
@pytest.mark.parametrize("tokens", [1, 2, 32, 63, 64, 65, 128, 256, 2048])
def test_chunks_equal_the_scan(tokens, dtype):
    assert_prefill_equals_the_scan([tokens], dtype)


@pytest.mark.parametrize("dtype", CHUNKED)
@pytest.mark.parametrize("block_v", [16, 32, 64])
def test_ragged_sequences_do_not_see_each_other(block_v, dtype):
    assert_prefill_equals_the_scan([200, 0, 1, 64, 65, 129], dtype, block_v)


@pytest.mark.parametrize("dtype", CHUNKED)
@pytest.mark.parametrize("block_v", [16, 32, 64])
def test_what_runs_on_gpus_that_nobody_tuned_for_is_right_too(monkeypatch, block_v, dtype):
    monkeypatch.setattr(prefill_module, "_TILINGS", {})
    assert_prefill_equals_the_scan([200, 0, 1, 64, 65, 129], dtype, block_v)


def zero_keys(q, k, v, g, beta):
    return [q, k * 0, v, g, beta]


def equal_keys(q, k, v, g, beta):
    """All alike, nothing fades, everything is replaced: where powers of A grow fastest."""
    return [q, k[:1].expand_as(k).contiguous(), v, g * 0, beta * 0 + 1]


def closed_gates(q, k, v, g, beta):
    return [q, k, v, g, beta * 0]


def forgetful(q, k, v, g, beta):
    """Some tokens forget everything, others nothing."""
    return [q, k, v, torch.where(g < -0.5, -torch.inf, 0.0), beta]


@pytest.mark.parametrize("dtype", CHUNKED)
@pytest.mark.parametrize("change", [zero_keys, equal_keys, closed_gates, forgetful])
def test_extreme_gates_and_keys_give_what_the_scan_gives(change, dtype):
    assert_prefill_equals_the_scan([100, 30], dtype, change=change)  # longer ones fade below what float32 holds
    token, state = change(*draw_tokens(5, dtype)), draw_state(5)
    reference, exact = advance(*token, state.double())
    out = torch.full_like(token[2], torch.nan)
    gated_delta_decode(*token, state, out)
    assert relative_error(out, reference) < OUTPUT[dtype]
    assert relative_error(state, exact) < 1e-5


def test_any_split_of_a_sequence_ends_in_the_same_state_decoded_tokens_too():
    chance = random.Random(0)
    for _ in range(10):
        parts = [chance.randint(1, 150) for _ in range(chance.randint(1, 4))]
        tokens, state = draw_tokens(sum(parts) + 2, torch.float32), draw_state(1)
        _, exact = scan(tokens, state.double(), [sum(parts) + 2])
        begin = 0
        for part in parts:
            prefill([rows[begin : begin + part] for rows in tokens], state, [part])
            begin += part
        for token in (begin, begin + 1):
            gated_delta_decode(*(rows[token : token + 1] for rows in tokens), state, torch.empty(1, HEADS, V))
        assert relative_error(state, exact) < 1e-4


def decode_case():
    token, state, out = draw_tokens(4), draw_state(4), torch.empty(4, HEADS, V, dtype=torch.bfloat16)
    return lambda: gated_delta_decode(*token, state, out), token[:3], {"out": out, "state": state}


def step_case():
    token, state, out = draw_layer_token(4), draw_state(4), torch.empty(4, HEADS, V, dtype=torch.bfloat16)
    ring = token["mixed"].new_zeros(4, TAPS, CHANNELS)
    results = {"out": out, "state": state, "ring": ring}
    return lambda: gated_delta_step(**token, conv_state=ring, state=state, out=out), [token["mixed"]], results


def prefill_case():
    tokens, state = draw_tokens(230), draw_state(2)
    out, bounds = torch.empty_like(tokens[2]), torch.tensor([0, 100, 230], dtype=torch.int32)
    rows, gates = scratch_shapes(230, HEADS, K, V)
    scratch = out.new_empty(rows), torch.empty(gates)
    results = {"out": out, "state": state}
    return lambda: gated_delta_prefill(*tokens, bounds, state, out, *scratch, longest=130), tokens[:3], results


CASES = [decode_case, step_case, prefill_case]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_launch_neither_synchronises_nor_allocates(case):
    launch, _, _ = case()
    launch()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        launch()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("case", CASES)
def test_eight_replays_with_changing_inputs_equal_eight_launches(case):
    launch, inputs, results = case()
    captured = capture_step(launch)
    kept = {name: value.clone() for name, value in results.items()}
    for _ in range(8):
        for value in inputs:
            value.copy_(F.normalize(torch.randn_like(value, dtype=torch.float32), dim=-1))
        for name, value in kept.items():
            results[name].copy_(value)
        launch()
        eager = {name: value.clone() for name, value in results.items()}
        for name, value in kept.items():
            results[name].copy_(value)
        results["out"].fill_(torch.nan)
        captured()
        assert all(torch.equal(results[name], value) for name, value in eager.items())
        kept = eager


def test_compiled_code_reads_what_a_launch_wrote():
    def run(token, state, out):
        before = state.sum()
        torch.ops.gpubench.gated_delta_decode(*token, state, out)
        return before, state.sum(), out * 2

    token, state = draw_tokens(2), draw_state(2)
    wanted = run(token, state.clone(), torch.empty_like(token[2]))
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(token, state.clone(), torch.empty_like(token[2]))
    torch.testing.assert_close(found, wanted)
    arguments = (*token, state, torch.empty_like(token[2]))
    assert set(torch.library.opcheck(torch.ops.gpubench.gated_delta_decode.default, arguments).values()) == {"SUCCESS"}


def test_offsets_beyond_32_bits_are_right():
    batch = 4100  # 2.15e9 elements of state
    token, state = draw_tokens(batch), torch.zeros(batch, HEADS, K, V)
    state[-1].normal_()
    reference, exact = advance(*(rows[-1:] for rows in token), state[-1:].double())
    out = torch.empty_like(token[2])
    gated_delta_decode(*token, state, out)
    assert relative_error(out[-1:], reference) < OUTPUT[torch.bfloat16]
    assert relative_error(state[-1:], exact) < 1e-6


BACKENDS = [
    ("gated_delta_decode", "torch", {"batch": 3}),
    ("gated_delta_decode", "compiled", {"batch": 3}),
    ("gated_delta_decode", "compiled", {"batch": 3, "scope": "op"}),
    ("gated_delta_decode", "triton", {"batch": 3}),
    ("gated_delta_decode", "triton", {"batch": 3, "scope": "op", "launch": "graph"}),
    ("gated_delta_decode", "triton", {"batch": 3, "scope": "op", "state_dtype": "bfloat16"}),
    ("gated_delta_decode", "fla", {"batch": 3}),
    ("gated_delta_prefill", "torch_scan", {"tokens": 70, "launch": "graph"}),
    ("gated_delta_prefill", "torch_chunked", {"tokens": 170, "sequences": 3, "ragged": True}),
    ("gated_delta_prefill", "triton_chunked", {"tokens": 170, "sequences": 3, "ragged": True}),
    ("gated_delta_prefill", "triton_chunked", {"tokens": 170, "sequences": 3, "launch": "graph"}),
    ("gated_delta_prefill", "triton_decode", {"tokens": 20, "sequences": 3, "launch": "graph"}),
    ("gated_delta_prefill", "fla", {"tokens": 170, "sequences": 3, "ragged": True}),
]


@pytest.mark.filterwarnings("ignore::Warning")  # a peer's own
@pytest.mark.parametrize(("name", "backend", "arguments"), BACKENDS)
def test_every_backend_agrees_with_the_oracle(name, backend, arguments):
    if backend == "fla" and find_spec("fla") is None:
        pytest.skip("flash-linear-attention is not installed")
    workload = get_workload(name)
    parameters = inspect.signature(workload.make).parameters.values()
    values = {**{p.name: p.default for p in parameters}, **arguments}
    random.seed(0)
    values.update(workload.make(**values))
    reference = call(workload.oracle_function, values)
    step = call(workload.backends[backend].setup, values)
    call(workload.reset_function, values)
    assert call(workload.compare_function, values, step(), reference) is None


def call(function, values, *positional):
    """A hook with what it asks for by name."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return function(*positional, **{name: v for name, v in values.items() if takes_all or name in parameters})
