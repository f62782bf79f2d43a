"""Does the server sustain a rate under an SLO? An ask/tell controller (design.md section 6), pure.

It warms up open loop at the rate itself and never offers more. Evidence is then judged at planned looks
(``plan``), by limits that allow for bursts (``evidence``). Two exits end a hopeless run before the first
look: the backlog grows without end, or nothing at all goes well any more.

A breach is none while the server may still be getting warm (``warming``). One that cannot serve the rate yet
is sent less, just what it does serve, until it can; one that improves is judged anew from there. If that
takes longer than the budget the answer is that it did not get steady. One that was overloaded while cold is
given a rest before it is judged: it may remember.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import compress
from typing import Literal, TypeAlias

import numpy as np

from pytest_capacity.protocols import Observation, Outcome, Probe
from pytest_capacity.search.breaches import (
    EXIT_ALPHA,
    all_doubts,
    collapse_of,
    fails_quickly,
    is_breached,
    is_in_burst,
    judged_now,
)
from pytest_capacity.search.ending import Ending
from pytest_capacity.search.evidence import BoundEvidence, Evidence
from pytest_capacity.search.plan import WARMUP_MIN_S, Look, SustainPlan, plan_sustain
from pytest_capacity.search.remarks import cold_doubt, undecided_doubt
from pytest_capacity.search.tailjudge import PLAUSIBLE_ALPHA, has_tail, judge_by_tail
from pytest_capacity.search.warming import (
    LEAST_BUSY_S,
    Backlog,
    Warming,
    healthy_backlog,
    is_flat,
    is_improving,
)
from pytest_capacity.slo import SLO, Verdict

OVERLOAD_S, EASE_AGE_S, EASE_AGE_LIMITS = 1.0, 1.0, 6.0
"""After a second of overload the warm-up ends; a server that may be cold is sent less once requests are so
old, in seconds and in latency limits."""
WARMUP_SHARE = 0.25
WARMUP_MAX_S = 10.0
"""A warm-up ends after a quarter of the budget, ten seconds at most; unsteadiness is doubted from then on."""

FIRST_GLANCE_S, GLANCE_S, GLANCE_RATIO = 2.0, 1.0, 1.3
"""When between looks the tail is looked at for a breach, in seconds of evidence."""

REST_S = 3.0
"""Servers that remember an overload have forgotten it by then, as far as is known of them."""

_BACKLOG_S = 3.0
_REFUSED = (Outcome.BAD_STATUS, Outcome.BAD_REPLY)


Phase: TypeAlias = Literal["warm-up", "ease", "rest", "measure"]
AWAY: tuple[Phase, ...] = ("ease", "rest")
"""In these phases less than the rate is sent."""


class Sustain(Ending):
    """Decide whether ``slo`` holds at ``qps`` requests a second.

    ``min_s`` is the least evidence for a pass, ``budget_s`` the most load with warm-up; ``extend`` grants it
    once more. None of its choices is random: ``seed`` is only kept. Raises ValueError where the budget cannot
    hold a verdict.
    """

    def __init__(
        self, slo: SLO, qps: float, *, min_s: float = 10, budget_s: float = 60, seed: int = 0
    ) -> None:
        # A warm-up needs no end of its own: tell() ends it, and its requests are no evidence.
        super().__init__((slo,), Probe(0, "open", qps, max_s=budget_s, settle_s=budget_s))
        self.slo, self.qps, self.seed = slo, qps, seed
        self.plan: SustainPlan = plan_sustain(slo, qps, min_s=min_s, budget_s=budget_s)
        self._looks: list[Look] = list(self.plan.looks)
        self._budget_s = budget_s
        self._warmup_max_s = max(WARMUP_MIN_S, min(WARMUP_MAX_S, WARMUP_SHARE * budget_s, self._spare_s()))
        self._warmup, self._measured = Evidence(slo.largest_limit_ms), Evidence(slo.largest_limit_ms)
        self._phase: Phase = "warm-up"
        self._phase_start_s = 0.0
        self._measure_id = -1
        self._measure_start_s = 0.0
        self._watched = Evidence(slo.largest_limit_ms)
        self._backlog = Backlog(healthy_backlog(slo.largest_limit_ms, qps))
        self._warming = Warming(self._backlog.healthy)
        self._warming.watch(self._watched)
        self._is_overloaded = self._was_well = self._has_rested = False
        self._ended_cold = False
        self._refused = 0
        self._doubted_looks = 0
        self._next_glance_s = FIRST_GLANCE_S

    def _spare_s(self) -> float:
        """What warm-up may take without costing the first look its place in the budget."""
        return self._budget_s - self.plan.looks[0].at_s

    def _begin(self, phase: Phase, rate_qps: float | None = None) -> None:
        """Go over to a phase of its own probe: at the rate itself unless told otherwise, 0 for nothing."""
        left_s = max(0.0, self._budget_s - self._now_s)
        rate = self.qps if rate_qps is None else rate_qps
        settle_s = 0.0 if phase == "measure" else left_s
        kind: Literal["open", "drain"] = "open" if rate else "drain"
        number = self._probe.id + 1
        self._probe = Probe(number, kind, rate or None, max_s=left_s, settle_s=settle_s)
        if phase not in AWAY and self._phase in AWAY:
            self._watched = Evidence(self.slo.largest_limit_ms)
            self._warming.watch(self._watched)
        self._phase, self._phase_start_s = phase, self._now_s
        self._backlog.since_s, self._is_overloaded = None, False
        if phase == "measure":
            self._measured, self._measure_id = Evidence(self.slo.largest_limit_ms), number
            self._judge_from(self._now_s)

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        self._note(observation)
        number = observation.probe_id
        (self._measured if number == self._measure_id else self._warmup).add(observation)
        # A request that is turned away is no work done.
        self._refused += int(np.isin(observation.outcome, _REFUSED).sum())
        if self._verdict is not None or number != self._probe.id:
            return
        ended = sum(self._sent.values()) - observation.in_flight
        lost = observation.gave_up + self._refused
        self._warming.tell(
            self._now_s,
            ended - lost,
            observation.in_flight,
            observation.oldest_age_s,
            lost=lost,
            at_rate=self._phase not in AWAY,
        )
        self._backlog.tell(self._now_s, observation.in_flight)
        if self._phase == "measure":
            self._watched.add(observation)
            self._last = observation
            self._decide()
        elif self._is_spent:
            self._end_cold()
        elif self._phase == "ease":
            self._ease(observation)
        elif self._phase == "rest":
            self._rest(observation)
        else:
            self._watched.add(observation)
            self._warm_up()

    def _warm_up(self) -> None:
        """End the warm-up once it is over, one way or the other."""
        if self._backlog.lasted_s(self._now_s) >= OVERLOAD_S:
            self._begin("measure")
            self._is_overloaded = True
        elif self._now_s - self._phase_start_s >= self._warmup_max_s or self._is_flat():
            self._was_well = True
            self._begin("measure")

    def _is_flat(self) -> bool:
        """Whether latency has settled: or all that is known of it is that it is too long, and it stays so."""
        _, latency, _ = self._watched.columns()
        if len(latency) and np.isinf(np.median(latency)):
            return self._warming.keeps_up()
        return is_flat(self._watched, self._phase_start_s, self.qps)

    def _ease(self, observation: Observation) -> None:
        """Send a cold server what it serves, until it serves the rate or is seen to be as warm as it gets."""
        if self._is_hopeless():
            self._begin("measure")
            return
        lasted_s = self._now_s - self._phase_start_s
        rate = self._warming.eased_rate(self._probe, self.qps, observation.in_flight, lasted_s)
        if rate is None:
            return
        if rate >= self.qps:
            if self._probe.rate_qps == self.qps:
                self._begin("warm-up")
                return
            rate = self.qps
        self._begin("ease", rate)

    def _end_cold(self) -> None:
        """The budget is spent and the server still gets faster."""
        self._ended_cold = True
        doubt = cold_doubt(self._now_s, self._warming.done, self._budget_s)
        self._end(Verdict.INCONCLUSIVE, "still getting warm", (*self._load_doubts(), doubt))

    def extend(self) -> bool:
        """Grant the budget once more if it ended undecided for want of evidence alone; True if it did."""
        wanting = {"undecided", "not_steady"} if self._ended_cold else {"undecided"}
        undecided = self._verdict is Verdict.INCONCLUSIVE and all(
            doubt.kind in wanting for doubt in self._doubts
        )
        # A machine that was suspended meanwhile may have left no time for any more.
        is_over = self._now_s >= 2 * self._budget_s
        if self._extended or not undecided or is_over or not self.plan.extension:
            return False
        self._extended, self._verdict, self._doubts = True, None, ()
        self._budget_s *= 2
        if self._ended_cold:
            self._begin(self._phase if self._phase in AWAY else "warm-up", self._probe.rate_qps or 0.0)
        else:
            self._probe = replace(self._probe, max_s=self._budget_s - self._phase_start_s)
            # Looks count seconds of evidence: what a long warm-up took of them is not there.
            late_s = max(0.0, self._measure_start_s - WARMUP_MIN_S)
            self._looks = [replace(look, at_s=look.at_s - late_s) for look in self.plan.extension]
        self._ended_cold = False
        return True

    def left_s(self) -> float:
        """Seconds of load that may still come, without an extension."""
        return max(0.0, self._budget_s - self._now_s)

    def _judge(self, alpha: float, *, late_allowance_s: float = 0.0) -> tuple[BoundEvidence, ...]:
        (evidence,) = self._judged()
        return evidence.judge(self.slo, alpha, late_allowance_s=late_allowance_s)

    def _judged(self) -> list[Evidence]:
        return [self._measured if self._measured.seconds else self._warmup]

    def _warmup_s(self) -> float:
        return self._measure_start_s if self._measure_id >= 0 else self._now_s

    def _decide(self) -> None:
        if not self._is_overload_settled() or self._exit_early():
            return
        evidence_s = self._now_s - self._measure_start_s
        due = [look for look in self._looks if look.at_s <= evidence_s]
        spent = self._is_spent
        if not due and not spent:
            self._glance(evidence_s)
        else:
            self._looks = self._looks[len(due) :]
            # At the budget's end the looks that never came due give their share to the last one.
            alpha = (due[-1] if due else self._looks[-1]).alpha
            self._look(alpha, last=spent or not self._looks)

    def _is_overload_settled(self) -> bool:
        """Whether an overload that began in the warm-up may be judged.

        Not while the server may yet become fast enough; if requests wait for long meanwhile it is sent less,
        and once it has caught up it is warmed up again.
        """
        if not self._is_overloaded:
            return True
        limit_s = (self.slo.largest_limit_ms or 0.0) / 1000
        in_flight, age_s = (self._last.in_flight, self._last.oldest_age_s) if self._last else (0, 0.0)
        if in_flight <= self._backlog.healthy:
            self._begin("warm-up")
        elif self._warming.keeps_up() or self._is_hopeless():
            return True
        elif age_s > max(EASE_AGE_S, EASE_AGE_LIMITS * limit_s) and not self._warming.may_keep_up(age_s):
            self._begin("ease", 0.0)
        if self._is_spent:
            self._end_cold()
        return False

    def _is_hopeless(self) -> bool:
        """Whether the server, once as warm as it gets, will not serve the rate."""
        warming = self._warming
        if warming.is_stuck(was_well=self._was_well):
            return True
        return warming.busy_s >= LEAST_BUSY_S and not warming.may_serve(self.qps)

    def _may_get_warm(self) -> bool:
        """Whether a breach may be a cold server's; then what it did while cold is left out once that is sure.

        Until then nothing is: else what is seldom, a slow spell or a pause, would be left out with it.
        """
        if fails_quickly(self._measured, self.slo.largest_limit_ms):
            return False
        if self._backlog.lasted_s(self._now_s) >= OVERLOAD_S:
            self._is_overloaded = True
            return not self._is_overload_settled()
        limit_ms = self.slo.largest_limit_ms
        limit_s = None if limit_ms is None else limit_ms / 1000
        use = max(judged.bad_share / judged.bound.allowed_share for judged in self._bounds)
        if not is_improving(self._measured, limit_s) and not self._warming.may_gain(use, limit_s):
            # As warm as it gets now, but perhaps not yet when the evidence began.
            return self._leave_out_cold()
        if self._is_spent:
            self._end_cold()
        elif not self._leave_out_cold() and not self._looks:
            self._looks = [replace(self.plan.looks[-1], at_s=math.inf)]
        return True

    def _may_remember(self) -> bool:
        """Whether a breach may come of an overload while the server was cold: it is judged after a rest."""
        if self._has_rested or self._is_spent or self._backlog.lasted_s(self._now_s) < OVERLOAD_S:
            return False
        if not self._warming.was_cold():
            return False
        self._has_rested = True
        self._begin("rest", 0.0)
        return True

    def _rest(self, observation: Observation) -> None:
        """Send nothing until nothing has waited for a while."""
        if observation.in_flight:
            self._phase_start_s = self._now_s
        elif self._now_s - self._phase_start_s >= REST_S:
            self._begin("warm-up")

    def _leave_out_cold(self) -> bool:
        """Judge anew without what a server that got warm meanwhile did before; False where it did not.

        At least half of the evidence stays.
        """
        since_s = self._warming.warm_since_s(self._measure_start_s)
        if since_s is None or self._is_spent:
            return False
        since_s = min(since_s, (self._measure_start_s + self._now_s) / 2)
        self._measured = self._measured.since(since_s)
        self._judge_from(since_s)
        return True

    def _judge_from(self, start_s: float) -> None:
        """Plan the looks and glances at evidence that begins now or did so before."""
        self._measure_start_s, self._looks = start_s, list(self.plan.looks)
        self._next_glance_s = FIRST_GLANCE_S

    @property
    def _is_spent(self) -> bool:
        return self._now_s >= self._budget_s - 1e-9

    def _glance(self, evidence_s: float) -> None:
        """Between looks, see whether the tail alone already shows a breach."""
        if evidence_s < self._next_glance_s:
            return
        self._next_glance_s = max(evidence_s + GLANCE_S, GLANCE_RATIO * evidence_s)
        # The late requests alone are judged at planned looks; between them they may add next to no error.
        counted = self._measured.judge(self.slo, EXIT_ALPHA)
        tailed = [has_tail(self._measured, judged) for judged in counted]
        if not any(compress([judged.bad_share > judged.bound.allowed_share for judged in counted], tailed)):
            return
        bounds = judge_by_tail(self._measured, counted, counted, self.qps)
        if any(judged.verdict is Verdict.FAIL for judged in compress(bounds, tailed)):
            self._bounds = bounds
            self._conclude_breach("the tail of the latencies")

    def _exit_early(self) -> bool:
        """FAIL before the first look where the backlog grows without end or nothing goes well any more."""
        overload_s = self._backlog.lasted_s(self._now_s)
        reason = collapse_of(self._measured, self.slo)
        grows = overload_s >= _BACKLOG_S and not self._warming.keeps_up()
        if not reason and grows and is_breached(self._measured, self.slo):
            reason = f"overload: {self._backlog.most} requests waited, and more each second"
        if not reason:
            return False
        self._bounds = judged_now(self._measured, self.slo)
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
        doubts = all_doubts(self._measured, self._last, self.slo)
        if all(judged.verdict is Verdict.PASS for judged in self._bounds):
            if not last and is_in_burst(self._measured, self.slo):
                # How long it gets is not known yet: the same look once it is over.
                self._looks.insert(0, Look(self._measured.seconds, alpha))
                return
            self._doubted_looks += bool(doubts)
            if not doubts:
                self._end(Verdict.PASS, "enough evidence", ())
            elif last or self._doubted_looks > 1:
                self._end(Verdict.INCONCLUSIVE, "doubted", doubts)
        elif self._leave_out_cold():
            return
        elif last:
            self._end(
                Verdict.INCONCLUSIVE,
                "budget spent",
                (*doubts, undecided_doubt(self._bounds, self._now_s, self._budget_s)),
            )

    def _conclude_breach(self, reason: str) -> None:
        """End with what a breach is worth, unless the server may be cold or remember that it was."""
        if not self._may_get_warm() and not self._may_remember():
            self._end_breached(reason)
