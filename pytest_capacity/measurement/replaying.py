"""Recorded traffic as a source of schedules: each probe from rows not sent before, encoded when due."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_capacity.measurement.recorded import Recorded, first_rows, saw_good
from pytest_capacity.measurement.sources import NOTHING, Came, CannotSend, Piece
from pytest_capacity.protocols import Encoded, Floats, Ints, LoadSession, Probe, Request, Target, Turns
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.targets.recorded import NoBody, as_replay_target, check_model_paths
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.scaling import (
    Cursor,
    Mode,
    Scaling,
    Sessions,
    Stretch,
    advance,
    draw,
    seen_shares,
    start,
)
from pytest_capacity.traffic.sessions import causal_turns

HOLD_REQUESTS, HOLD_SHARE = 2_000, 0.25
"""Rows that a closed loop sends, over and over where it gets through them; of a short recording a part."""

AHEAD_REQUESTS, AHEAD_BYTES, AHEAD_S = 20_000, 64 * 2**20, 2.0
"""So much is made ready before the load, or as much as can be in that time: nothing is sent meanwhile."""

ADDED_AT_ONCE = 8
"""Making room for requests keeps a sending loop from sending: so few take it a fraction of a millisecond."""

OR_RECORD_THEM = ", or record bodies (pytest-capacity record)"
MODEL_HAS_NONE = (
    "; a workload model holds no bodies, nor paths, which paths={'rank': '/rank'} names by operation"
)
"""What may be done where a row has no body."""

WHOLE_S = 1e-6
"""So long after its moment a request counts as sent."""

SLACK_S = 0.25
"""A stretch goes on while the next one is made ready: so much more of it counts as sent."""


@dataclass(frozen=True, slots=True)
class Played:
    """What was played of one stretch: how it was scaled, its rows, and how much of it was sent before.

    ``begin_s`` is where in the recording its first copy began. ``requests`` may be more than ``rows``: a
    closed loop sends its rows over and over. ``rows_seen`` and ``keys_seen`` are shares, the latter of the
    ``keyed`` keys of all these requests. ``scheduled`` counts the requests that were recorded for this time:
    where turns wait for replies, those that came may be fewer. ``over`` counts the turns that were not sent
    since their session had ended with a bad reply.
    """

    probe: Probe
    scaling: Scaling
    begin_s: float
    offsets_s: Floats
    rows: Ints
    requests: int
    loops: int
    rows_seen: float
    keyed: int
    keys_seen: float
    scheduled: int
    over: int


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A stretch as it is sent, from ``offset_s`` seconds after its probe's beginning on.

    ``cursor`` is the one that it was drawn with. ``offsets_s`` and ``rows`` are in the order in which they
    are given to the engine, ``given`` says how many were.
    """

    stretch: Stretch
    cursor: Cursor
    offset_s: float
    offsets_s: Floats
    rows: Ints
    turns: Turns | None
    given: int = 0


