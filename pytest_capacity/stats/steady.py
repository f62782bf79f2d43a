"""Whether a series of batch means is steady: tests for a trend and for a shift of level."""

from __future__ import annotations

import math

import numpy as np

from pytest_capacity.protocols import Floats

LEAST_BATCHES = 6


def trend_score(values: Floats) -> float:
    """How many standard deviations the values' rank order is away from no trend; positive when rising.

    Mann, "Nonparametric tests against trend", Econometrica 13 (1945). 0 for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return 0.0
    later, earlier = np.triu_indices(count, 1)[::-1]
    score = float(np.sign(np.nan_to_num(values[later] - values[earlier])).sum())
    return score / math.sqrt(count * (count - 1) * (2 * count + 5) / 18)


def shift_probability(values: Floats) -> float:
    """The chance that steady values would show a shift of level as great as these do.

    Pettitt, "A non-parametric approach to the change-point problem", Applied Statistics 28 (1979), by its
    approximation, which errs towards 1. 1 for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return 1.0
    ranks = np.argsort(np.argsort(values)) + 1.0
    position = np.arange(1, count)
    statistic = float(np.abs(2 * np.cumsum(ranks)[:-1] - position * (count + 1)).max())
    return min(1.0, 2 * math.exp(-6 * statistic**2 / (count**3 + count**2)))


def is_steady(values: Floats, tolerance: float) -> bool:
    """Whether batch means show neither a trend nor a shift that matters.

    What differs by less than ``tolerance`` as a share between the first and the second half does not matter,
    nor what chance explains at 5 %. Fewer than ``LEAST_BATCHES`` values cannot show that they are steady.
    """
    count = len(values)
    if count < LEAST_BATCHES:
        return False
    first, second = float(values[: count // 2].mean()), float(values[count // 2 :].mean())
    if abs(second - first) <= tolerance * first:
        return True
    return abs(trend_score(values)) < 1.96 and shift_probability(values) > 0.05
