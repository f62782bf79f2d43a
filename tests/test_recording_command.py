"""``pytest-capacity record`` as a process: what it says, what it leaves behind, however it ends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from pytest_capacity.cli import main
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.upstream import Upstream, parse_upstream
from pytest_capacity.traffic.trace import read_rows
from tests import servers
from tests.recordings import WAIT_S, Wire, everything_in, header_of, rows_of
from tests.servers import Connection, Received, Server


class Process:
    """The command in a process of its own; ``url`` is where it listens."""

    def __init__(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("pytest-capacity")), "record", "--listen", "0"]
        self.process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.search(r"recording (http://[0-9.:]+) ->", self.said)
        assert found, self.said + self.process.communicate()[1]
        self.url = found[1]

    def ask(
        self, path: str = "/rank", headers: dict[str, str] | None = None, body: bytes = b'{"a": 1}'
    ) -> None:
        request = Request(self.url + path, body, {"Content-Type": "application/json", **(headers or {})})
        with urlopen(request, timeout=WAIT_S) as reply:
            assert reply.status == 200

    def end(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Send a signal and tell the exit code, standard output and standard error."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, self.said + err


@contextlib.contextmanager
def recording(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.process.kill()
            process.process.communicate()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.trace.jsonl.gz"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_recording_with_a_summary(out: Path, number: int) -> None:
    with servers.healthy() as server, recording("--upstream", server.url, "--out", str(out)) as process:
        for _ in range(5):
            process.ask()
        code, said, err = process.end(number)

    assert code == 0
    assert f"recorded 5 requests, {out.stat().st_size:,} bytes, in {out}" in said
    assert f"-> {server.url} into {out}" in err
    assert len(rows_of(out)) == 5


def test_json_gives_one_document_on_standard_output(out: Path) -> None:
    with (
        servers.healthy() as server,
        recording("--upstream", server.url, "--out", str(out), "--json", "--sample", "0.5") as process,
    ):
        for _ in range(3):
            process.ask()
        code, said, _ = process.end()

    document = json.loads(said)
    assert code == 0
    assert document["rows"] + document["sampled_out"] == 3
    assert document["rows"] == len(rows_of(out))
    assert (document["out"], document["files"], document["sampling"]) == (str(out), [str(out)], 0.5)
    assert document["bytes"] == out.stat().st_size
    assert (document["dropped"], document["trouble"]) == ({}, None)


def test_a_reply_in_flight_is_finished_before_the_end(out: Path) -> None:
    with servers.gated() as server, recording("--upstream", server.url, "--out", str(out)) as process:
        asking = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as r; print(r.urlopen({process.url!r}).status)"],
            stdout=subprocess.PIPE,
            text=True,
        )
        server.wait_for(1)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.stderr is not None
        assert "waiting for replies in flight" in process.process.stderr.readline()
        server.release()
        assert asking.communicate(timeout=WAIT_S)[0] == "200\n"
        process.process.communicate(timeout=WAIT_S)

    (row,) = rows_of(out)
    assert row.seen["status"] == 200


def test_a_reply_that_does_not_end_is_waited_for_only_so_long(out: Path) -> None:
    with (
        servers.hanging() as server,
        recording("--upstream", server.url, "--out", str(out), "--grace-s", "0.1") as process,
    ):
        asking = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as r; r.urlopen({process.url!r})"],
            stderr=subprocess.DEVNULL,
        )
        server.wait_for(1)
        code, said, _ = process.end()
        assert asking.wait(WAIT_S) != 0

    assert code == 0
    assert "recorded 1 requests" in said
    assert rows_of(out)[0].seen["error"] == "the recorder was stopped"


def test_a_websocket_passes_through_the_command_too(out: Path) -> None:
    """The command runs on uvloop where it can, which has transports of its own."""
    reply = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        await connection.write(reply)
        while data := await connection.reader.read(1000):
            await connection.write(data.upper())
        return False

    with Server(behave) as server, recording("--upstream", server.url, "--out", str(out)) as process:
        port = int(process.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as raw:
            wire = Wire(raw)
            wire.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert wire.until(b"\r\n\r\n") == reply
            for message in (b"hello!", b"more" * 200_000 + b"!"):
                wire.send(message)
                assert wire.until(b"!") == message.upper()
        _, said, _ = process.end()

    assert "1 websocket connections passed through" in said


def test_a_second_signal_cuts_off_what_is_in_flight(out: Path) -> None:
    with (
        servers.hanging() as server,
        recording("--upstream", server.url, "--out", str(out), "--grace-s", "600") as process,
    ):
        asking = subprocess.Popen(
            [sys.executable, "-c", f"import urllib.request as r; r.urlopen({process.url!r})"],
            stderr=subprocess.DEVNULL,
        )
        server.wait_for(1)
        process.process.send_signal(signal.SIGINT)
        assert process.process.stderr is not None
        assert "once more cuts them off" in process.process.stderr.readline()
        code, said, err = process.end()
        assert asking.wait(WAIT_S) != 0

    assert code == 0
    assert "recorded 1 requests" in said
    assert rows_of(out)[0].seen["error"] == "the recorder was stopped"
    assert "Traceback" not in err
    assert "Task" not in err


def test_a_recording_that_cannot_be_written_ends_with_1_and_the_requests_are_served(out: Path) -> None:
    out.with_name("a.bodies").write_text("in the way")
    with (
        servers.healthy() as server,
        recording("--upstream", server.url, "--out", str(out), "--reference-kb", "0.01") as process,
    ):
        process.ask(body=b'"a body that is to be stored beside the trace"')
        assert process.process.stderr is not None
        told = process.process.stderr.readline()
        process.ask()
        code, said, _ = process.end()

    assert code == 1
    assert "recording has stopped: " in told
    assert "they could not be written" in said
    assert server.count == 2


def test_what_is_no_http_gets_an_answer_and_no_traceback(out: Path) -> None:
    nonsense = [b"\x16\x03\x01\r\n\r\n", b"GET /caf\xe9 HTTP/1.1\r\nHost: h\r\n\r\n", b"GET\r\n\r\n"]
    with servers.healthy() as server, recording("--upstream", server.url, "--out", str(out)) as process:
        port = int(process.url.rpartition(":")[2])
        for data in nonsense:
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as raw:
                raw.sendall(data)
                assert b" 400 " in raw.recv(1000)
        process.ask()
        code, _, err = process.end()

    assert code == 0
    assert "Traceback" not in err


def test_another_address_than_this_machine_s_is_told(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing of the tests listens there; only its name is asked for.
    monkeypatch.setattr("pytest_capacity.recording.serving._is_here", lambda _: False)
    arguments = ["record", "--upstream", servers.refusing(), "--listen", "0", "--seconds", "0"]

    assert main([*arguments, "--out", str(out)]) == 0
    assert "whoever reaches this address over the network reaches the upstream" in capsys.readouterr().err


def test_it_ends_by_itself_after_the_seconds_asked_for(out: Path) -> None:
    with recording("--upstream", servers.refusing(), "--out", str(out), "--seconds", "0.1") as process:
        process.process.communicate(timeout=WAIT_S)

    assert process.process.returncode == 0
    assert rows_of(out) == []


@pytest.mark.parametrize("name", ["a.trace.jsonl.gz", "a.trace.jsonl"])
def test_a_killed_recorder_leaves_a_readable_trace(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    with servers.healthy() as server, recording("--upstream", server.url, "--out", str(out)) as process:
        header_bytes = out.stat().st_size
        for _ in range(20):
            process.ask()
        # Wait until something has been written, ask for more, and kill it in the middle.
        while out.stat().st_size == header_bytes:
            process.ask()
        for _ in range(20):
            process.ask()
        process.end(signal.SIGKILL)

    assert len(rows_of(out)) >= 20


def test_a_recorder_killed_before_any_request_leaves_an_empty_trace(out: Path) -> None:
    with recording("--upstream", servers.refusing(), "--out", str(out)) as process:
        process.end(signal.SIGKILL)

    assert rows_of(out) == []


def test_a_recording_cut_anywhere_is_readable_up_to_the_cut(out: Path, tmp_path: Path) -> None:
    with servers.healthy() as server, recording("--upstream", server.url, "--out", str(out)) as process:
        header_bytes = out.stat().st_size
        while out.stat().st_size == header_bytes:
            process.ask()
        process.end()
    data = out.read_bytes()
    whole = len(rows_of(out))
    cut = tmp_path / "cut.trace.jsonl.gz"
    cut.write_bytes(data[:-20])

    assert 0 < len(list(read_rows(cut, allow_cut=True)[1])) <= whole


SECRETS = {
    "Authorization": "Bearer s3cret-authorization",
    "Proxy-Authorization": "Basic s3cret-proxy",
    "Cookie": "session=s3cret-cookie",
    "X-Api-Key": "s3cret-x-api-key",
    "X-Auth-Token": "s3cret-x-auth",
    "X-Session": "s3cret-session",
    "X-Whatever": "s3cret-whatever",
}


def test_no_secret_is_in_any_file_or_output(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    document: dict[str, Any] = {
        "password": "s3cret-password",
        "nested": [{"api_key": "s3cret-nested", "user": "s3cret-user"}],
        "note": "s3cret-note",
        "items": [1, 2],
    }
    large = json.dumps(document | {"x": "y" * 100_000}).encode()
    with (
        servers.answering(200, b"{}", "Set-Cookie: session=s3cret-set-cookie") as server,
        recording(
            *("--upstream", server.url.replace("://", "://me:s3cret-upstream@")),
            *("--out", str(folder / "a.trace.jsonl.gz"), "--session-header", "x-session"),
            *("--hash-field", "user", "--key-field", "user"),
            *("--drop-field", "note"),
        ) as process,
    ):
        target = "/rank?user=s3cret-user&token=s3cret-token&key=s3cret-key&api_key=s3cret-api&x=kept"
        process.ask(target, SECRETS, json.dumps(document).encode())
        process.ask(target, SECRETS, large)
        process.ask(target, SECRETS, b'{"password": "s3cret-broken')
        process.ask(
            "/", {"Content-Type": "application/x-www-form-urlencoded"}, b"password=s3cret-form&a=kept"
        )
        process.ask("/", {"Content-Type": "application/json"}, b"{}")
        _, said, err = process.end()

    recorded = everything_in(folder)
    assert b"s3cret" not in recorded
    assert "s3cret" not in said + err
    rows = rows_of(folder / "a.trace.jsonl.gz")
    assert not any(b"s3cret" in base64.b64decode(row.body_b64 or "") for row in rows)
    assert [row.body for row in rows[:1]] == [
        {"password": "***", "nested": [{"api_key": "***", "user": rows[0].keys[0]}], "items": [1, 2]}
    ]
    assert (rows[0].path or "").endswith("x=kept")
    assert rows[0].session
    # The server was sent everything, and the upstream's own credentials only where there were no others.
    assert server.requests[0].headers["authorization"] == SECRETS["Authorization"]
    assert server.requests[0].path == target
    assert server.requests[-1].headers["authorization"].startswith("Basic ")
    assert json.loads(server.requests[0].body) == document


def test_at_its_size_limit_it_goes_on_serving_and_says_so(out: Path) -> None:
    with (
        servers.healthy() as server,
        recording("--upstream", server.url, "--out", str(out), "--max-mb", "0.001") as process,
    ):
        assert process.process.stderr is not None
        for _ in range(50):
            process.ask(body=json.dumps(os.urandom(500).hex()).encode())
        told = process.process.stderr.readline()
        process.ask()
        code, said, _ = process.end()

    assert code == 0
    assert server.count == 51
    assert "recording has stopped: it has reached its size limit" in told
    assert "the recording had reached its size limit" in said
    assert out.stat().st_size <= 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--upstream", "127.0.0.1:8000"], "--upstream must be http://HOST:PORT or https://HOST:PORT"),
        (["--upstream", "ftp://h"], "--upstream must be http://HOST:PORT"),
        (["--upstream", "http://h:99999"], "--upstream is no URL"),
        (["--upstream", "http://[::1"], "--upstream is no URL"),
        (["--upstream", "http://me:s3cret@h/base"], "--upstream must end after its port"),
        (["--upstream", "http://localhost:7777", "--listen", "7777"], "are the same port"),
        (["--listen", "70000"], "--listen 70000 is no port"),
        (["--sample", "2"], "sample=2.0 must be above 0 and at most 1"),
        (["--timeout-s", "nan"], "--timeout-s nan must be 0 or more"),
        (["--timeout-s", "0"], "--timeout-s must be above 0"),
        (["--max-mb", "0"], "--max-mb 0.0 must be above 0"),
        (["--rotate-mb", "inf"], "--rotate-mb inf must be above 0"),
        (["--op", "rank"], "--op must be NAME=PATTERN"),
        (["--keep-header", "cookie"], "the header cookie is a credential"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:0"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    out = tmp_path / "a.trace.jsonl"
    base = ["record", "--upstream", "http://127.0.0.1:1", "--listen", "0", "--out", str(out)]

    assert main([*base, *arguments]) == 2
    said, err = capsys.readouterr()
    assert message in err
    assert "s3cret" not in said + err
    assert not out.exists()


def test_a_file_that_is_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.trace.jsonl"
    out.write_text("precious")

    assert main(["record", "--upstream", "http://127.0.0.1:1", "--listen", "0", "--out", str(out)]) == 2
    assert f"{out} is there already; choose another --out" in capsys.readouterr().err
    assert out.read_text() == "precious"


def test_a_port_that_is_taken_is_refused_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.trace.jsonl"
    with servers.healthy() as server:
        arguments = ["record", "--upstream", "http://127.0.0.1:1", "--listen", str(server.port)]
        assert main([*arguments, "--out", str(out)]) == 2

    assert f"cannot listen on 127.0.0.1:{server.port}: " in capsys.readouterr().err
    assert not out.exists()


def test_every_option_reaches_the_recording(out: Path) -> None:
    with (
        servers.healthy() as server,
        recording(
            *("--upstream", server.url, "--out", str(out), "--name", "n", "--class", "ranking"),
            *("--op", "rank=/rank*", "--ignore", "/health", "--keep-header", "x-team"),
            *("--bodies", "json", "--host-header", "upstream"),
        ) as process,
    ):
        process.ask("/health")
        process.ask("/rank/1", {"X-Team": "blue", "Host": "other"})
        process.end()

    (row,) = rows_of(out)
    assert (row.op, row.path, row.headers["x-team"]) == ("rank", "/rank/1", "blue")
    header = header_of(out)
    assert (header.name, header.class_) == ("n", "ranking")
    assert server.requests[1].headers["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:80/", Upstream("http", "h", 80)),
        ("https://h", Upstream("https", "h", 443)),
        ("http://[::1]:8000", Upstream("http", "::1", 8000)),
        ("http://me:p%40ss@h:8000", Upstream("http", "h", 8000, "Basic bWU6cEBzcw==")),
    ],
)
def test_an_upstream_is_read_and_never_shows_its_credentials(url: str, expected: Upstream) -> None:
    upstream = parse_upstream(url)

    assert upstream == expected
    assert "p%40ss" not in repr(upstream)
    assert "bWU6" not in repr(upstream) + upstream.origin


def test_the_options_have_the_defaults_of_the_library(out: Path) -> None:
    from pytest_capacity.cli import make_parser
    from pytest_capacity.recording.command import recording_options

    parsed = make_parser().parse_args(
        ["record", "--upstream", "http://h", "--listen", "1", "--out", str(out)]
    )
    found = recording_options(parsed)

    ours = RecordingOptions()
    for name in ("sample", "bodies", "hold_s", "rotate_bytes", "max_bytes", "drop_fields", "operations"):
        assert getattr(found, name) == getattr(ours, name)
