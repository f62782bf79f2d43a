"""What is due when: the open-loop rows that are still to be sent. Pure: it is told the time."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_capacity.protocols import Floats, Ints


@dataclass(slots=True)
class Stretch:
    """Rows that were played at once: ``first_row + i`` is due at ``intended_s[i]``.

    Rows before ``next`` have gone; ``end`` is one past the last that is not withdrawn.
    """

    first_row: int
    intended_s: Sequence[float]
    request_index: Sequence[int]
    next: int
    end: int


def stretch(first_row: int, intended_s: Floats, request_index: Ints, request_count: int) -> Stretch:
    """Make a stretch of columns.

    Raises ValueError where they differ in length, the times do not ascend, or an index has no request.
    """
    check_columns(intended_s, request_index, request_count)
    # Reading a number of an array takes a third of the time that reading one of numpy's takes.
    times = array("d")
    times.frombytes(intended_s.astype("f8").tobytes())
    return Stretch(first_row, times, request_indexes(request_index, request_count), 0, len(times))


def check_columns(intended_s: Floats, request_index: Ints, request_count: int) -> None:
    """Raises ValueError where columns differ in length, times do not ascend, or an index has no request."""
    if len(intended_s) != len(request_index):
        raise ValueError(f"{len(intended_s)} times do not match {len(request_index)} requests")
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

    def play(self, more: Stretch) -> None:
        """Add rows after withdrawing those due at or after the first of them; none given changes nothing."""
        if more.next < more.end:
            self.withdraw_from(more.intended_s[more.next])
            self._stretches.append(more)

    def withdraw_from(self, at_s: float) -> None:
        """Withdraw the rows due at or after ``at_s``."""
        while self._stretches:
            last = self._stretches[-1]
            last.end = bisect_left(last.intended_s, at_s, last.next, last.end)
            if last.end > last.next:
                return
            self._stretches.pop()

    def clear(self) -> None:
        """Withdraw everything."""
        self._stretches.clear()

    def next_due_s(self) -> float | None:
        """When the next row is due; None where there is none."""
        if not self._stretches:
            return None
        first = self._stretches[0]
        return first.intended_s[first.next]

    def pop_due(self, now_s: float) -> tuple[int, float, int] | None:
        """Take the next row that is due: its number, its intended time and its request's index."""
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
