"""What windows of load at several rates say about the capacity: a grid posterior for each bound.

The share of bad requests is modelled as a floor plus a logistic curve in the logarithm of the rate, which
reaches the allowed share at the capacity. Windows enter with their counts deflated by a design effect, so
that a burst counts as the one event that it is, and each contributes a bounded amount, so that none is
irrevocable. The ancestors of this quasi-Bayesian search are QUEST (Watson and Pelli, Perception &
Psychophysics 33 (1983)) and PLRsearch (draft-ietf-bmwg-plrsearch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats

POINTS = 500
SLOPES = np.array([2.0, 3.0, 4.5, 6.5, 9.0, 13.0, 19.0, 28.0, 40.0, 70.0])
"""How steeply the odds of a bad request grow with the logarithm of the rate; real knees are at 6 to 70."""
SLOPE_WEIGHTS = np.array([0.05, 0.05, 0.15, 0.4, 0.8, 1.0, 1.0, 1.0, 0.8, 0.4])
"""Servers whose lateness hardly depends on the rate exist, but are few."""
FLOORS = np.array([0.01, 0.03, 0.1, 0.3, 0.8])
"""The share of bad requests far below capacity (pauses, spikes), as a part of the allowed share."""

MOST_BAD = 15.0
"""Bad requests beyond this many times the allowed share say no more about where the limit lies."""
LEAST_NATS = -8.0
"""The most that one window may count against a rate: evidence can always be outweighed."""


@dataclass(frozen=True)
class WindowCount:
    """One window's evidence on one bound."""

    rate_qps: float
    bad: int
    total: int
    effect: float


class BoundPosterior:
    """The posterior of one bound's capacity on a fixed logarithmic grid of rates, in requests a second."""

    def __init__(self, allowed_share: float, low_qps: float, high_qps: float) -> None:
        self.grid_qps: Floats = np.geomspace(low_qps, high_qps, POINTS)
        self._allowed = allowed_share
        self._log_rate = np.log(self.grid_qps)[:, None, None]
        self._slope = SLOPES[None, :, None]
        self._floor = (FLOORS * allowed_share)[None, None, :]
        scaled = (allowed_share - self._floor) / (1 - self._floor)
        self._level = np.log(scaled / (1 - scaled))
        self._known: dict[tuple[float, int, int], Floats] = {}
        self._prior = np.broadcast_to(
            np.log(SLOPE_WEIGHTS)[None, :, None], (POINTS, len(SLOPES), len(FLOORS))
        )
        self._weight: Floats = np.ones_like(self._prior)
        self._set(np.zeros_like(self._prior))

    def take(self, counts: Sequence[WindowCount]) -> None:
        """Replace the evidence by these windows; those seen before cost little."""
        before, self._known = self._known, {}
        total = np.zeros_like(self._weight)
        for count in counts:
            key = (count.rate_qps, count.bad, count.total)
            self._known[key] = before[key] if key in before else self._likelihood(*key)
            total += np.maximum(self._known[key] / count.effect, LEAST_NATS)
        self._set(total)

    def quantile(self, probability: float) -> float:
        """The rate below which the capacity lies with this probability."""
        return float(np.interp(probability, np.cumsum(self.marginal), self.grid_qps))

    def below(self, log_qps: Floats) -> Floats:
        """The probability that the capacity's logarithm is below each of these."""
        result: Floats = np.interp(
            log_qps, np.log(self.grid_qps), np.cumsum(self.marginal), left=0.0, right=1.0
        )
        return result

    @property
    def marginal(self) -> Floats:
        """The probability of each rate of the grid."""
        marginal: Floats = self._weight.sum(axis=(1, 2))
        return marginal

    def condition_number(self) -> float:
        """The median over the posterior of d ln(capacity) / d ln(allowed share)."""
        numbers, weights = self._condition_numbers()
        order = np.argsort(numbers)
        middle = int(np.searchsorted(np.cumsum(weights[order]), 0.5))
        return float(numbers[order][min(middle, len(order) - 1)])

    def ill_conditioned(self, limit: float) -> float:
        """The probability that the condition number is above a limit."""
        numbers, weights = self._condition_numbers()
        return float(weights[numbers > limit].sum())

    def _condition_numbers(self) -> tuple[Floats, Floats]:
        """The condition number of each slope and floor, with its weight."""
        scaled = (self._allowed - self._floor) / (1 - self._floor)
        steepness = (1 - self._floor) * self._slope * scaled * (1 - scaled)
        numbers: Floats = (self._allowed / steepness)[0].ravel()
        weights: Floats = self._weight.sum(axis=0).ravel()
        return numbers, weights

    def _likelihood(self, rate_qps: float, seen: int, total: int) -> Floats:
        """That of independent requests, by the logarithm, 0 where it is greatest."""
        if total == 0:
            return np.zeros_like(self._weight)
        bad = min(seen, min(0.9, MOST_BAD * self._allowed) * total)
        distance = self._level + self._slope * (np.log(rate_qps) - self._log_rate)
        share = self._floor + (1 - self._floor) / (1 + np.exp(-np.clip(distance, -50, 50)))
        share = np.clip(share, 1e-9, 1 - 1e-9)
        likelihood = bad * np.log(share) + (total - bad) * np.log1p(-share)
        below: Floats = likelihood - likelihood.max()
        return below

    def _set(self, log_weight: Floats) -> None:
        log_weight = log_weight + self._prior
        weight = np.exp(log_weight - log_weight.max())
        self._weight = weight / weight.sum()
