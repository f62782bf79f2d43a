"""How close a workload comes to a recording: a vector of statistics, each with its tolerance and its verdict.

A workload is calibrated where none is outside its tolerance. Both sides must have one mean rate: compare a
workload at the recorded rate, or two scaled ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, dropwhile, takewhile

import numpy as np

from pytest_capacity.protocols import Floats, Ints, Json
from pytest_capacity.traffic.pattern import Traffic, without_queries
from pytest_capacity.traffic.several_keys import of_one_kind
from pytest_capacity.traffic.statistics import (
    correlation,
    distinct_growth,
    index_of_dispersion,
    kept_unit,
    ks_distance,
    lag_one_correlation,
    lru_hit_shares,
    previous_of,
    sessions_of,
    size_kept,
    stack_distances,
    window_counts,
    window_means,
)

MEAN_TOLERANCE, SHAPE_TOLERANCE = 0.02, 0.95
DISPERSION_WINDOWS_S, DISPERSION_FACTOR = (1, 10, 60), 1.25
KS_TOLERANCE, P99_TOLERANCE = 0.05, 0.1
COUPLING_TOLERANCE, MIX_TOLERANCE, LOCALITY_TOLERANCE = 0.1, 0.02, 0.02
SENDER_SHARE = 0.05
PROFILE_WINDOW_S, LEAST_PER_WINDOW = 10.0, 5
LEAST_CHANCE, LEAST_COMPARED = 0.025, 30
"""A share of a variance that chance has and that matters; windows by which rates are compared, at least."""

LEAST_ROWS, LEAST_ROWS_P99 = 50, 100
LINK_CHANCE = 2.0
"""Over the root of the pairs: two deviations of a correlation where there is none."""

KS_CHANCE = 1.63
"""Times sqrt(1/n + 1/m): what chance alone exceeds in one pair of samples of a hundred."""

LEAST_DISPERSION = 0.05
CACHE_SHARES = (0.01, 0.1, 0.5)
Both = tuple[float | None, float | None]
"""A figure of the recording and of the workload."""

_MARKS = {True: "ok", False: "OUT", None: "?"}

GAPS, SENDER = "gaps between arrivals", "sender: p99 lateness over the SLO's bound"

OTHER = "(other)"
"""The operation that stands for all that a workload model does not name."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """One figure of the recording and of the workload, and how far apart they are.

    ``measure`` is the distance that ``tolerance`` bounds, from above (``at_most``) or from below. ``ok`` is
    None where it could not be judged; ``note`` then says why.
    """

    name: str
    recorded: float | None
    workload: float | None
    measure: float | None
    tolerance: float
    ok: bool | None
    at_most: bool = True
    note: str = ""


def fidelity(recorded: Traffic, workload: Traffic) -> tuple[Statistic, ...]:
    """The whole vector, in the order of the definition; what the recording does not have is left out.

    The last entry, the sender's lateness, is known only once load was sent: see ``sender_statistic``.
    """
    recorded, workload = _same_operations(without_queries(recorded), without_queries(workload))
    return (
        *_rate_profile(recorded, workload),
        *_burstiness(recorded, workload),
        _ks(GAPS, np.diff(recorded.t_s), np.diff(workload.t_s)),
        *_size_mix(recorded, workload),
        *_coupling(recorded, workload),
        _operation_mix(recorded, workload),
        *_locality(recorded, workload),
        *_sessions(recorded, workload),
        sender_statistic(None, None),
    )


def sender_statistic(late_p99_s: float | None, limit_s: float | None) -> Statistic:
    """Whether load was sent when it was meant to be: p99 of the lateness against 5 % of the SLO's bound.

    With either unknown it is not judged.
    """
    if late_p99_s is None or limit_s is None:
        return Statistic(SENDER, None, None, None, SENDER_SHARE, None, note="known when load has been sent")
    share = late_p99_s / limit_s
    return Statistic(SENDER, 0.0, share, share, SENDER_SHARE, share <= SENDER_SHARE)


def within_tolerance(vector: Iterable[Statistic]) -> bool:
    """Whether no statistic is outside its tolerance."""
    return all(statistic.ok is not False for statistic in vector)


def not_judged(vector: Iterable[Statistic]) -> tuple[Statistic, ...]:
    """The statistics of the workload that could not be judged; the sender's is known only under load."""
    return tuple(one for one in vector if one.ok is None and one.name != SENDER)


def judged_enough(vector: Sequence[Statistic]) -> bool:
    """Whether the vector says how close a workload is: what matters of it was judged.

    That are the gaps between arrivals, of which a recording has more than of most else, and half of all.
    """
    unknown = not_judged(vector)
    known = sum(one.ok is not None for one in vector)
    return known >= len(unknown) and all(one.name != f"{GAPS}: KS distance" for one in unknown)