class Replay:
    """Draws stretches of recorded traffic; raises CapacityUsageError for what the target cannot send.

    ``seen_failing`` names the operations of which the recording saw no request go well.
    """

    def __init__(
        self,
        target: Target,
        recorded: Recorded,
        mode: Mode,
        seed: int,
        rng: np.random.Generator,
        *,
        sessions: Sessions = "timed",
    ) -> None:
        self.recorded, self.mode, self.causal = recorded, mode, sessions == "causal"
        if self.causal:
            recorded.check_causal()
        if recorded.is_model:
            sent = np.unique(recorded.traffic.operation)
            check_model_paths(target, [recorded.traffic.operations[number] for number in sent])
        self._seed = seed
        self._requests = RowRequests(target, recorded)
        try:
            rows = [int(row) for row in first_rows(recorded)]
            tried = tuple(self._requests.encode(row) for row in rows)
            failing = [not saw_good(recorded.rows.read(row)[0]) for row in rows]
        except CannotSend as error:
            raise CapacityUsageError(f"trace: {error}") from error
        finally:
            recorded.rows.close()
        self.encoded: Encoded = replace(target.encode(rng), requests=tried)
        self.seen_failing = frozenset(
            request.operation for request, failed in zip(tried, failing, strict=True) if failed
        )
        names = recorded.traffic.operations
        self._number = np.array([self._number_of(name) for name in names], dtype=np.uint16)
        self.played: list[Played] = []
        self._cursor = start(recorded.traffic)
        self._probe: Probe | None = None
        self._drawn: list[_Drawn] = []
        self._given_s = 0.0
        self._sessions_given = 0

    def _number_of(self, name: str) -> int:
        operations = self.encoded.operations
        # An operation that no row has is never sent.
        return operations.index(name) if name in operations else 0

    @property
    def shares(self) -> Sequence[float]:
        """As in the recording."""
        counts = np.bincount(
            self._number[self.recorded.traffic.operation], minlength=len(self.encoded.operations)
        )
        return [float(count) / len(self.recorded.traffic) for count in counts]

    @property
    def reaches_s(self) -> float:
        """As far as rows were made requests of."""
        return self._given_s

    def ready(self, session: LoadSession, rate_qps: float, seconds: float) -> None:
        """Make requests of the rows that such a load would begin with, a few seconds' work at most."""
        traffic = self.recorded.traffic
        seconds = min(seconds, AHEAD_REQUESTS / rate_qps)
        stretch = draw(traffic, self._cursor, rate_qps, seconds, mode=self.mode, seed=self._seed)
        rows, give_up_s = stretch.schedule.request_index, time.monotonic() + AHEAD_S
        for begin in range(0, len(rows), ADDED_AT_ONCE):
            self._requests.indexes(session, rows[begin : begin + ADDED_AT_ONCE])
            if time.monotonic() > give_up_s or self._requests.body_bytes > AHEAD_BYTES:
                break

    def draw(self, probe: Probe, from_s: float = 0.0) -> None:
        """Draw the probe's part of the recording; with ``from_s`` the part that follows what it had."""
        if from_s and self._drawn:
            drawn = self._drawn[-1]
            # The turns of what it had go on: what became of them is known at the probe's end.
            self._cursor = advance(
                self.recorded.traffic, drawn.cursor, drawn.stretch, from_s - drawn.offset_s + SLACK_S
            )
        else:
            self._drawn.clear()
        duration_s = probe.max_s - from_s
        self._begin(probe, float(probe.rate_qps or 0), duration_s, from_s)

    def _begin(self, probe: Probe, rate_qps: float, duration_s: float, from_s: float) -> _Drawn:
        traffic = self.recorded.traffic
        try:
            stretch = draw(traffic, self._cursor, rate_qps, duration_s, mode=self.mode, seed=self._seed)
        except ValueError as error:
            raise CannotSend(str(error)) from error
        offsets_s, rows, turns = stretch.schedule.offsets_s, stretch.schedule.request_index, None
        if self.causal and probe.kind == "open":
            order = causal_turns(stretch, self.recorded.latency_s)
            offsets_s, rows = order.earliest_s, rows[order.row]
            turns = Turns(
                np.where(order.session < 0, -1, self._sessions_given + order.session), order.think_s
            )
            self._sessions_given += int(order.session.max(initial=-1)) + 1
        drawn = _Drawn(stretch, self._cursor, from_s, offsets_s, rows, turns)
        self._drawn.append(drawn)
        self._probe, self._given_s = probe, from_s
        return drawn

    def take(self, session: LoadSession, until_s: float) -> Piece:
        """The rows due up to then, each made a request the first time it is sent."""
        if not self._drawn:
            return NOTHING
        drawn = self._drawn[-1]
        until = int(np.searchsorted(drawn.offsets_s, until_s - drawn.offset_s))
        part = slice(drawn.given, until)
        rows, turns = drawn.rows[part], drawn.turns
        piece = Piece(
            drawn.offset_s + drawn.offsets_s[part],
            self._requests.indexes(session, rows),
            self._number[self.recorded.traffic.operation[rows]],
            None if turns is None else Turns(turns.session[part], turns.think_s[part]),
        )
        self._drawn[-1] = replace(drawn, given=until)
        self._given_s = float("inf") if until == len(drawn.offsets_s) else until_s
        return piece

    def hold(self, session: LoadSession, probe: Probe) -> Ints:
        """The next rows of the recording, in their order."""
        traffic = self.recorded.traffic
        seconds = min(HOLD_REQUESTS / traffic.rate_qps, HOLD_SHARE * traffic.cycle_s)
        self._drawn.clear()
        drawn = self._begin(probe, traffic.rate_qps, seconds, 0.0)
        while not len(drawn.rows):
            # A pause of the recording; a whole cycle has all its rows.
            seconds *= 4
            self._drawn.clear()
            drawn = self._begin(probe, traffic.rate_qps, min(seconds, traffic.cycle_s), 0.0)
        drawn = self._drawn[-1] = replace(drawn, given=min(len(drawn.rows), HOLD_REQUESTS))
        # They follow replies: when they were recorded says nothing, and none is to be taken at its time.
        self._given_s = float("inf")
        return self._requests.indexes(session, drawn.rows[: drawn.given])

    def end(self, played_s: float, sent: int, came: Came | None = None) -> None:
        """Count as sent what was; of a closed loop the first ``sent`` rows, or all it had."""
        if not self._drawn or self._probe is None:
            return
        first = 0
        for number, drawn in enumerate(self._drawn):
            is_last = number == len(self._drawn) - 1
            until_s = played_s if is_last else self._drawn[number + 1].offset_s
            if self._probe.kind == "closed":
                self._end_closed(drawn, self._probe, sent)
            elif came is None or drawn.turns is None:
                self._end_timed(drawn, self._probe, until_s - drawn.offset_s)
            else:
                due_s = came.due_s[first : first + drawn.given] - drawn.offset_s
                over = came.over if is_last else 0
                self._end_causal(drawn, self._probe, until_s - drawn.offset_s, due_s, over)
                first += drawn.given
        self._probe = None
        self._drawn.clear()

    def _end_closed(self, drawn: _Drawn, probe: Probe, sent: int) -> None:
        last = min(sent, drawn.given) - 1
        played_s = float(drawn.offsets_s[last]) + WHOLE_S if last >= 0 else 0.0
        count = int(np.searchsorted(drawn.offsets_s, played_s))
        self._keep(drawn, probe, played_s, drawn.offsets_s[:count], drawn.rows[:count], sent=sent)
        self._cursor = advance(self.recorded.traffic, drawn.cursor, drawn.stretch, played_s)

    def _end_timed(self, drawn: _Drawn, probe: Probe, played_s: float) -> None:
        count = int(np.searchsorted(drawn.offsets_s, played_s))
        self._keep(drawn, probe, played_s, drawn.offsets_s[:count], drawn.rows[:count])
        self._cursor = advance(self.recorded.traffic, drawn.cursor, drawn.stretch, played_s + SLACK_S)

    def _end_causal(self, drawn: _Drawn, probe: Probe, played_s: float, due_s: Floats, over: int) -> None:
        came = np.flatnonzero(~np.isnan(due_s))
        came = came[np.argsort(due_s[came], kind="stable")]
        rows = drawn.rows[came]
        self._keep(drawn, probe, played_s, due_s[came], rows, over=over)
        # A turn that was held back is not sent later; one that came before its time is not sent again unseen.
        self._cursor = advance(
            self.recorded.traffic, drawn.cursor, drawn.stretch, played_s + SLACK_S, rows=rows
        )

    def _keep(
        self,
        drawn: _Drawn,
        probe: Probe,
        played_s: float,
        offsets_s: Floats,
        rows: Ints,
        *,
        sent: int = 0,
        over: int = 0,
    ) -> None:
        traffic, stretch = self.recorded.traffic, drawn.stretch
        seen = seen_shares(traffic, drawn.cursor, stretch, rows=rows)
        self.played.append(
            Played(
                probe=probe,
                scaling=stretch.scaling,
                begin_s=stretch.starts_s[0],
                offsets_s=offsets_s,
                rows=rows,
                requests=max(len(rows), sent),
                loops=sum(loop.offset_s < played_s for loop in stretch.loops),
                rows_seen=seen.rows or 0.0,
                keyed=len(traffic.keys_of(rows)),
                keys_seen=seen.keys or 0.0,
                scheduled=int(np.searchsorted(stretch.schedule.offsets_s, played_s)),
                over=over,
            )
        )

    def close(self) -> None:
        """Close the trace's file."""
        self.recorded.rows.close()


