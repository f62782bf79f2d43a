"""The plan of open-loop rows: what is due, in which order, and what a new plan withdraws."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.load.pacing import Plan, Stretch, stretch
from pytest_capacity.protocols import Turns

TIMES = st.lists(st.integers(0, 20).map(float), max_size=15).map(sorted)


def rows(first_row: int, times: list[float]) -> Stretch:
    return stretch(first_row, np.array(times, dtype=float), np.zeros(len(times), dtype=np.int64), 1)


def drain(plan: Plan, now_s: float = 1e9) -> list[tuple[int, float]]:
    taken = []
    while (due := plan.pop_due(now_s)) is not None:
        taken.append(due[:2])
    return taken


def test_rows_come_in_order_and_only_when_due() -> None:
    plan = Plan()
    plan.play(rows(5, [1.0, 2.0, 3.0]))

    assert plan.next_due_s() == 1.0
    assert drain(plan, 2.0) == [(5, 1.0), (6, 2.0)]
    assert plan.next_due_s() == 3.0
    assert drain(plan) == [(7, 3.0)]
    assert plan.next_due_s() is None


@pytest.mark.parametrize(
    ("times", "gap_s"), [([1.0, 2.0, 4.0], 1.5), ([3.0, 3.0], 0.0), ([1.0], math.inf), ([], math.inf)]
)
def test_the_mean_gap_is_that_between_rows(times: list[float], gap_s: float) -> None:
    assert rows(0, times).mean_gap_s() == gap_s


@given(st.lists(TIMES, max_size=5), st.integers(0, 20))
def test_a_new_play_withdraws_exactly_the_rows_due_at_or_after_its_start(
    plays: list[list[float]], popped_until: int
) -> None:
    plan = Plan()
    expected: list[tuple[int, float]] = []
    taken: list[tuple[int, float]] = []
    for number, times in enumerate(plays):
        plan.play(rows(100 * number, times))
        if times:
            expected = [row for row in expected if row[1] < times[0]]
        expected += [(100 * number + i, at_s) for i, at_s in enumerate(times)]
        if number == 1:
            taken = drain(plan, popped_until)
            assert taken == [row for row in expected if row[1] <= popped_until]
            expected = [row for row in expected if row[1] > popped_until]

    assert drain(plan) == expected


@given(TIMES, st.floats(0, 20))
def test_withdrawing_keeps_what_is_due_before(times: list[float], at_s: float) -> None:
    plan = Plan()
    plan.play(rows(0, times))
    plan.withdraw_from(at_s)

    assert [due_s for _, due_s in drain(plan)] == [due_s for due_s in times if due_s < at_s]


@pytest.mark.parametrize(
    ("times", "indexes", "message"),
    [
        ([1.0, 2.0], [0], "2 times do not match 1 requests"),
        ([2.0, 1.0], [0, 0], "must ascend"),
        ([1.0, float("nan")], [0, 0], "must ascend"),
        ([1.0], [3], "outside the 3 requests"),
        ([1.0], [-1], "outside the 3 requests"),
    ],
)
def test_columns_that_do_not_fit_are_refused(times: list[float], indexes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stretch(0, np.array(times), np.array(indexes), 3)


def turns(first_row: int, times: list[float], session: list[int], think_s: list[float]) -> Stretch:
    index = np.zeros(len(times), dtype=np.int64)
    return stretch(first_row, np.array(times), index, 1, Turns(np.array(session), np.array(think_s)))


def test_a_turn_is_due_a_while_after_the_reply_to_the_one_before() -> None:
    plan = Plan()
    plan.play(turns(5, [1.0, 1.5, 2.0, 3.0], [7, -1, 7, 7], [0, 0, 0.75, 0.5]))

    assert drain(plan, 10.0) == [(5, 1.0), (6, 1.5)]
    assert plan.next_due_s() is None
    assert plan.ended(5, 12.0)
    assert (plan.next_due_s(), drain(plan, 12.7)) == (12.75, [])
    assert drain(plan, 12.75) == [(7, 12.75)]
    assert plan.ended(7, 13.0)
    assert drain(plan) == [(8, 13.5)]


def test_a_turn_that_is_played_after_the_reply_came_is_due_after_it_all_the_same() -> None:
    plan = Plan()
    plan.play(turns(0, [1.0], [0], [0]))
    assert drain(plan, 1.0) == [(0, 1.0)]
    assert not plan.ended(0, 1.25)

    plan.play(turns(1, [1.5, 1.6], [0, 1], [0.5, 0]))

    assert drain(plan) == [(2, 1.6), (1, 1.75)]


def test_turns_that_wait_outlast_the_next_play() -> None:
    plan = Plan()
    plan.play(turns(0, [0.0, 1.0], [0, 0], [0, 1.0]))
    assert drain(plan, 2.0) == [(0, 0.0)]

    plan.play(turns(2, [2.5], [1], [0]))
    plan.ended(0, 9.0)

    assert drain(plan) == [(2, 2.5), (1, 10.0)]


def test_a_session_ends_where_a_reply_fails() -> None:
    plan = Plan()
    plan.play(turns(0, [0.0, 0.0, 1.0, 1.0], [0, 1, 0, 1], [0, 0, 1.0, 1.0]))
    assert len(drain(plan, 5.0)) == 2

    assert not plan.ended(0, None)
    assert plan.ended(1, 5.0)
    plan.play(turns(4, [5.5, 5.5], [0, 1], [0, 0]))

    assert drain(plan, 6.0) == [(3, 6.0)]
    assert plan.ended(3, 6.5)
    assert drain(plan) == [(5, 6.5)]


def test_withdrawing_keeps_turns_that_fall_due_before_and_no_others() -> None:
    plan = Plan()
    plan.play(turns(0, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0, 1, 2, 0, 1, 2], [0, 0, 0, 1.0, 2.0, 1.0]))
    assert len(drain(plan, 5.0)) == 3
    plan.ended(0, 5.0)
    plan.ended(1, 5.0)

    plan.withdraw_from(6.5)
    plan.ended(2, 5.75)
    plan.play(turns(10, [6.5, 6.5], [1, 1], [0, 0]))

    assert drain(plan) == [(3, 6.0), (10, 6.5)]
    plan.ended(3, 6.1)
    plan.ended(10, 8.0)
    assert drain(plan) == [(11, 8.0)]


@given(
    st.lists(st.tuples(st.integers(-1, 4), st.floats(0, 2)), max_size=30),
    st.lists(st.floats(0, 3), min_size=30, max_size=30),
    st.integers(1, 5),
)
def test_every_turn_leaves_once_after_the_reply_it_follows_and_never_before_its_earliest(
    drawn: list[tuple[int, float]], latency_s: list[float], piece: int
) -> None:
    """Whatever the pieces in which the rows are played, each a second before its rows may be due."""
    drawn, times = by_earliest(drawn)
    plan, sent, ends = Plan(), dict[int, float](), list[tuple[float, int]]()
    # Rows due at one moment are played at once: a play replaces what was due then.
    cuts = [0, *(i for i in range(piece, len(times), piece) if times[i] > times[i - 1]), len(times)]
    for first, end in pairwise(cuts if times else []):
        part = slice(first, end)
        play_until(plan, times[first] - 1.0, sent, ends, latency_s)
        plan.play(turns(first, times[part], [s for s, _ in drawn[part]], [t for _, t in drawn[part]]))
    play_until(plan, 1e9, sent, ends, latency_s)

    assert sorted(sent) == list(range(len(drawn)))
    before: dict[int, int] = {}
    for row, (session, think_s) in enumerate(drawn):
        assert sent[row] >= times[row] - 1e-9
        if session >= 0 and session in before:
            replied_s = sent[before[session]] + latency_s[before[session]]
            assert sent[row] == replied_s + think_s
        else:
            assert sent[row] == times[row]
        before[session] = row


def by_earliest(drawn: list[tuple[int, float]]) -> tuple[list[tuple[int, float]], list[float]]:
    """Rows as session and time to think, in order of the earliest times that may be, and those."""
    last: dict[int, float] = {}
    timed = []
    for number, (session, think_s) in enumerate(drawn):
        last[session] = last.get(session, 0.0) + think_s
        timed.append((last[session], number))
    return [drawn[number] for _, number in sorted(timed)], sorted(at_s for at_s, _ in timed)


def play_until(
    plan: Plan, until_s: float, sent: dict[int, float], ends: list[tuple[float, int]], latency_s: list[float]
) -> None:
    """Play a plan against a server whose replies take as long as told, event by event."""
    while True:
        due_s = plan.next_due_s()
        end = min(ends, default=(np.inf, -1))
        now_s = min(end[0], np.inf if due_s is None else due_s)
        if now_s > until_s or now_s == np.inf:
            return
        if end[0] == now_s:
            ends.remove(end)
            plan.ended(end[1], end[0])
            continue
        due = plan.pop_due(now_s)
        if due is not None:
            row, at_s, _ = due
            assert row not in sent
            sent[row] = at_s
            ends.append((at_s + latency_s[row], row))


@pytest.mark.parametrize(
    ("session", "think_s", "message"),
    [
        ([0], [0.0], "the turns of 1 rows do not match 2 times"),
        ([0, 0], [0.0, -1.0], "a time to think must be 0 or more"),
        ([0, 0], [0.0, np.nan], "a time to think must be 0 or more"),
    ],
)
def test_turns_that_do_not_fit_are_refused(session: list[int], think_s: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        turns(0, [0.0, 1.0], session, think_s)
