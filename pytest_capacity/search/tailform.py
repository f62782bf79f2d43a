"""The form of a tail: the share of requests that a queue keeps longer than each of several levels.

Near saturation the tail of a queue's latency falls nearly exponentially, at a rate that grows in proportion
to how far the load is from saturation (Kingman, "The heavy traffic approximation in the theory of queues",
1965; Abate, Choudhury and Whitt, "Exponential approximations for tail probabilities in queues", Operations
Research 43 (1995)). With x = ln(rate / the queue's own capacity) and v = 1 - level / limit the share above a
level is modelled as

    ln share = ln allowed + s x + v (eta - g x) - v^2 (c - c' x)

plus a floor of requests that take too long on an idle server. ``eta`` is the decay at the capacity, ``g`` its
slope, so that eta / g = ln(saturation / capacity), and ``c`` the curvature that batching gives. Priors hold
what simulated FIFO and batching servers of many shapes have in common; they are wide in what tells servers
apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats

LEVELS: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Levels as parts of the latency limit; the last is the limit itself."""
NAMES = ("capacity", "slope", "decay", "ratio", "curvature", "floor")
"""What a point holds: the logarithms of the queue's own capacity, of the slope and of the decay's factor, of
that of the decay's slope, the curvature beyond the usual, and the logarithm of the floor's share of the
allowed."""
PRIOR = np.array([0.0, math.log(20), 0.0, 0.45, 0.0, -4.5])
SPREAD = np.array([3.0, 0.9, 0.2, 0.45, 1.0, 1.5])
"""The prior's means, that of the capacity apart, and deviations."""

_V = 1 - np.array(LEVELS)
_DECAY_EXPONENT = 1.15
_CURVATURE, _CURVATURE_SLOPE = 6.5, 0.2
_FLOOR_RISE = 4.0
_MOST_FLOOR = 0.97
_FURTHEST_BELOW = 2.0
_SATURATES = 0.3


class TailForm:
    """The form under one bound; points are rows of ``NAMES``."""

    def __init__(self, allowed_share: float) -> None:
        self._allowed = allowed_share
        self._decay = math.log(1 / allowed_share) + 0.1

    def decay_of(self, points: Floats) -> tuple[Floats, Floats]:
        """The tail's decay at the capacity and its slope."""
        decay = self._decay * np.exp(points[:, 2] + _DECAY_EXPONENT * points[:, 3])
        return decay, np.exp(points[:, 1] + points[:, 3])

    def floor_of(self, points: Floats) -> Floats:
        """What is late on an idle server, as a part of the allowed share."""
        floor: Floats = np.minimum(np.exp(points[:, 5]), _MOST_FLOOR)
        return floor

    def floors(self, points: Floats) -> Floats:
        """The shares above each level on an idle server: points x levels."""
        floors: Floats = self.floor_of(points)[:, None] * self._allowed * np.exp(_FLOOR_RISE * _V)
        return floors

    def shares(self, points: Floats, log_rate: Floats) -> Floats:
        """The shares above each level: points x rates x levels."""
        slope, ratio = np.exp(points[:, 1])[:, None, None], np.exp(points[:, 3])[:, None, None]
        decay, decay_slope = (part[:, None, None] for part in self.decay_of(points))
        curvature = _CURVATURE * (ratio - 1) + points[:, 4][:, None, None]
        bend = _CURVATURE_SLOPE * decay_slope * (ratio - 1)
        x = (log_rate[None, :] - points[:, :1])[:, :, None]
        v = _V[None, None, :]
        # Beyond saturation no level is passed by fewer.
        steady = np.minimum(x, decay / decay_slope)
        log_share = v * (decay - decay_slope * steady) - v * v * (curvature - bend * steady)
        log_share += math.log(self._allowed) + slope * x
        # Most of a decision's time goes by here: in place, and nothing is computed that is not needed.
        np.minimum(log_share, 6, out=log_share)
        share: Floats = np.exp(log_share, out=log_share)
        share += self.floors(points)[:, None, :]
        high = share >= _SATURATES
        if high.any():
            room = 0.99 - _SATURATES
            share[high] = _SATURATES + room * (1 - np.exp((_SATURATES - share[high]) / room))
        for level in range(1, len(LEVELS)):
            np.minimum(share[:, :, level], share[:, :, level - 1], out=share[:, :, level])
        return np.maximum(share, 1e-9, out=share)


@dataclass(frozen=True)
class Parts:
    """Of each draw what uses up the allowed share, as parts of it: the queue, the floor and spikes.

    ``load`` and ``spikes`` (those of an idle server) are at the queue's own capacity, where x = 0. Of what
    spikes take, ``waiting`` is due to a queue of ``seen_queue``, its load / (1 - its load), and grows as that
    does.
    """

    slope: Floats
    load: Floats
    floor: Floats
    spikes: Floats
    power: Floats
    waiting: float = 0.0
    seen_queue: float = 1.0

    def use(self, x: Floats) -> Floats:
        """How many times the allowed share is used at so many logarithmic units above that capacity."""
        load = np.minimum(self.load * np.exp(x), 0.98)
        # Waiting grows as in a queue with one server: load / (1 - load).
        queued = 1 - self.waiting + self.waiting * load / (1 - load) / self.seen_queue
        spikes = self.spikes * np.exp(self.power * np.minimum(x, 1)) * queued / (1 - load)
        used: Floats = np.exp(np.clip(self.slope * x, -50, 50)) + self.floor + spikes
        return used

    def furthest(self) -> Floats:
        """How far above that capacity the server saturates, nearly."""
        furthest: Floats = -np.log(self.load + 1e-9) - 0.02
        return furthest

    def without_spikes(self) -> Floats:
        """Where the queue and the floor alone use all up."""
        x: Floats = np.maximum(np.log1p(-self.floor) / self.slope, -_FURTHEST_BELOW)
        return x

    def solve(self) -> Floats:
        """Where all is used up: by bisection, since every part grows with the rate."""
        low, high = np.full_like(self.slope, -_FURTHEST_BELOW), np.zeros_like(self.slope)
        for _ in range(16):
            x = (low + high) / 2
            over = self.use(x) > 1
            low, high = np.where(over, low, x), np.where(over, x, high)
        result: Floats = (low + high) / 2
        return result
