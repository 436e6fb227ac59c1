"""The workload mla_prefill: batches are dealt as the axes say, backends agree with the oracle, work is counted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.shapes import MLA
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin
from gpubench.workloads.mla_prefill_batch import deal
from gpubench.workloads.mla_prefill_form import choose_fastest_form, sizes_of

load_builtin()
WORKLOAD = get_workload("mla_prefill")
CELL = {"tokens": 48, "sequences": 3, "prefix": 9, "lengths": "ragged", "model": "mistral-small-4-119b", "tp": 16}
ALL = {**CELL, "dtype": "float32", "launch": "eager", "scope": "op"}


def run(backend, **changes):
    """The step's output, the oracle's, and the inputs."""
    torch.manual_seed(0)
    arguments = {**ALL, **changes}
    inputs = WORKLOAD.make(**arguments)
    step = WORKLOAD.backends[backend].setup(**arguments, **inputs)
    return step(), WORKLOAD.oracle_function(**inputs), inputs


def compare(out, expected, inputs):
    return WORKLOAD.compare_function(out, expected, batch=inputs["batch"], q=inputs["q"])


@given(
    tokens=st.integers(1, 9000),
    share=st.floats(0, 1),
    prefix=st.integers(0, 500),
    lengths=st.sampled_from(["equal", "ragged"]),
)
def test_every_row_is_a_sequences_or_padding(tokens, share, prefix, lengths):
    sequences = 1 + int(share * (tokens - 1))
    if lengths == "equal" and tokens % sequences:
        with pytest.raises(ArgumentError, match=f"{tokens} tokens can't be dealt equally to {sequences}"):
            deal(tokens, sequences, prefix, lengths)
        return
    batch = deal(tokens, sequences, prefix, lengths)
    assert batch == deal(tokens, sequences, prefix, lengths), "the same arguments mean the same batch"
    assert len(batch.new) == len(batch.keys) == sequences
    assert min(batch.new) >= 1
    assert all(keys >= new for new, keys in zip(batch.new, batch.keys, strict=True))
    assert batch.padding == (0 if lengths == "equal" else min(tokens // 16, tokens - sequences))
    assert batch.offsets()[0][-1] + batch.padding == tokens


def test_pairs_are_what_the_causal_mask_leaves():
    batch = deal(tokens=64, sequences=5, prefix=11, lengths="ragged")
    seen = [
        torch.ones(new, keys).tril(keys - new).sum().item() for new, keys in zip(batch.new, batch.keys, strict=True)
    ]
    assert batch.pairs == sum(seen)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sequences": 0}, "^sequences is 0; wanted at least 1$"),
        ({"tokens": -5}, "^tokens is -5; wanted at least 1$"),
        ({"sequences": 49}, "sequences: 49 share 48 tokens"),
        ({"prefix": -1}, "^prefix is -1; wanted at least 0$"),
        ({"tp": 5}, "tp: 32 heads can't be dealt to 5 GPUs"),
    ],
)
def test_axes_that_make_no_batch_are_refused_with_their_limits(changes, complaint):
    with pytest.raises(ArgumentError, match=complaint):
        WORKLOAD.make(**{**ALL, **changes})


@pytest.mark.parametrize("scope", ["op", "core"])
@pytest.mark.parametrize("lengths", ["equal", "ragged"])
@pytest.mark.parametrize("prefix", [0, 9])
@pytest.mark.parametrize("backend", ["torch", "sdpa"])
def test_the_backends_of_a_cpu_agree_with_the_oracle(backend, prefix, lengths, scope):
    out, expected, inputs = run(backend, prefix=prefix, lengths=lengths, scope=scope)
    assert compare(out, expected, inputs) is None
    assert not out[48 - inputs["batch"].padding :].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_baseline_is_right_in_half_precision(dtype):
    assert compare(*run("torch", dtype=dtype)) is None


def test_both_scopes_ask_the_same_question():
    torch.testing.assert_close(run("torch", scope="op")[0], run("torch", scope="core")[0])


def test_a_wrong_row_and_a_padded_row_that_is_not_zero_are_told():
    out, expected, inputs = run("torch")
    wrong = out.clone()
    wrong[5] *= 1.5
    assert "relative error" in compare(wrong, expected, inputs)
    spoilt = out.clone()
    spoilt[-1, 0, 0] = 1e-6
    assert "padding: some of the last 3 rows are not 0" in compare(spoilt, expected, inputs)
    unwritten = out.clone()
    unwritten[-1] = float("nan")
    assert compare(unwritten, expected, inputs) is not None


def test_work_is_counted_from_the_formula():
    one = {**ALL, "tokens": 4, "sequences": 1, "prefix": 6, "lengths": "equal", "tp": 32, "dtype": "bfloat16"}
    heads, latent, rope, nope, v, keys, pairs = 1, 256, 64, 64, 128, 10, 4 * 6 + 10
    expand = 2 * heads * keys * latent * (nope + v)
    core = 2 * heads * pairs * (nope + rope + v)
    absorb = 2 * heads * (pairs * (2 * latent + rope) + 4 * latent * (nope + v))
    assert WORKLOAD.flop_function(**one) == min(core + expand, absorb)
    assert WORKLOAD.flop_function(**{**one, "scope": "core"}) == core
    through = 4 * heads * (nope + rope + v)
    assert WORKLOAD.bytes_function(**one) == 2 * (keys * (latent + rope) + heads * (nope + v) * latent + through)
    assert WORKLOAD.bytes_function(**{**one, "scope": "core"}) == 2 * (keys * (heads * (nope + v) + rope) + through)


def test_what_cannot_fit_is_said_before_anything_is_allocated():
    assert WORKLOAD.fits_function(**ALL, device_bytes=int(1e9)) is None
    told = WORKLOAD.fits_function(**{**ALL, "prefix": 40_000_000}, device_bytes=int(141e9))
    assert told is not None
    assert "of 141 GB" in told


def test_the_record_says_which_form_triton_took():
    few = {**ALL, "tokens": 64, "sequences": 2, "prefix": 16384, "lengths": "equal", "tp": 1, "dtype": "bfloat16"}
    assert WORKLOAD.label_function(**few)["triton_form"] == "absorbed"
    assert WORKLOAD.label_function(**few, form="expanded")["triton_form"] == "expanded"
    assert WORKLOAD.label_function(**{**few, "scope": "core"})["triton_form"] == "expanded"
    assert WORKLOAD.label_function(**{**few, "prefix": 0, "tokens": 8192})["triton_form"] == "expanded"
    assert WORKLOAD.label_function(**few)["auto_form"] == "absorbed"
    assert WORKLOAD.label_function(**ALL)["padded_rows"] == 3


@pytest.mark.parametrize(
    ("changes", "form"),
    [
        ({}, "sdpa"),
        ({"tokens": 512}, "expanded"),
        ({"sequences": 16}, "expanded"),
        ({"tokens": 16384, "sequences": 4}, "sdpa"),
        ({"tokens": 3000}, "sdpa"),
        ({"prefix": 64}, "expanded"),
        ({"lengths": "ragged", "sequences": 2}, "expanded"),
        ({"dtype": "float32"}, "expanded"),
        ({"tokens": 64, "prefix": 16384}, "absorbed"),
        ({"scope": "core", "tokens": 2048}, "sdpa"),
        ({"scope": "core", "tokens": 1024}, "expanded"),
    ],
)
def test_auto_takes_sdpa_where_that_was_measured_to_be_faster(changes, form):
    given_ = {"tokens": 8192, "sequences": 1, "prefix": 0, "lengths": "equal", "dtype": "bfloat16", "scope": "op"}
    given_ |= changes
    batch = deal(*(given_[name] for name in ("tokens", "sequences", "prefix", "lengths")))
    sizes = sizes_of(batch, MLA["mistral-small-4-119b"], 4 if given_["dtype"] == "float32" else 2)
    is_expanded = given_["scope"] == "core"
    assert choose_fastest_form("NVIDIA H200", batch, is_expanded, sizes) == form
    elsewhere = choose_fastest_form("another GPU", batch, is_expanded, sizes)
    assert elsewhere == ("absorbed" if form == "absorbed" else "expanded"), "nothing was measured there"


def test_absorbing_what_is_expanded_already_is_skipped_with_the_reason():
    arguments = {**ALL, "scope": "core"}
    with pytest.raises(Unsupported, match="form: absorbed has no use for the expanded keys"):
        WORKLOAD.backends["triton"].setup(**arguments, **WORKLOAD.make(**arguments), form="absorbed")


IN_INTERPRETER = """
import torch
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin

load_builtin()
workload = get_workload("mla_prefill")
for scope, backend, options in (
    ("op", "triton", {}), ("op", "triton", {"form": "absorbed"}), ("core", "triton", {}), ("op", "auto", {})
):
    torch.manual_seed(0)
    cell = dict(tokens=20, sequences=2, prefix=9, lengths="ragged", model="mistral-small-4-119b", tp=16)
    inputs = workload.make(**cell, dtype="float32", scope=scope)
    out = workload.backends[backend].setup(launch="eager", **inputs, **options)()
    told = workload.compare_function(out, workload.oracle_function(**inputs), batch=inputs["batch"], q=inputs["q"])
    assert told is None, told
"""


def test_the_triton_backend_runs_in_the_interpreter_in_both_forms_and_scopes():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", IN_INTERPRETER], check=True, env=environment)


def test_triton_is_required_only_by_its_own_backend_and_flashinfer_is_optional():
    requires = {backend.name: backend.requires for backend in WORKLOAD.info().backends}
    assert requires["torch"] == requires["sdpa"] == []
    assert requires["triton"] == requires["auto"] == ["triton"]
    assert "cuda" in requires["flashinfer"]
    assert WORKLOAD.info().baseline == "torch"
