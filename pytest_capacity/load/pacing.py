"""What is due when: the open-loop rows that are still to be sent. Pure: it is told the time."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_capacity.load.turns import Columns, Crowd, Following
from pytest_capacity.protocols import Floats, Ints, Turns


@dataclass(slots=True)
class Stretch:
    """Rows that were played at once: ``first_row + i`` is due at ``intended_s[i]``.

    Rows before ``next`` have gone; ``end`` is one past the last that is not withdrawn. With ``turns`` some
    rows wait for replies, and their times are the earliest that may be.
    """

    first_row: int
    intended_s: Sequence[float]
    request_index: Sequence[int]
    next: int
    end: int
    turns: Columns | None = None

    def mean_gap_s(self) -> float:
        """The mean time between the rows that are left; infinite for one row or none."""
        if self.end - self.next < 2:
            return math.inf
        return (self.intended_s[self.end - 1] - self.intended_s[self.next]) / (self.end - self.next - 1)


def stretch(
    first_row: int, intended_s: Floats, request_index: Ints, request_count: int, turns: Turns | None = None
) -> Stretch:
    """Make a stretch of columns.

    Raises ValueError where they differ in length, the times do not ascend, an index has no request, or a
    time to think is none.
    """
    check_columns(intended_s, request_index, request_count, turns)
    # Reading a number of an array takes a third of the time that reading one of numpy's takes.
    times = array("d")
    times.frombytes(intended_s.astype("f8").tobytes())
    indexes = request_indexes(request_index, request_count)
    columns = None
    if turns is not None:
        session, think_s = array("q"), array("d")
        session.frombytes(turns.session.astype("i8").tobytes())
        think_s.frombytes(turns.think_s.astype("f8").tobytes())
        columns = Columns(session, think_s)
    return Stretch(first_row, times, indexes, 0, len(times), columns)


def check_columns(
    intended_s: Floats, request_index: Ints, request_count: int, turns: Turns | None = None
) -> None:
    """Raises ValueError where columns differ in length, times do not ascend, or an index has no request."""
    if len(intended_s) != len(request_index):
        raise ValueError(f"{len(intended_s)} times do not match {len(request_index)} requests")
    if turns is not None:
        if not len(turns.session) == len(turns.think_s) == len(intended_s):
            raise ValueError(f"the turns of {len(turns.session)} rows do not match {len(intended_s)} times")
        if not bool((turns.think_s >= 0).all() and np.isfinite(turns.think_s).all()):
            raise ValueError("a time to think must be 0 or more")
    # Written so that a NaN is refused too.
    if not bool((intended_s[1:] >= intended_s[:-1]).all()):
        raise ValueError("intended times must ascend")
    _check_indexes(request_index, request_count)


def _check_indexes(request_index: Ints, request_count: int) -> None:
    if len(request_index) and not 0 <= int(request_index.min()) <= int(request_index.max()) < request_count:
        raise ValueError(f"a request index lies outside the {request_count} requests")


def request_indexes(request_index: Ints, request_count: int) -> array[int]:
    """Indexes into the requests, checked. Raises ValueError where one has no request."""
    _check_indexes(request_index, request_count)
    indexes = array("q")
    indexes.frombytes(request_index.astype("i8").tobytes())
    return indexes


class Plan:
    """Rows in the order of their intended times, which ascend. Times are the session's seconds."""

    def __init__(self) -> None:
        self._stretches: deque[Stretch] = deque()
        self._following = Following()
        self._due = self._following.due
        self._crowd = Crowd()
        self.follows = False
        """Whether some rows wait for replies: ``ended`` must be told then."""

    def play(self, more: Stretch) -> None:
        """Add rows after withdrawing those due at or after the first of them; none given changes nothing.

        Where ``more`` has turns, those that wait for replies stay.
        """
        if more.next < more.end:
            self.withdraw_from(more.intended_s[more.next], turns_stay=more.turns is not None)
            if more.turns is not None:
                if self._crowd.is_withdrawn:
                    self._crowd = Crowd()
                more.turns.crowd = self._crowd
                self.follows = True
            self._stretches.append(more)

    def withdraw_from(self, at_s: float, *, turns_stay: bool = False) -> None:
        """Withdraw the rows due at or after ``at_s``, those that would become due then included.

        With ``turns_stay`` those turns stay whose earliest time has come.
        """
        if self.follows and not turns_stay:
            self._following.withdraw_from(self._crowd, at_s)
        while self._stretches:
            last = self._stretches[-1]
            last.end = bisect_left(last.intended_s, at_s, last.next, last.end)
            if last.end > last.next:
                return
            self._stretches.pop()

    def clear(self) -> None:
        """Withdraw everything."""
        self._stretches.clear()
        self._following.clear()
        self._crowd = Crowd()
        self.follows = False

    def next_due_s(self) -> float | None:
        """When to look for the next row that is due; None where there is none."""
        if self._due:
            return self._next_of_both_s()
        if not self._stretches:
            return None
        first = self._stretches[0]
        return first.intended_s[first.next]

    def pop_due(self, now_s: float) -> tuple[int, float, int] | None:
        """Take the next row that is due: its number, its intended time and its request's index."""
        if self.follows:
            return self._pop_following(now_s)
        if not self._stretches:
            return None
        first = self._stretches[0]
        i = first.next
        if first.intended_s[i] > now_s:
            return None
        first.next = i + 1
        if first.next == first.end:
            self._stretches.popleft()
        return first.first_row + i, first.intended_s[i], first.request_index[i]

    def ended(self, row: int, done_s: float | None) -> bool:
        """Tell when a row was answered well, None where it was not; True where the next row is another."""
        return self._following.ended(row, done_s)

    def _next_of_both_s(self) -> float:
        turn_s = self._due[0][0]
        if not self._stretches:
            return turn_s
        first = self._stretches[0]
        return min(turn_s, first.intended_s[first.next])

    def _pop_following(self, now_s: float) -> tuple[int, float, int] | None:
        while (due_s := self.next_due_s()) is not None and due_s <= now_s:
            if self._due and self._due[0][0] == due_s:
                due_s, row, index = self._following.pop()
                return row, due_s, index
            first = self._stretches[0]
            i = first.next
            first.next = i + 1
            if first.next == first.end:
                self._stretches.popleft()
            due = (due_s, first.first_row + i, first.request_index[i])
            turns = first.turns
            if turns is None or turns.session[i] < 0:
                return due[1], due_s, due[2]
            if self._following.reach(due, turns.session[i], turns.think_s[i], turns.crowd):
                return due[1], due_s, due[2]
        return None
