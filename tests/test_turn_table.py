"""Rows that wait for replies are told once, in the order in which they fell due, as those of a schedule."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.protocols import Outcome, Samples, Turns, empty_samples
from pytest_capacity.stats.turns import TurnTable
from tests.test_cohorts import told
from tests.test_pacing import by_earliest


def planned(
    times: list[float], session: list[int], think_s: list[float], *, limit_s: float = 0.5
) -> TurnTable:
    table = TurnTable(limit_s)
    plan(table, times, session, think_s)
    return table


def plan(table: TurnTable, times: list[float], session: list[int], think_s: list[float]) -> int:
    operation = np.zeros(len(times), dtype=np.uint16)
    turns = Turns(np.array(session, dtype=np.int64), np.array(think_s, dtype=float))
    return table.plan(np.array(times), operation, turns)


def ended(row: int, intended_s: float, done_s: float, outcome: Outcome = Outcome.GOOD) -> Samples:
    return told([row], [intended_s], [done_s], outcome)


def test_a_turn_counts_as_due_after_the_reply_it_follows_and_in_that_order() -> None:
    table = planned([0.0, 0.1, 0.15], [0, 0, -1], [0, 0.05, 0])
    table.update(ended(0, 0.0, 0.2), 0.24)
    table.update(told([2], [0.15], [0.16]), 0.24)

    assert table.due(0.0, 0.24) == 2
    table.update(ended(1, 0.25, 0.3), 0.5)
    cohorts = table.take_final(0.5, start_s=0.0)

    assert cohorts.intended_s.tolist() == [0.0, 0.15, 0.25]
    assert np.allclose(cohorts.latency_s, [0.2, 0.01, 0.05])
    assert table.due_from_s(0, 0.5).tolist() == [0.0, 0.25, 0.15]
    assert table.all_told(0.5)


def test_a_turn_that_is_due_and_does_not_leave_ages() -> None:
    table = planned([0.0, 0.0], [0, 0], [0, 0.1], limit_s=0.2)
    table.update(ended(0, 0.0, 0.1), 0.5)

    assert table.take_final(0.5, start_s=0.0).outcome.tolist() == [Outcome.GOOD, Outcome.LATE_UNANSWERED]


def test_the_turns_of_a_session_that_failed_are_never_due() -> None:
    table = planned([0.0, 0.0, 0.1, 0.2], [0, 1, 0, 0], [0, 0, 0.1, 0.1])
    table.update(ended(0, 0.0, 0.1, Outcome.BAD_STATUS), 0.3)
    plan(table, [1.0, 1.0], [0, 1], [0.1, 0.1])
    table.update(ended(1, 0.0, 1.0), 9.0)

    assert table.over_from(0) == 3
    assert table.over_from(4) == 1
    assert table.due(0.0, 9.0) == 3
    assert table.due_from_s(2, 9.0).tolist()[3] == 1.1


def test_what_waits_when_a_probe_ends_is_withdrawn_unless_it_left_all_the_same() -> None:
    table = planned([0.0, 0.0, 0.1, 0.1], [0, 1, 0, 1], [0, 0, 0.1, 0.1])
    table.update(told([0, 1], [0.0, 0.0], [np.inf, np.inf]), 0.25)
    table.withdraw(0.26)
    first = table.plan(np.array([0.26, 0.4]), np.zeros(2, dtype=np.uint16))
    # The one reply came just before the word to stop reached the engine.
    table.update(ended(0, 0.0, 0.151), 0.25)
    table.update(ended(1, 0.0, 0.4), 0.25)
    table.update(told([2, first, first + 1], [0.251, 0.26, 0.4], [0.252, 0.27, 0.41]), 0.51)

    assert table.take_final(0.51, start_s=0.0, end_s=0.26).intended_s.tolist() == [0.0, 0.0, 0.251]
    assert table.take_final(0.51, start_s=0.26).intended_s.tolist() == [0.26, 0.4]
    assert np.isnan(table.due_from_s(0, 0.51)).tolist() == [False, False, False, True, False, False]


def test_rows_of_a_closed_loop_appear_as_they_are_sent() -> None:
    table = TurnTable(1.0)
    table.update(told([0, 1], [0.05, 0.06], [0.1, np.inf]), 0.16)

    assert len(table) == 2
    assert np.isclose(table.oldest_unanswered_s(0.16), 0.1)
    assert table.have_left(np.array([0, 1, 5])).tolist() == [True, True, False]


def test_what_was_sent_after_the_report_s_moment_is_kept_for_the_next() -> None:
    """Between it and that moment another reply may have come, whose next turn is due before."""
    table = planned([0.0, 0.3], [-1, -1], [0, 0])
    table.update(told([0, 1], [0.0, 0.3], [0.1, np.inf]), 0.29)

    assert table.due(0.0, 1.0) == 1
    assert table.have_left(np.array([0, 1])).tolist() == [True, True]
    table.update(empty_samples(), 0.5)
    assert table.due(0.0, 1.0) == 2
    assert np.isclose(table.oldest_unanswered_s(0.5), 0.2)


@given(
    drawn=st.lists(st.tuples(st.integers(-1, 4), st.floats(0, 0.4)), min_size=1, max_size=40),
    latencies=st.lists(st.floats(0.001, 1.5), min_size=40, max_size=40),
    fails=st.sets(st.integers(0, 39), max_size=3),
    step=st.floats(0.05, 0.6),
    piece=st.integers(1, 40),
)
def test_every_row_is_told_exactly_once_in_order_whatever_follows_what(
    drawn: list[tuple[int, float]], latencies: list[float], fails: set[int], step: float, piece: int
) -> None:
    drawn, earliest = by_earliest(drawn)
    truth, over = play_out(drawn, earliest, latencies, fails)
    table = TurnTable(0.5)
    given_rows, now, seen = 0, -1.0, list[float]()
    reported = np.zeros(len(drawn), dtype=bool)
    done = truth + np.array(latencies[: len(drawn)])
    while now < np.nanmax(truth) + 4 or given_rows < len(drawn):
        now += step
        while given_rows < len(drawn) and earliest[given_rows] < now + 1:
            part = slice(given_rows, given_rows + piece)
            sessions, think_s = zip(*drawn[part], strict=True)
            plan(table, earliest[part], list(sessions), list(think_s))
            given_rows += len(sessions)
        fresh = (done < now) & ~reported
        reported |= fresh
        for row in np.flatnonzero(fresh).tolist():
            outcome = Outcome.BAD_STATUS if row in fails else Outcome.GOOD
            table.update(ended(row, truth[row], done[row], outcome), -1.0)
        table.update(empty_samples(), now)
        seen.extend(table.take_final(now, start_s=0.0).intended_s.tolist())

    assert seen == sorted(truth[~np.isnan(truth)].tolist())
    assert table.over_from(0) == over == int(np.isnan(truth).sum())


def play_out(
    drawn: list[tuple[int, float]], earliest: list[float], latencies: list[float], fails: set[int]
) -> tuple[np.ndarray, int]:
    """When rows were due (NaN: never), and how many never were."""
    truth = np.full(len(drawn), np.nan)
    last: dict[int, int] = {}
    failed: set[int] = set()
    for row, (session, think_s) in enumerate(drawn):
        before = last.get(session) if session >= 0 else None
        last[session] = row
        if before is None:
            truth[row] = earliest[row]
        elif before in fails or before in failed:
            failed.add(row)
        else:
            truth[row] = truth[before] + latencies[before] + think_s
    return truth, len(failed)
