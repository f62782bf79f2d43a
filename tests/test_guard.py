"""What may be loaded, how much, and when a load stops at once."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_capacity.load.guard import (
    CeilingExceeded,
    Ceilings,
    HostNotAllowed,
    LoadRefused,
    StopRule,
    UnresolvedHost,
    check_allowed,
    resolve,
)
from pytest_capacity.protocols import Endpoint, Outcome, Samples


def endpoint(host: str, *addresses: str) -> Endpoint:
    return Endpoint("http", host, 8000, addresses)


def test_a_host_resolves_to_each_of_its_addresses_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(0, 0, 0, "", (address, 8000)) for address in ("10.0.0.1", "::1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)

    assert resolve(endpoint("model")).addresses == ("10.0.0.1", "::1")


def test_an_address_resolves_to_itself() -> None:
    assert resolve(endpoint("127.0.0.1")).addresses == ("127.0.0.1",)


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
)
def test_a_name_that_does_not_resolve_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)

    with pytest.raises(UnresolvedHost, match=r"host 'nowhere' does not resolve \((Name|label)"):
        resolve(endpoint("nowhere"))


@pytest.mark.parametrize(
    ("host", "addresses", "globs"),
    [
        ("localhost", ["127.0.0.1", "::1"], []),
        ("127.8.9.10", ["127.8.9.10"], []),
        ("mapped", ["::ffff:127.0.0.1"], []),
        ("ranker.staging", ["10.1.2.3"], ["*.staging"]),
        ("Ranker.Staging", ["10.1.2.3"], [" *.sTAGing "]),
        ("ranker", ["10.1.2.3", "10.1.2.4"], ["10.1.2.*"]),
        ("ranker", ["10.1.2.3", "10.9.9.9"], ["10.1.*", "10.9.*"]),
        ("anything", ["8.8.8.8"], ["*"]),
    ],
)
def test_this_machine_and_allowed_hosts_may_be_loaded(
    host: str, addresses: list[str], globs: list[str]
) -> None:
    check_allowed(endpoint(host, *addresses), globs)


@pytest.mark.parametrize(
    ("host", "addresses", "globs"),
    [
        ("ranker.prod", ["10.1.2.3"], []),
        ("ranker.prod", ["10.1.2.3"], ["*.staging"]),
        ("half", ["127.0.0.1", "10.1.2.3"], []),
        ("half", ["10.1.2.3", "10.9.9.9"], ["10.1.*"]),
        ("localhost", ["10.1.2.3"], []),
        ("nothing", [], []),
        ("mapped", ["::ffff:10.1.2.3"], []),
        ("0.0.0.0", ["0.0.0.0"], []),
    ],
)
def test_other_hosts_are_refused_with_their_addresses_and_the_remedy(
    host: str, addresses: list[str], globs: list[str]
) -> None:
    with pytest.raises(HostNotAllowed) as refused:
        check_allowed(endpoint(host, *addresses), globs)

    assert isinstance(refused.value, LoadRefused)
    for part in [host, *addresses, f"--capacity-allow-host '{host}'"]:
        assert part in str(refused.value)


def test_who_copies_the_address_of_all_interfaces_is_told_what_was_meant() -> None:
    with pytest.raises(HostNotAllowed, match=r"say 127\.0\.0\.1 in place of 0\.0\.0\.0"):
        check_allowed(endpoint("0.0.0.0", "0.0.0.0"), [])


def test_a_plan_at_its_ceilings_passes() -> None:
    Ceilings(100, 1000, 60).check(100, 1000, 60)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((20_000, 1, 1), r"20,000 requests a second .* 10,000; .* capacity_max_qps"),
        ((1, 3_000_000, 1), r"3,000,000 requests .* 2,000,000; .* capacity_max_requests"),
        ((1, 1, 3601), r"3,601 seconds of load .* 3,600; .* capacity_max_s"),
        ((math.nan, 1, 1), "capacity_max_qps"),
    ],
)
def test_a_plan_over_a_ceiling_is_refused_with_the_option_to_raise(
    asked: tuple[float, int, float], message: str
) -> None:
    with pytest.raises(CeilingExceeded, match=message):
        Ceilings().check(*asked)


def replies(done_s: list[float], status: int | list[int], outcome: Outcome = Outcome.BAD_STATUS) -> Samples:
    n = len(done_s)
    columns: dict[str, Any] = {
        name: np.zeros(n, dtype=dtype)
        for name, dtype in (("row", "i8"), ("operation", "u2"), ("bytes_received", "i8"))
    }
    times = np.array(done_s)
    return Samples(
        **columns,
        intended_s=times,
        sent_s=times,
        first_byte_s=times,
        done_s=times,
        outcome=np.full(n, outcome, dtype=np.uint8),
        status=np.full(n, status, dtype=np.uint16),
    )


def refused(at_s: float, *, ended: bool = False) -> Samples:
    """A request for which there was no connection."""
    one = replies([at_s], 0, Outcome.CONNECT)
    never = np.array([np.nan])
    return replace(one, sent_s=never, first_byte_s=never, done_s=one.done_s if ended else never)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_stop_the_load_at_the_first_reply(status: int) -> None:
    rule = StopRule()

    assert rule.tell(replies([0.1, 0.2], 200, Outcome.GOOD)) is None
    reason = rule.tell(replies([0.3], status))

    assert reason == f"the server answered {status}: credentials were refused or have expired"


def test_a_status_that_the_target_calls_good_stops_nothing() -> None:
    rule = StopRule()

    assert rule.tell(replies([0.1], 401, Outcome.GOOD)) is None
    assert rule.tell(replies(list(np.arange(0, 5, 0.1)), 503, Outcome.GOOD)) is None


def test_nothing_but_server_errors_for_two_seconds_stops_the_load() -> None:
    rule = StopRule()
    assert rule.tell(replies([0.0], 200, Outcome.GOOD)) is None

    told = [rule.tell(replies([0.1 * i], 500)) for i in range(1, 23)]

    assert told[:20] == [None] * 20
    assert told[21] == "every reply for 2.1 s was a server error: 22 in a row, the last with status 500"


def test_a_server_that_takes_no_connection_for_two_seconds_stops_the_load() -> None:
    """Engines differ in whether such a request has an end of its own; errors just before count, too."""
    rule = StopRule()
    assert rule.tell(replies([0.0], 200, Outcome.GOOD)) is None
    assert rule.tell(replies([0.1], 500)) is None

    told = [rule.tell(refused(0.1 * i, ended=i % 2 == 0)) for i in range(2, 24)]

    assert told[:19] == [None] * 19
    assert told[-1] == (
        "nothing was answered for 2.2 s: 23 requests in a row, the last for want of a connection"
    )


def test_connections_that_are_refused_now_and_then_stop_nothing() -> None:
    rule = StopRule()

    for i in range(100):
        outcome = refused(0.1 * i) if i % 10 else replies([0.1 * i], 200, Outcome.GOOD)
        assert rule.tell(outcome) is None


@pytest.mark.parametrize(
    ("done_s", "status"),
    [
        (list(np.linspace(0, 1.9, 200)), [500] * 200),
        (list(np.linspace(0, 60, 19)), [500] * 19),
        (list(np.linspace(0, 3.8, 101)), [500] * 50 + [404] + [500] * 50),
    ],
)
def test_too_short_too_few_or_interrupted_server_errors_stop_nothing(
    done_s: list[float], status: list[int]
) -> None:
    in_one, in_many = StopRule(), StopRule()

    assert in_one.tell(replies(done_s, status)) is None
    assert all(in_many.tell(replies([at], [code])) is None for at, code in zip(done_s, status, strict=True))


def test_unfinished_requests_and_those_without_reply_stop_nothing() -> None:
    rule = StopRule()

    assert rule.tell(replies(list(np.arange(0, 5, 0.1)), 0, Outcome.TIMEOUT)) is None
    assert rule.tell(replies(list(np.arange(5, 10, 0.1)), 0, Outcome.DISCONNECTED)) is None
    assert rule.tell(replies([math.nan] * 50, 0, Outcome.PENDING)) is None
    assert rule.tell(replies([], [])) is None
