"""Names, directions and how values are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.analysis.metrics import METRICS, define, definitions, format_value
from gpubench.catalogue import MetricInfo, WorkloadInfo

COUNTS = ("decoding", "prefill_share", "iterations", "window")
"""What only says what ran."""


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (18.3e-6, "s", "18.3 µs"),
        (0.9999e-3, "s", "1.00 ms"),
        (999.9e-9, "s", "1.00 µs"),
        (1234.0, "s", "1,230 s"),
        (0.0, "s", "0 s"),
        (4.31e12, "B/s", "4.31 TB/s"),
        (781.4e12, "FLOP/s", "781 TFLOP/s"),
        (812.4, "tok/s", "812 tok/s"),
        (12345.6, "tok/s", "12,346 tok/s"),
        (0.0123, "tok/s", "0.0123 tok/s"),
        (12345.6, "1/s", "12.3 k/s"),
        (3.0, "1/s", "3.00 /s"),
        (1.5, "", "1.50"),
        (0.9312, "share", "93.1%"),
        (0.000183, "share", "0.0183%"),
        (1.04, "share", "104%"),
        (0.0, "share", "0%"),
        (1.6538, "×", "1.65×"),
        (1234.0, "×", "1,234×"),
        (-2.5e-3, "s", "-2.50 ms"),
        (1e-15, "s", "0.00100 ps"),
        (None, "s", "–"),
        (math.nan, "s", "–"),
        (math.inf, "s", "∞"),
    ],
)
def test_values_have_three_digits_and_a_prefix_where_the_unit_takes_one(value, unit, shown):
    assert format_value(value, unit) == shown


@given(st.floats(min_value=1e-11, max_value=900))
def test_a_time_reads_back_to_three_digits(seconds):
    number, unit = format_value(seconds, "s").split(" ")
    scale = {"ps": 1e-12, "ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}[unit]
    assert float(number) * scale == pytest.approx(seconds, rel=0.0051)
    assert float(number) < 1000


def test_every_metric_says_which_way_is_better_if_any_is_and_what_it_is():
    for key, metric in METRICS.items():
        assert metric.key == key
        assert metric.formula
        upward = metric.unit.endswith("/s") or key == "roofline"
        assert metric.higher_is_better is (None if key in COUNTS else upward)
    assert [METRICS[key].better for key in ("tok_s_user", "ttft", "window")] == ["higher", "lower", "neither"]


def test_a_title_names_the_unit_unless_the_label_begins_with_it():
    assert METRICS["step_time"].title == "step time (s)"
    assert METRICS["tok_s_user"].title == "tok/s/user"
    assert METRICS["roofline"].title == "roofline"
    assert METRICS["tax"].title == "profiler's tax (×)"


def test_what_nobody_declared_is_judged_by_its_unit():
    assert define("goodput", "1/s").higher_is_better
    assert not define("queue_time", "s").higher_is_better


def test_a_workloads_own_metric_is_as_it_declares_it_and_comes_after_gpubenchs():
    info = MetricInfo("cost", "$", higher_is_better=False, description="what a million tokens cost")
    workload = WorkloadInfo("w", "", [], [], [info], "w.py")
    found = definitions([("cost", "$"), ("step_time", "s"), ("tok_s_user", "1/s")], [workload])
    assert list(found) == ["tok_s_user", "step_time", "cost"]
    assert found["cost"].formula == "what a million tokens cost"
    assert not found["cost"].higher_is_better


def test_one_of_our_metrics_in_another_unit_keeps_that_unit():
    ttft = define("ttft", "ms")
    assert (ttft.unit, ttft.label, ttft.has_tail) == ("ms", "TTFT", True)
    assert format_value(118.0, ttft.unit) == "118 ms"
    assert define("tok_s_user", "1/s").unit == "tok/s"
