"""What a controller has been told, joined into columns and judged bound by bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Observation, Outcome
from pytest_capacity.slo import SLO, Bound, Verdict
from pytest_capacity.stats.batches import (
    batch_count,
    batch_of,
    design_effect,
    few_batches_factor,
    late_effect,
)
from pytest_capacity.stats.intervals import share_limits

BATCH_S = 1.0
"""Bursts near capacity last from tens of milliseconds to a second at the SLOs of model servers."""
SHORT_BATCH_S = 0.5
"""Below ten seconds of evidence whole seconds leave too few batches to compare."""

# Looked up by outcome: this is done for every request.
_FAILED, _NO_EVIDENCE = (np.zeros(256, dtype=np.bool_) for _ in range(2))
_FAILED[[outcome for outcome in Outcome if outcome.failed]] = True
_NO_EVIDENCE[[Outcome.NOT_SENT, Outcome.CANCELLED, Outcome.PENDING]] = True


@dataclass(frozen=True)
class BoundEvidence:
    """One bound judged: shares of ``total`` requests, limits each at one-sided ``alpha``."""

    bound: Bound
    bad: int
    total: int
    effect: float
    alpha: float
    share_low: float
    share_high: float

    @property
    def bad_share(self) -> float:
        """The share of bad requests seen; 0 without any request."""
        return self.bad / self.total if self.total else 0.0

    @property
    def verdict(self) -> Verdict:
        """PASS or FAIL where the limits leave no other answer."""
        if self.share_high <= self.bound.allowed_share:
            return Verdict.PASS
        return Verdict.FAIL if self.share_low > self.bound.allowed_share else Verdict.INCONCLUSIVE


class Evidence:
    """Final requests of one probe in the order told; those that say nothing of the server are left out."""

    def __init__(self, largest_limit_ms: float | None) -> None:
        self._largest_limit_ms = largest_limit_ms
        self._intended: list[Floats] = []
        self._latency: list[Floats] = []
        self._failed: list[npt.NDArray[np.bool_]] = []
        self.start_s: float | None = None
        self.end_s = 0.0

    def add(self, observation: Observation, *, keep: npt.NDArray[np.bool_] | None = None) -> None:
        """Take an observation's cohorts, or the rows to ``keep``; evidence then reaches to their last."""
        kept = ~_NO_EVIDENCE[observation.outcome]
        late = observation.outcome == Outcome.LATE_UNANSWERED
        if self._largest_limit_ms is not None:
            # Cut off by a probe's end before its age said anything: neither good nor late.
            kept &= ~(late & (observation.latency_s * 1000 < self._largest_limit_ms))
        due = observation.intended_s
        if keep is not None:
            kept, due = kept & keep, due[keep]
        if not len(due):
            return
        if self.start_s is None:
            self.start_s = float(due[0])
        self.end_s = float(due[-1])
        failed = _FAILED[observation.outcome[kept]]
        latency = np.where(failed, np.inf, observation.latency_s[kept])
        self._intended.append(observation.intended_s[kept])
        # Unanswered past the largest bound is late under every bound, by definition of a final cohort.
        self._latency.append(np.where(late[kept], np.inf, latency))
        self._failed.append(failed)

    @property
    def seconds(self) -> float:
        """The span of intended times, 0 without any."""
        return 0.0 if self.start_s is None else self.end_s - self.start_s

    def columns(self) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
        """Intended times, latencies (inf where failed or unanswered) and failures so far."""
        if not self._intended:
            return np.empty(0), np.empty(0), np.empty(0, dtype=np.bool_)
        if len(self._intended) > 1:
            self._intended = [np.concatenate(self._intended)]
            self._latency = [np.concatenate(self._latency)]
            self._failed = [np.concatenate(self._failed)]
        return self._intended[0], self._latency[0], self._failed[0]

    def since(self, start_s: float) -> Evidence:
        """The part intended at ``start_s`` or later."""
        part = Evidence(self._largest_limit_ms)
        columns = self.columns()
        first = int(np.searchsorted(columns[0], start_s))
        if first < len(columns[0]):
            part._intended, part._latency = [columns[0][first:]], [columns[1][first:]]
            part._failed = [columns[2][first:]]
            part.start_s, part.end_s = start_s, self.end_s
        return part

    def judge(self, slo: SLO, alpha: float, *, late_allowance_s: float = 0.0) -> tuple[BoundEvidence, ...]:
        """Judge every bound; ``late_allowance_s`` is added to each latency limit."""
        intended, latency, failed = self.columns()
        batch_s = BATCH_S if self.seconds >= 10 * BATCH_S else SHORT_BATCH_S
        batch = batch_of(intended, float(intended.min()) if len(intended) else 0.0, batch_s)
        widening = few_batches_factor(batch_count(batch), alpha)
        judged = []
        for bound in slo.bounds:
            if bound.limit_ms is None:
                bad, effect = failed, design_effect(failed, batch)
            else:
                limit_s = bound.limit_ms / 1000 + late_allowance_s
                bad, effect = latency > limit_s, late_effect(latency, limit_s, batch)
            # Widening stands for not knowing the bursts; data without any burst have none to know.
            effect = effect * widening if effect > 1 else effect
            low, high = share_limits(float(bad.sum()), len(bad), effect, alpha)
            judged.append(BoundEvidence(bound, int(bad.sum()), len(bad), effect, alpha, low, high))
        return tuple(judged)


def binding(bounds: Sequence[BoundEvidence]) -> BoundEvidence:
    """The bound that is nearest to breaking, or most broken: the greatest use of its allowed share."""
    return max(
        bounds,
        key=lambda judged: (
            judged.bad_share / judged.bound.allowed_share,
            judged.share_high / judged.bound.allowed_share,
        ),
    )
