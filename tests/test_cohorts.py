"""A controller is told of every request once, in order, as soon as its tick is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_capacity.protocols import Outcome, Samples
from pytest_capacity.stats.cohorts import RowTable


def told(rows: list[int], intended: list[float], done: list[float], outcome: int = Outcome.GOOD) -> Samples:
    """Samples of rows sent on time; an infinite ``done`` is a row still in the air."""
    finished = np.array(done)
    in_the_air = np.isinf(finished)
    return Samples(
        row=np.array(rows),
        intended_s=np.array(intended),
        sent_s=np.array(intended),
        first_byte_s=np.where(in_the_air, np.nan, finished),
        done_s=np.where(in_the_air, np.nan, finished),
        outcome=np.where(in_the_air, Outcome.PENDING, outcome).astype(np.uint8),
        status=np.full(len(rows), 200, dtype=np.uint16),
        operation=np.zeros(len(rows), dtype=np.uint16),
        bytes_received=np.zeros(len(rows), dtype=np.int64),
    )


def planned(*intended: float, limit_s: float = 0.5) -> RowTable:
    table = RowTable(limit_s)
    table.plan(np.array(intended), np.zeros(len(intended), dtype=np.uint16))
    return table


def test_a_tick_is_told_when_each_of_its_requests_is_answered() -> None:
    table = planned(0.0, 0.1, 0.3)
    table.update(told([0], [0.0], [0.05]))

    assert len(table.take_final(0.25, start_s=0.0).intended_s) == 0
    table.update(told([1], [0.1], [0.26]))
    cohorts = table.take_final(0.27, start_s=0.0)

    assert cohorts.intended_s.tolist() == [0.0, 0.1]
    assert np.allclose(cohorts.latency_s, [0.05, 0.16])
    assert cohorts.outcome.tolist() == [Outcome.GOOD, Outcome.GOOD]


def test_a_request_older_than_the_limit_is_late_and_holds_nothing_up() -> None:
    table = planned(0.0, 0.1, limit_s=0.5)
    table.update(told([0, 1], [0.0, 0.1], [np.inf, 0.12]))

    assert len(table.take_final(0.5, start_s=0.0).intended_s) == 0
    cohorts = table.take_final(0.75, start_s=0.0)

    assert cohorts.outcome.tolist() == [Outcome.LATE_UNANSWERED, Outcome.GOOD]
    assert cohorts.latency_s[0] == 0.75


def test_what_the_end_of_the_load_cuts_off_is_late_where_it_is_older_than_the_limit() -> None:
    table = planned(0.0, 0.9, limit_s=0.5)
    cut = told([0, 1], [0.0, 0.9], [np.inf, np.inf])
    table.update(replace(cut, outcome=np.full(2, Outcome.CANCELLED, dtype=np.uint8)), 1.0)

    seen = table.between(0.0, 1.0)

    assert seen.outcome.tolist() == [Outcome.LATE_UNANSWERED, Outcome.CANCELLED]


def test_a_request_that_never_left_ages_all_the_same() -> None:
    table = planned(0.0, limit_s=0.1)

    assert table.take_final(0.25, start_s=0.0).outcome.tolist() == [Outcome.LATE_UNANSWERED]


def test_an_open_tick_holds_back_the_ticks_after_it() -> None:
    table = planned(0.0, 0.3, limit_s=5)
    table.update(told([1], [0.3], [0.31]))

    assert len(table.take_final(0.5, start_s=0.0).intended_s) == 0


def test_withdrawn_rows_are_never_told_and_the_next_probe_follows_without_a_gap() -> None:
    table = planned(0.0, 0.2, 0.4, 0.6)
    table.update(told([0], [0.0], [0.01]))
    table.withdraw(0.3)
    first = table.plan(np.array([0.35, 0.5]), np.zeros(2, dtype=np.uint16))
    table.update(told([1, first, first + 1], [0.2, 0.35, 0.5], [0.22, 0.36, 0.51]))

    old = table.take_final(0.6, start_s=0.0, end_s=0.3)
    new = table.take_final(0.6, start_s=0.3)

    assert first == 4
    assert old.intended_s.tolist() == [0.0, 0.2]
    assert table.all_told(0.3)
    assert new.intended_s.tolist() == [0.35, 0.5]
    assert len(table.between(0.0, 1.0)) == 4


def test_rows_of_a_closed_loop_appear_as_they_are_sent() -> None:
    table = RowTable(1.0)
    table.update(told([0, 1], [0.05, 0.06], [0.1, np.inf]))

    assert len(table) == 2
    assert np.isclose(table.oldest_unanswered_s(0.16), 0.1)


@given(
    gaps=st.lists(st.floats(0.0001, 0.2), min_size=1, max_size=60),
    latencies=st.lists(st.floats(0.001, 2), min_size=60, max_size=60),
    step=st.floats(0.05, 0.6),
)
def test_every_request_is_told_exactly_once_in_order(
    gaps: list[float], latencies: list[float], step: float
) -> None:
    intended = np.cumsum(gaps)
    done = intended + np.array(latencies[: len(gaps)])
    table = planned(*intended, limit_s=0.5)
    seen: list[float] = []
    late = 0
    now = 0.0
    reported = np.zeros(len(gaps), dtype=bool)
    while now < intended[-1] + 3:
        now += step
        fresh = (done <= now) & ~reported
        reported |= fresh
        table.update(told(np.flatnonzero(fresh).tolist(), intended[fresh].tolist(), done[fresh].tolist()))
        cohorts = table.take_final(now, start_s=0.0)
        seen.extend(cohorts.intended_s.tolist())
        late += int((cohorts.outcome == Outcome.LATE_UNANSWERED).sum())
        assert np.all(cohorts.latency_s[cohorts.outcome == Outcome.LATE_UNANSWERED] > 0.5)

    assert seen == intended.tolist()
    assert late <= int((done - intended > 0.5).sum())


@example([(3.0, 0.0, True, False), (3.0, 0.0, False, False)], 0.0, 3.0)
@example([(2.0, 0.0, True, False)], 0.0, 0.0)
@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.floats(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=40
    ),
    st.floats(0, 4),
    st.floats(0, 4),
)
def test_looks_at_a_part_of_the_table_agree_with_a_look_at_all_of_it(
    drawn: list[tuple[float, float, bool, bool]], one: float, other: float
) -> None:
    intended = sorted(row[0] for row in drawn)
    table = planned(*intended)
    sent = [i for i, row in enumerate(drawn) if row[2]]
    done = [intended[i] + drawn[i][1] if drawn[i][3] else np.inf for i in sent]
    table.update(told(sent, [intended[i] for i in sent], done))
    table.withdraw(2.5)
    start_s, end_s = min(one, other), max(one, other)
    # What was withdrawn counts as due at 2.5, where the next probe begins.
    kept = [i for i, at_s in enumerate(intended) if i in sent or at_s < 2.5]
    inside = [i for i in kept if start_s <= intended[i] < end_s]

    assert table.between(start_s, end_s).row.tolist() == inside
    assert table.due(start_s, end_s) == len(inside)
    for now_s in (1.0, 3.5):
        open_at_s = [
            intended[i]
            for i, end in zip(sent, done, strict=True)
            if np.isinf(end) and intended[i] < now_s + 1
        ]
        oldest_s = now_s - min(open_at_s) if open_at_s else 0.0
        assert table.oldest_unanswered_s(now_s) == oldest_s
    assert table.have_left(np.arange(len(drawn) + 3)).tolist() == [i in sent for i in range(len(drawn) + 3)]


def test_a_withdrawn_row_that_left_all_the_same_is_told_in_order_with_those_that_took_its_place() -> None:
    """The word to stop reached the engine after the moment from which the next probe's rows are due."""
    table = planned(0.0, 0.1, 0.22)
    table.withdraw(0.2)
    first = table.plan(np.array([0.2, 0.21]), np.zeros(2, dtype=np.uint16))
    rows, intended = [0, 1, 2, first, first + 1], [0.0, 0.1, 0.22, 0.2, 0.21]
    table.update(told(rows, intended, [at_s + 0.01 for at_s in intended]))

    assert table.take_final(0.25, start_s=0.0, end_s=0.2).intended_s.tolist() == [0.0, 0.1]
    assert table.take_final(0.5, start_s=0.2).intended_s.tolist() == [0.2, 0.21, 0.22]
