"""What passes through the recording proxy arrives as it was sent, and failures of the upstream say so."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from tests import servers
from tests.recordings import WAIT_S, Proxy
from tests.servers import Connection, Received, Server

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.trace.jsonl"


def answering_raw(data: bytes) -> Server:
    """Writes ``data`` as its reply, and keeps the connection."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.write(data)
        return True

    return Server(behave)


def in_pieces(head: bytes, pieces: list[bytes]) -> Server:
    """Writes a head, waits to be released, and writes the first piece; the others follow at once."""

    async def behave(server: Server, connection: Connection, _: Received) -> bool:
        await connection.write(head)
        await server.released()
        for piece in pieces:
            await connection.write(piece)
        return True

    return Server(behave)


def test_a_streamed_reply_arrives_piece_by_piece(out: Path) -> None:
    first = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata 1\r\n"
    with (
        in_pieces(first, [b"6\r\ndata 2\r\n", b"0\r\n\r\n"]) as server,
        Proxy(server.url, out) as proxy,
        proxy.connect() as wire,
    ):
        wire.send(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        head = wire.head()
        assert wire.until(b"data 1\r\n") == b"6\r\ndata 1\r\n"
        # Only now does the upstream go on: the first piece did not wait for it.
        server.release()
        assert wire.until(b"0\r\n\r\n") == b"6\r\ndata 2\r\n0\r\n\r\n"

    assert head == ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]
    assert proxy.rows[0].seen["bytes"] == 12


def test_the_head_of_an_event_stream_does_not_wait_for_its_first_event(out: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with in_pieces(head, [b"0\r\n\r\n"]) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
        assert wire.head()[0] == "HTTP/1.1 200 OK"
        server.release()
        wire.until(b"0\r\n\r\n")


def test_a_reply_that_ends_with_the_connection_reaches_clients_of_both_versions(out: Path) -> None:
    with servers.raw(b"HTTP/1.0 200 OK\r\n\r\nhello") as server, Proxy(server.url, out) as proxy:
        with proxy.connect() as wire:
            wire.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert wire.head() == ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"]
            assert wire.until(b"0\r\n\r\n") == b"5\r\nhello\r\n0\r\n\r\n"
        with proxy.connect() as wire:
            wire.send(b"GET / HTTP/1.0\r\n\r\n")
            assert wire.head() == ["HTTP/1.1 200 OK", "Connection: close"]
            assert wire.rest() == b"hello"


def test_connections_are_kept_on_both_sides(out: Path) -> None:
    with servers.healthy() as server, Proxy(server.url, out) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=WAIT_S)
        sockets = set()
        for _ in range(3):
            connection.request("POST", "/", b"{}")
            assert connection.getresponse().read() == b'{"ok": true}'
            sockets.add(connection.sock)
        connection.close()

    assert len(sockets) == 1
    assert server.connections == 1
    assert len(proxy.rows) == 3


def test_compressed_bodies_pass_untouched_both_ways(out: Path) -> None:
    squeezed = gzip.compress(b'{"items": [1, 2, 3]}' * 50)
    with (
        servers.answering(200, squeezed, "Content-Encoding: gzip") as server,
        Proxy(server.url, out) as proxy,
    ):
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json", "Accept-Encoding": "gzip"}
        _, body, replied = proxy.ask("POST", "/", squeezed, headers)

    assert body == squeezed
    assert replied["content-encoding"] == "gzip"
    (received,) = server.requests
    assert received.body == squeezed
    assert received.headers["content-encoding"] == "gzip"
    assert received.headers["accept-encoding"] == "gzip"


