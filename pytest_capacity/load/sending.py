"""What a player and the sender that it commands have to do with each other.

The player knows when a request is due; a sender knows how to send it and what became of it. Both live on one
event loop and belong to its thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_capacity.load.rows import Rows
from pytest_capacity.protocols import Encoded, Judgement, Outcome, Reply, Request

MAX_NOTES = 20
"""A refresh that fails each second must not fill a record."""


@dataclass(slots=True)
class Desk:
    """Where a sender tells of its requests, and whom it calls; times are the session's seconds.

    ``origin_s`` is the session's zero on ``time.monotonic``. ``ended`` is called after each request that
    ended and ``failed`` with a fault that is our own.
    """

    encoded: Encoded
    judge: Callable[[Reply], Judgement]
    headers: Mapping[str, str]
    origin_s: float
    max_in_flight: int
    rows: Rows = field(default_factory=Rows)
    examples: dict[Outcome, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    ended: Callable[[], object] = lambda: None
    failed: Callable[[Exception], object] = lambda _error: None

    def note(self, trouble: str) -> None:
        """Add a trouble to what the health tells; each is told once."""
        if trouble not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(trouble)

    def example(self, outcome: Outcome, reason: str) -> None:
        """Keep the first reason for each kind of bad outcome."""
        if reason and outcome is not Outcome.GOOD:
            self.examples.setdefault(outcome, reason)

    def judged(self, reply: Reply) -> Judgement:
        """Judge a reply; what the judge raises is its verdict too."""
        try:
            return self.judge(reply)
        except Exception as error:  # noqa: BLE001 - a judge that cannot read a reply has not found it good
            return Judgement(Outcome.BAD_REPLY, f"the judge raised {type(error).__name__}: {error}")


class Sender(Protocol):
    """Sends requests over the network and tells the desk of each: when it leaves, and once how it ended."""

    @property
    def in_flight(self) -> int:
        """Requests that were begun and have not ended."""
        ...

    @property
    def waits(self) -> int:
        """How many requests had to wait for a connection to be made."""
        ...

    def send(self, row: int, intended_s: float, index: int) -> None:
        """Begin one request now; never waits."""
        ...

    async def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside the load and judge its reply; it becomes no row."""
        ...

    def add(self, requests: Sequence[Request]) -> None:
        """Have more requests ready, numbered on from those there are."""
        ...

    def foresee(self, *, open_loop: bool) -> None:
        """Get ready for load, whose kind decides how many connections to hold ready."""
        ...

    def renew(self, headers: Mapping[str, str]) -> None:
        """Replace headers of the same name on requests sent from now on."""
        ...

    def tend(self) -> None:
        """Do what time demands, such as ending requests that are too old; called every few milliseconds."""
        ...

    async def close(self) -> None:
        """Cancel what is in flight, tell of it, and close every connection."""
        ...


MakeSender = Callable[[Desk], Sender]


def timed_out(timeout_s: float, *, connected: bool) -> Judgement:
    """What it means that a request was given up at its age limit."""
    if connected:
        return Judgement(Outcome.TIMEOUT, f"no complete reply within {timeout_s:g} s")
    return Judgement(Outcome.CONNECT, f"no connection within {timeout_s:g} s")


def operation_numbers(encoded: Encoded, requests: Sequence[Request]) -> list[int]:
    """Each request's operation as a number. Raises ValueError for one that the target has not named."""
    numbers = {name: number for number, name in enumerate(encoded.operations)}
    for request in requests:
        if request.operation not in numbers:
            raise ValueError(f"the operation {request.operation!r} is none of {', '.join(numbers)}")
    return [numbers[request.operation] for request in requests]


TOO_OLD = Judgement(Outcome.NOT_SENT, "due longer ago than timeout_s when its turn came")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's where it is installed, else of asyncio's."""
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
