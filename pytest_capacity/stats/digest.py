"""t-digests of latencies: a whole run's distribution in about 150 numbers, finest where it matters.

Ted Dunning and Otmar Ertl, "Computing extremely accurate quantiles using t-digests", arXiv 1902.04023. A
digest is a list of ``[mean, weight]`` in ascending order: clusters of neighbouring values whose size is
bounded by the paper's scale function k2, so that clusters shrink towards both ends down to single samples.

The package ``tdigest`` holds the clusters, but takes 16 us for one update. Values are therefore sorted and
clustered with numpy first, and the package sees some hundred weighted clusters, never raw samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from tdigest import TDigest

from pytest_capacity.protocols import Floats, Ints

Centroids: TypeAlias = list[list[float]]

COMPRESSION = 300.0
"""The paper's delta: k2 then makes about 150 clusters, the widest holding some 5 % of the values."""


def digest_of(values: Iterable[float]) -> Centroids:
    """The ``[mean, weight]`` of every cluster of ``values``, ascending, in the values' own unit.

    Values that are not finite have no place in a digest and are left out; their number is for the caller to
    keep. The weights sum to the number of finite values; without any the digest is empty.
    """
    array = np.asarray(values if isinstance(values, np.ndarray) else list(values), dtype=np.float64)
    array = np.sort(array[np.isfinite(array)])
    return _digest(array, np.ones(len(array)))


def merge(digests: Iterable[Sequence[Sequence[float]]]) -> Centroids:
    """One digest of several, as if of all their values together, but for each digest's own coarseness."""
    centroids = [centroid for digest in digests for centroid in digest]
    if not centroids:
        return []
    table = np.array(centroids, dtype=np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return _digest(table[:, 0], table[:, 1])


def quantile_of(centroids: Sequence[Sequence[float]], q: float) -> float | None:
    """The quantile ``q`` of what a digest holds, None for an empty one.

    Each cluster's mean stands at the middle of its ranks, with straight lines between, so that a digest of
    single samples gives exactly numpy's default quantile. Raises ValueError unless 0 <= q <= 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q={q!r} must lie between 0 and 1")
    if not centroids:
        return None
    table = np.asarray(centroids, dtype=np.float64)
    ends = np.cumsum(table[:, 1])
    rank = q * (ends[-1] - 1) + 0.5
    return float(np.interp(rank, ends - table[:, 1] / 2, table[:, 0]))


def _digest(means: Floats, weights: Floats) -> Centroids:
    """Cluster sorted weighted values and let the package keep the clusters."""
    if not len(means):
        return []
    ends = np.cumsum(weights)
    starts = np.unique(np.searchsorted(ends - weights / 2, _boundaries(float(ends[-1]))))
    starts = starts[starts < len(means)]
    cluster_weights = np.add.reduceat(weights, starts)
    cluster_means = np.add.reduceat(means * weights, starts) / cluster_weights
    # Rounding may take a mean of equal values past its neighbour's.
    cluster_means = np.maximum.accumulate(cluster_means)
    digest = TDigest()
    for mean, weight in zip(_apart(cluster_means), cluster_weights, strict=True):
        # Ascending, each update lies above all before it, where the package never merges: the clusters
        # stay as they were made, and nothing of its random choice remains.
        digest.update(float(mean), float(weight))
    return [[centroid.mean, centroid.count] for centroid in digest.C.values()]


def _boundaries(total: float) -> Ints:
    """The ranks at which clusters begin: equal steps of k2(q) = delta / Z(n) * ln(q / (1 - q)).

    Ranks are whole, so the steps at both ends, being shorter than one rank, leave single samples.
    """
    z = 4 * math.log(max(1.0, total / COMPRESSION)) + 24
    step = z / COMPRESSION
    reach = math.ceil(math.log(2 * total + 2) / step)
    shares = 1 / (1 + np.exp(-step * np.arange(-reach, reach + 1)))
    inner = np.rint(total * shares).astype(np.int64)
    return np.unique(np.concatenate([[0], inner[inner < total]]))


def _apart(ascending: Floats) -> Floats:
    """The same means, equal ones told apart by their last bit.

    The package joins equal means into one heavy cluster, and interpolation would then lay a slope where the
    values are all the same.
    """
    apart = ascending.copy()
    for i in range(1, len(apart)):
        apart[i] = max(apart[i], np.nextafter(apart[i - 1], np.inf))
    return apart
