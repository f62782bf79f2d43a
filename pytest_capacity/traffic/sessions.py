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
class Causal:
    """When each request of a stretch may leave, its requests in the order of the earliest times of that.

    ``row`` is the row of the stretch's schedule. Where ``predecessor`` is -1 the request leaves at
    ``earliest_s``, its offset. Elsewhere it leaves ``think_s`` seconds after the last byte of the reply to
    that request of this order: ``earliest_s`` supposes that replies take no time. A session ends where a
    reply fails, since no user could have gone on. ``session`` numbers them, -1 where there is none.
    """

    row: Ints
    earliest_s: Floats
    predecessor: Ints
    session: Ints
    think_s: Floats


def causal_turns(stretch: Stretch, latency_s: Floats | None = None) -> Causal:
    """The requests of a stretch as turns of their sessions.

    ``latency_s`` is what the recording saw of each of its rows, NaN where unknown: think time is the gap to
    the predecessor's arrival less its latency, at the stretch's pace. Unknown ones count as 0, so that a
    session is replayed more slowly than it was rather than faster. Requests that overlapped in the recording
    follow each other without a pause.

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
        gap_s = gap_s - np.where(np.isfinite(waited_s), waited_s, 0.0) / stretch.pace
    think_s[later] = np.maximum(gap_s, 0.0)
    earliest_s = _earliest(offsets_s, stretch.session, think_s)
    order = np.argsort(earliest_s, kind="stable")
    place = np.empty(len(order) + 1, dtype=np.int64)
    place[order] = np.arange(len(order))
    # Looked up by a predecessor of -1.
    place[-1] = -1
    return Causal(
        row=order.astype(np.int64),
        earliest_s=earliest_s[order],
        predecessor=place[predecessor[order]],
        session=stretch.session[order],
        think_s=think_s[order],
    )


def _earliest(offsets_s: Floats, session: Ints, think_s: Floats) -> Floats:
    """When each request leaves at the earliest: its session's first offset and all thinking since."""
    order = np.argsort(session, kind="stable")
    thought_s = np.cumsum(think_s[order])
    begins = np.concatenate([[True], np.diff(session[order]) != 0]) if len(order) else np.empty(0, np.bool_)
    first = np.nonzero(begins)[0]
    begun = first[np.cumsum(begins) - 1] if len(order) else first
    earliest_s = offsets_s.copy()
    earliest_s[order] = offsets_s[order][begun] + (thought_s - thought_s[begun])
    alone = session < 0
    earliest_s[alone] = offsets_s[alone]
    return earliest_s
