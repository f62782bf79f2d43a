"""A server that does next to nothing: ``python -m pytest_capacity.load.nullserver``.

It answers every request on 127.0.0.1 with the same 200 bytes of JSON, prints its port, and ends when its
standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httptools

from pytest_capacity.load.sending import new_event_loop

BODY = b'{"scores": [' + b"0.5, " * 36 + b"0.5000]}"
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)

START_S = 10.0


class Answering(asyncio.Protocol):
    """Answers each request of one connection when it is whole."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse a part of a request."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        """Answer."""
        self._transport.write(REPLY)


@contextlib.contextmanager
def null_server() -> Iterator[str]:
    """Run one in a process of its own; gives its URL. Raises OSError where it does not start."""
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_capacity.load.nullserver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise OSError("the null server has no pipes")
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise OSError("the null server did not start")
            yield f"http://127.0.0.1:{port}/predict"
        finally:
            process.stdin.close()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - whoever started us reads it
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else ended.set())
    await ended.wait()


def main() -> None:
    """Serve until standard input ends."""
    loop = new_event_loop()
    try:
        loop.run_until_complete(_serve())
    finally:
        loop.close()


if __name__ == "__main__":
    main()
