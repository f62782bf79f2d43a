"""Recorded traffic at any rate, each stretch made of rows not sent before.

Above the recorded rate shifted copies of the recording are laid over each other, below it a part is left
out; time is compressed only on request. The three differ: copies even out the slow changes of the rate,
compression keeps them and makes them faster. So the mode is part of the answer.

All is data: a ``Cursor`` says what was sent so far, ``draw`` gives the next ``Stretch`` from it, ``advance``
the cursor after the stretch or the part of it that was played. The same cursor and seed give the same
stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Ints, Schedule
from pytest_capacity.traffic.pattern import Traffic
from pytest_capacity.traffic.places import ROUNDING, Interval, on_circle, places_of_copies, united

Mode = Literal["superpose", "compress"]
Sessions = Literal["timed", "causal"]
"""How the turns of a session are replayed: when they were recorded, or after the replies they followed."""
Flags = npt.NDArray[np.bool_]

MOST_REQUESTS = 10_000_000
"""No stretch is longer: it has to fit in memory."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a recording was brought to a rate.

    ``factor`` is that rate over the recorded one. ``kind`` is ``recorded`` (one copy as it is),
    ``superposed`` (``copies`` over each other, of one of them ``last_share``), ``thinned`` (``last_share``
    of one) or ``compressed`` (one copy, its time divided by the factor).
    """

    kind: Literal["recorded", "superposed", "thinned", "compressed"]
    factor: float
    copies: int
    last_share: float

    def describe(self) -> str:
        """The mode in words, for records and people."""
        times = f"{self.factor:.3g} times the recorded rate"
        if self.kind == "superposed":
            whole = self.copies - (self.last_share < 1)
            part = f" and {self.last_share * 100:.2g} % of another" if self.last_share < 1 else ""
            return f"{times}: {whole} shifted {'copy' if whole == 1 else 'copies'}{part}, superposed"
        if self.kind == "thinned":
            return f"{times}: thinned to {self.last_share * 100:.3g} %"
        return f"{times}: time compressed" if self.kind == "compressed" else "the recorded rate"


@dataclass(frozen=True, slots=True)
class Cursor:
    """What of a recording was sent so far.

    ``played`` are the intervals of the recording, in its own seconds, ascending and disjoint, that were
    sent in the present ``round``; a round ends when too little is left that was not. ``sent`` and
    ``keys_sent`` hold the rows and keys sent in any round, ``stretches`` counts the stretches.
    """

    played: tuple[Interval, ...]
    sent: Flags
    keys_sent: Flags
    round: int = 0
    stretches: int = 0


@dataclass(frozen=True, slots=True)
class Loop:
    """A copy that came to the recording's end and went on from its beginning, at a moment of its stretch."""

    offset_s: float
    copy: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of traffic at one rate.

    ``schedule.request_index`` holds rows of the recording. ``copy`` says which copy each request belongs to,
    ``session`` numbers the sessions as they are played: one of the recording that two copies play, or one
    that a loop plays again, is two; -1 where there is none. ``loops`` mark where copies begin anew, in order.
    ``starts_s`` is where in the recording each copy begins, ``pace`` its seconds in one second of load.
    ``round`` counts how often the recording was used up before.
    """

    schedule: Schedule
    duration_s: float
    copy: Ints
    session: Ints
    scaling: Scaling
    loops: tuple[Loop, ...]
    starts_s: tuple[float, ...]
    pace: float
    round: int


@dataclass(frozen=True, slots=True)
class SeenShares:
    """The shares of a stretch's requests, and of all their keys, that were sent in earlier stretches.

    None where there is nothing to take a share of.
    """

    rows: float | None
    keys: float | None


def start(traffic: Traffic) -> Cursor:
    """The cursor before anything was sent."""
    return Cursor((), np.zeros(len(traffic), dtype=np.bool_), np.zeros(traffic.key_count, dtype=np.bool_))


def draw(
    traffic: Traffic,
    cursor: Cursor,
    rate_qps: float,
    duration_s: float,
    *,
    mode: Mode = "superpose",
    seed: int = 0,
) -> Stretch:
    """The next stretch of the recording at a mean rate, from rows not sent before as long as there are any.

    Copies begin evenly spread over the recording, each moved on to the next place where the whole stretch
    was not sent yet. Sessions stay whole when a copy is thinned, requests without one are left out one by
    one; ``seed`` says which, the same ones in a whole round. The rate holds in the long run: a stretch has
    the recorded changes of it.

    Raises ValueError for a rate or duration that is not positive, and one that asks for too many requests.
    """
    for name, value in (("rate_qps", rate_qps), ("duration_s", duration_s)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a positive number")
    if rate_qps * duration_s > MOST_REQUESTS:
        raise ValueError(
            f"{rate_qps:g}/s for {duration_s:g} s: more than {MOST_REQUESTS:,} requests; ask for less at once"
        )
    scaling = scaling_for(rate_qps / traffic.rate_qps, mode)
    pace = scaling.factor if scaling.kind == "compressed" else 1.0
    needed_s = duration_s * pace
    starts_s, number = places_of_copies(
        cursor.played, cursor.round, traffic.cycle_s, scaling.copies, needed_s
    )
    kept = _kept_rows(traffic, scaling.last_share, np.random.default_rng([seed, number]))
    # Another copy is thinned each time: no part of the recording is to count less in the long run.
    thinned = int(np.random.default_rng([seed, cursor.stretches]).integers(scaling.copies))
    pieces = [
        _piece(traffic, place_s, needed_s, kept if index == thinned else None)
        for index, place_s in enumerate(starts_s)
    ]
    at_s = np.concatenate([piece.at_s for piece in pieces]) / pace
    row = np.concatenate([piece.row for piece in pieces])
    loop = np.concatenate([piece.loop for piece in pieces])
    copy = np.repeat(np.arange(len(pieces)), [len(piece.row) for piece in pieces])
    order = np.argsort(at_s, kind="stable")
    row, copy = row[order], copy[order].astype(np.int64)
    return Stretch(
        schedule=Schedule(at_s[order], row),
        duration_s=duration_s,
        copy=copy,
        session=_played_sessions(traffic.session[row], copy, loop[order]),
        scaling=scaling,
        loops=_loops(starts_s, traffic.cycle_s, needed_s, pace),
        starts_s=starts_s,
        pace=pace,
        round=number,
    )


def advance(
    traffic: Traffic,
    cursor: Cursor,
    stretch: Stretch,
    played_s: float | None = None,
    rows: Ints | None = None,
) -> Cursor:
    """The cursor after a stretch of which ``played_s`` seconds (all of it, unless given) were sent.

    ``rows`` were sent where that is not just what was scheduled until then.
    """
    until_s = stretch.duration_s if played_s is None else min(max(played_s, 0.0), stretch.duration_s)
    if rows is None:
        rows = stretch.schedule.request_index[: _sent_until(stretch, until_s)]
    sent, keys_sent = cursor.sent.copy(), cursor.keys_sent.copy()
    sent[rows] = True
    keys_sent[traffic.keys_of(rows)] = True
    before = cursor.played if stretch.round == cursor.round else ()
    played = list(before)
    for place_s in stretch.starts_s:
        played += on_circle(place_s, until_s * stretch.pace, traffic.cycle_s)
    return replace(
        cursor,
        played=united(played),
        sent=sent,
        keys_sent=keys_sent,
        round=stretch.round,
        stretches=cursor.stretches + 1,
    )


def seen_shares(
    traffic: Traffic,
    cursor: Cursor,
    stretch: Stretch,
    played_s: float | None = None,
    rows: Ints | None = None,
) -> SeenShares:
    """How much of a stretch, as far as it was played, ``cursor`` (the one before it) had sent already.

    ``rows`` is as for ``advance``.
    """
    until_s = stretch.duration_s if played_s is None else played_s
    if rows is None:
        rows = stretch.schedule.request_index[: _sent_until(stretch, until_s)]
    keys = traffic.keys_of(rows)
    return SeenShares(
        rows=float(cursor.sent[rows].mean()) if len(rows) else None,
        keys=float(cursor.keys_sent[keys].mean()) if len(keys) else None,
    )


def scaling_for(factor: float, mode: Mode = "superpose") -> Scaling:
    """How traffic is brought to ``factor`` times its rate.

    Raises ValueError for an unknown mode.
    """
    if mode not in ("superpose", "compress"):
        raise ValueError(f"mode={mode!r} must be 'superpose' or 'compress'")
    if abs(factor - 1) <= ROUNDING:
        return Scaling("recorded", 1.0, 1, 1.0)
    if mode == "compress":
        return Scaling("compressed", factor, 1, 1.0)
    copies = max(1, math.ceil(factor - ROUNDING * factor))
    last_share = min(1.0, factor - (copies - 1))
    return Scaling("thinned" if factor < 1 else "superposed", factor, copies, last_share)


def _sent_until(stretch: Stretch, until_s: float) -> int:
    return int(np.searchsorted(stretch.schedule.offsets_s, until_s))


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one copy sends: seconds of the recording since it began, rows, and which turn of its loop."""

    at_s: Floats
    row: Ints
    loop: Ints


