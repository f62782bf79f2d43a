"""Samples counted over time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.protocols import Outcome, Samples, empty_samples, join_samples
from pytest_capacity.stats.series import MAX_BINS, rounded, series_of

NAN = math.nan


def samples(*rows: tuple[float, float, float, Outcome], first_row: int = 0) -> Samples:
    """Rows of intended, sent and done time with their outcome; a status where an answer came."""
    intended, sent, done = (np.array([row[i] for row in rows], dtype=float) for i in range(3))
    outcome = np.array([row[3] for row in rows], dtype=np.uint8)
    answered = np.isin(outcome, [Outcome.GOOD, Outcome.BAD_STATUS, Outcome.BAD_REPLY])
    status = np.where(answered, np.where(outcome == Outcome.BAD_STATUS, 500, 200), 0)
    return Samples(
        row=np.arange(first_row, first_row + len(rows)),
        intended_s=intended,
        sent_s=sent,
        first_byte_s=done,
        done_s=done,
        outcome=outcome,
        status=status.astype(np.uint16),
        operation=np.zeros(len(rows), dtype=np.uint16),
        bytes_received=np.zeros(len(rows), dtype=np.int64),
    )


def test_each_second_counts_what_was_due_sent_and_answered_in_it() -> None:
    series = series_of(
        samples(
            (10.0, 10.0, 10.01, Outcome.GOOD),
            (10.2, 10.2, 11.3, Outcome.GOOD),
            (10.9, 11.1, 11.15, Outcome.BAD_STATUS),
            (11.5, 11.5, 11.52, Outcome.GOOD),
            (12.1, 12.1, NAN, Outcome.LATE_UNANSWERED),
            (12.2, NAN, NAN, Outcome.NOT_SENT),
            (12.3, 12.3, NAN, Outcome.CANCELLED),
            (12.4, 12.4, NAN, Outcome.DISCONNECTED),
        ),
        late_after_ms=50,
    )

    assert series["bin_s"] == 1
    assert series["columns"] == {
        "t_s": [0, 1, 2],
        "planned": [3, 1, 4],
        "sent": [2, 2, 3],
        "answered": [1, 3, 0],
        "bad": [2, 0, 2],
        "failed": [1, 0, 1],
        "p50_ms": [1100.0, 20.0, None],
        "p99_ms": [None, 20.0, None],
        "in_flight": [1, 0, 2],
    }


def test_without_a_latency_bound_only_failures_are_bad() -> None:
    columns = series_of(samples((0, 0, 9.0, Outcome.GOOD), (0, 0, NAN, Outcome.TIMEOUT)), late_after_ms=None)[
        "columns"
    ]

    assert columns["bad"] == columns["failed"] == [1] + [0] * 9


def test_a_row_told_twice_counts_as_last_told() -> None:
    told = join_samples([samples((0.0, 0.0, NAN, Outcome.PENDING)), samples((0.0, 0.0, 0.004, Outcome.GOOD))])

    columns = series_of(told, late_after_ms=50)["columns"]

    assert (columns["planned"], columns["answered"], columns["p50_ms"]) == ([1], [1], [4.0])


def test_nothing_at_all_has_no_bins() -> None:
    assert series_of(empty_samples(), late_after_ms=50)["columns"]["t_s"] == []


def test_what_came_before_the_start_is_left_out() -> None:
    table = samples((1.0, 1.0, 1.1, Outcome.GOOD), (5.5, 5.5, 5.6, Outcome.GOOD))

    columns = series_of(table, late_after_ms=50, start_s=5.0)["columns"]

    assert (columns["t_s"], columns["planned"]) == ([0], [1])


@pytest.mark.parametrize(
    ("span_s", "bin_s"), [(1, 1), (119, 1), (119.5, 1), (120, 2), (239, 2), (3600, 60), (500_000, 4167)]
)
def test_bins_widen_with_the_run(span_s: float, bin_s: float) -> None:
    table = samples((0, 0, 0.01, Outcome.GOOD), (span_s, span_s, span_s, Outcome.GOOD))

    series = series_of(table, late_after_ms=50)

    assert series["bin_s"] == bin_s
    assert len(series["columns"]["t_s"]) <= MAX_BINS
    assert sum(series["columns"]["planned"]) == 2


def test_figures_have_four_significant_digits() -> None:
    assert rounded(np.array([12.345678, 0.00123456, 123456.0, np.inf, np.nan, 0.0])) == [
        12.35,
        0.001235,
        123500.0,
        None,
        None,
        0.0,
    ]


OUTCOMES = st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.PENDING])
ROWS = st.tuples(st.floats(0, 400), st.floats(0, 0.5), st.floats(0, 30), OUTCOMES)


@given(st.lists(ROWS, max_size=60))
def test_every_request_is_counted_once(rows: list[tuple[float, float, float, Outcome]]) -> None:
    """Any run: nothing is lost or counted twice, and no column tells of more than was planned."""
    unanswered = {Outcome.LATE_UNANSWERED, Outcome.CANCELLED, Outcome.CONNECT}
    table = samples(
        *(
            (
                intended,
                NAN if outcome is Outcome.NOT_SENT else intended + late,
                NAN if outcome is Outcome.NOT_SENT or outcome in unanswered else intended + late + service,
                outcome,
            )
            for intended, late, service, outcome in rows
        )
    )

    series = series_of(table, late_after_ms=50)
    columns = series["columns"]

    assert {len(columns[name]) for name in columns} == {len(columns["t_s"])}  # type: ignore[literal-required]
    assert sum(columns["planned"]) == len(rows)
    assert sum(columns["sent"]) == sum(outcome is not Outcome.NOT_SENT for *_, outcome in rows)
    assert sum(columns["failed"]) == sum(outcome.failed for *_, outcome in rows)
    assert all(bad <= planned for bad, planned in zip(columns["bad"], columns["planned"], strict=True))
    assert all(count >= 0 for count in columns["in_flight"])
    if rows:
        left = sum(outcome in {Outcome.LATE_UNANSWERED, Outcome.CANCELLED} for *_, outcome in rows)
        assert columns["in_flight"][-1] == left
