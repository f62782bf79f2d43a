"""Rows that wait for a reply: the turns of sessions, each due when the one before has been answered.

Pure: it is told what ends, and when. Times are the session's seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

Due = tuple[float, int, int]
"""When a row is due, the row, and its request's index."""


@dataclass(slots=True)
class Crowd:
    """Sessions that were played since the last pause; what falls due at or after ``until_s`` is withdrawn."""

    until_s: float = math.inf
    sessions: dict[int, _Session] = field(default_factory=dict)

    @property
    def is_withdrawn(self) -> bool:
        """Whether sessions that are played from now on are others."""
        return self.until_s < math.inf


@dataclass(slots=True)
class Columns:
    """What a stretch of rows knows of sessions, row by row: see ``Turns``."""

    session: Sequence[int]
    think_s: Sequence[float]
    crowd: Crowd = field(default_factory=Crowd)


class _Session:
    """``ended_s`` is when its last turn was answered, NaN while one is due or in the air."""

    __slots__ = ("crowd", "ended_s", "over", "waiting")

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.ended_s = math.nan
        self.over = False
        self.waiting: deque[tuple[int, float, int]] | None = None


class Following:
    """Which turns are due and which wait.

    ``due`` is a heap: its first entry is the next to be sent. The list stays the same one.
    """

    def __init__(self) -> None:
        self.due: list[Due] = []
        self._session_of: dict[int, _Session] = {}

    def reach(self, due: Due, session: int, think_s: float, crowd: Crowd) -> bool:
        """Take in a row whose earliest time has come; True where it is due then, as its session's first."""
        _, row, index = due
        known = crowd.sessions.get(session)
        if known is None:
            self._session_of[row] = crowd.sessions[session] = _Session(crowd)
            return True
        if known.over:
            return False
        if math.isnan(known.ended_s):
            if known.waiting is None:
                known.waiting = deque()
            known.waiting.append((row, think_s, index))
        else:
            self._follow(known, known.ended_s, row, think_s, index)
        return False

    def ended(self, row: int, done_s: float | None) -> bool:
        """Tell when a row was answered well, None where it was not; True where the next turn is another."""
        session = self._session_of.pop(row, None)
        if session is None:
            return False
        if done_s is None:
            session.over, session.waiting = True, None
            return False
        if not session.waiting:
            session.ended_s = done_s
            return False
        following, think_s, index = session.waiting.popleft()
        self._follow(session, done_s, following, think_s, index)
        return bool(self.due) and self.due[0][1] == following

    def pop(self) -> Due:
        """Take the next turn that is due."""
        return heappop(self.due)

    def withdraw_from(self, crowd: Crowd, at_s: float) -> None:
        """Withdraw the turns of a crowd that are due, or would become so, at or after ``at_s``."""
        crowd.until_s = min(crowd.until_s, at_s)
        kept = []
        for due in self.due:
            if due[0] < at_s or self._session_of[due[1]].crowd is not crowd:
                kept.append(due)
            else:
                self._session_of.pop(due[1]).over = True
        self.due[:] = kept
        heapify(self.due)

    def clear(self) -> None:
        """Withdraw everything."""
        self.due.clear()
        self._session_of.clear()

    def _follow(self, session: _Session, done_s: float, row: int, think_s: float, index: int) -> None:
        due_s = done_s + think_s
        if due_s >= session.crowd.until_s:
            session.over, session.waiting = True, None
            return
        session.ended_s = math.nan
        self._session_of[row] = session
        heappush(self.due, (due_s, row, index))
