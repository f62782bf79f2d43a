"""Weighted draws from a density that is known up to a factor, by adaptive importance sampling.

The first proposal is a t distribution around the mode. While few draws carry most of the weight another one
is fitted to what the draws so far have shown, no draw counting for more than a part (Cappe et al., "Adaptive
importance sampling in general mixture classes", Statistics and Computing 18 (2008); Ionides, "Truncated
importance sampling", Journal of Computational and Graphical Statistics 17 (2008)). All draws are kept and
weighted by the mixture of the proposals that they came from (Owen and Zhou, "Safe and effective importance
sampling", Journal of the American Statistical Association 95 (2000)): a proposal that misses harms nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats

MOST_PROPOSALS = 4
ENOUGH = 250.0
"""With fewer draws' worth of weight the ends of an interval are a matter of chance."""
MOST_OF_ONE = 0.05
"""No draw counts for more in the fit of the next proposal."""
RIDGE = 0.03
"""The part of the first proposal's covariance that every fit keeps: few draws may lie in a plane."""
FREEDOM, WIDER = 6.0, 1.3
"""Of the tails, and by how much a proposal is wider than the density: what it misses is never seen."""


@dataclass(frozen=True)
class _Proposal:
    """A t distribution; ``spread`` turns independent draws into its own, ``narrow`` turns them back."""

    centre: Floats
    spread: Floats
    narrow: Floats
    log_volume: float

    def log_density(self, points: Floats) -> Floats:
        away = (points - self.centre) @ self.narrow.T
        density: Floats = -(FREEDOM + points.shape[1]) / 2 * np.log1p((away**2).sum(axis=1) / FREEDOM)
        return density - self.log_volume


class ImportanceSampler:
    """Draws ``count`` points of so many dimensions from each proposal; a seed fixes its random numbers."""

    def __init__(self, dimensions: int, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._units = [_antithetic(rng, count, dimensions) for _ in range(MOST_PROPOSALS)]

    def draw(
        self, log_density: Callable[[Floats], Floats], mode: Floats, precision: Floats
    ) -> tuple[Floats, Floats]:
        """Points, one a row, and their weights, which sum to 1.

        ``precision`` is the negative curvature of ``log_density`` at its mode, or near it.
        """
        covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        proposals = [_proposal(mode, covariance)]
        first = proposals[0].spread @ proposals[0].spread.T
        points = proposals[0].centre + self._units[0] @ proposals[0].spread.T
        log_target = log_density(points)
        weight = _weights(points, log_target, proposals)
        for units in self._units[1:]:
            if 1 / float((weight**2).sum()) >= ENOUGH:
                break
            part = np.minimum(weight, MOST_OF_ONE)
            part = part / part.sum()
            centre = part @ points
            away = points - centre
            proposals.append(_proposal(centre, (part[:, None] * away).T @ away + RIDGE * first))
            more = proposals[-1].centre + units @ proposals[-1].spread.T
            points = np.concatenate([points, more])
            log_target = np.concatenate([log_target, log_density(more)])
            weight = _weights(points, log_target, proposals)
        return points, weight


def _antithetic(rng: np.random.Generator, count: int, dimensions: int) -> Floats:
    normal = rng.normal(size=(count // 2, dimensions))
    scale = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, count // 2))[:, None]
    units: Floats = np.concatenate([normal * scale, -normal * scale])
    return units


def _proposal(centre: Floats, covariance: Floats) -> _Proposal:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    deviation = WIDER * np.sqrt(np.maximum(values, 1e-12))
    return _Proposal(centre, vectors * deviation, (vectors / deviation).T, float(np.log(deviation).sum()))


def _weights(points: Floats, log_target: Floats, proposals: list[_Proposal]) -> Floats:
    """Every draw's weight under the mixture of all proposals, each of which gave as many."""
    log_mixture = np.logaddexp.reduce([proposal.log_density(points) for proposal in proposals], axis=0)
    log_weight = log_target - log_mixture
    weight = np.exp(log_weight - log_weight.max())
    normed: Floats = weight / weight.sum()
    return normed
