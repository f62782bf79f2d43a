"""Judging operations side by side, each by its own requests and its own SLO: ask/tell controllers, pure.

All operations are loaded together, at one rate of all requests. They fail where one operation is shown to
break a bound, and pass where every one is shown to keep all of its own. Looking at several gives no further
chance of a wrong pass, for which all must go wrong at once; the chance of a wrong fail is shared out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.ending import Ending
from pytest_capacity.search.evidence import BoundEvidence, Evidence
from pytest_capacity.search.plan import ALPHA, WARMUP_MIN_S, Look, SustainPlan, plan_sustain
from pytest_capacity.search.remarks import undecided_doubt
from pytest_capacity.search.warming import is_flat
from pytest_capacity.slo import SLO, AnySLO, OperationSLOs, Verdict
from pytest_capacity.stats.intervals import smallest_sample

WARMUP_SHARE, WARMUP_MAX_S = 0.25, 10.0
"""A warm-up ends when latency is flat, at the latest after a quarter of the budget or ten seconds."""

COLLAPSE_S, COLLAPSE_REQUESTS, COLLAPSE_ALPHA = 5.0, 10, 0.001
"""Where nothing went well for so long, waiting for the next look would only do harm."""


@dataclass(frozen=True)
class Part:
    """Requests that are judged together: of the operation with this ``number``, or all where it is None.

    ``share`` is how much of all requests they are.
    """

    slo: SLO
    name: str = ""
    number: int | None = None
    share: float = 1.0


def parts_of(slo: AnySLO, operations: Sequence[str], shares: Sequence[float]) -> tuple[Part, ...]:
    """What an SLO judges, given all operations and how often each is sent.

    Raises ValueError where an SLO names an operation that is not sent.
    """
    if not isinstance(slo, OperationSLOs):
        return (Part(slo),)
    for name in slo.by_operation:
        if name not in operations:
            there_are = ", ".join(map(repr, operations))
            raise ValueError(f"slo names the operation {name!r}, which is not sent; there are {there_are}")
    return tuple(
        Part(own, name, operations.index(name), shares[operations.index(name)])
        for name, own in slo.by_operation.items()
    )


def plan_operations(parts: Sequence[Part], qps: float, *, min_s: float, budget_s: float) -> SustainPlan:
    """The looks at all parts: as often as the most frequent one allows.

    A part too rare for any verdict stays undecided. Raises ValueError where that is true of all.
    """
    sent = [part for part in parts if part.share > 0]
    frequent = max(sent, key=lambda part: part.share / smallest_sample(strictest_share(part), ALPHA))
    first = plan_sustain(frequent.slo, qps * frequent.share, min_s=min_s, budget_s=budget_s)
    slowest_s = max(_first_look_s(part, first, qps) for part in sent)
    return replace(first, qps=qps, min_s=min(budget_s, WARMUP_MIN_S + slowest_s))


def strictest_share(part: Part) -> float:
    """The smallest share that any of a part's bounds allows."""
    return min(bound.allowed_share for bound in part.slo.bounds)


def _first_look_s(part: Part, plan: SustainPlan, qps: float) -> float:
    """When a part can pass at the earliest, in seconds of evidence."""
    look = plan.looks[0]
    return max(look.at_s, smallest_sample(strictest_share(part), look.alpha) / (qps * part.share))


