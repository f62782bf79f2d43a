"""Does the server sustain a rate under an SLO? An ask/tell controller (design.md section 6), pure.

It warms up open loop at the rate itself and never offers more. Evidence is then judged at planned looks
(``plan``), by limits that allow for bursts (``evidence``). Two exits end a hopeless run before the first
look: the backlog grows without end, or nothing at all goes well any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Health, Observation, Probe
from pytest_capacity.search.doubts import Doubt, generator_doubts, steadiness_doubt
from pytest_capacity.search.evidence import BATCH_S, BoundEvidence, Evidence, binding
from pytest_capacity.search.plan import ALPHA, WARMUP_MIN_S, Look, SustainPlan, plan_sustain
from pytest_capacity.search.tailjudge import PLAUSIBLE_ALPHA, judge_by_tail
from pytest_capacity.slo import SLO, Verdict
from pytest_capacity.stats.batches import batch_of

WARMUP_SHARE = 0.25
WARMUP_MAX_S = 10.0
"""A warm-up ends after a quarter of the budget, ten seconds at most; unsteadiness is doubted from then on."""

FIRST_GLANCE_S, GLANCE_S, GLANCE_RATIO = 2.0, 1.0, 1.3
"""When between looks the tail is looked at for a breach, in seconds of evidence."""

_WARMUP_BLOCK_S = 0.5
_WARMUP_MIN_REQUESTS = 20
# Two blocks of a steady server differ by less than this in their median, or by under a millisecond.
_WARM_RATIO = 1.2
_WARM_DIFFERENCE_S = 0.001

_BACKLOG_S = 3.0
_BACKLOG_LIMITS = 4.0
_BACKLOG_MIN = 8
_COLLAPSE_S = 5.0
_COLLAPSE_MIN_REQUESTS = 10
# What an early exit may add to the chance of a wrong FAIL; small beside the 5 % of the looks.
_EXIT_ALPHA = 0.001


@dataclass(frozen=True)
class SustainResult:
    """What a sustain measurement showed.

    ``bad_share`` and its limits belong to the binding bound; ``bounds`` holds all. ``load_s`` counts every
    second of load with warm-up, ``requests`` every request sent; ``evidence_s`` and ``evidence_requests``
    what was judged. ``remarks`` say what was not to be seen; ``verdict`` is None while the measurement
    has not ended.
    """

    verdict: Verdict | None
    stop_reason: str
    bad_share: float
    bad_share_low: float
    bad_share_high: float
    bounds: tuple[BoundEvidence, ...]
    doubts: tuple[Doubt, ...]
    load_s: float
    warmup_s: float
    evidence_s: float
    requests: int
    evidence_requests: int
    extended: bool
    remarks: tuple[str, ...] = ()

    @property
    def breached(self) -> tuple[BoundEvidence, ...]:
        """The bounds shown not to hold."""
        return tuple(judged for judged in self.bounds if judged.verdict is Verdict.FAIL)


class Sustain:
    """Decide whether ``slo`` holds at ``qps`` requests a second.

    ``min_s`` is the least evidence for a pass, ``budget_s`` the most load with warm-up; ``extend`` grants it
    once more. None of its choices is random: ``seed`` is only kept. Raises ValueError where the budget cannot
    hold a verdict.
    """

    def __init__(
        self, slo: SLO, qps: float, *, min_s: float = 10, budget_s: float = 60, seed: int = 0
    ) -> None:
        self.slo, self.qps, self.seed = slo, qps, seed
        self.plan: SustainPlan = plan_sustain(slo, qps, min_s=min_s, budget_s=budget_s)
        self._looks: list[Look] = list(self.plan.looks)
        self._budget_s = budget_s
        self._last_alpha = ALPHA
        self._warmup_max_s = max(WARMUP_MIN_S, min(WARMUP_MAX_S, WARMUP_SHARE * budget_s, self._spare_s()))
        self._warmup, self._measured = Evidence(slo.largest_limit_ms), Evidence(slo.largest_limit_ms)
        self._measuring = False
        self._measure_start_s = 0.0
        self._now_s = 0.0
        self._sent = {0: 0, 1: 0}
        self._last: Observation | None = None
        self._backlog_since_s: float | None = None
        self._backlog = 0
        self._doubted_looks = 0
        self._next_glance_s = FIRST_GLANCE_S
        self._extended = False
        self._verdict: Verdict | None = None
        self._stop_reason = ""
        self._bounds: tuple[BoundEvidence, ...] = ()
        self._doubts: tuple[Doubt, ...] = ()

    def _spare_s(self) -> float:
        """What warm-up may take without costing the first look its place in the budget."""
        return self._budget_s - self.plan.looks[0].at_s

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when the measurement has ended."""
        if self._verdict is not None:
            return None
        if not self._measuring:
            # Warm-up needs no end of its own: tell() ends it, and its requests are no evidence.
            return Probe(0, "open", self.qps, max_s=self._warmup_max_s, settle_s=self._warmup_max_s)
        return Probe(1, "open", self.qps, max_s=max(0.0, self._budget_s - self._measure_start_s))

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        self._now_s = max(self._now_s, observation.now_s)
        self._sent[observation.probe_id] = max(self._sent.get(observation.probe_id, 0), observation.sent)
        (self._measured if observation.probe_id == 1 else self._warmup).add(observation)
        if self._verdict is not None:
            return
        self._watch_backlog(observation)
        if not self._measuring:
            if self._now_s >= self._warmup_max_s or self._is_warm() or self._backlog_for_s() >= _COLLAPSE_S:
                self._measuring, self._measure_start_s = True, self._now_s
                self._backlog_since_s = None
        elif observation.probe_id == 1:
            self._last = observation
            self._decide()

    def extend(self) -> bool:
        """Grant the budget once more if it ended undecided for want of evidence alone; True if it did."""
        undecided = self._verdict is Verdict.INCONCLUSIVE and not any(
            doubt.kind != "undecided" for doubt in self._doubts
        )
        if self._extended or not undecided or not self.plan.extension:
            return False
        self._extended, self._verdict, self._doubts = True, None, ()
        self._budget_s *= 2
        self._looks = list(self.plan.extension)
        return True

    def halt(self, reason: str) -> None:
        """End at once because the load was stopped from outside, and judge what there is.

        Never a pass: what was planned was not seen. Without evidence the warm-up's requests are judged.
        """
        if self._verdict is not None:
            return
        evidence = self._measured if self._measured.seconds else self._warmup
        self._bounds = evidence.judge(self.slo, ALPHA)
        breached = any(judged.verdict is Verdict.FAIL for judged in self._bounds)
        doubt = Doubt(
            "stopped", f"the load was stopped: {reason}", "the server's log, or fresh credentials", ()
        )
        self._end(Verdict.FAIL if breached else Verdict.INCONCLUSIVE, reason, () if breached else (doubt,))

    def left_s(self) -> float:
        """Seconds of load that may still come, without an extension."""
        return max(0.0, self._budget_s - self._now_s)

    def standing(self) -> str:
        """Nothing between looks: a figure that was not planned for would invite to stop on it."""
        return ""

    def result(self) -> SustainResult:
        """What is known so far; ``verdict`` is None until the measurement has ended."""
        bounds = self._bounds or self._measured.judge(self.slo, ALPHA)
        worst = binding(bounds)
        return SustainResult(
            verdict=self._verdict,
            stop_reason=self._stop_reason,
            bad_share=worst.bad_share,
            bad_share_low=worst.share_low,
            bad_share_high=worst.share_high,
            bounds=bounds,
            doubts=self._doubts,
            load_s=self._now_s,
            warmup_s=self._measure_start_s if self._measuring else self._now_s,
            evidence_s=self._measured.seconds,
            requests=sum(self._sent.values()),
            evidence_requests=worst.total,
            extended=self._extended,
            remarks=self._unseen(),
        )

    def _unseen(self) -> tuple[str, ...]:
        """What a pass could not see: by the rule of three, none in t seconds excludes more than 3 / t."""
        seconds = self._measured.seconds
        if self._verdict is not Verdict.PASS or seconds <= 0 or any(judged.bad for judged in self._bounds):
            return ()
        return (f"no spike in {seconds:.0f} s: that excludes only more than {180 / seconds:.2g} a minute",)

    def _is_warm(self) -> bool:
        """Whether the last two blocks' median latency equals that of the two before."""
        if self._now_s < WARMUP_MIN_S:
            return False
        intended, latency, _ = self._warmup.columns()
        half_s = max(2 * _WARMUP_BLOCK_S, _WARMUP_MIN_REQUESTS / self.qps)
        end_s = self._warmup.end_s
        recent = latency[intended > end_s - half_s]
        before = latency[(intended > end_s - 2 * half_s) & (intended <= end_s - half_s)]
        if min(len(recent), len(before)) < _WARMUP_MIN_REQUESTS / 2 or end_s < 1.8 * half_s:
            return False
        now, then = float(np.median(recent)), float(np.median(before))
        if not np.isfinite(now) or not np.isfinite(then):
            return False
        return max(now, then) <= _WARM_RATIO * min(now, then) or abs(now - then) <= _WARM_DIFFERENCE_S

    def _watch_backlog(self, observation: Observation) -> None:
        """Note since when more waits than a healthy server could hold, and does not become less."""
        limit_ms = self.slo.largest_limit_ms
        healthy = _BACKLOG_MIN if limit_ms is None else _BACKLOG_LIMITS * self.qps * limit_ms / 1000
        # A tenth less than the highest so far is noise around a growing queue; more is a queue that drains.
        if observation.in_flight <= max(_BACKLOG_MIN, healthy) or observation.in_flight < 0.9 * self._backlog:
            self._backlog_since_s, self._backlog = None, observation.in_flight
            return
        self._backlog = max(self._backlog, observation.in_flight)
        if self._backlog_since_s is None:
            self._backlog_since_s = self._now_s

    def _backlog_for_s(self) -> float:
        return 0.0 if self._backlog_since_s is None else self._now_s - self._backlog_since_s

    def _decide(self) -> None:
        if self._exit_early():
            return
        evidence_s = self._now_s - self._measure_start_s
        due = [look for look in self._looks if look.at_s <= evidence_s]
        spent = self._now_s >= self._budget_s - 1e-9
        if not due and not spent:
            self._glance(evidence_s)
        else:
            self._looks = self._looks[len(due) :]
            # At the budget's end the looks that never came due give their share to the last one.
            alpha = (due[-1] if due else self._looks[-1]).alpha
            self._look(alpha, last=spent or not self._looks)

    def _glance(self, evidence_s: float) -> None:
        """Between looks, see whether the tail alone already shows a breach."""
        if evidence_s < self._next_glance_s:
            return
        self._next_glance_s = max(evidence_s + GLANCE_S, GLANCE_RATIO * evidence_s)
        # The late requests alone are judged at planned looks; between them they may add next to no error.
        counted = self._measured.judge(self.slo, _EXIT_ALPHA)
        bounds = judge_by_tail(self._measured, counted, counted, self.qps)
        by_tail = [judged for judged, strict in zip(bounds, counted, strict=True) if judged is not strict]
        if any(judged.share_low > judged.bound.allowed_share for judged in by_tail):
            self._bounds = bounds
            self._conclude_breach("the tail of the latencies")

    def _exit_early(self) -> bool:
        """FAIL before the first look where the backlog grows without end or nothing goes well any more."""
        recent = self._measured.since(self._measured.end_s - _COLLAPSE_S)
        if self._measured.seconds >= _COLLAPSE_S:
            hopeless = [
                judged
                for judged in recent.judge(self.slo, _EXIT_ALPHA)
                if judged.bad == judged.total >= _COLLAPSE_MIN_REQUESTS
            ]
            if hopeless:
                what = "failed" if any(judged.bound.limit_ms is None for judged in hopeless) else "was late"
                return self._fail_early(f"every request of the last {_COLLAPSE_S:g} s {what}")
        if self._backlog_for_s() >= _BACKLOG_S and self._measured.seconds:
            judged_now = self._measured.judge(self.slo, _EXIT_ALPHA)
            if any(judged.verdict is Verdict.FAIL for judged in judged_now):
                return self._fail_early(f"overload: {self._backlog} requests waited, and more each second")
        return False

    def _fail_early(self, reason: str) -> bool:
        self._bounds = self._measured.judge(self.slo, ALPHA)
        if not any(judged.verdict is Verdict.FAIL for judged in self._bounds):
            # A collapse after a long healthy time: what counts for the future is what the server does now.
            self._bounds = self._measured.since(self._measured.end_s - _COLLAPSE_S).judge(self.slo, ALPHA)
        self._conclude_breach(reason)
        return True

    def _look(self, alpha: float, *, last: bool) -> None:
        # Several bounds are several chances of a wrong FAIL; a wrong PASS needs all of them to go wrong.
        counted = self._measured.judge(self.slo, alpha / len(self.slo.bounds))
        plausible = self._measured.judge(self.slo, PLAUSIBLE_ALPHA)
        self._bounds = judge_by_tail(self._measured, counted, plausible, self.qps)
        if any(judged.verdict is Verdict.FAIL for judged in self._bounds):
            self._conclude_breach("enough evidence")
            return
        doubts = self._all_doubts()
        if all(judged.verdict is Verdict.PASS for judged in self._bounds):
            self._doubted_looks += bool(doubts)
            if not doubts:
                self._end(Verdict.PASS, "enough evidence", ())
            elif last or self._doubted_looks > 1:
                self._end(Verdict.INCONCLUSIVE, "doubted", doubts)
        elif last:
            self._end(Verdict.INCONCLUSIVE, "budget spent", (*doubts, self._undecided()))

    def _conclude_breach(self, reason: str) -> None:
        """FAIL, unless a doubt about the generator can explain every breach."""
        doubts = self._generator_doubts()
        explaining = [doubt for doubt in doubts if "latency" in doubt.explains]
        errors = any(
            judged.bound.limit_ms is None and judged.verdict is Verdict.FAIL for judged in self._bounds
        )
        if explaining and not errors and not self._breach_beyond_lateness():
            self._end(Verdict.INCONCLUSIVE, reason, doubts)
        else:
            self._end(Verdict.FAIL, reason, doubts)

    def _breach_beyond_lateness(self) -> bool:
        """Whether latency breaks its bound even with the generator's lateness taken off, twice.

        Once for the request's own lateness and once for the queue that requests sent in a bunch make.
        """
        health = self._last.health if self._last else Health()
        lenient = self._measured.judge(self.slo, ALPHA, late_allowance_s=2 * health.late_max_s)
        return any(judged.verdict is Verdict.FAIL for judged in lenient)

    def _generator_doubts(self) -> tuple[Doubt, ...]:
        if self._last is None:
            return ()
        smallest_ms = min((bound.limit_ms or 0.0 for bound in self.slo.latency_bounds), default=None)
        return generator_doubts(self._last.health, self._last.planned, self._last.sent, smallest_ms)

    def _all_doubts(self) -> tuple[Doubt, ...]:
        intended, latency, _ = self._measured.columns()
        batch = batch_of(intended, self._measured.start_s or 0.0, BATCH_S)
        rising = steadiness_doubt(latency, batch)
        return (*self._generator_doubts(), *((rising,) if rising else ()))

    def _undecided(self) -> Doubt:
        worst = binding([judged for judged in self._bounds if judged.verdict is not Verdict.PASS])
        what = "failed" if worst.bound.limit_ms is None else "late"
        return Doubt(
            "undecided",
            f"{worst.bound.label}: {worst.bad_share * 100:.3g} % of requests {what}, and the interval "
            f"{worst.share_low * 100:.3g}-{worst.share_high * 100:.3g} % contains the "
            f"{worst.bound.allowed_share * 100:.4g} % allowed after {self._now_s:.0f} s of load",
            f"budget_s={2 * self._budget_s:.0f}, or a rate further from the limit",
        )

    def _end(self, verdict: Verdict, reason: str, doubts: tuple[Doubt, ...]) -> None:
        self._verdict, self._stop_reason, self._doubts = verdict, reason, doubts
