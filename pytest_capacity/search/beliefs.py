"""What a search believes of the capacity: one posterior for each bound, and their joint quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from pytest_capacity.search.posterior import BoundPosterior, WindowCount
from pytest_capacity.search.spikes import SpikeShare, spike_share
from pytest_capacity.search.tail import Saturation, TailPosterior
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO, Bound

LOW, MIDDLE, HIGH = 0.05, 0.5, 0.95
"""The interval is 90 %, two-sided."""
CAREFUL, LOWEST, RATES = 0.4, 0.1, 10
"""Where the capacity is wide open: a rate a little below the middle, or one of so many between two ranks."""
MOST_TAIL_SHARE = 0.1
"""Above an allowed share of a tenth a bound is not about the tail: only its late requests are counted."""
UNKNOWN_LOAD = 0.7
"""How busy a server is taken to be where its saturation is not known."""
FAILING = 0.3
"""Where this share of the late requests have failed, latencies do not say where the limit lies."""
LEAST_FAILED = 5
PRIOR_FAILED = 40.0
"""So many failures outweigh what is expected beforehand of how they come in bursts."""
_BELOW, _ABOVE = 2.0, 2.5


class Beliefs:
    """The posterior of the highest rate up to which every bound of an SLO holds."""

    def __init__(self, slo: SLO) -> None:
        self._bounds = slo.bounds
        self._tails = {
            index: TailPosterior(bound.allowed_share, (bound.limit_ms or 0.0) / 1000)
            for index, bound in enumerate(slo.bounds)
            if bound.limit_ms is not None and bound.allowed_share <= MOST_TAIL_SHARE
        }
        self._counts: dict[int, BoundPosterior] = {}
        self._range = (0.0, 0.0)
        self._active: dict[int, TailPosterior | BoundPosterior] = {}
        self._blur = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether there was no evidence yet."""
        return not self._active

    def take(self, windows: Sequence[Window], saturation: Saturation | None, blur: float = 0.0) -> None:
        """Replace the evidence.

        ``blur`` is by how much, as a standard deviation, all rates together may be off: as where it is not
        known well how much slower than in the end the server still was.
        """
        self._blur = blur
        self._span([window.rate_qps for window in windows], saturation)
        failed, late = sum(w.failed for w in windows), sum(w.late for w in windows)
        fails = failed >= LEAST_FAILED and failed > FAILING * late
        self._active = {}
        for index, bound in enumerate(self._bounds):
            posterior = self._posterior(index, bound, fails=fails, failed=failed)
            if isinstance(posterior, TailPosterior):
                levels = [window.levels(bound) for window in windows]
                posterior.take(levels, saturation, _spikes(windows, bound, saturation, posterior))
            elif posterior is not None:
                counts = [window.counts()[index] for window in windows]
                is_about_failures = fails or bound.limit_ms is None
                posterior.take(_pooled(counts, windows) if is_about_failures else counts)
            if posterior is not None:
                self._active[index] = posterior

    def _posterior(
        self, index: int, bound: Bound, *, fails: bool, failed: int
    ) -> TailPosterior | BoundPosterior | None:
        if index in self._tails and not fails:
            return self._tails[index]
        if bound.limit_ms is None and failed == 0 and self._tails:
            # Without any failure the error rate does not limit what the latency bounds leave open.
            return None
        if index not in self._counts:
            self._counts[index] = BoundPosterior(bound.allowed_share, *self._range)
        return self._counts[index]

    def _span(self, rates: Sequence[float], saturation: Saturation | None) -> None:
        """Let counted bounds' grids reach from below the lowest rate seen to above the highest."""
        known = [*rates, *([saturation.qps] if saturation else [])]
        wanted = (min(known) / _BELOW, max(known) * _ABOVE)
        if self._counts:
            top = max(wanted[1], self._range[1])
            high = max(posterior.quantile(HIGH) for posterior in self._counts.values())
            if high > 0.9 * self._range[1]:
                top = max(top, self._range[1] * _ABOVE)
            wanted = (min(wanted[0], self._range[0]), top)
        if wanted != self._range:
            self._range, self._counts = wanted, {}

    def quantile(self, probability: float) -> float:
        """The rate below which the capacity lies with this probability, bounds taken as independent."""
        sharp = self._sharp(probability)
        if not self._blur or probability == MIDDLE:
            return sharp
        middle = self._sharp(MIDDLE)
        away = math.hypot(math.log(sharp / middle), self._blur * NormalDist().inv_cdf(probability))
        return middle * math.exp(math.copysign(away, probability - MIDDLE))

    def _sharp(self, probability: float) -> float:
        if len(self._active) == 1:
            return next(iter(self._active.values())).quantile(probability)
        low = min(posterior.quantile(0.001) for posterior in self._active.values())
        high = min(posterior.quantile(0.999) for posterior in self._active.values())
        grid = np.linspace(math.log(low), math.log(max(high, low * 1.0001)), 2000)
        above = np.ones_like(grid)
        for posterior in self._active.values():
            above *= 1 - posterior.below(grid)
        return math.exp(float(np.interp(probability, np.maximum.accumulate(1 - above), grid)))

    def width(self) -> float:
        """The interval's width as a share of its lower end."""
        return self.quantile(HIGH) / self.quantile(LOW) - 1

    @property
    def binding(self) -> int:
        """The index of the bound that limits."""
        return min(self._active, key=lambda index: self._active[index].quantile(MIDDLE))

    def condition_number(self) -> float:
        """That of the bound that limits."""
        return self._active[self.binding].condition_number()

    def ill_conditioned(self, limit: float) -> float:
        """The probability that the condition number of the bound that limits is above ``limit``."""
        return self._active[self.binding].ill_conditioned(limit)

    def calm_qps(self) -> float | None:
        """The capacity without spikes, where the tail of the latencies tells them apart."""
        posterior = self._active[self.binding]
        return posterior.calm_quantile(MIDDLE) if isinstance(posterior, TailPosterior) else None

    def telling_rate(self, seconds: float) -> float:
        """The rate at which so many seconds would tell most, of those at which the capacity may well lie."""
        posterior = self._active[self.binding]
        if not isinstance(posterior, TailPosterior):
            return self.quantile(CAREFUL)
        rates = np.geomspace(self.quantile(LOWEST), self.quantile(MIDDLE), RATES)
        return float(rates[int(np.argmax(posterior.telling(rates, seconds)))])

    def use_at(self, rate_qps: float) -> float:
        """How many times its allowed share a bound is expected to use at a rate, for the worst of them."""
        uses = [
            posterior.share_at(rate_qps) / self._bounds[index].allowed_share
            for index, posterior in self._active.items()
            if isinstance(posterior, TailPosterior)
        ]
        return max(uses, default=0.0)


