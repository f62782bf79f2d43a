"""How warm a server is, told from the work that it has done: a posterior of what it still has to gain.

A cold server (a JIT, a cache, lazy loading) gets faster with the requests it has served, whatever time that
takes: the cost of request n is taken to be

    cost(n) = last cost x (1 + e exp(-n / r))

Where the server is kept busy its throughput is the cost's inverse. On a grid of (e, r), with a part of the
prior on e = 0 (it was warm all along), the last cost is what fits best and the noise around it is integrated
out: what is left is a Student likelihood. A flat throughput over few requests therefore does not rule out a
slow warm-up, only over many does it. This test of a trend over work replaces a wait in seconds, of which a
slow server needs many more than a quick one. The grid is laid twice: over all, and finer over what is likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pytest_capacity.protocols import Floats

COLD_SHARE = 0.3
"""How many servers are expected to be cold at all when the load begins."""
LEAST_BATCHES, MOST_BATCHES, LEAST_IN_BATCH = 3, 30, 8
BURST_S = 0.001
"""What is done within a millisecond was done at once: a batch of the server's own."""
NOISE, NOISE_WEIGHT = 0.02, 4.0
"""What a batch's throughput is expected to scatter, as a share, and how many batches that guess is worth."""
PARTS, PART_NOISE = 10, 0.02
INDEPENDENT = 0.6
"""Batches in a row are not independent (pauses, neighbours): so much of their number counts."""

FORM_ERROR = 0.1
"""Costs do not fall just as the form has it: what is left is not known better than to this part of itself."""

_LOG_EXCESS, _LOG_OVER = (math.log(0.05), math.log(30.0)), (math.log(30.0), math.log(60_000.0))
_COARSE, _FINE = (20, 26), (18, 18)
_UNLIKELY = 1e-3


Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Batches:
    """What a request cost, in seconds, in batches of ``size`` requests, and what was done before each.

    ``done`` counts the server's requests up to the middle of each batch. Runs of one ``group`` share the cost
    of the warm server, as they do at one concurrency.
    """

    group: int
    cost_s: Floats
    done: Floats
    size: int


