"""What the whole tail of the latencies says about a capacity: a posterior from counts above several levels.

Late requests alone are few and come in bursts. The shares of requests above levels below the bound, at rates
below the capacity, say how many would be above the bound at any rate nearby (``tailform``). Requests hit by
spikes (``spikes``) are left out here, and what spikes and the floor take of the allowed share moves the
capacity down afterwards. The share of independent information in a count is the design effect that heavy
traffic gives, proportional to rate x limit x g / eta(x)^2 (Whitt, "Planning queueing simulations", Management
Science 35 (1989)). The counts enter as a quasi-likelihood (Wedderburn 1974), each level with a part of its
weight, since levels repeat each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pytest_capacity.protocols import Floats
from pytest_capacity.search.importance import MOST_PROPOSALS, ImportanceSampler
from pytest_capacity.search.spikes import SpikeShare, spike_share
from pytest_capacity.search.tailform import LEVELS, NAMES, PRIOR, SPREAD, Parts, TailForm

BURSTS = 5.0
"""The design effect in units of rate x limit x g / eta^2, as simulated servers show it."""
EXPECTED_BURSTS = 2.0
"""The design effect in units of rate x limit that is expected where nothing was seen yet."""
FORM_ERROR = 0.7
"""How wrong the form may be, in the logarithm of a share, over the whole way from nothing to the limit."""
FLOOR_BURSTS = 2.0
"""The design effect of requests that take too long on an idle server."""
CALM_WINDOWS = 3.0
"""So many windows that differ by as much as the design effect expects are believed beforehand."""
MOST_MISS = 25.0
"""No window's squared miss, in units of its variance, counts for more."""
LEAST_EXPECTED, LEAST_WINDOWS = 0.5, 3
"""A level of which fewer independent requests are expected says nothing of how windows differ, nor do fewer
windows."""
LEVEL_WEIGHT = 0.33
"""What a level's count counts for beside the others': together less than three of eight are independent."""
TAIL_SHARE = 0.25
"""Above this share a level is no part of the tail."""
FAR = 0.12
"""The model is linear in the logarithm of the rate this far from the capacity; beyond evidence fades."""
EDGE, WELL_BELOW = 0.1, 0.35
"""However far from the capacity, a rate at which a queue was no longer steady is above it, and one at which
few were late is not far above it: that much in the logarithm of the rate costs a nat."""
MOST_SHARE = 0.15
"""A queue that makes this many requests late is no longer steady: more says nothing more."""
SATURATION_ERROR, SATURATION_GAP_ERROR = 0.007, 0.12
"""How far a closed loop's throughput may be from where the tail's decay vanishes: as parts of itself and of
the gap between it and the capacity."""

_DRAWS, _SEED = 512, 20260612
MOST_TURNS = 4
_STEP = np.array([1e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-2])
_FURTHEST = np.array([0.15, 0.7, 0.5, 0.4, 2.0, 2.0])
_REACH = 3.0
"""Flat servers are told apart only over a wide range of rates: evidence reaches to this over the slope."""
_NORMAL_RANK = np.linspace(0.001, 0.999, 999)
_NORMAL = np.array([NormalDist().inv_cdf(float(rank)) for rank in _NORMAL_RANK])


@dataclass(frozen=True)
class LevelCounts:
    """One window's evidence on one bound: how many of ``total`` requests were above each of ``LEVELS``.

    ``rate_qps`` is the rate that the load of a warm server would have had; ``effect`` the design effect that
    the window itself shows at the limit, 1 where it shows none; ``overloaded`` says that its backlog grew.
    """

    rate_qps: float
    total: int
    above: tuple[int, ...]
    effect: float = 1.0
    overloaded: bool = False


@dataclass(frozen=True)
class Saturation:
    """The throughput at which a server saturates, and its relative standard error."""

    qps: float
    error: float


@dataclass(frozen=True)
class _Data:
    log_rate: Floats
    total: Floats
    above: Floats
    most: Floats
    """The greatest count above each level that is believed."""
    own_effect: Floats
    too_high: Floats
    """The capacity's logarithm is below these: at such rates a queue was no longer steady."""
    bearable: Floats
    """It is above these: well below rates at which few were late."""


