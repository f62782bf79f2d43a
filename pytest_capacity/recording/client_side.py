"""The proxy's side towards clients: reading a request's body, and writing a reply byte by byte."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from pytest_capacity.recording.exchange import Exchange

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientLeft(Exception):
    """The client closed its connection before it had its reply."""


class Sent(web.StreamResponse):
    """Tells aiohttp that the reply has been written, and whether another request may follow."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._may_follow = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow on this connection."""
        return self._may_follow

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing: the head has been written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing: the end has been written."""


class Client:
    """Who sent one request. ``replying`` tells whether a part of the reply has gone out."""

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        self.replying = False

    async def go_on(self) -> None:
        """Ask for the body where the client waits to be asked (RFC 9110 section 10.1.1)."""
        expects = self.request.headers.get("Expect", "").lower() == "100-continue"
        if expects and self.request.version >= aiohttp.HttpVersion11 and not self.replying:
            await self._write(_CONTINUE)

    async def write_reply(self, data: bytes) -> None:
        """Write a piece of the reply, head included; raises ClientLeft."""
        if data:
            self.replying = True
            await self._write(data)

    def say(self, status: int, text: str) -> web.StreamResponse:
        """A reply of the proxy's own."""
        return web.Response(
            status=status, text=f"pytest-capacity record: {text}\n", headers={"Server": "pytest-capacity"}
        )

    def abort(self) -> web.StreamResponse:
        """Break the connection."""
        if self.request.transport is not None:
            self.request.transport.abort()
        return Sent(keep_alive=False)

    async def _write(self, data: bytes) -> None:
        try:
            await self.request.writer.write(data)
        except ConnectionError as error:
            raise ClientLeft("the client closed its connection") from error


class RequestBody:
    """A request's body on its way upstream, noted in the exchange; ``broke`` where it has no good end."""

    def __init__(self, client: Client, exchange: Exchange) -> None:
        self._client, self._exchange = client, exchange
        self._begun = False
        self.broke = False

    def data(self) -> bytes | RequestBody | None:
        """What aiohttp is to send: all of it where it is here already, else pieces as they come."""
        request = self._client.request
        if not request.body_exists:
            self._exchange.body_ended = True
            return None
        if request.content.is_eof() and "Content-Length" in request.headers:
            data = request.content.read_nowait(-1)
            self._exchange.add_body(data)
            self._exchange.body_ended = True
            return data
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._begun:
            # aiohttp would send a PUT again on a new connection, without what has been read of it.
            raise aiohttp.ServerDisconnectedError
        self._begun = True
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        content, exchange = self._client.request.content, self._exchange
        if not content.is_eof():
            await self._client.go_on()
        try:
            while not content.at_eof():
                if data := await content.readany():
                    exchange.add_body(data)
                    yield data
        except (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError, ValueError):
            self.broke = True
            raise
        exchange.body_ended = True


def websocket_asked(request: web.BaseRequest) -> bool:
    """Whether a request wants its connection to become a websocket."""
    tokens = {token.strip().lower() for token in request.headers.get("Connection", "").split(",")}
    return (
        request.method == "GET"
        and "upgrade" in tokens
        and request.headers.get("Upgrade", "").strip().lower() == "websocket"
    )
