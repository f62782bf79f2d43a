"""The plan of open-loop rows: what is due, in which order, and what a new plan withdraws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.load.pacing import Plan, Stretch, stretch

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