def _piece(traffic: Traffic, place_s: float, needed_s: float, kept: Flags | None) -> _Piece:
    """The rows of ``needed_s`` seconds from a place on, over the recording's end as often as needed."""
    count, cycle_s = len(traffic), traffic.cycle_s
    end_s = place_s + needed_s
    first = int(np.searchsorted(traffic.t_s, place_s))
    turns = int(end_s // cycle_s)
    last = turns * count + int(np.searchsorted(traffic.t_s, end_s - turns * cycle_s))
    number = np.arange(first, last, dtype=np.int64)
    row, loop = number % count, number // count
    at_s = traffic.t_s[row] + loop * cycle_s - place_s
    # Rounding must not put a request before the beginning or at the end.
    within = (at_s >= 0) & (at_s < needed_s)
    if kept is not None:
        within &= kept[row]
    return _Piece(at_s[within], row[within], loop[within])


def _kept_rows(traffic: Traffic, share: float, rng: np.random.Generator) -> Flags | None:
    """The rows that stay where a share is kept: whole sessions in random order, and single rows by chance.

    A larger share keeps what a smaller one keeps. None where all stay.
    """
    if share >= 1:
        return None
    alone = rng.random(len(traffic)) < share
    session_order = rng.permutation(traffic.session_count)
    has_session = traffic.session >= 0
    if not has_session.any():
        return alone
    requests = np.bincount(traffic.session[has_session], minlength=traffic.session_count)
    wanted = share * int(has_session.sum())
    # The session that straddles the share stays where more than half of it lies within.
    middle = np.cumsum(requests[session_order]) - requests[session_order] / 2
    stays = np.zeros(traffic.session_count, dtype=np.bool_)
    stays[session_order[middle < wanted]] = True
    return np.where(has_session, stays[traffic.session], alone)


def _played_sessions(session: Ints, copy: Ints, loop: Ints) -> Ints:
    """Numbers for sessions as they are played, in order of first appearance."""
    played = np.full(len(session), -1, dtype=np.int64)
    has = np.nonzero(session >= 0)[0]
    if not len(has):
        return played
    copies, loops = int(copy.max()) + 1, int(loop.max()) + 1
    together = (session[has] * copies + copy[has]) * loops + loop[has]
    _, first, number = np.unique(together, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    played[has] = rank[number]
    return played


def _loops(starts_s: tuple[float, ...], cycle_s: float, needed_s: float, pace: float) -> tuple[Loop, ...]:
    """Where copies come to the recording's end, in order of time."""
    found = []
    for copy, place_s in enumerate(starts_s):
        turns = math.ceil((place_s + needed_s) / cycle_s) - 1
        found += [Loop((cycle_s * turn - place_s) / pace, copy) for turn in range(1, turns + 1)]
    return tuple(sorted(found, key=lambda loop: (loop.offset_s, loop.copy)))
