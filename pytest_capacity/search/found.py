"""What a capacity search found, in plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_capacity.search.doubts import Doubt

Status = Literal[
    "converged",
    "budget",
    "not_steady",
    "ill_conditioned",
    "generator_limited",
    "unattainable",
    "no_limit_found",
]


@dataclass(frozen=True)
class CapacityResult:
    """What a search found, with its 90 % interval in requests a second.

    ``capacity_qps`` is None where the search ended without one: below ``min_qps`` (unattainable; then
    ``ci_high_qps`` is known) or above ``max_qps`` (no_limit_found; then ``ci_low_qps`` is). ``load_s`` counts
    all phases and never exceeds the budget; ``binding`` names the bound that limits.
    ``calm_qps`` is what the capacity would be without spikes; ``saturation_qps`` the throughput of the closed
    loop that warmed the server up, which is no capacity; ``cold_factor`` how many times longer the first
    requests took than the last.
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
