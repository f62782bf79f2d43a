"""A sending loop in a thread of this process, and a session that commands it.

The caller's thread may thus block in ``collect``, where Ctrl-C reaches it at once, while requests leave on
time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pytest_capacity.load.limits import bound_by_files
from pytest_capacity.load.opening import check_requests
from pytest_capacity.load.pacing import request_indexes, stretch
from pytest_capacity.load.player import Player
from pytest_capacity.load.priority import wake_soon
from pytest_capacity.load.refresh import HeaderRefresher
from pytest_capacity.load.rows import samples_of
from pytest_capacity.load.sending import Desk, MakeSender, new_event_loop
from pytest_capacity.load.vitals import LatenessMeter, Vitals
from pytest_capacity.protocols import (
    Encoded,
    Floats,
    Health,
    Ints,
    Judgement,
    LoadReport,
    Reply,
    Request,
    Samples,
    Turns,
    empty_samples,
    join_samples,
)

PATIENCE_S = 10.0
"""A sending loop that answers nothing for so long hangs, as in a check that never returns."""

SWITCH_INTERVAL_S = 0.0005
"""How long another thread may keep the interpreter from the sending loop; Python's own default is 5 ms,
which each wake-up would be late by while the tests' thread computes."""


class ThreadSession:
    """An open engine in this process; see LoadSession for what its methods promise."""

    def __init__(
        self,
        encoded: Encoded,
        judge: Callable[[Reply], Judgement],
        headers: Mapping[str, str],
        max_in_flight: int,
        make_sender: MakeSender,
        *,
        note: str | None = None,
    ) -> None:
        self._encoded = encoded
        self._judge = judge
        self._headers = headers
        self._make_sender = make_sender
        self._requests = len(encoded.requests)
        self._note = note
        self._max_in_flight, self._bound_note = bound_by_files(max_in_flight)
        self._halted = threading.Event()
        self._halted_why: str | None = None
        self._lateness = LatenessMeter()
        self._vitals = Vitals()
        self._closed = False
        self._exchange: concurrent.futures.Future[tuple[Reply | None, Judgement]] | None = None
        self._origin_s = time.monotonic()
        self._player: Player
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._switch_interval_s = sys.getswitchinterval()
        # Live objects of the tests and the model are of no interest to a collection, which would stop the
        # sending loop for 100 ms where there are half a million of them.
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            self._thread = self._start()
        except BaseException:
            self._restore()
            raise
        self._refresher = self._refresh()

    def now_s(self) -> float:
        """The session's clock, monotonic, zero at opening."""
        return time.monotonic() - self._origin_s

    def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside any load and judge the reply; None where no reply came.

        Raises RuntimeError after ``close``, and what went wrong where the fault is the engine's own.
        """
        if self._closed or self._loop.is_closed():
            raise RuntimeError(self._halted_why or "the session is closed")
        answer = asyncio.run_coroutine_threadsafe(self._player.exchange(request), self._loop)
        self._exchange = answer
        try:
            return answer.result(self._encoded.timeout_s + PATIENCE_S)
        except concurrent.futures.TimeoutError:
            self._halt(_stuck())
            raise RuntimeError(_stuck()) from None
        finally:
            answer.cancel()

    def add(self, requests: Sequence[Request]) -> int:
        """Have more requests ready to be sent; returns the index of the first.

        Raises ValueError for one that cannot be written, or of an unknown operation.
        """
        check_requests(self._encoded, requests)
        first, self._requests = self._requests, self._requests + len(requests)
        self._post(lambda: self._player.add(requests))
        return first

    def play(
        self, first_row: int, intended_s: Floats, request_index: Ints, turns: Turns | None = None
    ) -> None:
        """Send open loop from now on, replacing rows due at or after ``intended_s[0]``.

        Columns without a row change nothing.

        Raises ValueError where the columns do not fit each other or the requests.
        """
        more = stretch(first_row, intended_s, request_index, self._requests, turns)
        self._post(lambda: self._player.play(more))

    def hold(self, first_row: int, concurrency: int, request_index: Ints) -> None:
        """Keep so many requests in flight, at most as many as may be.

        Raises ValueError where there is no request to send or none to hold.
        """
        indexes = request_indexes(request_index, self._requests)
        if not indexes or concurrency < 1:
            raise ValueError("a closed loop needs a concurrency of at least 1 and a request to send")
        self._post(lambda: self._player.hold(first_row, concurrency, indexes))

    def pause(self, at_s: float) -> None:
        """Withdraw open-loop rows due at or after ``at_s``, end a closed loop; replies go on coming."""
        self._post(lambda: self._player.pause(at_s))

    def collect(self, until_s: float) -> LoadReport:
        """Wait until the clock reads ``until_s`` or the engine halts, then tell what is new."""
        while (left_s := until_s - self.now_s()) > 0 and not self._halted.is_set():
            self._halted.wait(left_s)
        # What happens from here on may be told or not.
        now_s = self.now_s()
        cut = threading.Event()
        if self._post(self._player.cut) and self._post(cut.set) and not cut.wait(PATIENCE_S):
            self._halt(_stuck())
        return self._report(now_s)

    def close(self) -> LoadReport:
        """Cancel what is in flight, close every connection, and tell the rest."""
        if self._closed:
            return LoadReport(self.now_s(), empty_samples(), 0, self._health(), {}, self._halted_why)
        if self._refresher is not None:
            self._refresher.stop()
        if self._exchange is not None:
            # Another thread may still wait for it.
            self._exchange.cancel()
        self._post(self._stop.set)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._halt(_stuck())
        self._closed = True
        self._restore()
        return self._report(self.now_s())

    def _start(self) -> threading.Thread:
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        thread = threading.Thread(target=self._run, args=(ready,), name="capacity-engine", daemon=True)
        thread.start()
        ready.result()
        return thread

    def _run(self, ready: concurrent.futures.Future[None]) -> None:
        leave_coverage()
        wake_soon()
        loop = new_event_loop()
        try:
            loop.run_until_complete(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - it ends this thread and must reach the other one
            if ready.done():
                self._halt(f"the load engine failed: {type(error).__name__}: {error}")
            else:
                ready.set_exception(error)
        finally:
            loop.close()

    async def _serve(self, ready: concurrent.futures.Future[None]) -> None:
        """Live on the loop's thread from the first to the last moment of the session."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        desk = Desk(self._encoded, self._judge, self._headers, self._origin_s, self._max_in_flight)
        for note in (self._note, self._bound_note):
            if note is not None:
                desk.note(note)
        self._player = Player(desk, self._make_sender, halt=self._halt)
        pacing = self._loop.create_task(self._player.run())
        ready.set_result(None)
        await self._stop.wait()
        pacing.cancel()
        await asyncio.wait([pacing])
        await self._player.shut()

    def _refresh(self) -> HeaderRefresher | None:
        if self._encoded.refresh_headers is None:
            return None
        return HeaderRefresher(
            self._encoded.refresh_headers,
            self._encoded.refresh_every_s,
            renewed=lambda headers: self._post(lambda: self._player.renew(headers)),
            failed=lambda trouble: self._post(lambda: self._player.desk.note(trouble)),
        )

    def _post(self, command: Callable[[], object]) -> bool:
        """Have ``command`` run on the loop's thread soon; False where that has ended."""
        try:
            self._loop.call_soon_threadsafe(command)
        except RuntimeError:
            return False
        return True

    def _halt(self, why: str) -> None:
        if self._halted_why is None:
            self._halted_why = why
        self._halted.set()

    def _restore(self) -> None:
        gc.unfreeze()
        sys.setswitchinterval(self._switch_interval_s)

    def _report(self, now_s: float) -> LoadReport:
        told: list[Samples] = []
        batches = self._player.batches
        while batches:
            batch = batches.popleft()
            samples = samples_of(batch.told)
            told.append(samples)
            self._lateness.add(batch.vitals.era, samples)
            self._vitals = batch.vitals
        return LoadReport(
            now_s=now_s,
            samples=join_samples(told),
            in_flight=0 if self._closed else self._vitals.in_flight,
            health=self._health(),
            examples=dict(self._player.desk.examples),
            halted=self._halted_why,
        )

    def _health(self) -> Health:
        return self._lateness.health(self._vitals, self._max_in_flight, tuple(self._player.desk.notes))


def leave_coverage() -> None:
    """Have coverage.py leave this thread alone: its tracer makes a request a quarter dearer and more.

    A debugger stays. What coverage counts without a tracer (sys.monitoring) costs nothing to speak of.
    """
    tracer = sys.gettrace()
    owner = type(getattr(tracer, "__self__", tracer))
    if owner.__module__.partition(".")[0] == "coverage":
        sys.settrace(None)


def _stuck() -> str:
    return f"the sending loop has stood still for {PATIENCE_S:g} s; does a check never return?"
