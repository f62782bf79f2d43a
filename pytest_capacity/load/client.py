"""One HTTP exchange on aiohttp, without pool limit, retry, redirect, proxy, cookies or name lookup."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from array import array
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from pytest_capacity import __version__
from pytest_capacity.load.failures import OUR_OWN_LIMITS, one_line
from pytest_capacity.load.tls import tls_context
from pytest_capacity.load.tokens import TokenTimes
from pytest_capacity.protocols import Encoded, Endpoint, Outcome, Reply, Request

LARGE_BODY_BYTES = 2**20
"""aiohttp warns of bytes longer than this, and wants a stream, which it writes in pieces."""


class Flight:
    """One request on its way. Times are the session's seconds, NaN until it comes to that."""

    __slots__ = (
        "attempted",
        "connected",
        "done_s",
        "expired",
        "first_byte_s",
        "intended_s",
        "operation",
        "request",
        "row",
        "sent_s",
        "token_times_s",
    )

    def __init__(self, row: int, intended_s: float, request: Request, operation: int = 0) -> None:
        self.row = row
        self.intended_s = intended_s
        self.request = request
        self.operation = operation
        self.sent_s = self.first_byte_s = self.done_s = float("nan")
        self.token_times_s: array[float] | None = None
        self.attempted = self.connected = self.expired = False


_flight: ContextVar[Flight] = ContextVar("flight")


class _FixedResolver(AbstractResolver):
    """Knows the addresses that were checked and no others."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = []
        for address in self._addresses:
            own = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in {socket.AF_UNSPEC, own}:
                flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
                results.append(
                    ResolveResult(hostname=host, host=address, port=port, family=own, proto=0, flags=flags)
                )
        return results

    async def close(self) -> None:
        """Nothing is held."""


class _OneAttempt(aiohttp.BaseConnector):
    """Gives each flight one connection.

    aiohttp sends GET and its like a second time when a kept-alive connection breaks, and has no public way
    to be told not to. It has to ask for a second connection to do so.
    """

    def watch(self, *, tls: bool) -> None:
        """Remember the connections where they are encrypted, so that ``abort`` finds them."""
        self._transports: set[asyncio.Transport] | None = set() if tls else None
        self._transports_kept = 100

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        flight = _flight.get()
        if flight.attempted:
            raise aiohttp.ServerDisconnectedError("the server closed the connection without a reply")
        flight.attempted = True
        connection = await super().connect(req, traces, timeout)
        flight.connected = True
        self._remember(connection.transport)
        return connection

    def abort(self) -> None:
        """Break every TLS connection without the farewell that TLS wants, and that a server may never answer.

        Before 3.12 aiohttp lets that go on while the loop is closed.
        """
        for transport in self._transports or ():
            transport.abort()

    def _remember(self, transport: asyncio.Transport | None) -> None:
        if self._transports is None or transport is None:
            return
        self._transports.add(transport)
        if len(self._transports) > self._transports_kept:
            self._transports = {kept for kept in self._transports if not kept.is_closing()}
            self._transports_kept = 2 * len(self._transports) + 100


class _TcpConnector(_OneAttempt, aiohttp.TCPConnector):
    pass


class _UnixConnector(_OneAttempt, aiohttp.UnixConnector):
    pass


def _connector(endpoint: Endpoint) -> _OneAttempt:
    connector: _OneAttempt
    if endpoint.unix_path is not None:
        connector = _UnixConnector(endpoint.unix_path, limit=0)
    else:
        connector = _TcpConnector(
            limit=0,
            resolver=_FixedResolver(endpoint.addresses),
            use_dns_cache=False,
            ssl=tls_context(endpoint) or True,
        )
    connector.watch(tls=endpoint.scheme == "https")
    return connector


class HttpClient:
    """Sends requests to one endpoint. Make, use and close it on one running event loop."""

    def __init__(self, encoded: Encoded, headers: Mapping[str, str], now_s: Callable[[], float]) -> None:
        endpoint = encoded.endpoint
        self._now_s = now_s
        self._stream = encoded.stream
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        self._origin = f"{endpoint.scheme}://{host}:{endpoint.port}"
        self._fresh = dict(headers)
        self._urls: dict[str, URL] = {}
        self._headers: dict[tuple[tuple[str, str], ...], CIMultiDict[str]] = {}
        self._connector = _connector(endpoint)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None),
            # What the user did not ask for is not sent: a server that compresses does other work.
            skip_auto_headers=("Content-Type", "Accept-Encoding"),
            auto_decompress=True,
        )

    def renew(self, headers: Mapping[str, str]) -> None:
        """Replace headers of the same name on requests sent from now on."""
        self._fresh = dict(headers)

    async def exchange(self, flight: Flight) -> Reply:
        """Send a flight's request once and read the whole reply, stamping the flight.

        Raises what aiohttp raises; ``explain_failure`` says what it means.
        """
        request = flight.request
        _flight.set(flight)
        body: bytes | io.BytesIO | None = request.body or None
        if len(request.body) > LARGE_BODY_BYTES:
            body = io.BytesIO(request.body)
        async with self._session.request(
            request.method,
            self._url(request.path),
            headers=self._headers_of(request),
            data=body,
            allow_redirects=False,
        ) as response:
            flight.first_byte_s = self._now_s()
            content = await self._read(response, flight)
            flight.done_s = self._now_s()
            return Reply(response.status, response.headers, content, to_head=request.method == "HEAD")

    async def _read(self, response: aiohttp.ClientResponse, flight: Flight) -> bytes:
        if not self._stream:
            return await response.read()
        tokens = TokenTimes(self._stream)
        parts = []
        async for part, _ in response.content.iter_chunks():
            tokens.add(part, self._now_s())
            parts.append(part)
        flight.token_times_s = tokens.times_s
        return b"".join(parts)

    async def close(self) -> None:
        """Close every connection, and let the loop finish doing so."""
        self._connector.abort()
        await self._session.close()
        # Transports tell of their end in the next iterations; until then they count as unclosed.
        for _ in range(3):
            await asyncio.sleep(0)

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._origin + path, encoded=True)
        return url

    def _headers_of(self, request: Request) -> CIMultiDict[str]:
        headers = self._headers.get(request.headers)
        if headers is None:
            headers = CIMultiDict(request.headers)
            headers.setdefault("User-Agent", f"pytest-capacity/{__version__}")
            self._headers[request.headers] = headers
        if self._fresh:
            headers = headers.copy()
            headers.update(self._fresh)
        return headers


def explain_failure(error: Exception, flight: Flight) -> tuple[Outcome, str] | None:
    """What an exchange that raised says about the server, with a reason; None for a fault of our own."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno in OUR_OWN_LIMITS:
        return Outcome.NOT_SENT, f"this machine could open no further connection: {os.strerror(error.errno)}"
    if not flight.connected and isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return Outcome.CONNECT, f"no connection: {_cause(error)}"
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, HttpProcessingError)):
        return Outcome.BAD_REPLY, f"no valid HTTP reply: {_cause(error)}"
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return Outcome.DISCONNECTED, f"the connection broke: {_cause(error)}"
    return None


def _cause(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"{error.certificate_error}; verify_tls=False accepts it all the same"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    return one_line(text) or type(error).__name__
