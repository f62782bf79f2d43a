"""Breaches of a sustain measurement: what ends one before its looks, and what may be the load's own doing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_capacity.protocols import Observation
from pytest_capacity.search.doubts import Doubt, generator_doubts, steadiness_doubt
from pytest_capacity.search.evidence import BATCH_S, BoundEvidence, Evidence
from pytest_capacity.search.plan import ALPHA
from pytest_capacity.slo import SLO, Verdict
from pytest_capacity.stats.batches import batch_of

EXIT_ALPHA = 0.001
"""What an early exit may add to the chance of a wrong FAIL; small beside the 5 % of the looks."""
COLLAPSE_S, COLLAPSE_REQUESTS = 5.0, 10
MOST_QUICK, QUICK = 0.95, 0.5
BURST_S = 0.5
"""While too many requests of the last moments were late nothing passes: a pause may have just begun."""


def recent(evidence: Evidence) -> Evidence:
    """What the server does now, whatever it did before."""
    return evidence.since(evidence.end_s - COLLAPSE_S)


def collapse_of(evidence: Evidence, slo: SLO) -> str:
    """How nothing goes well any more, in words; empty where something does."""
    if evidence.seconds < COLLAPSE_S:
        return ""
    last = recent(evidence)
    strictest_s = min((bound.limit_ms or math.inf for bound in slo.latency_bounds), default=math.inf) / 1000
    _, latency, failed = last.columns()
    if (~failed & (latency <= strictest_s)).any():
        return ""
    hopeless = [
        judged for judged in last.judge(slo, EXIT_ALPHA) if judged.bad == judged.total >= COLLAPSE_REQUESTS
    ]
    if not hopeless:
        return ""
    what = "failed" if any(judged.bound.limit_ms is None for judged in hopeless) else "was late"
    return f"every request of the last {COLLAPSE_S:g} s {what}"


def fails_quickly(evidence: Evidence, limit_ms: float | None) -> bool:
    """Whether most of what is bad has failed though what is answered is quick, or nothing is answered.

    A server that is slow because it is cold turns requests away only where others wait for long.
    """
    _, latency, failed = recent(evidence).columns()
    limit_s = math.inf if limit_ms is None else limit_ms / 1000
    late = ~failed & (latency > limit_s)
    if not failed.any() or failed.sum() <= late.sum():
        return False
    return bool(failed.all() or np.quantile(latency[~failed], MOST_QUICK) <= QUICK * limit_s)


def is_breached(evidence: Evidence, slo: SLO) -> bool:
    """Whether the late or failed requests alone leave hardly a doubt of a breach."""
    return bool(evidence.seconds) and fails(evidence.judge(slo, EXIT_ALPHA))


def judged_now(evidence: Evidence, slo: SLO) -> tuple[BoundEvidence, ...]:
    """Every bound judged: by all there is, or after a collapse by what the server does now."""
    bounds = evidence.judge(slo, ALPHA)
    return bounds if fails(bounds) else recent(evidence).judge(slo, ALPHA)


def fails(bounds: Sequence[BoundEvidence]) -> bool:
    """Whether a bound is shown not to hold."""
    return any(judged.verdict is Verdict.FAIL for judged in bounds)


def is_in_burst(evidence: Evidence, slo: SLO) -> bool:
    """Whether more of the last requests were late or failed than a bound allows."""
    last = evidence.since(evidence.end_s - BURST_S - (slo.largest_limit_ms or 0.0) / 1000)
    return any(judged.bad_share > judged.bound.allowed_share for judged in last.judge(slo, ALPHA))


def load_doubts(last: Observation | None, slos: Sequence[SLO], *, breached: bool = True) -> tuple[Doubt, ...]:
    """Doubts about the load itself, as it was last told; ``breached`` says whether a bound seems broken."""
    if last is None:
        return ()
    limits = (bound.limit_ms for slo in slos for bound in slo.latency_bounds if bound.limit_ms)
    smallest_ms = min(limits, default=None)
    return generator_doubts(last.health, last.planned, last.sent, smallest_ms, breached=breached)


def all_doubts(evidence: Evidence, last: Observation | None, slo: SLO) -> tuple[Doubt, ...]:
    """Reasons not to trust a pass."""
    intended, latency, _ = evidence.columns()
    rising = steadiness_doubt(latency, batch_of(intended, evidence.start_s or 0.0, BATCH_S))
    return (*load_doubts(last, [slo], breached=False), *((rising,) if rising else ()))


def is_explained(bounds: Sequence[BoundEvidence], doubts: Sequence[Doubt]) -> bool:
    """Whether doubts about the load could explain every breach; no late load makes a reply fail."""
    errors = any(judged.bound.limit_ms is None and judged.verdict is Verdict.FAIL for judged in bounds)
    return not errors and any("latency" in doubt.explains for doubt in doubts)
