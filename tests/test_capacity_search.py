"""What a capacity search asks for, what it finds, and what a test makes of it; servers in virtual time."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pytest_capacity.protocols import Health
from pytest_capacity.search.beliefs import Beliefs
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.found import CapacityResult
from pytest_capacity.search.posterior import BoundPosterior, WindowCount
from pytest_capacity.search.verdict import judge_search
from pytest_capacity.simulate import drive as simulated_drive
from pytest_capacity.simulate.arriving import poisson
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.slo import SLO, Verdict
from tests.virtual import Drive, VirtualServer

P99_50 = SLO(p99_ms=50)
CAPACITY = 185.4
"""Of ``two_workers``, from 300,000 requests a rate and bisection."""
SHEDDING_CAPACITY = 1103.4
"""Of the server that turns requests away, by ``pytest-capacity simulate --truth``."""


def lognormal(now_s: float, rng: np.random.Generator) -> float:  # noqa: ARG001 - a service time's signature
    return float(rng.lognormal(-0.125, 0.5)) * 0.008


def two_workers() -> VirtualServer:
    return VirtualServer(2, lognormal)


def search(
    seed: int = 0, server: VirtualServer | None = None, **options: float
) -> tuple[CapacityResult, Drive]:
    drive = Drive(server or two_workers(), 0.05, seed)
    return drive.search(CapacitySearch(P99_50, **options)), drive  # type: ignore[arg-type]  # no seed among them


class TestWhatItFinds:
    def test_the_interval_holds_the_capacity_and_the_estimate_is_near(self) -> None:
        found = [search(seed)[0] for seed in range(20)]

        covered = [
            one.ci_low_qps <= CAPACITY <= one.ci_high_qps
            for one in found
            if one.ci_low_qps and one.ci_high_qps
        ]
        errors = [abs(one.capacity_qps / CAPACITY - 1) for one in found if one.capacity_qps]
        assert len(covered) == 20
        assert sum(covered) >= 17
        assert np.median(errors) < 0.04
        assert max(errors) < 0.2

    def test_an_overload_far_above_what_was_held_ends_the_search_for_higher_rates(self) -> None:
        """Nothing is late at 400/s, everything at 800/s: the limit lies between, and that is where to ask."""
        controller = CapacitySearch(P99_50, max_qps=2_000)

        found = Drive(VirtualServer(4, lambda _now_s, _rng: 0.007), 0.05, 3).search(controller)

        assert sum(window.rate_qps > 700 for window in controller.windows) <= 2
        assert found.ci_low_qps
        assert found.ci_high_qps
        assert found.ci_low_qps > 400
        assert found.ci_high_qps < 4 / 0.007 * 1.05

    def test_more_load_makes_the_interval_narrower(self) -> None:
        def width(budget_s: float) -> float:
            found = [search(seed, budget_s=budget_s)[0] for seed in range(8)]
            return float(np.median([(f.ci_high_qps or 0) / (f.ci_low_qps or 1) - 1 for f in found]))

        assert width(120) < 0.8 * width(40)

    def test_failures_limit_the_capacity_as_lateness_does(self) -> None:
        """From 120/s on the server refuses a share of the requests that grows with the rate."""
        drive = Drive(VirtualServer(8), 0.05)
        arrivals: list[float] = []

        def refuses(at_s: float) -> bool:
            arrivals.append(at_s)
            recent = [one for one in arrivals[-400:] if at_s - 1 < one <= at_s]
            return len(recent) > 120 and len(arrivals) % 4 == 0

        drive.server.fails = refuses
        found = drive.search(CapacitySearch(SLO(p99_ms=50, error_rate=0.02)))

        assert found.capacity_qps is not None
        assert 80 < found.capacity_qps < 160

    def test_a_server_that_turns_away_what_it_cannot_hold_is_known_as_well_as_others(self) -> None:
        """Its failures come nearly one by one: a full queue's memory is short, whatever the latency limit."""
        spec = ServerSpec(
            batch_max=23, batch_wait_s=0.005, cost_base_s=0.0042, cost_item_s=0.00048, queue_max=16
        )

        found = []
        for seed in range(5):
            controller = CapacitySearch(P99_50)
            simulated_drive.Drive(SimulatedServer(spec, seed), poisson(seed), 0.05).play(controller)
            found.append(controller.result())

        intervals = [(one.ci_low_qps or 0.0, one.ci_high_qps or math.inf) for one in found]
        assert sum(low <= SHEDDING_CAPACITY <= high for low, high in intervals) >= 4
        assert max(high / low for low, high in intervals) < 1.2
        assert "ill_conditioned" not in {one.status for one in found}

    @pytest.mark.parametrize("budget_s", [2, 4, 5, 6.5, 8, 9.5, 12])
    def test_however_soon_it_ends_what_stands_can_be_told(self, budget_s: float) -> None:
        """From no evidence at all to an interval, after each tick."""
        controller = CapacitySearch(P99_50, budget_s=budget_s)
        told: list[str] = []

        def stands(_now_s: float) -> Health:
            told.append(controller.standing())
            return Health()

        for seed in range(4):
            controller = CapacitySearch(P99_50, budget_s=budget_s)
            Drive(two_workers(), 0.05, seed, stands).search(controller)
            told.append(controller.standing())

        assert "" in told
        assert all(re.fullmatch(r"(capacity [\d,.e+]+-[\d,.e+]+/s)?", one) for one in told)
        assert budget_s < 12 or any(told)

    def test_a_rate_that_is_never_reached_leaves_no_limit(self) -> None:
        found, _ = search(max_qps=90)

        assert found.status == "no_limit_found"
        assert found.capacity_qps is None
        assert found.ci_low_qps == 90
        assert found.ci_high_qps is None

    def test_a_lowest_rate_that_fails_is_unattainable(self) -> None:
        found, _ = search(min_qps=400)

        assert found.status == "unattainable"
        assert found.capacity_qps is None
        assert found.ci_high_qps is not None
        assert found.ci_high_qps <= 400

    @pytest.mark.parametrize("seed", range(3))
    def test_a_server_that_fails_at_any_rate_has_no_capacity(self, seed: int) -> None:
        """One request in five, whatever the rate: no rate below those tried was ever seen to hold."""
        rng = np.random.default_rng(seed)
        server = VirtualServer(2, lognormal, fails=lambda _now: bool(rng.random() < 0.2))

        found, _ = search(seed, server)

        assert found.status == "unattainable"
        assert (found.capacity_qps, found.ci_low_qps) == (None, None)
        doubt = found.doubts[-1]
        assert doubt.kind == "fails_at_any_rate"
        assert "requests failed (0.01 of them are allowed)" in doubt.text
        assert judge_search(found, 10)[0] is Verdict.FAIL
        assert judge_search(found, 10, ("ill_conditioned",))[0] is Verdict.FAIL
        # No rate as low as this was tried.
        assert judge_search(found, 0.5)[0] is Verdict.INCONCLUSIVE

    def test_a_budget_too_short_to_look_lower_shows_no_failure_there(self) -> None:
        rng = np.random.default_rng(0)
        server = VirtualServer(2, lognormal, fails=lambda _now: bool(rng.random() < 0.2))

        found, _ = search(0, server, budget_s=14)

        assert found.status != "unattainable"
        assert judge_search(found, 10)[0] is Verdict.INCONCLUSIVE

    def test_a_server_that_fails_only_when_cold_has_one(self) -> None:
        """Half the requests of the first seconds fail: at a lower rate, later, none does."""
        rng = np.random.default_rng(0)
        server = VirtualServer(2, lognormal, fails=lambda now: now < 6 and bool(rng.random() < 0.5))

        found, _ = search(0, server)

        assert found.capacity_qps == pytest.approx(CAPACITY, rel=0.2)

    def test_no_rate_above_the_highest_allowed_is_told(self) -> None:
        """Its capacity is 185/s; with a short budget 170 leaves open whether a limit was met."""
        for seed in range(6):
            found, drive = search(seed, budget_s=12, max_qps=170)

            told = (found.capacity_qps, found.ci_low_qps, found.ci_high_qps)
            assert max(drive.offered) <= 170
            assert all(rate is None or rate <= 170 for rate in told)

    def test_what_stopped_the_load_is_not_taken_for_a_limit(self) -> None:
        """Every request fails from some moment on, until the load is stopped for that two seconds later."""
        died_s = 24.1
        controller = CapacitySearch(P99_50)

        def stops(now_s: float) -> Health:
            if now_s > died_s + 2:
                controller.halt("every reply for 2.1 s was a server error")
            return Health()

        server = VirtualServer(2, lognormal, fails=lambda now: now > died_s)
        found = Drive(server, 0.05, 1, stops).search(controller)

        assert [doubt.kind for doubt in found.doubts] == ["stopped"]
        assert found.load_s < died_s + 3
        assert found.capacity_qps == pytest.approx(CAPACITY, rel=0.25)

    def test_a_generator_that_stays_late_is_the_limit_itself(self) -> None:
        drive = Drive(two_workers(), 0.05, health=lambda _now: Health(late_p99_s=0.01, late_max_s=0.02))

        found = drive.search(CapacitySearch(P99_50))

        assert found.status == "generator_limited"
        assert found.doubts[0].kind == "generator_late"

    def test_a_server_that_stays_slow_after_an_overload_raises_a_doubt(self) -> None:
        """After its first overload every request takes ten times as long."""
        state = {"served": 0.0, "hurt": 0.0}

        def remembers(now_s: float, rng: np.random.Generator) -> float:
            state["served"] = 0.9 * state["served"] + (now_s - state.get("last", 0.0))
            busy = 10 / max(state["served"], 1e-9) > 180
            state["last"] = now_s
            state["hurt"] = 1.0 if busy and now_s > 8 else state["hurt"]
            return lognormal(now_s, rng) * (4 if state["hurt"] else 1)

        found, _ = search(server=VirtualServer(2, remembers))

        assert "server_changed" in [doubt.kind for doubt in found.doubts]


