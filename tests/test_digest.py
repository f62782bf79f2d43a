"""A digest keeps quantiles, above all those of the tail, in about 150 centroids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.protocols import Floats
from pytest_capacity.stats.digest import Centroids, digest_of, merge, quantile_of

QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)


def rank_error(values: Floats, centroids: Centroids, q: float) -> float:
    """How far the digest's quantile lies from rank ``q``, as a share of all values; 0 within a tie."""
    found = quantile_of(centroids, q)
    assert found is not None
    ordered = np.sort(values)
    slack = 1e-9 * abs(found) + 1e-12
    below = np.searchsorted(ordered, found - slack, "left") / len(values)
    above = np.searchsorted(ordered, found + slack, "right") / len(values)
    return float(max(0.0, below - q, q - above))


def allowed(q: float, count: int) -> float:
    """A cluster spans some Z / delta of q (1 - q), and never less than a rank."""
    return 0.12 * q * (1 - q) + 1.5 / count


@pytest.mark.parametrize("count", [10, 300, 5_000, 200_000])
@pytest.mark.parametrize(
    "shape", ["lognormal", "uniform", "exponential", "bimodal", "pareto", "constant", "ties"]
)
def test_quantiles_are_near_the_true_ones(shape: str, count: int) -> None:
    rng = np.random.default_rng(3)
    values = {
        "lognormal": rng.lognormal(3, 0.6, count),
        "uniform": rng.uniform(1, 2, count),
        "exponential": rng.exponential(20, count),
        "bimodal": np.where(rng.random(count) < 0.97, rng.normal(10, 1, count), rng.normal(500, 20, count)),
        "pareto": 5 * (1 + rng.pareto(1.2, count)),
        "constant": np.full(count, 12.5),
        "ties": rng.integers(1, 6, count).astype(float),
    }[shape]

    centroids = digest_of(values)

    for q in QUANTILES:
        assert rank_error(values, centroids, q) <= allowed(q, count), q
    assert sum(weight for _, weight in centroids) == count
    assert len(centroids) <= 160


def test_the_tail_of_latencies_is_within_a_percent() -> None:
    values = np.random.default_rng(5).lognormal(3, 0.6, 1_000_000)
    centroids = digest_of(values)

    for q in (0.5, 0.9, 0.99, 0.999):
        assert quantile_of(centroids, q) == pytest.approx(np.quantile(values, q), rel=0.01)
    assert 100 <= len(centroids) <= 200
    assert centroids[0] == [values.min(), 1]
    assert centroids[-1] == [values.max(), 1]


@pytest.mark.parametrize("q", QUANTILES)
def test_a_few_values_are_kept_one_by_one(q: float) -> None:
    values = [3.0, 1.0, 2.0, 10.0, 4.5]

    assert digest_of(values) == [[1, 1], [2, 1], [3, 1], [4.5, 1], [10, 1]]
    assert quantile_of(digest_of(values), q) == pytest.approx(np.quantile(values, q))


def test_no_value_and_one_value() -> None:
    assert digest_of([]) == []
    assert merge([]) == merge([[], []]) == []
    assert quantile_of([], 0.5) is None
    assert digest_of([7.0]) == [[7, 1]]
    assert quantile_of([[7.0, 1.0]], 0.99) == 7


def test_a_quantile_beyond_the_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="q=99 must lie between 0 and 1"):
        quantile_of([[7.0, 1.0]], 99)


def test_what_is_not_finite_is_left_out() -> None:
    assert digest_of(np.array([1.0, np.inf, np.nan, 2.0, -np.inf])) == [[1, 1], [2, 1]]


def test_one_run_gives_one_digest() -> None:
    values = np.random.default_rng(1).lognormal(3, 0.6, 10_000)

    assert digest_of(values) == digest_of(np.random.default_rng(2).permutation(values))


def test_merging_equals_digesting_all_together() -> None:
    rng = np.random.default_rng(8)
    parts = [rng.lognormal(3 + i / 10, 0.5, 20_000) for i in range(12)]
    together = np.concatenate(parts)

    merged = merge(digest_of(part) for part in parts)

    assert sum(weight for _, weight in merged) == pytest.approx(len(together))
    assert len(merged) <= 200
    for q in QUANTILES:
        assert rank_error(together, merged, q) <= 2 * allowed(q, len(together)), q


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=2000), st.floats(0, 1))
def test_any_values_keep_their_number_order_and_range(values: list[float], q: float) -> None:
    centroids = digest_of(values)
    means = [mean for mean, _ in centroids]

    assert sum(weight for _, weight in centroids) == len(values)
    assert means == sorted(means)
    assert means[0] == pytest.approx(min(values), rel=1e-9)
    assert means[-1] == pytest.approx(max(values), rel=1e-9)
    assert rank_error(np.array(values), centroids, q) <= allowed(q, len(values))


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(1e-3, 1e6), max_size=300), max_size=5))
def test_any_merge_keeps_its_number_order_and_range(parts: list[list[float]]) -> None:
    merged = merge(digest_of(part) for part in parts)
    everything = sorted(value for part in parts for value in part)
    means = [mean for mean, _ in merged]

    assert sum(weight for _, weight in merged) == pytest.approx(len(everything))
    assert means == sorted(means)
    if everything:
        assert everything[0] * (1 - 1e-9) <= means[0] <= means[-1] <= everything[-1] * (1 + 1e-9)
