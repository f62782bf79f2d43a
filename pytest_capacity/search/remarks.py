"""What a sustain measurement says beside its verdict: why it has none, and what it could not see."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.evidence import BoundEvidence, binding
from pytest_capacity.slo import Verdict


def unseen(seconds: float, bounds: Sequence[BoundEvidence]) -> tuple[str, ...]:
    """What a pass could not see: by the rule of three, none in t seconds excludes more than 3 / t."""
    if seconds <= 0 or any(judged.bad for judged in bounds):
        return ()
    return (f"no spike in {seconds:.0f} s: that excludes only more than {180 / seconds:.2g} a minute",)


def undecided_doubt(bounds: Sequence[BoundEvidence], load_s: float, budget_s: float) -> Doubt:
    """The evidence leaves both answers open."""
    worst = binding([judged for judged in bounds if judged.verdict is not Verdict.PASS])
    what = "failed" if worst.bound.limit_ms is None else "late"
    return Doubt(
        "undecided",
        f"{worst.bound.label}: {worst.bad_share * 100:.3g} % of requests {what}, and the interval "
        f"{worst.share_low * 100:.3g}-{worst.share_high * 100:.3g} % contains the "
        f"{worst.bound.allowed_share * 100:.4g} % allowed after {load_s:.0f} s of load",
        f"budget_s={2 * budget_s:.0f}, or a rate further from the limit",
    )


def cold_doubt(load_s: float, done: float, budget_s: float) -> Doubt:
    """The server still got faster when the budget was spent."""
    return Doubt(
        "not_steady",
        f"the server was still getting faster after {load_s:.0f} s of load and {done:.0f} replies",
        f"budget_s={2 * budget_s:.0f}, or a server that is warm",
    )


def stopped_doubt(reason: str) -> Doubt:
    """The load was stopped from outside before there was a verdict."""
    return Doubt("stopped", f"the load was stopped: {reason}", "the server's log, or fresh credentials")
