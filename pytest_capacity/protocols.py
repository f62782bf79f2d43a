"""The nouns that rooms exchange: requests, targets, schedules, samples, probes and observations.

Times are float64 seconds on the session's clock, whose zero is the moment the engine was opened, unless a
name says otherwise. Columns of one table have one length; row ``i`` of each belongs to the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from importlib import import_module
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Outcomes: TypeAlias = npt.NDArray[np.uint8]
Stream: TypeAlias = Literal["", "chunks", "events"]


class Outcome(IntEnum):
    """What became of one request. ``GOOD`` may still be slower than a bound: its latency says so."""

    GOOD = 0
    LATE_UNANSWERED = 1
    """Older than the largest bound and still unanswered: known to be late, not known to have failed."""
    BAD_STATUS = 2
    BAD_REPLY = 3
    """Not HTTP, cut short, or refused by the user's own check."""
    TIMEOUT = 4
    CONNECT = 5
    """No connection: refused, unreachable, or not made in time."""
    DISCONNECTED = 6
    """The connection broke after the request was sent."""
    NOT_SENT = 7
    """The bound on requests in flight was reached: the generator's evidence, not the server's."""
    CANCELLED = 8
    """The load ended before the reply could be known to be late: no evidence at all."""
    PENDING = 255
    """In the air, or not yet due."""

    @property
    def failed(self) -> bool:
        """True where the server failed the request, which then counts as infinitely slow."""
        return Outcome.BAD_STATUS <= self <= Outcome.DISCONNECTED


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded request; ``path`` holds the query, ``headers`` all but those the engine must add."""

    operation: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply as a judge sees it; header names compare without case.

    ``to_head`` says that it answers a HEAD, and so has no body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    to_head: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's answer: an outcome and, where it is bad, a short reason for people."""

    outcome: Outcome
    reason: str = ""


GOOD = Judgement(Outcome.GOOD)


@dataclass(frozen=True, slots=True)
class Judge:
    """How replies are judged, by a name that any process can import.

    ``function`` is ``"module:name"`` of a ``f(reply, settings, check) -> Judgement``. ``check`` is the user's
    own, by name or as an object; an object that has no importable name keeps the engine in this process.
    """

    function: str
    settings: Mapping[str, Json] = field(default_factory=dict)
    check: Callable[[Reply], object] | str | None = None
    by_status: bool = False
    """A good judgement depends on nothing but the status, whether there is a body, and whether there can be
    one: replies that agree in these need to be judged once."""

    def load(self) -> Callable[[Reply], Judgement]:
        """Import the function and bind its settings.

        Raises ImportError or AttributeError where a name leads nowhere.
        """
        function = import_by_name(self.function)
        check = import_by_name(self.check) if isinstance(self.check, str) else self.check
        settings = self.settings

        def judge(reply: Reply) -> Judgement:
            judgement: Judgement = function(reply, settings, check)
            return judgement

        return judge


def import_by_name(name: str) -> Callable[..., Any]:
    """Import ``"module:name"``; raises ImportError or AttributeError where it leads nowhere."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. ``addresses`` are the resolved ones that were checked; no other is connected to.

    With ``unix_path`` the connection is made to that socket, and host and port are only what the request
    names. ``ca_file`` holds the certificates to trust in place of the system's, ``cert_file`` and
    ``key_file`` the client's own, all in PEM.
    """

    scheme: Literal["http", "https"]
    host: str
    port: int
    addresses: tuple[str, ...] = ()
    verify_tls: bool = True
    unix_path: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """Everything an engine needs, fixed before the load.

    ``refresh_headers`` is called off the hot path before the load and every ``refresh_every_s`` seconds; what
    it returns replaces headers of the same name on requests sent from then on.
    """

    endpoint: Endpoint
    requests: tuple[Request, ...]
    judge: Judge
    timeout_s: float
    refresh_headers: Callable[[], Mapping[str, str]] | None = None
    refresh_every_s: float = 60.0
    stream: Stream = ""

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the operations, in order of first appearance; samples hold indexes into them."""
        return tuple(dict.fromkeys(request.operation for request in self.requests))


class Target(Protocol):
    """Where requests go, how they are encoded and how replies are judged: data, no sockets."""

    def encode(self, rng: np.random.Generator) -> Encoded:
        """Make every request before the load; ``rng`` drives whatever is drawn at random."""
        ...

    def describe(self) -> dict[str, Json]:
        """What the record holds of this target, secrets left out."""
        ...

    def explain(self, reply: Reply, request: Request) -> str:
        """A bad reply in one line for people: status, operation and the server's own reason."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to send what: ascending offsets in seconds from the start, and indexes into the requests."""

    offsets_s: Floats
    request_index: Ints


