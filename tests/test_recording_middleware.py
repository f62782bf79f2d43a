"""The middlewares record what an application is asked, and change nothing of what it answers."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from pytest_capacity.recording import AsgiRecorder, RecordingOptions, WsgiRecorder
from tests.recordings import WAIT_S, header_of, rows_of

Messages = list[dict[str, Any]]
JSON_BODY = b'{"user": "u7", "password": "s3cret"}'


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.trace.jsonl.gz"


SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/rank/é",
    "raw_path": b"/rank/%C3%A9",
    "query_string": b"x=1&token=s3cret",
    "headers": [(b"content-type", b"application/json"), (b"cookie", b"s3cret"), (b"content-length", b"36")],
}


def call(app: Any, scope: dict[str, Any], received: Messages) -> Messages:
    """Call an ASGI application once; what it sent."""
    sent: Messages = []
    waiting = iter(received)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def in_two(body: bytes) -> Messages:
    return [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:]},
    ]


REPLY: Messages = [
    {"type": "http.response.start", "status": 201, "headers": [(b"set-cookie", b"s3cret")]},
    {"type": "http.response.body", "body": b"ab", "more_body": True},
    {"type": "http.response.body", "body": b"c"},
]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body and replies in pieces."""
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        for message in REPLY:
            await send(message)


def test_an_asgi_request_is_recorded_and_answered_as_before(out: Path) -> None:
    app = AsgiRecorder(asgi, out)

    assert call(app, SCOPE, in_two(JSON_BODY)) == REPLY
    assert app.close()

    (row,) = rows_of(out)
    assert (row.method, row.path, row.op) == ("POST", "/rank/%C3%A9?x=1", "/rank/%C3%A9")
    assert row.body == {"user": "u7", "password": "***"}
    assert row.size == {"bytes": len(JSON_BODY)}
    assert (row.seen["status"], row.seen["bytes"]) == (201, 3)
    assert header_of(out).source == "asgi middleware"


def test_the_scope_and_the_messages_are_the_application_s_own(out: Path) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope, await receive()])
        await send(REPLY[0])
        await send({"type": "http.response.body"})

    message = {"type": "http.request", "body": b"", "more_body": False}
    recorder = AsgiRecorder(app, out)
    call(recorder, SCOPE, [message])
    recorder.close()

    assert seen[0] is SCOPE
    assert seen[1] is message


