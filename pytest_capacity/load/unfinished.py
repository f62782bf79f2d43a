"""Which rows were sent and have not ended, so that none is lost with the process that sent it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pytest_capacity.protocols import Outcome, Samples, empty_samples, join_samples


class Unfinished:
    """Rows told as sent and not yet as final."""

    def __init__(self) -> None:
        self._open = empty_samples()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, samples: Samples) -> None:
        """Take in what was told: rows sent, and rows that ended."""
        is_sent = samples.outcome == Outcome.PENDING
        ended = samples.row[~is_sent]
        # Most rows end within the report that tells of their start: these are never copied.
        sent = np.flatnonzero(is_sent)
        sent = sent[~np.isin(samples.row[sent], ended)]
        self._open = join_samples(
            [
                _rows(self._open, ~np.isin(self._open.row, ended)),
                _rows(samples, sent),
            ]
        )

    def cancelled(self) -> Samples:
        """The end of what is left, as no evidence; afterwards nothing is."""
        left, self._open = self._open, empty_samples()
        return replace(left, outcome=np.full(len(left), Outcome.CANCELLED, dtype=np.uint8))


def _rows(samples: Samples, which: np.ndarray) -> Samples:
    return Samples(
        row=samples.row[which],
        intended_s=samples.intended_s[which],
        sent_s=samples.sent_s[which],
        first_byte_s=samples.first_byte_s[which],
        done_s=samples.done_s[which],
        outcome=samples.outcome[which],
        status=samples.status[which],
        operation=samples.operation[which],
        bytes_received=samples.bytes_received[which],
    )
