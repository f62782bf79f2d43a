"""A load worker: ``python -m pytest_capacity.load.worker FD``, a process that does nothing but send on time.

It is told what to send over the socket that it was given, and ends with it: when the process that started it
ends, however it ends, the socket does too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import mmap
import os
import resource
import signal
import socket
import sys
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from pytest_capacity.load.frames import Frame, Unpacker, pack
from pytest_capacity.load.limits import bound_by_files
from pytest_capacity.load.messages import (
    answer_to_document,
    encoded_from_document,
    request_from,
    requests_from,
)
from pytest_capacity.load.pacing import Stretch
from pytest_capacity.load.player import Player
from pytest_capacity.load.precedence import Precedence
from pytest_capacity.load.senders import maker_of, needs_collections
from pytest_capacity.load.sending import Desk, new_event_loop
from pytest_capacity.load.turns import Columns

READ_BYTES = 262_144
MOST_DESCRIPTORS = 16
"""More than can be on their way at once: each play sends one and the next waits for the one before."""

FLUSH_ROWS = 2000
"""At high rates rows are told in parcels that take some 50 us to send, not by the megabyte; each parcel costs
the one that reads it a tenth of a millisecond."""

FLUSH_S = 0.005

PARENT_S = 1.0
"""How often to look whether the parent is still there: a child of its own may hold the socket open."""


class Link:
    """The worker's end of the socket; never blocks."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: socket.socket) -> None:
        self._loop = loop
        self._socket = link
        self._socket.setblocking(False)
        self._unsent: deque[memoryview] = deque()

    def send(self, document: Mapping[str, Any], *data: bytes | bytearray | memoryview) -> None:
        """Send a frame now as far as it goes, the rest when there is room."""
        waiting = bool(self._unsent)
        self._unsent += [memoryview(part) for part in pack(document, *data) if len(part)]
        if not waiting:
            self._flush()
            if self._unsent:
                self._loop.add_writer(self._socket.fileno(), self._writable)

    def receive(self) -> tuple[bytes, list[int]] | None:
        """What has come, with file descriptors; None where nothing has. Raises EOFError at the end."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, READ_BYTES, MOST_DESCRIPTORS)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return data, list(descriptors)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def _writable(self) -> None:
        self._flush()
        if not self._unsent:
            self._loop.remove_writer(self._socket.fileno())

    def _flush(self) -> None:
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:
                # Nobody listens any more: the reader sees the end and stops.
                self._unsent.clear()
                return
            part = self._unsent.popleft()
            if sent < len(part):
                self._unsent.appendleft(part[sent:])


class Worker:
    """Does what frames ask for, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, link: socket.socket) -> None:
        self._loop = loop
        self._link = Link(loop, link)
        self._unpacker = Unpacker()
        self._descriptors: deque[int] = deque()
        self._ended = asyncio.Event()
        self._player: Player | None = None
        self._pacing: asyncio.Task[None] | None = None
        self._exchanges: set[asyncio.Task[None]] = set()
        self._parent = os.getppid()
        self._do: dict[str, Callable[[Frame], None]] = {
            "open": self._open,
            "add": self._add,
            "play": self._play,
            "hold": self._hold,
            "pause": self._pause,
            "renew": self._renew,
            "cut": self._cut,
            "exchange": self._exchange,
            "close": self._close,
        }

    async def serve(self) -> None:
        """Live until the socket's other end is gone."""
        self._loop.add_reader(self._link.fileno(), self._readable)
        self._link.send({"kind": "started", "pid": os.getpid()})
        self._watch_parent()
        await self._ended.wait()
        self._loop.remove_reader(self._link.fileno())
        await self._shut()

    def _watch_parent(self) -> None:
        if os.getppid() != self._parent:
            self._ended.set()
        self._loop.call_later(PARENT_S, self._watch_parent)

    def _readable(self) -> None:
        try:
            while (received := self._link.receive()) is not None:
                data, descriptors = received
                self._descriptors += descriptors
                for frame in self._unpacker.feed(data):
                    self._do[frame.kind](frame)
        except EOFError:
            self._ended.set()

    # What frames ask for.

    def _open(self, frame: Frame) -> None:
        document = frame.document
        sys.path[:] = document["path"]
        try:
            os.chdir(document["folder"])
            encoded = encoded_from_document(document["encoded"], frame.data)
            judge = encoded.judge.load()
            make_sender = maker_of(document["sender"])
            bound, note = bound_by_files(document["max_in_flight"])
            desk = Desk(encoded, judge, document["headers"], document["origin_s"], bound)
            if note is not None:
                desk.note(note)
            # Nothing that lives now is garbage soon, and a collection would hold up the sending.
            gc.collect()
            gc.freeze()
            if not needs_collections(document["sender"]):
                gc.disable()
            self._player = Player(desk, make_sender, halt=self._halt, precedence=Precedence())
        except Exception as error:  # noqa: BLE001 - whatever the target's modules raise is told to the opener
            self._link.send({"kind": "refused", "message": f"{type(error).__name__}: {error}"})
            return
        self._pacing = self._loop.create_task(self._player.run())
        self._flush_often(self._player)
        self._link.send({"kind": "opened", "max_in_flight": bound})

    def _add(self, frame: Frame) -> None:
        if self._player is not None:
            self._player.add(requests_from(frame.document["requests"], frame.data))

    def _play(self, frame: Frame) -> None:
        descriptor = self._descriptors.popleft()
        count, has_turns = frame.document["count"], frame.document["turns"]
        size = 8 * count
        try:
            shared = memoryview(mmap.mmap(descriptor, (4 if has_turns else 2) * size, prot=mmap.PROT_READ))
        finally:
            os.close(descriptor)
        times, indexes = shared[:size].cast("d"), shared[size : 2 * size].cast("q")
        turns = None
        if has_turns:
            turns = Columns(shared[2 * size : 3 * size].cast("q"), shared[3 * size :].cast("d"))
        if self._player is not None:
            self._player.play(Stretch(frame.document["first_row"], times, indexes, 0, count, turns))

    def _hold(self, frame: Frame) -> None:
        indexes = array("q", frame.data)
        if self._player is not None:
            self._player.hold(frame.document["first_row"], frame.document["concurrency"], indexes)

    def _pause(self, frame: Frame) -> None:
        if self._player is not None:
            turns_stay = frame.document.get("turns_stay", False)
            self._player.pause(frame.document["at_s"], turns_stay=turns_stay)

    def _renew(self, frame: Frame) -> None:
        if self._player is not None:
            self._player.renew(frame.document["headers"])

    def _cut(self, frame: Frame) -> None:
        if self._player is not None:
            self._tell(self._player)
            self._link.send({"kind": "cut", "number": frame.document["number"]})

    def _exchange(self, frame: Frame) -> None:
        if self._player is not None:
            request = request_from(frame.document["request"], frame.data)
            task = self._loop.create_task(self._answer(self._player, frame.document["number"], request))
            self._exchanges.add(task)
            task.add_done_callback(self._exchanges.discard)

    async def _answer(self, player: Player, number: int, request: Any) -> None:
        reply, judgement = await player.exchange(request)
        document = {"kind": "answer", "number": number, **answer_to_document(reply, judgement)}
        self._link.send(document, b"" if reply is None else reply.body)

    def _close(self, frame: Frame) -> None:
        del frame
        task = self._loop.create_task(self._shut_and_tell())
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)

    async def _shut_and_tell(self) -> None:
        await self._shut()
        self._link.send({"kind": "closed"})

    async def _shut(self) -> None:
        player, self._player = self._player, None
        if player is None:
            return
        if self._pacing is not None:
            self._pacing.cancel()
            await asyncio.wait([self._pacing])
        await player.shut()
        self._tell(player)
        gc.enable()
        gc.unfreeze()

    # What it tells by itself.

    def _flush_often(self, player: Player) -> None:
        if player is self._player:
            if len(player.desk.rows) >= FLUSH_ROWS:
                self._tell(player)
            self._loop.call_later(FLUSH_S, self._flush_often, player)

    def _tell(self, player: Player) -> None:
        player.cut()
        while player.batches:
            batch = player.batches.popleft()
            records, tokens = batch.told.records, batch.told.token_times_s
            document = {
                "kind": "told",
                "records": len(records),
                "vitals": asdict(batch.vitals),
                "notes": player.desk.notes,
                "examples": {int(outcome): reason for outcome, reason in player.desk.examples.items()},
            }
            self._link.send(document, records, tokens)

    def _halt(self, why: str) -> None:
        self._link.send({"kind": "halt", "why": why})


def main() -> None:
    """Serve the socket whose descriptor is the only argument."""
    # Ctrl-C reaches every process of the terminal; whoever started this one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    allow_files()
    link = socket.socket(fileno=int(sys.argv[1]))
    loop = new_event_loop()
    try:
        loop.run_until_complete(_serve(loop, link))
    finally:
        loop.close()
        link.close()


def allow_files() -> None:
    """Let this process open as many files as it may: each request in flight holds a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS names no limit where it has one; what it then refuses is as good as it was.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(loop: asyncio.AbstractEventLoop, link: socket.socket) -> None:
    await Worker(loop, link).serve()


if __name__ == "__main__":
    main()
