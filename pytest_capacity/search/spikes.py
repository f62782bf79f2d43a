"""Spikes: late requests that no queue explains, because nothing built up before them.

A queue that gets too long shows itself: the requests before the first late one are slow already. A pause (a
garbage collection, a checkpoint, a neighbour's burst) strikes at a server that is as quick as usual. Its late
requests belong to the evidence as any other, but they come as often at half the rate; the ledger therefore
keeps how often spikes came and how long they lasted, and the rest of the requests tells of the queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats

JUMP, AROUND = 0.75, (5, 3)
"""A spike's first late requests (the median of three) wait by this part of the limit longer than those just
before it (the median of five): whoever arrives as a pause begins has all of it before him, whereas a queue
grows request by request."""
BUILD_UP = 1.25
"""Where requests fail, their latency says nothing: those that arrive within one limit before are then at most
this many times slower than usual."""
QUIET = 0.75
DENSE = 0.6
LEAST_LATE, LEAST_LIMITS = 3, 0.1
LONGEST_S = 1.5
"""What lasts longer is no spike but how the server is."""
PAUSING, PAUSE_EVERY_S = 1 / 3, 17.0
"""How many servers are expected to pause at all, and how often they do: what was not seen may still come."""
HIDDEN_SHARE, HIDDEN_SPREAD = 0.5, 0.6
"""The part of the allowed share that spikes of such a server take at the rate in question, and its spread."""

USUAL_SHARE, USUAL_SPREAD = 0.1, 1.6
"""What spikes, where there are any, take of the allowed share on an idle server; its logarithmic spread."""
LENGTHS_ERROR = 0.3
"""The variance of the logarithm of what spikes make late that no number of them takes away: how much less it
would be on a less busy server is known roughly."""
LEAST_LOAD, MOST_LOAD = 0.05, 0.95
"""Between which a server's load is believed: at the ends it would divide by nothing."""
MOST_WAIT_S, MOST_WAITING = 60.0, 0.9
"""However much was waited for before spikes, a part of what they make late is theirs alone."""
POWERS = ((0.0, 0.8), (1.0, 0.15), (6.0, 0.05))
"""With which power of the rate spikes may come more often, and how likely each is beforehand: by the clock,
as garbage that requests make is collected, or where they are a queue's sudden bursts after all."""


@dataclass(frozen=True)
class Spike:
    """One spike: from its first late request to when the last was late, and how many were.

    ``before_s`` is how long the requests just before it took.
    """

    start_s: float
    end_s: float
    late: int
    before_s: float = 0.0


@dataclass(frozen=True)
class Growth:
    """One way in which spikes may depend on the rate: how often they come grows with its ``power``."""

    power: float
    weight: float
    log_mean: float


@dataclass(frozen=True)
class SpikeShare:
    """What spikes make late on an idle server, as a share of time: lognormal beliefs.

    A server under load takes 1 / (1 - its load) times as long to recover, and who waits already when a spike
    comes is late the sooner: of the share, ``waiting`` is due to that at the load ``seen_load``, and grows as
    waiting does. What spikes that were never seen may do is not known in such detail: their share is that at
    the rate in question. ``growths`` hold the share at the rate whose logarithm is ``log_rate``; ``absent``
    is the probability that there are none at all; ``count`` were seen in ``seconds``.
    """

    growths: tuple[Growth, ...]
    log_sd: float
    absent: float = 0.0
    count: int = 0
    seconds: float = 0.0
    log_rate: float = 0.0
    waiting: float = 0.0
    seen_load: float = 0.5


def find_spikes(intended_s: Floats, latency_s: Floats, limit_s: float) -> list[Spike]:
    """The spikes among requests in the order intended; latencies are infinite where unknown but too long."""
    late = np.flatnonzero(latency_s > limit_s)
    if len(late) < LEAST_LATE:
        return []
    usual_s = float(np.median(latency_s))
    # Late requests belong together while nobody between them was in time.
    apart = (np.diff(intended_s[late]) > limit_s) & (np.diff(late) > 1)
    breaks = np.flatnonzero(apart) + 1
    rate = len(intended_s) / max(intended_s[-1] - intended_s[0], limit_s)
    least = max(LEAST_LATE, LEAST_LIMITS * rate * limit_s)
    return [
        Spike(
            float(intended_s[part[0]]),
            float(intended_s[part[-1]]),
            len(part),
            float(np.median(latency_s[max(0, part[0] - AROUND[0]) : part[0]])),
        )
        for part in np.split(late, breaks)
        if len(part) >= least and _is_spike(intended_s, latency_s, part, limit_s, usual_s)
    ]


