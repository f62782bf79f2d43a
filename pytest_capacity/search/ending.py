"""What controllers share that end in a verdict on one rate: their face, what they take in, how they end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pytest_capacity.protocols import Health, Observation, Probe
from pytest_capacity.search.breaches import fails, is_explained, load_doubts
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.evidence import BoundEvidence, Evidence, binding
from pytest_capacity.search.found import SustainResult
from pytest_capacity.search.plan import ALPHA
from pytest_capacity.search.remarks import stopped_doubt, unseen
from pytest_capacity.slo import SLO, Verdict


class Ending(ABC):
    """An ask/tell controller that goes on with its probe until there is a verdict."""

    def __init__(self, slos: tuple[SLO, ...], probe: Probe) -> None:
        self._slos, self._probe = slos, probe
        self._now_s = 0.0
        self._sent: dict[int, int] = {}
        self._last: Observation | None = None
        self._bounds: tuple[BoundEvidence, ...] = ()
        self._doubts: tuple[Doubt, ...] = ()
        self._verdict: Verdict | None = None
        self._stop_reason = ""
        self._extended = False

    @abstractmethod
    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""

    @abstractmethod
    def extend(self) -> bool:
        """Grant the budget once more if it ended undecided for want of evidence alone; True if it did."""

    @abstractmethod
    def left_s(self) -> float:
        """Seconds of load that may still come, without an extension."""

    @abstractmethod
    def _judge(self, alpha: float, *, late_allowance_s: float = 0.0) -> tuple[BoundEvidence, ...]:
        """Every bound, by what ``_judged`` gives."""

    @abstractmethod
    def _judged(self) -> list[Evidence]:
        """What was measured; the warm-up's requests where nothing was yet, for what was stopped in it."""

    @abstractmethod
    def _warmup_s(self) -> float:
        """How long the load lasted before it was measured."""

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when the measurement has ended."""
        return None if self._verdict is not None else self._probe

    def standing(self) -> str:
        """Nothing: a figure that was not planned for would invite to stop on it."""
        return ""

    def halt(self, reason: str) -> None:
        """End at once because the load was stopped from outside, and judge what there is.

        Never a pass: what was planned was not seen.
        """
        if self._verdict is not None:
            return
        self._bounds = self._judge(ALPHA)
        if fails(self._bounds):
            self._end(Verdict.FAIL, reason, ())
        else:
            self._end(Verdict.INCONCLUSIVE, reason, (stopped_doubt(reason),))

    def result(self) -> SustainResult:
        """What is known so far; ``verdict`` is None until the measurement has ended."""
        bounds = self._bounds or self._judge(ALPHA)
        worst, parts = binding(bounds), self._judged()
        seconds = max(evidence.seconds for evidence in parts)
        return SustainResult(
            verdict=self._verdict,
            stop_reason=self._stop_reason,
            bad_share=worst.bad_share,
            bad_share_low=worst.share_low,
            bad_share_high=worst.share_high,
            bounds=bounds,
            doubts=self._doubts,
            load_s=self._now_s,
            warmup_s=self._warmup_s(),
            evidence_s=seconds,
            requests=sum(self._sent.values()),
            evidence_requests=sum(len(evidence.columns()[0]) for evidence in parts),
            extended=self._extended,
            remarks=unseen(seconds, self._bounds) if self._verdict is Verdict.PASS else (),
        )

    def _note(self, observation: Observation) -> None:
        """Take the time and how many were sent."""
        self._now_s = max(self._now_s, observation.now_s)
        number = observation.probe_id
        self._sent[number] = max(self._sent.get(number, 0), observation.sent)

    def _load_doubts(self, *, breached: bool = True) -> tuple[Doubt, ...]:
        return load_doubts(self._last, self._slos, breached=breached)

    def _end_breached(self, reason: str) -> None:
        """FAIL, unless a doubt about the generator can explain every breach."""
        doubts = self._load_doubts()
        if is_explained(self._bounds, doubts) and not self._is_beyond_lateness():
            self._end(Verdict.INCONCLUSIVE, reason, doubts)
        else:
            self._end(Verdict.FAIL, reason, doubts)

    def _is_beyond_lateness(self) -> bool:
        """Whether latency breaks its bound even with the generator's lateness taken off, twice.

        Once for the request's own lateness and once for the queue that requests sent in a bunch make.
        """
        health = self._last.health if self._last else Health()
        return fails(self._judge(ALPHA, late_allowance_s=2 * health.late_max_s))

    def _end(self, verdict: Verdict, reason: str, doubts: tuple[Doubt, ...]) -> None:
        self._verdict, self._stop_reason, self._doubts = verdict, reason, doubts
