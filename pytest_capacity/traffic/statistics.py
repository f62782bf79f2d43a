"""Figures that describe traffic: bursts, gaps, sizes, reuse of keys, sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.pattern import Traffic

LEAST_WINDOWS = 10
"""A variance of fewer counts than this says nothing."""


def whole_windows(length_s: float, window_s: float) -> int:
    """How many windows fit; one that ends a rounding error behind the length is whole."""
    return int(length_s / window_s * (1 + 1e-12))


def window_counts(t_s: Floats, length_s: float, window_s: float) -> Ints:
    """How many arrivals each whole window of the first ``length_s`` seconds holds."""
    windows = whole_windows(length_s, window_s)
    index = (t_s / window_s).astype(np.int64)
    return np.bincount(index[index < windows], minlength=windows).astype(np.int64)


def window_means(values: Floats, t_s: Floats, length_s: float, window_s: float) -> Floats:
    """The mean of a column in each whole window, NaN where nothing came; NaN values are left out."""
    known = np.isfinite(values)
    counts = window_counts(t_s[known], length_s, window_s)
    index = (t_s[known] / window_s).astype(np.int64)
    within = index < len(counts)
    sums = np.bincount(index[within], weights=values[known][within], minlength=len(counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def index_of_dispersion(t_s: Floats, length_s: float, window_s: float) -> float | None:
    """Variance over mean of the counts in windows: 1 for Poisson arrivals, more for bursts, 0 for even gaps.

    None where there are fewer than ten whole windows in the first ``length_s`` seconds, or no arrivals in
    them.
    """
    windows = whole_windows(length_s, window_s)
    if windows < LEAST_WINDOWS:
        return None
    index = (t_s / window_s).astype(np.int64)
    # A trace may span years: its empty windows count, but need no place in memory.
    counts = np.unique(index[index < windows], return_counts=True)[1]
    mean = counts.sum() / windows
    if mean == 0:
        return None
    return float((np.square(counts - mean).sum() + (windows - len(counts)) * mean**2) / windows / mean)


def ks_distance(first: Floats, second: Floats) -> float:
    """The largest distance between two samples' distribution functions; 1 where one of them is empty."""
    if not len(first) or not len(second):
        return float(len(first) != len(second))
    first, second = np.sort(first), np.sort(second)
    both = np.concatenate([first, second])
    below = [np.searchsorted(one, both, side="right") / len(one) for one in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


def correlation(first: Floats, second: Floats) -> float:
    """Pearson's correlation over the rows that have both; 0 where there is no variation to correlate."""
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def lag_one_correlation(values: Floats) -> float:
    """The correlation of each value with the one before."""
    return correlation(values[1:], values[:-1])


def stack_distances(key: Ints) -> Ints:
    """For each access, how many distinct other keys came since the same key's last one; -1 for its first.

    An LRU cache of ``c`` entries answers exactly the accesses whose distance is below ``c`` (Mattson et al.,
    "Evaluation techniques for storage hierarchies", 1970). Takes O(n log n) numpy sorts.
    """
    count = len(key)
    before = previous_of(key)
    again = np.nonzero(before >= 0)[0]
    # Between two accesses of one key each other key counts once: pairs of accesses nested within are repeats.
    distance = np.full(count, -1, dtype=np.int64)
    distance[again] = again - before[again] - 1 - _greater_before(before[again])
    return distance


def previous_of(group: Ints) -> Ints:
    """For each row, the latest earlier row of the same group, -1 where there is none or the group is -1."""
    before = np.full(len(group), -1, dtype=np.int64)
    order = np.argsort(group, kind="stable")
    same = (group[order][1:] == group[order][:-1]) & (group[order][1:] >= 0)
    before[order[1:][same]] = order[:-1][same]
    return before


def _greater_before(values: Ints) -> Ints:
    """For each value, how many earlier ones are greater: a merge sort's inversions, a level at a time."""
    count = len(values)
    found = np.zeros(count, dtype=np.int64)
    by_value = np.argsort(values, kind="stable")
    width = 1
    while width < count:
        # Rows by pair of blocks, by value within each: those of the left block pass over the right one's.
        order = by_value[np.argsort(by_value // (2 * width), kind="stable")]
        is_left = (order // width) % 2 == 0
        left_so_far = np.cumsum(is_left)
        starts = np.arange(0, count, 2 * width)
        ends = np.minimum(starts + 2 * width, count)
        left_before_pair = np.concatenate([[0], left_so_far])[starts]
        left_in_pair = np.concatenate([[0], left_so_far])[ends] - left_before_pair
        pair = np.arange(count) // (2 * width)
        greater = left_in_pair[pair] - (left_so_far - left_before_pair[pair])
        found[order[~is_left]] += greater[~is_left]
        width *= 2
    return found


def lru_hit_shares(distances: Ints, capacities: Sequence[int]) -> list[float]:
    """The share of accesses that LRU caches of these capacities would answer, empty at the start."""
    return [float(np.mean((distances >= 0) & (distances < capacity))) for capacity in capacities]


def distinct_growth(distances: Ints, points: int = 10) -> Floats:
    """How many distinct keys have come after each of ``points`` equal parts of the accesses, per access."""
    ends = np.linspace(0, len(distances), points + 1)[1:].round().astype(np.int64)
    firsts = np.concatenate([[0], np.cumsum(distances < 0)])
    return firsts[ends] / max(len(distances), 1)


def ranks_of(values: Floats) -> Floats:
    """Ranks from 0 on; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts + 1) / 2)[place]
    return ranks


def size_kept(traffic: Traffic, unit: str) -> float:
    """The rank correlation of a size with the one before of the same key, or session where no row has a key.

    A conversation grows, a page stays as large as it was: that decides what a cache of prefixes or bytes
    saves.
    """
    before = previous_of(traffic.key if traffic.key_count else traffic.session)
    later = np.nonzero(before >= 0)[0]
    first, second = traffic.sizes[unit][before[later]], traffic.sizes[unit][later]
    known = np.isfinite(first) & np.isfinite(second)
    return correlation(ranks_of(first[known]), ranks_of(second[known]))


def kept_unit(traffic: Traffic) -> str | None:
    """The unit that requests of one key, or session where no row has a key, have most in common, if any."""
    kept = {unit: abs(size_kept(traffic, unit)) for unit in traffic.sizes}
    unit = max(kept, key=lambda one: kept[one], default=None)
    return None if unit is None or kept[unit] == 0 else unit


@dataclass(frozen=True, slots=True)
class Sessions:
    """Sessions in figures: requests of each, gaps between a session's requests, and the share that stays.

    ``same_key`` is the share of requests with a predecessor in their session that have its key, where both
    have one; None where that never happens.
    """

    requests: Ints
    gaps_s: Floats
    same_key: float | None


def sessions_of(traffic: Traffic) -> Sessions | None:
    """The sessions of traffic, None where no row has one."""
    if traffic.session_count == 0:
        return None
    counts = np.bincount(traffic.session[traffic.session >= 0])
    before = previous_of(traffic.session)
    later = np.nonzero(before >= 0)[0]
    keyed = later[(traffic.key[later] >= 0) & (traffic.key[before[later]] >= 0)]
    same = traffic.key[keyed] == traffic.key[before[keyed]]
    return Sessions(
        requests=counts[counts > 0].astype(np.int64),
        gaps_s=traffic.t_s[later] - traffic.t_s[before[later]],
        same_key=float(same.mean()) if len(keyed) else None,
    )
