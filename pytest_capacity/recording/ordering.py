"""Giving exchanges out in the order in which they arrived, though they end in another. Decides only."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from pytest_capacity.recording.exchange import Exchange


@dataclass(slots=True)
class ArrivalOrder:
    """Holds exchanges back until all earlier ones have ended, within bounds.

    One thread may ``add`` while another calls ``release``. The first in line is given out unfinished when it
    arrived more than ``hold_s`` seconds ago, or when more than ``max_rows`` wait.
    """

    hold_s: float
    max_rows: int
    _waiting: deque[Exchange] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, exchange: Exchange) -> None:
        """Take an exchange that has just arrived, after all that arrived before it."""
        self._waiting.append(exchange)

    def release(self, now_s: float, *, hurry: bool = False) -> Exchange | None:
        """The next in the order of arrival, or None where it must be waited for; ``hurry`` waits for none."""
        if not self._waiting:
            return None
        first = self._waiting[0]
        overdue = now_s - first.arrived_s > self.hold_s or len(self._waiting) > self.max_rows
        if first.done_s is not None or overdue or hurry:
            return self._waiting.popleft()
        return None
