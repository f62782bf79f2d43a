"""What a stretch of load came to: counts, rates, latency quantiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Outcome, Samples


@dataclass(frozen=True)
class Lateness:
    """How late requests left, in seconds after their intended time; zeros without any."""

    p50_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0


def lateness_of(samples: Samples) -> Lateness:
    """Quantiles of sent minus intended time over the requests that were sent."""
    late = samples.sent_s - samples.intended_s
    late = late[~np.isnan(late)]
    if not len(late):
        return Lateness()
    p50, p99 = np.quantile(late, [0.5, 0.99])
    return Lateness(max(0.0, float(p50)), max(0.0, float(p99)), max(0.0, float(late.max())))


def requests_sent(samples: Samples) -> int:
    """How many requests left."""
    return int(np.count_nonzero(~np.isnan(samples.sent_s)))


def late_share(samples: Samples, late_by_s: float) -> float:
    """The share of the requests sent that left more than ``late_by_s`` after their intended time."""
    late = samples.sent_s - samples.intended_s
    late = late[~np.isnan(late)]
    return float((late > late_by_s).mean()) if len(late) else 0.0


def latencies_ms(samples: Samples) -> Floats:
    """Latencies from the intended send time in ascending order, ``inf`` where failed or never answered.

    Requests that say nothing of the server (never sent, or cancelled by the load's end) are left out.
    """
    kept = ~np.isin(samples.outcome, [Outcome.NOT_SENT, Outcome.CANCELLED])
    answered = samples.outcome[kept] == Outcome.GOOD
    latency = (samples.done_s[kept] - samples.intended_s[kept]) * 1000
    return np.sort(np.where(answered, latency, np.inf))


def count_outcomes(samples: Samples) -> dict[str, int]:
    """How many requests had each outcome, by its name in lower case; what did not occur is left out."""
    values, counts = np.unique(samples.outcome, return_counts=True)
    return {Outcome(int(value)).name.lower(): int(count) for value, count in zip(values, counts, strict=True)}


def count_statuses(samples: Samples) -> dict[str, int]:
    """How many replies had each HTTP status."""
    values, counts = np.unique(samples.status[samples.status > 0], return_counts=True)
    return {str(int(value)): int(count) for value, count in zip(values, counts, strict=True)}


def failed_share(samples: Samples) -> float:
    """The share of requests that the server failed, of those that say anything of it."""
    kept = samples.outcome[~np.isin(samples.outcome, [Outcome.NOT_SENT, Outcome.CANCELLED, Outcome.PENDING])]
    failed = np.isin(kept, [outcome for outcome in Outcome if outcome.failed])
    return float(failed.mean()) if len(kept) else 0.0
