"""How much less bursty data say than independent data: design effects from batch means.

Late requests near a server's capacity come in bursts, so the variance of their share is a multiple of the
binomial one: the design effect. Batch means estimate it: Law and Carson, "A sequential procedure for
determining the length of a steady-state simulation", Operations Research 27 (1979).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.stats.intervals import student_quantile

FEW_BAD = 30
"""With fewer bad requests than this their own clustering cannot be seen; a lower threshold must show it."""

NEAR_LIMIT = 0.25
"""A latency below a quarter of the limit is no sign of the queue that would reach it."""


def batch_of(times_s: Floats, start_s: float, batch_s: float) -> Ints:
    """The number of the batch, from zero, that each time falls in; the first for what was before."""
    return np.maximum(np.floor((times_s - start_s) / batch_s), 0).astype(np.int64)


def batch_count(batch: Ints) -> int:
    """How many batches hold anything."""
    return int(np.count_nonzero(np.bincount(batch)))


def design_effect(bad: npt.NDArray[np.bool_], batch: Ints) -> float:
    """Variance of the share of bad requests over that of independent ones; at least 1.

    A ratio estimator over the batches, which may differ in size. 1 where there are fewer than two batches or
    where all requests or none are bad.
    """
    spread, independent = spreads(bad, batch)
    return max(1.0, spread / independent) if independent else 1.0


def spreads(bad: npt.NDArray[np.bool_], batch: Ints) -> tuple[float, float]:
    """The variance of the count of bad requests that batches show, and that of independent ones.

    Their ratio is the design effect; sums over several windows pool it. Both are 0 where there are fewer than
    two batches or where all requests or none are bad.
    """
    sizes = np.bincount(batch)
    counts = np.bincount(batch, weights=bad)[sizes > 0]
    sizes = sizes[sizes > 0]
    total, batches = float(sizes.sum()), len(sizes)
    share = float(counts.sum()) / total if total else 0.0
    if batches < 2 or share in (0.0, 1.0):
        return 0.0, 0.0
    spread = float(((counts - share * sizes) ** 2).sum()) * batches / (batches - 1)
    return spread, total * share * (1 - share)


def few_batches_factor(batches: int, alpha: float) -> float:
    """By how much a design effect grows because it was itself estimated from few batches.

    The square of Student's quantile over the normal one, which turns the interval into the usual batch-means
    t interval.
    """
    if batches < 2:
        return float("inf")
    return (student_quantile(1 - alpha, batches - 1) / NormalDist().inv_cdf(1 - alpha)) ** 2


def late_effect(latency_s: Floats, limit_s: float, batch: Ints) -> float:
    """The design effect of the share above ``limit_s``, borrowed from a lower threshold where that is rare.

    Where fewer than ``FEW_BAD`` values exceed the limit, their clustering cannot be told from chance; that of
    the highest ``FEW_BAD`` values can, and is taken where larger. The threshold never falls below
    ``NEAR_LIMIT`` of the limit: how a server's jitter clusters far below says nothing of its queue.
    """
    late = latency_s > limit_s
    effect = design_effect(late, batch)
    if int(late.sum()) >= FEW_BAD or len(latency_s) < 4 * FEW_BAD:
        return effect
    highest = float(np.partition(latency_s, len(latency_s) - FEW_BAD)[len(latency_s) - FEW_BAD])
    return max(effect, design_effect(latency_s >= max(highest, NEAR_LIMIT * limit_s), batch))
