"""What every engine promises, against real sockets: what leaves when, and what comes of it."""

from __future__ import annotations

import asyncio
import gzip
import math
import resource
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme

from pytest_capacity.load import thread, timer
from pytest_capacity.load.refresh import TargetUnavailable
from pytest_capacity.load.sending import new_event_loop
from pytest_capacity.load.thread import ThreadSession
from pytest_capacity.protocols import (
    Endpoint,
    Judge,
    Outcome,
    Reply,
    Request,
)
from pytest_capacity.targets.http import HttpTarget
from tests import servers
from tests.loading import (  # noqa: F401 - fixtures are used by being here
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
from tests.servers import Server

MISBEHAVIOURS: list[tuple[str, Callable[[], Server], Outcome, int, str]] = [
    ("healthy", servers.healthy, Outcome.GOOD, 200, ""),
    ("500", lambda: servers.answering(500, b"boom"), Outcome.BAD_STATUS, 500, "status 500: boom"),
    (
        "422",
        lambda: servers.answering(422, servers.FASTAPI_422),
        Outcome.BAD_STATUS,
        422,
        "status 422: field 'items' required",
    ),
    ("redirect", lambda: servers.answering(302, b"", "Location: /x"), Outcome.BAD_STATUS, 302, "status 302"),
    ("garbage", lambda: servers.raw(b"\x00\x16garbage\r\n\r\n"), Outcome.BAD_REPLY, 0, "no valid HTTP reply"),
    ("not HTTP", lambda: servers.raw(b"SSH-2.0-x\r\n\r\n"), Outcome.BAD_REPLY, 0, "no valid HTTP reply"),
    (
        "short body",
        lambda: servers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        Outcome.BAD_REPLY,
        0,
        "no valid HTTP reply",
    ),
    ("empty body", lambda: servers.answering(200, b""), Outcome.BAD_REPLY, 200, "empty body"),
    ("no reply", lambda: servers.raw(b""), Outcome.DISCONNECTED, 0, "the connection broke"),
    ("reset", servers.resetting, Outcome.DISCONNECTED, 0, "the connection broke"),
    ("hangs", servers.hanging, Outcome.TIMEOUT, 0, "no complete reply within 0.3 s"),
    (
        "hangs halfway",
        lambda: servers.raw_and_hold(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
        Outcome.TIMEOUT,
        0,
        "no complete reply within 0.3 s",
    ),
]


class TestMisbehavingServers:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize(
        ("serve", "outcome", "status", "reason"),
        [case[1:] for case in MISBEHAVIOURS],
        ids=[case[0] for case in MISBEHAVIOURS],
    )
    def test_each_request_ends_as_what_it_was(
        self, serve: Callable[[], Server], outcome: Outcome, status: int, reason: str, method: str
    ) -> None:
        timeout_s = 0.3 if outcome is Outcome.TIMEOUT else LIMIT_S
        with serve() as server, loading(server.url, method=method, timeout_s=timeout_s) as load:
            load.play(np.arange(12) / 200)
            load.until_final(12)

            assert load.final == dict.fromkeys(range(12), outcome)
            assert sorted(load.sent) == list(range(12))
            assert load.last.in_flight == 0
            told = load.told
            ended = told.outcome == outcome
            assert set(told.status[ended].tolist()) == {status}
            assert np.all(told.done_s[ended] >= told.sent_s[ended])
            assert np.all(told.sent_s[ended] >= told.intended_s[ended])
            assert reason in load.last.examples.get(outcome, "")
            assert load.last.halted is None
        assert server.count == 12

    def test_nothing_listens(self) -> None:
        with loading(servers.refusing()) as load:
            load.play([0.0, 0.01])
            load.until_final(2)

            assert load.final == dict.fromkeys(range(2), Outcome.CONNECT)
            assert load.last.examples[Outcome.CONNECT] == "no connection: Connection refused"

    def test_a_server_that_dies_fails_the_rest(self) -> None:
        with servers.dying(after=10) as server, loading(server.url) as load:
            load.play(np.arange(40) / 400)
            load.until_final(40)

            outcomes = list(load.final.values())
            assert outcomes.count(Outcome.GOOD) <= 10
            assert set(outcomes) <= {Outcome.GOOD, Outcome.DISCONNECTED, Outcome.CONNECT}
            assert load.final[39] in {Outcome.CONNECT, Outcome.DISCONNECTED}
            assert load.last.halted is None

    def test_what_hangs_at_the_end_is_cancelled_and_every_row_accounted_for(self) -> None:
        with servers.hanging(after=5) as server, loading(server.url) as load:
            load.play(np.arange(20) / 400)
            load.until(lambda: len(load.sent) == 20 and len(load.final) == 5)
            assert load.last.in_flight == 15
        outcomes = list(load.final.values())

        assert outcomes.count(Outcome.GOOD) == 5
        assert outcomes.count(Outcome.CANCELLED) == 15
        cancelled = load.told.outcome == Outcome.CANCELLED
        assert np.all(np.isnan(load.told.done_s[cancelled]))
        assert np.all(load.told.sent_s[cancelled] > 0)

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_broken_keep_alive_connection_is_a_failure_and_never_tried_again(self, method: str) -> None:
        with servers.closing_silently() as server, loading(server.url, method=method) as load:
            load.session.hold(0, 1, np.zeros(1, dtype=np.int64))
            load.until(lambda: len(load.final) >= 10)
        sent = len(load.sent)

        assert set(load.final.values()) >= {Outcome.GOOD, Outcome.DISCONNECTED}
        # One request may be on its way when the load ends.
        assert sent - 1 <= server.count <= sent
        in_order = [load.final[row] for row in range(6)]
        assert in_order == [Outcome.GOOD, Outcome.DISCONNECTED] * 3


class TestOpenLoop:
    def test_rows_leave_when_due_and_latency_counts_from_then(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            start_s = load.play(np.arange(20) / 200)
            load.until_final(20)
        told = load.told

        final = told.outcome == Outcome.GOOD
        assert told.intended_s[final] - start_s == pytest.approx(told.row[final] / 200)
        assert np.all(told.sent_s[final] >= told.intended_s[final])
        assert np.all(told.first_byte_s[final] > told.sent_s[final])
        assert np.all(told.done_s[final] >= told.first_byte_s[final])
        assert set(told.bytes_received[final].tolist()) == {len(b'{"ok": true}')}

    def test_own_lateness_is_recorded(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            load.play([-5.0, -5.0])
            load.until_final(2)
            health = load.last.health

            assert health.late_p50_s >= 5
            assert health.late_max_s >= health.late_p99_s >= health.late_p50_s
            # A new play is a new probe, whose health starts from nothing.
            load.play([0.01], first_row=2)
            load.until_final(3)
            assert 0 < load.last.health.late_p50_s == load.last.health.late_max_s < 5

    def test_sending_never_waits_for_replies_nor_for_a_hidden_limit_on_connections(self) -> None:
        with servers.gated() as server, loading(server.url, method="POST", body="x") as load:
            load.play(np.arange(160) / 1000)
            load.until(lambda: server.count == 160)
            load.collect()
            assert load.last.in_flight == 160
            assert not load.final

            server.release()
            load.until_final(160)
        # Connections are held ready beyond those in use.
        assert 160 <= server.most_open <= 160 + 64
        assert set(load.final.values()) == {Outcome.GOOD}

    def test_a_row_over_the_bound_is_not_sent_and_final_at_once(self) -> None:
        with servers.gated() as server, loading(server.url, max_in_flight=8) as load:
            load.play(np.zeros(20))
            load.until_final(12)

            assert load.final == dict.fromkeys(range(8, 20), Outcome.NOT_SENT)
            assert sorted(load.sent) == list(range(8))
            assert load.last.health.not_sent == 12
            assert load.last.health.max_in_flight == 8
            not_sent = load.told.outcome == Outcome.NOT_SENT
            assert np.all(np.isnan(load.told.sent_s[not_sent]))
            server.release()
            load.until_final(20)
        assert server.count == 8

    def test_requests_are_taken_by_index_and_operation(self) -> None:
        request = Request("a", "GET", "/a")
        with servers.healthy() as server:
            encoded = replace(
                encoded_for(HttpTarget(server.url)),
                requests=(request, Request("b", "GET", "/b"), replace(request, path="/c")),
            )
            load = Load(open_engine(encoded), encoded)
            load.session.play(0, np.full(4, load.session.now_s()), np.array([1, 2, 0, 1]))
            load.until_final(4).close()

        assert server.paths() == {"/b": 2, "/c": 1, "/a": 1}
        told = load.told
        final = told.outcome == Outcome.GOOD
        operations = dict(zip(told.row[final].tolist(), told.operation[final].tolist(), strict=True))
        assert operations == {0: 1, 1: 0, 2: 0, 3: 1}

    def test_an_empty_reply_is_good_to_head_and_to_nothing_else(self) -> None:
        head = Request("a", "HEAD", "/a")
        with servers.answering(200, b"") as server:
            encoded = replace(
                encoded_for(HttpTarget(server.url)), requests=(head, replace(head, method="GET"))
            )
            load = Load(open_engine(encoded), encoded)
            reply, judgement = load.session.exchange(head)
            load.play([0.0, 0.05, 0.1, 0.15])
            load.until_final(4).close()

        assert reply is not None
        assert (reply.to_head, judgement.outcome) == (True, Outcome.GOOD)
        good, bad = Outcome.GOOD, Outcome.BAD_REPLY
        assert load.final == {0: good, 1: bad, 2: good, 3: bad}

    def test_requests_can_be_added_while_load_runs(self) -> None:
        with servers.healthy() as server, loading(server.url + "/first") as load:
            load.session.hold(0, 1, np.zeros(1, dtype=np.int64))
            load.until(lambda: len(load.final) >= 2)
            more = [replace(load.encoded.requests[0], path=path) for path in ("/a", "/b")]
            first = load.session.add(more)
            assert first == 1
            now_s = load.session.now_s()
            load.session.play(1000, np.full(2, now_s), np.array([first, first + 1]))
            load.until(lambda: {1000, 1001} <= set(load.final))

            with pytest.raises(ValueError, match="operation"):
                load.session.add([replace(more[0], operation="unheard of")])
            with pytest.raises(ValueError, match="line break"):
                load.session.add([replace(more[0], path="/a\r\nb")])
            with pytest.raises(ValueError, match="outside the 3 requests"):
                load.session.play(2000, np.array([now_s]), np.array([3]))
        assert server.paths()["/a"] == server.paths()["/b"] == 1

    def test_playing_anew_withdraws_exactly_the_rows_due_at_or_after_its_start(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            at_s = load.session.now_s() + 0.3
            zeros = np.zeros(4, dtype=np.int64)
            load.session.play(0, np.array([at_s - 0.2, at_s - 0.1, at_s, at_s + 0.1]), zeros)
            load.session.play(100, np.array([at_s, at_s + 0.05]), zeros[:2])
            load.until_final(4)
            load.session.collect(at_s + 0.2)

            assert sorted(load.final) == [0, 1, 100, 101]
        assert sorted(load.final) == [0, 1, 100, 101]
        assert server.count == 4

    def test_playing_no_row_changes_nothing(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            load.play([0.05, 0.06])
            load.play([])
            load.until_final(2)

    def test_a_pause_withdraws_what_is_due_later_and_lets_replies_come(self) -> None:
        with servers.gated() as server, loading(server.url) as load:
            load.play([0.0, 0.0, NEVER_S, NEVER_S])
            load.until(lambda: len(load.sent) == 2)
            load.session.pause(load.session.now_s())
            server.release()
            load.until_final(2)
        # The rows withdrawn, or never due, are told of by nobody.
        assert load.final == dict.fromkeys(range(2), Outcome.GOOD)

    def test_the_timeout_counts_from_the_intended_time(self) -> None:
        with servers.hanging() as server, loading(server.url, timeout_s=0.6) as load:
            load.play([-0.3])
            load.until_final(1)
        told = load.told

        assert load.final == {0: Outcome.TIMEOUT}
        assert told.done_s[-1] - told.intended_s[-1] >= 0.59
        assert told.sent_s[-1] - told.intended_s[-1] >= 0.3

    def test_a_row_older_than_its_timeout_is_not_blamed_on_the_server(self) -> None:
        with servers.healthy() as server, loading(server.url, timeout_s=0.2) as load:
            load.play([-0.9])
            load.until_final(1)

            assert load.final == {0: Outcome.NOT_SENT}
        assert server.count == 0

    @pytest.mark.parametrize(("times", "indexes"), [([1.0, 0.5], [0, 0]), ([1.0], [0, 0]), ([1.0], [7])])
    def test_what_cannot_be_played_is_refused(self, times: list[float], indexes: list[int]) -> None:
        with servers.healthy() as server, loading(server.url) as load, pytest.raises(ValueError, match=r"\w"):
            load.session.play(0, np.array(times), np.array(indexes))


class TestClosedLoop:
    def test_it_holds_its_concurrency_and_takes_requests_in_turn(self) -> None:
        with servers.healthy(delay_s=0.01) as server, loading(server.url, payloads=["a", "b", "c"]) as load:
            load.session.hold(7, 4, np.array([2, 0]))
            load.until(lambda: len(load.final) >= 40)
            # A reply's place may be taken in the very moment of the count.
            assert all(report.in_flight == 4 for report in load.reports)
            load.session.pause(load.session.now_s())
            load.until(lambda: len(load.final) == len(load.sent) == server.count)

        assert server.most_open <= 4
        # Workers tell one after the other, each in its order.
        assert sorted(load.sent) == list(range(7, 7 + len(load.sent)))
        bodies = [request.body for request in server.requests]
        assert abs(bodies.count(b"c") - bodies.count(b"a")) <= 1
        assert b"b" not in bodies

    def test_its_concurrency_can_be_changed(self) -> None:
        with servers.gated() as server, loading(server.url) as load:
            load.session.hold(0, 3, np.zeros(1, dtype=np.int64))
            load.until(lambda: server.count == 3)
            load.session.hold(100, 5, np.zeros(1, dtype=np.int64))
            load.until(lambda: len(load.sent) == 5 == server.count)

            assert sorted(load.sent) == [0, 1, 2, 100, 101]

    def test_it_withdraws_what_was_played_and_is_ended_by_a_play(self) -> None:
        with servers.gated() as server, loading(server.url) as load:
            load.play([0.2, 0.3])
            load.session.hold(10, 1, np.zeros(1, dtype=np.int64))
            load.until(lambda: server.count == 1)
            load.play([0.0], first_row=20)
            load.until(lambda: server.count == 2)
            server.release()
            load.until_final(2)
            load.session.collect(load.session.now_s() + 0.1)

            assert sorted(load.final) == [10, 20]

    def test_it_keeps_to_the_bound_on_requests_in_flight(self) -> None:
        with servers.gated() as server, loading(server.url, max_in_flight=2) as load:
            load.session.hold(0, 50, np.zeros(1, dtype=np.int64))
            load.until(lambda: server.count == 2)
            assert load.collect().in_flight == 2

    @pytest.mark.parametrize(("concurrency", "indexes"), [(0, [0]), (1, []), (1, [5])])
    def test_what_cannot_be_held_is_refused(self, concurrency: int, indexes: list[int]) -> None:
        with servers.healthy() as server, loading(server.url) as load, pytest.raises(ValueError, match=r"\w"):
            load.session.hold(0, concurrency, np.array(indexes, dtype=np.int64))


class TestHttp:
    def test_redirects_proxies_and_cookies_are_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, servers.refusing())
        monkeypatch.delenv("no_proxy", raising=False)
        with (
            servers.answering(302, b"", "Location: /elsewhere", "Set-Cookie: a=b") as server,
            loading(f"{server.url}/here", good_statuses=[302], check=lambda _: True) as load,
        ):
            load.play([0.0, 0.05, 0.1])
            load.until_final(3)

            assert set(load.final.values()) == {Outcome.GOOD}
        assert server.paths() == {"/here": 3}
        assert all("cookie" not in request.headers for request in server.requests)

    def test_connections_are_kept_alive(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            load.session.hold(0, 2, np.zeros(1, dtype=np.int64))
            load.until(lambda: len(load.final) >= 30)
        assert server.connections == 2

    def test_the_request_goes_out_as_it_was_encoded(self) -> None:
        target: dict[str, Any] = {"json": {"a": "ü"}, "headers": {"X-Id": "7", "Accept": "a/b"}}
        with servers.healthy() as server, loading(f"{server.url}/p%20q?x=%2F&y=a+b", **target) as load:
            load.play([0.0])
            load.until_final(1)
        (request,) = server.requests

        assert (request.method, request.path) == ("POST", "/p%20q?x=%2F&y=a+b")
        assert request.body == '{"a":"ü"}'.encode()
        assert request.headers.pop("host") == server.url.removeprefix("http://")
        assert request.headers.pop("user-agent").startswith("pytest-capacity/")
        assert request.headers == {
            "x-id": "7",
            "accept": "a/b",
            "content-type": "application/json",
            "content-length": str(len(request.body)),
        }

    def test_a_body_of_megabytes_arrives_whole(self) -> None:
        body = bytes(range(256)) * 10_000
        with servers.healthy() as server, loading(server.url, body=body) as load:
            load.play([0.0, 0.0])
            load.until_final(2)

            assert set(load.final.values()) == {Outcome.GOOD}
        assert [request.body == body for request in server.requests] == [True, True]

    def test_a_compressed_reply_reaches_the_check_decoded(self) -> None:
        seen: list[bytes] = []

        def check(reply: Reply) -> bool:
            seen.append(reply.body)
            return reply.headers["content-ENCODING"] == "gzip"

        packed = gzip.compress(b"scores")
        with (
            servers.answering(200, packed, "Content-Encoding: gzip") as server,
            loading(server.url, check=check) as load,
        ):
            load.play([0.0])
            load.until_final(1)

            assert load.final == {0: Outcome.GOOD}
        assert seen == [b"scores"]
        assert "accept-encoding" not in server.requests[0].headers

    def test_only_the_addresses_that_were_checked_are_connected_to(self) -> None:
        with servers.healthy() as server:
            encoded = encoded_for(HttpTarget(server.url))
            endpoint = Endpoint("http", "model.invalid", server.port, ("127.0.0.1",))
            encoded = replace(encoded, endpoint=endpoint)
            load = Load(open_engine(encoded), encoded)
            load.play([0.0])
            load.until_final(1).close()

        assert load.final == {0: Outcome.GOOD}
        assert server.requests[0].headers["host"] == f"model.invalid:{server.port}"

    @pytest.mark.parametrize(
        ("verify_tls", "outcome", "reason"),
        [(False, Outcome.GOOD, ""), (True, Outcome.CONNECT, "certificate verify failed")],
    )
    def test_certificates_are_verified_unless_told_otherwise(
        self, verify_tls: bool, outcome: Outcome, reason: str
    ) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
        with servers.healthy(tls=tls) as server, loading(server.url, verify_tls=verify_tls) as load:
            load.play([0.0, 0.05])
            load.until_final(2)

            assert load.final == dict.fromkeys(range(2), outcome)
            assert reason in load.last.examples.get(outcome, "")


class TestHeaderRefresh:
    def test_fresh_headers_replace_the_old_ones_during_the_load(self) -> None:
        calls: list[str] = []

        def token() -> Mapping[str, str]:
            calls.append(threading.current_thread().name)
            return {"authorization": f"Bearer {len(calls)}"}

        with (
            servers.healthy(delay_s=0.01) as server,
            loading(server.url, headers=token, refresh_headers_s=0.05) as load,
        ):
            assert len(calls) == 1
            load.session.hold(0, 1, np.zeros(1, dtype=np.int64))
            load.until(
                lambda: server.count > 0 and server.requests[-1].headers["authorization"] >= "Bearer 3"
            )

        assert server.requests[0].headers["authorization"] == "Bearer 1"
        assert "capacity-engine" not in calls

    def test_a_failure_before_the_load_is_an_error_that_sends_nothing(self) -> None:
        def token() -> Mapping[str, str]:
            raise OSError("vault is sealed")

        with (
            servers.healthy() as server,
            pytest.raises(TargetUnavailable, match=r"OSError: vault is sealed\); no load was sent"),
        ):
            open_engine(encoded_for(HttpTarget(server.url, headers=token)))
        assert server.connections == 0

    def test_a_failure_during_the_load_keeps_the_old_headers_and_is_noted_once(self) -> None:
        calls: list[int] = []

        def token() -> Mapping[str, str]:
            calls.append(1)
            if len(calls) > 1:
                raise OSError("vault is sealed")
            return {"X-Token": "first"}

        with (
            servers.healthy() as server,
            loading(server.url, headers=token, refresh_headers_s=0.02) as load,
        ):
            load.until(lambda: len(calls) > 3 and bool(load.reports) and bool(load.last.health.notes))
            load.play([0.0])
            load.until_final(1)

            assert load.last.health.notes == ("header refresh failed: OSError: vault is sealed",)
        assert server.requests[0].headers["x-token"] == "first"


class TestExchange:
    def test_one_request_goes_out_and_its_reply_is_judged(self) -> None:
        with servers.answering(422, servers.FASTAPI_422) as server, loading(server.url) as load:
            reply, judgement = load.session.exchange(load.encoded.requests[0])

            assert reply is not None
            assert (reply.status, reply.body) == (422, servers.FASTAPI_422)
            assert judgement.outcome is Outcome.BAD_STATUS
            assert load.collect().in_flight == 0
        assert len(load.told) == 0

    @pytest.mark.parametrize(
        ("serve", "outcome"),
        [(servers.hanging, Outcome.TIMEOUT), (servers.resetting, Outcome.DISCONNECTED)],
    )
    def test_where_no_reply_comes_there_is_none(self, serve: Callable[[], Server], outcome: Outcome) -> None:
        with serve() as server, loading(server.url, timeout_s=0.3) as load:
            reply, judgement = load.session.exchange(load.encoded.requests[0])
            assert load.collect().in_flight == 0

        assert reply is None
        assert judgement.outcome is outcome
        assert judgement.reason

    def test_a_closed_session_refuses(self) -> None:
        with servers.healthy() as server, loading(server.url) as load:
            load.close()
            with pytest.raises(RuntimeError, match="the session is closed"):
                load.session.exchange(load.encoded.requests[0])


class TestLifeAndDeath:
    def test_closing_twice_tells_everything_once(self) -> None:
        with servers.hanging() as server, loading(server.url) as load:
            load.play([0.0, 0.0])
            load.until(lambda: len(load.sent) == 2)
            first, second = load.close(), load.session.close()

            assert len(first.samples) == 2
            assert len(second.samples) == 0
            assert first.in_flight == second.in_flight == 0
            assert len(load.session.collect(0).samples) == 0
        assert set(load.final.values()) == {Outcome.CANCELLED}

    def test_a_session_that_sent_nothing_closes(self) -> None:
        interval_s = sys.getswitchinterval()
        with servers.healthy() as server, loading(server.url) as load:
            load.play([NEVER_S])
        assert len(load.told) == 0
        assert sys.getswitchinterval() == interval_s

    def test_ctrl_c_ends_the_wait_at_once_and_loses_no_row(self) -> None:
        main = threading.main_thread().ident
        assert main is not None

        async def interrupt(
            server: Server, connection: servers.Connection, request: servers.Received
        ) -> bool:
            if request.number == 5:
                signal.pthread_kill(main, signal.SIGINT)
            if request.number >= 5:
                await server.forever()
            await connection.reply()
            return True

        with Server(interrupt) as server, loading(server.url) as load:
            load.play(np.arange(5) / 100)
            with pytest.raises(KeyboardInterrupt):
                load.session.collect(NEVER_S)
        assert sorted(load.final) == list(range(5))
        assert list(load.final.values()).count(Outcome.CANCELLED) == 1

    def test_a_request_that_cannot_be_written_is_an_error_and_sends_nothing(self) -> None:
        with servers.healthy() as server:
            encoded = encoded_for(HttpTarget(server.url))
            broken = Request("a", "GET", "/", headers=(("X", "line\r\nbreak"),))
            encoded = replace(encoded, requests=(broken,))
            if sends_with_aiohttp():
                load = Load(open_engine(encoded), encoded)
                load.play([0.0, NEVER_S])
                load.reports.append(load.session.collect(NEVER_S))
                load.close()
                assert load.reports[0].halted is not None
                assert load.reports[0].halted.startswith("the load engine failed: ValueError")
                assert load.final == {0: Outcome.CANCELLED}
            else:
                with pytest.raises(ValueError, match="a line break in a header of a"):
                    open_engine(encoded)
            assert server.count == 0

    def test_a_check_that_never_returns_hangs_neither_collect_nor_close(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(thread, "PATIENCE_S", 0.2)
        returns = threading.Event()

        with (
            servers.healthy() as server,
            loading(server.url, check=lambda _: returns.wait(LIMIT_S)) as load,
        ):
            load.play([0.0])
            load.until(lambda: bool(load.reports) and load.last.halted is not None)
            load.close()
            returns.set()
            assert isinstance(load.session, ThreadSession)
            load.session._thread.join(LIMIT_S)

        assert load.last.halted is not None
        assert "does a check never return?" in load.last.halted

    def test_a_judge_that_raises_has_not_found_the_reply_good(self) -> None:
        with servers.healthy() as server:
            encoded = replace(encoded_for(HttpTarget(server.url)), judge=Judge("math:sqrt"))
            load = Load(open_engine(encoded), encoded)
            load.play([0.0])
            load.until_final(1).close()

        assert load.final == {0: Outcome.BAD_REPLY}
        assert "the judge raised TypeError" in load.last.examples[Outcome.BAD_REPLY]

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"judge": Judge("pytest_capacity.targets.http:nothing")}, AttributeError),
            ({"judge": Judge("no_such_module:judge")}, ImportError),
            ({"endpoint": Endpoint("http", "127.0.0.1", 80)}, ValueError),
            ({"requests": ()}, ValueError),
        ],
    )
    def test_what_cannot_work_is_refused_at_opening(
        self, change: dict[str, Any], error: type[Exception]
    ) -> None:
        encoded = replace(encoded_for(HttpTarget("http://127.0.0.1:1")), **change)

        with pytest.raises(error):
            open_engine(encoded)

    @in_this_process
    def test_few_file_descriptors_lower_the_bound_and_are_noted(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_files = sum(1 for _ in Path("/dev/fd").iterdir())
        soft = open_files + 64 + 20
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))

        with servers.healthy() as server, loading(server.url, max_in_flight=5000) as load:
            health = load.collect().health

        assert 1 <= health.max_in_flight <= 30
        assert len(health.notes) == 1
        assert f"the limit on open files is {soft}; raise it with ulimit -n" in health.notes[0]

    def test_a_stall_of_the_sending_loop_is_seen(self) -> None:
        def stall(_: Reply) -> None:
            threading.Event().wait(0.1)

        with servers.healthy() as server, loading(server.url, check=stall) as load:
            load.play([0.0])
            load.until_final(1)
            load.collect()

            # The heartbeat may have been due up to 10 ms into the stall.
            assert load.last.health.loop_stall_s >= 0.08
            assert 0 < load.last.health.cpu_s <= load.last.health.wall_s
            load.play([0.0], first_row=1)


@in_this_process
class TestOtherPlatforms:
    @pytest.mark.parametrize("has_timerfd", [True, False])
    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, new_event_loop])
    def test_any_loop_and_any_timer_will_do(
        self,
        monkeypatch: pytest.MonkeyPatch,
        has_timerfd: bool,
        loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> None:
        monkeypatch.setattr(timer, "HAS_TIMERFD", has_timerfd and timer.HAS_TIMERFD)
        monkeypatch.setattr(thread, "new_event_loop", loop)
        with servers.healthy() as server, loading(server.url) as load:
            load.play(np.arange(30) / 200)
            load.until_final(30)
            late_s = load.told.sent_s - load.told.intended_s

            assert set(load.final.values()) == {Outcome.GOOD}
            assert np.all(late_s[np.isfinite(late_s)] >= 0)


def test_a_timer_wakes_after_its_time_and_never_before() -> None:
    async def measure() -> list[float]:
        loop = asyncio.get_running_loop()
        alarm = timer.Alarm(loop)
        early_s = []
        for ahead_s in (0.0, -1.0, 0.003, 0.02):
            at_s = time.monotonic() + ahead_s
            assert await alarm.sleep_until(at_s)
            early_s.append(at_s - time.monotonic())
        loop.call_soon(alarm.ring)
        assert not await alarm.sleep_until(None)
        alarm.close()
        return early_s

    # uvloop and asyncio may round a timer of their own down by their clock's resolution of a millisecond.
    assert max(asyncio.run(measure())) <= (0.0 if timer.HAS_TIMERFD else 0.001)


def test_the_clock_starts_at_zero_and_goes_on() -> None:
    with servers.healthy() as server, loading(server.url) as load:
        first_s = load.session.now_s()
        report = load.session.collect(first_s + 0.01)

        assert 0 <= first_s < LIMIT_S
        assert report.now_s >= first_s + 0.01
        assert not math.isnan(report.health.late_p99_s)
