"""QBS as section 3 of the document on search algorithms gives it, constant by constant.

What the document leaves open is set here: blocks of batch means are half a second, the posterior's grid has
240 rates, an overload speaks as the largest late share that a window is allowed to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.search.baselines import closed_loop_warm_up
from benchmarks.search.population import ALLOWED, LIMIT_S
from benchmarks.search.scripted import Played, Script, Scripted, Trial
from pytest_capacity.protocols import Floats

BATCH_S = 0.5
SETTLE_S = 1.0
PHI_0, PHI_BLOCKS = 60.0, 20.0
WINSORISED, FLOOR = 0.15, -5.0
WIDE, PROBE_S, WINDOW_S, SOAK_S = 0.35, 2.5, 6.0, 10.0
WIDTH, REOPENED = 0.08, 1.1
SLOPES = (6.0, 9.0, 14.0, 20.0, 30.0, 45.0, 70.0)
FLOORS = (1e-4, 5e-4, 1e-3, 2e-3, 4e-3, 6e-3, 8e-3)
ABOVE_PEAK, BELOW_PEAK = 0.05, 0.35
"""The prior's deviations: the capacity is rarely above what the closed loop got through."""


class Posterior:
    """Of the capacity's logarithm, the slope and the floor of the late share, on a grid."""

    def __init__(self, peak_qps: float) -> None:
        self._theta: Floats = math.log(peak_qps) + np.linspace(-2.0, 0.3, 240)
        slope, floor = np.array(SLOPES), np.array(FLOORS)
        self._slope = slope[None, :, None]
        self._floor = floor[None, None, :]
        at_capacity = (ALLOWED - self._floor) / (1 - self._floor)
        self._offset = np.log(at_capacity / (1 - at_capacity))
        away = self._theta - math.log(peak_qps)
        prior = -0.5 * (away / np.where(away > 0, ABOVE_PEAK, BELOW_PEAK)) ** 2
        self._log = np.broadcast_to(prior[:, None, None], (240, len(slope), len(floor))).copy()

    def share(self, rate_qps: float) -> Floats:
        """The late share at a rate, for every hypothesis."""
        x = self._offset + self._slope * (math.log(rate_qps) - self._theta[:, None, None])
        share: Floats = self._floor + (1 - self._floor) / (1 + np.exp(-np.clip(x, -60, 60)))
        return np.minimum(share, 1 - 1e-9)

    def take(self, rate_qps: float, bad: float, total: float, phi: float, *, at_least: bool = False) -> None:
        """A window's counts; with ``at_least`` no larger share is any less likely."""
        share = self.share(rate_qps)
        if at_least:
            share = np.minimum(share, bad / total)
        log = (bad * np.log(share) + (total - bad) * np.log1p(-share)) / phi
        self._log += np.maximum(log - log.max(), FLOOR)

    def quantile(self, probability: float) -> float:
        """A quantile of the capacity."""
        weight = np.exp(self._log - self._log.max()).sum(axis=(1, 2))
        at = np.cumsum(weight) / weight.sum()
        return math.exp(float(np.interp(probability, at, self._theta)))


class QBS(Scripted):
    """Quasi-Bayesian sequential search."""

    def __init__(self, budget_s: float) -> None:
        super().__init__(budget_s)
        self._posterior: Posterior | None = None
        self._effects: list[tuple[float, int]] = []
        self._backlogs: list[int] = []

    def script(self) -> Script:
        """Warm up, refine, confirm."""
        peak_qps = yield from closed_loop_warm_up(self)
        self._posterior = posterior = Posterior(peak_qps)
        above = True
        while True:
            self._report()
            low, lower, q40, middle, upper = (posterior.quantile(p) for p in (0.05, 0.25, 0.4, 0.5, 0.75))
            width = posterior.quantile(0.95) / low - 1
            if width <= WIDTH:
                yield from self._learn(low, SOAK_S)
                if posterior.quantile(0.95) / posterior.quantile(0.05) - 1 <= REOPENED * WIDTH:
                    return
            elif width > WIDE:
                yield from self._learn(q40, PROBE_S)
            else:
                yield from self._learn(
                    max(upper, 1.04 * middle) if above else min(lower, 0.97 * middle), WINDOW_S
                )
                above = not above

    def _report(self) -> None:
        if self._posterior is not None:
            quantiles = (self._posterior.quantile(part) for part in (0.05, 0.5, 0.95))
            self.low_qps, self.estimate_qps, self.high_qps = quantiles

    def _learn(self, rate_qps: float, seconds: float) -> Played:
        """Settle, measure, stop early where it is clear, and feed what was seen to the posterior."""
        self._backlogs = []
        trial = yield from self.play(
            "open", SETTLE_S + seconds, rate_qps=rate_qps, settle_s=SETTLE_S, until=self._is_clear
        )
        assert self._posterior is not None
        total, bad = trial.total, trial.bad
        if self._is_overloaded(rate_qps):
            total = max(total, int(rate_qps * SETTLE_S))
            effect = self._effect(trial)
            self._posterior.take(rate_qps, WINSORISED * total, total, effect, at_least=True)
        elif total:
            effect = self._effect(trial)
            self._posterior.take(rate_qps, min(bad, WINSORISED * total), total, effect)
        self._report()
        if trial.in_flight > rate_qps * LIMIT_S:
            yield from self.cool()
        return trial

    def _is_clear(self, trial: Trial) -> bool:
        self._backlogs.append(trial.in_flight)
        clear_fail = trial.share > 0.1 and trial.in_flight > trial.rate_qps * LIMIT_S
        return clear_fail or self._is_overloaded(trial.rate_qps)

    def _is_overloaded(self, rate_qps: float) -> bool:
        """Three blocks with more in flight than three limits hold, and not falling."""
        last = self._backlogs[-3:]
        return len(last) == 3 and min(last) > 3 * rate_qps * LIMIT_S and last[-1] >= last[0]

    def _effect(self, trial: Trial) -> float:
        """The larger of the pooled design effect, shrunk to 60 by 20 blocks, and the window's own."""
        own, blocks = design_effect(trial)
        if blocks > 2 and own > 0:
            self._effects.append((own, blocks))
        weight = PHI_BLOCKS + sum(count for _, count in self._effects)
        pooled = (PHI_BLOCKS * PHI_0 + sum(effect * count for effect, count in self._effects)) / weight
        return max(pooled, own, 1.0)


def design_effect(trial: Trial) -> tuple[float, int]:
    """How many times the variance of the late count is that of independent requests; 0 where none tells."""
    intended, late = trial.intended_s, trial.latency_s > LIMIT_S
    if not late.any() or late.all():
        return 0.0, 0
    block = np.floor((intended - intended[0]) / BATCH_S).astype(int)
    counts: Sequence[float] = np.bincount(block, weights=late).tolist()
    totals = np.bincount(block)
    share = float(late.mean())
    excess = np.array(counts) - share * totals
    blocks = len(totals)
    if blocks < 3:
        return 0.0, blocks
    variance = float((excess**2).sum()) / (blocks - 1)
    return variance / (float(totals.mean()) * share * (1 - share)), blocks
