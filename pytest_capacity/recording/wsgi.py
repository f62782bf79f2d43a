"""Recording inside a WSGI application (PEP 3333): a middleware for Flask, Django, Bottle and their like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from pytest_capacity.recording.exchange import Exchange
from pytest_capacity.recording.lazily import LazyRecorder
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.recording.summary import Summary

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SAFE_IN_PATH = "/:@!$&'()*+,;=~"


class WsgiRecorder:
    """Wraps an application and records its requests; what it answers does not change.

    ::

        app.wsgi_app = WsgiRecorder(app.wsgi_app, out="traffic.trace.jsonl.gz")

    The file is opened with the first request, and closed when the process ends or ``close`` is called.
    Where it is there already, as from another worker process, a number is added to its name. A body is
    recorded as far as the application reads it. Whatever goes wrong with the recording is logged and never
    reaches the application.
    """

    def __init__(
        self, app: WSGIApplication, out: Path | str, options: RecordingOptions | None = None
    ) -> None:
        self._app = app
        self._lazy = LazyRecorder(out, options or RecordingOptions(), "wsgi middleware")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request as the application does."""
        recorder = self._lazy.get()
        if recorder is None:
            return self._app(environ, start_response)
        exchange = recorder.arrive(environ["REQUEST_METHOD"], _target(environ), tuple(_headers(environ)))
        exchange.body_ended = not _length(environ)
        environ["wsgi.input"] = _Input(environ["wsgi.input"], exchange, _length(environ))
        try:
            reply = self._app(environ, _noting(recorder, exchange, start_response))
        except BaseException as error:
            exchange.trouble = f"the application raised {type(error).__name__}"
            recorder.finish(exchange)
            raise
        return _wrapped(reply, environ, recorder, exchange)

    def close(self) -> Summary | None:
        """End the recording; None where nothing was recorded."""
        return self._lazy.close()


class _Input:
    """A request's body that notes what is read of it."""

    def __init__(self, body: Any, exchange: Exchange, length: int | None) -> None:
        self._body, self._exchange, self._length = body, exchange, length

    def read(self, *size: int) -> bytes:
        return self._note(self._body.read(*size), asked=not size or size[0] != 0)

    def readline(self, *size: int) -> bytes:
        return self._note(self._body.readline(*size), asked=not size or size[0] != 0)

    def readlines(self, *hint: int) -> list[bytes]:
        lines: list[bytes] = self._body.readlines(*hint)
        self._note(b"".join(lines), asked=True)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        for line in self._body:
            yield self._note(line, asked=True)
        self._note(b"", asked=True)

    def __getattr__(self, name: str) -> Any:
        # Servers give more than PEP 3333 asks for, and some applications use it.
        attribute = getattr(self._body, name)
        if name in ("read1", "readall"):
            return lambda *size: self._note(attribute(*size), asked=not size or size[0] != 0)
        return self._noting_into(attribute) if name.startswith("readinto") else attribute

    def _noting_into(self, read_into: Callable[[Any], int | None]) -> Callable[[Any], int | None]:
        def read_and_note(buffer: Any) -> int | None:
            count = read_into(buffer)
            self._note(bytes(memoryview(buffer).cast("B")[: count or 0]), asked=bool(len(buffer)))
            return count

        return read_and_note

    def _note(self, data: bytes, *, asked: bool) -> bytes:
        exchange = self._exchange
        exchange.add_body(data)
        if (asked and not data) or exchange.body_bytes == self._length:
            exchange.body_ended = True
        return data


class _Reply:
    """The application's reply, passed on piece by piece."""

    def __init__(self, reply: Iterable[bytes], recorder: Recorder, exchange: Exchange) -> None:
        self._reply, self._recorder, self._exchange = reply, recorder, exchange

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        try:
            for piece in self._reply:
                exchange.reply_bytes += len(piece)
                if exchange.first_byte_s is None:
                    exchange.first_byte_s = self._recorder.now_s()
                yield piece
        except GeneratorExit:
            raise
        except BaseException as error:
            exchange.trouble = f"the application raised {type(error).__name__}"
            raise
        finally:
            self._recorder.finish(exchange)

    def close(self) -> None:
        try:
            if hasattr(self._reply, "close"):
                self._reply.close()
        finally:
            self._recorder.finish(self._exchange)


class _SizedReply(_Reply):
    """A reply of a known number of pieces: of a single one, servers tell the length themselves."""

    def __len__(self) -> int:
        return len(cast("Sized", self._reply))


def _wrapped(
    reply: Iterable[bytes], environ: WSGIEnvironment, recorder: Recorder, exchange: Exchange
) -> Iterable[bytes]:
    file_wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(file_wrapper, type) and isinstance(reply, file_wrapper):
        # The server knows its own wrapper and sends the file without reading it here.
        recorder.finish(exchange)
        return reply
    kind = _SizedReply if hasattr(reply, "__len__") else _Reply
    return kind(reply, recorder, exchange)


def _noting(recorder: Recorder, exchange: Exchange, start_response: StartResponse) -> StartResponse:
    def start(status: str, *more: Any) -> Callable[[bytes], object]:
        write = start_response(status, *more)
        exchange.status = int(status[:3]) if status[:3].isdigit() else None

        def note_and_write(data: bytes) -> object:
            exchange.reply_bytes += len(data)
            if exchange.first_byte_s is None:
                exchange.first_byte_s = recorder.now_s()
            return write(data)

        return note_and_write

    return start


def _target(environ: WSGIEnvironment) -> str:
    """The path and query as they were sent, where the server tells, else encoded anew."""
    for name in ("RAW_URI", "REQUEST_URI"):
        if (raw := environ.get(name, "")).startswith("/"):
            return str(raw)
    path = quote(
        (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1"), _SAFE_IN_PATH
    )
    query = environ.get("QUERY_STRING", "")
    return f"{path or '/'}?{query}" if query else path or "/"


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[bytes, bytes]]:
    for key, value in environ.items():
        if key.startswith("HTTP_") or (key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value):
            name = key.removeprefix("HTTP_").replace("_", "-").lower()
            yield name.encode("latin-1"), str(value).encode("latin-1", "replace")


def _length(environ: WSGIEnvironment) -> int | None:
    """The body's announced length; None where it is sent in chunks, 0 where there is none."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None
    text = environ.get("CONTENT_LENGTH") or "0"
    return int(text) if text.isdigit() else None
