"""When a sending thread runs before all others, and when it takes its turn among them.

The kernel lets real-time threads have 0.95 s of each second and holds them back for the rest of it (sched(7),
"Limiting the CPU usage of real-time and deadline processes"): 50 ms in which nothing leaves. Coming first is
for a thread that mostly sleeps. One that is awake nearly all the time, since it waits for the next of some
tens of thousands of sends a second, has nothing to gain from it: nobody needs to be pushed aside for it to
wake up, and only among its equals does the kernel move it to a core that is free.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from pytest_capacity.load.priority import run_first, run_in_turn, wake_soon

MOST_AWAKE = 0.9
"""The share of its core that a thread may take while it runs first, with room below the kernel's 0.95."""

LEAST_GAP_S = 60e-6
"""Between sends on the average. Where it is less there is no time to sleep: waking up takes as long. To run
first and give way later would be worse than not to: what had to wait meanwhile then comes all at once."""

GRACE_S = 0.02
"""Processor time beyond that share, until the thread takes its turn: the kernel steps in after 50 ms."""


@dataclass(slots=True)
class Overdraft:
    """Processor time taken beyond ``MOST_AWAKE`` of the time that passed, less what was left since."""

    beyond_s: float = 0.0

    def add(self, past_s: float, cpu_s: float) -> bool:
        """Take in how much processor time a stretch of time cost; True where that is too much by now."""
        self.beyond_s = max(0.0, self.beyond_s + cpu_s - MOST_AWAKE * past_s)
        return self.beyond_s > GRACE_S


class Precedence:
    """The calling thread's place in the queue for its core; it belongs to that thread.

    ``is_first`` tells whether the thread runs before all others now.
    """

    def __init__(self) -> None:
        self.is_first = False
        self.begin(gap_s=math.inf)

    def begin(self, *, gap_s: float) -> None:
        """Begin an era with such a gap between sends, 0 where none has its moment.

        The thread runs first where it may sleep between, and where the system permits it.
        """
        may_sleep = gap_s >= LEAST_GAP_S
        if self.is_first and not may_sleep:
            self._give_way()
        elif may_sleep and not self.is_first:
            self._overdraft = Overdraft()
            self._at_s, self._cpu_s = time.monotonic(), time.thread_time()
            self.is_first = run_first()
            if not self.is_first:
                wake_soon()

    def review(self) -> None:
        """Look, every few milliseconds, at how much of the core was taken since the last look."""
        if not self.is_first:
            return
        now_s, cpu_s = time.monotonic(), time.thread_time()
        if self._overdraft.add(now_s - self._at_s, cpu_s - self._cpu_s):
            self._give_way()
        self._at_s, self._cpu_s = now_s, cpu_s

    def _give_way(self) -> None:
        run_in_turn()
        self.is_first = False
