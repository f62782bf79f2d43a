"""Sessions as data to be followed: each request's predecessor, and how long after its reply it leaves."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_capacity.traffic.pattern import plain_traffic
from pytest_capacity.traffic.scaling import draw, start
from pytest_capacity.traffic.sessions import causal_turns
from tests.traffics import eventful

RECORDED = plain_traffic(np.array([0.0, 1.0, 3.0, 4.0, 9.0]), session=np.array([0, 1, 0, -1, 0]))


def test_a_request_follows_the_one_before_in_its_session() -> None:
    turns = causal_turns(draw(RECORDED, start(RECORDED), RECORDED.rate_qps, RECORDED.cycle_s))

    assert turns.row.tolist() == [0, 1, 2, 3, 4]
    assert turns.predecessor.tolist() == [-1, -1, 0, -1, 2]
    assert turns.session.tolist() == [0, 1, 0, -1, 0]
    assert turns.think_s == pytest.approx([0, 0, 3, 0, 6])
    assert turns.earliest_s == pytest.approx([0, 1, 3, 4, 9])


def test_the_latency_that_was_seen_is_no_time_to_think() -> None:
    stretch = draw(RECORDED, start(RECORDED), RECORDED.rate_qps, RECORDED.cycle_s)

    turns = causal_turns(stretch, latency_s=np.array([0.5, 0.1, 8.0, 0.1, np.nan]))

    # The reply to the third came after the fifth was sent: it leaves right after it, and may do so before
    # the fourth.
    assert turns.row.tolist() == [0, 1, 2, 4, 3]
    assert turns.predecessor.tolist() == [-1, -1, 0, 2, -1]
    assert turns.think_s == pytest.approx([0, 0, 2.5, 0, 0])
    assert turns.earliest_s == pytest.approx([0, 1, 2.5, 2.5, 4])


def test_a_latency_that_is_unknown_counts_as_none() -> None:
    stretch = draw(RECORDED, start(RECORDED), RECORDED.rate_qps, RECORDED.cycle_s)

    assert causal_turns(stretch, np.full(5, np.nan)).think_s == pytest.approx([0, 0, 3, 0, 6])


def test_compressed_time_leaves_less_to_think() -> None:
    """At twice the pace a gap of 3 s is one of 1.5 s, and a recorded wait of 1 s one of 0.5 s."""
    stretch = draw(RECORDED, start(RECORDED), 2 * RECORDED.rate_qps, RECORDED.cycle_s / 2, mode="compress")

    turns = causal_turns(stretch, latency_s=np.array([1.0, 1.0, 2.0, 1.0, 1.0]))

    assert turns.think_s == pytest.approx([0, 0, 1.0, 0, 2.0])


def test_latencies_must_be_those_of_the_recording() -> None:
    stretch = draw(RECORDED, start(RECORDED), RECORDED.rate_qps, RECORDED.cycle_s)

    with pytest.raises(ValueError, match="one value for each row"):
        causal_turns(stretch, np.zeros(3))


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_no_session_of_one_copy_follows_that_of_another(factor: float) -> None:
    traffic = eventful()
    stretch = draw(traffic, start(traffic), traffic.rate_qps * factor, 2 * traffic.cycle_s)

    turns = causal_turns(stretch)

    later = np.nonzero(turns.predecessor >= 0)[0]
    before = turns.predecessor[later]
    rows = stretch.schedule.request_index[turns.row]
    copy = stretch.copy[turns.row]
    assert len(later) > len(rows) / 2
    assert np.all(before < later)
    assert np.all(np.diff(turns.earliest_s) >= 0)
    assert np.array_equal(copy[before], copy[later])
    assert np.array_equal(turns.session[before], turns.session[later])
    assert np.array_equal(traffic.session[rows[before]], traffic.session[rows[later]])
    assert np.all(turns.think_s[later] >= 0)
    recorded_s = traffic.t_s[rows[later]] - traffic.t_s[rows[before]]
    assert turns.think_s[later] == pytest.approx(recorded_s, abs=1e-6)
