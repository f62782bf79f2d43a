"""Figures that describe traffic, held against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_capacity.protocols import Ints
from pytest_capacity.traffic.arrivals import constant, poisson
from pytest_capacity.traffic.pattern import plain_traffic
from pytest_capacity.traffic.statistics import (
    distinct_growth,
    index_of_dispersion,
    ks_distance,
    lag_one_correlation,
    lru_hit_shares,
    previous_of,
    sessions_of,
    stack_distances,
    window_counts,
    window_means,
)

KEYS = st.lists(st.integers(0, 12), max_size=80).map(lambda keys: np.array(keys, dtype=np.int64))


def distances_by_definition(key: Ints) -> list[int]:
    stack: list[int] = []
    found = []
    for one in key.tolist():
        found.append(stack.index(one) if one in stack else -1)
        if one in stack:
            stack.remove(one)
        stack.insert(0, one)
    return found


@given(KEYS)
def test_stack_distances_are_depths_in_a_stack_of_keys(key: Ints) -> None:
    assert stack_distances(key).tolist() == distances_by_definition(key)


@given(KEYS, st.integers(1, 15))
def test_an_lru_cache_hits_what_the_distances_say(key: Ints, capacity: int) -> None:
    cache: list[int] = []
    hits = 0
    for one in key.tolist():
        hits += one in cache
        cache = ([one] + [other for other in cache if other != one])[:capacity]

    if len(key):
        assert lru_hit_shares(stack_distances(key), [capacity]) == [pytest.approx(hits / len(key))]


def test_stack_distances_of_many_accesses_stay_right() -> None:
    key = np.random.default_rng(0).zipf(1.3, 3000) % 200

    assert stack_distances(key).tolist() == distances_by_definition(key)


@given(KEYS)
def test_the_row_before_of_a_group_is_the_latest_one(group: Ints) -> None:
    group -= 1
    expected = []
    last: dict[int, int] = {}
    for row, one in enumerate(group.tolist()):
        expected.append(last.get(one, -1) if one >= 0 else -1)
        last[one] = row

    assert previous_of(group).tolist() == expected


def test_distinct_keys_grow_with_the_accesses() -> None:
    key = np.array([0, 1, 0, 1, 2, 2, 2, 2, 2, 3])

    assert distinct_growth(stack_distances(key), points=2) == pytest.approx([0.3, 0.4])


def test_dispersion_is_one_for_poisson_and_none_for_a_clock() -> None:
    rng = np.random.default_rng(0)

    assert index_of_dispersion(poisson(100, 3000, rng), 3000, 1) == pytest.approx(1, abs=0.1)
    assert index_of_dispersion(constant(100, 100), 100, 1) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("length_s", "known"), [(99.9, False), (100.0, True), (109.9, True)])
def test_dispersion_needs_ten_whole_windows(length_s: float, known: bool) -> None:
    assert (index_of_dispersion(np.array([1.0, 2.0, 50.0]), length_s, 10) is not None) == known


def test_dispersion_is_the_variance_over_the_mean_of_counts() -> None:
    t_s = np.array([0.1, 0.2, 1.5, 4.5, 9.9, 10.5])

    counts = [2, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    assert index_of_dispersion(t_s, 10.7, 1) == pytest.approx(np.var(counts) / np.mean(counts))


def test_traffic_that_came_after_the_whole_windows_has_no_dispersion() -> None:
    assert index_of_dispersion(np.array([10.2, 10.4]), 10.5, 1) is None


def test_only_whole_windows_are_counted() -> None:
    assert window_counts(np.array([0.0, 1.0, 2.9, 3.1]), 3.5, 1.0).tolist() == [1, 1, 1]


def test_a_window_without_values_has_no_mean() -> None:
    means = window_means(np.array([1.0, 3.0, np.nan, 5.0]), np.array([0.0, 0.5, 1.5, 2.5]), 3.0, 1.0)

    assert means == pytest.approx([2.0, np.nan, 5.0], nan_ok=True)


@given(*(st.lists(st.floats(-5, 5).map(lambda x: round(x, 1)), min_size=3, max_size=30) for _ in range(2)))
def test_the_distance_of_two_samples_is_that_of_kolmogorov_and_smirnov(
    first: list[float], second: list[float]
) -> None:
    ours = ks_distance(np.array(first), np.array(second))

    assert ours == pytest.approx(stats.ks_2samp(first, second, method="asymp").statistic)


def test_a_sample_is_as_far_from_nothing_as_can_be() -> None:
    assert ks_distance(np.empty(0), np.ones(3)) == 1
    assert ks_distance(np.empty(0), np.empty(0)) == 0


def test_what_does_not_vary_is_not_correlated() -> None:
    assert lag_one_correlation(np.ones(10)) == 0
    assert lag_one_correlation(np.array([1.0, -1.0] * 50)) == pytest.approx(-1)
    assert lag_one_correlation(np.array([np.nan, 1.0, 2.0, np.nan, 3.0])) == 0


def test_sessions_are_told_by_their_requests_gaps_and_keys() -> None:
    traffic = plain_traffic(
        np.array([0.0, 1.0, 3.0, 4.0, 9.0]),
        session=np.array([0, 1, 0, -1, 0]),
        key=np.array([5, 5, 5, 5, 6]),
    )

    sessions = sessions_of(traffic)

    assert sessions is not None
    assert sorted(sessions.requests.tolist()) == [1, 3]
    assert sorted(sessions.gaps_s.tolist()) == [3, 6]
    assert sessions.same_key == 0.5


def test_traffic_without_sessions_has_none() -> None:
    assert sessions_of(plain_traffic(np.arange(5.0))) is None
