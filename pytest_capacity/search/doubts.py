"""Reasons not to trust a measurement, each with its threshold, the reason for it, and a remedy.

A doubt outranks a pass always, and a breach only where it can explain it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Health, Ints
from pytest_capacity.stats.steady import trend_score

LATE_FLOOR_S = 0.001
"""Lateness below a millisecond moves no latency that an SLO in milliseconds could notice."""
LATE_SHARE_OF_LIMIT = 0.02
"""Lateness of 2 % of the bound moves a p99 by less than the interval around it."""
FEW_SENDS = 1_000
"""Below a thousand requests the p99 of lateness is one of the ten latest, which a single pause of the machine
can set: twice as much is allowed."""
HANDFUL = 300
"""Below three hundred requests the p99 is one of the three latest: one request noticeably late is borne."""
LATE_OF_ALLOWED = 0.5
"""Requests sent noticeably late may come to half of the bad ones allowed before a breach is held to be the
generator's as much as the server's. A virtual machine's pauses alone may come to as much; where all was in
time in spite of them they took nothing from the server, since latency counts from when a request was due."""
USUAL_ALLOWED = 0.01
BUSY_WORKER = 0.8
"""Cores' worth of work, waiting not counted, from which on a sending process falls behind now and then."""
STOLEN, FOREIGN, THROTTLED_S = 0.02, 0.25, 0.05
"""From here on they are named as the likely reason for a late generator; they decide nothing."""
PLAN_SHARE = 0.995
"""Half a percent below plan is within what a rate's own interval leaves open."""
TREND_GROWTH = 1.5
"""A median that grew by half between the first and the last third did not settle."""


@dataclass(frozen=True)
class Doubt:
    """A reason not to trust a measurement. ``explains`` says which breaches it could have caused."""

    kind: str
    text: str
    remedy: str
    explains: tuple[str, ...] = ()


def lateness_allowed_s(limit_ms: float | None, sent: int) -> float | None:
    """How late the generator may send at its p99 over so many requests; None where no latency is bounded."""
    if limit_ms is None:
        return None
    allowed_s = max(LATE_FLOOR_S, LATE_SHARE_OF_LIMIT * limit_ms / 1000)
    return 2 * allowed_s if sent < FEW_SENDS else allowed_s


def generator_doubts(
    health: Health,
    planned: int,
    sent: int,
    smallest_limit_ms: float | None,
    allowed_share: float = USUAL_ALLOWED,
    *,
    breached: bool = True,
) -> tuple[Doubt, ...]:
    """Doubts about the load itself: sent late, sent short of plan, or kept back by the in-flight bound.

    ``allowed_share`` is the share of requests that may be bad, ``breached`` says whether more were.
    """
    doubts = []
    late = _late(health, sent, smallest_limit_ms, allowed_share if breached else 1.0)
    if late:
        doubts.append(Doubt("generator_late", late + _why_late(health), _remedy(health), ("latency",)))
    if health.not_sent:
        doubts.append(
            Doubt(
                "in_flight_bound",
                f"{health.not_sent} requests were not sent: {health.max_in_flight} were in flight already",
                "max_in_flight above that, more file descriptors (ulimit -n), or a lower rate",
            )
        )
    if sent + health.not_sent < PLAN_SHARE * planned:
        doubts.append(
            Doubt(
                "short_of_plan",
                f"the load generator sent {sent} of {planned} requests in time",
                "a quieter machine, or a lower rate",
                ("latency",),
            )
        )
    return tuple(doubts)


def _late(health: Health, sent: int, limit_ms: float | None, allowed_share: float) -> str:
    """How the generator was late, in words; empty where it was not."""
    allowed_s = lateness_allowed_s(limit_ms, sent)
    if allowed_s is None or limit_ms is None:
        return ""
    if sent < HANDFUL:
        return _late_handful(health, sent, allowed_s)
    if health.late_p99_s > allowed_s:
        return (
            f"the load generator was late: p99 {health.late_p99_s * 1000:.3g} ms behind schedule, "
            f"{allowed_s * 1000:.3g} ms allowed ({_lateness_rule(limit_ms, allowed_s)})"
        )
    if sent >= FEW_SENDS and health.late_share > LATE_OF_ALLOWED * allowed_share:
        return (
            f"the load generator was late: {health.late_share:.2%} of requests left more than a tenth of the "
            f"bound behind schedule, {LATE_OF_ALLOWED * allowed_share:.2%} allowed (half of the bad)"
        )
    return ""


def _late_handful(health: Health, sent: int, allowed_s: float) -> str:
    """The same of so few requests that a single one sets the p99."""
    late = round(health.late_share * sent)
    if health.late_p50_s > allowed_s:
        return (
            f"the load generator was late: p50 {health.late_p50_s * 1000:.3g} ms behind schedule, "
            f"{allowed_s * 1000:.3g} ms allowed"
        )
    if late > max(1.0, 0.01 * sent):
        return (
            f"the load generator was late: {late} of {sent} requests left more than a tenth of the bound "
            "behind schedule, 1 allowed"
        )
    return ""


def _why_late(health: Health) -> str:
    reasons = []
    if health.throttled_s > THROTTLED_S:
        reasons.append(f"the container's quota held it back for {health.throttled_s:.1f} s")
    if health.steal_share > STOLEN:
        reasons.append(f"the hypervisor took {health.steal_share:.0%} of the processor")
    if health.foreign_share > FOREIGN:
        reasons.append(f"other processes took {health.foreign_share:.0%} of the processor")
    return "; " + ", ".join(reasons) if reasons else ""


def _remedy(health: Health) -> str:
    if health.throttled_s > THROTTLED_S:
        return "a higher quota of processor time, or a lower rate"
    if max(health.steal_share / STOLEN, health.foreign_share / FOREIGN) > 1:
        return "a quieter machine: the runner is oversubscribed"
    working = (health.cpu_s - health.spin_s) / health.wall_s if health.wall_s > 0 else 0.0
    if health.workers and working > BUSY_WORKER * health.workers:
        return f"{health.workers + 1} workers (--capacity-workers), or a lower rate"
    return "a quieter machine, or a lower rate"


def _lateness_rule(limit_ms: float, allowed_s: float) -> str:
    if LATE_SHARE_OF_LIMIT * limit_ms / 1000 >= LATE_FLOOR_S:
        return f"{allowed_s * 1e5 / limit_ms:.3g} % of the {limit_ms:g} ms bound"
    return "less than that moves no bound in milliseconds"


def steadiness_doubt(latency_s: Floats, batch: Ints) -> Doubt | None:
    """The doubt that latency was still rising at the end, or None.

    Batch medians must rise by Kendall's rank test against time at 1 % (Mann, "Nonparametric tests against
    trend", Econometrica 13 (1945)) and the last third's must be 1.5 times the first third's: either alone
    occurs on steady servers.
    """
    medians = np.array([np.median(latency_s[batch == number]) for number in np.unique(batch)])
    count = len(medians)
    if count < 6:
        return None
    third = count // 3
    first, last = float(np.median(medians[:third])), float(np.median(medians[-third:]))
    if not last > TREND_GROWTH * first:
        return None
    if trend_score(medians) < 2.33:
        return None
    return Doubt(
        "not_steady",
        f"latency was still rising: its median went from {first * 1000:.3g} to {last * 1000:.3g} ms",
        "a longer budget_s, and a look at what the server accumulates (queue, cache, memory)",
        (),
    )
