"""Launchers as torch operators: torch.compile sees what they change, and a call costs nothing but its dispatch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gpubench.kernels.ops import as_op


@pytest.fixture(scope="module")
def axpy():
    @as_op("axpy_of_the_tests", mutates=("y",))
    def axpy(x: Tensor, y: Tensor, *, a: float = 2.0) -> None:
        y += a * x

    return axpy


def test_an_operator_does_what_its_launcher_does_and_declares_what_it_changes(axpy):
    x, y = torch.randn(2, 8)
    expected = y + 3 * x

    torch.ops.gpubench.axpy_of_the_tests(x, y, a=3.0)

    torch.testing.assert_close(y, expected)
    torch.library.opcheck(torch.ops.gpubench.axpy_of_the_tests.default, (x, y))


def test_compiled_code_reads_what_an_operator_wrote(axpy):
    def step(x, y):
        before = y.sum()
        torch.ops.gpubench.axpy_of_the_tests(x, y)
        return before, y.sum()

    x, y = torch.randn(2, 8)
    expected = y.sum(), (y + 2 * x).sum()

    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(x, y), expected)
