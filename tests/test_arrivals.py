"""Arrival processes and the schedules made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.traffic.arrivals import constant, make_schedule, poisson

RATES = st.floats(0.1, 500)
DURATIONS = st.floats(0.01, 20)


@pytest.mark.parametrize(
    ("rate_qps", "duration_s", "offsets_s"),
    [
        (2, 2, [0, 0.5, 1, 1.5]),
        (1, 0.5, [0]),
        (0.1, 10, [0]),
        (10, 0.3, [0, 0.1, 0.2]),
        (4, 1.1, [0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_constant_arrivals_are_evenly_spaced_from_zero(
    rate_qps: float, duration_s: float, offsets_s: list[float]
) -> None:
    assert constant(rate_qps, duration_s) == pytest.approx(offsets_s)


@given(RATES, DURATIONS, st.integers(0, 2**32), st.sampled_from(["poisson", "constant"]))
def test_arrivals_ascend_within_the_duration_and_follow_from_the_seed(
    rate_qps: float, duration_s: float, seed: int, arrivals: str
) -> None:
    first, second = (
        make_schedule(arrivals, rate_qps, duration_s, 7, np.random.default_rng(seed))  # type: ignore[arg-type]
        for _ in range(2)
    )

    assert np.array_equal(first.offsets_s, second.offsets_s)
    assert np.array_equal(first.request_index, second.request_index)
    assert len(first.offsets_s) == len(first.request_index)
    assert np.all(np.diff(first.offsets_s) >= 0)
    assert np.all((first.offsets_s >= 0) & (first.offsets_s < duration_s))


def test_poisson_counts_vary_as_much_as_they_average() -> None:
    offsets_s = poisson(200, 500, np.random.default_rng(5))

    counts = np.bincount(offsets_s.astype(int), minlength=500)

    # The index of dispersion of 500 windows has a standard deviation of sqrt(2/500) = 0.063.
    assert counts.var(ddof=1) / counts.mean() == pytest.approx(1, abs=0.25)
    assert len(offsets_s) == pytest.approx(100_000, abs=5 * math.sqrt(100_000))


def test_poisson_gaps_are_exponential() -> None:
    gaps_s = np.diff(poisson(50, 400, np.random.default_rng(6)))

    assert gaps_s.mean() == pytest.approx(0.02, rel=0.05)
    assert np.mean(gaps_s > 0.02) == pytest.approx(math.exp(-1), abs=0.02)


def test_the_number_of_poisson_arrivals_is_random_and_may_be_none() -> None:
    counts = [len(poisson(1, 1, np.random.default_rng(seed))) for seed in range(300)]

    assert counts.count(0) == pytest.approx(300 * math.exp(-1), abs=40)
    assert max(counts) >= 3


@given(st.integers(1, 50), st.integers(0, 1000))
def test_every_request_is_used_equally_often_in_any_stretch(request_count: int, seed: int) -> None:
    schedule = make_schedule("constant", 173, 1, request_count, np.random.default_rng(seed))

    for length in (10, 100, 173):
        used = np.bincount(schedule.request_index[:length], minlength=request_count)
        assert used.max() - used.min() <= 1
        assert len(used) == request_count


def test_requests_come_in_another_order_each_round() -> None:
    index = make_schedule("constant", 100, 1, 50, np.random.default_rng(0)).request_index

    assert not np.array_equal(index[:50], index[50:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poisson", 0, 1, 1), "rate_qps=0 must be a positive number"),
        (("poisson", 1, -1, 1), "duration_s=-1 must be a positive number"),
        (("constant", math.nan, 1, 1), "rate_qps=nan"),
        (("constant", math.inf, 1, 1), "rate_qps=inf"),
        (("constant", 1, 1, 0), "at least one request"),
        (("uniform", 1, 1, 1), "arrivals='uniform' must be 'poisson' or 'constant'"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(arguments: tuple[str, float, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_schedule(*arguments, np.random.default_rng(0))  # type: ignore[arg-type]