class SideBySide(Ending):
    """What such controllers share: a warm-up, then a measurement that is looked at as planned.

    ``measure_s`` is how long the measurement lasts; each look spends its alpha.
    """

    def __init__(
        self, parts: Sequence[Part], qps: float, looks: Iterable[Look], *, warmup_s: float, measure_s: float
    ) -> None:
        probe = Probe(0, "open", qps, max_s=warmup_s, settle_s=warmup_s)
        super().__init__(tuple(part.slo for part in parts), probe)
        self.parts, self.qps = tuple(parts), qps
        self._looks, self._measure_s = list(looks), measure_s
        self._last_alpha = self._looks[-1].alpha
        self._evidence = [Evidence(part.slo.largest_limit_ms) for part in self.parts]
        self._warmup = [Evidence(part.slo.largest_limit_ms) for part in self.parts]
        self._frequent = max(range(len(self.parts)), key=lambda index: self.parts[index].share)
        self._measure_start_s: float | None = None

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        self._note(observation)
        number = observation.probe_id
        for part, evidence in zip(self.parts, self._evidence if number else self._warmup, strict=True):
            keep = None if part.number is None else observation.operation == part.number
            evidence.add(observation, keep=keep)
        if self._verdict is not None or number != self._probe.id:
            return
        if self._measure_start_s is None:
            self._end_warm_up()
            return
        self._last = observation
        self._decide(self._now_s - self._measure_start_s)

    def _end_warm_up(self) -> None:
        rate = self.qps * self.parts[self._frequent].share
        if self._now_s >= self._probe.max_s or is_flat(self._warmup[self._frequent], 0.0, rate):
            self._measure_start_s = self._now_s
            self._probe = Probe(1, "open", self.qps, max_s=self._measure_s)

    def _decide(self, evidence_s: float) -> None:
        due = [look for look in self._looks if look.at_s <= evidence_s]
        is_spent = evidence_s >= self._probe.max_s - 1e-9
        if not due and not is_spent:
            if self._is_hopeless(evidence_s):
                self._end_breached("nothing goes well any more")
            return
        self._looks = self._looks[len(due) :]
        self._look(due[-1].alpha if due else self._last_alpha, last=is_spent or not self._looks)

    def _is_hopeless(self, evidence_s: float) -> bool:
        """Whether every request of a part was bad for seconds; sets what was judged."""
        if evidence_s < COLLAPSE_S:
            return False
        for evidence, part in zip(self._evidence, self.parts, strict=True):
            recent = evidence.since(evidence.end_s - COLLAPSE_S).judge(part.slo, COLLAPSE_ALPHA)
            if any(judged.bad == judged.total >= COLLAPSE_REQUESTS for judged in recent):
                self._bounds = self._judge(ALPHA)
                return any(judged.verdict is Verdict.FAIL for judged in self._bounds)
        return False

    def _judge(self, alpha: float, *, late_allowance_s: float = 0.0) -> tuple[BoundEvidence, ...]:
        """Every part's bounds; lower limits at an alpha that is shared out, upper ones at the whole."""
        count = sum(len(part.slo.bounds) for part in self.parts)
        judged: list[BoundEvidence] = []
        for part, evidence in zip(self.parts, self._judged(), strict=True):
            whole = evidence.judge(part.slo, alpha, late_allowance_s=late_allowance_s)
            shared = evidence.judge(part.slo, alpha / count, late_allowance_s=late_allowance_s)
            judged += [
                replace(one, share_low=strict.share_low) for one, strict in zip(whole, shared, strict=True)
            ]
        return tuple(judged)

    def _look(self, alpha: float, *, last: bool) -> None:
        self._bounds = self._judge(alpha)
        if any(judged.verdict is Verdict.FAIL for judged in self._bounds):
            self._end_breached("enough evidence")
            return
        doubts = self._load_doubts(breached=False)
        if all(judged.verdict is Verdict.PASS for judged in self._bounds):
            if not doubts:
                self._end(Verdict.PASS, "enough evidence", ())
            elif last:
                self._end(Verdict.INCONCLUSIVE, "doubted", doubts)
        elif last:
            self._end(Verdict.INCONCLUSIVE, "budget spent", (*doubts, *self._undecided()))

    def _undecided(self) -> tuple[Doubt, ...]:
        """Why each undecided operation is so: too few samples, or an interval that leaves it open."""
        doubts = []
        for part in self.parts:
            own = [judged for judged in self._bounds if judged.bound.operation == part.name]
            own = [judged for judged in own if judged.verdict is not Verdict.PASS]
            if own:
                doubts.append(self._too_few(part, own) or self._open(own))
        return tuple(doubts)

    def _too_few(self, part: Part, judged: Sequence[BoundEvidence]) -> Doubt | None:
        most = max(judged, key=lambda one: smallest_sample(one.bound.allowed_share, one.alpha))
        needed = smallest_sample(most.bound.allowed_share, most.alpha)
        if most.total >= needed:
            return None
        whose = f"operation {part.name!r}" if part.name else "the replay"
        return Doubt(
            "too_few_samples",
            f"{whose} has too few samples: {most.total} request{'s' * (most.total != 1)} in "
            f"{self._now_s:.0f} s of load, and {most.bound.plain_label} needs {needed}",
            self._more_of(most.total, needed),
        )

    def _more_of(self, total: int, needed: int) -> str:
        """What would bring more samples."""
        if not total:
            return "traffic with more of it"
        return f"budget_s={1.2 * needed / total * self._whole_s():.0f}, or traffic with more of it"

    def _open(self, judged: Sequence[BoundEvidence]) -> Doubt:
        return undecided_doubt(judged, self._now_s, self._whole_s())

    def _whole_s(self) -> float:
        """All seconds of load that were planned."""
        return (self._measure_start_s or 0.0) + self._measure_s

    def extend(self) -> bool:
        """Grant the budget once more; never, unless a kind of measurement can be made longer."""
        return False

    def left_s(self) -> float:
        """Seconds of load that may still come, without an extension."""
        if self._measure_start_s is None:
            return self._probe.max_s + self._measure_s - self._now_s
        return max(0.0, self._measure_start_s + self._measure_s - self._now_s)

    def _judged(self) -> list[Evidence]:
        return self._evidence if any(evidence.seconds for evidence in self._evidence) else self._warmup

    def _warmup_s(self) -> float:
        return self._now_s if self._measure_start_s is None else self._measure_start_s