def as_json(vector: Iterable[Statistic]) -> list[dict[str, Json]]:
    """The vector as plain data."""
    return [asdict(statistic) for statistic in vector]


def as_lines(vector: Sequence[Statistic]) -> list[str]:
    """The vector as a table for people."""
    width = max(len(statistic.name) for statistic in vector)
    lines = [
        f"     {'statistic':<{width}} {'recorded':>10} {'workload':>10} {'distance':>10} {'tolerance':>10}"
    ]
    for one in vector:
        bound = f"{'' if one.at_most else '>= '}{one.tolerance:g}"
        figures = " ".join(f"{_shown(value):>10}" for value in (one.recorded, one.workload, one.measure))
        note = f"  {one.note}" if one.note else ""
        lines.append(f"{_MARKS[one.ok]:<4} {one.name:<{width}} {figures} {bound:>10}{note}")
    return lines


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def profile_window_s(traffic: Traffic) -> float:
    """The windows of a rate profile: 10 s, or as long as needed for five requests in one on average."""
    return next(window_s for window_s in _windows_s() if traffic.rate_qps * window_s >= LEAST_PER_WINDOW)


def _windows_s() -> Iterator[float]:
    """10 s, 20, 50, 100 and so on."""
    window_s = PROFILE_WINDOW_S
    for factor in cycle((2, 2.5, 2)):
        yield window_s
        window_s *= factor


def _same_operations(recorded: Traffic, workload: Traffic) -> tuple[Traffic, Traffic]:
    """Both with the workload's operations, in its order; what it does not name is ``OTHER``."""
    names = tuple(dict.fromkeys((*workload.operations, OTHER)))

    def renumbered(traffic: Traffic) -> Traffic:
        place = [names.index(name) if name in names else names.index(OTHER) for name in traffic.operations]
        return replace(
            traffic, operation=np.array(place, dtype=np.int64)[traffic.operation], operations=names
        )

    return renumbered(recorded), renumbered(workload)


def _bounded(name: str, both: Both, measure: float | None, tolerance: float, note: str = "") -> Statistic:
    """A statistic whose measure must not exceed its tolerance; with a note it is not judged."""
    known = None if measure is None or not math.isfinite(measure) else measure
    ok = None if note else known is not None and known <= tolerance
    return Statistic(name, *both, known, tolerance, ok, note=note)


def _ks(name: str, recorded: Floats, workload: Floats) -> Statistic:
    medians = tuple(float(np.median(one)) if len(one) else None for one in (recorded, workload))
    distance = ks_distance(recorded, workload)
    note = "" if len(recorded) >= LEAST_ROWS else f"fewer than {LEAST_ROWS} values recorded"
    if len(recorded) and len(workload) and not note:
        chance = KS_CHANCE * math.sqrt(1 / len(recorded) + 1 / len(workload))
        if KS_TOLERANCE < distance <= chance:
            note = f"by chance two samples of {len(recorded):,} values differ by {chance:.3f}"
    return _bounded(f"{name}: KS distance", (medians[0], medians[1]), distance, KS_TOLERANCE, note)


def _relative(recorded: float, workload: float) -> float:
    if recorded == 0:
        return 0.0 if workload == 0 else math.inf
    return abs(workload / recorded - 1)


def _rate_profile(recorded: Traffic, workload: Traffic) -> Iterator[Statistic]:
    rates = recorded.rate_qps, workload.rate_qps
    yield _bounded("rate: mean", rates, _relative(*rates), MEAN_TOLERANCE)
    least_s = profile_window_s(recorded)
    most_s = max(least_s, recorded.cycle_s / LEAST_COMPARED)
    # What chance hides in short windows shows in longer ones.
    for window_s in takewhile(lambda one: one <= most_s, dropwhile(lambda one: one < least_s, _windows_s())):
        shape = _rate_shape(recorded, workload, window_s)
        if not shape.by_chance:
            break
    yield shape.statistic


@dataclass(frozen=True, slots=True)
class _RateShape:
    """How counts in windows go together, and whether chance alone may be why they do not do so better."""

    statistic: Statistic
    by_chance: bool


