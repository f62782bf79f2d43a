"""A null server for HTTPS: ``python -m benchmarks.loadgen.tlsserver CERTIFICATE KEY``.

On uvloop where it is installed. It answers each request that it has whole with 200 bytes of JSON, prints
"port N" when ready, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
from typing import cast

BODY = json.dumps({"model": "null", "padding": "x" * 169}).encode()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
REPLY = HEAD + BODY


class Null(asyncio.Protocol):
    """One connection, one reply to each whole request."""

    answered = 0

    def __init__(self) -> None:
        self._held = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        held = self._held + data
        while held:
            length = message_length(held)
            if not length or length > len(held):
                break
            held = held[length:]
            Null.answered += 1
            self._transport.write(REPLY)
        self._held = held


def message_length(held: bytes) -> int:
    """How long the message at the beginning is; 0 while its headers are incomplete."""
    head, end, _ = held.partition(b"\r\n\r\n")
    if not end:
        return 0
    _, name, value = head.lower().partition(b"\r\ncontent-length:")
    return len(head) + 4 + (int(value.partition(b"\r\n")[0]) if name else 0)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of uvloop's where it is installed, else of asyncio's."""
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


async def serve(certificate: str, key: str) -> None:
    """Serve until standard input ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Null, "127.0.0.1", 0, ssl=context, backlog=1024)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()
    server.close()


def main() -> None:
    """Serve, then tell what was answered at what cost."""
    loop = new_event_loop()
    loop.run_until_complete(serve(*sys.argv[1:3]))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"requests": Null.answered, "cpu_s": usage.ru_utime + usage.ru_stime}))


if __name__ == "__main__":
    main()
