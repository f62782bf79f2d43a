"""Judging one rate by the whole tail of its latencies, as a search judges many (``tail``, ``spikes``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_capacity.search.beliefs import FAILING, LEAST_FAILED, MOST_TAIL_SHARE, UNKNOWN_LOAD
from pytest_capacity.search.evidence import BoundEvidence, Evidence
from pytest_capacity.search.spikes import find_spikes, outside, spike_share
from pytest_capacity.search.tail import LevelCounts, TailPosterior
from pytest_capacity.search.tailform import LEVELS

PASS_ALPHA, FAIL_ALPHA = 0.02, 0.01
"""The chance of a wrong verdict that the tail's limits carry at a look; a fail is looked for more often."""
NO_QUEUE, NO_QUEUE_SHARE = 0.5, 0.5
"""Where fewer than half of the allowed share take half of the limit no queue is near it."""
ANYWHERE = 100.0
PLAUSIBLE_ALPHA = 0.15
"""What the late requests alone must at least allow for a pass: the tail's form could be wrong."""


def judge_by_tail(
    evidence: Evidence, counted: Sequence[BoundEvidence], plausible: Sequence[BoundEvidence], qps: float
) -> tuple[BoundEvidence, ...]:
    """Limits of the long-run bad share at a rate, bound by bound.

    ``counted`` and ``plausible`` are the same evidence judged by its late requests alone, at the look's alpha
    and at ``PLAUSIBLE_ALPHA``. A bound that is not about the tail, whose late requests have failed or are
    clearly too many, or which is open whatever the tail says, keeps ``counted``.
    """
    return tuple(
        _judge(evidence, strict, lenient, qps) for strict, lenient in zip(counted, plausible, strict=True)
    )


def has_tail(evidence: Evidence, counted: BoundEvidence) -> bool:
    """Whether a bound is about the tail, and latencies say where its limit lies."""
    bound = counted.bound
    if bound.limit_ms is None or bound.allowed_share > MOST_TAIL_SHARE or not counted.total:
        return False
    failures = int(evidence.columns()[2].sum())
    return failures < LEAST_FAILED or failures <= FAILING * counted.bad


def _judge(evidence: Evidence, counted: BoundEvidence, plausible: BoundEvidence, qps: float) -> BoundEvidence:
    bound = counted.bound
    if bound.limit_ms is None or not has_tail(evidence, counted) or counted.share_low > bound.allowed_share:
        # What the late requests alone show to be broken is broken.
        return counted
    if counted.bad_share <= bound.allowed_share < plausible.share_high:
        # Neither verdict could fall, whatever the tail says.
        return counted
    intended, latency, _ = evidence.columns()
    limit_s = bound.limit_ms / 1000
    spikes = find_spikes(intended, latency, limit_s)
    kept = latency[outside(intended, spikes, limit_s)]
    posterior = TailPosterior(bound.allowed_share, limit_s, far=ANYWHERE)
    counts = LevelCounts(qps, len(kept), tuple(int((kept > level * limit_s).sum()) for level in LEVELS))
    seen = [(spike, qps, UNKNOWN_LOAD) for spike in spikes]
    played = [(qps, evidence.seconds, len(spikes))]
    posterior.take([counts], None, spike_share(seen, played, bound.allowed_share))
    low = posterior.share_quantile(qps, FAIL_ALPHA)
    high = posterior.share_quantile(qps, 1 - PASS_ALPHA)
    if float((latency > NO_QUEUE * limit_s).mean()) <= NO_QUEUE_SHARE * bound.allowed_share:
        # Nothing that waits long enough to be near the limit: there is no tail to speak of.
        high = min(high, counted.share_high)
    return replace(counted, share_low=min(low, counted.bad_share), share_high=max(high, counted.bad_share))
