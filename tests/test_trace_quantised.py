"""Coarse clocks are found and spread, and times that were made up are told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.quantised import dequantize, doubts_on_times, find_resolution_ns, is_quantised

MS = 10**6
S = 10**9


def poisson_ns(rate_qps: float, rows: int = 2000, seed: int = 1) -> Ints:
    """Arrivals of a Poisson process in nanoseconds."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_qps, rows)
    return (np.cumsum(gaps) * 1e9).astype(np.int64)


@pytest.mark.parametrize(
    ("step_ns", "rate_qps"),
    [(60 * S, 0.3), (60 * S, 5.0), (S, 0.3), (S, 1.0), (S, 50.0), (100 * MS, 0.3), (100 * MS, 50.0)],
)
def test_times_rounded_down_to_a_step_have_that_resolution(step_ns: int, rate_qps: float) -> None:
    times_ns = poisson_ns(rate_qps, rows=20_000) // step_ns * step_ns

    assert find_resolution_ns(times_ns, MS) == step_ns


@pytest.mark.parametrize("rate_qps", [0.3, 3.0, 30.0])
def test_a_tick_that_jitters_by_a_millisecond_is_found(rate_qps: float) -> None:
    ticks = poisson_ns(rate_qps, rows=3000) // (3 * S)
    jitter = np.random.default_rng(2).integers(-1, 2, int(ticks.max()) + 1)
    times_ns = ticks * 3 * S + jitter[ticks] * MS

    assert find_resolution_ns(times_ns, MS) == pytest.approx(3 * S, rel=0.001)


@pytest.mark.parametrize("rate_qps", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_poisson_arrivals_in_milliseconds_are_not_taken_for_coarser(rate_qps: float, seed: int) -> None:
    times_ns = poisson_ns(rate_qps, seed=seed) // MS * MS

    assert find_resolution_ns(times_ns, MS) == MS


def test_even_arrivals_do_not_make_a_coarse_clock() -> None:
    assert find_resolution_ns(np.arange(1000) * 10 * MS, MS) == MS


def test_batches_of_an_even_beat_are_a_tick() -> None:
    assert find_resolution_ns(np.repeat(np.arange(100) * S, 10), MS) == S


def test_a_few_times_tell_nothing_of_the_clock() -> None:
    assert find_resolution_ns(np.array([0, 60, 120, 120, 180]) * S, MS) == MS
    assert find_resolution_ns(np.array([5]), 1) == 1


def test_only_arrivals_that_share_ticks_are_quantised() -> None:
    fine = poisson_ns(10.0) / 1e9

    assert not is_quantised(fine, 1e-9)
    assert is_quantised(np.floor(fine), 1.0)
    assert not is_quantised(np.floor(fine), None)
    assert not is_quantised(np.zeros(3), 1.0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200), st.floats(0.01, 1.0), st.integers(0, 2**31))
def test_spreading_keeps_every_arrival_in_its_tick_and_in_order(
    ticks: list[int], step_s: float, seed: int
) -> None:
    t_s = np.sort(np.array(ticks)) * step_s

    spread = dequantize(t_s, step_s, seed)

    assert (np.diff(spread) >= 0).all()
    assert (spread >= t_s).all()
    assert (spread <= t_s + step_s).all()
    np.testing.assert_array_equal(spread, dequantize(t_s, step_s, seed))


def test_spreading_stays_before_the_next_recorded_time() -> None:
    t_s = np.array([0.0, 0.0, 2.999, 2.999, 9.0])

    spread = dequantize(t_s, 3.0, 7)

    assert spread[1] < 2.999 <= spread[2] < spread[3] < 5.999
    assert spread[4] >= 9.0


def test_a_spread_clock_gives_poisson_arrivals_back() -> None:
    t_s = poisson_ns(10.0, rows=20_000) / 1e9

    spread = dequantize(np.floor(t_s / 3) * 3, 3.0, seed=5)

    def dispersion(times_s: Floats) -> float:
        counts = np.bincount(times_s.astype(int))
        return float(counts.var() / counts.mean())

    assert dispersion(np.floor(t_s / 3) * 3) > 10
    assert dispersion(spread) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("resolution_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tick_must_have_a_length(resolution_s: float) -> None:
    with pytest.raises(ValueError, match="resolution_s"):
        dequantize(np.zeros(2), resolution_s, 0)


def none_known(times_ns: Ints) -> Ints:
    return np.full(len(times_ns), -1, dtype=np.int64)


def test_a_log_whose_times_were_drawn_anew_is_not_credible() -> None:
    # As in a well-known sample log: the hour is right, the minute is always 5, the second is random.
    hours = np.sort(np.random.default_rng(3).integers(0, 90, 5000))
    times_ns = hours * 3600 * S + 300 * S + np.random.default_rng(4).integers(0, 60, 5000) * S

    found = doubts_on_times(times_ns, none_known(times_ns))

    assert found[0].startswith("arrivals not credible: 4")
    assert found[0].endswith("% of the file's steps go back in time")
    assert found[1] == "arrivals not credible: every time lies in minute 5 of its hour"


def test_a_log_in_order_of_completion_is_credible_where_durations_explain_it() -> None:
    starts_ns = poisson_ns(20.0)
    took_ns = (np.random.default_rng(5).exponential(2.0, len(starts_ns)) * 1e9).astype(np.int64)
    order = np.argsort(starts_ns + took_ns)

    assert doubts_on_times(starts_ns[order], took_ns[order]) == []
    assert len(doubts_on_times(starts_ns[order], none_known(starts_ns))) == 1


def test_arrivals_in_order_are_credible() -> None:
    assert doubts_on_times(poisson_ns(1.0), none_known(poisson_ns(1.0))) == []
    assert doubts_on_times(np.array([3, 2, 1]), none_known(np.array([3, 2, 1]))) == []
