"""Traffic drawn from a workload model: a cycle of it, to be scaled and replayed like a recording."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.bursts import cascade
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.grids import at_shares, draw_together, stratified
from pytest_capacity.traffic.pattern import Traffic
from pytest_capacity.traffic.reuse import Flags
from pytest_capacity.traffic.several_keys import AGAIN, FURTHER_UNIT, NEW, NONE, draw_all_keys
from pytest_capacity.traffic.statistics import previous_of, ranks_of
from pytest_capacity.traffic.workload import STATES, Kind, SessionModel, Workload

_AHEAD, _RECENT = 16, 0.05
_NEIGHBOURS, _LEAST_LINK = 24, 0.2
_PLAIN = 0.05
"""A chance so small against its opposite is none."""


def generate(workload: Workload, seed: int) -> Traffic:
    """One cycle of traffic at the recorded rate; another seed gives another one of the same kind.

    For another rate scale it as a recording is scaled (``scaling.draw``), so that model and recording mean
    the same by a rate. The counts of each window are those recorded; all else is drawn.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.array([kind.arrivals for kind in workload.kinds], dtype=np.int64)
    state_of_kind = np.array([STATES.index(kind.state) for kind in workload.kinds], dtype=np.int64)
    t_s = _within_cycle(workload, cascade(arrivals.sum(axis=0), workload.window_s, workload.halvings, rng))
    planned = _planned_sessions(workload, len(t_s), rng)
    kind_of_row = _kinds_in_order(arrivals, state_of_kind, planned, rng)
    state = state_of_kind[kind_of_row]
    place = t_s / workload.cycle_s
    session = (
        _sessions(workload.sessions, place, workload.cycle_s, state, rng) if planned is None else planned
    )
    names = tuple(dict.fromkeys(kind.operation for kind in workload.kinds))
    sizes = _sizes(workload.kinds, kind_of_row, rng)
    counts = sizes.get(FURTHER_UNIT)
    if counts is not None:
        # From here on the column tells whose further keys a row has: they go where its sizes go.
        sizes[FURTHER_UNIT] = np.where(np.isfinite(counts), np.arange(len(t_s)), np.nan)
    key, further_keys = _keys(workload, state, previous_of(session), counts, rng)
    drawn = Traffic(
        t_s=t_s,
        cycle_s=workload.cycle_s,
        operation=np.array([names.index(kind.operation) for kind in workload.kinds])[kind_of_row],
        operations=names,
        key=key,
        session=session,
        sizes=sizes,
    )
    for unit, link in workload.keeps_size.items():
        if abs(link) >= _LEAST_LINK:
            drawn = replace(drawn, sizes=_keeping_sizes(drawn, unit, link, rng))
    return drawn if counts is None else _with_further_keys(drawn, further_keys)


def _with_further_keys(drawn: Traffic, further_keys: FurtherKeys) -> Traffic:
    """The traffic with each row's further keys, which lie where the column of ``FURTHER_UNIT`` says."""
    sizes = dict(drawn.sizes)
    whose = sizes.pop(FURTHER_UNIT)
    rows = np.flatnonzero(np.isfinite(whose))
    return replace(drawn, sizes=sizes, further_keys=further_keys.given_to(rows, whose[rows].astype(np.int64)))


def _within_cycle(workload: Workload, t_s: Floats) -> Floats:
    """The last window ends with the cycle, which may be in its middle."""
    begin_s = (len(workload.kinds[0].arrivals) - 1) * workload.window_s
    part = (workload.cycle_s - begin_s) / workload.window_s
    last = t_s >= begin_s
    return np.minimum(
        np.where(last, begin_s + (t_s - begin_s) * part, t_s), np.nextafter(workload.cycle_s, 0)
    )


def _kinds_in_order(
    arrivals: Ints, state_of_kind: Ints, planned: Ints | None, rng: np.random.Generator
) -> Ints:
    """The kind of each request, window after window, in random order within each.

    Where sessions are planned, those kinds that begin one go to requests that do, as far as they suffice.
    """
    kinds, windows = arrivals.shape
    kind = np.repeat(np.tile(np.arange(kinds), windows), arrivals.T.reshape(-1))
    window = np.repeat(np.arange(windows), arrivals.sum(axis=0))
    if planned is None:
        return kind[np.lexsort((rng.random(len(kind)), window))]
    begins = np.where(planned < 0, NONE, np.where(previous_of(planned) < 0, NEW, AGAIN))
    rows = np.lexsort((rng.random(len(kind)), begins, window))
    ordered = np.empty_like(kind)
    ordered[rows] = kind[np.lexsort((rng.random(len(kind)), state_of_kind[kind], window))]
    return ordered


