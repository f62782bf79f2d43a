"""Rows as the workers number them, as rows of the whole load.

An era is what one play or hold began. A worker counts each era's rows from 0, and a row carries its era's
number above that. In an open loop a worker's row stands for one of the schedule, fixed beforehand; in a
closed loop nobody knows beforehand which worker sends next: rows are numbered in the order sent.
A worker alone sends them all in their order, and nothing needs to be kept of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Ints, Outcome, Samples

ERA_BITS = 40
"""An era may hold a million million rows."""

_MASK = (1 << ERA_BITS) - 1
_UNKNOWN = -1

Places: TypeAlias = npt.NDArray[np.int32]
"""Rows counted from their era's first one; half as wide as a row's number, for millions of them."""


@dataclass(slots=True)
class _Alone:
    first_row: int

    def row_of(self, worker: int, own: Ints) -> Ints:  # noqa: ARG002 - there is one
        return self.first_row + own


@dataclass(slots=True)
class _Shared:
    """Worker ``w``'s row ``i`` is the era's row ``places[w][i]``; of a closed loop as far as it was told."""

    first_row: int
    places: list[Places]
    closed: bool = False
    numbered: int = 0

    def row_of(self, worker: int, own: Ints) -> Ints:
        return self.first_row + self.places[worker][own].astype(np.int64)


class Renumbering:
    """All workers' rows of one session."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._eras: list[_Alone | _Shared] = []

    def begin_open(self, first_row: int, parts: Sequence[Ints]) -> int:
        """Begin an open loop in which worker ``w`` sends the rows ``first_row + parts[w]``, which ascend.

        Returns each worker's first own row.
        """
        return self._begin(first_row, [part.astype(np.int32) for part in parts], closed=False)

    def begin_closed(self, first_row: int) -> int:
        """Begin a closed loop numbered from ``first_row`` on; returns each worker's first own row."""
        return self._begin(
            first_row, [np.empty(0, dtype=np.int32) for _ in range(self._workers)], closed=True
        )

    def _begin(self, first_row: int, places: list[Places], *, closed: bool) -> int:
        alone = self._workers == 1
        self._eras.append(_Alone(first_row) if alone else _Shared(first_row, places, closed))
        return (len(self._eras) - 1) << ERA_BITS

    def whole(self, parts: Sequence[Samples]) -> list[Samples]:
        """The samples of each worker under the whole load's numbers, in the order of the workers."""
        renumbered = [samples.row.copy() for samples in parts]
        for era in self._present(parts):
            masks = [samples.row >> ERA_BITS == era for samples in parts]
            own = [samples.row[mask] & _MASK for samples, mask in zip(parts, masks, strict=True)]
            rows = self._eras[era]
            if isinstance(rows, _Shared) and rows.closed:
                sent = [
                    samples.outcome[mask] == Outcome.PENDING
                    for samples, mask in zip(parts, masks, strict=True)
                ]
                sent_s = [samples.sent_s[mask] for samples, mask in zip(parts, masks, strict=True)]
                _number(rows, own, sent, sent_s)
            for worker, mask in enumerate(masks):
                renumbered[worker][mask] = rows.row_of(worker, own[worker])
        return [replace(samples, row=row) for samples, row in zip(parts, renumbered, strict=True)]

    def _present(self, parts: Sequence[Samples]) -> range:
        """The eras that may be among the rows: mostly the last one, for some moments the one before."""
        told = [samples.row for samples in parts if len(samples)]
        if not told:
            return range(0)
        lowest = min(int(row.min()) for row in told) >> ERA_BITS
        return range(lowest, (max(int(row.max()) for row in told) >> ERA_BITS) + 1)


def _number(closed: _Shared, own: list[Ints], sent: list[np.ndarray], sent_s: list[np.ndarray]) -> None:
    """Number the rows that are told for the first time, in the order in which they were sent."""
    new = [rows[first] for rows, first in zip(own, sent, strict=True)]
    moments = np.concatenate([times[first] for times, first in zip(sent_s, sent, strict=True)])
    places = np.empty(len(moments), dtype=np.int32)
    places[np.argsort(moments, kind="stable")] = closed.numbered + np.arange(len(moments))
    start = 0
    for worker, rows in enumerate(new):
        if len(rows):
            closed.places[worker] = _reaching(closed.places[worker], int(rows.max()) + 1)
            closed.places[worker][rows] = places[start : start + len(rows)]
            start += len(rows)
    closed.numbered += len(moments)


def _reaching(places: Places, count: int) -> Places:
    if count <= len(places):
        return places
    more = max(count, len(places) + len(places) // 7, 1024) - len(places)
    return np.concatenate([places, np.full(more, _UNKNOWN, dtype=np.int32)])
