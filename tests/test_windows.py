"""What one probe's window tells of the server that it met."""

from __future__ import annotations

import numpy as np

from pytest_capacity.protocols import Floats, Health, Observation, Probe
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO

P99_50 = SLO(p99_ms=50)
WARM_QPS, COUNT = 200.0, 4_000


def window(rate_qps: float, latency_s: Floats) -> Window:
    """One in which requests came evenly and took so long."""
    probe = Probe(0, "open", rate_qps, max_s=COUNT / rate_qps, settle_s=0.0)
    result = Window(probe, 0.0, P99_50)
    result.add(
        Observation(
            probe_id=0, now_s=COUNT / rate_qps, planned=COUNT, sent=COUNT, in_flight=0, oldest_age_s=0.0,
            health=Health(), intended_s=np.arange(COUNT) / rate_qps, latency_s=latency_s,
            outcome=np.zeros(COUNT, dtype=np.uint8), operation=np.zeros(COUNT, dtype=np.uint16),
        )
    )  # fmt: skip
    return result


def test_a_server_that_takes_twice_as_long_tells_of_the_warm_one_at_twice_the_rate() -> None:
    """Time runs half as fast for it: half the requests a second, each twice as long, are the same queue."""
    latency_s = np.random.default_rng(3).exponential(0.006, COUNT)
    warm, cold = window(WARM_QPS, latency_s), window(WARM_QPS / 2, 2 * latency_s)
    bound = P99_50.latency_bounds[0]
    as_met = cold.levels(bound)

    cold.slowdown = 2.0

    assert cold.levels(bound) == warm.levels(bound)
    assert cold.levels(bound) != as_met
    assert as_met.rate_qps == WARM_QPS / 2


def test_what_was_counted_at_one_slowdown_is_counted_anew_at_another() -> None:
    """How cold the server was is known better later: no count may stay as it was first believed."""
    once = window(WARM_QPS, np.random.default_rng(4).exponential(0.006, COUNT))
    bound = P99_50.latency_bounds[0]

    above = []
    for slowdown in (1.0, 1.2, 1.5, 1.0):
        once.slowdown = slowdown
        above.append(once.levels(bound).above[0])

    assert above[0] > above[1] > above[2]
    assert above[3] == above[0]
