"""Intervals for shares and quantiles of bursty data.

Counts are deflated by the design effect (see ``batches``) before an exact binomial interval is taken, as is
usual for clustered samples: Korn and Graubard, "Confidence intervals for proportions with small expected
number of positive counts estimated from survey data", Survey Methodology 24 (1998). The incomplete beta
function follows Lentz's evaluation of its continued fraction (DLMF 8.17.22).
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from pytest_capacity.protocols import Floats

_TINY = 1e-300


def share_limits(bad: float, total: float, effect: float, alpha: float) -> tuple[float, float]:
    """Lower and upper limit of a share, each at one-sided level ``alpha`` (Clopper and Pearson 1934).

    ``bad`` of ``total`` requests count as ``bad / effect`` of ``total / effect`` independent ones. Without
    any request the limits are 0 and 1.
    """
    if total <= 0:
        return 0.0, 1.0
    k, n = bad / effect, total / effect
    low = 0.0 if k <= 0 else beta_quantile(alpha, k, n - k + 1)
    high = 1.0 if k >= n else beta_quantile(1 - alpha, k + 1, n - k)
    return low, high


def quantile_limits(
    ascending: Floats, quantile: float, effect: float, alpha: float
) -> tuple[float, float, float]:
    """A quantile with its lower and upper limit, each at one-sided ``alpha``, by order statistics.

    ``ascending`` holds the values in order, ``inf`` among them where a request never ended well. Three NaN
    without any value. The ranks' normal approximation is widened by the design effect.
    """
    n = len(ascending)
    if n == 0:
        return math.nan, math.nan, math.nan
    spread = NormalDist().inv_cdf(1 - alpha) * math.sqrt(quantile * (1 - quantile) * n * effect)
    ranks = np.clip(np.ceil([quantile * n, quantile * n - spread, quantile * n + spread + 1]), 1, n)
    middle, low, high = (float(ascending[int(rank) - 1]) for rank in ranks)
    return middle, low, high


def smallest_sample(allowed_share: float, alpha: float) -> int:
    """How many requests, none of them bad, show at level ``alpha`` that at most ``allowed_share`` are bad.

    299 for p99 at 95 %: the fewest with (1 - allowed)^n <= alpha.
    """
    return math.ceil(math.log(alpha) / math.log1p(-allowed_share))


@lru_cache(maxsize=256)
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t for a probability of at least one half."""
    x = beta_quantile(2 * (1 - probability), freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which the regularised incomplete beta function of a and b reaches a probability.

    Newton's method, kept within the bracket found so far.
    """
    low, high, x = 0.0, 1.0, a / (a + b)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    for _ in range(100):
        excess = incomplete_beta(x, a, b) - probability
        low, high = (low, x) if excess > 0 else (x, high)
        density = math.exp((a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - log_beta)
        step = excess / density if density > _TINY else math.inf
        # Relative, because the quantiles asked for are often far below 1e-6.
        if min(abs(step), high - low) <= 1e-10 * x:
            break
        x = x - step if low < x - step < high else (low + high) / 2
    return x


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for positive a and b."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast only on this side of the mean; the other side follows by symmetry.
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(1 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + even * d)
        c = _away_from_zero(1.0 + even / c)
        result *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / _away_from_zero(1.0 + odd * d)
        c = _away_from_zero(1.0 + odd / c)
        result *= d * c
        if abs(d * c - 1.0) < 1e-14:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
