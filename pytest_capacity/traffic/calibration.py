"""Fitting a workload model to a recording."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.bursts import fit_halvings
from pytest_capacity.traffic.fidelity import OTHER, profile_window_s
from pytest_capacity.traffic.grids import quantile_grid, rank_links, rounded
from pytest_capacity.traffic.pattern import Traffic, without_queries
from pytest_capacity.traffic.reuse import Flags
from pytest_capacity.traffic.several_keys import (
    AGAIN,
    FURTHER_UNIT,
    fit_all_keys,
    further_counts,
    states_of,
)
from pytest_capacity.traffic.statistics import correlation, kept_unit, previous_of, ranks_of, size_kept
from pytest_capacity.traffic.workload import STATES, Kind, SessionModel, State, Workload

MOST_OPERATIONS, MOST_KINDS, MOST_COUNTS = 24, 40, 6000
SIZE_CLASSES, MOST_CLASSED, LEAST_OF_CLASS = (1, 4, 3, 2), 3, 25
"""Classes of each size where there are so many sizes: of one four, of two three each, of more two each."""

_TWO_LEFT = 2
"""So many classes fewer of the most leave two."""

ALIKE = 0.9
"""Two sizes whose ranks correlate more than this tell one thing."""

SIZE_POINTS, SESSION_POINTS, SESSION_PARTS = 49, 33, 4
LEAST_PER_WINDOW, MOST_WINDOWS, LEAST_WINDOWS = 6, 2000, 500


def calibrate(
    traffic: Traffic,
    *,
    seed: int = 0,
    name: str = "",
    class_: str | None = None,
    tick_s: float | None = None,
    notes: Sequence[str] = (),
) -> Workload:
    """The model of a recording's traffic.

    Requests are put into kinds by operation, by whether their key came before, and into up to four classes of
    size that make up equal parts of its sum; the number of each kind in each window is the rate profile. So
    the model keeps slow changes of rate, mix and size together, which is what decides about capacity, and
    draws anew what happens within a window. ``seed`` breaks ties among equal sizes.
    """
    rng = np.random.default_rng(seed)
    traffic = _with_fewer_operations(traffic)
    state = states_of(traffic)
    keys, further = fit_all_keys(traffic, state, _following(traffic).same_key)
    counted = _with_further_counts(traffic)
    kinds = _kind_rows(counted, state)
    window_s = _window_s(traffic, len(kinds))
    kept = kept_unit(traffic)
    return Workload(
        name=name,
        class_=class_,
        cycle_s=traffic.cycle_s,
        tick_s=tick_s,
        window_s=window_s,
        halvings=tuple((round(few, 4), round(many, 4)) for few, many in fit_halvings(traffic.t_s, window_s)),
        kinds=tuple(_kind(counted, rows, STATES[int(state[rows[0]])], window_s, rng) for rows in kinds),
        keys=keys,
        further=further,
        sessions=_sessions(traffic, state),
        keeps_size={} if kept is None else {kept: round(size_kept(traffic, kept), 4)},
        notes=tuple(notes),
    )


def _with_fewer_operations(traffic: Traffic) -> Traffic:
    """Operations without their queries, the rarest as one: paths that hold ids are many."""
    traffic = without_queries(traffic)
    if len(traffic.operations) <= MOST_OPERATIONS:
        return traffic
    often = np.argsort(-np.bincount(traffic.operation, minlength=len(traffic.operations)), kind="stable")
    named = often[: MOST_OPERATIONS - 1]
    place = np.full(len(traffic.operations), len(named), dtype=np.int64)
    place[named] = np.arange(len(named))
    names = (*(traffic.operations[index] for index in named.tolist()), OTHER)
    return replace(traffic, operation=place[traffic.operation], operations=names)


def _with_further_counts(traffic: Traffic) -> Traffic:
    """How many further keys a request has is a size of it."""
    if not len(traffic.further_keys):
        return traffic
    return replace(traffic, sizes={**traffic.sizes, FURTHER_UNIT: further_counts(traffic)})


def _kind_rows(traffic: Traffic, state: Ints) -> list[Ints]:
    """The rows of each kind: with fewer classes of size where there would be too many.

    The counts of all kinds in the windows of the rate's own profile have to fit into the model. Of a long
    recording they do not: then two classes, one of the few large ones, are worth longer windows.
    """
    most = min(MOST_KINDS, int(MOST_COUNTS * profile_window_s(traffic) / traffic.cycle_s))
    for fewer in range(max(SIZE_CLASSES)):
        kinds = [rows for group in _alike(traffic, state) for rows in _by_size(traffic, group, fewer)]
        if len(kinds) <= (max(most, MOST_COUNTS // LEAST_WINDOWS) if fewer == _TWO_LEFT else most):
            return kinds
    return kinds


def _alike(traffic: Traffic, state: Ints) -> Iterator[Ints]:
    """Rows of one operation with keys in one state and sizes in the same units."""
    number = traffic.operation * len(STATES) + state
    for column in traffic.sizes.values():
        number = number * 2 + np.isfinite(column)
        number = np.unique(number, return_inverse=True)[1].astype(np.int64)
    for one in np.unique(number):
        yield np.nonzero(number == one)[0]


def _by_size(traffic: Traffic, rows: Ints, fewer: int) -> Iterator[Ints]:
    """Rows in classes by each of their sizes, each class of a size with an equal part of its sum.

    So the few large ones have a class of their own. ``fewer`` classes are made of each than could be, but
    two where not all but one are to go.
    """
    columns = _unlike([column[rows] for column in traffic.sizes.values()])
    most = SIZE_CLASSES[min(len(columns), len(SIZE_CLASSES) - 1)] - fewer
    most = max(most, 2) if fewer <= _TWO_LEFT else 1
    classes = max(1, min(most, len(rows) // LEAST_OF_CLASS))
    number = np.zeros(len(rows), dtype=np.int64)
    for column in columns[:MOST_CLASSED]:
        number = number * classes + _equal_sums(column, classes)
    for one in np.unique(number):
        yield rows[number == one]


def _unlike(columns: list[Floats]) -> list[Floats]:
    """The columns that all rows have, without those that go with one before: bytes with items, say."""
    unlike: list[Floats] = []
    for column in columns:
        if np.isfinite(column).all() and all(
            abs(correlation(ranks_of(column), ranks_of(other))) < ALIKE for other in unlike
        ):
            unlike.append(column)
    return unlike


def _equal_sums(column: Floats, classes: int) -> Ints:
    """A class for each value, larger values in later ones, each with an equal part of the sum of all."""
    ordered = np.sort(column)
    sums = np.cumsum(ordered)
    limits = ordered[np.searchsorted(sums, sums[-1] * np.arange(1, classes) / classes)]
    return np.searchsorted(limits, column, side="left").astype(np.int64)


def _window_s(traffic: Traffic, kinds: int) -> float:
    """The windows of the profile: as short as the requests, and the size of the model, allow.

    Where the size does, no longer than those by which a model's rate is compared with the recorded one.
    """
    most = min(MOST_WINDOWS, MOST_COUNTS // kinds)
    least_s = traffic.cycle_s / min(most, max(1, len(traffic) // LEAST_PER_WINDOW))
    least_s = max(traffic.cycle_s / most, min(least_s, profile_window_s(traffic)))
    step_s = 10.0 ** math.floor(math.log10(least_s))
    return float(next(step_s * factor for factor in (1, 2, 5, 10) if step_s * factor >= least_s * (1 - 1e-9)))


def _kind(traffic: Traffic, rows: Ints, state: State, window_s: float, rng: np.random.Generator) -> Kind:
    columns = {name: column[rows] for name, column in traffic.sizes.items()}
    present = {name: column for name, column in columns.items() if np.isfinite(column).all()}
    windows = math.ceil(traffic.cycle_s / window_s - 1e-9)
    counts = np.bincount((traffic.t_s[rows] / window_s).astype(np.int64), minlength=windows)
    return Kind(
        operation=traffic.operations[int(traffic.operation[rows[0]])],
        state=state,
        sizes={name: quantile_grid(column, SIZE_POINTS) for name, column in present.items()},
        whole=tuple(name for name, column in present.items() if (column == np.rint(column)).all()),
        links=rank_links(list(present.values()), rng),
        arrivals=tuple(counts.tolist()),
    )


@dataclass(frozen=True, slots=True)
class _Following:
    """For each row, the one before in its session (-1 where none), and whether it has that one's key."""

    before: Ints
    same_key: Flags