def _rate_shape(recorded: Traffic, workload: Traffic, window_s: float) -> _RateShape:
    """Counts of the recording and of the workload in windows of so many seconds.

    Of two Poisson streams with the same changing rate, counts correlate by the share of the variance that
    the rate's changes have: the mean of the counts is what chance adds to it.
    """
    length_s = min(recorded.cycle_s, workload.cycle_s)
    counts = [window_counts(one.t_s, length_s, window_s).astype(np.float64) for one in (recorded, workload)]
    spreads = [float(one.std()) if len(one) else None for one in counts]
    together, note, by_chance = correlation(*counts), "", False
    if len(counts[0]) < 3:
        note = f"shorter than three windows of {window_s:g} s"
    elif counts[0].var() <= DISPERSION_FACTOR * counts[0].mean():
        note = "the recorded rate is even: its changes are those of chance"
    elif together < SHAPE_TOLERANCE:
        real = 1 - float(counts[0].mean() / counts[0].var())
        by_chance = 1 - real > LEAST_CHANCE and together >= SHAPE_TOLERANCE * real
        if by_chance:
            note = f"two recordings of the same rates would have {real:.2f}: the rest is chance"
    ok = None if note else together >= SHAPE_TOLERANCE
    name = f"rate: correlation of counts per {window_s:g} s"
    figures = Statistic(name, spreads[0], spreads[1], together, SHAPE_TOLERANCE, ok, at_most=False, note=note)
    return _RateShape(figures, by_chance)


def _burstiness(recorded: Traffic, workload: Traffic) -> Iterator[Statistic]:
    for window_s in DISPERSION_WINDOWS_S:
        both = [index_of_dispersion(one.t_s, one.cycle_s, window_s) for one in (recorded, workload)]
        factor, note = None, f"shorter than ten windows of {window_s} s"
        if both[0] is not None and both[1] is not None:
            # Below this both are as even as a clock: their ratio says nothing.
            ratio = max(both[0], LEAST_DISPERSION) / max(both[1], LEAST_DISPERSION)
            factor, note = max(ratio, 1 / ratio), ""
        yield _bounded(
            f"burstiness: dispersion at {window_s} s", (both[0], both[1]), factor, DISPERSION_FACTOR, note
        )


def _size_mix(recorded: Traffic, workload: Traffic) -> Iterator[Statistic]:
    for index, operation in enumerate(recorded.operations):
        for unit in recorded.sizes:
            sizes = [_sizes(one, unit, index) for one in (recorded, workload)]
            if len(sizes[0]):
                yield from _sizes_of(f"size {unit} of {operation}", *sizes)


def _sizes(traffic: Traffic, unit: str, operation: int) -> Floats:
    if unit not in traffic.sizes:
        return np.empty(0)
    column = traffic.sizes[unit][traffic.operation == operation]
    known: Floats = column[np.isfinite(column)]
    return known


def _sizes_of(name: str, recorded: Floats, workload: Floats) -> Iterator[Statistic]:
    few = "" if len(recorded) >= LEAST_ROWS else f"fewer than {LEAST_ROWS} requests recorded"
    few_p99 = "" if len(recorded) >= LEAST_ROWS_P99 else f"fewer than {LEAST_ROWS_P99} requests recorded"
    generated = workload if len(workload) else np.zeros(1)
    means = float(recorded.mean()), float(generated.mean())
    yield _bounded(f"{name}: mean", means, _relative(*means), MEAN_TOLERANCE, few)
    p99s = float(np.quantile(recorded, 0.99)), float(np.quantile(generated, 0.99))
    yield _bounded(f"{name}: p99", p99s, _relative(*p99s), P99_TOLERANCE, few_p99)
    yield _ks(name, recorded, workload)


def _coupling(recorded: Traffic, workload: Traffic) -> Iterator[Statistic]:
    window_s = profile_window_s(recorded)
    windows = int(recorded.cycle_s / window_s)
    for unit in recorded.sizes:
        if unit not in workload.sizes:
            continue
        pairs = [_size_with_rate(one, unit, window_s) for one in (recorded, workload)]
        name = f"coupling: mean {unit} per {window_s:g} s with the rate"
        yield _linked(name, (pairs[0], pairs[1]), windows)
        lags = [lag_one_correlation(one.sizes[unit]) for one in (recorded, workload)]
        name = f"coupling: {unit} with that of the request before"
        yield _linked(name, (lags[0], lags[1]), len(recorded))
    kept = kept_unit(recorded)
    if kept is not None and kept in workload.sizes:
        whose, group = ("key", recorded.key) if recorded.key_count else ("session", recorded.session)
        name = f"coupling: {kept} with that before of its {whose}"
        pair = size_kept(recorded, kept), size_kept(workload, kept)
        yield _linked(name, pair, int((previous_of(group) >= 0).sum()))


