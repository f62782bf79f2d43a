"""What is sent when: schedules drawn probe by probe, from encoded requests or from recorded traffic.

The load loop asks a source for a probe's schedule, has it made ready a piece at a time, a little ahead of the
load, and tells it how much of it was played.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Encoded, Floats, Ints, LoadSession, Probe, Target, Turns
from pytest_capacity.traffic.arrivals import Arrivals, make_schedule


@dataclass(frozen=True, slots=True)
class Piece:
    """Requests to be sent: seconds since their probe began, indexes of the session's requests, operations.

    With ``turns`` some wait for replies, and their seconds are the earliest.
    """

    offsets_s: Floats
    request_index: Ints
    operation: npt.NDArray[np.uint16]
    turns: Turns | None = None


@dataclass(frozen=True, slots=True)
class Came:
    """What became of an open probe's requests some of which wait for replies, in the order given.

    ``due_s`` is when each was due, in seconds since the probe began, NaN where that did not come; ``over``
    counts those of them whose session had ended with a bad reply.
    """

    due_s: Floats
    over: int


class Source(Protocol):
    """Where a load run takes its schedules from."""

    encoded: Encoded
    """What the engine is opened with; its operations are all there are."""
    causal: bool
    """Whether some requests wait for the replies to others."""

    @property
    def shares(self) -> Sequence[float]:
        """How much of all requests each operation is."""
        ...

    @property
    def reaches_s(self) -> float:
        """Up to when, in seconds since the probe began, ``take`` has given all there is.

        Of a closed loop there is never more to take.
        """
        ...

    def ready(self, session: LoadSession, rate_qps: float, seconds: float) -> None:
        """Before any load, make ready what such a one may need; raises CannotSend."""
        ...

    def draw(self, probe: Probe, from_s: float = 0.0) -> None:
        """Draw an open probe's schedule from ``from_s`` seconds after its beginning on."""
        ...

    def take(self, session: LoadSession, until_s: float) -> Piece:
        """What is due up to ``until_s`` (or later) and was not taken yet, its requests known to the session.

        Raises CannotSend for one that cannot be encoded.
        """
        ...

    def hold(self, session: LoadSession, probe: Probe) -> Ints:
        """Requests for a closed loop, in their order; raises CannotSend."""
        ...

    def end(self, played_s: float, sent: int, came: Came | None = None) -> None:
        """Tell that a probe has ended, how long it was played, and how many requests it has sent.

        ``came`` is told of an open probe whose requests wait for replies.
        """
        ...

    def close(self) -> None:
        """Let go of files; the source can be asked for what it knows all the same."""
        ...


class CannotSend(Exception):
    """A recorded request cannot be made one to the target; the message says which, and what to do."""


class Declared:
    """A target's own requests in rounds, arriving at random or evenly."""

    causal = False

    def __init__(self, target: Target, arrivals: Arrivals, rng: np.random.Generator) -> None:
        self.encoded = target.encode(rng)
        self._arrivals, self._rng = arrivals, rng
        operations = self.encoded.operations
        numbers = [operations.index(request.operation) for request in self.encoded.requests]
        self._operation = np.array(numbers, dtype=np.uint16)
        self._next: Piece | None = None

    @property
    def shares(self) -> Sequence[float]:
        """Each request is sent as often as any other."""
        counts = np.bincount(self._operation, minlength=len(self.encoded.operations))
        return [float(count) / len(self._operation) for count in counts]

    @property
    def reaches_s(self) -> float:
        """Everything is given at once."""
        return float("inf")

    def ready(self, session: LoadSession, rate_qps: float, seconds: float) -> None:
        """All is ready."""

    def draw(self, probe: Probe, from_s: float = 0.0) -> None:
        """Draw a schedule for all of the probe."""
        schedule = make_schedule(
            self._arrivals,
            float(probe.rate_qps or 0),
            probe.max_s - from_s,
            len(self.encoded.requests),
            self._rng,
        )
        index = schedule.request_index
        self._next = Piece(from_s + schedule.offsets_s, index, self._operation[index])

    def take(self, session: LoadSession, until_s: float) -> Piece:  # noqa: ARG002 - all is ready
        """All of the schedule."""
        piece, self._next = self._next, None
        return piece or NOTHING

    def hold(self, session: LoadSession, probe: Probe) -> Ints:  # noqa: ARG002 - all is ready
        """Every request once, in an order of its own."""
        return self._rng.permutation(len(self.encoded.requests)).astype(np.int64)

    def end(self, played_s: float, sent: int, came: Came | None = None) -> None:
        """Nothing is used up."""

    def close(self) -> None:
        """Nothing was opened."""


NOTHING = Piece(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint16))
