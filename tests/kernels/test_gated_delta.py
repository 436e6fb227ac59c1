"""The gated delta kernels in Triton's interpreter, against the recurrence in fp64; bfloat16 is for a GPU."""

from __future__ import annotations

import pytest
import torch
from gated_delta_on_interpreter import (
    SPECIAL,
    Heads,
    call,
    chunk_inputs_errors,
    compiled_equals_eager,
    decode_errors,
    layer_errors,
    opcheck,
    prefill_errors,
    special_decode_errors,
    special_errors,
    split_errors,
    step_of_zeros,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubench.errors import ArgumentError, Unsupported

DECODE = {torch.float32: 1e-5, torch.float16: 1e-3}
PREFILL = {torch.float32: 1e-4, torch.float16: 2e-3}
DTYPES = st.sampled_from(list(DECODE))
FEW = settings(max_examples=20, deadline=None)
LAUNCHERS = ("gated_delta_decode", "gated_delta_step", "gated_delta_prefill")


def heads_up_to(most, dims):
    """Key heads, value heads that are a multiple of them, and their dimensions."""
    counts, dims = st.integers(1, most), st.sampled_from(dims)
    return st.builds(lambda keys, share, k, v: Heads(keys, keys * share, k, v), counts, counts, dims, dims)


heads, small_heads = heads_up_to(3, [16, 32, 64]), heads_up_to(2, [16, 32])


def test_after_a_thousand_tokens_output_and_state_are_still_fp64s(interpreted):
    output, state = interpreted(decode_errors, 1000, 1, torch.float32, Heads(key_heads=1, heads=1, k=16, v=16))
    assert output < 1e-5
    assert state < 1e-5


@FEW
@given(sizes=heads, batch=st.integers(1, 3), dtype=DTYPES)
def test_a_token_is_right_for_any_heads_and_nothing_else_is_written(interpreted, sizes, batch, dtype):
    output, state = interpreted(decode_errors, 2, batch, dtype, sizes)
    assert output < DECODE[dtype]
    assert state < 1e-5


@pytest.mark.parametrize("block_v", [16, 32, 64, 128])
def test_a_token_is_the_same_however_wide_programs_are(interpreted, block_v):
    assert max(interpreted(decode_errors, 2, 2, torch.float32, Heads(v=128), block_v)) < 1e-5


@settings(max_examples=6, deadline=None)
@given(sizes=small_heads, tokens=st.integers(1, 8), taps=st.integers(2, 5), dtype=DTYPES)
def test_the_fused_step_equals_convolving_and_scanning_the_whole_prompt(interpreted, sizes, tokens, taps, dtype):
    output, state = interpreted(layer_errors, tokens, 2, dtype, sizes, taps)
    assert output < DECODE[dtype]
    assert state < 1e-5


@settings(max_examples=6, deadline=None)
@given(
    sizes=small_heads,
    tokens=st.integers(1, 40),
    first=st.sampled_from([0, 1, 2, 3, 100]),
    taps=st.integers(2, 5),
    dtype=DTYPES,
)
def test_what_a_chunk_begins_with_is_the_convolution_that_goes_on(interpreted, sizes, tokens, first, taps, dtype):
    bound = {torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    assert max(interpreted(chunk_inputs_errors, tokens, first, dtype, sizes, taps)) < bound


def test_a_token_of_zeros_only_lets_the_state_fade(interpreted):
    out, state = interpreted(step_of_zeros)
    assert out.abs().max() == 0, "the query is zero, and not NaN for having no length"
    torch.testing.assert_close(state, torch.full_like(state, 0.5))  # e^-softplus(0)


@pytest.mark.parametrize("dtype", PREFILL)
@pytest.mark.parametrize("tokens", [1, 2, 32, 63, 64, 65, 128, 256])
def test_chunks_equal_the_scan(interpreted, tokens, dtype):
    assert max(interpreted(prefill_errors, [tokens], dtype)) < PREFILL[dtype]


@FEW
@given(
    lengths=st.lists(st.integers(0, 80), min_size=1, max_size=4).filter(sum),
    sizes=heads,
    block_v=st.sampled_from([None, 16]),
    dtype=DTYPES,
)
def test_ragged_sequences_do_not_see_each_other(interpreted, lengths, sizes, block_v, dtype):
    assert max(interpreted(prefill_errors, lengths, dtype, sizes, block_v)) < PREFILL[dtype]


@FEW
@given(parts=st.lists(st.integers(1, 70), min_size=1, max_size=4), decoded=st.integers(0, 3))
def test_any_split_of_a_sequence_ends_in_the_same_state_decoded_tokens_too(interpreted, parts, decoded):
    assert max(interpreted(split_errors, parts, decoded)) < 1e-4


@pytest.mark.parametrize("dtype", PREFILL)
@pytest.mark.parametrize("name", SPECIAL)
def test_extreme_gates_and_keys_give_what_the_scan_gives(interpreted, name, dtype):
    assert max(interpreted(special_errors, name, dtype, [100, 30])) < PREFILL[dtype]
    assert max(interpreted(special_decode_errors, name, dtype)) < DECODE[dtype]


@pytest.mark.parametrize("name", [*LAUNCHERS, "gated_delta_inputs"])
def test_every_launcher_is_an_operator_that_declares_what_it_changes(interpreted, name):
    assert set(interpreted(opcheck, name).values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_compiled_code_reads_what_a_launcher_wrote(interpreted, name):
    assert interpreted(compiled_equals_eager, name)


def empty(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("launcher", "change", "complaint"),
    [
        ("gated_delta_decode", {"q": empty(3, 16)}, r"q has shape \(3, 16\); wanted \(rows, key_heads, K\)"),
        ("gated_delta_decode", {"q": empty(3, 1, 24)}, r"K one of \(16, 32, 64, 128, 256\)"),
        ("gated_delta_decode", {"k": empty(3, 2, 16)}, r"k has shape \(3, 2, 16\); wanted \(3, 1, 16\)"),
        ("gated_delta_decode", {"v": empty(2, 2, 32)}, r"v has shape \(2, 2, 32\); wanted \(3, heads, V\)"),
        ("gated_delta_decode", {"v": empty(3, 2, 48)}, "V a power of two from 16 on"),
        ("gated_delta_decode", {"v": empty(3, 2, 32).half()}, "v is torch.float16 on cpu; wanted torch.float32"),
        ("gated_delta_decode", {"v": empty(3, 32, 2).mT}, r"v has strides \(64, 1, 2\); wanted the heads of a row"),
        ("gated_delta_decode", {"g": empty(3, 2).half()}, "g is torch.float16 on cpu; wanted float32"),
        ("gated_delta_decode", {"beta": empty(3, 1)}, r"beta has shape \(3, 1\); wanted \(3, 2\)"),
        ("gated_delta_decode", {"state": empty(3, 2, 32, 16)}, r"state has shape .* wanted \(3, 2, 16, 32\)"),
        ("gated_delta_decode", {"state": empty(3, 2, 16, 32).half()}, "state is torch.float16; wanted float32 or bf"),
        ("gated_delta_decode", {"state": empty(3, 2, 32, 16).mT}, "state .* wanted it contiguous"),
        ("gated_delta_decode", {"out": empty(3, 2, 16)}, r"out has shape \(3, 2, 16\); wanted \(3, 2, 32\)"),
        (
            "gated_delta_decode",
            {"block_v": 24},
            r"block_v is 24; wanted one of \(16, 32, 64, 128\) that divides V = 32",
        ),
        ("gated_delta_decode", {"block_v": 64}, "block_v is 64"),
        ("gated_delta_decode", {"block_v": 0}, r"block_v is 0; wanted one of \(16, 32, 64, 128\)"),
        ("gated_delta_step", {"mixed": empty(3, 95)}, r"mixed has shape \(3, 95\); wanted \(3, 2 · key_heads · 16"),
        ("gated_delta_step", {"mixed": empty(3, 64)}, r"mixed has shape \(3, 64\)"),
        ("gated_delta_step", {"conv_weight": empty(96, 9)}, r"conv_weight has shape \(96, 9\); wanted \(96, 2 to 8\)"),
        ("gated_delta_step", {"conv_state": empty(3, 3, 96)}, r"conv_state .* wanted \(3, 4, 96\)"),
        ("gated_delta_step", {"positions": empty(3)}, "positions is torch.float32 on cpu; wanted int32"),
        ("gated_delta_step", {"a_log": empty(3)}, r"a_log has shape \(3,\); wanted \(2,\)"),
        ("gated_delta_step", {"b": empty(3, 3)}, r"b has shape \(3, 3\); wanted \(3, 2\)"),
        (
            "gated_delta_step",
            {"state": empty(3, 2, 16)},
            r"state has shape \(3, 2, 16\); wanted \(batch, heads, K, V\)",
        ),
        ("gated_delta_prefill", {"state": empty(3, 2, 16, 32)}, r"cu_seqlens has shape \(3,\); wanted \(4,\)"),
        ("gated_delta_prefill", {"cu_seqlens": torch.tensor([0, 1, 3])}, "cu_seqlens is torch.int64 on cpu; wanted"),
        ("gated_delta_prefill", {"rows": empty(2, 3, 48)}, r"rows has shape \(2, 3, 48\); wanted \(2, 3, 112\)"),
        ("gated_delta_prefill", {"gates": empty(3, 2)}, r"gates has shape \(3, 2\); wanted \(2, 3\)"),
        (
            "gated_delta_prefill",
            {"state": empty(65_536, 2, 16, 0)},
            "state has 65,536 sequences; wanted at most 65,535",
        ),
        ("gated_delta_inputs", {"first": -1}, "first is -1; wanted a position, 0 or more"),
        ("gated_delta_inputs", {"ring": empty(1, 4, 96)}, r"ring has shape \(1, 4, 96\); wanted \(4, 96\)"),
        ("gated_delta_inputs", {"mixed": empty(2, 96)}, r"mixed has shape \(2, 96\); wanted \(3, 96\)"),
        ("gated_delta_inputs", {"g": empty(3, 3)}, r"g has shape \(3, 3\); wanted \(3, 2\)"),
        ("gated_delta_prefill", {"longest": 1}, "longest is 1; wanted from 2 to 3"),
        ("gated_delta_prefill", {"longest": 4}, "longest is 4; wanted from 2 to 3"),
        ("gated_delta_prefill", {"block_v": 0}, r"block_v is 0; wanted one of \(16, 32, 64\)"),
        ("gated_delta_prefill", {"block_v": 128}, r"block_v is 128; wanted one of \(16, 32, 64\) that divides V = 32"),
    ],
)
def test_an_argument_that_does_not_fit_is_named_with_its_limit(interpreted, launcher, change, complaint):
    with pytest.raises(ArgumentError, match=rf"^{launcher}: .*{complaint}"):
        interpreted(call, launcher, change)


def test_a_state_of_bfloat16_is_not_for_the_interpreter(interpreted):
    with pytest.raises(Unsupported, match="state has dtype bfloat16, which Triton's interpreter"):
        interpreted(call, "gated_delta_decode", {"state": empty(3, 2, 16, 32).bfloat16()})


def test_without_a_gpu_and_without_the_interpreter_a_launch_is_refused():
    with pytest.raises(ArgumentError, match="q is on cpu; Triton needs a GPU, or TRITON_INTERPRET=1"):
        call("gated_delta_decode", {})
