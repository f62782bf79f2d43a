"""What may be loaded, how much, and when to stop at once.

Everything here decides; only ``resolve`` asks the system for a name.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from pytest_capacity.protocols import Endpoint, Outcome, Samples


class LoadRefused(Exception):
    """No load may be sent; the message says why and what to do."""


class UnresolvedHost(LoadRefused):
    """The endpoint's host name has no address."""


class HostNotAllowed(LoadRefused):
    """The endpoint is not on this machine and nobody has allowed it."""


class CeilingExceeded(LoadRefused):
    """More load was asked for than the ceilings allow."""


def resolve(endpoint: Endpoint) -> Endpoint:
    """The endpoint with every address that its host has now, in the resolver's order; a socket has none.

    Raises UnresolvedHost where there is none.
    """
    if endpoint.unix_path is not None:
        return endpoint
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UnresolvedHost(f"host {endpoint.host!r} does not resolve ({reason})") from error
    addresses = dict.fromkeys(str(socket_address[0]) for *_, socket_address in found)
    if not addresses:
        raise UnresolvedHost(f"host {endpoint.host!r} does not resolve (no address)")
    return replace(endpoint, addresses=tuple(addresses))


def check_allowed(endpoint: Endpoint, globs: Sequence[str]) -> None:
    """Pass where every resolved address is loopback, or a glob matches the host or each of its addresses.

    A unix socket is always this machine's. Globs compare without case. Raises HostNotAllowed otherwise, also
    for an endpoint without addresses.
    """
    if endpoint.unix_path is not None:
        return
    if endpoint.addresses and all(_is_loopback(address) for address in endpoint.addresses):
        return
    patterns = [glob.strip().lower() for glob in globs]
    if _matches(endpoint.host, patterns):
        return
    if endpoint.addresses and all(_matches(address, patterns) for address in endpoint.addresses):
        return
    raise HostNotAllowed(_refusal(endpoint))


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    # Before Python 3.13 is_loopback says False to ::ffff:127.0.0.1.
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def _refusal(endpoint: Endpoint) -> str:
    host = endpoint.host
    addresses = ", ".join(endpoint.addresses) or "no address"
    shown = host if endpoint.addresses == (host,) else f"{host} ({addresses})"
    message = (
        f"host {shown} is not this machine, and a load test can take a server down; "
        f"if you may load it, allow it with --capacity-allow-host '{host}'"
    )
    if endpoint.addresses and all(address in {"0.0.0.0", "::"} for address in endpoint.addresses):  # noqa: S104
        message += f" (or, for a server on this machine, say 127.0.0.1 in place of {host})"
    return message


@dataclass(frozen=True)
class Ceilings:
    """The most that one test may ask for: requests a second, requests, and seconds of load."""

    max_qps: float = 10_000
    max_requests: int = 2_000_000
    max_s: float = 3_600

    def check(self, qps: float, requests: float, seconds: float) -> None:
        """Raise CeilingExceeded, naming the ini option to raise, where a plan goes over a ceiling."""
        asked = (
            ("capacity_max_qps", qps, self.max_qps, "requests a second"),
            ("capacity_max_requests", requests, self.max_requests, "requests"),
            ("capacity_max_s", seconds, self.max_s, "seconds of load"),
        )
        for option, value, ceiling, unit in asked:
            # Written so that NaN is refused too.
            if not value <= ceiling:
                raise CeilingExceeded(
                    f"{value:,.12g} {unit} are over the ceiling of {ceiling:,.12g}; if they are meant, "
                    f"raise the ini option {option}"
                )


REFUSED_CREDENTIALS = (401, 403)
NO_CONNECTION = 1000
"""Stands for a status where there was no connection to get one by."""
HOPELESS_S = 2.0
"""A restarting worker answers 5xx for a moment; two seconds without any other reply is no moment."""
HOPELESS_REPLIES = 20
"""At a low rate two seconds hold a handful of replies, too few to call a server hopeless."""


class StopRule:
    """Says when to stop at once, because going on would do harm or teach nothing.

    Tell it every batch of samples, in the order they were collected. Replies that the target calls good do
    not count against the server, whatever their status.
    """

    def __init__(self) -> None:
        self._streak_since_s: float | None = None
        self._streak = 0

    def tell(self, samples: Samples) -> str | None:
        """Take in what is new; the reason to stop, or None to go on.

        The reasons: credentials were refused, or for 2 s and 20 requests all that came was a 5xx, or no
        connection.
        """
        refused = samples.outcome == Outcome.CONNECT
        replied = refused | (np.isfinite(samples.done_s) & (samples.status > 0))
        replied &= samples.outcome != Outcome.PENDING
        # What was never sent has no end of its own.
        ended_s = np.where(np.isfinite(samples.done_s), samples.done_s, samples.intended_s)[replied]
        order = np.argsort(ended_s, kind="stable")
        done_s = ended_s[order]
        good = samples.outcome[replied][order] == Outcome.GOOD
        status = np.where(good, 200, samples.status[replied][order])
        for code in REFUSED_CREDENTIALS:
            if np.any(status == code):
                return f"the server answered {code}: credentials were refused or have expired"
        status = np.where(refused[replied][order], NO_CONNECTION, status)
        return self._judge_streak(done_s, status)

    def _judge_streak(self, done_s: np.ndarray, status: np.ndarray) -> str | None:
        others = np.flatnonzero(((status < 500) | (status > 599)) & (status != NO_CONNECTION))
        if len(others):
            self._streak_since_s, self._streak = None, 0
            done_s, status = done_s[others[-1] + 1 :], status[others[-1] + 1 :]
        if not len(done_s):
            return None
        if self._streak_since_s is None:
            self._streak_since_s = float(done_s[0])
        self._streak += len(done_s)
        lasted_s = float(done_s[-1]) - self._streak_since_s
        if lasted_s < HOPELESS_S or self._streak < HOPELESS_REPLIES:
            return None
        if status[-1] == NO_CONNECTION:
            return (
                f"nothing was answered for {lasted_s:.1f} s: {self._streak} requests in a row, the last for "
                "want of a connection"
            )
        return (
            f"every reply for {lasted_s:.1f} s was a server error: {self._streak} in a row, "
            f"the last with status {int(status[-1])}"
        )
