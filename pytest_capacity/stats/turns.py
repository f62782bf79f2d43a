"""The rows of a measurement some of which are due after the replies to others, and in no order known before.

A row's place is settled when its moment has come: rows are put behind each other by when they were due, and
from there on they are rows like others, which ``RowTable`` keeps and makes cohorts of.
"""

from __future__ import annotations

from dataclasses import fields, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Ints, Outcome, Samples, Turns, empty_samples, join_samples
from pytest_capacity.stats.cohorts import Cohorts, RowTable

_COLUMNS = [
    column.name for column in fields(Samples) if column.name not in {"row", "token_times_s", "token_start"}
]
_NONE = -1

_ROW = np.dtype(
    [
        ("intended_s", np.float64),
        ("operation", np.uint16),
        ("next", np.int64),
        ("think_s", np.float64),
        ("answered_s", np.float64),
        ("fate", np.uint8),
        ("place", np.int64),
        ("told", np.bool_),
        ("left", np.bool_),
    ]
)
"""``intended_s`` is NaN while a row waits for another, ``next`` the row that waits for this one,
``answered_s`` NaN until its reply has come and infinite where no good one does, ``place`` its row in the
inner table."""
_EMPTY = np.array((np.nan, 0, _NONE, 0.0, np.nan, 0, _NONE, False, False), dtype=_ROW)


class _Fate(IntEnum):
    OPEN = 0
    """Due, or to be due yet."""
    WITHDRAWN = 1
    OVER = 2
    """Its session ended with a reply that was not good."""