class TailPosterior:
    """The posterior of one latency bound's capacity.

    ``allowed_share`` and ``limit_s`` are the bound's. ``far`` is how far from the capacity, in the logarithm
    of the rate, evidence counts; who judges one rate alone lets all count. The random numbers behind it are
    fixed: the same evidence gives the same answer.
    """

    def __init__(self, allowed_share: float, limit_s: float, *, far: float = FAR) -> None:
        self._allowed, self._limit_s, self._far = allowed_share, limit_s, far
        self._form = TailForm(allowed_share)
        # The greatest share that counts, level by level: only that of the limit itself is cut.
        self._cap: Floats = np.full(len(LEVELS), 1 - 1e-9)
        self._cap[-1] = max(MOST_SHARE, min(0.9, 3 * allowed_share))
        self._sampler = ImportanceSampler(len(NAMES), _DRAWS, _SEED)
        rng = np.random.default_rng(_SEED)
        ranks = (np.arange(_DRAWS) + 0.5) / _DRAWS
        self._spike_rank, self._growth_rank = (
            np.concatenate([rng.permutation(ranks) for _ in range(MOST_PROPOSALS)]) for _ in range(2)
        )
        self._mode: Floats | None = None
        self._draws: Floats = np.zeros((1, len(NAMES)))
        self._capacity: Floats = np.zeros(1)
        self._order = np.zeros(1, dtype=np.intp)
        self._cumulative: Floats = np.ones(1)
        self._condition: Floats = np.zeros(1)
        self._weight: Floats = np.ones(1)
        self._weigh_as: Floats = np.ones((1, len(LEVELS)))
        self._calm: Floats = np.zeros(1)
        self._spikes = spike_share([], [], allowed_share)
        self._saturation: Saturation | None = None
        self._saturation_sd = 1.0

    def take(
        self,
        windows: Sequence[LevelCounts],
        saturation: Saturation | None = None,
        spikes: SpikeShare | None = None,
    ) -> None:
        """Replace the evidence; needs a window or a saturation."""
        self._saturation = saturation
        self._spikes = spikes or spike_share([], [], self._allowed)
        total = np.array([float(w.total) for w in windows])
        above = np.array([w.above for w in windows], dtype=float).reshape(len(windows), len(LEVELS))
        most = self._cap * total[:, None]
        data = _Data(
            np.log([w.rate_qps for w in windows]) if windows else np.empty(0),
            total,
            np.minimum(above, most),
            most,
            np.array([w.effect for w in windows]),
            np.log([w.rate_qps for w in windows if self._is_broken(w)] or [math.inf]),
            np.log([w.rate_qps for w in windows if self._is_held(w)] or [1e-300]) - WELL_BELOW,
        )
        mode = self._start(data) if self._mode is None else self._mode
        weighed = mode
        for turn in range(MOST_TURNS):
            # Weights follow the mode and the mode the weights: halfway, they chase each other in no circle.
            weighed = mode if turn < 2 else (mode + weighed) / 2
            self._weigh(weighed, data)
            mode = self._climb(weighed, data)
            if float(np.abs(mode - weighed).max()) < 0.03:
                break
        self._mode = mode
        self._draws, self._weight = self._sampler.draw(
            lambda points: self._log_posterior(points, data), mode, self._slope(mode, data)[1]
        )
        self._lower()

    def _is_broken(self, window: LevelCounts) -> bool:
        return window.overloaded or window.above[-1] > self._cap[-1] * window.total

    def _is_held(self, window: LevelCounts) -> bool:
        return not window.overloaded and window.above[-1] <= self._allowed * window.total > 0

    def quantile(self, probability: float) -> float:
        """The rate below which the capacity lies with this probability."""
        below = self._cumulative - self._weight[self._order] / 2
        return math.exp(float(np.interp(probability, below, self._capacity[self._order])))

    def below(self, log_qps: Floats) -> Floats:
        """The probability that the capacity's logarithm is below each of these."""
        ranked = self._capacity[self._order]
        result: Floats = np.interp(log_qps, ranked, self._cumulative, left=0.0, right=1.0)
        return result

    def condition_number(self) -> float:
        """The median of d ln(capacity) / d ln(allowed share)."""
        return _weighted_quantile(self._condition, self._weight, 0.5)

    def ill_conditioned(self, limit: float) -> float:
        """The probability that the condition number is above a limit."""
        return float(self._weight[self._condition > limit].sum())

    def calm_quantile(self, probability: float) -> float:
        """A quantile of the capacity that the server would have without its spikes."""
        return math.exp(_weighted_quantile(self._calm, self._weight, probability))

    def share_quantile(self, rate_qps: float, probability: float) -> float:
        """A quantile of the share of late requests at a rate, spikes and the floor included."""
        parts = self._parts()
        x = math.log(rate_qps) - self._draws[:, 0]
        share = self._allowed * parts.use(np.minimum(x, parts.furthest()))
        return min(1.0, _weighted_quantile(share, self._weight, probability))

    def telling(self, rates_qps: Floats, seconds: float) -> Floats:
        """How much of the variance of the capacity's logarithm so many seconds at each rate would take away.

        Counts late requests only, by the draws' linear regression on the root of their number, whose noise is
        the same at every rate (Chaloner and Verdinelli, "Bayesian experimental design: a review", Statistical
        Science 10 (1995)).
        """
        parts, weight = self._parts(), self._weight
        away = self._capacity - float((weight * self._capacity).sum())
        gains = []
        for rate in rates_qps:
            x = math.log(rate) - self._draws[:, 0]
            share = np.minimum(self._allowed * parts.use(np.minimum(x, parts.furthest())), MOST_SHARE)
            independent = rate * seconds / (1 + EXPECTED_BURSTS * rate * self._limit_s)
            seen = 2 * np.sqrt(independent * share)
            seen -= float((weight * seen).sum())
            gains.append(float((weight * seen * away).sum()) ** 2 / (1 + float((weight * seen**2).sum())))
        return np.array(gains)

    def share_at(self, rate_qps: float) -> float:
        """The share of late requests to expect at a rate, spikes left out, at the posterior's mode."""
        mode = self._draws[:1] if self._mode is None else self._mode[None]
        return float(self._form.shares(mode, np.array([math.log(rate_qps)]))[0, 0, -1])

    def load_at(self, rate_qps: float) -> float | None:
        """How busy the server is at a rate, 0 to 1, at the posterior's mode; None before any evidence."""
        if self._mode is None:
            return None
        decay, decay_slope = (float(part[0]) for part in self._form.decay_of(self._mode[None]))
        return min(1.0, math.exp(math.log(rate_qps) - float(self._mode[0]) - decay / decay_slope))

    def _lower(self) -> None:
        """What spikes and the floor leave of the queue's own capacity, for each draw.

        The capacity is where queue, floor and spikes together use the allowed share, below the queue's own.
        """
        parts = self._parts()
        x = parts.solve()
        self._calm = self._draws[:, 0] + parts.without_spikes()
        self._capacity = self._draws[:, 0] + x
        self._order = np.argsort(self._capacity)
        self._cumulative = np.cumsum(self._weight[self._order])
        rise = (parts.use(x + 0.01) - parts.use(x - 0.01)) / 0.02
        self._condition = 1 / np.maximum(rise, 1e-3)

    def _parts(self) -> Parts:
        """What uses up the allowed share, for each draw."""
        decay, decay_slope = self._form.decay_of(self._draws)
        belief = self._spikes
        load = np.clip(np.exp(-decay / decay_slope), 0.05, 0.98) if belief.count else np.zeros_like(decay)
        count = len(load)
        # Before the first evidence there is one draw only.
        which = np.searchsorted(np.cumsum([g.weight for g in belief.growths])[:-1], self._growth_rank[:count])
        log_mean = np.array([growth.log_mean for growth in belief.growths])[which]
        power = np.array([growth.power for growth in belief.growths])[which]
        rank = (self._spike_rank[:count] - belief.absent) / max(1 - belief.absent, 1e-9)
        drawn = np.exp(log_mean + belief.log_sd * np.interp(rank, _NORMAL_RANK, _NORMAL))
        away = np.clip(power * (self._draws[:, 0] - belief.log_rate), -50, 5)
        return Parts(
            slope=np.exp(self._draws[:, 1]),
            load=load,
            floor=self._form.floor_of(self._draws),
            spikes=np.where(rank > 0, drawn, 0.0) / self._allowed * np.exp(away),
            power=power,
            waiting=belief.waiting,
            seen_queue=belief.seen_load / (1 - belief.seen_load),
        )

    def _start(self, data: _Data) -> Floats:
        mode = PRIOR.copy()
        if self._saturation is not None:
            mode[0] = math.log(self._saturation.qps) - 0.2
        elif len(data.log_rate):
            mode[0] = float(data.log_rate.max())
        return mode

    def _weigh(self, mode: Floats, data: _Data) -> None:
        """Fix the design effects, and how far the saturation binds, at the present mode."""
        decay, decay_slope = (part[0] for part in self._form.decay_of(mode[None]))
        if self._saturation is not None:
            gap = float(decay / decay_slope)
            self._saturation_sd = math.hypot(
                SATURATION_ERROR, self._saturation.error, SATURATION_GAP_ERROR * gap
            )
        x = data.log_rate - mode[0]
        shares = self._form.shares(mode[None], data.log_rate)[0]
        far = max(self._far, _REACH / math.exp(mode[1]))
        near = np.maximum(decay - decay_slope * x, 1.5)
        effect = 1 + BURSTS * np.exp(data.log_rate) * self._limit_s * decay_slope / near**2
        effect = np.maximum(effect, data.own_effect)[:, None] * (1 - shares)
        effect = np.maximum(effect, 1.0) * (1 + (x / far) ** 4)[:, None]
        # What is slow on an idle server comes nearly independently; what the queue makes late, in bursts.
        queued = np.clip(1 - self._form.floors(mode[None]) / shares, 0.0, 1.0)
        effect = FLOOR_BURSTS + (np.maximum(effect, FLOOR_BURSTS) - FLOOR_BURSTS) * queued
        beyond = (shares > TAIL_SHARE) | (np.abs(x) > 1.5 * far)[:, None]
        beyond[:, -1] = False
        effect = np.where(beyond, np.inf, effect)
        effect = effect * self._dispersion(data, shares, effect) / LEVEL_WEIGHT
        # However much is counted, a level says no more of the limit than the form of the tail is right.
        known = (data.total[:, None] * shares / effect).sum(axis=0)
        self._weigh_as = 1 / (effect * (1 + known * (FORM_ERROR * (1 - np.array(LEVELS))) ** 2))

    def _dispersion(self, data: _Data, shares: Floats, effect: Floats) -> float:
        """How many times more the windows' counts differ than the design effect expects: 1 with few windows.

        A server that is slower for a while, as beside a neighbour, differs from window to window by more than
        its queue's bursts (McCullagh and Nelder, "Generalized linear models", 1989, section 4.5).
        """
        expected = np.minimum(data.total[:, None] * shares, data.most)
        known = expected / effect > LEAST_EXPECTED
        # A level far from the tail has no finite effect.
        variance = np.where(known, expected, 1.0) * (1 - shares) * np.where(known, effect, 1.0)
        square = (data.above - expected) ** 2 / variance
        seen = known.any(axis=1)
        miss = np.where(known, square, 0.0).sum(axis=1)[seen] / known.sum(axis=1)[seen]
        if len(miss) < LEAST_WINDOWS:
            return 1.0
        total = CALM_WINDOWS + float(np.minimum(miss, MOST_MISS).sum())
        # The capacity and one more are fitted to the same windows.
        return max(1.0, total / (CALM_WINDOWS + len(miss) - 2))

    def _log_posterior(self, points: Floats, data: _Data) -> Floats:
        shares = np.minimum(self._form.shares(points, data.log_rate), self._cap).reshape(len(points), -1)
        above = (data.above * self._weigh_as).ravel()
        below = ((data.total[:, None] - data.above) * self._weigh_as).ravel()
        total: Floats = np.log(shares) @ above
        # No share is so small that log1p would be needed, which takes several times as long.
        total += np.log(1 - shares) @ below
        total -= 0.5 * (((points - PRIOR) / SPREAD) ** 2).sum(axis=1)
        capacity = points[:, :1]
        total -= np.logaddexp(0.0, (capacity - data.too_high) / EDGE).sum(axis=1)
        total -= np.logaddexp(0.0, (data.bearable - capacity) / EDGE).sum(axis=1)
        if self._saturation is not None:
            total -= 0.5 * (self._off_saturation(points) / self._saturation_sd) ** 2
        return total

    def _off_saturation(self, points: Floats) -> Floats:
        assert self._saturation is not None  # noqa: S101 - asked for only where there is one
        decay, decay_slope = self._form.decay_of(points)
        off: Floats = math.log(self._saturation.qps) - points[:, 0] - decay / decay_slope
        return off

    def _climb(self, mode: Floats, data: _Data) -> Floats:
        """Fisher scoring with damped steps (Levenberg-Marquardt); gives the mode."""
        damping = 1e-3
        here = float(self._log_posterior(mode[None], data)[0])
        for _ in range(25):
            gained = 0.0
            gradient, precision = self._slope(mode, data)
            for _ in range(10):
                damped = precision + damping * np.diag(np.diag(precision))
                step = np.clip(np.linalg.solve(damped, gradient), -_FURTHEST, _FURTHEST)
                there = float(self._log_posterior((mode + step)[None], data)[0])
                if there >= here:
                    gained = there - here
                    mode, here = mode + step, there
                    break
                damping = max(damping, 1e-4) * 6
            damping /= 6
            if gained < 1e-2:
                break
        return mode

    def _slope(self, mode: Floats, data: _Data) -> tuple[Floats, Floats]:
        """The gradient of the log posterior and its expected negative curvature."""
        gradient = -(mode - PRIOR) / SPREAD**2
        precision = np.diag(1 / SPREAD**2)
        around = np.concatenate([mode[None], mode + np.diag(_STEP), mode - np.diag(_STEP)])
        count = len(NAMES)
        if len(data.log_rate):
            shares = np.minimum(self._form.shares(around, data.log_rate), self._cap)
            by = (shares[1 : count + 1] - shares[count + 1 :]) / (2 * _STEP[:, None, None])
            share = shares[0]
            unit = self._weigh_as / (share * (1 - share))
            gradient = gradient + ((data.above - data.total[:, None] * share) * unit * by).sum(axis=(1, 2))
            information = data.total[:, None] * unit
            precision = precision + np.einsum("awj,bwj,wj->ab", by, by, information)
        for edge, sign in ((data.too_high, 1.0), (data.bearable, -1.0)):
            beyond = 1 / (1 + np.exp(np.clip(-sign * (mode[0] - edge) / EDGE, -50, 50)))
            gradient[0] -= sign * float(beyond.sum()) / EDGE
            precision[0, 0] += float((beyond * (1 - beyond)).sum()) / EDGE**2
        if self._saturation is not None:
            off = self._off_saturation(around)
            by_off = (off[1 : count + 1] - off[count + 1 :]) / (2 * _STEP)
            gradient = gradient - off[0] * by_off / self._saturation_sd**2
            precision = precision + np.outer(by_off, by_off) / self._saturation_sd**2
        return gradient, precision


def _weighted_quantile(values: Floats, weight: Floats, probability: float) -> float:
    order = np.argsort(values)
    cumulative = np.cumsum(weight[order]) - weight[order] / 2
    return float(np.interp(probability, cumulative, values[order]))
