"""Kernels on a CPU: a process of its own in which Triton was imported with its interpreter on.

Triton decides at import, and the tests' own process may have imported it long before.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from gpubench.kernels.interpreter import is_interpreted


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """`interpreted(function, *args)`: what a module-level function gives when it runs in that process."""
    with pytest.MonkeyPatch.context() as patch, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("OMP_NUM_THREADS", "1")

        def call(function: Callable[..., Any], *args: Any) -> Any:
            return pool.submit(function, *args).result()

        assert call(is_interpreted)  # the process is started, so the environment can be restored
        patch.undo()
        yield call
