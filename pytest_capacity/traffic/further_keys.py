"""Keys of requests beyond their first: a recommender looks up a user and many items for one request."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Ints

Codes = npt.NDArray[np.int32]


def _none() -> Codes:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class FurtherKeys:
    """Pairs of a row and a key, rows ascending, each row's keys in their order.

    Keys are numbered together with first keys: one that is first in one row and further in another is one.
    """

    row: Codes = field(default_factory=_none)
    key: Codes = field(default_factory=_none)

    def __len__(self) -> int:
        return len(self.key)

    def of(self, rows: Ints) -> Ints:
        """The further keys of these rows, which may come more than once, row after row."""
        if not len(self):
            return np.empty(0, dtype=np.int64)
        begin, end = (np.searchsorted(self.row, rows, side) for side in ("left", "right"))
        counts = end - begin
        # Each row's run of places, one behind the other.
        place = np.arange(counts.sum()) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
        found: Ints = self.key[place].astype(np.int64)
        return found

    def given_to(self, rows: Ints, whose: Ints) -> FurtherKeys:
        """The keys that ``rows`` (ascending) have where each gets those of the row in ``whose``."""
        begin, end = (np.searchsorted(self.row, whose, side) for side in ("left", "right"))
        return FurtherKeys(np.repeat(rows, end - begin).astype(np.int32), self.of(whose).astype(np.int32))

    def after(self, first: Ints) -> Ints:
        """All keys in the order in which a cache meets them, given the first of each row (-1: none)."""
        return self.accesses(first)[1]

    def accesses(self, first: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
        """The same with the row of each, and whether it is that row's first."""
        keyed = np.flatnonzero(first >= 0).astype(np.int64)
        row = np.concatenate([keyed, self.row.astype(np.int64)])
        key = np.concatenate([first[keyed], self.key.astype(np.int64)])
        order = np.argsort(row, kind="stable")
        return row[order], key[order], order < len(keyed)
