"""A reverse proxy on aiohttp that hands every exchange to a recorder.

Nothing is changed on the way but what concerns one connection only: bodies stay compressed as they are,
pieces leave as they come, a broken reply is broken for the client too. Interim replies other than 100
Continue, and trailers, are dropped, as HTTP allows.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from pytest_capacity.recording.client_side import Client, ClientLeft, RequestBody, Sent, websocket_asked
from pytest_capacity.recording.exchange import Exchange
from pytest_capacity.recording.failures import Failure, explain
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.recording.reply import plan_reply
from pytest_capacity.recording.tunnel import Tunnel
from pytest_capacity.recording.upstream import Upstream, origin_form, upstream_headers

CONNECT_TIMEOUT_S: Final = 10.0

UPSTREAM_IDLE_S: Final = 1.5
"""How long an idle connection is kept. Less than what servers allow (gunicorn 2 s, uvicorn 5 s), so that none
is closed while a request is on its way, which a proxy must not send again."""

CLIENT_IDLE_S: Final = 3600.0
LARGEST_HEADER_BYTES: Final = 2**16

_NOT_ADDED = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class ReverseProxy:
    """Passes requests on to one server. Make it on a running event loop, and ``close`` it there.

    ``timeout_s`` is for how long the upstream may say nothing. ``keep_host`` passes the client's Host header
    on; else the upstream gets its own. ``verify_tls=False`` accepts any certificate.
    """

    def __init__(
        self,
        upstream: Upstream,
        recorder: Recorder,
        *,
        timeout_s: float,
        keep_host: bool,
        verify_tls: bool,
    ) -> None:
        self._upstream, self._recorder = upstream, recorder
        self._timeout_s, self._keep_host = timeout_s, keep_host
        self._is_cut_off = False
        self._tunnel = Tunnel(upstream, connect_s=CONNECT_TIMEOUT_S, reply_s=timeout_s, verify_tls=verify_tls)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=UPSTREAM_IDLE_S, ssl=verify_tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            skip_auto_headers=_NOT_ADDED,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=timeout_s),
            max_line_size=LARGEST_HEADER_BYTES,
            max_field_size=LARGEST_HEADER_BYTES,
        )

    def server(self) -> web.Server:
        """What answers clients."""
        return web.Server(
            self.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=CLIENT_IDLE_S,
            max_line_size=LARGEST_HEADER_BYTES,
            max_field_size=LARGEST_HEADER_BYTES,
        )

    def cut_off(self, server: web.Server) -> None:
        """Break the connections of the clients whose replies are on their way."""
        self._is_cut_off = True
        for connection in server.connections:
            connection.force_close()

    async def close(self) -> None:
        """Close the connections to the upstream."""
        await self._session.close()
        # Transports tell of their end in the next iterations; until then they count as unclosed.
        for _ in range(3):
            await asyncio.sleep(0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request."""
        client = Client(request)
        target = origin_form(request.raw_path)
        if target is None or request.method == "CONNECT":
            return client.say(400, "this is a reverse proxy: ask it for a path, as in GET /path")
        if websocket_asked(request):
            self._recorder.upgrade()
            return await self._websocket(client, target)
        exchange = self._recorder.arrive(request.method, target, request.raw_headers)
        try:
            return await self._forward(client, target, exchange)
        except (asyncio.CancelledError, ClientLeft) as error:
            if exchange.done_s is None:
                left = client.request.transport is None or isinstance(error, ClientLeft)
                stopped = self._is_cut_off or not left
                exchange.trouble = "the recorder was stopped" if stopped else "the client left"
            if isinstance(error, asyncio.CancelledError):
                raise
            return client.abort()
        finally:
            self._recorder.finish(exchange)

    async def _forward(self, client: Client, target: str, exchange: Exchange) -> web.StreamResponse:
        request, body = client.request, RequestBody(client, exchange)
        headers = upstream_headers(request.headers, self._upstream, keep_host=self._keep_host)
        try:
            async with self._session.request(
                request.method,
                URL(self._upstream.origin + target, encoded=True),
                headers=CIMultiDict(headers),
                data=body.data(),
                allow_redirects=False,
            ) as reply:
                return await self._pass_back(client, reply, exchange)
        except ClientLeft:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            failure = explain(error, self._timeout_s, body_broke=body.broke)
        exchange.trouble = failure.why
        if client.replying:
            # Only a broken connection tells the client that the rest of the reply will not come.
            return client.abort()
        exchange.status = failure.status
        return self._refuse(client, failure)

    async def _pass_back(
        self, client: Client, reply: aiohttp.ClientResponse, exchange: Exchange
    ) -> web.StreamResponse:
        exchange.first_byte_s, exchange.status = self._recorder.now_s(), reply.status
        plan = plan_reply(
            method=client.request.method,
            is_http_1_1=client.request.version >= aiohttp.HttpVersion11,
            keep_alive=client.request.keep_alive,
            status=reply.status,
            reason=reply.reason or "",
            headers=reply.raw_headers,
        )
        content = reply.content
        # A short reply is there with its head, and leaves with it.
        data = content.read_nowait(-1)
        exchange.reply_bytes += len(data)
        ended = content.at_eof()
        await client.write_reply(plan.head + plan.piece(data) + (plan.end if ended else b""))
        while not ended:
            data = await content.readany()
            exchange.reply_bytes += len(data)
            ended = content.at_eof()
            await client.write_reply(plan.piece(data) + (plan.end if ended else b""))
        self._recorder.finish(exchange)
        return Sent(keep_alive=plan.keep_alive)

    async def _websocket(self, client: Client, target: str) -> web.StreamResponse:
        headers = upstream_headers(
            client.request.headers, self._upstream, keep_host=self._keep_host, upgrading=True
        )
        try:
            await self._tunnel.pass_through(client, target, headers)
        except ClientLeft:
            return client.abort()
        except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
            if client.replying:
                return client.abort()
            return self._refuse(client, explain(error, self._timeout_s, body_broke=False))
        return Sent(keep_alive=False)

    def _refuse(self, client: Client, failure: Failure) -> web.StreamResponse:
        whose = f"the upstream {self._upstream.origin} " if failure.is_upstream_s else ""
        return client.say(failure.status, f"{whose}{failure.why}")
