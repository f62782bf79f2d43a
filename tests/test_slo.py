"""What an SLO promises and which arguments it refuses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.slo import SLO, Bound, Breach, slo_from_arguments


def test_an_unnamed_error_rate_is_one_percent_and_says_so() -> None:
    slo = SLO(p99_ms=50)

    assert [bound.name for bound in slo.bounds] == ["p99_ms", "error_rate"]
    assert slo.error_rate == 0.01
    assert slo.error_rate_is_default
    assert slo.describe() == "p99 <= 50 ms, errors <= 1 % (default)"


@pytest.mark.parametrize(
    ("name", "allowed_share", "label"),
    [
        ("p50_ms", 0.5, "p50"),
        ("p90_ms", 0.1, "p90"),
        ("p95_ms", 0.05, "p95"),
        ("p99_ms", 0.01, "p99"),
        ("p99_9_ms", 0.001, "p99.9"),
        ("p97_ms", 0.03, "p97"),
        ("p99_95_ms", 0.0005, "p99.95"),
        ("p5_ms", 0.95, "p5"),
    ],
)
def test_any_quantile_can_be_bounded_by_its_name(name: str, allowed_share: float, label: str) -> None:
    (bound,) = SLO(**{name: 40}).latency_bounds

    assert bound.allowed_share == allowed_share
    assert bound.label == label
    assert bound.quantile == pytest.approx(1 - allowed_share)


def test_bounds_stand_in_the_order_of_their_quantiles() -> None:
    slo = SLO(p99_ms=50, p50_ms=10, error_rate=0.002)

    assert [bound.label for bound in slo.bounds] == ["p50", "p99", "error_rate"]
    assert slo.largest_limit_ms == 50
    assert slo.to_dict() == {"p50_ms": 10, "p99_ms": 50, "error_rate": 0.002}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "at least one bound"),
        ({"p99_ms": -5}, ValueError, "p99_ms=-5.0 must be a positive number"),
        ({"p99_ms": 0}, ValueError, "must be a positive"),
        ({"p99_ms": math.nan}, ValueError, "must be a positive"),
        ({"p99_ms": math.inf}, ValueError, "must be a positive"),
        ({"p99_ms": "50"}, TypeError, "p99_ms must be a number, not '50'"),
        ({"p99_ms": True}, TypeError, "p99_ms must be a number"),
        ({"p999_ms": 50}, TypeError, "did you mean 'p99_9_ms'"),
        ({"p99ms": 50}, TypeError, "did you mean 'p99_ms'"),
        ({"p99": 50}, TypeError, "did you mean 'p99_ms'"),
        ({"latency": 50}, TypeError, "unknown bound 'latency'"),
        ({"p0_ms": 50}, ValueError, "no quantile between 0 and 100"),
        ({"error_rate": 0}, ValueError, "can never be shown"),
        ({"error_rate": 1}, ValueError, "below 1"),
        ({"p50_ms": 60, "p99_ms": 50}, ValueError, "p50_ms=60 is looser than p99_ms=50"),
    ],
)
def test_a_bound_that_no_measurement_could_judge_is_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        slo_from_arguments(arguments)


@given(st.floats(0.01, 99.99), st.floats(1e-3, 1e6))
def test_a_quantile_s_name_gives_back_its_share(percent: float, limit_ms: float) -> None:
    digits = f"{percent:.2f}"
    name = f"p{digits.replace('.', '_')}_ms"

    (bound,) = SLO(**{name: limit_ms}).latency_bounds

    assert bound.allowed_share == pytest.approx(1 - float(digits) / 100, abs=1e-9)
    assert bound.limit_ms == limit_ms


def test_a_breach_names_its_bound_its_margin_and_its_interval() -> None:
    late = Breach(Bound("p99_ms", 0.01, 50.0), 0.031, 0.024, 0.039, 71, 64, 80)
    failed = Breach(Bound("error_rate", 0.01), 0.5, 0.4, 0.6)

    assert late.describe() == "p99 > 50 ms: 3.1 % of requests late (2.4-3.9), 1 % allowed"
    assert late.margin == pytest.approx(3.1)
    assert failed.describe() == "error_rate > 1 %: 50 % of requests failed (40-60), 1 % allowed"
