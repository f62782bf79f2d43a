"""How much can the server take under an SLO? An ask/tell search (design.md section 6), pure.

It warms the server up by work (``warmup``), which also tells where it saturates, and then asks open loop at
rates that the posterior of the capacity (``beliefs``, ``tail``) makes worth asking (``hunt``). *Spike
tolerance*: spikes are part of the evidence, told from a queue by not depending on the rate, and the capacity
is given with and without them. *Convergence*: the interval's width, confirmed by a soak.
"""

from __future__ import annotations

import math

from pytest_capacity.protocols import Observation, Probe
from pytest_capacity.search.beliefs import HIGH, LOW, MIDDLE
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.found import ILL_CONDITIONED, CapacityResult, Status
from pytest_capacity.search.hunt import Hunt, Range
from pytest_capacity.search.stage import Stage
from pytest_capacity.search.windows import Window
from pytest_capacity.slo import SLO

LIKELY = 0.3
"""With this probability of it a capacity is called ill-conditioned: its middle should not be trusted then."""
SPOILT_S = 3.0
"""Longer than it takes to see that a load is to be stopped."""
_DEFAULT_MAX_QPS = 10_000.0


class CapacitySearch:
    """Find the highest rate up to which ``slo`` holds.

    ``budget_s`` is the most load, every phase included. ``tolerance`` is the width of the 90 % interval, as a
    share of the capacity, that counts as converged; the load ends before the budget at half of that. Rates
    stay within ``min_qps`` and ``max_qps``. ``max_in_flight`` is where a probe ends as overloaded. None of
    its choices is random, nor steered by ``require_qps``: it and ``seed`` are only kept.

    Raises ValueError for bounds or times out of range.
    """

    def __init__(
        self,
        slo: SLO,
        *,
        budget_s: float = 60,
        tolerance: float = 0.08,
        min_qps: float | None = None,
        max_qps: float | None = None,
        max_in_flight: int | None = None,
        require_qps: float | None = None,
        seed: int = 0,
    ) -> None:
        _check(
            budget_s=budget_s, tolerance=tolerance, min_qps=min_qps, max_qps=max_qps, require_qps=require_qps
        )
        self.slo, self.seed, self.tolerance = slo, seed, tolerance
        self.budget_s, self.require_qps = budget_s, require_qps
        self._min_qps, self._max_qps = min_qps, max_qps or _DEFAULT_MAX_QPS
        if min_qps is not None and min_qps > self._max_qps:
            raise ValueError(f"min_qps={min_qps:g} is above max_qps={self._max_qps:g}")
        self._stage = Stage(slo, budget_s, max_in_flight)
        self._hunt = Hunt(slo, self._stage, Range(min_qps, self._max_qps, max_qps is not None), tolerance)
        self._stopped: str | None = None
        self._script = self._hunt.script()
        self._probe: Probe | None = next(self._script)

    @property
    def windows(self) -> list[Window]:
        """Every probe so far with what came of it."""
        return self._stage.windows

    def ask(self) -> Probe | None:
        """The probe to go on with, or None when the search has ended."""
        return self._probe

    def tell(self, observation: Observation) -> None:
        """Take what came of the load since the last observation."""
        self._stage.tell(observation)
        if self._probe is None or observation.probe_id != self._probe.id:
            return
        if self._stage.left_s <= 1e-9:
            self._probe = None
            return
        try:
            self._probe = self._script.send(observation)
        except StopIteration:
            self._probe = None

    def extend(self) -> bool:
        """A search reports how wide its interval is in place of taking more than its budget: never."""
        return False

    def halt(self, reason: str) -> None:
        """End at once because the load was stopped from outside; what was found stands with a doubt.

        What was played just before tells of what stopped it, not of a rate.
        """
        self._stopped, self._probe = reason, None
        for window in self._stage.windows:
            window.void = window.now_s > self._stage.now_s - SPOILT_S

    def left_s(self) -> float:
        """Seconds of load that may still come."""
        return self._stage.left_s

    def standing(self) -> str:
        """The interval so far, once there is evidence; empty before."""
        beliefs = self._hunt.known.beliefs
        # A short budget can end where the limit was met, before anything was made of it.
        if not self._hunt.is_refining or beliefs.is_empty:
            return ""
        return f"capacity {beliefs.quantile(LOW):,.3g}-{beliefs.quantile(HIGH):,.3g}/s"

    def result(self) -> CapacityResult:
        """What is known so far."""
        hunt = self._hunt
        known = bool(hunt.known.evidence())
        if known:
            hunt.known.update()
        status = self._final_status(known=known)
        capacity, low, high = self._interval(status, known=known)
        beliefs, warm_up = hunt.known.beliefs, hunt.known.warm_up
        return CapacityResult(
            capacity_qps=capacity,
            ci_low_qps=low,
            ci_high_qps=high,
            condition_number=beliefs.condition_number() if known else None,
            status=status,
            load_s=min(self._stage.now_s, self.budget_s),
            requests=self._stage.requests,
            doubts=self._doubts(),
            binding=self.slo.bounds[beliefs.binding].name if known else "",
            warmup_s=warm_up.seconds if warm_up else self._stage.now_s,
            baseline_ms=hunt.baseline_s * 1000 if math.isfinite(hunt.baseline_s) else None,
            calm_qps=beliefs.calm_qps() if known and capacity is not None else None,
            saturation_qps=warm_up.saturation.qps if warm_up and warm_up.saturation else None,
            cold_factor=warm_up.cold_factor if warm_up else None,
            overloaded_qps=warm_up.overloaded_qps if warm_up else None,
        )

    def _final_status(self, *, known: bool) -> Status:
        hunt = self._hunt
        if hunt.generator:
            return "generator_limited"
        if hunt.status is not None:
            return hunt.status
        if not hunt.known.is_steady:
            return "not_steady"
        return self._status_of_evidence() if known else "budget"

    def _status_of_evidence(self) -> Status:
        hunt = self._hunt
        if hunt.known.is_held(self._max_qps):
            return "no_limit_found"
        if hunt.known.beliefs.ill_conditioned(ILL_CONDITIONED) > LIKELY:
            return "ill_conditioned"
        is_narrow = hunt.is_confirmed and hunt.known.beliefs.width() <= self.tolerance
        return "converged" if is_narrow and self._kept_when_overloaded == 1.0 else "budget"

    @property
    def _kept_when_overloaded(self) -> float:
        """The share of its throughput that the server keeps with more requests in flight than it needs."""
        warm_up = self._hunt.known.warm_up
        if warm_up is None or warm_up.saturation is None or warm_up.overloaded_qps is None:
            return 1.0
        return min(1.0, warm_up.overloaded_qps / warm_up.saturation.qps)

    def _interval(self, status: Status, *, known: bool) -> tuple[float | None, float | None, float | None]:
        if not known:
            return None, None, None
        low, middle, high = (self._hunt.known.beliefs.quantile(part) for part in (LOW, MIDDLE, HIGH))
        if status == "unattainable":
            lowest_qps = min(window.rate_qps for window in self._hunt.known.evidence())
            return None, None, min(high, self._min_qps or lowest_qps)
        if status == "no_limit_found":
            return None, self._max_qps, None
        # Asked was for the highest rate of those allowed.
        low, middle, high = (min(rate, self._max_qps) for rate in (low, middle, high))
        return middle, low * self._kept_when_overloaded, high

    def _doubts(self) -> tuple[Doubt, ...]:
        stopped = unsteady = None
        if self._stopped:
            stopped = Doubt("stopped", f"the load was stopped: {self._stopped}", "the server's log")
        warm_up = self._hunt.known.warm_up
        if warm_up is not None and not self._hunt.known.is_steady:
            unsteady = Doubt(
                "not_steady",
                f"the server was not steady after {warm_up.seconds:.0f} s and "
                f"{warm_up.requests} requests of warm-up",
                "a longer budget_s, or a server that is warm",
            )
        hunt = self._hunt
        return tuple(
            doubt for doubt in (*hunt.generator, stopped, unsteady, hunt.moved, hunt.failing) if doubt
        )


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be positive")
