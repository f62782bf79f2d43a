"""Sends with aiohttp: one task for each request in flight."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_capacity.load.client import Flight, HttpClient, explain_failure
from pytest_capacity.load.sending import TOO_OLD, Desk, operation_numbers, timed_out
from pytest_capacity.protocols import Judgement, Outcome, Reply, Request

LAST_WORDS_S = 2.0
"""Cancelled requests end within one turn of the loop; nothing may hold up the end of a load for longer."""


class AiohttpSender:
    """Sends with an HttpClient; lives on one event loop."""

    waits = 0

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._requests = list(desk.encoded.requests)
        self._operation = operation_numbers(desk.encoded, self._requests)
        self._timeout_s = desk.encoded.timeout_s
        self._flights: dict[Flight, asyncio.Task[None]] = {}
        self._client = HttpClient(desk.encoded, desk.headers, self._now_s)

    @property
    def in_flight(self) -> int:
        """Requests that were begun and have not ended."""
        return len(self._flights)

    def send(self, row: int, intended_s: float, index: int) -> None:
        """Begin one request now."""
        flight = Flight(row, intended_s, self._requests[index], self._operation[index])
        self._flights[flight] = self._loop.create_task(self._fly(flight))

    async def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside the load and judge its reply."""
        return await self._attempt(Flight(-1, self._now_s(), request))

    def add(self, requests: Sequence[Request]) -> None:
        """Have more requests ready, numbered on from those there are."""
        self._operation += operation_numbers(self._desk.encoded, requests)
        self._requests += requests

    def foresee(self, *, open_loop: bool) -> None:
        """Connections are made when they are needed."""

    def renew(self, headers: Mapping[str, str]) -> None:
        """Use these headers from now on."""
        self._client.renew(headers)

    def tend(self) -> None:
        """Each request minds its own time."""

    async def close(self) -> None:
        """Cancel what is in flight, tell its rows, and close every connection."""
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        for flight in list(self._flights):
            if math.isnan(flight.sent_s):
                # Its task was cancelled before its first step: begun, and ended in the same moment.
                self._leave(flight)
            self._settle(flight, Outcome.CANCELLED, None)
        await self._client.close()

    def _now_s(self) -> float:
        return time.monotonic() - self._desk.origin_s

    def _leave(self, flight: Flight) -> None:
        flight.sent_s = self._now_s()
        self._desk.rows.sent(flight.row, flight.operation, flight.intended_s, flight.sent_s)

    async def _fly(self, flight: Flight) -> None:
        self._leave(flight)
        try:
            reply, judgement = await self._attempt(flight)
        except Exception as error:  # noqa: BLE001 - a fault of ours says nothing about the server
            self._desk.failed(error)
            reply, judgement = None, Judgement(Outcome.CANCELLED)
        self._desk.example(judgement.outcome, judgement.reason)
        self._settle(flight, judgement.outcome, reply)
        self._desk.ended()

    def _settle(self, flight: Flight, outcome: Outcome, reply: Reply | None) -> None:
        """Tell a row's end; a flight that was refused by our own limits was never sent."""
        del self._flights[flight]
        nan = float("nan")
        self._desk.rows.final(
            flight.row,
            flight.operation,
            flight.intended_s,
            outcome,
            sent_s=nan if outcome is Outcome.NOT_SENT else flight.sent_s,
            first_byte_s=flight.first_byte_s,
            done_s=nan if outcome in {Outcome.CANCELLED, Outcome.NOT_SENT} else flight.done_s,
            status=reply.status if reply else 0,
            bytes_received=len(reply.body) if reply else 0,
            token_times_s=flight.token_times_s,
        )

    async def _attempt(self, flight: Flight) -> tuple[Reply | None, Judgement]:
        """Send once, in the time that is left since the intended moment, and judge what comes back.

        Raises where the fault is our own.
        """
        left_s = flight.intended_s + self._timeout_s - self._now_s()
        if left_s <= 0:
            return None, TOO_OLD
        task = asyncio.current_task()
        timer = self._loop.call_later(left_s, _expire, flight, task)
        try:
            reply = await self._client.exchange(flight)
        except asyncio.CancelledError:
            flight.done_s = self._now_s()
            return None, self._cut_short(flight)
        except Exception as error:
            flight.done_s = self._now_s()
            meaning = explain_failure(error, flight)
            if meaning is None:
                raise
            if meaning[0] is Outcome.NOT_SENT:
                self._desk.note(meaning[1])
            return None, Judgement(*meaning)
        finally:
            timer.cancel()
        return reply, self._desk.judged(reply)

    def _cut_short(self, flight: Flight) -> Judgement:
        if not flight.expired:
            return Judgement(Outcome.CANCELLED)
        return timed_out(self._timeout_s, connected=flight.connected)


def _expire(flight: Flight, task: asyncio.Task[Any] | None) -> None:
    flight.expired = True
    if task is not None:
        task.cancel()
