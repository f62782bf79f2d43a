"""A plain open-loop client over kept connections, and processes beside it."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
STOP_WITHIN_S = 60.0


class Client:
    """Asks one port, over connections that it keeps."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def play(self, due_s: Sequence[float], requests: Sequence[bytes]) -> list[float | None]:
        """Send each request when it is due, in seconds from now.

        Gives milliseconds from then to the reply's end, None for a request that was not answered well.
        """
        start_s = time.perf_counter() + 0.05
        asking = []
        for at_s, request in zip(due_s, requests, strict=True):
            await asyncio.sleep(max(0.0, start_s + at_s - time.perf_counter()))
            asking.append(asyncio.ensure_future(self._ask(start_s + at_s, request)))
        latencies_ms = await asyncio.gather(*asking)
        # Idle connections may be closed by the server before they are needed again.
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()
        return latencies_ms

    async def _ask(self, due_s: float, request: bytes) -> float | None:
        try:
            pair = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = pair
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            await reader.readexactly(int(length[1]) if length else 0)
        except (OSError, EOFError):
            return None
        took_ms = (time.perf_counter() - due_s) * 1000
        self._idle.append(pair)
        return took_ms if head.startswith(b"HTTP/1.1 200") else None


@contextmanager
def process(*command: str, says: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A process that prints where it listens; it is stopped at the end."""
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(says, line)
        assert found, line
        yield int(found[1]), started
    finally:
        started.kill()
        started.communicate()


@contextmanager
def recording(url: str, out: Path, *options: str) -> Iterator[int]:
    """The recording proxy before a server, as a process; its port. The trace is whole afterwards."""
    command = [str(Path(sys.executable).with_name("pytest-capacity")), "record", "--listen", "0"]
    where = ["--upstream", url, "--out", str(out)]
    with process(*command, *where, *options, says=r"127\.0\.0\.1:(\d+) ->") as (port, proxy):
        yield port
        proxy.send_signal(signal.SIGINT)
        proxy.wait(STOP_WITHIN_S)