class TestLoad:
    @pytest.mark.parametrize("budget_s", [15, 30, 60])
    def test_the_load_never_exceeds_the_budget(self, budget_s: float) -> None:
        found, drive = search(budget_s=budget_s)

        assert found.load_s <= budget_s
        assert len(drive.offered) * 0.25 <= budget_s + 0.25

    def test_rates_stay_within_the_bounds_given(self) -> None:
        _, drive = search(min_qps=60, max_qps=150)

        offered = [rate for rate in drive.offered if rate]
        assert min(offered) >= 60
        assert max(offered) <= 150

    def test_it_begins_gently_and_oversteps_the_capacity_by_little(self) -> None:
        peaks = []
        for seed in range(10):
            _, drive = search(seed)
            assert drive.offered[0] == 0, "one request at a time comes first"
            peaks.append(max(drive.offered) / CAPACITY)

        assert np.median(peaks) < 1.5
        assert max(peaks) < 2.1

    def test_after_an_overload_nothing_is_sent_until_the_queue_is_empty(self) -> None:
        controller = CapacitySearch(P99_50, min_qps=300)
        Drive(two_workers(), 0.05).search(controller)

        windows = controller.windows
        overloads = [i for i, window in enumerate(windows) if window.overloaded]
        assert overloads
        for i in overloads:
            assert windows[i + 1].probe.kind == "drain"
            last = windows[i + 1].last
            assert last is not None
            assert last.in_flight == 0

    def test_what_is_believed_is_worked_out_once_for_the_same_evidence(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes most of a decision's time, in which the next rate waits."""
        taken: list[tuple[Any, ...]] = []
        take = Beliefs.take

        def counted(beliefs: Beliefs, *evidence: Any) -> None:
            taken.append(evidence)
            take(beliefs, *evidence)

        monkeypatch.setattr(Beliefs, "take", counted)
        search(budget_s=120)

        assert len(taken) > 10
        assert all(after != before for before, after in itertools.pairwise(taken))

    def test_the_same_seed_gives_the_same_search(self) -> None:
        first, one = search(4)
        second, other = search(4)

        assert first == second
        assert one.offered == other.offered

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"budget_s": 0}, "budget_s=0 must be positive"),
            ({"min_qps": -1}, "min_qps=-1 must be positive"),
            ({"max_qps": float("nan")}, "must be positive"),
            ({"min_qps": 20, "max_qps": 10}, "min_qps=20 is above max_qps=10"),
            ({"tolerance": 0}, "tolerance=0 must be positive"),
        ],
    )
    def test_bounds_out_of_range_are_refused(self, options: dict[str, float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CapacitySearch(P99_50, **options)  # type: ignore[arg-type]  # no seed among them


class TestPosterior:
    def test_good_windows_push_the_capacity_up_and_bad_ones_down(self) -> None:
        posterior = BoundPosterior(0.01, 10, 1000)
        posterior.take([WindowCount(100, 0, 2_000, 5)])
        only_good = posterior.quantile(0.5)
        posterior.take([WindowCount(100, 0, 2_000, 5), WindowCount(200, 200, 2_000, 5)])

        assert posterior.quantile(0.05) > 70
        assert posterior.quantile(0.95) < 230
        assert posterior.quantile(0.5) < only_good

    def test_no_window_is_irrevocable(self) -> None:
        """One disaster at a rate is outweighed by a minute of good replies at the same rate."""
        posterior = BoundPosterior(0.01, 10, 1000)
        disaster = WindowCount(100, 2_000, 2_000, 5)
        posterior.take([disaster])
        after_disaster = posterior.quantile(0.5)
        posterior.take([disaster, *[WindowCount(100 + i / 1e6, 0, 2_000, 5) for i in range(12)]])

        assert after_disaster < 100 < posterior.quantile(0.5)


def result(status: str = "converged", low: float | None = 140, high: float | None = 160) -> CapacityResult:
    middle = (low + high) / 2 if low and high else None
    return CapacityResult(middle, low, high, 0.05, status, 60, 9_000)  # type: ignore[arg-type]  # a name of Status


class TestVerdict:
    @pytest.mark.parametrize(
        ("found", "require_qps", "allow", "verdict", "kinds"),
        [
            (result(), None, (), Verdict.MEASURED, []),
            (result(), 140, (), Verdict.PASS, []),
            (result(), 161, (), Verdict.FAIL, []),
            (result(), 150, (), Verdict.INCONCLUSIVE, ["undecided"]),
            (result("budget"), None, (), Verdict.MEASURED, []),
            (result("budget", 100, 160), None, (), Verdict.INCONCLUSIVE, ["too_wide"]),
            (result("budget", 100, 160), None, ("budget",), Verdict.MEASURED, []),
            (result("budget", 100, 160), 90, (), Verdict.PASS, []),
            (result("ill_conditioned"), 90, (), Verdict.INCONCLUSIVE, ["ill_conditioned"]),
            (result("ill_conditioned"), 90, ("ill_conditioned",), Verdict.PASS, []),
            (result("not_steady"), None, (), Verdict.INCONCLUSIVE, ["not_steady"]),
            (result("generator_limited"), 90, (), Verdict.INCONCLUSIVE, ["generator_limited"]),
            (result("unattainable", None, 40), None, (), Verdict.FAIL, []),
            (result("no_limit_found", 500, None), 400, (), Verdict.PASS, []),
            (result("no_limit_found", 500, None), None, (), Verdict.MEASURED, []),
            (result("budget", None, None), None, (), Verdict.INCONCLUSIVE, ["nothing_found"]),
            (result("budget", None, None), 100, (), Verdict.INCONCLUSIVE, ["nothing_found"]),
        ],
    )
    def test_a_search_is_judged_by_its_status_and_its_interval(
        self,
        found: CapacityResult,
        require_qps: float | None,
        allow: tuple[str, ...],
        verdict: Verdict,
        kinds: list[str],
    ) -> None:
        judged, doubts = judge_search(found, require_qps, allow)

        assert judged is verdict
        assert [doubt.kind for doubt in doubts] == kinds

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (0.21, "hardly depends on the rate (condition number 0.21)"),
            (0.11, "may hardly depend on the rate (condition number 0.11, perhaps above 0.15)"),
        ],
    )
    def test_ill_conditioning_that_is_but_likely_is_told_as_that(self, number: float, said: str) -> None:
        found = CapacityResult(150, 140, 160, number, "ill_conditioned", 60, 9_000)

        assert said in judge_search(found, 100)[1][0].text

    @pytest.mark.parametrize(
        ("require_qps", "then"),
        [
            (90, "allow='ill_conditioned': by its interval 90/s is a PASS"),
            (170, "allow='ill_conditioned': by its interval 170/s is a FAIL"),
            (150, "allow='ill_conditioned'"),
            (None, "allow='ill_conditioned'"),
        ],
    )
    def test_ill_conditioning_tells_what_allowing_it_would_lead_to(
        self, require_qps: float | None, then: str
    ) -> None:
        """The interval is wide as it should be: whoever asks for far less may go by it."""
        judged, (doubt,) = judge_search(result("ill_conditioned"), require_qps)

        assert judged is Verdict.INCONCLUSIVE
        assert doubt.remedy.endswith(then)

    def test_what_another_doubt_leaves_open_is_not_promised(self) -> None:
        found = replace(result("ill_conditioned"), doubts=(Doubt("server_changed", "x", "y"),))

        assert [doubt.remedy for doubt in judge_search(found, 90)[1]][-1].endswith("allow='ill_conditioned'")

    def test_a_doubt_outranks_a_pass(self) -> None:
        found = CapacityResult(
            150, 140, 160, 0.05, "converged", 60, 9_000, (Doubt("server_changed", "x", "y"),)
        )

        assert judge_search(found, 100)[0] is Verdict.INCONCLUSIVE
