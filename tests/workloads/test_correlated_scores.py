"""Scores that resemble captured ones: their moments, their range, and how many of the best stay."""

from __future__ import annotations

import pytest
import torch

from gpubench.errors import ArgumentError
from gpubench.workloads.correlated_scores import FITS, LIKE, make_hint, make_rows, next_rows, overlap

COLUMNS, K = 7530, 512


def full(rows, columns=COLUMNS):
    return torch.full((rows,), columns, dtype=torch.int32)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", FITS)
def test_a_fit_has_the_moments_and_the_range_of_its_capture(name):
    fit, rows = FITS[name], make_rows(name, 20, COLUMNS)
    assert rows.mean().item() == pytest.approx(fit.mean, abs=0.01)
    assert rows.std().item() == pytest.approx(fit.std, rel=0.01)
    assert fit.low <= rows.min() and rows.max() <= fit.high


@pytest.mark.parametrize("name", ["heavy_tail", "uniform", "ties"])
def test_other_distributions_have_the_same_mean(name):
    assert make_rows(name, 20, COLUMNS).mean().item() == pytest.approx(FITS[LIKE].mean, abs=0.05)


def test_the_heavy_tail_is_heavier_ties_are_few_values_and_a_constant_is_one():
    def farthest(name):
        rows = make_rows(name, 4, COLUMNS)
        return ((rows - rows.mean()) / rows.std()).max()

    assert farthest("heavy_tail") > 2 * farthest(LIKE)
    assert make_rows("ties", 4, COLUMNS).unique().numel() == 64
    assert make_rows("constant", 4, COLUMNS).unique().numel() == 1


@pytest.mark.parametrize("name", FITS)
def test_a_hint_has_the_hit_rate_that_is_asked_for(name):
    fit, rows = FITS[name], make_rows(name, 3, COLUMNS)
    hint = make_hint(rows, full(3), K, fit.hit_rate)
    best = rows.topk(K).indices
    assert (overlap(best, hint, COLUMNS) - fit.hit_rate).abs().max() <= 0.005
    assert all(row.unique().numel() == K for row in hint)


@pytest.mark.parametrize("name", ["flash_deep", "heavy_tail"])
def test_the_next_step_keeps_the_hit_rate_and_the_distribution(name):
    first = make_rows(name, 3, COLUMNS)
    second = next_rows(first, full(3), K, 0.6, name)
    kept = overlap(second.topk(K).indices, first.topk(K).indices, COLUMNS)
    assert (kept - 0.6).abs().max() <= 0.005
    assert second.mean().item() == pytest.approx(first.mean().item(), abs=0.05)
    assert not torch.equal(first.sort().values, second.sort().values)


def test_a_hint_without_a_hit_has_none_and_a_perfect_one_only_hits():
    rows = make_rows(LIKE, 2, COLUMNS)
    best = rows.topk(K).indices
    assert overlap(best, make_hint(rows, full(2), K, 0), COLUMNS).tolist() == [0, 0]
    assert overlap(best, make_hint(rows, full(2), K, 1), COLUMNS).tolist() == [1, 1]


def test_a_hint_stays_within_each_rows_length_and_fills_up_with_minus_one():
    rows = make_rows(LIKE, 3, 100)
    hint = make_hint(rows, torch.tensor([100, 20, 0]), 32, 0.7)
    assert (hint[1] < 20).all() and (hint[1] >= 0).sum() == 20 and (hint[2] == -1).all()


@pytest.mark.parametrize("hit_rate", [-0.1, 1.5, 0.05])
def test_a_hit_rate_that_cannot_be_had_is_refused(hit_rate):
    with pytest.raises(ArgumentError, match="hit_rate"):
        make_hint(make_rows(LIKE, 2, 1000), full(2, 1000), 200, hit_rate)
