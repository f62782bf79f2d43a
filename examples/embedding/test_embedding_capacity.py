"""What the encoder has to sustain, and how much more it would take.

The rates leave a wide margin on two shared cores, which the load generator uses as well. Replace them by
what your production needs, on the hardware it runs on.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_capacity import HttpTarget


@pytest.mark.capacity(qps=15, p99_ms=100)
def test_sustains_the_usual_day(capacity_target: HttpTarget) -> None:
    """15 texts a second; 99 of 100 answered within 100 ms, however long they are."""


def test_how_much_it_takes(capacity_search: Callable[..., object]) -> None:
    """The open question, with a floor: at least the usual day's rate has to come out of it."""
    capacity_search(p99_ms=100, require_qps=15, min_qps=10, max_qps=150, budget_s=60)
