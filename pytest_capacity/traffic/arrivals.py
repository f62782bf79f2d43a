"""When requests arrive: arrival processes, and schedules that say what is sent at each arrival."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from pytest_capacity.protocols import Floats, Ints, Schedule

Arrivals = Literal["poisson", "constant"]


def constant(rate_qps: float, duration_s: float) -> Floats:
    """Offsets in seconds, evenly spaced from 0 on, all below ``duration_s``.

    Raises ValueError where the rate or the duration is not a positive, finite number.
    """
    _check(rate_qps, duration_s)
    # Half a millionth of a gap absorbs rounding: 0.1/s for 10 s is one arrival, not two.
    count = math.ceil(rate_qps * duration_s - 5e-7)
    return np.arange(max(count, 1), dtype=np.float64) / rate_qps


def poisson(rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Offsets in seconds of a Poisson process: exponential gaps, so their number is random, perhaps 0.

    Raises ValueError where the rate or the duration is not a positive, finite number.
    """
    _check(rate_qps, duration_s)
    expected = rate_qps * duration_s
    # Six deviations above the mean: a second draw is a matter of one run in a billion.
    at_once = math.ceil(expected + 6 * math.sqrt(expected) + 10)
    parts: list[Floats] = []
    reached_s = 0.0
    while reached_s < duration_s:
        part = reached_s + np.cumsum(rng.exponential(1 / rate_qps, at_once))
        parts.append(part)
        reached_s = float(part[-1])
    offsets = np.concatenate(parts)
    return offsets[: int(np.searchsorted(offsets, duration_s))]


def make_schedule(
    arrivals: Arrivals, rate_qps: float, duration_s: float, request_count: int, rng: np.random.Generator
) -> Schedule:
    """Draw a schedule; the same seed gives the same one.

    Requests come in rounds: each round holds all ``request_count`` of them once, in an order of its own, so
    that any stretch of the schedule uses them about equally often.
    Raises ValueError for an unknown arrival process, no request, or a rate or duration that is not positive.
    """
    if request_count < 1:
        raise ValueError("a schedule needs at least one request to send")
    if arrivals == "poisson":
        offsets_s = poisson(rate_qps, duration_s, rng)
    elif arrivals == "constant":
        offsets_s = constant(rate_qps, duration_s)
    else:
        raise ValueError(f"arrivals={arrivals!r} must be 'poisson' or 'constant'")
    return Schedule(offsets_s, _rounds(len(offsets_s), request_count, rng))


def _rounds(count: int, request_count: int, rng: np.random.Generator) -> Ints:
    rounds = -(-count // request_count)
    orders = np.tile(np.arange(request_count, dtype=np.int64), (rounds, 1))
    return rng.permuted(orders, axis=1).reshape(-1)[:count]


def _check(rate_qps: float, duration_s: float) -> None:
    for name, value in (("rate_qps", rate_qps), ("duration_s", duration_s)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a positive number")
