"""Every request of a measurement in columns, and the cohorts in which a controller is told of them.

A cohort is the requests intended in one tick. It is final when each of them is answered, failed, or older
than the largest bound, so that a slow server holds nothing up. Pure: the caller says what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Ints, Outcome, Outcomes, Samples, Turns, empty_samples

TICK_S = 0.25
"""The length of a cohort, and about the time between two observations (design.md section 6)."""

GROWS = 1.15
SLACK_S = 1.0
"""Rows of a closed loop over several workers may stand a little out of order."""

_GAVE_UP = np.array([Outcome.TIMEOUT, Outcome.DISCONNECTED, Outcome.CANCELLED], dtype=np.uint8)

_EMPTY: dict[str, tuple[npt.DTypeLike, float]] = {
    "intended_s": (np.float64, np.nan),
    "sent_s": (np.float64, np.nan),
    "first_byte_s": (np.float64, np.nan),
    "done_s": (np.float64, np.nan),
    "outcome": (np.uint8, Outcome.PENDING),
    "status": (np.uint16, 0),
    "operation": (np.uint16, 0),
    "bytes_received": (np.int64, 0),
}


@dataclass(frozen=True)
class Cohorts:
    """The requests of the cohorts that have become final, in order; columns as in Observation."""

    intended_s: Floats
    latency_s: Floats
    outcome: Outcomes
    operation: npt.NDArray[np.uint16]


class RowTable:
    """The rows of one measurement, from the first intended to the last.

    ``largest_limit_s`` is the age from which an unanswered request is known to be late.
    """

    def __init__(self, largest_limit_s: float) -> None:
        self._limit_s = largest_limit_s
        self._columns = {name: np.empty(0, dtype=dtype) for name, (dtype, _) in _EMPTY.items()}
        self._count = 0
        self._withdrawn = np.empty(0, dtype=np.bool_)
        self._told = 0
        self._ended = 0
        self.gave_up = 0
        """Requests that were sent and ended without a reply."""

    def __len__(self) -> int:
        return self._count

    def plan(self, intended_s: Floats, operation: npt.NDArray[np.uint16], turns: Turns | None = None) -> int:
        """Add rows that are to be sent; returns the number of the first.

        Raises ValueError for ``turns``: rows that wait for replies want a ``TurnTable``.
        """
        if turns is not None:
            raise ValueError("rows that wait for replies cannot stand in a table in order of time")
        first = self._count
        self._grow(first + len(intended_s))
        self._columns["intended_s"][first : self._count] = intended_s
        self._columns["operation"][first : self._count] = operation
        return first

    def withdraw(self, at_s: float) -> None:
        """Take back the rows due at ``at_s`` or later that have not been sent: they never were."""
        part = slice(0, self._count)
        unsent = np.isnan(self._columns["sent_s"][part]) & (self._columns["outcome"][part] == Outcome.PENDING)
        taken_back = unsent & (self._columns["intended_s"][part] >= at_s)
        self._withdrawn[part] |= taken_back
        # What follows is due from at_s on: the column stays ascending.
        self._columns["intended_s"][part][taken_back] = at_s

    def update(self, samples: Samples, now_s: float = -np.inf) -> None:
        """Take rows as the engine reports them by now; rows of a closed loop appear here first."""
        if not len(samples):
            return
        self._grow(int(samples.row.max()) + 1)
        for column in fields(Samples):
            if column.name in self._columns:
                self._columns[column.name][samples.row] = getattr(samples, column.name)
        # What the end of the load found older than the limit is known to be late.
        late = (samples.outcome == Outcome.CANCELLED) & (now_s - samples.intended_s > self._limit_s)
        self._columns["outcome"][samples.row[late]] = Outcome.LATE_UNANSWERED
        self.gave_up += int(np.count_nonzero(np.isin(samples.outcome, _GAVE_UP)))
        if self._withdrawn[samples.row].any():
            self._withdrawn[samples.row] = False
            self._ended = min(self._ended, int(samples.row.min()))

    def take_final(self, now_s: float, *, start_s: float, end_s: float = np.inf) -> Cohorts:
        """Tell, once and in order, the cohorts of the load since ``start_s`` that have become final by now.

        Ticks are counted from ``start_s``. Rows due from ``end_s`` on belong to the next probe; with
        ``now_s`` at or past ``end_s`` a last, shorter tick ends there.
        """
        complete_until = start_s + TICK_S * np.floor((now_s - start_s) / TICK_S + 1e-9)
        if now_s >= end_s:
            complete_until = end_s
        until_s = min(complete_until, end_s)
        last = self._place(until_s + SLACK_S)
        intended = self._columns["intended_s"][self._told : last]
        outcome = self._columns["outcome"][self._told : last]
        known = (outcome != Outcome.PENDING) | (now_s - intended > self._limit_s)
        known |= self._withdrawn[self._told : last]
        count = _first_true(intended >= until_s)
        open_row = _first_true(~known[:count])
        if open_row < count:
            # A tick with one open request is not told yet, nor is any tick after it.
            ticks = np.floor((intended[:count] - start_s) / TICK_S)
            count = _first_true(ticks >= ticks[open_row])
        rows = slice(self._told, self._told + count)
        self._told += count
        return self._cohorts(rows, now_s)

    def all_told(self, end_s: float) -> bool:
        """Whether every row due before ``end_s`` has been told."""
        last = self._place(end_s + SLACK_S)
        return not bool((self._columns["intended_s"][self._told : last] < end_s).any())

    def _cohorts(self, rows: slice, now_s: float) -> Cohorts:
        kept = ~self._withdrawn[rows]
        intended = self._columns["intended_s"][rows][kept]
        outcome = self._columns["outcome"][rows][kept].copy()
        done = self._columns["done_s"][rows][kept]
        outcome[outcome == Outcome.PENDING] = Outcome.LATE_UNANSWERED
        latency = np.where(np.isnan(done), now_s - intended, done - intended)
        # What was sent although it had been withdrawn stands among the rows that took its place.
        order = np.argsort(intended, kind="stable")
        operation = self._columns["operation"][rows][kept]
        return Cohorts(intended[order], latency[order], outcome[order], operation[order])

    def between(self, start_s: float, end_s: float) -> Samples:
        """The rows due from ``start_s`` to before ``end_s``, withdrawn ones left out.

        Where these are all of a stretch the columns are views: they change with the table.
        """
        first, last = self._place(start_s - SLACK_S), self._place(end_s + SLACK_S)
        intended = self._columns["intended_s"][first:last]
        kept = (intended >= start_s) & (intended < end_s) & ~self._withdrawn[first:last]
        rows: Ints = first + np.flatnonzero(kept)
        if not len(rows):
            return empty_samples()
        if len(rows) == rows[-1] - rows[0] + 1:
            stretch = slice(int(rows[0]), int(rows[-1]) + 1)
            return Samples(row=rows, **{name: column[stretch] for name, column in self._columns.items()})
        return Samples(row=rows, **{name: column[rows] for name, column in self._columns.items()})

    def have_left(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Which of these rows were told as sent."""
        known = rows < self._count
        left = np.zeros(len(rows), dtype=np.bool_)
        left[known] = ~np.isnan(self._columns["sent_s"][rows[known]])
        return left

    def due(self, start_s: float, end_s: float) -> int:
        """How many rows were due from ``start_s`` to before ``end_s``, withdrawn ones left out."""
        return self._due_before(end_s) - self._due_before(start_s)

    def _due_before(self, at_s: float) -> int:
        first, last = self._place(at_s - SLACK_S), self._place(at_s + SLACK_S)
        kept = (self._columns["intended_s"][first:last] < at_s) & ~self._withdrawn[first:last]
        withdrawn = int(np.count_nonzero(self._withdrawn[:first]))
        return first - withdrawn + int(np.count_nonzero(kept))

    def oldest_unanswered_s(self, now_s: float) -> float:
        """The age of the oldest request that was sent and not answered; 0 where there is none."""
        last = self._place(now_s + SLACK_S)
        ended = (self._columns["outcome"][self._ended : last] != Outcome.PENDING) | self._withdrawn[
            self._ended : last
        ]
        # What ended once stays so: the search begins where it stopped before.
        self._ended += _first_true(~ended)
        part = slice(self._ended, last)
        sent = ~np.isnan(self._columns["sent_s"][part])
        waiting = sent & (self._columns["outcome"][part] == Outcome.PENDING)
        return now_s - float(self._columns["intended_s"][part][waiting].min()) if waiting.any() else 0.0

    def _place(self, at_s: float) -> int:
        """The first row due at ``at_s`` or later, give or take those of a closed loop's moment."""
        return int(np.searchsorted(self._columns["intended_s"][: self._count], at_s))

    def _grow(self, count: int) -> None:
        capacity = len(self._withdrawn)
        if count > capacity:
            # A constant factor keeps the cost of growing linear in the rows, a small one what is unused.
            more = max(count, int(GROWS * capacity), 1024) - capacity
            for name, (dtype, empty) in _EMPTY.items():
                self._columns[name] = np.concatenate([self._columns[name], np.full(more, empty, dtype=dtype)])
            self._withdrawn = np.concatenate([self._withdrawn, np.zeros(more, dtype=np.bool_)])
        self._count = max(self._count, count)


def _first_true(flags: npt.NDArray[np.bool_]) -> int:
    """The index of the first True, or the length where there is none."""
    return int(flags.argmax()) if flags.any() else len(flags)
