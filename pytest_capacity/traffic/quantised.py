"""How finely a recording's clock told arrivals apart, whether to believe it, and how to spread its ticks.

A clock of coarse ticks makes bursts that never were: everything that arrived within a tick stands at its
beginning. The tick shows in the gaps: they are zero, or close to a multiple of one length.
"""

from __future__ import annotations

import numpy as np

from pytest_capacity.protocols import Floats, Ints

LEAST_GAPS = 20
"""Fewer gaps than this may be multiples of a common length by chance."""

_ZERO_SHARE, _NEAR_TICK, _ON_TICK = 0.05, 0.02, 0.98
_BACK_SHARE, _LEAST_ROWS = 0.2, 20
_HOUR_NS, _MINUTE_NS = 3600 * 10**9, 60 * 10**9


def find_resolution_ns(times_ns: Ints, digits_ns: int) -> int:
    """The step of the clock that wrote ascending times: that of their digits, or a longer one that they show.

    Times that all are multiples of a longer step were rounded to it. So were those whose gaps are zero or
    nearly whole multiples of one length (Mooncake's are 2,999 to 3,001 ms).
    """
    gaps = np.diff(times_ns)
    positive = gaps[gaps > 0]
    if len(positive) < LEAST_GAPS:
        return digits_ns
    zero_share = 1 - len(positive) / len(gaps)
    grid_ns = int(np.gcd.reduce(positive))
    # Arrivals at one even distance have a common step, too, which says nothing of the clock.
    if zero_share < _ZERO_SHARE and len(np.unique(positive)) < 3:
        return digits_ns
    found_ns = max(digits_ns, grid_ns)
    tick_ns = _jittery_tick_ns(positive) if zero_share >= _ZERO_SHARE else 0
    return max(found_ns, tick_ns)


def _jittery_tick_ns(positive: Ints) -> int:
    """The length of which nearly all gaps are nearly whole multiples, 0 where there is none."""
    steps, counts = np.unique(positive, return_counts=True)
    mode = int(steps[np.argmax(counts)])
    near_mode = positive[np.abs(positive - mode) <= _NEAR_TICK * mode]
    tick = float(np.median(near_mode))
    multiple = np.maximum(np.round(positive / tick), 1.0)
    # Far multiples lie close to one by chance: their distance is measured against their own length.
    off = np.abs(positive / (multiple * tick) - 1)
    is_tick = len(near_mode) >= 0.2 * len(positive) and float(np.mean(off <= _NEAR_TICK)) >= _ON_TICK
    return round(tick) if is_tick else 0


def is_quantised(t_s: Floats, resolution_s: float | None) -> bool:
    """Whether so many arrivals share a tick that raw times would be sent as bursts: one in twenty or more."""
    if resolution_s is None or len(t_s) < LEAST_GAPS:
        return False
    return float(np.mean(np.diff(t_s) <= 0)) >= _ZERO_SHARE


def dequantize(t_s: Floats, resolution_s: float, seed: int) -> Floats:
    """Spread the arrivals of each tick over it, uniformly and in order; the same seed gives the same times.

    An arrival recorded at ``t`` came within ``[t, t + resolution_s)``, and before the next recorded time
    where that is closer. The order of rows stays. Raises ValueError for a resolution that is not positive.
    """
    if not (np.isfinite(resolution_s) and resolution_s > 0):
        raise ValueError(f"resolution_s={resolution_s!r} must be a positive number of seconds")
    if len(t_s) == 0:
        return t_s.copy()
    distinct, inverse = np.unique(t_s, return_inverse=True)
    room = np.append(np.diff(distinct), np.inf)
    shift = np.random.default_rng(seed).random(len(t_s)) * np.minimum(room, resolution_s)[inverse]
    return np.sort(t_s + shift)


def doubts_on_times(times_ns: Ints, latencies_ns: Ints) -> list[str]:
    """Why the arrivals of a file, in its own order, cannot be believed; nothing where they can.

    A log is written in order of completion, so that starts go back where requests take long: with
    ``latencies_ns`` known (-1 where not) it is the ends that must be in order. A log whose times fall into
    one minute of every hour was made up.
    """
    if len(times_ns) < _LEAST_ROWS:
        return []
    found = []
    known = latencies_ns >= 0
    ends_ns = np.where(known, times_ns + latencies_ns, times_ns)
    back = min(float(np.mean(np.diff(times) < 0)) for times in (times_ns, ends_ns))
    if back > _BACK_SHARE:
        found.append(f"arrivals not credible: {back * 100:.0f} % of the file's steps go back in time")
    span_ns = int(times_ns.max() - times_ns.min())
    minutes = np.unique(times_ns % _HOUR_NS // _MINUTE_NS)
    if span_ns > 3 * _HOUR_NS and len(minutes) <= 2:
        shown = " and ".join(str(minute) for minute in minutes)
        found.append(f"arrivals not credible: every time lies in minute {shown} of its hour")
    return found
