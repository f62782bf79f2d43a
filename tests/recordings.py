"""Running the recording proxy in a thread, talking to it byte by byte, and reading what it recorded."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.proxy import ReverseProxy
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.recording.summary import Summary
from pytest_capacity.recording.upstream import parse_upstream
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, read_rows

WAIT_S = 30.0


class Proxy:
    """The proxy in front of a URL while the context lasts; afterwards ``rows`` and ``summary`` are there."""

    def __init__(self, upstream: str, out: Path, **options: Any) -> None:
        self.out = out
        self.told: list[str] = []
        self._upstream = parse_upstream(upstream)
        self._timeout_s = options.pop("timeout_s", 30.0)
        self._keep_host = options.pop("keep_host", True)
        self._verify_tls = options.pop("verify_tls", True)
        self._options = RecordingOptions(**options)
        self.summary: Summary
        self.port = 0

    @property
    def rows(self) -> list[TraceRow]:
        return rows_of(self.out)

    def __enter__(self) -> Proxy:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(WAIT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers (by lower-case names) of the reply to one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, reply.read(), {name.lower(): value for name, value in reply.getheaders()}

    @contextlib.contextmanager
    def connect(self) -> Iterator[Wire]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S) as raw:
            yield Wire(raw)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        recorder = Recorder(self.out, self._options, source="test", tell=self.told.append)
        proxy = ReverseProxy(
            self._upstream,
            recorder,
            timeout_s=self._timeout_s,
            keep_host=self._keep_host,
            verify_tls=self._verify_tls,
        )
        runner = web.ServerRunner(proxy.server(), shutdown_timeout=5.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()
        await proxy.close()
        self.summary = recorder.close()


class Wire:
    """A connection on which bytes are written and read as they are."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.raw.sendall(data)

    def until(self, end: bytes) -> bytes:
        """What comes up to and with ``end``."""
        while end not in self._rest:
            more = self.raw.recv(65536)
            assert more, f"closed after {self._rest!r}"
            self._rest += more
        found, _, self._rest = self._rest.partition(end)
        return found + end

    def head(self) -> list[str]:
        """The lines of a reply's head."""
        return self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]

    def rest(self) -> bytes:
        """All that comes until the connection closes, or breaks."""
        with contextlib.suppress(ConnectionResetError):
            while more := self.raw.recv(65536):
                self._rest += more
        return self._rest


def rows_of(path: Path) -> list[TraceRow]:
    """Every row of a trace."""
    return list(read_rows(path)[1])


def header_of(path: Path) -> TraceHeader:
    return read_rows(path)[0]


def everything_in(folder: Path) -> bytes:
    """The bytes of all files below a folder, as they are and decompressed."""
    data = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return b"\n".join([*data, *(gzip.decompress(one) for one in data if one.startswith(b"\x1f\x8b"))])
