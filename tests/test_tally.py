"""What a probe's requests come to, counted as they are told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.load.rows import Rows, samples_of
from pytest_capacity.load.vitals import LatenessBins
from pytest_capacity.measurement.tally import ProbeTally
from pytest_capacity.protocols import Health, Outcome, Samples


def told(*rows: tuple[int, Outcome, float, float]) -> Samples:
    """Rows as row, outcome, intended and sent time."""
    log = Rows()
    for row, outcome, intended_s, sent_s in rows:
        if outcome is Outcome.PENDING:
            log.sent(row, 0, intended_s, sent_s)
        else:
            log.final(row, 0, intended_s, outcome, sent_s)
    return samples_of(log.take())


def test_only_the_probe_s_own_requests_count() -> None:
    tally = ProbeTally()
    samples = told(
        (0, Outcome.PENDING, 0.5, 0.6), (1, Outcome.PENDING, 1.0, 1.3), (2, Outcome.PENDING, 2.0, 2.0)
    )
    tally.add(samples, np.zeros(3, dtype=np.bool_), 1.0, 2.0)
    health = tally.health(Health(), closed=False, late_by_s=0.2)

    assert tally.sent == 1
    assert health.late_max_s == pytest.approx(0.3)
    assert health.late_share == 1.0


def test_what_was_told_as_sent_and_then_never_left_is_not_sent() -> None:
    tally = ProbeTally()
    nowhere = np.zeros(2, dtype=np.bool_)
    tally.add(told((0, Outcome.PENDING, 0.0, 0.0), (1, Outcome.PENDING, 0.0, 0.0)), nowhere, 0.0, np.inf)
    tally.add(told((0, Outcome.NOT_SENT, 0.0, np.nan)), np.ones(1, dtype=np.bool_), 0.0, np.inf)
    both = told((2, Outcome.PENDING, 0.0, 0.0), (2, Outcome.NOT_SENT, 0.0, np.nan))
    tally.add(both, nowhere, 0.0, np.inf)
    tally.add(told((3, Outcome.NOT_SENT, 0.0, np.nan)), np.zeros(1, dtype=np.bool_), 0.0, np.inf)

    assert (tally.sent, tally.not_sent) == (1, 3)


def test_a_closed_loop_has_nothing_to_be_late_for() -> None:
    tally = ProbeTally()
    tally.add(told((0, Outcome.PENDING, 0.0, 0.5)), np.zeros(1, dtype=np.bool_), 0.0, np.inf)
    health = tally.health(Health(late_p99_s=9.0), closed=True, late_by_s=0.1)

    assert (health.late_p50_s, health.late_p99_s, health.late_max_s, health.late_share) == (0, 0, 0, 0)


@given(st.lists(st.floats(2e-6, 10), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_and_shares_are_right_to_two_percent(late_s: list[float], share: float) -> None:
    bins = LatenessBins()
    bins.add(np.array(late_s[: len(late_s) // 2]))
    bins.add(np.array(late_s[len(late_s) // 2 :]))
    ordered = np.sort(late_s)
    exact_s = float(ordered[max(int(np.ceil(share * len(ordered) - 1e-9)) - 1, 0)])

    assert bins.sent == len(late_s)
    assert exact_s * 0.999 <= bins.quantile(share) <= exact_s * 1.021
    assert bins.share_above(exact_s * 1.03) <= (ordered > exact_s).mean() + 1e-9
    assert bins.share_above(exact_s * 0.97) >= (ordered > exact_s * 0.999).mean() - 1e-9
