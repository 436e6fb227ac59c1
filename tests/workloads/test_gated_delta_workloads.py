"""The gated delta workloads: backends against the oracle, what a step changes, and what hooks say."""

from __future__ import annotations

import inspect
import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.gated_delta_formulas import chunked, pack, scan, unpack
from gpubench.registry import get_workload

DECODE = {"batch": 3, "key_heads": 2, "value_heads": 4, "dtype": "float32"}
PREFILL = {"tokens": 70, "sequences": 2, "key_heads": 1, "value_heads": 2, "dtype": "float32"}


def make(name, seed=0, **arguments):
    """A workload's inputs and arguments, all by name."""
    workload = get_workload(name)
    defaults = {p.name: p.default for p in inspect.signature(workload.make).parameters.values()}
    filled = {**defaults, **arguments}
    torch.manual_seed(seed)
    random.seed(seed)  # a worker seeds both
    return {**filled, **workload.make(**filled)}


def call(function, given_values, *positional):
    """A hook with what it asks for by name."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return function(*positional, **{k: v for k, v in given_values.items() if takes_all or k in parameters})


def complaint(name, backend, **arguments):
    """What `.compare` says of one step of a backend, beside the oracle."""
    workload, values = get_workload(name), make(name, **arguments)
    reference = call(workload.oracle_function, make(name, **arguments))
    out = call(workload.backends[backend].setup, values)()
    for key, value in out.items():
        assert value.dtype is values.get(key, values.get("v", values.get("mixed"))).dtype
    return call(workload.compare_function, values, out, reference)


@pytest.mark.parametrize("scope", ["core", "op"])
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_decoding_in_torch_agrees_with_the_oracle(scope, state_dtype, dtype):
    sizes = {**DECODE, "scope": scope, "state_dtype": state_dtype, "dtype": dtype}
    assert complaint("gated_delta_decode", "torch", **sizes) is None


@pytest.mark.parametrize("backend", ["torch_scan", "torch_chunked"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prefilling_in_torch_agrees_with_the_oracle(backend, ragged, dtype):
    assert complaint("gated_delta_prefill", backend, **{**PREFILL, "ragged": ragged, "dtype": dtype}) is None


# Inductor's own imports use what torch has since deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("scope", ["core", "op"])
def test_compiled_agrees_with_the_oracle_and_writes_the_state_in_place(scope):
    workload, values = get_workload("gated_delta_decode"), make("gated_delta_decode", **DECODE, scope=scope)
    reference = call(workload.oracle_function, values)
    with torch.device("cpu"):  # a worker's set-up has a default device, its steps have none
        step = call(workload.backends["compiled"].setup, values)
    out = step()
    assert call(workload.compare_function, values, out, reference) is None
    assert out["state"].data_ptr() == values["state"].data_ptr()


@pytest.mark.parametrize("scope", ["core", "op"])
def test_a_step_moves_the_state_on_and_reset_puts_it_back(scope):
    workload, values = get_workload("gated_delta_decode"), make("gated_delta_decode", **DECODE, scope=scope)
    step = call(workload.backends["torch"].setup, values)
    first = {name: value.clone() for name, value in step().items()}
    assert not torch.equal(values["state"], values["start"])
    assert not torch.equal(step()["out"], first["out"])
    call(workload.reset_function, values)
    again = step()
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_prefill_too_is_put_back():
    workload, values = get_workload("gated_delta_prefill"), make("gated_delta_prefill", **PREFILL)
    step = call(workload.backends["torch_chunked"].setup, values)
    first = step()["out"]
    call(workload.reset_function, values)
    assert torch.equal(step()["out"], first)


@pytest.mark.parametrize("broken", ["out", "state"])
@pytest.mark.parametrize(("name", "sizes"), [("gated_delta_decode", DECODE), ("gated_delta_prefill", PREFILL)])
def test_the_comparison_finds_what_is_off_and_a_nan(name, sizes, broken):
    workload, values = get_workload(name), make(name, **sizes)
    right = call(workload.oracle_function, values)
    off = {**right, broken: right[broken] * (1 + 3e-4)}
    assert call(workload.compare_function, values, {k: v.float() for k, v in right.items()}, right) is None
    assert call(workload.compare_function, values, {k: v.float() for k, v in off.items()}, right).startswith(broken)
    off[broken] = right[broken].index_fill(0, torch.tensor([1]), torch.nan)
    assert "nan" in call(workload.compare_function, values, {k: v.float() for k, v in off.items()}, right)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 140), min_size=1, max_size=4).filter(sum), share=st.integers(1, 2))
def test_chunks_equal_the_scan_for_any_lengths(lengths, share):
    torch.manual_seed(sum(lengths))
    count = sum(lengths)
    q, k = torch.nn.functional.normalize(torch.randn(2, count, 2, 8, dtype=torch.float64), dim=-1)
    v, g = torch.randn(count, 2 * share, 4, dtype=torch.float64), -torch.rand(count, 2 * share, dtype=torch.float64)
    tokens, state = (q, k, v, g, torch.rand_like(g)), torch.randn(len(lengths), 2 * share, 8, 4, dtype=torch.float64)
    for own, other in zip(chunked(tokens, state, lengths), scan(tokens, state, lengths), strict=True):
        torch.testing.assert_close(own, other)


def test_unpacking_pads_with_zeros_and_packing_drops_them():
    rows = torch.arange(1.0, 6.0)[:, None]
    padded = unpack(rows, [2, 0, 3], multiple=2)
    assert padded.squeeze(-1).tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0]]
    assert torch.equal(pack(padded, [2, 0, 3]), rows)


def test_ragged_prompts_have_other_lengths_and_as_many_tokens():
    values = make("gated_delta_prefill", **{**PREFILL, "sequences": 5, "ragged": True})
    assert sum(values["lengths"]) == 5 * PREFILL["tokens"] == len(values["v"])
    assert min(values["lengths"]) >= 1
    assert len(set(values["lengths"])) > 1
    assert values["cu_seqlens"].diff().tolist() == values["lengths"]


def test_bytes_are_the_state_twice_and_every_operand_once():
    sizes = {"model": "qwen3.5-35b-a3b", "tp": 1, "key_heads": None, "value_heads": None}
    state, keys, values = 2 * 4 * 32 * 128 * 128, 2 * 16 * 128 * 2, 32 * 128 * 2
    decode = get_workload("gated_delta_decode").bytes_function
    given_types = {"dtype": "bfloat16", "state_dtype": "float32"}
    assert decode(batch=8, scope="core", **given_types, **sizes) == 8 * (state + keys + 2 * values + 2 * 32 * 4)
    op = decode(batch=8, scope="op", **given_types, **sizes)
    assert op == 8 * (state + 5 * (keys + values) + values + 2 * 32 * 2 + 4) + 4 * (keys + values) + 2 * 32 * 4
    prefill = get_workload("gated_delta_prefill").bytes_function
    row = keys + 2 * values + 2 * 32 * 4
    assert prefill(tokens=100, sequences=3, dtype="bfloat16", **sizes) == 3 * (100 * row + state)


def test_work_grows_with_the_tokens_and_the_heads():
    sizes = {"model": "qwen3.5-35b-a3b", "key_heads": None, "value_heads": None}
    assert get_workload("gated_delta_decode").flop_function(batch=2, tp=1, **sizes) == 7 * 2 * 32 * 128 * 128
    flop = get_workload("gated_delta_prefill").flop_function
    assert flop(tokens=10, sequences=2, tp=2, **sizes) == 7 * 20 * 16 * 128 * 128


def test_rates_are_tokens_of_all_sequences():
    decode, prefill = get_workload("gated_delta_decode"), get_workload("gated_delta_prefill")
    assert decode.metrics["tokens_per_s"].function(SimpleNamespace(batch=4), 0.5) == 8
    assert prefill.metrics["tokens_per_s"].function(SimpleNamespace(tokens=10, sequences=2), 0.5) == 40


def test_what_cannot_fit_is_said_before_anything_is_allocated():
    sizes = {"model": "qwen3.5-35b-a3b", "tp": 1, "key_heads": None, "value_heads": None, "device_bytes": 141e9}
    decode, prefill = get_workload("gated_delta_decode"), get_workload("gated_delta_prefill")
    assert decode.fits_function(batch=256, state_dtype="float32", **sizes) is None
    assert "GB; the device has 141.0 GB" in decode.fits_function(batch=10_000, state_dtype="float32", **sizes)
    assert prefill.fits_function(tokens=8192, sequences=8, ragged=False, **sizes) is None
    assert "GB" in prefill.fits_function(tokens=8192, sequences=100, ragged=False, **sizes)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("gated_delta_decode", {"batch": 0}, "batch is 0"),
        ("gated_delta_decode", {"tp": 3}, "tp: 16 heads can't be dealt to 3 GPUs"),
        ("gated_delta_decode", {"key_heads": 3, "value_heads": 4}, "value_heads is 4 and key_heads 3"),
        ("gated_delta_prefill", {"tokens": 0}, "tokens is 0"),
        ("gated_delta_prefill", {"sequences": 0}, "sequences is 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(name, wrong, says):
    sizes = {"batch": 1} if name == "gated_delta_decode" else {"tokens": 1}
    with pytest.raises(ArgumentError, match=says):
        make(name, **{**sizes, **wrong})


def test_what_a_backend_cannot_do_it_says():
    decode, prefill = get_workload("gated_delta_decode"), get_workload("gated_delta_prefill")
    with pytest.raises(Unsupported, match="scope: op has no counterpart"):
        call(decode.backends["fla"].setup, make("gated_delta_decode", **DECODE, scope="op"))
    with pytest.raises(Unsupported, match="ragged prompts end apart"):
        call(prefill.backends["triton_decode"].setup, make("gated_delta_prefill", **{**PREFILL, "ragged": True}))
    with pytest.raises(Unsupported, match="launch: graph needs cuda"):
        call(decode.backends["torch"].setup, make("gated_delta_decode", **DECODE, launch="graph"))


@pytest.mark.parametrize(
    ("name", "backend", "launcher", "sizes"),
    [
        ("gated_delta_decode", "triton", "gated_delta_decode", DECODE),
        ("gated_delta_decode", "triton", "gated_delta_step", {**DECODE, "scope": "op"}),
        ("gated_delta_prefill", "triton_chunked", "gated_delta_prefill", PREFILL),
    ],
)
def test_a_launcher_gets_block_v_as_it_was_given(monkeypatch, name, backend, launcher, sizes):
    seen = []
    spy = lambda *_, block_v, **__: seen.append(block_v)  # noqa: E731
    monkeypatch.setattr(f"gpubench.kernels.{launcher}.{launcher}", spy)
    for block_v in (None, 0, 16):
        call(get_workload(name).backends[backend].setup, {**make(name, **sizes), "block_v": block_v})()
    assert seen == [None, 0, 16]


def test_every_backend_says_what_it_needs():
    requires = {
        name: {backend.name: backend.requires for backend in get_workload(name).info().backends}
        for name in ("gated_delta_decode", "gated_delta_prefill")
    }
    fla = ["fla-core:fla", "cuda"]
    assert requires == {
        "gated_delta_decode": {"torch": [], "compiled": ["c++"], "triton": ["triton"], "fla": fla},
        "gated_delta_prefill": {
            "torch_scan": [],
            "torch_chunked": [],
            "triton_chunked": ["triton"],
            "triton_decode": ["triton"],
            "fla": fla,
        },
    }
