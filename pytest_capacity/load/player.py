"""What happens on the sending loop: requests leave on time, replies are judged, rows are told."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_capacity.load.client import Flight, HttpClient, explain_failure
from pytest_capacity.load.pacing import Plan, Stretch
from pytest_capacity.load.rows import Rows
from pytest_capacity.load.timer import Alarm
from pytest_capacity.load.vitals import LoopMeter, Vitals
from pytest_capacity.protocols import Encoded, Judgement, Outcome, Reply, Request

BURST = 32
"""After a stall many rows are due at once; replies are looked at after so many sends, some 2 ms apart."""

HEARTBEAT_S = 0.01
"""Fine enough to see what would disturb a bound of some tens of milliseconds, at 0.1 % of a core."""

MAX_NOTES = 20
"""A refresh that fails each second must not fill a record."""

LAST_WORDS_S = 2.0
"""Cancelled requests end within one turn of the loop; nothing may hold up the end of a load for longer."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows told since the last batch, and the state at its end."""

    rows: Rows
    vitals: Vitals


@dataclass(slots=True)
class _ClosedLoop:
    first_row: int
    concurrency: int
    request_index: array[int]
    sent: int = 0


class Player:
    """Sends on one event loop; but for ``batches``, all of it belongs to that loop's thread.

    ``batches`` is filled here and emptied by the thread that makes reports. ``halt`` is called once, with
    the reason, where playing cannot go on.
    """

    def __init__(
        self,
        encoded: Encoded,
        judge: Callable[[Reply], Judgement],
        client: HttpClient,
        *,
        origin_s: float,
        max_in_flight: int,
        halt: Callable[[str], None],
    ) -> None:
        self.batches: deque[Batch] = deque()
        self.examples: dict[Outcome, str] = {}
        self.notes: list[str] = []
        self._loop = asyncio.get_running_loop()
        self._requests = encoded.requests
        numbers = {name: number for number, name in enumerate(encoded.operations)}
        self._operation = array("H", [numbers[request.operation] for request in encoded.requests])
        self._timeout_s = encoded.timeout_s
        self._judge = judge
        self._client = client
        self._origin_s = origin_s
        self._max_in_flight = max_in_flight
        self._halt = halt
        self._alarm = Alarm(self._loop)
        self._plan = Plan()
        self._closed: _ClosedLoop | None = None
        self._changes = 0
        self._flights: dict[Flight, asyncio.Task[None]] = {}
        self._rows = Rows()
        self._meter = LoopMeter()
        self._heartbeat: asyncio.TimerHandle | None = None

    # What the session asks for.

    def play(self, stretch: Stretch) -> None:
        """Begin an era with rows that replace what was due at or after their first; end a closed loop."""
        if stretch.next == stretch.end:
            return
        self._begin_era()
        self._closed = None
        self._plan.play(stretch)
        self._change()

    def hold(self, first_row: int, concurrency: int, request_index: array[int]) -> None:
        """Begin an era with a closed loop; what was played before is withdrawn."""
        self._begin_era()
        self._plan.clear()
        self._change()
        self._closed = _ClosedLoop(first_row, min(concurrency, self._max_in_flight), request_index)
        self._refill()

    def pause(self, at_s: float) -> None:
        """Withdraw the rows due at or after ``at_s`` and end a closed loop."""
        self._closed = None
        self._plan.withdraw_from(at_s)
        self._change()

    def renew(self, headers: Mapping[str, str]) -> None:
        """Use these headers from now on."""
        self._client.renew(headers)

    def note(self, trouble: str) -> None:
        """Add a trouble to what the health tells; each is told once."""
        if trouble not in self.notes and len(self.notes) < MAX_NOTES:
            self.notes.append(trouble)

    def cut(self) -> None:
        """Put what was told since the last cut into ``batches``."""
        vitals = self._meter.read(self._now_s(), len(self._flights))
        self.batches.append(Batch(self._rows, vitals))
        self._rows = Rows()

    async def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside the load and judge its reply."""
        return await self._attempt(Flight(-1, self._now_s(), request))

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        self._beat(time.monotonic())
        try:
            await self._pace()
        except Exception as error:  # noqa: BLE001 - a load that stops for a fault of ours must say so
            self._fail(error)
        finally:
            if self._heartbeat is not None:
                self._heartbeat.cancel()

    async def shut(self) -> None:
        """Cancel what is in flight, tell its rows, and close every connection."""
        self._closed = None
        self._plan.clear()
        tasks = list(self._flights.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        for flight in list(self._flights):
            self._settle(flight, Outcome.CANCELLED, None)
        await self._client.close()
        self._alarm.close()
        self.cut()

    # How it is done.

    def _now_s(self) -> float:
        return time.monotonic() - self._origin_s

    def _begin_era(self) -> None:
        self.cut()
        self._meter.begin_era()

    def _change(self) -> None:
        self._changes += 1
        self._alarm.ring()

    def _beat(self, due_s: float) -> None:
        now_s = time.monotonic()
        self._meter.woke(now_s - due_s)
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat, now_s + HEARTBEAT_S)

    async def _pace(self) -> None:
        while True:
            due_s = self._plan.next_due_s()
            if due_s is None:
                await self._alarm.sleep_until(None)
            elif await self._reached(due_s):
                self._send_due()
                # The requests just begun go out, and replies come in, before the next ones.
                await asyncio.sleep(0)

    async def _reached(self, due_s: float) -> bool:
        """Wait until ``due_s``: asleep till shortly before it, then spinning. False where plans changed."""
        changes = self._changes
        wake_s = due_s - self._alarm.lead_s
        if self._now_s() < wake_s:
            if not await self._alarm.sleep_until(self._origin_s + wake_s):
                return False
            self._meter.woke(self._now_s() - wake_s)
        while self._now_s() < due_s:
            # A turn of the loop takes some ten microseconds and serves replies meanwhile.
            await asyncio.sleep(0)
            if self._changes != changes:
                return False
        return self._changes == changes

    def _send_due(self) -> None:
        for _ in range(BURST):
            due = self._plan.pop_due(self._now_s())
            if due is None:
                return
            row, intended_s, index = due
            if len(self._flights) >= self._max_in_flight:
                self._rows.add(row, self._operation[index], intended_s, Outcome.NOT_SENT)
            else:
                self._launch(row, intended_s, index)

    def _refill(self) -> None:
        closed = self._closed
        while closed is not None and len(self._flights) < closed.concurrency:
            index = closed.request_index[closed.sent % len(closed.request_index)]
            self._launch(closed.first_row + closed.sent, self._now_s(), index)
            closed.sent += 1

    def _launch(self, row: int, intended_s: float, index: int) -> None:
        flight = Flight(row, intended_s, self._requests[index], self._operation[index])
        self._flights[flight] = self._loop.create_task(self._fly(flight))

    async def _fly(self, flight: Flight) -> None:
        flight.sent_s = self._now_s()
        self._rows.add(flight.row, flight.operation, flight.intended_s, Outcome.PENDING, sent_s=flight.sent_s)
        try:
            reply, judgement = await self._attempt(flight)
        except Exception as error:  # noqa: BLE001 - a fault of ours says nothing about the server
            self._fail(error)
            reply, judgement = None, Judgement(Outcome.CANCELLED)
        if judgement.outcome != Outcome.GOOD and judgement.reason:
            self.examples.setdefault(judgement.outcome, judgement.reason)
        self._settle(flight, judgement.outcome, reply)
        if self._closed is not None:
            self._refill()

    def _settle(self, flight: Flight, outcome: Outcome, reply: Reply | None) -> None:
        """Tell a row's end; a flight that was refused by our own limits was never sent."""
        del self._flights[flight]
        nan = float("nan")
        self._rows.add(
            flight.row,
            flight.operation,
            flight.intended_s,
            outcome,
            sent_s=nan if outcome is Outcome.NOT_SENT else flight.sent_s,
            first_byte_s=flight.first_byte_s,
            done_s=nan if outcome in {Outcome.CANCELLED, Outcome.NOT_SENT} else flight.done_s,
            status=reply.status if reply else 0,
            bytes_received=len(reply.body) if reply else 0,
        )

    async def _attempt(self, flight: Flight) -> tuple[Reply | None, Judgement]:
        """Send once, in the time that is left since the intended moment, and judge what comes back.

        Raises where the fault is our own.
        """
        left_s = flight.intended_s + self._timeout_s - self._now_s()
        if left_s <= 0:
            return None, Judgement(Outcome.NOT_SENT, "due longer ago than timeout_s when its turn came")
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
                self.note(meaning[1])
            return None, Judgement(*meaning)
        finally:
            timer.cancel()
        return reply, self._judged(reply)

    def _cut_short(self, flight: Flight) -> Judgement:
        if not flight.expired:
            return Judgement(Outcome.CANCELLED)
        if not flight.connected:
            return Judgement(Outcome.CONNECT, f"no connection within {self._timeout_s:g} s")
        return Judgement(Outcome.TIMEOUT, f"no complete reply within {self._timeout_s:g} s")

    def _judged(self, reply: Reply) -> Judgement:
        try:
            return self._judge(reply)
        except Exception as error:  # noqa: BLE001 - a judge that cannot read a reply has not found it good
            return Judgement(Outcome.BAD_REPLY, f"the judge raised {type(error).__name__}: {error}")

    def _fail(self, error: Exception) -> None:
        self._closed = None
        self._plan.clear()
        self._halt(f"the load engine failed: {type(error).__name__}: {error}")


def _expire(flight: Flight, task: asyncio.Task[Any] | None) -> None:
    flight.expired = True
    if task is not None:
        task.cancel()
