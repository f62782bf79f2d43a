"""What one measurement came to, in plain data: the result a test gets, and what the record is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pytest_capacity.protocols import Floats, Health, Json, Probe, Samples
from pytest_capacity.results.shapes import Kind, State
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.found import CapacityResult, SustainResult
from pytest_capacity.slo import AnySLO, Breach, Verdict
from pytest_capacity.stats.intervals import quantile_limits
from pytest_capacity.stats.summary import failed_share, requests_sent


@dataclass(frozen=True)
class PreflightReply:
    """One request sent before the load. ``text`` is empty where the reply was good."""

    operation: str
    status: int | None
    latency_ms: float
    text: str


@dataclass(frozen=True)
class PlayedProbe:
    """A probe as it was played, its times in seconds since the load began.

    ``late_after_s`` is the age at which a request is late under every latency bound.
    """

    probe: Probe
    role: str
    start_s: float
    end_s: float
    samples: Samples
    late_after_s: float


@dataclass(frozen=True)
class BoundReport:
    """One bound with its evidence and, where it bounds a latency, that quantile with its interval.

    Latencies are in milliseconds, ``inf`` where the quantile lies among failed requests, NaN without any.
    """

    breach: Breach
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """The result of a measurement, a sustain assertion or a capacity search.

    ``qps`` is the rate that is required, None for a search without a requirement; ``capacity`` is what a
    search found. ``verdict`` is None where it was interrupted. ``state`` is ``complete``, ``stopped`` (by a
    safety rule), ``interrupted`` or ``preflight`` (nothing but the preflight was sent). ``samples`` are the
    requests that count as evidence, ``sampled_s`` the seconds in which they were due: warm-up left out, and
    of a search those near the capacity. Latencies
    count from the intended send time; a failed request counts as infinitely slow. ``latencies_of`` holds
    those of each operation where there are several, ``trace`` what was replayed and how. ``secrets`` are
    values that no text or file may show.
    """

    kind: Kind
    state: State
    verdict: Verdict | None
    qps: float | None
    slo: AnySLO
    message: str
    stop_reason: str
    arrivals: str
    seed: int
    budget_s: float
    min_s: float | None
    engine: str
    target: dict[str, Json]
    started_at: str
    samples: Samples = field(repr=False)
    sampled_s: float = 0.0
    probes: tuple[PlayedProbe, ...] = field(default=(), repr=False)
    preflight: tuple[PreflightReply, ...] = ()
    result: SustainResult | None = None
    capacity: CapacityResult | None = None
    doubts: tuple[Doubt, ...] = ()
    health: Health = field(default_factory=Health)
    examples: dict[str, str] = field(default_factory=dict)
    latencies_ms: Floats = field(default_factory=lambda: np.empty(0), repr=False)
    latencies_of: Mapping[str, Floats] = field(default_factory=dict, repr=False)
    trace: Mapping[str, Json] | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def bounds(self) -> tuple[BoundReport, ...]:
        """Every bound of the SLO with its evidence."""
        if self.result is None:
            return ()
        reports = []
        for judged in self.result.bounds:
            measured: tuple[float, float, float] | tuple[None, None, None] = (None, None, None)
            if judged.bound.quantile is not None:
                latencies_ms = self.latencies_of.get(judged.bound.operation, self.latencies_ms)
                measured = quantile_limits(latencies_ms, judged.bound.quantile, judged.effect, judged.alpha)
            breach = Breach(judged.bound, judged.bad_share, judged.share_low, judged.share_high, *measured)
            reports.append(BoundReport(breach, judged.verdict))
        return tuple(reports)

    @property
    def breaches(self) -> tuple[Breach, ...]:
        """The bounds shown not to hold; none unless the verdict is FAIL."""
        if self.verdict is not Verdict.FAIL:
            return ()
        return tuple(report.breach for report in self.bounds if report.verdict is Verdict.FAIL)

    def quantile_ms(self, quantile: float) -> float:
        """A latency quantile, such as 0.99; ``inf`` where it lies among failed requests, NaN without any."""
        return quantile_limits(self.latencies_ms, quantile, 1.0, 0.05)[0]

    @property
    def p50_ms(self) -> float:
        """The median latency."""
        return self.quantile_ms(0.5)

    @property
    def p90_ms(self) -> float:
        """The latency that 90 % of the requests stay within."""
        return self.quantile_ms(0.9)

    @property
    def p95_ms(self) -> float:
        """The latency that 95 % of the requests stay within."""
        return self.quantile_ms(0.95)

    @property
    def p99_ms(self) -> float:
        """The latency that 99 % of the requests stay within."""
        return self.quantile_ms(0.99)

    @property
    def p99_9_ms(self) -> float:
        """The latency that 99.9 % of the requests stay within."""
        return self.quantile_ms(0.999)

    @property
    def error_rate(self) -> float:
        """The share of requests that the server failed."""
        return failed_share(self.samples)

    @property
    def evidence_s(self) -> float:
        """Seconds of load that count as evidence."""
        return self.result.evidence_s if self.result else 0.0

    @property
    def load_s(self) -> float:
        """Seconds of load, warm-up included."""
        return max((played.end_s for played in self.probes), default=0.0)

    @property
    def requests(self) -> int:
        """Requests sent under load, warm-up included."""
        return sum(requests_sent(played.samples) for played in self.probes)

    @property
    def offered_qps(self) -> float:
        """Requests due a second while evidence was taken; NaN without any."""
        return self._rate(len(self.samples))

    @property
    def achieved_qps(self) -> float:
        """Requests answered well a second while evidence was taken; NaN without any."""
        return self._rate(int(np.isfinite(self.latencies_ms).sum()))

    @property
    def capacity_qps(self) -> float | None:
        """The capacity that a search found; None where it found none."""
        return self.capacity.capacity_qps if self.capacity else None

    @property
    def ci_low_qps(self) -> float | None:
        """The lower end of the capacity's 90 % interval; None where it is not known."""
        return self.capacity.ci_low_qps if self.capacity else None

    @property
    def ci_high_qps(self) -> float | None:
        """The upper end of the capacity's 90 % interval; None where it is not known."""
        return self.capacity.ci_high_qps if self.capacity else None

    @property
    def status(self) -> str:
        """How a search ended (``converged``, ``budget``, ...); empty for a sustain measurement."""
        return self.capacity.status if self.capacity else ""

    def _rate(self, count: int) -> float:
        return count / self.sampled_s if self.sampled_s > 0 else math.nan