def _sizes(kinds: tuple[Kind, ...], kind_of_row: Ints, rng: np.random.Generator) -> dict[str, Floats]:
    units = dict.fromkeys(unit for kind in kinds for unit in kind.sizes)
    columns = {unit: np.full(len(kind_of_row), np.nan) for unit in units}
    for number, kind in enumerate(kinds):
        rows = np.nonzero(kind_of_row == number)[0]
        for unit, values in draw_together(kind.sizes, kind.links, len(rows), rng).items():
            columns[unit][rows] = np.rint(values) if unit in kind.whole else values
    return columns


def _keeping_sizes(traffic: Traffic, unit: str, link: float, rng: np.random.Generator) -> dict[str, Floats]:
    """Sizes exchanged among neighbours so that each goes with others of its key, or else its session.

    A first request that others follow goes with the next one, each later request with the one before. Only
    some requests of one operation at a time exchange their sizes: the slow changes stay.
    """
    before = previous_of(traffic.key if traffic.key_count else traffic.session)
    after = np.full(len(traffic), -1, dtype=np.int64)
    after[before[before >= 0]] = np.nonzero(before >= 0)[0]
    units = list(traffic.sizes)
    sizes = np.stack([traffic.sizes[name] for name in units])
    # As shares of the rank with mean 0 and deviation 1, so that noise of deviation 1 adds to them rightly.
    values = np.nan_to_num(traffic.sizes[unit])
    score = (ranks_of(values) / max(len(traffic) - 1, 1) - 0.5) * math.sqrt(12)
    noise = rng.standard_normal(len(traffic)) * math.sqrt(1 - link**2)
    for mate, rows in ((after, before < 0), (before, before >= 0)):
        for near in _neighbours(traffic, rows):
            wanted = np.where(mate[near] >= 0, link * score[mate[near]] + noise[near], score[near])
            given = near[np.argsort(score[near], kind="stable")]
            exchanged = near[np.argsort(wanted, kind="stable")]
            sizes[:, exchanged], score[exchanged] = sizes[:, given], score[given]
    return dict(zip(units, sizes, strict=True))


def _neighbours(traffic: Traffic, rows: Flags) -> Iterator[Ints]:
    """The rows marked, in order, some with one operation and the same units at a time."""
    group = traffic.operation
    for column in traffic.sizes.values():
        group = group * 2 + np.isfinite(column)
    for number in np.unique(group):
        chosen = np.nonzero(rows & (group == number))[0]
        for begin in range(0, len(chosen), _NEIGHBOURS):
            yield chosen[begin : begin + _NEIGHBOURS]


def _planned_sessions(workload: Workload, rows: int, rng: np.random.Generator) -> Ints | None:
    """Sessions that do not depend on keys; None where they do."""
    model = workload.sessions
    if model is None:
        return np.full(rows, -1, dtype=np.int64)
    if workload.keys is not None:
        return None
    # Without keys a state is the session's own.
    count = sum(sum(kind.arrivals) for kind in workload.kinds if kind.state != "none")
    inside = np.sort(rng.permutation(rows)[:count])
    session = np.full(rows, -1, dtype=np.int64)
    session[inside] = _by_plan(model, count, workload.cycle_s, rng)
    return session


def _sessions(
    model: SessionModel | None, place: Floats, cycle_s: float, state: Ints, rng: np.random.Generator
) -> Ints:
    """The session of each request, -1 where it has none, given its key's state and place in the cycle."""
    session = np.full(len(place), -1, dtype=np.int64)
    if model is None:
        return session
    starts, later = np.array(model.starts)[state], np.array(model.later)[state]
    inside = np.nonzero(rng.random(len(place)) < starts + later)[0]
    begins, goes_on = later[inside] < _PLAIN * starts[inside], starts[inside] < _PLAIN * later[inside]
    if (begins | goes_on).all():
        session[inside] = _by_state(model, place[inside], begins, cycle_s, rng)
    else:
        session[inside] = _by_plan(model, len(inside), cycle_s, rng)
    return session


