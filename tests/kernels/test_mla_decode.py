"""Multi-head latent attention over a paged cache, in Triton's interpreter, against fp64; bfloat16 is for a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mla_decode_on_interpreter import Case, append, attend, call, check_operators, make

from gpubench.errors import ArgumentError
from gpubench.kernels.mla_decode import choose_splits

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 31, 32, 33, 63, 64, 65, 77, 128, 129, 200]), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    lengths=LENGTHS.filter(any),
    heads=st.sampled_from([1, 5, 16, 17, 20]),
    kv_lora=st.sampled_from([16, 32, 64]),
    rope=st.sampled_from([16, 32]),
    dtype=st.sampled_from(list(TOLERANCE)),
    splits=st.integers(1, 4),
)
def test_any_lengths_heads_and_splits_agree_with_fp64(interpreted, lengths, heads, kv_lora, rope, dtype, splits):
    splits = min(splits, -(-max(lengths) // 64))
    deviation, out = interpreted(attend, Case(tuple(lengths), heads, kv_lora, rope, dtype, splits))
    assert deviation < TOLERANCE[dtype]
    assert not out[[b for b, length in enumerate(lengths) if length == 0]].any(), "a padded row is zero"


@pytest.mark.parametrize("kv_lora", [256, 512])
def test_the_published_sizes_agree_with_fp64(interpreted, kv_lora):
    deviation, _ = interpreted(attend, Case((77, 130), heads=20, kv_lora=kv_lora, rope=64, splits=2))
    assert deviation < TOLERANCE[torch.float32]


@pytest.mark.parametrize("splits", [1, 2])
def test_a_batch_of_padded_rows_alone_is_zero(interpreted, splits):
    case = Case((0, 0), heads=5, splits=None)
    _, out = interpreted(attend, replace(case, splits=1))
    assert not out.any()
    assert not interpreted(attend, Case((0, 65), heads=5, splits=splits))[1][0].any()


def test_every_head_is_computed_when_no_block_divides_them(interpreted):
    # 20 heads in blocks of 16: with 20 // 16 blocks the last four would keep what was there.
    deviation, out = interpreted(attend, Case((64,), heads=20))
    assert deviation < TOLERANCE[torch.float32] and not out.isnan().any()


@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, dtype=st.sampled_from([torch.float32, torch.float16]))
def test_a_new_entry_lands_in_its_row_bit_for_bit_and_nowhere_else(interpreted, lengths, dtype):
    cache, expected = interpreted(append, Case(tuple(lengths), heads=1, dtype=dtype))
    assert torch.equal(cache, expected)


def test_operators_declare_what_they_change_and_compile(interpreted):
    interpreted(check_operators)


@given(programs=st.integers(1, 300), max_pages=st.integers(1, 2048), slots=st.integers(1, 300))
def test_splits_are_never_more_than_pages_and_never_leave_the_gpu_idler_than_one_part_would(programs, max_pages, slots):
    splits = choose_splits(programs, max_pages, slots)
    assert 1 <= splits <= max_pages
    if programs >= 2 * slots:
        assert splits == 1


# On GPUs that aren't here


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_portable_kernel_fits_99_kib_of_shared_memory(capability, dtype):
    from mla_decode_compiled import shared_bytes

    from gpubench.kernels.mla_decode import _PORTABLE, _attend_kernel

    tiling = _PORTABLE[4 if dtype == "fp32" else 2]
    sizes = {"R": 512, "P": 64, "PAGE": 64, "SPLITS": 4, "BLOCK_H": tiling.block_h, "BLOCK_N": tiling.block_n}
    options = {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages, "NUM_STAGES": tiling.num_stages}
    assert shared_bytes(_attend_kernel, capability, dtype, **options, **sizes) <= 99 * 1024


@pytest.mark.parametrize(("splits", "all_splits"), [(2, 2), (7, 8), (132, 256)])
def test_the_merge_compiles_for_few_and_many_parts(splits, all_splits):
    from mla_decode_compiled import shared_bytes

    from gpubench.kernels.mla_merge import _merge_kernel

    for block_r in (128, 512):
        sizes = {"R": 512, "SPLITS": splits, "ALL_SPLITS": all_splits, "BLOCK_R": block_r}
        chunk = min(all_splits, 16384 // block_r)
        assert shared_bytes(_merge_kernel, 80, "bf16", 4, **sizes, CHUNK=chunk) <= 99 * 1024


def test_the_kernels_for_hopper_fit_its_shared_memory():
    from mla_decode_compiled import shared_bytes

    from gpubench.kernels.mla_decode import _HOPPER
    from gpubench.kernels.mla_hopper_few import _attend_kernel as few
    from gpubench.kernels.mla_hopper_many import _attend_kernel as many

    for kv_lora, rows in _HOPPER.items():
        for _, tiling in rows:
            sizes = {"R": kv_lora, "P": 64, "SPLITS": 4}
            if tiling.form == "hopper_few":
                stages = {"BLOCK_H": tiling.block_h, "STAGES": tiling.num_stages, "widths": (kv_lora, 64)}
                shared = shared_bytes(few, 90, "bf16", 4, gluon=True, **stages, **sizes)
            else:
                shared = shared_bytes(many, 90, "bf16", 4, gluon=True, widths=(64, 64), **sizes)
            assert shared <= 227 * 1024


# What doesn't fit is named


CASE = Case((65, 3), heads=2, splits=2)


def complaint_of(interpreted, change):
    """The message of the ArgumentError that a launch raises whose arguments were changed."""
    names = ("q_latent", "q_rope", "cache", "block_table", "lengths")
    given_ = dict(zip(names, make(CASE), strict=True))
    given_ |= {"out": torch.empty(2, 2, 32), "scratch": torch.empty(2 * 2 * 2 * 33)}
    options = {"softmax_scale": 1.0, "splits": 2} | change.pop("options", {})
    given_ |= {name: edit(given_[name]) for name, edit in change.items()}
    with pytest.raises(ArgumentError) as caught:
        interpreted(call, "mla_decode", tuple(given_.values()), options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"q_latent": lambda t: t[..., :24]}, "q_latent has shape (2, 2, 24); wanted at least one row, and a last dim"),
        ({"q_latent": lambda t: t[..., :16]}, "cache has shape (5, 64, 48); wanted (pages, 64, 32)"),
        ({"q_latent": lambda t: torch.empty(2, 2, 1024)}, "power of 2 from 16 to 512"),
        ({"q_latent": lambda t: t[0]}, "q_latent has shape (2, 32); wanted (batch, heads, 32)"),
        ({"q_latent": lambda t: t[:0]}, "q_latent has shape (0, 2, 32); wanted at least one row"),
        ({"q_latent": lambda t: t[:, :0]}, "q_latent has shape (2, 0, 32)"),
        ({"q_latent": lambda t: t.half()}, "q_latent is torch.float16 on cpu; wanted torch.float32"),
        ({"q_latent": lambda t: t.mT.contiguous().mT}, "q_latent has stride 2 along its last dimension; wanted 1"),
        ({"q_rope": lambda t: t[:1]}, "q_rope has shape (1, 2, 16); wanted (2, 2, 16)"),
        ({"q_rope": lambda t: t[..., :8]}, "q_rope has shape (2, 2, 8); wanted"),
        ({"cache": lambda t: t[:, :32]}, "cache has shape (5, 32, 48); wanted (pages, 64, 48)"),
        ({"cache": lambda t: t.double()}, "cache is torch.float64; the kernel takes float32, float16 and bfloat16"),
        ({"cache": lambda t: t.mT.contiguous().mT}, "cache of shape (5, 64, 48) has strides"),
        ({"block_table": lambda t: t[:1]}, "block_table has shape (1, 2); wanted (2, 2)"),
        ({"block_table": lambda t: t[:, :0]}, "block_table has shape (2, 0); wanted (2, max_pages), at least 1 page"),
        ({"block_table": lambda t: t.long()}, "block_table is torch.int64 on cpu; wanted int32"),
        (
            {"block_table": lambda t: t.T.contiguous().T},
            "block_table of shape (2, 2) has strides (1, 2); wanted it con",
        ),
        ({"lengths": lambda t: t[:1]}, "lengths has shape (1,); wanted (2,)"),
        ({"lengths": lambda t: t.long()}, "lengths is torch.int64 on cpu; wanted int32"),
        ({"out": lambda t: t[..., :16]}, "out has shape (2, 2, 16); wanted (2, 2, 32)"),
        ({"out": lambda t: t.half()}, "out is torch.float16 on cpu; wanted torch.float32 on cpu"),
        ({"out": lambda t: t.mT.contiguous().mT}, "out of shape (2, 2, 32) has strides"),
        ({"scratch": lambda t: t[:-1]}, "scratch has 263 elements; this launch needs 264"),
        ({"scratch": lambda t: t.half()}, "scratch is torch.float16 on cpu; wanted float32"),
        ({"options": {"splits": 3}}, "splits is 3; wanted 1 to 2, the pages of a sequence"),
        ({"options": {"splits": 0}}, "splits is 0; wanted 1 to 2"),
    ],
)
def test_an_argument_that_does_not_fit_is_named_with_what_would(interpreted, change, complaint):
    told = complaint_of(interpreted, dict(change))
    assert told.startswith("mla_decode: ")
    assert complaint in told


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({0: lambda t: t[:, :24]}, "latent has shape (2, 24); wanted at least one row"),
        ({0: lambda t: t[:1]}, "rope has shape (2, 16); wanted (1, 16)"),
        ({1: lambda t: t[:1]}, "rope has shape (1, 16); wanted (2, 16)"),
        ({1: lambda t: t.half()}, "rope is torch.float16 on cpu; wanted torch.float32 on cpu"),
        ({2: lambda t: t[..., :40]}, "cache has shape (5, 64, 40); wanted (pages, 64, 48)"),
        ({4: lambda t: t.long()}, "lengths is torch.int64 on cpu; wanted int32"),
    ],
)
def test_an_entry_that_does_not_fit_the_cache_is_refused(interpreted, change, complaint):
    arguments = [torch.zeros(2, 32), torch.zeros(2, 16), *make(CASE)[2:]]
    for position, edit in change.items():
        arguments[position] = edit(arguments[position])
    with pytest.raises(ArgumentError) as caught:
        interpreted(call, "mla_cache_append", tuple(arguments), {})
    assert str(caught.value).startswith("mla_cache_append: ")
    assert complaint in str(caught.value)