@dataclass(frozen=True, slots=True)
class Turns:
    """Which rows of a schedule are turns of a session, each due after the reply to the one before.

    ``session`` numbers sessions, -1 where a row belongs to none. Of each session the first row is due when
    intended; each one after that, of this schedule or a later one, ``think_s`` seconds after the last byte of
    the reply to the row before it, for which its intended time is the earliest that may be. A session ends
    with a reply that is not good: its rows after that one are never due.
    """

    session: Ints
    think_s: Floats


@dataclass(frozen=True, slots=True)
class Samples:
    """Requests' outcomes in columns.

    ``row`` is a request's place in the order of intention over the whole session (for one of ``Turns``, in
    that of the earliest times). ``sent_s``,
    ``first_byte_s`` and ``done_s`` are NaN where it did not come to that; ``status`` is 0 without an HTTP
    reply.
    Streamed replies fill ``token_times_s``: those of row ``i`` lie from ``token_start[i]`` to
    ``token_start[i + 1]``; both are empty where nothing was streamed.
    """

    row: Ints
    intended_s: Floats
    sent_s: Floats
    first_byte_s: Floats
    done_s: Floats
    outcome: Outcomes
    status: npt.NDArray[np.uint16]
    operation: npt.NDArray[np.uint16]
    bytes_received: Ints
    token_times_s: Floats = field(default_factory=lambda: np.empty(0))
    token_start: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True)
