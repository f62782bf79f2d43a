"""What a sustain controller asks for, and when it says PASS, FAIL or INCONCLUSIVE.

Servers are simulated in virtual time, so that nothing here depends on the machine.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_capacity.protocols import Health, Observation, Outcome
from pytest_capacity.search.doubts import generator_doubts, steadiness_doubt
from pytest_capacity.search.found import SustainResult
from pytest_capacity.search.plan import ALPHA, WARMUP_MIN_S, plan_sustain
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.simulate import drive as simulated_drive
from pytest_capacity.simulate.arriving import poisson
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import Cold, ServerSpec
from pytest_capacity.slo import SLO, Verdict
from tests.virtual import Drive, VirtualServer

P99_50 = SLO(p99_ms=50)
SEEDS = range(8)


def lognormal(now_s: float, rng: np.random.Generator) -> float:  # noqa: ARG001 - a service time's signature
    """Eight milliseconds of work on average: two workers hold about 185/s within 50 ms at p99."""
    return float(rng.lognormal(-0.125, 0.5)) * 0.008


def sustain(
    qps: float, server: VirtualServer | None = None, *, seed: int = 0, **options: float
) -> SustainResult:
    controller = Sustain(P99_50, qps, **options)  # type: ignore[arg-type]  # seed is not among the options
    return Drive(server or VirtualServer(2, lognormal), 0.05, seed).run(controller)


class TestVerdicts:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_far_below_capacity_passes_within_the_budget(self, seed: int) -> None:
        result = sustain(110, seed=seed)

        assert result.verdict is Verdict.PASS
        assert result.bad_share_high <= 0.01
        assert result.evidence_s >= 9.5
        assert result.doubts == ()

    @pytest.mark.parametrize("seed", SEEDS)
    def test_far_above_capacity_fails_and_names_the_bound(self, seed: int) -> None:
        result = sustain(260, seed=seed)

        assert result.verdict is Verdict.FAIL
        assert [judged.bound.name for judged in result.breached] == ["p99_ms"]
        assert result.bad_share_low > 0.01

    def test_slightly_above_capacity_seldom_passes(self) -> None:
        verdicts = [sustain(185 * 1.1, seed=seed).verdict for seed in range(20)]

        assert verdicts.count(Verdict.PASS) <= 3

    def test_failed_requests_break_the_error_bound_however_fast(self) -> None:
        server = VirtualServer(8, fails=lambda at_s: int(at_s * 1000) % 20 == 0)

        result = sustain(200, server)

        assert result.verdict is Verdict.FAIL
        # A failed request counts as infinitely slow too, so both bounds break.
        assert [judged.bound.name for judged in result.breached] == ["p99_ms", "error_rate"]

    def test_one_stall_in_a_run_is_neither_a_pass_nor_a_fail(self) -> None:
        """Seven tenths of a second without a reply: one event says nothing of how often it comes."""

        def stalls_once(now_s: float, rng: np.random.Generator) -> float:
            return 0.7 if 8.0 <= now_s < 8.1 else float(rng.exponential(0.002))

        result = sustain(100, VirtualServer(1, stalls_once), budget_s=20)

        assert result.verdict is Verdict.INCONCLUSIVE
        assert [doubt.kind for doubt in result.doubts] == ["undecided"]
        assert result.bad_share_low < 0.01 < result.bad_share_high

    def test_nothing_passes_while_a_pause_may_have_just_begun(self) -> None:
        """Late is what arrives in the last moments before the look at which all else would pass."""

        def stands_still(now_s: float, rng: np.random.Generator) -> float:
            return 3.0 if 11.8 <= now_s < 11.9 else float(rng.exponential(0.002))

        result = sustain(100, VirtualServer(1, stands_still))

        assert result.verdict is not Verdict.PASS or result.load_s > 20

    def test_a_pass_does_not_wait_for_a_moment_in_which_nothing_is_late(self) -> None:
        """A fifth of the requests is late all the time, and half of them may be."""
        server = VirtualServer(8, lambda _now, rng: float(rng.exponential(0.002)))

        result = Drive(server, 0.003).run(Sustain(SLO(p50_ms=3), 400))

        assert result.verdict is Verdict.PASS
        assert result.load_s <= 12.5

    def test_several_bounds_must_all_hold(self) -> None:
        slo = SLO(p50_ms=1, p99_ms=50)

        result = Drive(VirtualServer(2, lognormal), 0.05).run(Sustain(slo, 60))

        assert result.verdict is Verdict.FAIL
        assert [judged.bound.name for judged in result.breached] == ["p50_ms"]


class TestLoad:
    def test_never_offers_another_rate_than_its_own_not_even_to_warm_up(self) -> None:
        drive = Drive(VirtualServer(2, lognormal), 0.05)

        drive.run(Sustain(P99_50, 110))

        assert set(drive.offered) == {110}

    @pytest.mark.parametrize("qps", [90, 170, 185, 400])
    def test_never_loads_longer_than_its_budget(self, qps: float) -> None:
        assert sustain(qps, budget_s=25).load_s <= 25

    def test_a_cold_start_is_no_evidence(self) -> None:
        def cold(now_s: float, rng: np.random.Generator) -> float:
            return (0.03 if now_s < 3 else 0.002) * float(rng.exponential())

        result = sustain(25, VirtualServer(1, cold), budget_s=60)

        assert result.verdict is Verdict.PASS
        assert result.warmup_s >= 2

    @pytest.mark.parametrize(
        ("spec", "qps", "seed"),
        [
            (
                ServerSpec(
                    batch_max=10,
                    batch_wait_s=0.0053,
                    cost_base_s=0.0112,
                    cost_item_s=0.00118,
                    cold=Cold(factor=3.8, requests=2600),
                ),
                290,
                1,
            ),
            (
                ServerSpec(cost_item_s=0.0066, lognormal_sigma=0.44, cold=Cold(factor=3.3, requests=1650)),
                85,
                0,
            ),
        ],
        ids=["its queue stays the same for a while", "it was cold when the evidence began"],
    )
    def test_a_server_that_is_surely_cold_yet_does_not_fail_for_that(
        self, spec: ServerSpec, qps: float, seed: int
    ) -> None:
        """Warm, it takes a tenth more than this (``pytest-capacity simulate --truth``)."""
        controller = Sustain(P99_50, qps)
        simulated_drive.Drive(SimulatedServer(spec, seed), poisson(seed), 0.05).play(
            controller, controller.extend
        )

        assert controller.result().verdict is not Verdict.FAIL

    def test_half_of_what_a_slow_server_takes_once_warm_is_not_failed_while_it_is_cold(self) -> None:
        """Its queue stays the same for minutes, too long for the mean request and not for the quickest.

        Warm, it takes 42/s (``pytest-capacity simulate --truth``).
        """
        spec = ServerSpec(cost_item_s=0.009, lognormal_sigma=0.6, cold=Cold(factor=2.5, requests=1200))
        verdicts = []
        for seed in range(8):
            controller = Sustain(P99_50, 21)
            drive = simulated_drive.Drive(SimulatedServer(spec, seed), poisson(seed), 0.05)
            drive.play(controller, controller.extend)
            verdicts.append(controller.result().verdict)

        assert Verdict.FAIL not in verdicts

    def test_overload_ends_long_before_the_budget(self) -> None:
        result = sustain(600)

        assert result.verdict is Verdict.FAIL
        assert result.load_s < 20
        assert "overload" in result.stop_reason or "late" in result.stop_reason

    def test_a_server_that_dies_ends_the_load_within_seconds(self) -> None:
        result = sustain(100, VirtualServer(4, fails=lambda at_s: at_s > 6))

        assert result.verdict is Verdict.FAIL
        assert result.stop_reason == "every request of the last 5 s failed"
        assert result.load_s < 14

    def test_a_server_that_hangs_fails_by_age(self) -> None:
        def hangs(now_s: float, rng: np.random.Generator) -> float:
            return 1e6 if now_s > 5 else float(rng.exponential(0.002))

        result = sustain(100, VirtualServer(2, hangs))

        assert result.verdict is Verdict.FAIL
        assert result.load_s < 20

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("latency_s", [0.08, 0.15, 0.3, 0.6, 3.0])
    def test_a_server_that_takes_long_for_each_request_is_late_and_not_cold(
        self, latency_s: float, seed: int
    ) -> None:
        """It holds many at once, which looks like a queue; but it answers as many as it is sent."""
        result = sustain(60, VirtualServer(500, lambda _now, _rng: latency_s), seed=seed)

        assert result.verdict is Verdict.FAIL
        assert result.load_s <= 16

    @pytest.mark.parametrize("seed", range(3))
    def test_one_that_takes_long_fails_within_a_small_budget(self, seed: int) -> None:
        slo = SLO(p50_ms=100, error_rate=0.3)

        def takes_long(_now: float, rng: np.random.Generator) -> float:
            return 0.6 * float(rng.lognormal(0, 0.1))

        drive = Drive(VirtualServer(500, takes_long), 0.1, seed)
        result = drive.run(Sustain(slo, 60, min_s=1, budget_s=8), extend=True)

        assert result.verdict is Verdict.FAIL
        assert result.load_s <= 8

    def test_an_undecided_run_is_extended_once(self) -> None:
        drive = Drive(VirtualServer(2, lognormal), 0.05, seed=3)
        controller = Sustain(P99_50, 187, budget_s=20)

        result = drive.run(controller, extend=True)

        assert result.extended
        assert 20 < result.load_s <= 40
        assert not controller.extend()

    def test_a_run_that_was_suspended_beyond_its_extension_is_not_extended(self) -> None:
        controller, nothing = Sustain(P99_50, 100, budget_s=20), np.empty(0)
        controller.ask()
        controller.tell(
            Observation(
                0, 126.0, 2_000, 100, 0, 0.0, Health(), nothing, nothing, nothing.astype(np.uint8),
                nothing.astype(np.uint16),
            )
        )  # fmt: skip

        assert controller.result().verdict is Verdict.INCONCLUSIVE
        assert not controller.extend()

    def test_a_decided_run_is_not_extended(self) -> None:
        controller = Sustain(P99_50, 110)
        Drive(VirtualServer(2, lognormal), 0.05).run(controller)

        assert not controller.extend()

    def test_the_same_seed_gives_the_same_result(self) -> None:
        assert sustain(150, seed=5) == sustain(150, seed=5)


class TestDoubts:
    def test_a_late_generator_never_passes(self) -> None:
        drive = Drive(
            VirtualServer(4, lognormal), 0.05, health=lambda _now: Health(late_p99_s=0.005, late_max_s=0.01)
        )

        result = drive.run(Sustain(P99_50, 100))

        assert result.verdict is Verdict.INCONCLUSIVE
        (doubt,) = result.doubts
        assert doubt.text == (
            "the load generator was late: p99 5 ms behind schedule, 1 ms allowed (2 % of the 50 ms bound)"
        )

    def test_a_late_generator_does_not_excuse_what_it_cannot_explain(self) -> None:
        """Ten milliseconds of lateness make no reply half a second slow, and no reply fail."""
        late = Health(late_p99_s=0.005, late_max_s=0.01)
        overloaded = Drive(VirtualServer(1, lognormal), 0.05, health=lambda _now: late)
        failing = Drive(
            VirtualServer(4, fails=lambda at_s: int(at_s * 10) % 2 == 0), 0.05, health=lambda _now: late
        )

        assert overloaded.run(Sustain(P99_50, 300)).verdict is Verdict.FAIL
        assert failing.run(Sustain(P99_50, 100)).verdict is Verdict.FAIL

    def test_a_breach_that_lateness_explains_is_no_fail(self) -> None:
        slow = VirtualServer(8, lambda _now, rng: 0.052 if rng.random() < 0.05 else 0.001)
        drive = Drive(
            slow, 0.2, health=lambda _now: Health(late_p99_s=0.005, late_max_s=0.01, late_share=0.02)
        )

        assert drive.run(Sustain(P99_50, 100)).verdict is Verdict.INCONCLUSIVE

    @pytest.mark.parametrize(
        ("health", "planned", "sent", "limit_ms", "kinds"),
        [
            (Health(late_p99_s=0.02, late_max_s=0.02, late_share=1 / 40), 40, 40, 50, []),
            (Health(late_p99_s=0.02, late_max_s=0.02, late_share=2 / 40), 40, 40, 50, ["generator_late"]),
            (Health(late_p50_s=0.003, late_p99_s=0.004), 40, 40, 50, ["generator_late"]),
            (Health(late_p99_s=0.0005, late_share=0.004), 1000, 1000, 50, []),
            (Health(late_p99_s=0.0005, late_share=0.006), 1000, 1000, 50, ["generator_late"]),
            (Health(late_p99_s=0.0009), 1000, 1000, 50, []),
            (Health(late_p99_s=0.0019), 999, 999, 50, []),
            (Health(late_p99_s=0.0021), 999, 999, 50, ["generator_late"]),
            (Health(late_p99_s=0.0011), 1000, 1000, 50, ["generator_late"]),
            (Health(late_p99_s=0.009), 1000, 1000, 500, []),
            (Health(late_p99_s=0.011), 1000, 1000, 500, ["generator_late"]),
            (Health(late_p99_s=5.0), 1000, 1000, None, []),
            (Health(), 1000, 996, 50, []),
            (Health(), 1000, 990, 50, ["short_of_plan"]),
            (Health(not_sent=10, max_in_flight=64), 1000, 990, 50, ["in_flight_bound"]),
        ],
    )
    def test_the_generator_is_doubted_at_its_thresholds(
        self, health: Health, planned: int, sent: int, limit_ms: float | None, kinds: list[str]
    ) -> None:
        assert [doubt.kind for doubt in generator_doubts(health, planned, sent, limit_ms)] == kinds

    def test_requests_late_in_spite_of_which_all_was_in_time_are_no_doubt(self) -> None:
        paused = Health(late_p99_s=0.0005, late_share=0.006)

        assert not generator_doubts(paused, 1000, 1000, 50, breached=False)
        assert generator_doubts(replace(paused, late_p99_s=0.002), 1000, 1000, 50, breached=False)

    def test_requests_kept_back_are_no_evidence_against_the_server(self) -> None:
        controller = Sustain(P99_50, 100)
        intended = np.arange(0, 60, 0.01)
        for now in np.arange(0.25, 60, 0.25):
            asked = controller.ask()
            if asked is None:
                break
            rows = intended[(intended >= now - 0.25) & (intended < now)]
            outcome = np.where(np.arange(len(rows)) % 2 == 0, Outcome.NOT_SENT, Outcome.GOOD).astype(np.uint8)
            health = Health(not_sent=int(now * 50), max_in_flight=1)
            controller.tell(
                Observation(
                    asked.id, float(now), int(now * 100), int(now * 50), 1, 0.0, health,
                    rows, np.full(len(rows), 0.005), outcome, np.zeros(len(rows), dtype=np.uint16),
                )
            )  # fmt: skip

        result = controller.result()

        assert result.verdict is Verdict.INCONCLUSIVE
        assert [doubt.kind for doubt in result.doubts] == ["in_flight_bound"]
        assert "max_in_flight" in result.doubts[0].remedy

    def test_latency_that_keeps_rising_is_not_steady(self) -> None:
        batch = np.repeat(np.arange(20), 50)
        rng = np.random.default_rng(1)
        noise = rng.exponential(0.001, 1000)

        assert steadiness_doubt(0.005 + noise, batch) is None
        rising = steadiness_doubt(0.005 * (1 + batch / 10) + noise, batch)
        assert rising is not None
        assert rising.kind == "not_steady"

    def test_load_stopped_from_outside_never_passes(self) -> None:
        controller = Sustain(P99_50, 100)
        controller.ask()

        controller.halt("the server answered 401")

        result = controller.result()
        assert controller.ask() is None
        assert result.verdict is Verdict.INCONCLUSIVE
        assert "401" in result.doubts[0].text


class TestPlan:
    def test_what_a_usual_requirement_costs_is_known_before(self) -> None:
        plan = plan_sustain(P99_50, 200, min_s=10, budget_s=60)

        assert plan.min_s == 12
        assert plan.max_s == 60
        assert (plan.min_requests, plan.max_requests) == (2_400, 12_000)

    @pytest.mark.parametrize(
        ("qps", "budget_s", "message"),
        [
            (
                5,
                60,
                r"p99 at 5/s needs 299 requests = 60 s, and 2 s of warm-up; budget_s is 60\. Use budget_s=92",
            ),
            (1000, 5, r"needs at least min_s=10 s.*budget_s is 5\. Use budget_s=17"),
            (0, 60, "qps=0 must be positive"),
            (float("nan"), 60, "must be positive"),
            (100, -1, "budget_s=-1 must be positive"),
        ],
    )
    def test_a_plan_without_a_verdict_is_refused_with_what_would_do(
        self, qps: float, budget_s: float, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            plan_sustain(P99_50, qps, min_s=10, budget_s=budget_s)

    @pytest.mark.parametrize("qps", [5, 6, 8, 20, 200, 5000])
    @pytest.mark.parametrize("budget_s", [62, 70, 120, 600])
    def test_all_looks_together_spend_no_more_than_five_percent(self, qps: float, budget_s: float) -> None:
        plan = plan_sustain(P99_50, qps, min_s=10, budget_s=budget_s)

        assert sum(look.alpha for look in (*plan.looks, *plan.extension)) <= ALPHA + 1e-12
        times = [look.at_s for look in (*plan.looks, *plan.extension)]
        assert times == sorted(times)
        assert plan.looks[-1].at_s <= budget_s - WARMUP_MIN_S

    def test_the_budget_named_is_enough_for_a_quick_server(self) -> None:
        result = Drive(VirtualServer(1, lambda _now, _rng: 0.001), 0.05).run(Sustain(P99_50, 5, budget_s=92))

        assert result.verdict is Verdict.PASS


def test_a_pass_says_what_it_could_not_see() -> None:
    result = sustain(60, VirtualServer(1, lambda _now, _rng: 0.001))

    assert result.verdict is Verdict.PASS
    (remark,) = result.remarks
    assert remark.startswith(f"no spike in {result.evidence_s:.0f} s")