class TurnTable:
    """As ``RowTable``, for rows that wait for replies among others; every method means the same.

    Rows have the numbers that ``plan`` gave them; in what is told and looked at they stand in order of their
    intended times.
    """

    def __init__(self, largest_limit_s: float) -> None:
        self._table = RowTable(largest_limit_s)
        self._count = 0
        self._rows = np.empty(0, dtype=_ROW)
        self._last_of: dict[int, int] = {}
        self._unsettled: Ints = np.empty(0, dtype=np.int64)
        self._settled_until_s = -np.inf
        self._held = empty_samples()

    def __len__(self) -> int:
        return self._count

    @property
    def gave_up(self) -> int:
        """Requests that were sent and ended without a reply."""
        return self._table.gave_up

    def plan(self, intended_s: Floats, operation: npt.NDArray[np.uint16], turns: Turns | None = None) -> int:
        """Add rows that are to be sent; returns the number of the first.

        With ``turns`` those that follow others wait for them, and ``intended_s`` is the earliest for them.
        """
        first = self._count
        self._grow(first + len(intended_s))
        rows = np.arange(first, self._count)
        self._rows["intended_s"][rows] = intended_s
        self._rows["operation"][rows] = operation
        if turns is not None:
            self._link(rows, turns)
        known = ~np.isnan(self._rows["intended_s"][rows])
        self._unsettled = np.concatenate([self._unsettled, rows[known]])
        return first

    def withdraw(self, at_s: float) -> None:
        """Take back the rows due at ``at_s`` or later that have not been sent, and all that wait."""
        rows = self._rows[: self._count]
        unsent = (rows["place"] == _NONE) & ~rows["told"] & (rows["fate"] == _Fate.OPEN)
        # Written so that a row whose time is not known is taken back too.
        rows["fate"][unsent & ~(rows["intended_s"] < at_s)] = _Fate.WITHDRAWN

    def update(self, samples: Samples, now_s: float) -> None:
        """Take rows as the engine reports them, among them all that happened before ``now_s``."""
        samples = join_samples([self._held, _part(samples, slice(None))])
        if len(samples):
            self._grow(int(samples.row.max()) + 1)
            self._tell(samples)
            ended = samples.outcome != Outcome.PENDING
            good = samples.outcome[ended] == Outcome.GOOD
            self._rows["answered_s"][samples.row[ended]] = np.where(good, samples.done_s[ended], np.inf)
            self._follow(samples.row[ended])
        self._settle(now_s)
        settled = self._rows["place"][samples.row] != _NONE
        self._held = _part(samples, ~settled)
        known = _part(samples, settled)
        self._table.update(replace(known, row=self._rows["place"][known.row]), now_s)

    def take_final(self, now_s: float, *, start_s: float, end_s: float = np.inf) -> Cohorts:
        """Tell, once and in order, the cohorts since ``start_s`` that have become final by now."""
        return self._table.take_final(now_s, start_s=start_s, end_s=end_s)

    def all_told(self, end_s: float) -> bool:
        """Whether every row due before ``end_s`` has been told."""
        return self._settled_until_s >= end_s and self._table.all_told(end_s)

    def between(self, start_s: float, end_s: float) -> Samples:
        """The rows due from ``start_s`` to before ``end_s``, as far as their moment has come."""
        return self._table.between(start_s, end_s)

    def have_left(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Which of these rows were told as sent."""
        left = np.zeros(len(rows), dtype=np.bool_)
        left[rows < self._count] = self._rows["left"][rows[rows < self._count]]
        return left

    def due(self, start_s: float, end_s: float) -> int:
        """How many rows were due from ``start_s`` to before ``end_s``, as far as their moment has come."""
        return self._table.due(start_s, end_s)

    def oldest_unanswered_s(self, now_s: float) -> float:
        """The age of the oldest request that was sent and not answered; 0 where there is none."""
        return self._table.oldest_unanswered_s(now_s)

    def due_from_s(self, first: int, until_s: float) -> Floats:
        """When the rows from ``first`` on were due, NaN where that did not come before ``until_s``."""
        rows = self._rows[first : self._count]
        came = (rows["fate"] == _Fate.OPEN) & (rows["intended_s"] < until_s)
        return np.where(came, rows["intended_s"], np.nan)

    def over_from(self, first: int) -> int:
        """How many rows from ``first`` on are never due, since their session ended with a bad reply."""
        return int(np.count_nonzero(self._rows["fate"][first : self._count] == _Fate.OVER))

    def _link(self, rows: Ints, turns: Turns) -> None:
        """Find what each row follows, and when it is due where that has ended already."""
        self._rows["think_s"][rows] = turns.think_s
        pairs = []
        for row, session in zip(rows.tolist(), turns.session.tolist(), strict=True):
            if session >= 0:
                before = self._last_of.get(session, _NONE)
                self._last_of[session] = row
                if before != _NONE:
                    pairs.append((before, row))
        if pairs:
            before, following = np.array(pairs).T
            self._rows["next"][before] = following
            self._rows["intended_s"][following] = np.nan
            self._follow(before)

    def _follow(self, ended: Ints) -> None:
        """Find when the rows are due that follow these, and which sessions are over."""
        rows = self._rows
        while len(ended := ended[rows["next"][ended] != _NONE]):
            following = rows["next"][ended]
            waits = np.isnan(rows["intended_s"][following]) & (rows["fate"][following] == _Fate.OPEN)
            ended, following = ended[waits], following[waits]
            due_s = rows["answered_s"][ended] + rows["think_s"][following]
            over, known = np.isposinf(due_s), np.isfinite(due_s)
            rows["fate"][following[over]] = _Fate.OVER
            rows["answered_s"][following[over]] = np.inf
            rows["intended_s"][following[known]] = due_s[known]
            self._unsettled = np.concatenate([self._unsettled, following[known]])
            ended = following[over]

    def _tell(self, samples: Samples) -> None:
        """Take in when rows were due that are told for the first time, some of them taken back before."""
        rows = samples.row
        first = (self._rows["place"][rows] == _NONE) & ~self._rows["told"][rows]
        self._rows["intended_s"][rows[first]] = samples.intended_s[first]
        self._rows["operation"][rows[first]] = samples.operation[first]
        self._rows["fate"][rows[first]] = _Fate.OPEN
        self._unsettled = np.concatenate([self._unsettled, rows[first]])
        self._rows["told"][rows] = True
        self._rows["left"][rows] = ~np.isnan(samples.sent_s)

    def _settle(self, now_s: float) -> None:
        """Put the rows whose moment has come behind those before."""
        rows = np.unique(self._unsettled)
        rows = rows[self._rows["fate"][rows] == _Fate.OPEN]
        ready = self._rows["intended_s"][rows] < now_s
        self._unsettled = rows[~ready]
        rows = rows[ready]
        rows = rows[np.argsort(self._rows["intended_s"][rows], kind="stable")]
        first = self._table.plan(self._rows["intended_s"][rows], self._rows["operation"][rows])
        self._rows["place"][rows] = first + np.arange(len(rows))
        self._settled_until_s = max(self._settled_until_s, now_s)

    def _grow(self, count: int) -> None:
        capacity = len(self._rows)
        if count > capacity:
            more = max(count, 2 * capacity, 1024) - capacity
            self._rows = np.concatenate([self._rows, np.full(more, _EMPTY)])
        self._count = max(self._count, count)


def _part(samples: Samples, which: npt.NDArray[np.bool_] | slice) -> Samples:
    """Some of the samples, without the times of their tokens."""
    return Samples(row=samples.row[which], **{name: getattr(samples, name)[which] for name in _COLUMNS})
