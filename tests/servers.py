"""Servers on real sockets that behave, and misbehave, as told; each is a context manager on 127.0.0.1.

They speak just enough HTTP/1.1 for requests with a Content-Length, on raw asyncio sockets, so that they can
break it. ``python -m tests.servers`` runs the healthy one in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

FASTAPI_422 = json.dumps(
    {"detail": [{"type": "missing", "loc": ["body", "items"], "msg": "Field required", "input": {}}]}
).encode()


@dataclass(frozen=True)
class Received:
    """A request as it came in; ``number`` counts from 1, over all connections."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(eq=False)
class Connection:
    """One accepted connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def reply(self, status: int = 200, body: bytes = b'{"ok": true}', *headers: str) -> None:
        """Write a whole reply."""
        lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", *headers]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        await self.write(head.encode() + body)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Break the connection with an RST in place of a FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


Behaviour = Callable[["Server", Connection, Received], Awaitable[bool]]
"""Answers one request; True where the connection stays open for another."""


@dataclass
class Server:
    """Runs a behaviour in a thread of its own while the context lasts; ``url`` is where."""

    behave: Behaviour
    tls: ssl.SSLContext | None = None
    unix_path: str | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    most_open: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def count(self) -> int:
        """How many requests came in."""
        return len(self.requests)

    def wait_for(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Wait until so many requests came in; raises TimeoutError where they do not."""
        give_up = time.monotonic() + timeout_s
        while self.count < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{self.count} of {count} requests came in within {timeout_s:g} s")
            time.sleep(0.01)

    def paths(self) -> Counter[str]:
        return Counter(request.path for request in self.requests)

    def __enter__(self) -> Server:
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="test-server", daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def die(self) -> None:
        """Refuse new connections and reset the open ones."""
        await self._stop_listening()
        for connection in list(self._open):
            connection.reset()

    def release(self) -> None:
        """Let the replies go that a gated server holds."""
        self._loop.call_soon_threadsafe(self._gate.set)

    async def released(self) -> None:
        """Wait until ``release`` is called."""
        await self._gate.wait()

    async def forever(self) -> None:
        """Wait for the end of the context."""
        await self._stop.wait()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._gate = asyncio.Event()
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        if self.unix_path is not None:
            self._listener = await asyncio.start_unix_server(self._accept, self.unix_path, ssl=self.tls)
        else:
            self._listener = await asyncio.start_server(
                self._accept, "127.0.0.1", 0, ssl=self.tls, backlog=4096, limit=2**22
            )
            self.port = self._listener.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        await self._stop_listening()
        for connection in list(self._open):
            connection.writer.transport.abort()
        await _turns()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await _turns()

    async def _stop_listening(self) -> None:
        # What was accepted just now gets its transport in the next turns; asyncio loses it (an assertion
        # fails) where the listener is closed in between.
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening.fileno())
        await _turns()
        self._listener.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self._open.add(connection)
        task = asyncio.ensure_future(self._talk(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, connection: Connection) -> None:
        self.connections += 1
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            while await self.behave(self, connection, await self._receive(connection)):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_now -= 1
            connection.close()
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
            self._open.discard(connection)

    async def _receive(self, connection: Connection) -> Received:
        head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await connection.reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split(" ")
        received = Received(self.count + 1, method, path, headers, body)
        self.requests.append(received)
        return received


async def _turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def healthy(*, delay_s: float = 0.0, tls: ssl.SSLContext | None = None) -> Server:
    """Answers 200 with JSON, keeps connections alive, after ``delay_s`` where one is given."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        if delay_s:
            await asyncio.sleep(delay_s)
        await connection.reply()
        return True

    return Server(behave, tls)


def one_at_a_time(work_s: float) -> Server:
    """Answers one request after the other, each after ``work_s``: a server that saturates early."""
    slot = asyncio.Lock()

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        async with slot:
            await asyncio.sleep(work_s)
        await connection.reply()
        return True

    return Server(behave)


def answering(status: int, body: bytes = b"{}", *headers: str, after: int = 0) -> Server:
    """Answers ``status``, where ``after`` is given only from the request after that many good replies."""

    async def behave(_: Server, connection: Connection, request: Received) -> bool:
        if request.number > after:
            await connection.reply(status, body, *headers)
        else:
            await connection.reply()
        return True

    return Server(behave)


def alternating(status: int) -> Server:
    """Answers every second request with ``status`` in place of 200, beginning with a good reply."""

    async def behave(_: Server, connection: Connection, received: Received) -> bool:
        if received.number % 2:
            await connection.reply()
        else:
            await connection.reply(status, b"{}")
        return True

    return Server(behave)


def raw(data: bytes) -> Server:
    """Writes ``data`` in place of a reply and closes the connection."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.write(data)
        return False

    return Server(behave)


def raw_and_hold(data: bytes) -> Server:
    """Writes ``data`` in place of a reply and says nothing more."""

    async def behave(server: Server, connection: Connection, _: Received) -> bool:
        await connection.write(data)
        await server.forever()
        return False

    return Server(behave)


def resetting() -> Server:
    """Reads the request and resets the connection."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        connection.reset()
        return False

    return Server(behave)


def hanging(*, after: int = 0) -> Server:
    """Accepts and never answers, from the request after ``after`` good replies on."""

    async def behave(server: Server, connection: Connection, request: Received) -> bool:
        if request.number > after:
            await server.forever()
        await connection.reply()
        return True

    return Server(behave)


def dying(*, after: int) -> Server:
    """Closes its listening socket and resets every connection after ``after`` good replies."""

    async def behave(server: Server, connection: Connection, request: Received) -> bool:
        if request.number > after:
            await server.die()
            return False
        await connection.reply()
        return True

    return Server(behave)


def closing_silently() -> Server:
    """Closes the connection when the second request comes in on it, without having said it would."""
    seen: set[Connection] = set()

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        if connection in seen:
            return False
        seen.add(connection)
        await connection.reply()
        return True

    return Server(behave)


def closing_at_random(seed: int = 1) -> Server:
    """Closes about every third connection after a reply, without having said it would."""
    rng = random.Random(seed)

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.reply()
        return rng.random() > 1 / 3

    return Server(behave)


def trickling() -> Server:
    """Promises a reply and sends one byte of it a second."""

    async def behave(server: Server, connection: Connection, _: Received) -> bool:
        await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        with contextlib.suppress(asyncio.TimeoutError):
            while True:
                await connection.write(b"x")
                await asyncio.wait_for(asyncio.shield(server._stop.wait()), 1.0)
        return False

    return Server(behave)


def writing(data: bytes, *, keep: bool = True) -> Server:
    """Writes ``data`` in answer to each request and, unless told otherwise, keeps the connection."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.write(data)
        return keep

    return Server(behave)


def gated() -> Server:
    """Holds every reply until ``release`` is called."""

    async def behave(server: Server, connection: Connection, _: Received) -> bool:
        await server.released()
        await connection.reply()
        return True

    return Server(behave)


def refusing() -> str:
    """The URL of a port that nothing listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@contextlib.contextmanager
def elsewhere(*, delay_s: float = 0.0) -> Iterator[str]:
    """The URL of a healthy server in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.servers", str(delay_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(60)


if __name__ == "__main__":
    with healthy(delay_s=float(sys.argv[1]) if len(sys.argv) > 1 else 0.0) as server:
        print(server.url, flush=True)  # noqa: T201 - the port is told to whoever started us
        sys.stdin.read()
