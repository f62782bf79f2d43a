"""What one window says of the generator and of the server, before any form is fitted to it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_capacity.search.doubts import Doubt, generator_doubts
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO
from pytest_capacity.stats.intervals import share_limits

SURE = 0.05


def fails_surely(window: Window, slo: SLO) -> bool:
    """Whether more requests fail, at 95 %, than the SLO allows; late ones do not count."""
    for bound, count in zip(slo.bounds, window.counts(), strict=True):
        if bound.limit_ms is None:
            return share_limits(count.bad, count.total, count.effect, SURE)[0] > bound.allowed_share
    return False


def fails_at_any_rate(windows: Sequence[Window], slo: SLO) -> Doubt | None:
    """That the server fails too many requests even at the lowest rate tried."""
    if not windows:
        return None
    lowest = min(windows, key=lambda window: window.rate_qps)
    allowed = next(bound.allowed_share for bound in slo.bounds if bound.limit_ms is None)
    return Doubt(
        "fails_at_any_rate",
        f"at {lowest.rate_qps:.3g}/s, the lowest rate tried, {lowest.failed} of "
        f"{len(lowest.evidence.columns()[0])} requests failed ({allowed:.3g} of them are allowed)",
        "the server's log, or an error_rate that allows for it",
    )


def window_doubts(window: Window, slo: SLO) -> tuple[Doubt, ...]:
    """What of the generator's own doing may have spoilt the window."""
    if window.last is None:
        return ()
    smallest_ms = min((bound.limit_ms or 0.0 for bound in slo.latency_bounds), default=None)
    planned, sent, breached = window.last.planned, window.last.sent, window.use_beyond(0.0) > 1
    return generator_doubts(window.health, planned, sent, smallest_ms, breached=breached)


def is_doubted(window: Window, slo: SLO) -> bool:
    """Whether the generator's own trouble can explain the window; an overload makes a generator late too."""
    doubts = window_doubts(window, slo)
    if not doubts or window.overloaded:
        return False
    # Once for each request's own lateness and once for the queue that requests sent in a bunch make.
    beyond = window.use_beyond(2 * window.health.late_max_s) > 1
    return not (beyond and all("latency" in doubt.explains for doubt in doubts))