class SustainOperations(SideBySide):
    """Decide whether each operation keeps its own SLO at ``qps`` requests a second of all of them.

    ``min_s`` is the least evidence for a pass, ``budget_s`` the most load with warm-up; ``extend`` grants it
    once more. Raises ValueError where the budget can hold a verdict on none of them.
    """

    def __init__(self, parts: Sequence[Part], qps: float, *, min_s: float = 10, budget_s: float = 60) -> None:
        self.plan = plan_operations(parts, qps, min_s=min_s, budget_s=budget_s)
        warmup_s = max(WARMUP_MIN_S, min(WARMUP_MAX_S, WARMUP_SHARE * budget_s))
        self._budget_s = budget_s
        super().__init__(parts, qps, self.plan.looks, warmup_s=warmup_s, measure_s=budget_s - WARMUP_MIN_S)

    def _end_warm_up(self) -> None:
        super()._end_warm_up()
        if self._measure_start_s is not None:
            self._measure_s = max(1.0, self._budget_s - self._measure_start_s)
            self._probe = replace(self._probe, max_s=self._measure_s)

    def extend(self) -> bool:
        """Grant the budget once more if it ended undecided for want of evidence alone; True if it did."""
        wanting = {"undecided", "too_few_samples"}
        undecided = self._verdict is Verdict.INCONCLUSIVE and all(
            doubt.kind in wanting for doubt in self._doubts
        )
        if self._extended or not undecided or not self.plan.extension or self._measure_start_s is None:
            return False
        self._extended, self._verdict, self._doubts = True, None, ()
        self._measure_s += self._budget_s
        self._probe = replace(self._probe, max_s=self._measure_s)
        late_s = max(0.0, self._measure_start_s - WARMUP_MIN_S)
        self._looks = [replace(look, at_s=look.at_s - late_s) for look in self.plan.extension]
        return True
