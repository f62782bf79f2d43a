"""Servers, connections and processes that break: nothing hangs, and every request sent is accounted for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import trustme

from pytest_capacity.load import thread
from pytest_capacity.load.refresh import TargetUnavailable
from pytest_capacity.load.worker_session import WorkerSession
from pytest_capacity.protocols import Outcome, Reply
from pytest_capacity.targets.http import HttpTarget
from tests import servers
from tests.loading import (  # noqa: F401 - fixtures are used by being here
    CHOSEN,
    LIMIT_S,
    NEVER_S,
    Load,
    encoded_for,
    engine,
    in_this_process,
    loading,
    no_trouble_is_left,
    open_engine,
    sends_with_aiohttp,
)
from tests.servers import Connection, Received, Server

JSON_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def outcomes(load: Load) -> set[Outcome]:
    """What became of the rows, each told as sent once and as final once."""
    assert sorted(load.sent) == sorted(load.final)
    assert len(load.sent) == len(set(load.sent))
    return set(load.final.values())


class TestConnections:
    def test_keep_alive_connections_closed_at_random_lose_and_repeat_nothing(self) -> None:
        with servers.closing_at_random() as server, loading(server.url) as load:
            load.session.hold(0, 3, np.zeros(1, dtype=np.int64))
            load.until(lambda: len(load.final) >= 60)
        assert outcomes(load) <= {Outcome.GOOD, Outcome.DISCONNECTED, Outcome.CANCELLED}
        assert list(load.final.values()).count(Outcome.GOOD) >= 30
        assert server.count <= len(load.sent)

    def test_a_reply_of_a_byte_a_second_is_given_up_at_its_age(self) -> None:
        with servers.trickling() as server, loading(server.url, timeout_s=0.4) as load:
            load.play([0.0, 0.0])
            load.until_final(2)

            assert outcomes(load) == {Outcome.TIMEOUT}
            assert load.last.in_flight == 0

    def test_more_than_was_promised_spoils_the_connection_but_not_the_reply(self) -> None:
        with servers.writing(JSON_REPLY + b"and more") as server, loading(server.url) as load:
            load.play([0.0, 0.05, 0.1])
            load.until_final(3)

            # aiohttp is stricter: it reads on before it gives the reply away.
            assert outcomes(load) == {Outcome.BAD_REPLY if sends_with_aiohttp() else Outcome.GOOD}
        assert server.connections >= 3

    def test_headers_without_end_are_no_reply(self) -> None:
        endless = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(1000))
        with servers.writing(endless) as server, loading(server.url, timeout_s=5) as load:
            load.play([0.0])
            load.until_final(1)

            assert outcomes(load) == {Outcome.BAD_REPLY}
            assert "no valid HTTP reply" in load.last.examples[Outcome.BAD_REPLY]

    def test_an_interim_reply_is_not_the_reply(self) -> None:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        with servers.writing(interim + JSON_REPLY) as server, loading(server.url) as load:
            load.play([0.0, 0.02])
            load.until_final(2)
            told = load.told

            assert outcomes(load) == {Outcome.GOOD}
            assert set(told.status[told.outcome == Outcome.GOOD].tolist()) == {200}
            assert set(told.bytes_received[told.outcome == Outcome.GOOD].tolist()) == {2}

    @pytest.mark.parametrize("status", [204, 304])
    def test_a_status_without_a_body_ends_at_its_headers(self, status: int) -> None:
        reply = (
            b"HTTP/1.1 %d X\r\nContent-Length: 100\r\n\r\n" % status
            if status == 304
            else b"HTTP/1.1 204 X\r\n\r\n"
        )
        with servers.writing(reply) as server, loading(server.url, good_statuses=[204, 304]) as load:
            load.play([0.0, 0.03])
            load.until_final(2)

            assert outcomes(load) == {Outcome.GOOD}
        assert server.count == 2

    def test_a_reply_to_head_has_no_body_whatever_its_length_says(self) -> None:
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        with servers.writing(reply) as server, loading(server.url, method="HEAD") as load:
            load.session.hold(0, 1, np.zeros(1, dtype=np.int64))
            load.until(lambda: len(load.final) >= 5)
        assert outcomes(load) <= {Outcome.GOOD, Outcome.CANCELLED}
        assert server.connections <= server.count

    def test_a_reply_without_a_length_ends_with_its_connection(self) -> None:
        with (
            servers.writing(b"HTTP/1.0 200 OK\r\n\r\nscores", keep=False) as server,
            loading(server.url) as load,
        ):
            load.play([0.0, 0.02])
            load.until_final(2)
            told = load.told

            assert outcomes(load) == {Outcome.GOOD}
            assert set(told.bytes_received[told.outcome == Outcome.GOOD].tolist()) == {6}

    def test_a_chunked_reply_is_put_together_for_the_check(self) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsco\r\n3\r\nres\r\n0\r\n\r\n"
        seen: list[bytes] = []

        def check(reply: Reply) -> bool:
            seen.append(reply.body)
            return True

        with servers.writing(chunked) as server, loading(server.url, check=check) as load:
            load.play([0.0, 0.02])
            load.until_final(2)
        assert outcomes(load) == {Outcome.GOOD}
        assert seen == [b"scores", b"scores"]

    def test_a_chunk_that_is_none_is_a_bad_reply(self) -> None:
        broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nsco\r\n"
        with servers.writing(broken) as server, loading(server.url, timeout_s=5) as load:
            load.play([0.0])
            load.until_final(1)
        assert outcomes(load) == {Outcome.BAD_REPLY}

    @pytest.mark.parametrize("engine", ["fast", "here"], indirect=True)
    def test_a_reply_before_the_request_has_ended_counts_and_its_connection_does_not(self) -> None:
        async def refuse_early(connection: Connection) -> None:
            await connection.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")

        class Early(Server):
            async def _talk(self, connection: Connection) -> None:
                self.connections += 1
                await connection.reader.readuntil(b"\r\n\r\n")
                await refuse_early(connection)
                with contextlib.suppress(asyncio.CancelledError):
                    await self.forever()
                connection.close()

        async def unused(_: Server, __: Connection, ___: Received) -> bool:
            return False

        body = b"x" * 20_000_000
        with Early(unused) as server, loading(server.url, body=body, timeout_s=5) as load:
            load.play([0.0, 0.1])
            load.until_final(2)

            assert outcomes(load) == {Outcome.BAD_STATUS}
            assert "status 413: large" in load.last.examples[Outcome.BAD_STATUS]
        assert server.connections >= 2


class TestOwnLimits:
    @in_this_process
    def test_no_file_descriptor_left_is_no_evidence_against_the_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(thread, "bound_by_files", lambda bound: (bound, None))
        with servers.elsewhere(delay_s=0.3) as url, loading(url, timeout_s=10) as load, files_left(6):
            load.play(np.zeros(40))
            load.until_final(40)

            assert set(load.final.values()) == {Outcome.GOOD, Outcome.NOT_SENT}
            assert any("this machine could open no further connection" in n for n in load.last.health.notes)

    @in_this_process
    def test_no_local_port_left_is_no_evidence_against_the_server(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A socket bound beforehand takes the one port that connections may come from."""
        import errno
        import socket

        def no_port(*_: object, **__: object) -> None:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

        with servers.healthy() as server, loading(server.url) as load:
            loop = load.session._loop  # type: ignore[attr-defined]
            if type(loop).__module__.startswith("uvloop"):
                pytest.skip("uvloop connects in C, where nothing can be put in its place")
            monkeypatch.setattr(socket.socket, "connect", no_port)
            load.play([0.0])
            load.until_final(1)
            assert set(load.final.values()) == {Outcome.NOT_SENT}


