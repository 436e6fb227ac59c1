"""Whatever unit a program reports a figure in, its record has one: SI without a prefix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpubench.records import Measurement


@pytest.mark.parametrize(
    ("value", "unit", "kept", "base"),
    [
        (118.3, "ms", 0.1183, "s"),
        (36.0, "µs", 36e-6, "s"),
        (36.0, "μs", 36e-6, "s"),
        (1504, "ns", 1.504e-6, "s"),
        (2.5, "seconds", 2.5, "s"),
        (4.3, "TB/s", 4.3e12, "B/s"),
        (64, "KiB", 65536, "B"),
        (780.0, "TFLOPS", 7.8e14, "FLOP/s"),
        (93.1, "%", 0.931, "share"),
        (7, "s", 7, "s"),
        (7, "tok/s", 7, "tok/s"),
        (7, "KB", 7, "KB"),
        (7, "", 7, ""),
    ],
)
def test_a_prefix_is_taken_off_once(value: float, unit: str, kept: float, base: str) -> None:
    measured = Measurement("figure", unit, None, [value, 0.0])
    assert (measured.samples, measured.unit) == ([pytest.approx(kept, rel=1e-15), 0.0], base)
    assert replace(measured, range="all").samples == measured.samples
