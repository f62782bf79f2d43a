"""Sends over a pool of keep-alive connections, each used for one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_capacity.load.failures import why_not_connected
from pytest_capacity.load.http11 import BUFFER_BYTES, BufferedConnection, Connection
from pytest_capacity.load.sending import Desk, operation_numbers, timed_out
from pytest_capacity.load.tls import tls_context
from pytest_capacity.load.wire import Wires
from pytest_capacity.protocols import Judgement, Outcome, Reply, Request

SWEEP_S = 0.02
"""How often requests are looked through for those too old: some thousand take less than a millisecond."""

AHEAD_LEAST, AHEAD_SHARE, AHEAD_MOST = 2, 0.25, 64
"""Connections held ready beyond those in use: arrivals that come by chance exceed their mean by some."""

OPENED_AT_ONCE = 2
"""Making a connection takes the loop a tenth of a millisecond: between so many, due requests leave, and
connections that come free meanwhile save making others."""

REFUSED_S = 1.0
"""Where a connection ahead of need was refused, none is tried for a second: needed ones still are."""

CANCELLED = Judgement(Outcome.CANCELLED)


@dataclass(frozen=True, slots=True)
class _Waiting:
    row: int
    intended_s: float
    index: int
    sent_s: float


class FastSender:
    """Sends requests made into bytes before the load; lives on one event loop."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.rows = desk.rows
        self.origin_s = desk.origin_s
        self.stream = desk.encoded.stream
        self.good: set[int] = set()
        """Status times two, plus one with a body, of the replies known to be good whatever they say."""
        self.plain: set[int] = set()
        """Statuses whose bodies nobody needs to see."""
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.in_flight = 0
        self.waits = 0
        self._loop = asyncio.get_running_loop()
        encoded = desk.encoded
        self._operation = operation_numbers(encoded, encoded.requests)
        self._headless = [request.method == "HEAD" for request in encoded.requests]
        self._wires = Wires(encoded.endpoint, encoded.requests, desk.headers)
        self._wires.prepare()
        self._timeout_s = encoded.timeout_s
        self._endpoint = encoded.endpoint
        self._tls: ssl.SSLContext | None = tls_context(encoded.endpoint)
        self._kind = Connection if "uvloop" in type(self._loop).__module__ else BufferedConnection
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiting: deque[_Waiting] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._ahead = False
        self._owed = self._opened = 0
        self._ahead_from_s = self._swept_s = -1.0
        self._ending = False

    def send(self, row: int, intended_s: float, index: int) -> None:
        """Begin one request now: on a free connection, or on the next that is."""
        self.in_flight += 1
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.open:
                connection.send(
                    self._wires[index],
                    row,
                    self._operation[index],
                    intended_s,
                    headless_body=self._headless[index],
                )
                return
        self._wait(row, intended_s, index)

    async def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside the load, on a connection of its own, and judge its reply."""
        answer: asyncio.Future[tuple[Reply | None, Judgement]] = self._loop.create_future()
        made: list[Connection] = []
        try:
            await asyncio.wait_for(self._exchange(request, answer, made), self._timeout_s)
            return answer.result()
        except asyncio.TimeoutError:
            return None, timed_out(self._timeout_s, connected=bool(made))
        except OSError as error:
            return None, Judgement(*why_not_connected(error))
        finally:
            for connection in made:
                connection.drop()

    async def _exchange(
        self,
        request: Request,
        answer: asyncio.Future[tuple[Reply | None, Judgement]],
        made: list[Connection],
    ) -> None:
        wire = self._wires.of(request)
        connection = await self._connect()
        made.append(connection)
        connection.answer = answer
        connection.send_late(wire, -1, 0, 0.0, 0.0, headless_body=request.method == "HEAD")
        await asyncio.wait([answer])

    def add(self, requests: Sequence[Request]) -> None:
        """Have more requests ready, numbered on from those there are."""
        self._wires.add(requests)
        self._operation += operation_numbers(self.desk.encoded, requests)
        self._headless += [request.method == "HEAD" for request in requests]

    def foresee(self, *, open_loop: bool) -> None:
        """Hold connections ready for an open loop; a closed one needs no more than its concurrency."""
        self._ahead = open_loop

    def renew(self, headers: Mapping[str, str]) -> None:
        """Use these headers from now on."""
        self._wires.renew(headers)

    def tend(self) -> None:
        """End what is too old, and open connections ahead of need."""
        now_s = self._now_s()
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            self._sweep(now_s)
        if self._ahead and now_s >= self._ahead_from_s and not self._ending:
            ahead = min(AHEAD_MOST, AHEAD_LEAST + int(AHEAD_SHARE * self.in_flight))
            self._owed = self.in_flight + ahead - len(self._all) - len(self._opening)
            self._open_lacking()

    async def close(self) -> None:
        """Cancel what is in flight, tell its rows, and close every connection."""
        self._ending = True
        for waiting in self._waiting:
            self._end_waiting(waiting, CANCELLED)
        self._waiting.clear()
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._all):
            if connection.busy:
                connection.give_up(CANCELLED, self._now_s())
                self.in_flight -= 1
            else:
                connection.drop()
        if self._opening:
            await asyncio.wait(list(self._opening), timeout=1.0)
        # Transports tell of their end in the next iterations; until then they count as unclosed.
        for _ in range(3):
            await asyncio.sleep(0)

    # What connections tell.

    def opened(self, connection: Connection) -> None:
        """Use a new connection for the oldest request that waits, or keep it."""
        self._all.add(connection)
        self.free(connection)

    def free(self, connection: Connection) -> None:
        """Use a connection for the oldest request that waits, or keep it."""
        if self._waiting:
            waiting = self._waiting.popleft()
            index = waiting.index
            connection.send_late(
                self._wires[index],
                waiting.row,
                self._operation[index],
                waiting.intended_s,
                waiting.sent_s,
                headless_body=self._headless[index],
            )
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Forget a connection; requests that counted on it get another."""
        self._all.discard(connection)
        self._open_lacking()

    def finished(self) -> None:
        """Count a request that has ended."""
        self.in_flight -= 1
        self.desk.ended()

    # How it is done.

    def _now_s(self) -> float:
        return time.monotonic() - self.origin_s

    def _wait(self, row: int, intended_s: float, index: int) -> None:
        sent_s = self._now_s()
        self.waits += 1
        self.rows.sent(row, self._operation[index], intended_s, sent_s)
        self._waiting.append(_Waiting(row, intended_s, index, sent_s))
        self._open_lacking()

    def _lacking(self) -> int:
        """How many more connections are to be made: for the requests that wait, and ahead of need."""
        room = self.desk.max_in_flight - len(self._all) - len(self._opening)
        return min(max(len(self._waiting) - len(self._opening), self._owed), room)

    def _open_lacking(self) -> None:
        """Make the connections that lack, a few in each turn of the loop."""
        while self._opened < OPENED_AT_ONCE and self._lacking() > 0 and not self._ending:
            self._opened += 1
            self._owed -= 1
            self._open_another()
            if self._opened == 1:
                self._loop.call_soon(self._open_next)

    def _open_next(self) -> None:
        self._opened = 0
        self._open_lacking()

    def _open_another(self) -> None:
        task = self._loop.create_task(self._open())
        self._opening.add(task)

    async def _open(self) -> None:
        task = asyncio.current_task()
        error: Exception | None = None
        connection: Connection | None = None
        try:
            connection = await asyncio.wait_for(self._connect(), self._timeout_s)
        except asyncio.TimeoutError:
            # Those that waited so long have been ended by their age.
            pass
        except OSError as caught:
            error = caught
        except Exception as fault:  # noqa: BLE001 - a fault of ours says nothing about the server
            self.desk.failed(fault)
        finally:
            if task is not None:
                self._opening.discard(task)
        if connection is not None:
            if self._ending:
                connection.drop()
            elif connection.open:
                self.opened(connection)
            return
        self._owed = 0
        self._ahead_from_s = self._now_s() + REFUSED_S
        if error is not None:
            self._fail_waiting(error)

    def _fail_waiting(self, error: OSError | Exception) -> None:
        """End the oldest request for which no connection is being made any more."""
        if len(self._waiting) <= len(self._opening):
            return
        outcome, reason = why_not_connected(error)
        if outcome is Outcome.NOT_SENT:
            self.desk.note(reason)
        self._end_waiting(self._waiting.popleft(), Judgement(outcome, reason))
        self.finished()

    def _end_waiting(self, waiting: _Waiting, judgement: Judgement) -> None:
        """Tell the end of a request that got no connection."""
        outcome = judgement.outcome
        self.desk.example(outcome, judgement.reason)
        nan = float("nan")
        self.rows.final(
            waiting.row,
            self._operation[waiting.index],
            waiting.intended_s,
            outcome,
            nan if outcome is Outcome.NOT_SENT else waiting.sent_s,
            done_s=self._now_s() if outcome is Outcome.CONNECT else nan,
        )
        if outcome is Outcome.CANCELLED:
            self.in_flight -= 1

    def _sweep(self, now_s: float) -> None:
        oldest_s = now_s - self._timeout_s
        late = [c for c in self._all if c.busy and c.row >= 0 and c.intended_s <= oldest_s]
        for connection in late:
            connection.give_up(timed_out(self._timeout_s, connected=True), now_s)
            self.finished()
        while self._waiting and self._waiting[0].intended_s <= oldest_s:
            self._end_waiting(self._waiting.popleft(), timed_out(self._timeout_s, connected=False))
            self.finished()

    async def _connect(self) -> Connection:
        """A new connection to the first address that takes one. Raises OSError where none does."""
        endpoint = self._endpoint
        name = endpoint.host if self._tls is not None else None
        if endpoint.unix_path is not None:
            _, connection = await self._loop.create_unix_connection(
                self._make, endpoint.unix_path, ssl=self._tls, server_hostname=name
            )
            return connection
        *others, last = endpoint.addresses
        for address in others:
            with contextlib.suppress(OSError):
                return await self._connect_to(address, name)
        return await self._connect_to(last, name)

    async def _connect_to(self, address: str, name: str | None) -> Connection:
        _, connection = await self._loop.create_connection(
            self._make, address, self._endpoint.port, ssl=self._tls, server_hostname=name
        )
        return connection

    def _make(self) -> Connection:
        return self._kind(self)