@contextlib.contextmanager
def files_left(count: int) -> Iterator[None]:
    """Allow this process to open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/dev/fd").iterdir())
    gaps = [os.open(os.devnull, os.O_RDONLY)]
    while gaps[-1] < highest:
        gaps.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (gaps[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in gaps:
            os.close(descriptor)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class TestTls:
    def test_a_certificate_of_a_trusted_authority_is_good(self, authority: trustme.CA, trusted: str) -> None:
        tls = serving(authority.issue_cert("127.0.0.1"))
        with servers.healthy(tls=tls) as server, loading(server.url, verify_tls=trusted) as load:
            load.play([0.0, 0.05])
            load.until_final(2)

            assert outcomes(load) == {Outcome.GOOD}

    @pytest.mark.parametrize("wrong", ["host", "expired", "authority"])
    def test_a_wrong_certificate_is_no_connection_and_says_why(
        self, authority: trustme.CA, trusted: str, wrong: str
    ) -> None:
        yesterday = datetime.now(timezone.utc) - timedelta(days=1)
        certificates = {
            "host": lambda: authority.issue_cert("model.invalid"),
            "expired": lambda: authority.issue_cert("127.0.0.1", not_after=yesterday),
            "authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
        }
        said = {"host": "match", "expired": "expired", "authority": "certificate verify failed"}
        tls = serving(certificates[wrong]())
        with servers.healthy(tls=tls) as server, loading(server.url, verify_tls=trusted) as load:
            load.play([0.0])
            load.until_final(1)

            assert outcomes(load) == {Outcome.CONNECT}
            assert said[wrong] in load.last.examples[Outcome.CONNECT]
        assert server.count == 0

    def test_a_client_certificate_is_shown_to_a_server_that_wants_one(
        self, authority: trustme.CA, trusted: str, tmp_path: Path
    ) -> None:
        tls = serving(authority.issue_cert("127.0.0.1"))
        tls.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(tls)
        mine = tmp_path / "client.pem"
        authority.issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(mine))
        with (
            servers.healthy(tls=tls) as server,
            loading(server.url, verify_tls=trusted, client_cert=str(mine)) as load,
        ):
            load.play([0.0])
            load.until_final(1)

            assert outcomes(load) == {Outcome.GOOD}

    def test_a_certificate_file_that_is_none_is_an_error_before_any_load(self, tmp_path: Path) -> None:
        path = tmp_path / "ca.pem"
        path.write_text("no certificate")
        encoded = encoded_for(HttpTarget("https://127.0.0.1:1", verify_tls=str(path)))

        with pytest.raises(TargetUnavailable, match=r"TLS: .*ca\.pem cannot be used .*no load was sent"):
            open_engine(encoded)


class TestUnixSockets:
    def test_load_goes_to_a_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "model.sock")
        server = servers.healthy()
        server.unix_path = path
        with server, loading("http://model/rank", unix_socket=path) as load:
            load.play([0.0, 0.02])
            load.until_final(2)

            assert outcomes(load) == {Outcome.GOOD}
        assert server.requests[0].headers["host"].startswith("model")

    def test_a_socket_that_is_not_there_is_no_connection(self, tmp_path: Path) -> None:
        with loading("http://model/", unix_socket=str(tmp_path / "none.sock")) as load:
            load.play([0.0])
            load.until_final(1)

            assert outcomes(load) == {Outcome.CONNECT}


class TestStreaming:
    def test_each_event_is_stamped_when_it_came(self) -> None:
        """The server sends the second event only after the first has been told to the test."""
        with events(5) as server, loading(server.url, stream="events") as load:
            load.play([0.0, 0.01])
            load.until_final(2)
        told = load.told
        final = np.flatnonzero(told.outcome == Outcome.GOOD)
        assert len(told.token_start) == len(told) + 1
        for place in final:
            times = told.token_times_s[told.token_start[place] : told.token_start[place + 1]]
            assert len(times) == 5
            assert np.all(np.diff(times) >= 0)
            assert told.first_byte_s[place] <= times[0] <= times[-1] <= told.done_s[place]

    def test_nothing_is_stamped_where_nobody_asks(self) -> None:
        with events(3) as server, loading(server.url) as load:
            load.play([0.0])
            load.until_final(1)
        assert len(load.told.token_times_s) == 0


def events(count: int) -> Server:
    """Streams so many server-sent events, cut in the middle of their closing lines."""

    async def behave(_: Server, connection: Connection, __: Received) -> bool:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.write(head)
        for number in range(count):
            for part in (b"data: %d\n" % number, b"\n"):
                await connection.write(b"%x\r\n%s\r\n" % (len(part), part))
                await asyncio.sleep(0)
        await connection.write(b"0\r\n\r\n")
        return True

    return Server(behave)


workers_only = pytest.mark.parametrize("engine", ["fast", "two-workers"], indirect=True)


class TestProcesses:
    @workers_only
    def test_a_killed_worker_halts_the_load_and_its_rows_are_accounted_for(self) -> None:
        with servers.gated() as server, loading(server.url) as load:
            load.play(np.concatenate([np.zeros(10), np.full(10, NEVER_S)]))
            load.until(lambda: len(load.sent) == 10)
            assert isinstance(load.session, WorkerSession)
            os.kill(load.session._desks[0].worker.pid, signal.SIGKILL)
            report = load.session.collect(NEVER_S)
            load.reports.append(report)
            server.release()
        assert report.halted is not None
        assert report.halted.startswith("a load worker was lost (killed by signal 9")
        assert outcomes(load) <= {Outcome.CANCELLED, Outcome.GOOD}
        assert len(load.final) == 10

    @workers_only
    def test_after_a_lost_worker_the_next_session_has_another(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            assert isinstance(load.session, WorkerSession)
            os.kill(load.session._desks[0].worker.pid, signal.SIGKILL)
            load.reports.append(load.session.collect(NEVER_S))
        with servers.healthy() as server, loading(server.url) as load:
            load.play([0.0])
            load.until_final(1)
            assert outcomes(load) == {Outcome.GOOD}

    @workers_only
    def test_workers_are_kept_from_one_session_to_the_next(self) -> None:
        pids = []
        for _ in range(2):
            with servers.healthy() as server, loading(server.url) as load:
                assert isinstance(load.session, WorkerSession)
                pids.append({desk.worker.pid for desk in load.session._desks})
        assert pids[0] == pids[1]

    @pytest.mark.skipif(sys.platform != "linux", reason="only there a thread may run before all others")
    @pytest.mark.parametrize("engine", ["fast", "two-workers"], indirect=True)
    def test_a_closed_loop_pushes_no_server_aside(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            assert isinstance(load.session, WorkerSession)
            load.session.hold(0, 2, np.zeros(1, dtype=np.int64))
            load.collect()
            policies = {os.sched_getscheduler(desk.worker.pid) for desk in load.session._desks}
            load.session.pause(0.0)
        assert policies == {os.SCHED_OTHER}

    @pytest.mark.parametrize("engine", ["fast"], indirect=True)
    def test_a_killed_parent_ends_its_workers_and_their_load(self) -> None:
        source = """