def _by_state(
    model: SessionModel, place: Floats, begins: Flags, cycle_s: float, rng: np.random.Generator
) -> Ints:
    """Sessions of requests of which it is known whether they begin one.

    One that goes on belongs to the session whose next request is due first. So that requests neither queue up
    nor run out, the lengths drawn are given to sessions in the order that keeps gaps as long as drawn. Where
    no session waits, one begins all the same.
    """
    lengths = _Lengths(np.maximum(1, np.rint(_of_part(model.requests, place, rng))).astype(int).tolist())
    gaps = _of_part(model.gaps_s, place, rng) / cycle_s
    session = np.zeros(len(place), dtype=np.int64)
    waiting: list[tuple[float, int, int]] = []
    count, late = 0, 0.0
    for row, at in enumerate(place.tolist()):
        if waiting and not begins[row]:
            due, number, left = heapq.heappop(waiting)
            late += (at - due - late) * _RECENT
        else:
            number, left, count = count, lengths.take(late), count + 1
        session[row] = number
        if left > 1:
            heapq.heappush(waiting, (at + gaps[row], number, left - 1))
    return session


class _Lengths:
    """Lengths of sessions, of which the next few may be taken in another order."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = lengths
        self._next = sorted(lengths[:_AHEAD])
        self._taken = _AHEAD

    def take(self, late: float) -> int:
        """A short one where requests come later than they are due, a long one where they come earlier."""
        length = self._next.pop(0 if late > 0 else -1)
        bisect.insort(self._next, self._lengths[self._taken % len(self._lengths)])
        self._taken += 1
        return length


def _by_plan(model: SessionModel, rows: int, cycle_s: float, rng: np.random.Generator) -> Ints:
    """Sessions planned by themselves, the first of all their requests given to the first arrival, and so on.

    Plan and arrivals drift apart slowly, so that the gaps within a session hardly change.
    """
    if rows == 0:
        return np.empty(0, dtype=np.int64)
    begun, requests = np.empty(0), np.empty(0, dtype=np.int64)
    while requests.sum() < rows:
        more = at_shares(model.begun, rng.random(max(rows // 4, 16)))
        begun = np.concatenate([begun, more])
        many = np.maximum(1, np.rint(_of_part(model.requests, more, rng))).astype(np.int64)
        requests = np.concatenate([requests, many])
    enough = int(np.searchsorted(np.cumsum(requests), rows)) + 1
    begun, requests = begun[:enough], requests[:enough]
    session = np.repeat(np.arange(enough), requests)
    gaps = _of_part(model.gaps_s, begun[session], rng) / cycle_s
    first = np.concatenate([[0], np.cumsum(requests)[:-1]])
    gaps[first] = 0.0
    passed = np.cumsum(gaps)
    place = begun[session] + passed - passed[first][session]
    kept = np.sort(np.argsort(place, kind="stable")[:rows])
    order = np.argsort(place[kept], kind="stable")
    return session[kept][order].astype(np.int64)


def _of_part(grids: tuple[tuple[float, ...], ...], place: Floats, rng: np.random.Generator) -> Floats:
    """A value for each place in the cycle, from the grid of its part."""
    part = np.minimum((place * len(grids)).astype(np.int64), len(grids) - 1)
    values = np.zeros(len(part))
    for number, grid in enumerate(grids):
        rows = np.nonzero(part == number)[0]
        values[rows] = at_shares(grid, stratified(len(rows), rng))
    return values


def _keys(
    workload: Workload, state: Ints, before: Ints, counts: Floats | None, rng: np.random.Generator
) -> tuple[Ints, FurtherKeys]:
    if workload.keys is None:
        return np.full(len(state), -1, dtype=np.int64), FurtherKeys()
    keeps = rng.random(len(state)) < (workload.sessions.keeps_key if workload.sessions else 0.0)
    many = np.zeros(len(state)) if counts is None else np.nan_to_num(counts)
    return draw_all_keys(
        (workload.keys, workload.further),
        [STATES[number] for number in state.tolist()],
        np.where(keeps, before, -1),
        many.astype(np.int64),
        rng,
    )