def test_a_chunked_request_reaches_the_upstream_before_its_end(out: Path) -> None:
    seen = threading.Event()
    bodies: list[bytes] = []

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        first = await connection.reader.readuntil(b"one\r\n")
        seen.set()
        bodies.append(first + await connection.reader.readuntil(b"0\r\n\r\n"))
        await connection.reply()
        return True

    with Server(behave) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(b"POST /up HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        assert seen.wait(WAIT_S)
        wire.send(b"4\r\ntwo!\r\n0\r\n\r\n")
        assert wire.head()[0] == "HTTP/1.1 200 X"
        wire.until(b"}")

    assert bodies == [b"3\r\none\r\n4\r\ntwo!\r\n0\r\n\r\n"]
    assert server.requests[0].headers["transfer-encoding"] == "chunked"
    assert "content-length" not in server.requests[0].headers
    assert proxy.rows[0].size == {"bytes": 7}


def test_large_bodies_arrive_whole_both_ways(out: Path) -> None:
    large = bytes(range(256)) * 20_000

    async def behave(_: Server, connection: Connection, received: Received) -> bool:
        await connection.reply(200, received.body)
        return True

    with Server(behave) as server, Proxy(server.url, out) as proxy:
        _, body, _ = proxy.ask("PUT", "/", large)

    assert hashlib.sha256(body).digest() == hashlib.sha256(large).digest()
    (row,) = proxy.rows
    assert row.size == {"bytes": len(large)}
    assert row.extra["body_left_out"] == "larger than the bound on a body"


@pytest.mark.parametrize(
    ("request_line", "reply", "expected"),
    [
        ("HEAD /", b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", ["Content-Length: 12"]),
        ("GET /", b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", ["X-A: b"]),
        ("DELETE /", b"HTTP/1.1 204 No Content\r\n\r\n", []),
        (
            "GET /",
            b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 9\r\n\r\n',
            ['ETag: "x"', "Content-Length: 9"],
        ),
        ("GET /", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ["Content-Length: 0"]),
    ],
)
def test_a_reply_without_a_body_leaves_the_connection_usable(
    out: Path, request_line: str, reply: bytes, expected: list[str]
) -> None:
    with answering_raw(reply) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        for _ in range(2):
            wire.send(f"{request_line} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert wire.head() == [reply.split(b"\r\n")[0].decode(), *expected]

    assert server.connections == 1


def test_an_early_hint_is_left_out_and_the_reply_arrives(out: Path) -> None:
    reply = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    with answering_raw(reply) as server, Proxy(server.url, out) as proxy:
        assert proxy.ask("GET", "/")[:2] == (200, b"hi")


def test_headers_pass_as_they_are_in_order_and_nothing_is_added(out: Path) -> None:
    reply = (
        b"HTTP/1.1 418 I'm a Teapot\r\nset-cookie: a=1\r\nX-MiXed: \xe9\r\nset-cookie: b=2\r\n"
        b"Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n"
    )
    with answering_raw(reply) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(
            b"GET /a HTTP/1.1\r\nHost: my.host\r\nX-A: 1\r\nX-A: 2\r\nConnection: X-Mine\r\nX-Mine: 3\r\n"
            b"Proxy-Connection: keep-alive\r\nTE: trailers\r\n\r\n"
        )
        assert wire.head() == [
            "HTTP/1.1 418 I'm a Teapot",
            "set-cookie: a=1",
            "X-MiXed: \xe9",
            "set-cookie: b=2",
            "Content-Length: 0",
        ]

    assert server.requests[0].headers == {"host": "my.host", "x-a": "2"}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("/rank//x/../y?q=%2F+%20&q=2", "/rank//x/../y?q=%2F+%20&q=2"),
        ("/%7Euser/%C3%A9;v=1", "/%7Euser/%C3%A9;v=1"),
        ("http://some.host:80/abs?x=1", "/abs?x=1"),
        ("http://some.host?x=1", "/?x=1"),
    ],
)
def test_the_path_reaches_the_upstream_as_it_was_sent(out: Path, sent: str, expected: str) -> None:
    with servers.healthy() as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(f"GET {sent} HTTP/1.1\r\nHost: h\r\n\r\n".encode("latin-1"))
        assert wire.head()[0] == "HTTP/1.1 200 X"

    assert server.requests[0].path == expected


@pytest.mark.parametrize("line", ["CONNECT some.host:443", "OPTIONS *"])
def test_what_a_reverse_proxy_cannot_pass_on_is_refused(out: Path, line: str) -> None:
    with servers.healthy() as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(f"{line} HTTP/1.1\r\nHost: some.host\r\n\r\n".encode())
        assert wire.head()[0] == "HTTP/1.1 400 Bad Request"

    assert server.count == 0


def test_the_upstream_can_be_asked_by_its_own_name(out: Path) -> None:
    with servers.healthy() as server, Proxy(server.url, out, keep_host=False) as proxy:
        proxy.ask("GET", "/", headers={"Host": "other"})

    assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(out: Path) -> None:
    with servers.healthy() as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert wire.head() == ["HTTP/1.1 100 Continue"]
        wire.send(b"hello")
        assert wire.head()[0] == "HTTP/1.1 200 X"

    assert server.requests[0].body == b"hello"
    assert "expect" not in server.requests[0].headers


def test_a_client_that_waits_is_not_asked_where_the_upstream_is_away(out: Path) -> None:
    with Proxy(servers.refusing(), out) as proxy, proxy.connect() as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert wire.head()[0] == "HTTP/1.1 502 Bad Gateway"


def echoing_after(reply: bytes) -> Server:
    """Answers with ``reply`` and sends back in upper case whatever comes then."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.write(reply)
        while data := await connection.reader.read(1000):
            await connection.write(data.upper())
        return False

    return Server(behave)


WEBSOCKET = (
    b"GET /ws?x=1 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: a\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-A: b\r\n\r\n"


def test_a_websocket_passes_byte_by_byte_and_is_no_request(out: Path) -> None:
    with echoing_after(SWITCHING) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(WEBSOCKET)
        assert wire.until(b"\r\n\r\n") == SWITCHING
        for message in (b"\x81\x05hello!", b"more" * 50_000 + b"!"):
            wire.send(message)
            assert wire.until(b"!") == message.upper()

    assert server.requests[0].headers["sec-websocket-extensions"] == "permessage-deflate"
    assert server.requests[0].path == "/ws?x=1"
    assert proxy.rows == []
    assert proxy.summary.upgraded == 1


def test_a_websocket_that_the_upstream_closes_is_closed(out: Path) -> None:
    with servers.raw(SWITCHING + b"bye") as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(WEBSOCKET)
        wire.until(b"\r\n\r\n")
        assert wire.rest() == b"bye"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nno",
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
        ),
        (
            b"HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
            (
                b"HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
                b"2\r\nno\r\n0\r\n\r\n"
            ),
        ),
    ],
)
def test_a_refused_websocket_is_refused_in_the_upstream_s_words(
    out: Path, reply: bytes, expected: bytes
) -> None:
    with echoing_after(reply) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(WEBSOCKET)
        assert wire.rest() == expected


@pytest.mark.parametrize("data", [WEBSOCKET, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_an_upstream_that_is_away_is_a_502_that_says_so(out: Path, data: bytes) -> None:
    upstream = servers.refusing()
    with Proxy(upstream, out) as proxy, proxy.connect() as wire:
        wire.send(data)
        assert wire.head()[0] == "HTTP/1.1 502 Bad Gateway"
        said = wire.until(b"\n").decode()

    assert f"the upstream {upstream} took no connection: Connection refused" in said


@pytest.mark.parametrize(
    ("server", "status", "why"),
    [
        (servers.resetting(), 502, "closed the connection before its reply was whole"),
        (servers.raw(b""), 502, "closed the connection before its reply was whole"),
        (servers.raw(b"SSH-2.0-OpenSSH\r\n\r\n"), 502, "did not answer in valid HTTP"),
        (servers.hanging(), 504, "said nothing for 0.2 s"),
    ],
)
def test_an_upstream_that_does_not_answer_is_told_and_recorded(
    out: Path, server: Server, status: int, why: str
) -> None:
    with server, Proxy(server.url, out, timeout_s=0.2) as proxy:
        found, body, _ = proxy.ask("POST", "/", b"{}")

    assert found == status
    assert why in body.decode()
    (row,) = proxy.rows
    assert row.seen["status"] == status
    assert row.seen["error"] == why


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ],
)
def test_a_reply_that_breaks_off_breaks_off_for_the_client_too(out: Path, reply: bytes) -> None:
    with (
        servers.raw(reply) as server,
        Proxy(server.url, out) as proxy,
        pytest.raises((http.client.IncompleteRead, ConnectionResetError)),
    ):
        proxy.ask("GET", "/")

    row = proxy.rows[0]
    assert row.seen["status"] == 200
    assert row.seen["error"] == "closed the connection before its reply was whole"


@pytest.mark.parametrize(
    ("sent", "left_out"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", None),
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            "it was not read to its end",
        ),
    ],
)
def test_a_client_that_leaves_ends_the_request_upstream(out: Path, sent: bytes, left_out: str | None) -> None:
    closed = threading.Event()

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        try:
            while await connection.reader.read(100):
                pass
        finally:
            closed.set()
        return False

    with Server(behave) as server, Proxy(server.url, out) as proxy:
        with proxy.connect() as wire:
            wire.send(sent)
            server.wait_for(1)
        assert closed.wait(WAIT_S)

    (row,) = proxy.rows
    assert row.seen["error"] == "the client left"
    assert "status" not in row.seen
    assert row.body_b64 is None
    assert row.extra.get("body_left_out") == left_out


@pytest.fixture
def tls() -> ssl.SSLContext:
    """What a server needs for a certificate that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_an_upstream_may_speak_tls(out: Path, tls: ssl.SSLContext) -> None:
    with servers.healthy(tls=tls) as server, Proxy(server.url, out, verify_tls=False) as proxy:
        assert proxy.ask("POST", "/", b"{}")[0] == 200

    assert proxy.rows[0].seen["status"] == 200


@pytest.mark.parametrize("data", [WEBSOCKET, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"])
def test_an_unknown_certificate_is_refused_with_a_way_out(
    out: Path, tls: ssl.SSLContext, data: bytes
) -> None:
    with servers.healthy(tls=tls) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(data)
        assert wire.head()[0] == "HTTP/1.1 502 Bad Gateway"
        assert b"--no-verify-tls accepts it all the same" in wire.until(b"\n")

    assert server.count == 0


def test_rows_are_in_the_order_of_arrival_not_of_the_end(out: Path) -> None:
    async def behave(server: Server, connection: Connection, received: Received) -> bool:
        if received.path == "/slow":
            await server.released()
        await connection.reply()
        return True

    with Server(behave) as server, Proxy(server.url, out) as proxy, proxy.connect() as slow:
        slow.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        server.wait_for(1)
        proxy.ask("GET", "/quick")
        server.release()
        slow.head()

    rows = proxy.rows
    assert [row.path for row in rows] == ["/slow", "/quick"]
    assert [row.id for row in rows] == ["1", "2"]
    assert rows[0].t == 0.0
    assert rows[0].t <= rows[1].t
    first_s, second_s = (float(str(row.seen["latency_s"])) for row in rows)
    assert first_s > second_s


def test_many_requests_at_once_are_all_answered_and_recorded(out: Path) -> None:
    def ask(number: int) -> None:
        body = json.dumps({"number": number}).encode()
        answers.extend(proxy.ask("POST", "/", body, JSON)[0] for _ in range(20))

    answers: list[int] = []
    with servers.healthy() as server, Proxy(server.url, out) as proxy:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)

    assert answers == [200] * 160
    rows = proxy.rows
    assert sorted(int(row.id or 0) for row in rows) == list(range(1, 161))
    assert [row.t for row in rows] == sorted(row.t for row in rows)
    assert proxy.summary.rows == 160


def test_requests_sent_without_waiting_for_replies_are_answered_in_order(out: Path) -> None:
    with servers.healthy() as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
        for _ in range(2):
            assert wire.head()[0] == "HTTP/1.1 200 X"
            wire.until(b"}")

    assert [request.path for request in server.requests] == ["/1", "/2"]


def test_a_client_may_stop_reading_and_go_on(out: Path) -> None:
    """A client's slowness holds the upstream back; it neither loses bytes nor fills the memory."""
    size = 8_000_000

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.reply(200, b"x" * size)
        return True

    with Server(behave) as server, Proxy(server.url, out) as proxy, proxy.connect() as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        server.wait_for(1)
        wire.head()
        assert len(wire.until(b"x" * size)) == size

    assert proxy.rows[0].seen["bytes"] == size