def _pooled(counts: Sequence[WindowCount], windows: Sequence[Window]) -> list[WindowCount]:
    """The same counts with the design effect that failures in all windows together show.

    A full queue turns requests away in bursts as long as its own memory, which no latency limit tells: what
    is expected beforehand is soon outweighed by what is seen.
    """
    sums = np.array([window.failure_spreads() for window in windows]).reshape(len(windows), -1, 2).sum(axis=0)
    seen = float((sums[:, 0] / np.maximum(sums[:, 1], 1e-9)).max()) if len(sums) else 1.0
    failed = sum(window.failed for window in windows)
    weight = PRIOR_FAILED / (PRIOR_FAILED + failed)
    return [replace(count, effect=max(1.0, weight * count.effect + (1 - weight) * seen)) for count in counts]


def _spikes(
    windows: Sequence[Window], bound: Bound, saturation: Saturation | None, before: TailPosterior
) -> SpikeShare:
    """The ledger of spikes under a bound, over all windows, at loads as they were believed before."""

    def load_at(rate_qps: float) -> float:
        known = rate_qps / saturation.qps if saturation else before.load_at(rate_qps)
        return UNKNOWN_LOAD if known is None else known

    seen = [
        (spike, window.rate_qps, load_at(window.rate_qps))
        for window in windows
        for spike in window.spikes(bound)
    ]
    played = [(window.rate_qps, window.evidence.seconds, len(window.spikes(bound))) for window in windows]
    idle_s = min((window.median_s() for window in windows), default=math.inf)
    return spike_share(seen, played, bound.allowed_share, idle_s)
