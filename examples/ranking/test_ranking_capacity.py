"""What the ranker has to sustain.

The rates leave a wide margin on two shared cores, which the load generator uses as well. Replace them by
what your production needs, on the hardware it runs on.
"""

from __future__ import annotations

import pytest

from pytest_capacity import SLO, Capacity, HttpTarget


@pytest.mark.capacity(qps=100, p99_ms=50)
def test_sustains_the_evening_peak(capacity_target: HttpTarget) -> None:
    """100 requests a second; 99 of 100 answered within 50 ms, counted from when each was due."""


@pytest.mark.capacity(qps=80, p50_ms=20, p99_ms=50, error_rate=0.005)
def test_keeps_every_promise_on_a_usual_day(capacity_target: HttpTarget) -> None:
    """Several bounds at once: each one that breaks is named, with its margin."""


def test_half_of_the_users_hardly_wait(capacity: Capacity) -> None:
    """The same in code, where the result can be used."""
    result = capacity.sustain(qps=100, slo=SLO(p99_ms=50))

    assert result.p50_ms < 20