def _is_spike(
    intended_s: Floats, latency_s: Floats, part: np.ndarray[tuple[int], np.dtype[np.int64]], *scales: float
) -> bool:
    limit_s, usual_s = scales
    start_s, end_s = float(intended_s[part[0]]), float(intended_s[part[-1]])
    first = int(np.searchsorted(intended_s, start_s - limit_s))
    before = latency_s[first : part[0]]
    # One that has not ended by the last request may be a queue that will never end.
    unended = end_s + limit_s > float(intended_s[-1])
    if unended or end_s - start_s > LONGEST_S or not len(before):
        return False
    # The first half of the late ones come one after the other: all who arrive in a pause have to wait.
    half = part[: max(2, len(part) // 2)]
    if len(half) / (half[-1] - half[0] + 1) < DENSE:
        return False
    last, head = AROUND
    jump_s = float(np.median(latency_s[part[:head]])) - float(np.median(before[-last:]))
    if math.isfinite(jump_s):
        return jump_s > JUMP * limit_s
    return float(np.median(before)) <= min(BUILD_UP * usual_s, QUIET * limit_s)


def outside(
    intended_s: Floats, spikes: Sequence[Spike], limit_s: float
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which requests were intended outside every spike and the limit's length that follows it."""
    keep = np.ones(len(intended_s), dtype=np.bool_)
    for spike in spikes:
        keep &= (intended_s < spike.start_s) | (intended_s > spike.end_s + limit_s)
    return keep


def spike_share(
    seen: Sequence[tuple[Spike, float, float]],
    windows: Sequence[tuple[float, float, int]],
    allowed_share: float,
    idle_s: float = math.inf,
) -> SpikeShare:
    """What the spikes seen say, beside the load in which none was.

    Each spike comes with the rate offered then and the server's load, 0 to 1; each window with its rate, its
    seconds and its number of spikes; ``idle_s`` is the latency of a server with little to do. The number is
    Poisson, so that its logarithm is known to one over the root of the number; lengths vary little beside
    that. Windows at low rates tell whether spikes come by the clock, as garbage collections do, or with the
    load.
    """
    seconds = sum(window[1] for window in windows)
    if not seen or seconds <= 0:
        unseen = PAUSING * math.exp(-seconds / PAUSE_EVERY_S)
        hidden = Growth(0.0, 1.0, math.log(HIDDEN_SHARE * allowed_share))
        return SpikeShare((hidden,), HIDDEN_SPREAD, (1 - PAUSING) / (1 - PAUSING + unseen), 0, seconds)
    loads = np.array([min(max(load, LEAST_LOAD), MOST_LOAD) for _, _, load in seen])
    lengths = np.array([spike.late / rate for spike, rate, _ in seen]) * (1 - loads)
    waits = np.array([max(0.0, min(spike.before_s, MOST_WAIT_S) - idle_s) for spike, _, _ in seen])
    count = len(seen)
    variation = float(lengths.var() / lengths.mean() ** 2) if count > 1 else 0.5
    log_sd = math.sqrt((1 + variation) / count + LENGTHS_ERROR)
    log_rate = float(np.mean([math.log(rate) for _, rate, _ in seen]))
    distance = np.array([math.log(rate) - log_rate for rate, _, _ in windows])
    lasted, numbers = (np.array([window[part] for window in windows], dtype=float) for part in (1, 2))
    known = []
    for power, prior in POWERS:
        exposure = float((lasted * np.exp(power * distance)).sum())
        likelihood = float((numbers * power * distance).sum()) - count * math.log(exposure / seconds)
        # The mean of a lognormal is above its median, and the number seen is what is expected on average.
        mean = math.log(float(lengths.sum()) / exposure) - log_sd**2 / 4
        usual = math.log(USUAL_SHARE * allowed_share)
        mean = (mean / log_sd**2 + usual / USUAL_SPREAD**2) / (1 / log_sd**2 + 1 / USUAL_SPREAD**2)
        known.append(Growth(power, prior * math.exp(min(likelihood, 50.0)), mean))
    total = sum(growth.weight for growth in known)
    growths = tuple(Growth(growth.power, growth.weight / total, growth.log_mean) for growth in known)
    spread = 1 / math.sqrt(1 / log_sd**2 + 1 / USUAL_SPREAD**2)
    waiting = min(float(waits.sum() / lengths.sum()), MOST_WAITING)
    return SpikeShare(growths, spread, 0.0, count, seconds, log_rate, waiting, float(loads.mean()))