def test_a_recording_ends_with_the_asgi_application(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pytest_capacity.recording")
    app = AsgiRecorder(asgi, out)
    call(app, SCOPE, in_two(JSON_BODY))

    sent = call(app, {"type": "lifespan"}, [])

    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert len(rows_of(out)) == 1
    assert "recorded 1 requests" in caplog.text
    # What comes afterwards is served, and not recorded.
    assert call(app, SCOPE, in_two(JSON_BODY)) == REPLY
    assert app.close() is None
    assert len(rows_of(out)) == 1


def test_a_websocket_passes_and_is_counted(out: Path) -> None:
    app = AsgiRecorder(asgi, out)
    call(app, {"type": "websocket", "path": "/ws"}, [])
    summary = app.close()

    assert summary is not None
    assert (summary.upgraded, summary.rows) == (1, 0)


def test_an_error_of_the_asgi_application_is_its_own(out: Path) -> None:
    async def app(*_: Any) -> None:
        raise KeyError("mine")

    recorder = AsgiRecorder(app, out)
    with pytest.raises(KeyError, match="mine"):
        call(recorder, SCOPE, [])
    recorder.close()

    (row,) = rows_of(out)
    assert row.seen["error"] == "the application raised KeyError"
    assert row.extra["body_left_out"] == "it was not read to its end"


def test_what_an_application_does_after_its_reply_is_no_latency(out: Path) -> None:
    finished: list[bool] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await send(REPLY[0])
        await send(REPLY[2])
        finished.append(True)
        raise RuntimeError("a background task failed")

    recorder = AsgiRecorder(app, out)
    with pytest.raises(RuntimeError):
        call(recorder, SCOPE | {"headers": []}, [])
    recorder.close()

    (row,) = rows_of(out)
    assert row.seen["status"] == 201
    assert "error" not in row.seen


def test_a_client_that_left_is_recorded(out: Path) -> None:
    async def app(_: Any, receive: Any, __: Any) -> None:
        assert (await receive())["type"] == "http.disconnect"

    recorder = AsgiRecorder(app, out)
    call(recorder, SCOPE, [{"type": "http.disconnect"}])
    recorder.close()

    assert rows_of(out)[0].seen["error"] == "the client left"


def test_a_file_that_is_there_gets_a_neighbour_with_a_number(out: Path) -> None:
    out.write_bytes(b"precious")
    app = AsgiRecorder(asgi, out)
    call(app, SCOPE, in_two(JSON_BODY))
    summary = app.close()

    assert summary is not None
    assert summary.files == [str(out.with_name("a-2.trace.jsonl.gz"))]
    assert out.read_bytes() == b"precious"


def test_a_file_that_cannot_be_made_is_logged_and_requests_are_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    app = AsgiRecorder(asgi, tmp_path / "file" / "a.trace.jsonl")

    for _ in range(2):
        assert call(app, SCOPE, in_two(JSON_BODY)) == REPLY
    assert app.close() is None
    assert caplog.text.count("nothing is recorded") == 1


def test_options_are_those_of_the_recording(out: Path) -> None:
    app = AsgiRecorder(asgi, out, RecordingOptions(name="mine", key_fields=("user",)))
    call(app, SCOPE, in_two(JSON_BODY))
    app.close()

    assert header_of(out).name == "mine"
    assert len(rows_of(out)[0].keys) == 1


def test_each_process_of_a_server_that_forks_has_its_own_file(out: Path) -> None:
    script = """
import asyncio, os, sys
from tests.test_recording_middleware import SCOPE, JSON_BODY, asgi, call, in_two
from pytest_capacity.recording import AsgiRecorder
app = AsgiRecorder(asgi, sys.argv[1])
call(app, SCOPE, in_two(JSON_BODY))
child = os.fork()
for _ in range(2):
    call(app, SCOPE, in_two(JSON_BODY))
if child:
    os.waitpid(child, 0)
app.close()
"""
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(out)], cwd=root, check=True, timeout=WAIT_S
    )

    assert len(rows_of(out)) == 3
    assert len(rows_of(out.with_name("a-2.trace.jsonl.gz"))) == 2


def test_a_process_that_just_ends_leaves_a_whole_recording(out: Path) -> None:
    script = """
import sys
from tests.test_recording_middleware import SCOPE, JSON_BODY, asgi, call, in_two
from pytest_capacity.recording import AsgiRecorder
call(AsgiRecorder(asgi, sys.argv[1]), SCOPE, in_two(JSON_BODY))
"""
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", script, str(out)], cwd=root, check=True, timeout=WAIT_S)

    assert len(rows_of(out)) == 1


StartResponse = Callable[..., Any]


def serve(app: Any, body: bytes = b"", **environ: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """One request through wsgiref's own handler, which tells a reply's length where it can."""
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), **environ}
    if body:
        environ["REQUEST_METHOD"] = "POST"
    setup_testing_defaults(environ)
    stdout = io.BytesIO()

    class Handler(SimpleHandler):
        http_version = "1.1"

        def log_exception(self, exc_info: Any) -> None:
            raise exc_info[1]

    Handler(environ["wsgi.input"], stdout, io.StringIO(), environ, multithread=False).run(app)
    head, _, content = stdout.getvalue().partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [tuple(line.split(": ", 1)) for line in lines]
    return status, [(name, value) for name, value in headers if name not in ("Date", "Server")], content


def read_all(stream: Any) -> bytes:
    return bytes(stream.read())


def read_sized(stream: Any) -> bytes:
    return b"".join(iter(lambda: stream.read(7), b""))


def read_lines(stream: Any) -> bytes:
    return b"".join(stream)


def read_line_by_line(stream: Any) -> bytes:
    return b"".join(iter(stream.readline, b""))


def read_list(stream: Any) -> bytes:
    return b"".join(stream.readlines())


def read_into(stream: Any) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: stream.readinto(buffer)])


def read_once(stream: Any) -> bytes:
    return bytes(stream.read1(100))


READERS = [read_all, read_sized, read_lines, read_line_by_line, read_list, read_into, read_once]


