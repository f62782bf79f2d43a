"""Websockets through the proxy: once the upstream has agreed, every byte passes as it is, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Iterable
from typing import Any, cast

import aiohttp

from pytest_capacity.recording.client_side import Client
from pytest_capacity.recording.failures import NoConnection
from pytest_capacity.recording.upstream import Upstream

_BUFFER_BYTES = 2**16
_REPLY_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\n(?:connection|keep-alive):[^\r\n]*(?=\r\n)", re.IGNORECASE)


class Tunnel:
    """Opens a connection of its own to the upstream for each websocket."""

    def __init__(self, upstream: Upstream, *, connect_s: float, reply_s: float, verify_tls: bool) -> None:
        self._upstream, self._connect_s, self._reply_s = upstream, connect_s, reply_s
        self._tls = _tls(verify=verify_tls) if upstream.scheme == "https" else None

    async def pass_through(self, client: Client, target: str, headers: Iterable[tuple[str, str]]) -> None:
        """Pass a request for a websocket on, and its bytes until either side ends.

        A refusal is passed back as it came. Raises OSError, EOFError, TimeoutError and aiohttp's errors where
        the upstream cannot be reached or does not answer.
        """
        reader, writer = await self._connect()
        try:
            lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
            writer.write("\r\n".join(lines).encode("utf-8", "surrogateescape"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self._reply_s)
            status = _REPLY_HEAD.match(head)
            if status is None:
                raise ValueError("the reply is no HTTP")
            if status[1] == b"101":
                await self._both_ways(client, head, reader, writer)
            else:
                await self._refuse(client, head, reader, writer)
        except asyncio.LimitOverrunError as error:
            raise ValueError("the reply's head is too long") from error
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        upstream = self._upstream
        connecting = asyncio.open_connection(upstream.host, upstream.port, ssl=self._tls, limit=_BUFFER_BYTES)
        try:
            return await asyncio.wait_for(connecting, self._connect_s)
        except asyncio.TimeoutError:
            raise aiohttp.ConnectionTimeoutError from None
        except OSError as error:
            raise NoConnection from error

    async def _both_ways(
        self,
        client: Client,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        inward = asyncio.StreamReader(limit=_BUFFER_BYTES)
        if client.request.transport is None:
            return
        # A full reader makes its transport pause, so that a slow upstream slows the client down.
        inward.set_transport(client.request.transport)
        client.request.protocol.set_parser(cast(Any, _Inlet(inward)))
        await client.write_reply(head)
        sending = asyncio.ensure_future(_pump(inward, writer))
        try:
            while data := await reader.read(_BUFFER_BYTES):
                await client.write_reply(data)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _refuse(
        self,
        client: Client,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Pass back a reply that is no agreement, and let the connection end with it."""
        length = _LENGTH.search(head)
        await client.write_reply(_CONNECTION.sub(b"", head)[:-2] + b"Connection: close\r\n\r\n")
        if length is not None:
            left = int(length[1])
            while left and (data := await self._more(reader, left)):
                left -= len(data)
                await client.write_reply(data)
            return
        # The reply ends where the upstream closes, which it does when it hears of no further request.
        with contextlib.suppress(OSError, NotImplementedError):
            writer.write_eof()
        while data := await self._more(reader, _BUFFER_BYTES):
            await client.write_reply(data)

    async def _more(self, reader: asyncio.StreamReader, most: int) -> bytes:
        return await asyncio.wait_for(reader.read(min(most, _BUFFER_BYTES)), self._reply_s)


class _Inlet:
    """Takes what a client sends after its request; aiohttp calls it as it calls a websocket's parser."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BUFFER_BYTES):
            writer.write(data)
            await writer.drain()


def _tls(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
