"""Recording inside an ASGI application: a middleware for Starlette, FastAPI, Litestar and their like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from pytest_capacity.recording.exchange import Exchange
from pytest_capacity.recording.lazily import LazyRecorder
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.recording.summary import Summary

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiRecorder:
    """Wraps an application and records its HTTP requests; what it answers does not change.

    ::

        app.add_middleware(AsgiRecorder, out="traffic.trace.jsonl.gz")

    The file is opened with the first request, and closed at the application's shutdown. Where it is there
    already, as from another worker process, a number is added to its name. Websockets pass through
    unrecorded. Whatever goes wrong with the recording is logged and never reaches the application.
    """

    def __init__(self, app: App, out: Path | str, options: RecordingOptions | None = None) -> None:
        self._app = app
        self._lazy = LazyRecorder(out, options or RecordingOptions(), "asgi middleware")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection as the application does."""
        if scope["type"] == "http" and (recorder := self._lazy.get()):
            await self._record(recorder, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
        else:
            if scope["type"] == "websocket" and (recorder := self._lazy.get()):
                recorder.upgrade()
            await self._app(scope, receive, send)

    def close(self) -> Summary | None:
        """End the recording; None where nothing was recorded."""
        return self._lazy.close()

    async def _record(self, recorder: Recorder, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = recorder.arrive(scope["method"], _target(scope), tuple(scope.get("headers", ())))

        async def receive_and_note() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                exchange.add_body(message.get("body", b""))
                exchange.body_ended = exchange.body_ended or not message.get("more_body", False)
            elif exchange.trouble is None and exchange.done_s is None:
                exchange.trouble = "the client left"
            return message

        async def note_and_send(message: Message) -> None:
            await send(message)
            _note_reply(recorder, exchange, message)

        try:
            await self._app(scope, receive_and_note, note_and_send)
        except BaseException as error:
            if exchange.done_s is None:
                exchange.trouble = f"the application raised {type(error).__name__}"
            raise
        finally:
            recorder.finish(exchange)

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                self._lazy.close()
            await send(message)

        return send_and_close


def _note_reply(recorder: Recorder, exchange: Exchange, message: Message) -> None:
    if message["type"] == "http.response.start":
        exchange.status = message["status"]
        exchange.first_byte_s = recorder.now_s()
    elif message["type"] == "http.response.body":
        exchange.reply_bytes += len(message.get("body", b""))
        if not message.get("more_body", False):
            # What the application does afterwards, such as background tasks, keeps no client waiting.
            recorder.finish(exchange)


def _target(scope: Scope) -> str:
    raw_path = scope.get("raw_path")
    path = raw_path.decode("latin-1") if raw_path else scope["path"]
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path
