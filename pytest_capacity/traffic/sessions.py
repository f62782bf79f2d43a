"""Sessions to be replayed causally: the next request of a session goes out after the reply to the one before.

As data that an engine can follow. Replayed as timed, each request leaves at its offset whatever became of the
one before; a server slower than the recorded one then has turns of a session in flight that never met there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.scaling import Stretch
from pytest_capacity.traffic.statistics import previous_of


@dataclass(frozen=True, slots=True)
class Turns:
    """When each request of a schedule may leave.

    Where ``predecessor`` is -1 it leaves at its offset. Elsewhere it leaves ``think_s`` seconds after the
    last byte of the reply to that row of the schedule; a session ends where a reply fails, since no user
    could have gone on.
    """

    predecessor: Ints
    think_s: Floats


def causal_turns(stretch: Stretch, latency_s: Floats | None = None) -> Turns:
    """Predecessor and think time of each request of a stretch.

    ``latency_s`` is what the recording saw of each of its rows, NaN where unknown: think time is the gap to
    the predecessor's arrival less its latency. Unknown ones count as 0, so that a session is replayed more
    slowly than it was rather than faster.

    Raises ValueError where ``latency_s`` is shorter than the recording.
    """
    predecessor = previous_of(stretch.session)
    offsets_s, rows = stretch.schedule.offsets_s, stretch.schedule.request_index
    think_s = np.zeros(len(rows))
    later = np.nonzero(predecessor >= 0)[0]
    before = predecessor[later]
    gap_s = offsets_s[later] - offsets_s[before]
    if latency_s is not None and len(rows):
        if int(rows.max()) >= len(latency_s):
            raise ValueError("latency_s must hold one value for each row of the recording")
        waited_s = latency_s[rows[before]]
        gap_s = gap_s - np.where(np.isfinite(waited_s), waited_s, 0.0)
    think_s[later] = np.maximum(gap_s, 0.0)
    return Turns(predecessor, think_s)