def _following(traffic: Traffic) -> _Following:
    before = previous_of(traffic.session)
    same = (before >= 0) & (traffic.key >= 0) & (traffic.key == traffic.key[np.maximum(before, 0)])
    return _Following(before, same)


def _sessions(traffic: Traffic, state: Ints) -> SessionModel | None:
    if not traffic.session_count:
        return None
    following = _following(traffic)
    starts = (traffic.session >= 0) & (following.before < 0)
    again = (state == AGAIN) & (following.before >= 0) & (traffic.key >= 0)
    of_state = [state == number for number in range(len(STATES))]
    chances = [_chances(column, of_state) for column in (starts, following.before >= 0)]
    first_s = traffic.t_s[starts]
    of_session = np.bincount(traffic.session[traffic.session >= 0])[traffic.session[starts]]
    begun_s = _session_starts(traffic, starts)[following.before >= 0]
    later = np.nonzero(following.before >= 0)[0]
    gaps_s = traffic.t_s[later] - traffic.t_s[following.before[later]]
    return SessionModel(
        requests=_in_parts(of_session.astype(np.float64), first_s / traffic.cycle_s),
        gaps_s=_in_parts(gaps_s, begun_s / traffic.cycle_s),
        begun=quantile_grid(first_s / traffic.cycle_s, SESSION_POINTS),
        starts=chances[0],
        later=chances[1],
        keeps_key=_chance(following.same_key, again),
    )


def _session_starts(traffic: Traffic, starts: Flags) -> Floats:
    """For each row, when its session began."""
    begun_s = np.zeros(traffic.session_count + 1)
    begun_s[traffic.session[starts]] = traffic.t_s[starts]
    return begun_s[traffic.session]


def _in_parts(values: Floats, place: Floats) -> tuple[tuple[float, ...], ...]:
    """Quantiles of the values of each part of the cycle; a part without values has those of all."""
    part = np.minimum((place * SESSION_PARTS).astype(np.int64), SESSION_PARTS - 1)
    everywhere = values if len(values) else np.zeros(1)
    chosen = [values[part == number] for number in range(SESSION_PARTS)]
    return tuple(quantile_grid(some if len(some) else everywhere, SESSION_POINTS) for some in chosen)


def _chances(column: Flags, groups: Sequence[Flags]) -> tuple[float, float, float]:
    first, second, third = (_chance(column, group) for group in groups)
    return (first, second, third)


def _chance(column: Flags, group: Flags) -> float:
    return rounded(float(column[group].mean())) if group.any() else 0.0