def batches_of(times_s: Floats, group: int, done_before: float) -> Batches | None:
    """The batches of a run of moments, in order, at which requests were done; None where they are too few."""
    at_once = int((np.searchsorted(times_s, times_s + BURST_S) - np.arange(len(times_s))).max(initial=1))
    size = max(LEAST_IN_BATCH, 2 * at_once, (len(times_s) - 1) // MOST_BATCHES)
    count = (len(times_s) - 1) // size
    if count < LEAST_BATCHES:
        return None
    edges = times_s[: count * size + 1 : size]
    done = done_before + size * (np.arange(count, dtype=np.float64) + 0.5)
    return Batches(group, np.diff(edges) / size, done, size)


class Warmth:
    """What runs under full load say of a server's warmth; without any run the prior speaks.

    Numbers of requests count from the server's first. ``noise`` is by what share batches are expected to
    scatter.
    """

    def __init__(self, runs: Sequence[Batches] = (), *, noise: float = NOISE) -> None:
        self._noise = noise
        self._cost_s: dict[int, Floats] = {}
        self._relative: dict[int, Floats] = {}
        self._weigh(runs, _LOG_EXCESS, _LOG_OVER, _COARSE)
        if runs:
            self._weigh(runs, *self._likely_ranges(), _FINE)

    def _weigh(
        self, runs: Sequence[Batches], log_excess: Range, log_over: Range, counts: tuple[int, int]
    ) -> None:
        """Lay a grid over a part of the plane, the server that is warm beside it, and weigh its points."""
        log_e, log_r = np.meshgrid(np.linspace(*log_excess, counts[0]), np.linspace(*log_over, counts[1]))
        self._excess = np.concatenate([[0.0], np.exp(log_e.ravel())])
        self._over = np.concatenate([[1.0], np.exp(log_r.ravel())])
        part = _span(log_excess) * _span(log_over) / (_span(_LOG_EXCESS) * _span(_LOG_OVER))
        self._prior: Floats = np.full(len(self._excess), COLD_SHARE * part / log_e.size)
        self._prior[0] = 1 - COLD_SHARE
        log_weight = np.log(self._prior) + self._fit(runs)
        weight = np.exp(log_weight - log_weight.max())
        self._weight: Floats = weight / weight.sum()

    def _likely_ranges(self) -> tuple[Range, Range]:
        """The part of the coarse grid that holds all that is likely, with a step around it."""
        cold = self._weight[1:] >= _UNLIKELY * self._weight[1:].max()
        ranges = []
        for values, whole, count in (
            (np.log(self._excess[1:]), _LOG_EXCESS, _COARSE[0]),
            (np.log(self._over[1:]), _LOG_OVER, _COARSE[1]),
        ):
            step, likely = _span(whole) / (count - 1), values[cold]
            ranges.append((max(whole[0], likely.min() - step), min(whole[1], likely.max() + step)))
        return ranges[0], ranges[1]

    def _fit(self, runs: Sequence[Batches]) -> Floats:
        """The logarithm of the likelihood at each point of the grid; keeps each group's cost."""
        result: Floats = np.zeros(len(self._excess))
        for group in dict.fromkeys(run.group for run in runs):
            same = [run for run in runs if run.group == group]
            size = np.concatenate([np.full(len(run.done), float(run.size)) for run in same])
            done = np.concatenate([run.done for run in same])
            warm_s = np.concatenate([run.cost_s for run in same]) / np.exp(self._log_slowdown(done))
            mean_s = warm_s @ size / size.sum()
            squares = NOISE_WEIGHT * self._noise**2 + INDEPENDENT * (warm_s / mean_s[:, None] - 1) ** 2 @ (
                size / size.mean()
            )
            self._cost_s[group], self._relative[group] = mean_s, warm_s / mean_s[:, None]
            freedom = NOISE_WEIGHT + INDEPENDENT * (len(done) - 1)
            result -= freedom / 2 * np.log(squares / freedom)
        return result

    def _log_slowdown(self, done: Floats) -> Floats:
        """At each point of the grid (rows) after so many requests (columns)."""
        result: Floats = np.log1p(self._excess[:, None] * np.exp(-done[None, :] / self._over[:, None]))
        return result

    def slowdown(self, done: float) -> tuple[float, float]:
        """The logarithm of the factor on a request's cost after so many: its median and its deviation."""
        left, spread = self._middle(self._log_slowdown(np.array([done]))[:, 0])
        return left, math.hypot(spread, FORM_ERROR * left)

    def still_cold(self, done: float, by: float) -> float:
        """The probability that a request costs more than a share ``by`` more than it will in the end."""
        slowdown = self._log_slowdown(np.array([done]))[:, 0]
        return float(self._weight[slowdown > math.log1p(by)].sum())

    def warm_rate(self, group: int) -> tuple[float, float] | None:
        """The throughput of the warm server as a group's runs were loaded, with its relative error."""
        if group not in self._cost_s:
            return None
        mean, spread = self._middle(-np.log(self._cost_s[group]))
        return math.exp(mean), math.hypot(spread, self._error(group))

    def may_serve(self, rate_qps: float, group: int) -> float:
        """The probability that the warm server, loaded as a group, serves more than a rate; 1 if unknown."""
        if group not in self._cost_s:
            return 1.0
        return float(self._weight[self._cost_s[group] * rate_qps < 1].sum())

    def _error(self, group: int) -> float:
        """The relative error of a group's mean cost, from the means of a few parts of its runs.

        Batches next to each other are not independent (a server's own batches, pauses); parts nearly are.
        """
        likeliest = int(self._weight.argmax())
        relative = self._relative[group][likeliest]
        parts = [float(part.mean()) for part in np.array_split(relative, min(PARTS, len(relative)))]
        squares = float(((np.array(parts) - np.mean(parts)) ** 2).sum()) + NOISE_WEIGHT * PART_NOISE**2
        return math.sqrt(squares / (len(parts) - 1 + NOISE_WEIGHT) / len(parts))

    def _middle(self, values: Floats) -> tuple[float, float]:
        """The median, and half of what the middle two thirds span: what is unlikely moves neither."""
        order = np.argsort(values)
        below = np.cumsum(self._weight[order])
        low, middle, high = values[order][np.searchsorted(below, (0.16, 0.5, 0.84))]
        return float(middle), float(high - low) / 2


def _span(of: Range) -> float:
    return of[1] - of[0]
