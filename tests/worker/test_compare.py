"""Element by element: what may differ, what must not, and that the worst element is the one that is named."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpubench.records import CheckResult
from gpubench.settings import CheckSettings
from gpubench.worker import compare as compare_module
from gpubench.worker.compare import compare

NAN, INF = math.nan, math.inf


def compared(got: Any, want: Any, same_dtypes: bool = True, **settings: float) -> CheckResult:
    return compare(got, want, "oracle", CheckSettings(**settings), same_dtypes)


def test_equal_outputs_pass_with_no_error() -> None:
    x = torch.randn(3, 4)

    result = compared(x, x.clone())

    assert (result.passed, result.relative_error) == (True, 0.0)


@pytest.mark.parametrize(
    ("dtype", "within", "beyond"),
    [
        (torch.float64, 1e-8, 1e-6),
        (torch.float32, 5e-5, 5e-4),
        (torch.float16, 0.008, 0.03),
        (torch.bfloat16, 0.016, 0.06),
    ],
)
def test_the_default_tolerance_is_what_the_dtype_can_hold(dtype: torch.dtype, within: float, beyond: float) -> None:
    want = torch.ones(8, dtype=dtype)

    assert compared(want * (1 + within), want).passed
    assert not compared(want * (1 + beyond), want, rtol=None).passed


def test_of_two_dtypes_the_coarser_sets_the_tolerance_when_an_oracle_is_more_precise() -> None:
    want = torch.ones(8, dtype=torch.float64)

    assert compared((want * 1.01).bfloat16(), want, same_dtypes=False).passed
    assert compared(want * 1.00005, want.float(), same_dtypes=False).passed
    assert not compared((want * 1.01).float(), want, same_dtypes=False).passed


def test_a_small_element_of_a_large_output_may_be_off_by_what_rounding_the_large_ones_costs() -> None:
    want = torch.tensor([1000.0, 0.0])

    assert compared(torch.tensor([1000.0, 0.05]), want).passed
    assert not compared(torch.tensor([1000.0, 0.05]), want, atol=0.01).passed


@pytest.mark.parametrize(
    ("got", "want", "passed"),
    [
        (INF, INF, True),
        (-INF, -INF, True),
        (NAN, NAN, True),
        (INF, -INF, False),
        (1.0, INF, False),
        (INF, 1.0, False),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (NAN, INF, False),
    ],
)
def test_infinities_and_nan_must_be_in_the_same_places(got: float, want: float, passed: bool) -> None:
    assert compared(torch.tensor([1.0, got]), torch.tensor([1.0, want])).passed is passed


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool])
def test_integers_must_be_equal_whatever_the_tolerance(dtype: torch.dtype) -> None:
    want = torch.tensor([1, 1, 0], dtype=dtype)
    got = torch.tensor([1, 0, 0], dtype=dtype)

    result = compared(got, want, rtol=10.0, atol=10.0)

    assert not result.passed
    assert (
        result.worst == f"out[1]: got {got[1].item()}, want {want[1].item()} (must be equal); 1 of 3 elements are off"
    )
    assert compared(want, want.clone()).passed


def test_neighbouring_large_integers_are_told_apart() -> None:
    large = 2**62
    assert not compared(torch.tensor([large + 1]), torch.tensor([large])).passed
    assert not compared(torch.tensor([-(2**63)]), torch.tensor([2**63 - 1])).passed


@pytest.mark.parametrize(
    ("got", "want", "text"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), "out: got shape [2, 3], want [3, 2]"),
        (torch.zeros(2), torch.zeros(2).half(), "out: got dtype float32, want float16"),
        (torch.zeros(2), torch.zeros(2).int(), "out: got dtype float32, want int32"),
        ((torch.zeros(2), None), torch.zeros(2), "the step returns out[0], out[1], oracle returns out"),
        ({"a": None}, {"b": None}, 'the step returns out["a"], oracle returns out["b"]'),
        ([torch.zeros(2), None], (torch.zeros(2), torch.zeros(2)), "out[1]: got NoneType, want Tensor"),
        ((), torch.zeros(1), "the step returns nothing, oracle returns out"),
        (1.5, 2.5, "out: got 1.5, want 2.5"),
        ("a", "b", "out: got str, want str"),
    ],
)
def test_a_difference_of_structure_shape_or_dtype_is_named(got: Any, want: Any, text: str) -> None:
    result = compared(got, want)

    assert not result.passed
    assert result.worst.startswith(text)


def test_a_tuple_and_a_list_of_the_same_are_the_same() -> None:
    assert compared((torch.ones(2), 3), [torch.ones(2), 3]).passed


def test_an_oracle_may_be_of_a_wider_dtype_but_not_of_another_kind() -> None:
    assert compared(torch.ones(2).half(), torch.ones(2).double(), same_dtypes=False).passed
    assert compared(torch.ones(2).int(), torch.ones(2).long(), same_dtypes=False).passed
    assert not compared(torch.ones(2).int(), torch.ones(2), same_dtypes=False).passed


def test_of_several_outputs_the_worst_is_named_and_the_error_is_over_all() -> None:
    want = {"small": torch.tensor([3.0]), "large": torch.tensor([[4.0, 0.0]])}
    got = {"small": torch.tensor([3.3]), "large": torch.tensor([[4.0, 3.0]])}

    result = compared(got, want)

    assert result.worst.startswith('out["large"][0, 1]: got 3, want 0 (allowed ±')
    assert result.relative_error == pytest.approx(math.hypot(0.3, 3.0) / 5.0)


def test_complex_and_eight_bit_floats_can_be_compared() -> None:
    z = torch.tensor([1 + 1j, 2 - 1j])
    assert compared(z, z.clone()).passed
    assert not compared(z, z.conj().resolve_conj()).passed
    small = torch.ones(4).to(torch.float8_e4m3fn)
    assert compared(small, small.clone()).passed
    assert not compared(small, (2 * torch.ones(4)).to(torch.float8_e4m3fn)).passed


def test_empty_outputs_and_outputs_without_dimensions_can_be_compared() -> None:
    assert compared(torch.empty(0, 3), torch.empty(0, 3)).passed
    assert compared(torch.tensor(1.0), torch.tensor(2.0)).worst.startswith("out: got 1, want 2")


def test_views_are_compared_by_their_own_elements() -> None:
    base = torch.arange(12.0).view(3, 4)

    assert compared(base.t(), base.t().contiguous()).passed
    assert compared(base[:, ::2], base[:, ::2].clone()).passed
    assert compared(torch.ones(1).expand(5), torch.ones(5)).passed


matrices = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(*[hnp.arrays("float32", shape, elements=st.floats(-100, 100, width=32))] * 2)
)


@given(matrices, st.floats(0, 1), st.floats(0.001, 10), st.integers(1, 7))
def test_the_worst_element_and_the_verdict_agree_with_the_definition(
    pair: tuple[Any, Any], rtol: float, atol: float, chunk: int
) -> None:
    got, want = (torch.from_numpy(array) for array in pair)
    excess = (got.double() - want.double()).abs() / (atol + rtol * want.double().abs())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_module, "CHUNK", chunk)  # so small that a handful of elements is several chunks
        result = compared(got, want, rtol=rtol, atol=atol)

    assert result.passed == bool((excess <= 1).all())
    named = re.match(r"out\[([\d, ]+)\]: got (\S+), want (\S+) ", result.worst)
    assert named is not None
    index = tuple(int(part) for part in named[1].split(","))
    assert excess[index] == excess.max()
    assert float(named[2]) == pytest.approx(got[index].item(), rel=1e-5)
    off = int((excess > 1).sum())
    assert (f"; {off} of {got.numel()} elements are off" in result.worst) == (off > 0)
    assert result.relative_error is not None
    if want.norm() > 0:
        error = (got.double() - want.double()).norm() / want.double().norm()
        assert result.relative_error == pytest.approx(error.item(), rel=1e-6)