def _linked(name: str, both: tuple[float, float], count: int) -> Statistic:
    """Two correlations, each of ``count`` pairs; no verdict where chance alone may part them so far."""
    apart, note = abs(both[0] - both[1]), ""
    chance = LINK_CHANCE / math.sqrt(max(count, 1))
    if count < LEAST_ROWS:
        note = f"fewer than {LEAST_ROWS} pairs recorded"
    elif COUPLING_TOLERANCE < apart <= chance:
        note = f"by chance two correlations of {count:,} pairs differ by {chance:.2f}"
    return _bounded(name, both, apart, COUPLING_TOLERANCE, note)


def _size_with_rate(traffic: Traffic, unit: str, window_s: float) -> float:
    means = window_means(traffic.sizes[unit], traffic.t_s, traffic.cycle_s, window_s)
    return correlation(means, window_counts(traffic.t_s, traffic.cycle_s, window_s).astype(np.float64))


def _operation_mix(recorded: Traffic, workload: Traffic) -> Statistic:
    shares = [
        np.bincount(one.operation, minlength=len(one.operations)) / len(one) for one in (recorded, workload)
    ]
    largest = int(np.argmax(shares[0]))
    variation = float(np.abs(shares[0] - shares[1]).sum() / 2)
    both = float(shares[0][largest]), float(shares[1][largest])
    return _bounded("operations: total variation of the mix", both, variation, MIX_TOLERANCE)


def _locality(recorded: Traffic, workload: Traffic) -> Iterator[Statistic]:
    if recorded.key_count == 0:
        return
    all_keys = [one.further_keys.after(one.key) for one in (recorded, workload)]
    yield from _locality_of("keys", *all_keys)
    if len(recorded.further_keys) and not of_one_kind(recorded):
        # A cache of users and one of items: the many look-ups of the one must not hide the other.
        yield from _locality_of("first keys", *(one.key[one.key >= 0] for one in (recorded, workload)))
    if len(recorded.further_keys):
        yield from _sizes_of("keys of each request", *(_keys_of_each(one) for one in (recorded, workload)))
        # A request that no cache knows anything of takes longer than several of which it lacks a little.
        yield _ks("keys of each request: new ones", *(_new_of_each(one) for one in (recorded, workload)))


def _keys_of_each(traffic: Traffic) -> Floats:
    """How many keys each request that has any has."""
    counts = 1 + np.bincount(traffic.further_keys.row, minlength=len(traffic))
    return counts[traffic.key >= 0].astype(np.float64)


def _new_of_each(traffic: Traffic) -> Floats:
    """How many of its keys never came before, of each request that has any."""
    row, key, _ = traffic.further_keys.accesses(traffic.key)
    counts = np.bincount(row[previous_of(key) < 0], minlength=len(traffic))
    return counts[traffic.key >= 0].astype(np.float64)


def _locality_of(what: str, recorded: Ints, workload: Ints) -> Iterator[Statistic]:
    """What caches of three sizes would answer of these accesses, and how fast the keys become more."""
    distances = [stack_distances(one) for one in (recorded, workload)]
    note = "" if len(recorded) >= LEAST_ROWS else f"fewer than {LEAST_ROWS} requests with a key"
    if not len(distances[1]):
        distances[1] = np.full(1, -1, dtype=np.int64)
    capacities = cache_sizes(int((distances[0] < 0).sum()))
    hits = [lru_hit_shares(one, capacities) for one in distances]
    for capacity, *both in zip(capacities, *hits, strict=True):
        name = f"{what}: hits of an LRU cache of {capacity}"
        yield _bounded(name, (both[0], both[1]), abs(both[0] - both[1]), LOCALITY_TOLERANCE, note)
    growth = [distinct_growth(one) for one in distances]
    apart = float(np.abs(growth[0] - growth[1]).max())
    ends = float(growth[0][-1]), float(growth[1][-1])
    yield _bounded(f"{what}: growth of distinct ones per request", ends, apart, LOCALITY_TOLERANCE, note)


def cache_sizes(distinct: int) -> Sequence[int]:
    """Three sizes of a cache for so many distinct keys: one, ten and fifty percent of them."""
    return sorted({max(1, round(distinct * share)) for share in CACHE_SHARES})


def _sessions(recorded: Traffic, workload: Traffic) -> Iterator[Statistic]:
    theirs, ours = sessions_of(recorded), sessions_of(workload)
    if theirs is None:
        return
    none = np.empty(0)
    requests = (ours.requests.astype(np.float64), ours.gaps_s) if ours else (none, none)
    yield _ks("sessions: requests of each", theirs.requests.astype(np.float64), requests[0])
    yield _ks("sessions: seconds between a session's requests", theirs.gaps_s, requests[1])
    same = theirs.same_key, ours.same_key if ours else None
    if same[0] is not None:
        apart = None if same[1] is None else abs(same[0] - same[1])
        yield _bounded("sessions: share that keeps its key", same, apart, KS_TOLERANCE)