class Health:
    """How well the generator did its work in the present probe, in seconds and counts.

    Lateness is sent minus intended time. ``not_sent`` counts hits of the bound on requests in flight.
    ``late_share`` is the share of requests sent later than a tenth of the largest bound.
    ``loop_stall_s`` is the longest time the sending loop stood still. ``connection_waits`` counts requests
    that had to wait for a connection. ``cpu_s`` is the generator's own over ``wall_s``, ``spin_s`` the part
    of it spent waiting for the moment to send. ``throttled_s`` is how long the container's quota held its
    processes back, ``steal_share`` and ``foreign_share`` the cores' time that the hypervisor and processes
    of neither the generator nor the server took. ``workers`` is the number of sending processes, 0 where the
    load leaves from this one. ``notes`` are troubles in words.
    """

    late_p50_s: float = 0.0
    late_p99_s: float = 0.0
    late_max_s: float = 0.0
    not_sent: int = 0
    max_in_flight: int = 0
    loop_stall_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    gc_collections: int = 0
    notes: tuple[str, ...] = ()
    connection_waits: int = 0
    late_share: float = 0.0
    spin_s: float = 0.0
    throttled_s: float = 0.0
    steal_share: float = 0.0
    foreign_share: float = 0.0
    workers: int = 0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What an engine has to tell: the rows that were sent or became final since its last report.

    A row is told when sent (outcome PENDING) and again when final, all that happened before ``now_s`` in this
    report or an earlier one; ``examples`` holds one reason in words for each kind of bad outcome met so far.
    ``halted`` says why the engine stopped by itself, else None.
    """

    now_s: float
    samples: Samples
    in_flight: int
    health: Health
    examples: Mapping[Outcome, str] = field(default_factory=dict)
    halted: str | None = None


class LoadSession(Protocol):
    """An open engine. Every method may be called from the thread that opened it, and only from there."""

    def now_s(self) -> float:
        """The session's clock, monotonic, zero at opening."""
        ...

    def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside any load and judge the reply; None where no reply came."""
        ...

    def add(self, requests: Sequence[Request]) -> int:
        """Have more requests ready to be sent; returns the index of the first.

        Raises ValueError for one that cannot be written, or of an operation that the session does not know.
        """
        ...

    def play(
        self, first_row: int, intended_s: Floats, request_index: Ints, turns: Turns | None = None
    ) -> None:
        """Send open loop from now on: row ``first_row + i`` at ``intended_s[i]``, whatever is unanswered.

        Replaces what was played before: its rows due at or after ``intended_s[0]`` are withdrawn. With
        ``turns`` rows wait for replies; sessions of plays with turns since the last pause then go on, those
        of their rows included whose earliest time has passed.
        """
        ...

    def hold(self, first_row: int, concurrency: int, request_index: Ints) -> None:
        """Keep so many requests in flight (closed loop), taking requests by index, over and over.

        Rows are numbered from ``first_row`` in the order sent; what was played before is withdrawn.
        """
        ...

    def pause(self, at_s: float) -> None:
        """Withdraw open-loop rows due at or after ``at_s``, end a closed loop; replies go on coming."""
        ...

    def collect(self, until_s: float) -> LoadReport:
        """Wait until the clock reads ``until_s`` or the engine halts, then tell what is new."""
        ...

    def close(self) -> LoadReport:
        """Cancel what is in flight, close every connection, and tell the rest: unanswered rows CANCELLED.

        May be called twice; the second report is empty.
        """
        ...


class Engine(Protocol):
    """Plays encoded requests on time."""

    name: str

    def open(self, encoded: Encoded, *, max_in_flight: int, most_qps: float | None = None) -> LoadSession:
        """Start the engine. ``max_in_flight`` bounds the requests in flight; a row over it is NOT_SENT.

        ``most_qps`` is the highest rate to come, where that is known.
        """
        ...


@dataclass(frozen=True, slots=True)
class Probe:
    """One piece of load that a controller asks for.

    ``open`` offers ``rate_qps``, ``closed`` keeps ``concurrency`` requests in flight, ``drain`` sends
    nothing. It lasts ``max_s`` at most; what arrives in the first ``settle_s`` is no evidence.
    """

    id: int
    kind: Literal["open", "closed", "drain"]
    rate_qps: float | None = None
    concurrency: int | None = None
    max_s: float = 60.0
    settle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """What came of a probe since the last observation (design.md section 6).

    ``planned`` and ``sent`` count this probe's requests so far; ``oldest_age_s`` is the age of its oldest
    unanswered one. ``gave_up`` counts, of all probes so far, the requests that were sent and ended without a
    reply: timed out, disconnected or cancelled. The columns hold the cohorts that have become final: all
    requests intended in one tick, told once, in order, when each is answered, failed or older than the
    largest bound. ``latency_s`` runs from the intended send time and is the age so far where a request is
    unanswered.
    """

    probe_id: int
    now_s: float
    planned: int
    sent: int
    in_flight: int
    oldest_age_s: float
    health: Health
    intended_s: Floats
    latency_s: Floats
    outcome: Outcomes
    operation: npt.NDArray[np.uint16]
    gave_up: int = 0


def empty_samples() -> Samples:
    """Samples of no request."""
    return join_samples([])


def join_samples(parts: Sequence[Samples]) -> Samples:
    """One table of several, in their order; token times are carried along."""
    dtypes: dict[str, Any] = {
        "row": np.int64,
        "outcome": np.uint8,
        "status": np.uint16,
        "operation": np.uint16,
        "bytes_received": np.int64,
    }
    ragged = {"token_times_s", "token_start"}
    names = [column.name for column in fields(Samples) if column.name not in ragged]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        if parts
        else np.empty(0, dtype=dtypes.get(name, np.float64))
        for name in names
    }
    if not any(len(part.token_start) for part in parts):
        return Samples(**columns)
    counts = [
        np.diff(p.token_start) if len(p.token_start) else np.zeros(len(p), dtype=np.int64) for p in parts
    ]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return Samples(
        **columns, token_times_s=np.concatenate([p.token_times_s for p in parts]), token_start=starts
    )
