"""Distributions as grids of quantiles, and columns drawn together from several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_capacity.protocols import Floats
from pytest_capacity.traffic.statistics import ks_distance

DIGITS, MEAN_TOLERANCE, SHAPE_TOLERANCE = 6, 0.01, 0.02


def quantile_grid(values: Floats, points: int) -> tuple[float, ...]:
    """Quantiles at evenly spaced shares from 0 to 1, to six digits; all values where they are few.

    A line through quantiles lies above those of a long tail, whose curve is convex. The broken line closest
    to all quantiles has their mean, but cannot follow the steps of equal values. The better one is taken.
    """
    ordered = np.sort(values)
    if len(ordered) <= points:
        return tuple(rounded(value) for value in ordered.tolist())
    through = np.quantile(ordered, np.linspace(0, 1, points))
    shares = np.linspace(0, 1, len(ordered))
    closest = np.clip(_ascending(_closest_line(ordered, points)), ordered[0], ordered[-1])
    grids: list[list[float]] = [through.tolist(), closest.tolist()]
    grid = min(grids, key=lambda one: _misfit(at_shares(one, shares), ordered))
    return tuple(rounded(value) for value in grid)


def _misfit(drawn: Floats, ordered: Floats) -> float:
    """The error of the mean or of the distribution, whichever is worse beside its tolerance."""
    mean = float(ordered.mean())
    off = abs(float(drawn.mean()) - mean) / abs(mean) if mean else 0.0
    return max(off / MEAN_TOLERANCE, ks_distance(drawn, ordered) / SHAPE_TOLERANCE)


def _closest_line(ordered: Floats, points: int) -> Floats:
    """The heights of the broken line with the least squares of its distances to ordered values."""
    place = np.linspace(0, points - 1, len(ordered))
    left = np.minimum(place.astype(np.int64), points - 2)
    part = place - left
    # The normal equations of the two hat functions that each value lies under.
    matrix, wanted = np.zeros((points, points)), np.zeros(points)
    for first, second, weight in (
        (left, left, (1 - part) ** 2),
        (left + 1, left + 1, part**2),
        (left, left + 1, part * (1 - part)),
        (left + 1, left, part * (1 - part)),
    ):
        np.add.at(matrix, (first, second), weight)
    np.add.at(wanted, left, (1 - part) * ordered)
    np.add.at(wanted, left + 1, part * ordered)
    heights: Floats = np.linalg.solve(matrix, wanted).astype(np.float64)
    return heights


def _ascending(heights: Floats) -> Floats:
    """The closest heights that never fall, with the same mean: neighbours that do are pooled."""
    pools: list[list[float]] = []
    for index, height in enumerate(heights.tolist()):
        # The first and the last point have a line on one side only.
        pools.append([height, 0.5 if index in (0, len(heights) - 1) else 1.0, 1])
        while len(pools) > 1 and pools[-1][0] < pools[-2][0]:
            above, weight, points = pools.pop()
            below = pools[-1]
            below[0] = (below[0] * below[1] + above * weight) / (below[1] + weight)
            below[1] += weight
            below[2] += points
    return np.repeat([pool[0] for pool in pools], [int(pool[2]) for pool in pools])


def rounded(value: float) -> float:
    """A number with six significant digits, which keeps a stored model short."""
    return float(f"{value:.{DIGITS}g}")


def at_shares(grid: Sequence[float], shares: Floats) -> Floats:
    """The values of a grid at shares in [0, 1], linear between its points."""
    if len(grid) == 1:
        return np.full(len(shares), float(grid[0]))
    return np.interp(shares, np.linspace(0, 1, len(grid)), np.asarray(grid, dtype=np.float64))


def stratified(count: int, rng: np.random.Generator) -> Floats:
    """Uniform shares, one from each of ``count`` equal parts, in random order: few draws, right quantiles."""
    shares: Floats = (rng.permutation(count) + rng.random(count)) / max(count, 1)
    return shares


def rank_links(columns: Sequence[Floats], rng: np.random.Generator) -> tuple[float, ...]:
    """How columns go together: correlations of their normal scores, above the diagonal, row by row.

    From Spearman's rank correlation by Pearson's formula, 2 sin(pi r / 6). Equal values are ranked by chance.
    """
    ranks = [np.argsort(np.lexsort((rng.random(len(column)), column))) for column in columns]
    links = []
    for index, first in enumerate(ranks):
        for second in ranks[index + 1 :]:
            linked = np.corrcoef(first, second)[0, 1] if len(first) > 2 else 0.0
            links.append(rounded(round(2 * float(np.sin(np.pi * linked / 6)), 4)))
    return tuple(links)


def draw_together(
    grids: Mapping[str, Sequence[float]], links: Sequence[float], count: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """``count`` values from each grid, each grid's quantiles met, the columns linked by a Gaussian copula."""
    scores = rng.standard_normal((count, len(grids))) @ _factor(len(grids), links).T
    drawn = {}
    for index, (name, grid) in enumerate(grids.items()):
        rank = np.argsort(np.argsort(scores[:, index]))
        # The same values in each draw, in another order: as many values as points gives the points.
        drawn[name] = at_shares(grid, rank / (count - 1) if count > 1 else np.full(count, 0.5))
    return drawn


def _factor(size: int, links: Sequence[float]) -> Floats:
    """A matrix whose product with its transpose is the nearest that correlations can be."""
    above = np.zeros((size, size))
    above[np.triu_indices(size, 1)] = links
    matrix = np.eye(size) + above + above.T
    values, vectors = np.linalg.eigh(matrix)
    factor: Floats = vectors * np.sqrt(np.maximum(values, 0))
    lengths = np.sqrt((factor**2).sum(axis=1, keepdims=True))
    unit: Floats = factor / np.maximum(lengths, 1e-12)
    return unit
