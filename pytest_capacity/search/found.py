"""What a capacity search or a sustain measurement found, in plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.evidence import BoundEvidence
from pytest_capacity.slo import Verdict

Status = Literal[
    "converged",
    "budget",
    "not_steady",
    "ill_conditioned",
    "generator_limited",
    "unattainable",
    "no_limit_found",
]

ILL_CONDITIONED = 0.15
"""Above this condition number a tenth more allowed lateness moves the capacity by more than 1.5 %."""


@dataclass(frozen=True)
class CapacityResult:
    """What a search found, with its 90 % interval in requests a second.

    ``capacity_qps`` is None where the search ended without one: below ``min_qps`` (unattainable; then
    ``ci_high_qps`` is known) or above ``max_qps`` (no_limit_found; then ``ci_low_qps`` is). ``load_s`` counts
    all phases and never exceeds the budget; ``binding`` names the bound that limits. The interval ends at
    ``max_qps``: what was asked for is the highest of the rates allowed.
    ``calm_qps`` is what the capacity would be without spikes; ``saturation_qps`` the throughput of the closed
    loop that warmed the server up, which is no capacity; ``cold_factor`` how many times longer the first
    requests took than the last. ``overloaded_qps`` is what the server gives with more requests in flight than
    it needs, where that is less: above it, what a burst begins may not end, and ``ci_low_qps`` allows for
    that.
    """

    capacity_qps: float | None
    ci_low_qps: float | None
    ci_high_qps: float | None
    condition_number: float | None
    status: Status
    load_s: float
    requests: int
    doubts: tuple[Doubt, ...] = ()
    binding: str = ""
    warmup_s: float = 0.0
    baseline_ms: float | None = None
    calm_qps: float | None = None
    saturation_qps: float | None = None
    cold_factor: float | None = None
    overloaded_qps: float | None = None


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
