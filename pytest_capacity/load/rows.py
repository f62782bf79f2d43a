"""Rows told by an engine: a log of fixed-size records, which one call adds to and numpy reads as columns.

The log may be read in another process: it is plain bytes in the machine's own order.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

import numpy as np

from pytest_capacity.protocols import Outcome, Samples, empty_samples

NAN = math.nan

_RECORD = Struct("=qddddqIHHB")
_COLUMNS = np.dtype(
    [
        ("row", np.int64),
        ("intended_s", np.float64),
        ("sent_s", np.float64),
        ("first_byte_s", np.float64),
        ("done_s", np.float64),
        ("bytes_received", np.int64),
        ("tokens", np.uint32),
        ("status", np.uint16),
        ("operation", np.uint16),
        ("outcome", np.uint8),
    ]
)
RECORD_BYTES = _RECORD.size
assert _COLUMNS.itemsize == RECORD_BYTES  # noqa: S101 - a record is written by one and read by the other

_PENDING = int(Outcome.PENDING)


@dataclass(frozen=True, slots=True)
class Told:
    """Rows as they were told: records, and the times of the tokens that they count, in their order."""

    records: bytes | bytearray = b""
    token_times_s: bytes = b""


class Rows:
    """Grows by one record at a time, until it is taken.

    ``heed``, where it is set, is called with each row that ended, its outcome, and when it was done.
    """

    __slots__ = ("_pack", "_records", "_token_times_s", "heed")

    def __init__(self) -> None:
        self._pack = _RECORD.pack
        self._records = bytearray()
        self._token_times_s = array("d")
        self.heed: Callable[[int, int, float], object] | None = None

    def __len__(self) -> int:
        return len(self._records) // RECORD_BYTES

    def sent(self, row: int, operation: int, intended_s: float, sent_s: float) -> None:
        """Tell that a request has left."""
        self._records += self._pack(row, intended_s, sent_s, NAN, NAN, 0, 0, 0, operation, _PENDING)

    def final(  # noqa: PLR0917 - on the hot path, where keywords cost as much as the packing
        self,
        row: int,
        operation: int,
        intended_s: float,
        outcome: int,
        sent_s: float = NAN,
        first_byte_s: float = NAN,
        done_s: float = NAN,
        status: int = 0,
        bytes_received: int = 0,
        token_times_s: array[float] | None = None,
    ) -> None:
        """Tell what became of a request, once."""
        tokens = 0
        if token_times_s is not None:
            tokens = len(token_times_s)
            self._token_times_s += token_times_s
        self._records += self._pack(
            row, intended_s, sent_s, first_byte_s, done_s, bytes_received, tokens, status, operation, outcome
        )
        if self.heed is not None:
            self.heed(row, outcome, done_s)

    def take(self) -> Told:
        """What was told since it was last taken."""
        told = Told(self._records, self._token_times_s.tobytes())
        self._records = bytearray()
        self._token_times_s = array("d")
        return told


def samples_of(told: Told) -> Samples:
    """Told rows as Samples, in the order told."""
    if not told.records:
        return empty_samples()
    table = np.frombuffer(told.records, dtype=_COLUMNS)
    columns = {name: table[name] for name in _COLUMNS.names or () if name != "tokens"}
    if not told.token_times_s:
        return Samples(**columns)
    starts = np.concatenate([[0], np.cumsum(table["tokens"], dtype=np.int64)])
    return Samples(**columns, token_times_s=np.frombuffer(told.token_times_s), token_start=starts)
