"""What happens on the sending loop: requests leave when they are due, and rows are told."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_capacity.load.pacing import Plan, Stretch
from pytest_capacity.load.precedence import Precedence
from pytest_capacity.load.rows import Told
from pytest_capacity.load.sending import Desk, MakeSender, operation_numbers
from pytest_capacity.load.spin import Lead
from pytest_capacity.load.timer import Alarm
from pytest_capacity.load.vitals import LoopMeter, Vitals
from pytest_capacity.protocols import Judgement, Outcome, Reply, Request

BURST = 32
"""After a stall many rows are due at once; replies are looked at after so many sends, some 2 ms apart."""

HEARTBEAT_S = 0.01
"""Fine enough to see what would disturb a bound of some tens of milliseconds, at 0.1 % of a core."""

STARE_S = 15e-6
"""The last part of a wait, which no turn of the loop is fitted into: one takes about so long."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows told since the last batch, and the state at its end."""

    told: Told
    vitals: Vitals


@dataclass(slots=True)
class _ClosedLoop:
    first_row: int
    concurrency: int
    request_index: array[int]
    sent: int = 0


class Player:
    """Sends on one event loop; but for ``batches``, all of it belongs to that loop's thread.

    ``batches`` is filled here and emptied by whoever makes reports. ``halt`` is called once, with the
    reason, where playing cannot go on. ``precedence`` is the loop's thread's, where it may run first.
    """

    def __init__(
        self,
        desk: Desk,
        make_sender: MakeSender,
        *,
        halt: Callable[[str], object],
        precedence: Precedence | None = None,
    ) -> None:
        self.batches: deque[Batch] = deque()
        self.desk = desk
        self._halt = halt
        desk.ended = self._ended
        desk.failed = self._fail
        self._loop = asyncio.get_running_loop()
        self._sender = make_sender(desk)
        self._operation = array("H", operation_numbers(desk.encoded, desk.encoded.requests))
        self._timeout_s = desk.encoded.timeout_s
        self._origin_s = desk.origin_s
        self._max_in_flight = desk.max_in_flight
        self._rows = desk.rows
        self._alarm = Alarm(self._loop)
        self._lead = Lead(self._alarm.lead_s)
        self._precedence = precedence
        self._plan = Plan()
        self._closed: _ClosedLoop | None = None
        self._refilling = False
        self._changes = 0
        self._meter = LoopMeter()
        self._heartbeat: asyncio.TimerHandle | None = None

    # What the session asks for.

    def play(self, stretch: Stretch) -> None:
        """Begin an era with rows that replace what was due at or after their first; end a closed loop."""
        if stretch.next == stretch.end:
            return
        self._begin_era(stretch.mean_gap_s())
        self._closed = None
        self._sender.foresee(open_loop=True)
        self._plan.play(stretch)
        self._rows.heed = self._row_ended if self._plan.follows else None
        self._change()

    def hold(self, first_row: int, concurrency: int, request_index: array[int]) -> None:
        """Begin an era with a closed loop; what was played before is withdrawn."""
        # There is no moment to be on time for, and a server pushed aside at each reply serves fewer.
        self._begin_era(0.0)
        self._plan.clear()
        self._rows.heed = None
        self._change()
        self._sender.foresee(open_loop=False)
        self._closed = _ClosedLoop(first_row, min(concurrency, self._max_in_flight), request_index)
        self._refill(self._closed)

    def add(self, requests: Sequence[Request]) -> None:
        """Have more requests ready, numbered on from those there are."""
        self._operation.extend(operation_numbers(self.desk.encoded, requests))
        self._sender.add(requests)

    def pause(self, at_s: float, *, turns_stay: bool = False) -> None:
        """Withdraw the rows due at or after ``at_s`` and end a closed loop.

        With ``turns_stay`` turns whose earliest time has come go on to be due after the replies they follow.
        """
        self._closed = None
        self._plan.withdraw_from(at_s, turns_stay=turns_stay)
        self._change()

    def renew(self, headers: Mapping[str, str]) -> None:
        """Use these headers from now on."""
        self._sender.renew(headers)

    def cut(self) -> None:
        """Put what was told since the last cut into ``batches``."""
        vitals = self._meter.read(self._now_s(), self._sender.in_flight, self._sender.waits)
        self.batches.append(Batch(self._rows.take(), vitals))

    async def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside the load and judge its reply."""
        return await self._sender.exchange(request)

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
        await self._sender.close()
        self._alarm.close()
        self.cut()

    # How it is done.

    def _now_s(self) -> float:
        return time.monotonic() - self._origin_s

    def _begin_era(self, gap_s: float) -> None:
        self.cut()
        self._meter.begin_era(self._sender.waits)
        self._lead.begin()
        if self._precedence is not None:
            self._precedence.begin(gap_s=gap_s)

    def _change(self) -> None:
        self._changes += 1
        self._alarm.ring()

    def _beat(self, due_s: float) -> None:
        now_s = time.monotonic()
        self._meter.woke(now_s - due_s)
        self._sender.tend()
        if self._precedence is not None:
            self._precedence.review()
        trouble = self._lead.review(now_s, self._meter.spin_s)
        if trouble is not None:
            self.desk.note(trouble)
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
        now_s = self._now_s()
        if now_s >= due_s:
            return True
        self._lead.waited()
        wake_s = due_s - self._lead.lead_s
        if now_s < wake_s:
            if not await self._alarm.sleep_until(self._origin_s + wake_s):
                return False
            now_s = self._now_s()
            self._meter.woke(now_s - wake_s)
            self._lead.woke(now_s - wake_s)
        began_s = now_s
        while now_s < due_s - STARE_S:
            # A turn of the loop serves replies meanwhile.
            await asyncio.sleep(0)
            if self._changes != changes:
                return False
            now_s = self._now_s()
        while now_s < due_s:
            now_s = self._now_s()
        self._meter.spun(now_s - began_s)
        return self._changes == changes

    def _send_due(self) -> None:
        for _ in range(BURST):
            now_s = self._now_s()
            due = self._plan.pop_due(now_s)
            if due is None:
                return
            row, intended_s, index = due
            if self._sender.in_flight >= self._max_in_flight:
                self._rows.final(row, self._operation[index], intended_s, Outcome.NOT_SENT)
            elif now_s >= intended_s + self._timeout_s:
                self._give_up(row, intended_s, index, now_s)
            else:
                self._sender.send(row, intended_s, index)

    def _give_up(self, row: int, intended_s: float, index: int, now_s: float) -> None:
        """Tell of a row that was due longer ago than a request may take: our own fault, not the server's."""
        self.desk.example(Outcome.NOT_SENT, "due longer ago than timeout_s when its turn came")
        self._rows.sent(row, self._operation[index], intended_s, now_s)
        self._rows.final(row, self._operation[index], intended_s, Outcome.NOT_SENT)

    def _row_ended(self, row: int, outcome: int, done_s: float) -> None:
        if self._plan.ended(row, done_s if outcome == Outcome.GOOD else None):
            self._change()

    def _ended(self) -> None:
        closed = self._closed
        # A request that ends in the very act of sending must not send from within.
        if closed is not None and not self._refilling:
            self._refill(closed)

    def _refill(self, closed: _ClosedLoop) -> None:
        self._refilling = True
        while closed is self._closed and self._sender.in_flight < closed.concurrency:
            index = closed.request_index[closed.sent % len(closed.request_index)]
            row = closed.first_row + closed.sent
            closed.sent += 1
            self._sender.send(row, self._now_s(), index)
        self._refilling = False

    def _fail(self, error: Exception) -> None:
        self._closed = None
        self._plan.clear()
        self._halt(f"the load engine failed: {type(error).__name__}: {error}")