@pytest.mark.parametrize("read", READERS)
def test_a_wsgi_request_is_recorded_however_its_body_is_read(out: Path, read: Callable[[Any], bytes]) -> None:
    bodies: list[bytes] = []

    def app(environ: Any, start_response: StartResponse) -> Iterable[bytes]:
        bodies.append(read(environ["wsgi.input"]))
        start_response("201 Created", [("Content-Type", "text/plain")])
        return [b"ab", b"c"]

    body = JSON_BODY.replace(b", ", b",\n")
    recorder = WsgiRecorder(app, out)
    serve(
        recorder,
        body,
        CONTENT_TYPE="application/json",
        HTTP_COOKIE="s3cret",
        PATH_INFO="/rank/\xc3\xa9",
        QUERY_STRING="x=1&key=s3cret",
    )
    recorder.close()

    assert bodies == [body]
    (row,) = rows_of(out)
    assert (row.method, row.path) == ("POST", "/rank/%C3%A9?x=1")
    assert row.body == {"user": "u7", "password": "***"}
    assert row.headers == {"content-type": "application/json"}
    assert (row.seen["status"], row.seen["bytes"]) == (201, 3)
    assert header_of(out).source == "wsgi middleware"


def one_piece(_: Any, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def generated(_: Any, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"hel"
    yield b"lo"


def written(_: Any, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])(b"hello")
    return []


def from_file(_: Any, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return FileWrapper(io.BytesIO(b"hello"))


def empty(_: Any, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


@pytest.mark.parametrize("app", [one_piece, generated, written, from_file, empty])
def test_a_wsgi_reply_is_the_same_with_and_without_the_recorder(out: Path, app: Any) -> None:
    recorder = WsgiRecorder(app, out)

    own: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    assert serve(recorder, b"", **own) == serve(app, b"", **own)
    recorder.close()

    (row,) = rows_of(out)
    assert row.method == "GET"
    assert row.seen["status"] in (200, 204)


def test_the_recorder_keeps_to_the_rules_of_wsgi(out: Path) -> None:
    recorder = WsgiRecorder(validator(one_piece), out)

    assert serve(validator(recorder), QUERY_STRING="a=1")[2] == b"hello"
    recorder.close()


def test_a_reply_is_closed_once_by_whoever_serves_it(out: Path) -> None:
    closed: list[bool] = []

    class Reply:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"hello"])

        def close(self) -> None:
            closed.append(True)

    def app(_: Any, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Reply()

    recorder = WsgiRecorder(app, out)
    assert serve(recorder)[2] == b"hello"
    recorder.close()

    assert closed == [True]


def fails_at_once(_: Any, __: StartResponse) -> Iterable[bytes]:
    raise KeyError("mine")


def fails_later(_: Any, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"
    raise KeyError("mine")


@pytest.mark.parametrize("app", [fails_at_once, fails_later])
def test_an_error_of_the_wsgi_application_is_its_own(out: Path, app: Any) -> None:
    recorder = WsgiRecorder(app, out)
    with pytest.raises(KeyError, match="mine"):
        serve(recorder)
    recorder.close()

    assert rows_of(out)[0].seen["error"] == "the application raised KeyError"


def test_a_body_that_the_application_leaves_unread_is_not_recorded_in_part(out: Path) -> None:
    def app(environ: Any, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read(5)
        return one_piece(environ, start_response)

    recorder = WsgiRecorder(app, out)
    serve(recorder, JSON_BODY)
    recorder.close()

    (row,) = rows_of(out)
    assert row.body is None
    assert row.extra["body_left_out"] == "it was not read to its end"


def test_the_path_is_recorded_as_it_was_sent_where_the_server_tells(out: Path) -> None:
    recorder = WsgiRecorder(one_piece, out)
    serve(recorder, REQUEST_URI="/a%2Fb?x=1", PATH_INFO="/a/b")
    recorder.close()

    assert rows_of(out)[0].path == "/a%2Fb?x=1"


def test_a_real_wsgi_server_serves_and_is_recorded(out: Path) -> None:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    recorder = WsgiRecorder(one_piece, out)
    with make_server("127.0.0.1", 0, recorder, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/a?b=1", timeout=WAIT_S) as reply:
            assert reply.read() == b"hello"
            assert reply.headers["Content-Length"] == "5"
        thread.join(WAIT_S)
    recorder.close()

    assert rows_of(out)[0].path == "/a?b=1"


def test_the_recorders_are_imported_when_they_are_asked_for() -> None:
    script = """
import sys
import pytest_capacity.recording as recording
assert {"AsgiRecorder", "WsgiRecorder", "RecordingOptions"} <= set(dir(recording))
recording.WsgiRecorder, recording.AsgiRecorder
assert "aiohttp" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=WAIT_S, env=os.environ)
