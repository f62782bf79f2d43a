"""Rows told by an engine, in columns: eight numbers each, never an object."""

from __future__ import annotations

import math
from array import array

import numpy as np

from pytest_capacity.protocols import Outcome, Samples, empty_samples

NAN = math.nan


class Rows:
    """Grows by one row at a time, and becomes Samples once, when it is told."""

    __slots__ = (
        "_bytes_received",
        "_done_s",
        "_first_byte_s",
        "_intended_s",
        "_operation",
        "_outcome",
        "_row",
        "_sent_s",
        "_status",
    )

    def __init__(self) -> None:
        self._row = array("q")
        self._intended_s = array("d")
        self._sent_s = array("d")
        self._first_byte_s = array("d")
        self._done_s = array("d")
        self._outcome = array("B")
        self._status = array("H")
        self._operation = array("H")
        self._bytes_received = array("q")

    def __len__(self) -> int:
        return len(self._row)

    def add(
        self,
        row: int,
        operation: int,
        intended_s: float,
        outcome: Outcome,
        *,
        sent_s: float = NAN,
        first_byte_s: float = NAN,
        done_s: float = NAN,
        status: int = 0,
        bytes_received: int = 0,
    ) -> None:
        """Tell of one request: once when it was sent, and once when what became of it is final."""
        self._row.append(row)
        self._operation.append(operation)
        self._intended_s.append(intended_s)
        self._outcome.append(outcome)
        self._sent_s.append(sent_s)
        self._first_byte_s.append(first_byte_s)
        self._done_s.append(done_s)
        self._status.append(status)
        self._bytes_received.append(bytes_received)

    def samples(self) -> Samples:
        """The rows as Samples, which share their memory: nothing may be added afterwards."""
        if not self._row:
            return empty_samples()
        return Samples(
            row=np.frombuffer(self._row, dtype=np.int64),
            intended_s=np.frombuffer(self._intended_s, dtype=np.float64),
            sent_s=np.frombuffer(self._sent_s, dtype=np.float64),
            first_byte_s=np.frombuffer(self._first_byte_s, dtype=np.float64),
            done_s=np.frombuffer(self._done_s, dtype=np.float64),
            outcome=np.frombuffer(self._outcome, dtype=np.uint8),
            status=np.frombuffer(self._status, dtype=np.uint16),
            operation=np.frombuffer(self._operation, dtype=np.uint16),
            bytes_received=np.frombuffer(self._bytes_received, dtype=np.int64),
        )