class RowRequests:
    """Makes requests of rows, each once, and gives them to a session; equal ones are one."""

    def __init__(self, target: Target, recorded: Recorded) -> None:
        self._encode = as_replay_target(target).encode_row
        self._recorded = recorded
        self._index_of_row = np.full(len(recorded.traffic), -1, dtype=np.int64)
        self._index_of: dict[bytes, int] = {}
        self.body_bytes = 0
        """Of all bodies that were given to the session."""

    def encode(self, row: int) -> Request:
        """The request that a row is; raises CannotSend where it can be none."""
        rows, traffic = self._recorded.rows, self._recorded.traffic
        try:
            request = self._encode(*rows.read(row))
        except TraceError as error:
            raise CannotSend(str(error)) from error
        except NoBody as error:
            more = MODEL_HAS_NONE if self._recorded.is_model else OR_RECORD_THEM
            raise CannotSend(f"{rows.place(row)}: {error}{more}") from error
        except (ValueError, TypeError, OSError) as error:
            raise CannotSend(f"{rows.place(row)}: {error}") from error
        except Exception as error:
            raise CannotSend(f"{rows.place(row)}: body_for raised {type(error).__name__}: {error}") from error
        # The rarest operations go by one name.
        return replace(request, operation=traffic.operations[int(traffic.operation[row])])

    def indexes(self, session: LoadSession, rows: Ints) -> Ints:
        """The session's indexes of these rows; those it does not know yet are added to it."""
        unknown = np.unique(rows[self._index_of_row[rows] < 0])
        for begin in range(0, len(unknown), ADDED_AT_ONCE):
            self._make(session, unknown[begin : begin + ADDED_AT_ONCE])
        return self._index_of_row[rows]

    def _make(self, session: LoadSession, rows: Ints) -> None:
        """Make requests of some rows, and add those to the session that are like none it has."""
        digests: dict[int, bytes] = {}
        fresh: dict[bytes, Request] = {}
        for row in map(int, rows):
            request = self.encode(row)
            digests[row] = digest = _digest(request)
            if digest not in self._index_of:
                fresh[digest] = request
        if fresh:
            first = self._add(session, list(fresh.values()))
            self._index_of.update(zip(fresh, range(first, first + len(fresh)), strict=True))
            self.body_bytes += sum(len(request.body) for request in fresh.values())
        for row, digest in digests.items():
            self._index_of_row[row] = self._index_of[digest]

    def _add(self, session: LoadSession, fresh: Sequence[Request]) -> int:
        try:
            return session.add(fresh)
        except ValueError as error:
            raise CannotSend(str(error)) from error


def _digest(request: Request) -> bytes:
    parts = (request.operation, request.method, request.path, repr(request.headers))
    found = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=16)
    found.update(request.body)
    return found.digest()
