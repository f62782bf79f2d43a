"""Intervals agree with an independent implementation and cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from pytest_capacity.stats.batches import batch_of, design_effect, few_batches_factor, late_effect, spreads
from pytest_capacity.stats.intervals import (
    beta_quantile,
    incomplete_beta,
    quantile_limits,
    share_limits,
    smallest_sample,
    student_quantile,
)

positive = st.floats(0.05, 5_000)


@given(st.floats(0, 1), positive, positive)
def test_the_incomplete_beta_function_agrees_with_scipy(x: float, a: float, b: float) -> None:
    assert incomplete_beta(x, a, b) == pytest.approx(float(special.betainc(a, b, x)), rel=1e-8, abs=1e-12)


@given(st.floats(0.0005, 0.9995), st.floats(0.5, 3_000), st.floats(0.5, 3_000))
def test_beta_quantiles_agree_with_scipy(probability: float, a: float, b: float) -> None:
    expected = float(stats.beta.ppf(probability, a, b))

    assert beta_quantile(probability, a, b) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("probability", "freedom"), [(0.95, 1), (0.95, 9), (0.995, 20), (0.999, 200)])
def test_student_quantiles_agree_with_scipy(probability: float, freedom: int) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom))


@pytest.mark.parametrize(
    ("share", "alpha", "expected"),
    [(0.01, 0.05, 299), (0.05, 0.05, 59), (0.01, 0.01, 459), (0.001, 0.05, 2995)],
)
def test_the_smallest_sample_is_the_first_that_can_pass(share: float, alpha: float, expected: int) -> None:
    n = smallest_sample(share, alpha)

    assert n == expected
    assert share_limits(0, n, 1.0, alpha)[1] <= share
    assert share_limits(0, n - 1, 1.0, alpha)[1] > share


def test_no_request_shows_nothing() -> None:
    assert share_limits(0, 0, 1.0, 0.05) == (0.0, 1.0)
    assert all(math.isnan(value) for value in quantile_limits(np.empty(0), 0.99, 1.0, 0.05))


@given(st.integers(0, 200), st.integers(1, 5_000), st.floats(1, 50))
def test_a_share_lies_between_its_limits_and_bursts_widen_them(bad: int, total: int, effect: float) -> None:
    bad = min(bad, total)
    low, high = share_limits(bad, total, effect, 0.05)
    plain_low, plain_high = share_limits(bad, total, 1.0, 0.05)

    assert 0 <= low <= bad / total <= high <= 1
    assert low <= plain_low + 1e-9
    assert high >= plain_high - 1e-9


def test_a_quantile_s_limits_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    truth = stats.expon.ppf(0.99)
    limits = [quantile_limits(np.sort(rng.exponential(size=2_000)), 0.99, 1.0, 0.05) for _ in range(400)]

    assert np.mean([low <= truth for _, low, _ in limits]) >= 0.92
    assert np.mean([truth <= high for _, _, high in limits]) >= 0.92
    assert np.mean([low <= truth <= high for _, low, high in limits]) <= 0.97


def test_a_quantile_among_failed_requests_is_infinite() -> None:
    values = np.array([1.0] * 90 + [math.inf] * 10)

    middle, low, high = quantile_limits(values, 0.99, 1.0, 0.05)

    assert middle == high == math.inf
    assert low == math.inf


def test_independent_requests_have_a_design_effect_near_one() -> None:
    rng = np.random.default_rng(3)
    bad = rng.random(100_000) < 0.02

    assert design_effect(bad, np.arange(100_000) // 1_000) == pytest.approx(1, abs=0.45)


def test_requests_that_fail_together_count_as_few() -> None:
    """Runs of 50 identical outcomes are worth one independent request each."""
    rng = np.random.default_rng(4)
    bad = np.repeat(rng.random(4_000) < 0.05, 50)

    assert design_effect(bad, np.arange(200_000) // 1_000) == pytest.approx(50, rel=0.35)


def test_short_runs_together_show_the_bursts_that_none_shows_alone() -> None:
    """Runs of 50 identical outcomes again, a twentieth of them bad: six seconds hold four or so."""
    rng = np.random.default_rng(5)
    windows = [np.repeat(rng.random(80) < 0.05, 50) for _ in range(50)]

    sums = np.sum([spreads(bad, np.arange(4_000) // 500) for bad in windows], axis=0)

    assert sums[0] / sums[1] == pytest.approx(50, rel=0.35)
    assert spreads(np.zeros(100, dtype=bool), np.arange(100) // 10) == (0.0, 0.0)
    assert spreads(np.ones(100, dtype=bool), np.arange(100) // 10) == (0.0, 0.0)


def test_one_burst_in_a_run_leaves_the_share_wide_open() -> None:
    """Half a second of failures in ten seconds is one event, whatever the number of requests in it."""
    times = np.arange(2_000) / 200
    bad = (times >= 4) & (times < 4.5)

    effect = design_effect(bad, batch_of(times, 0.0, 1.0))
    low, high = share_limits(float(bad.sum()), 2_000, effect, 0.05)

    assert effect > 50
    assert low < 0.01 < high


def test_rare_late_requests_borrow_the_clustering_of_a_lower_threshold() -> None:
    """Ten slow requests in a row, none over the limit, show that slow ones come together."""
    latency = np.full(2_000, 0.005)
    latency[700:710] = 0.03

    batch = np.arange(2_000) // 200

    assert design_effect(latency > 0.05, batch) == 1.0
    assert late_effect(latency, 0.05, batch) > 5


def test_few_batches_widen_the_interval_and_many_do_not() -> None:
    assert few_batches_factor(1, 0.05) == math.inf
    assert few_batches_factor(10, 0.05) == pytest.approx((1.833 / 1.645) ** 2, rel=1e-3)
    assert few_batches_factor(1_000, 0.05) == pytest.approx(1, abs=0.01)
