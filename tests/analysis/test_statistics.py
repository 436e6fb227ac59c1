"""What a figure says of its samples, and how sure it may be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.analysis.statistics import Interval, SampleWarning, difference, ratio, summarise, summarise_all

positive = st.floats(min_value=1e-9, max_value=1e9)
trials_of_samples = st.lists(st.lists(positive, min_size=1, max_size=20), min_size=1, max_size=5)


@given(trials_of_samples)
def test_the_median_and_the_percentiles_are_those_of_all_trials_together(trials):
    pooled = np.concatenate(trials)
    summary = summarise(trials)
    assert summary.num_samples == pooled.size
    assert summary.trials == len(trials)
    assert summary.median == pytest.approx(np.median(pooled))
    assert (summary.min, summary.max) == (pooled.min(), pooled.max())
    assert summary.p10 == pytest.approx(np.quantile(pooled, 0.1))
    assert summary.p99 == pytest.approx(np.quantile(pooled, 0.99))
    assert summary.iqr == pytest.approx(np.quantile(pooled, 0.75) - np.quantile(pooled, 0.25))


@given(trials_of_samples)
def test_the_interval_encloses_the_median(trials):
    summary = summarise(trials)
    assert summary.low <= summary.median * (1 + 1e-12)
    assert summary.high >= summary.median * (1 - 1e-12)
    assert summary.low > 0


@given(trials_of_samples, st.integers(1, 64))
def test_readings_that_are_repeated_make_an_interval_no_narrower(trials, repeats):
    once = summarise_all([trials]).iloc[0]
    often = summarise_all([[np.repeat(trial, repeats) for trial in trials]], repeats=[repeats]).iloc[0]
    assert often["num_samples"] == once["num_samples"] * repeats
    assert [often["low"], often["high"]] == pytest.approx([once["low"], once["high"]])


def test_five_readings_are_too_few_however_often_each_is_repeated():
    samples = [np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 64)]
    assert "too few samples" in summarise_all([samples], repeats=[64.0]).iloc[0]["warnings"]
    assert "too few samples" not in summarise_all([samples]).iloc[0]["warnings"]


@given(st.lists(st.lists(st.lists(positive, max_size=12), max_size=4), max_size=8))
def test_many_figures_at_once_are_summarised_as_each_alone(figures):
    together = summarise_all(figures)
    for figure, row in zip(figures, together.to_dict("records"), strict=True):
        alone = summarise(figure)
        assert row["num_samples"] == alone.num_samples
        for name in ("median", "low", "high", "p90", "iqr"):
            assert row[name] == pytest.approx(getattr(alone, name), nan_ok=True)


# Odd numbers of odd numbers: every median is a sample then, and the inverse of a median the median of the inverses.
odd_trials = st.sampled_from([1, 3]).flatmap(
    lambda count: st.lists(
        st.integers(0, 4).flatmap(lambda half: st.lists(positive, min_size=2 * half + 1, max_size=2 * half + 1)),
        min_size=count,
        max_size=count,
    )
)


@given(odd_trials)
def test_a_rate_has_the_interval_of_its_time(trials):
    time, rate = summarise(trials), summarise([[1 / value for value in trial] for trial in trials])
    assert rate.low == pytest.approx(1 / time.high)
    assert rate.high == pytest.approx(1 / time.low)


@pytest.mark.parametrize("n", [6, 7, 10, 30, 71, 500, 1000])
def test_the_interval_of_one_trial_is_the_narrowest_of_order_statistics_that_covers_95_percent(n):
    summary = summarise([list(range(1, n + 1))])
    rank = round(summary.low)
    assert summary.high == n + 1 - rank
    assert _coverage(n, rank) >= 0.95 > _coverage(n, rank + 1)


def _coverage(n: int, rank: int) -> float:
    return 1 - 2 * sum(math.comb(n, successes) for successes in range(rank)) / 2**n


def test_the_rank_is_continuous_where_the_binomial_becomes_normal():
    low = [summarise([list(range(n))]).low for n in (1000, 1001)]
    assert abs(low[1] - low[0]) <= 1


def test_trials_that_agree_leave_the_interval_as_the_samples_give_it():
    trial = list(np.linspace(1.0, 1.1, 25))
    split, whole = summarise([trial, trial, trial]), summarise([sorted(trial * 3)])
    assert (split.low, split.high) == (whole.low, whole.high)
    assert split.warnings == ()


def test_trials_that_differ_widen_the_interval_beyond_what_their_samples_say():
    generator = np.random.default_rng(1)
    trials = [list(level * (1 + 0.001 * generator.standard_normal(100))) for level in (1.00, 1.05, 1.10)]
    fooled = summarise([[value for trial in trials for value in trial]])
    honest = summarise(trials)
    assert honest.low < 0.97 < fooled.low
    assert honest.high > 1.13 > fooled.high
    assert honest.warnings == (SampleWarning.TRIALS_DISAGREE,)


def test_trials_of_samples_in_two_modes_do_not_disagree_because_their_medians_are_in_either():
    generator = np.random.default_rng(4)
    slow = 0.2 * (generator.random((500, 3, 10)) > 0.55)
    samples = 1 + slow + 0.002 * generator.standard_normal((500, 3, 10))
    told = summarise_all(list(samples))["warnings"]
    assert told.str.contains("trials disagree").mean() < 0.02
    assert told.str.contains("noisy").mean() > 0.98


def test_no_number_of_samples_narrows_an_interval_whose_trials_differ():
    levels = (1.00, 1.05, 1.10)
    few, many = ([list(level + 1e-4 * np.sin(np.arange(n))) for level in levels] for n in (20, 2000))
    few_width, many_width = (summary.high - summary.low for summary in (summarise(few), summarise(many)))
    assert many_width > 0.9 * few_width


@pytest.mark.parametrize("between", [0.0, 0.005, 0.02, 0.1])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(between):
    generator = np.random.default_rng(7)
    level = generator.normal(0, between, (3000, 3, 1))
    samples = np.exp(level + generator.normal(0, 0.03, (3000, 3, 30)))
    frame = summarise_all(list(samples))
    coverage = ((frame["low"] <= 1) & (frame["high"] >= 1)).mean()
    assert 0.90 <= coverage <= 0.99


def test_an_interval_does_not_run_away_from_what_was_measured():
    summary = summarise([[160.0] * 2, [156.0] * 2, [0.6] * 100])
    assert (summary.low, summary.high) == (0.3, 320.0)


def test_one_value_per_trial_is_enough_for_an_interval_over_trials():
    summary = summarise([[10.0], [11.0], [12.0]])
    assert summary.low < 9
    assert summary.high > 13
    assert summary.warnings == (SampleWarning.TOO_FEW_SAMPLES,)


def test_values_that_may_be_zero_or_negative_are_treated_on_a_linear_scale():
    summary = summarise([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [-1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    assert summary.low <= summary.median <= summary.high


def test_without_samples_every_figure_is_unknown():
    summary = summarise([[], []])
    assert summary.num_samples == summary.trials == 0
    assert math.isnan(summary.median)
    assert math.isnan(summary.high)
    assert summary.warnings == ()


def test_a_figure_whose_middle_half_is_wide_is_noisy():
    assert SampleWarning.NOISY in summarise([[1.0, 1.2] * 10]).warnings
    assert SampleWarning.NOISY not in summarise([[1.0, 1.05] * 10]).warnings


def test_a_slow_first_sample_is_told_of_times_only_and_only_if_most_trials_have_one():
    slow, even = [2.0, *[1.0] * 9], [1.0] * 10
    assert SampleWarning.FIRST_SAMPLE_SLOW in summarise([slow, slow, even], is_time=True).warnings
    assert SampleWarning.FIRST_SAMPLE_SLOW not in summarise([slow, even, even], is_time=True).warnings
    assert SampleWarning.FIRST_SAMPLE_SLOW not in summarise([slow, slow, even]).warnings


def test_every_warning_has_an_explanation_with_words_of_its_own():
    assert len({warning.explanation for warning in SampleWarning}) == len(SampleWarning)


@given(positive, positive, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_ratio_lies_within_its_interval_and_its_inverse_within_the_inverse(a, b, da, db):
    top, bottom = Interval(a, a * (1 - da), a * (1 + da)), Interval(b, b * (1 - db), b * (1 + db))
    forth, back = ratio(top, bottom), ratio(bottom, top)
    assert forth.low <= forth.value * (1 + 1e-12)
    assert forth.value <= forth.high * (1 + 1e-12)
    assert forth.low == pytest.approx(1 / back.high)


def test_a_ratio_is_clear_only_when_its_interval_leaves_one_out():
    assert ratio(Interval(2, 1.9, 2.1), Interval(1, 0.9, 1.1)).is_clear
    assert ratio(Interval(1, 0.9, 1.1), Interval(2, 1.9, 2.1)).is_clear
    assert not ratio(Interval(1.05, 0.9, 1.2), Interval(1, 0.9, 1.1)).is_clear
    assert not ratio(Interval(0.0, 0.0, 0.0), Interval(1, 1, 1)).is_clear


intervals = st.tuples(positive, positive, positive).map(lambda ends: Interval(*(sorted(ends)[i] for i in (1, 0, 2))))


@given(intervals, intervals)
def test_a_difference_is_as_uncertain_as_both_its_terms_and_turns_with_them(one, other):
    found, turned = difference(one, other), difference(other, one)
    assert found.low <= found.median <= found.high
    assert (turned.median, turned.low, turned.high) == pytest.approx((-found.median, -found.high, -found.low))
    assert found.high - found.median >= (one.high - one.median) * (1 - 1e-12) - 1e-6
    exact = difference(one, Interval(other.median, other.median, other.median))
    assert (exact.low, exact.high) == pytest.approx((one.low - other.median, one.high - other.median), abs=1e-6)
