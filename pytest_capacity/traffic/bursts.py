"""Burstiness as the way in which requests fall into ever smaller halves of a window.

Given how many requests came in a window, how many of them came in its first half? With Poisson arrivals each
falls on either side by a coin of its own. Where requests come in clumps, they share the coin to a degree: the
number in the first half is beta-binomial, ``share`` being the correlation of two requests' sides. A share
for few requests and one for many at each halving, from the window down to less than a millisecond, make a
conservative cascade: it keeps the counts of the windows, and with them the slow changes of the rate, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_capacity.protocols import Floats, Ints

FINEST_S, FINEST_OF_GAP, MOST_HALVINGS = 0.0005, 1 / 64, 24
_LEAST_SHARED, _MOST_SHARED = 1e-6, 0.999

MOST_OF_FEW = 3
"""Two or three requests come close for other reasons than a crowd does."""

Shares = tuple[float, float]
"""How far requests that share a window share its half: where they are few, and where they are many."""


def fit_halvings(t_s: Floats, window_s: float) -> tuple[Shares, ...]:
    """The shares for arrivals in windows that begin at 0, coarsest first.

    A negative one says that requests keep apart: it is the part of the windows that are halved evenly.
    """
    mean_gap_s = float(t_s[-1] - t_s[0]) / max(len(t_s) - 1, 1)
    finest_s = max(FINEST_S, FINEST_OF_GAP * mean_gap_s)
    halvings = min(MOST_HALVINGS, max(1, math.ceil(math.log2(window_s / finest_s))))
    return tuple(_shares(t_s, window_s / 2 ** (level + 1)) for level in range(halvings))


def _shares(t_s: Floats, half_s: float) -> Shares:
    halves, counts = np.unique((t_s / half_s).astype(np.int64), return_counts=True)
    _, first, place = np.unique(halves // 2, return_index=True, return_inverse=True)
    both = np.bincount(place, weights=counts).astype(np.int64)
    left = np.where(halves[first] % 2 == 0, counts[first], 0)
    few = both <= MOST_OF_FEW
    return _share(left[few], both[few]), _share(left[~few], both[~few])


def _share(left: Ints, both: Ints) -> float:
    squares, coins = float(((left - both / 2) ** 2).sum()), float(both.sum()) / 4
    pairs = float((both * (both - 1)).sum()) / 4
    # Of so many windows' squares the mean is off by this much (a deviation) where nothing is shared.
    if pairs == 0 or abs(squares / coins - 1) < math.sqrt(2 / len(both)):
        return 0.0
    if squares < coins:
        # Halves of an odd number differ by one at least.
        least = float((both % 2).sum()) / 4
        return -min(1.0, (coins - squares) / max(coins - least, 1e-12))
    return min(_MOST_SHARED, (squares - coins) / pairs)


def cascade(
    counts: Sequence[int] | Ints, window_s: float, halvings: Sequence[Shares], rng: np.random.Generator
) -> Floats:
    """Ascending arrival times with so many in each window, clumped as the shares say."""
    place = np.nonzero(np.asarray(counts))[0].astype(np.int64)
    many = np.asarray(counts, dtype=np.int64)[place]
    for shares in halvings:
        left = np.zeros_like(many)
        is_few = many <= MOST_OF_FEW
        for share, those in zip(shares, (is_few, ~is_few), strict=True):
            left[those] = _left(many[those], share, rng)
        place = np.stack([2 * place, 2 * place + 1], axis=1).reshape(-1)
        many = np.stack([left, many - left], axis=1).reshape(-1)
        place, many = place[many > 0], many[many > 0]
    width_s = window_s / 2 ** len(halvings)
    t_s: Floats = (np.repeat(place, many) + rng.random(int(many.sum()))) * width_s
    return np.sort(t_s)


def _left(many: Ints, share: float, rng: np.random.Generator) -> Ints:
    """How many of each go into the first half."""
    if share > _LEAST_SHARED:
        # Two draws from one beta(a, a) coin correlate by 1 / (2a + 1).
        a = (1 / share - 1) / 2
        return rng.binomial(many, rng.beta(a, a, len(many))).astype(np.int64)
    left = rng.binomial(many, 0.5)
    evenly = rng.random(len(many)) < -share
    odd_one = rng.integers(0, 2, len(many)) * (many % 2)
    return np.where(evenly, many // 2 + odd_one, left).astype(np.int64)
