"""Rows as the workers number them, as rows of the whole load.

An era is what one play or hold began. A worker counts each era's rows from 0, and a row carries its era's
number above that. In an open loop a worker's row stands for one of the schedule, fixed beforehand; in a
closed loop nobody knows beforehand which worker sends next: rows are numbered in the order sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_capacity.protocols import Ints, Outcome, Samples

ERA_BITS = 40
"""An era may hold a million million rows."""

_MASK = (1 << ERA_BITS) - 1
_UNKNOWN = -1


@dataclass(slots=True)
class _Open:
    """``rows[w][i]`` is worker ``w``'s row ``i``."""

    rows: list[Ints]


@dataclass(slots=True)
class _Closed:
    next_row: int
    rows: list[Ints] = field(default_factory=list)


class Renumbering:
    """All workers' rows of one session."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._eras: list[_Open | _Closed] = []

    def begin_open(self, rows: Sequence[Ints]) -> int:
        """Begin an open loop in which worker ``w`` sends ``rows[w]``; returns each one's first own row."""
        self._eras.append(_Open(list(rows)))
        return (len(self._eras) - 1) << ERA_BITS

    def begin_closed(self, first_row: int) -> int:
        """Begin a closed loop numbered from ``first_row`` on; returns each worker's first own row."""
        none = [np.empty(0, dtype=np.int64) for _ in range(self._workers)]
        self._eras.append(_Closed(first_row, none))
        return (len(self._eras) - 1) << ERA_BITS

    def whole(self, parts: Sequence[Samples]) -> list[Samples]:
        """The samples of each worker under the whole load's numbers, in the order of the workers."""
        renumbered = [samples.row.copy() for samples in parts]
        for era in self._present(parts):
            masks = [samples.row >> ERA_BITS == era for samples in parts]
            own = [samples.row[mask] & _MASK for samples, mask in zip(parts, masks, strict=True)]
            rows = self._eras[era]
            if isinstance(rows, _Closed):
                sent = [
                    samples.outcome[mask] == Outcome.PENDING
                    for samples, mask in zip(parts, masks, strict=True)
                ]
                sent_s = [samples.sent_s[mask] for samples, mask in zip(parts, masks, strict=True)]
                _number(rows, own, sent, sent_s)
            for worker, mask in enumerate(masks):
                renumbered[worker][mask] = rows.rows[worker][own[worker]]
        return [replace(samples, row=row) for samples, row in zip(parts, renumbered, strict=True)]

    def _present(self, parts: Sequence[Samples]) -> range:
        """The eras that may be among the rows: mostly the last one, for some moments the one before."""
        told = [samples.row for samples in parts if len(samples)]
        if not told:
            return range(0)
        lowest = min(int(row.min()) for row in told) >> ERA_BITS
        return range(lowest, (max(int(row.max()) for row in told) >> ERA_BITS) + 1)


def _number(closed: _Closed, own: list[Ints], sent: list[np.ndarray], sent_s: list[np.ndarray]) -> None:
    """Number the rows that are told for the first time, in the order in which they were sent."""
    new = [rows[first] for rows, first in zip(own, sent, strict=True)]
    moments = np.concatenate([times[first] for times, first in zip(sent_s, sent, strict=True)])
    places = np.empty(len(moments), dtype=np.int64)
    places[np.argsort(moments, kind="stable")] = closed.next_row + np.arange(len(moments))
    start = 0
    for worker, rows in enumerate(new):
        if len(rows):
            closed.rows[worker] = _reaching(closed.rows[worker], int(rows.max()) + 1)
            closed.rows[worker][rows] = places[start : start + len(rows)]
            start += len(rows)
    closed.next_row += len(moments)


def _reaching(rows: Ints, count: int) -> Ints:
    if count <= len(rows):
        return rows
    more = max(count, len(rows) + len(rows) // 7, 1024) - len(rows)
    return np.concatenate([rows, np.full(more, _UNKNOWN, dtype=np.int64)])