import json, sys, time
import numpy as np
from tests.loading import CHOSEN, encoded_for, open_engine
from pytest_capacity.targets.http import HttpTarget
CHOSEN[:] = ["fast"]
encoded = encoded_for(HttpTarget(sys.argv[1]))
session = open_engine(encoded)
session.play(0, session.now_s() + np.arange(100_000) / 100, np.zeros(100_000, dtype=np.int64))
session.collect(session.now_s() + 0.3)
print(json.dumps([desk.worker.pid for desk in session._desks]), flush=True)
time.sleep(600)
"""
        with servers.healthy() as server:
            parent = subprocess.Popen(
                [sys.executable, "-c", source, server.url],
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parent.parent,
            )
            assert parent.stdout is not None
            with parent.stdout:
                pids = json.loads(parent.stdout.readline())
                parent.kill()
                parent.wait()
            assert server.count > 0
            for pid in pids:
                wait_until_gone(pid)

    @pytest.mark.parametrize("engine", ["fast"], indirect=True)
    def test_a_worker_has_none_of_coverages_hooks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from pytest_capacity.load import workers

        monkeypatch.setattr(workers, "_idle", [])
        monkeypatch.setenv("COV_CORE_SOURCE", "x")
        monkeypatch.setenv("COVERAGE_PROCESS_START", "x")
        with servers.healthy() as server, loading(server.url) as load:
            assert isinstance(load.session, WorkerSession)
            pid = load.session._desks[0].worker.pid
            environment = Path(f"/proc/{pid}/environ")
            if not environment.exists():
                pytest.skip("this system does not show a process's environment")
            assert b"COV" not in environment.read_bytes()
        workers.end_idle()

    def test_a_clock_that_is_set_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = time.time
        with servers.healthy() as server, loading(server.url) as load:
            start_s = load.play(np.arange(20) / 100)
            load.until(lambda: len(load.final) >= 3)
            monkeypatch.setattr(time, "time", lambda: real() - 86_400)
            load.until_final(20)
            told = load.told
        sent = told.outcome == Outcome.PENDING
        assert outcomes(load) == {Outcome.GOOD}
        assert np.all(told.sent_s[sent] >= start_s)
        assert np.all(told.sent_s[sent] <= start_s + LIMIT_S)


def wait_until_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")
