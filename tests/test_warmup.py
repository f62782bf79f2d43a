"""Cold servers: what their throughput says of their warmth, and what searches and sustain make of them.

Servers are simulated in virtual time (``pytest_capacity.simulate``); their warm capacities are known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from pytest_capacity.protocols import Health, Observation, Outcome, Probe
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.search.evidence import Evidence
from pytest_capacity.search.found import CapacityResult, SustainResult
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.search.verdict import judge_search
from pytest_capacity.search.warming import Backlog, Warming
from pytest_capacity.search.warmth import Batches, Warmth, batches_of
from pytest_capacity.simulate.arriving import poisson
from pytest_capacity.simulate.drive import Drive
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import Cold, Overload, ServerSpec
from pytest_capacity.slo import SLO, Verdict

P99_50 = SLO(p99_ms=50)
LIMIT_S = 0.05


def five_workers(cold: Cold | None) -> ServerSpec:
    return ServerSpec(workers=5, cost_item_s=0.00863781, lognormal_sigma=0.359867, cold=cold)


FIVE_WORKERS_QPS = 507.2
"""What ``five_workers`` take warm, from the benchmark's truths (server 8 of the tuning range)."""


def batching(cold: Cold | None) -> ServerSpec:
    return ServerSpec(
        batch_max=11, batch_wait_s=0.00518411, cost_base_s=0.00476848, cost_item_s=0.000902654, cold=cold
    )


BATCHING_QPS = 678.5
"""What ``batching`` takes warm (server 3 of the tuning range)."""


def collapsing() -> ServerSpec:
    return ServerSpec(
        batch_max=26,
        batch_wait_s=0.00442086,
        cost_base_s=0.00671901,
        cost_item_s=0.00120206,
        overload=Overload(23.76, 1.9654, 1.97775),
    )


COLLAPSING_QPS = 386.5
"""What ``collapsing`` takes in the long run (server 123 of the tuning range)."""


def play(controller: CapacitySearch | Sustain, spec: ServerSpec, seed: int) -> Drive:
    drive = Drive(SimulatedServer(spec, seed), poisson(seed + 1000), LIMIT_S)
    drive.play(controller, controller.extend)
    return drive


def search(spec: ServerSpec, seed: int, budget_s: float = 60) -> tuple[CapacityResult, Drive]:
    controller = CapacitySearch(P99_50, budget_s=budget_s)
    drive = play(controller, spec, seed)
    return controller.result(), drive


def sustain(spec: ServerSpec, qps: float, seed: int) -> tuple[SustainResult, Drive]:
    controller = Sustain(P99_50, qps)
    drive = play(controller, spec, seed)
    return controller.result(), drive


def falling(excess: float, over: float, *, requests: int, noise: float = 0.05, seed: int = 1) -> Batches:
    """The batches of requests that cost a millisecond in the end and fall to it by the law."""
    rng = np.random.default_rng(seed)
    cost_s = (
        0.001 * (1 + excess * np.exp(-np.arange(requests) / over)) * rng.gamma(1 / noise, noise, requests)
    )
    found = batches_of(np.cumsum(cost_s), 0, 0)
    assert found is not None
    return found


class TestWarmth:
    def test_without_any_load_the_prior_speaks(self) -> None:
        assert Warmth().still_cold(0, 0.04) == pytest.approx(0.3, abs=0.05)
        assert Warmth().warm_rate(0) is None

    def test_a_flat_throughput_over_much_work_is_a_warm_server(self) -> None:
        flat = falling(0, 1, requests=5_000)

        assert Warmth([flat]).still_cold(5_000, 0.03) < 0.05
        rate, error = Warmth([flat]).warm_rate(0) or (0.0, 0.0)
        assert rate == pytest.approx(1000, rel=0.02)
        assert error < 0.02

    def test_a_flat_throughput_over_little_work_says_little(self) -> None:
        """A tenth of what a slow cold start takes cannot tell one from a warm server."""
        assert Warmth([falling(0, 1, requests=60, noise=0.5)]).still_cold(60, 0.03) > 0.1

    @pytest.mark.parametrize(
        ("excess", "over"), [(2.0, 1_500.0), (4.0, 800.0), (15.0, 300.0), (1.0, 3_000.0)]
    )
    def test_a_cold_start_is_followed_to_its_end(self, excess: float, over: float) -> None:
        requests = int(2.5 * over)
        left, error = Warmth([falling(excess, over, requests=requests)]).slowdown(requests)

        truth = math.log1p(excess * math.exp(-2.5))
        assert abs(left - truth) < max(0.03, 3 * error)

    def test_early_in_a_cold_start_how_much_is_left_is_open_but_not_that_something_is(self) -> None:
        warmth = Warmth([falling(3, 4_000, requests=2_000)])

        assert warmth.still_cold(2_000, 0.05) > 0.95
        assert warmth.slowdown(2_000)[1] > 0.05

    def test_runs_at_several_concurrencies_each_have_their_own_level(self) -> None:
        """Twice the throughput with twice as many in flight is no sign of warmth."""
        slow, quick = falling(0, 1, requests=1_000), falling(0, 1, requests=1_000, seed=2)
        quick = Batches(1, quick.cost_s / 2, quick.done + 1_000, quick.size)

        assert Warmth([slow, quick]).still_cold(2_000, 0.03) < 0.1

    def test_what_is_done_at_once_is_one_batch_of_the_servers(self) -> None:
        """Thirty replies every 40 ms: a steady 750 a second, however the requests are counted."""
        moments = np.repeat(np.arange(100) * 0.04, 30)
        found = batches_of(moments, 0, 0)

        assert found is not None
        assert found.cost_s.min() > 0
        rate, _ = Warmth([found]).warm_rate(0) or (0.0, 0.0)
        assert rate == pytest.approx(750, rel=0.05)

    def test_too_few_moments_are_no_batches(self) -> None:
        assert batches_of(np.arange(10.0), 0, 0) is None
        assert batches_of(np.empty(0), 0, 0) is None


class TestSearch:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(
        "cold",
        [Cold(3, 1_000), Cold(5, 900), Cold(10, 240), Cold(20, 60), Cold(2.5, 2_000, start_s=3)],
        ids=["3 over 1000", "5 over 900", "10 over 240", "20 over 60", "2.5 over 2000 after 3 s"],
    )
    def test_a_cold_server_is_found_as_it_is_once_warm(self, cold: Cold, seed: int) -> None:
        found, _ = search(five_workers(cold), seed)

        assert found.capacity_qps == pytest.approx(FIVE_WORKERS_QPS, rel=0.08)
        assert found.ci_high_qps is not None
        assert found.ci_high_qps > 0.93 * FIVE_WORKERS_QPS

    @pytest.mark.parametrize("seed", range(3))
    def test_batches_of_a_cold_server_are_filled_once_it_is_warm(self, seed: int) -> None:
        found, _ = search(batching(Cold(4, 1_500)), seed)

        assert found.capacity_qps == pytest.approx(BATCHING_QPS, rel=0.08)
        assert found.cold_factor is not None
        assert 2 < found.cold_factor < 8

    @pytest.mark.parametrize("seed", range(3))
    def test_one_that_gets_warm_in_no_budget_is_not_steady_rather_than_slow(self, seed: int) -> None:
        found, _ = search(five_workers(Cold(6, 20_000)), seed)

        assert found.status == "not_steady"
        assert [doubt.kind for doubt in found.doubts] == ["not_steady"]

    def test_a_server_that_warms_slowly_is_not_taken_for_a_slow_one(self) -> None:
        """At first sight its throughput is flat; what came of it must not stay in the evidence."""
        found, drive = search(five_workers(Cold(4, 2_400)), 1, budget_s=90)

        assert found.capacity_qps == pytest.approx(FIVE_WORKERS_QPS, rel=0.08)
        assert max(end_s for _, _, end_s in drive.offered) <= 90 + 1e-9

    def test_a_warm_server_is_not_warmed_up_for_long(self) -> None:
        found, _ = search(five_workers(None), 0)

        assert found.warmup_s < 10
        assert found.cold_factor is None

    @pytest.mark.parametrize("seed", range(3))
    def test_one_that_gives_less_the_more_it_holds_is_measured_once_it_has_recovered(self, seed: int) -> None:
        """It gives 315/s for seconds after more than 24 waited, and 522/s else."""
        found, _ = search(collapsing(), seed)

        assert found.saturation_qps == pytest.approx(522, rel=0.04)
        assert found.overloaded_qps == pytest.approx(315, rel=0.1)
        assert found.ci_low_qps is not None
        assert found.ci_high_qps is not None
        assert found.ci_low_qps < COLLAPSING_QPS < found.ci_high_qps
        assert found.status == "budget"
        # The search itself may have overloaded it: a doubt of its own.
        undoubted = replace(found, doubts=())
        verdict, (doubt,) = judge_search(undoubted, 400)
        assert verdict is Verdict.INCONCLUSIVE
        assert doubt.kind == "gives_less"
        assert judge_search(undoubted, 200)[0] is Verdict.PASS

    @pytest.mark.parametrize("seed", range(3))
    def test_one_that_gives_less_beyond_its_limit_is_found_by_a_second_of_more(self, seed: int) -> None:
        """Four requests fill it; with more than 61 waiting, 70 ms of work, it gives 533/s in place of 880."""
        spec = ServerSpec(
            workers=4,
            cost_item_s=0.0045517,
            lognormal_sigma=0.757209,
            overload=Overload(61.2373, 1.65772, 2.73616),
        )
        found, drive = search(spec, seed)

        assert found.overloaded_qps == pytest.approx(533, rel=0.1)
        assert found.saturation_qps == pytest.approx(880, rel=0.04)
        assert found.ci_low_qps is not None
        assert found.ci_high_qps is not None
        # In the long run it takes 763.5 (server 85 of the tuning range).
        assert found.ci_low_qps < 763.5 < found.ci_high_qps
        stressed = [probe for probe, *_ in drive.offered if (probe.concurrency or 0) > 64]
        assert len(stressed) == 2

    @pytest.mark.parametrize("budget_s", [15, 30])
    @pytest.mark.parametrize("spec", [five_workers(None), batching(None)], ids=["fifo", "batching"])
    def test_one_that_gives_as_much_however_much_it_holds_has_no_such_thing(
        self, spec: ServerSpec, budget_s: float
    ) -> None:
        found = [search(spec, seed, budget_s=budget_s)[0] for seed in range(10)]

        assert [one.overloaded_qps for one in found] == 10 * [None]

    @pytest.mark.parametrize("budget_s", [15, 30])
    def test_the_load_stays_within_a_budget_too_short_to_get_warm(self, budget_s: float) -> None:
        found, drive = search(five_workers(Cold(5, 5_000)), 0, budget_s)

        assert found.load_s <= budget_s
        assert max(end_s for _, _, end_s in drive.offered) <= budget_s + 1e-9

    @pytest.mark.parametrize("after_s", [0.25, 2, 5, 10, 14, 17, 21, 30])
    @pytest.mark.parametrize("cold", [None, Cold(4, 1_000)], ids=["warm", "cold"])
    def test_it_may_be_stopped_at_any_moment(self, cold: Cold | None, after_s: float) -> None:
        controller = CapacitySearch(P99_50)
        tell = controller.tell

        def until_then(observation: Observation) -> None:
            tell(observation)
            if observation.now_s >= after_s:
                controller.halt("enough")

        controller.tell = until_then  # type: ignore[method-assign]  # stops it from outside
        play(controller, five_workers(cold), 0)

        found = controller.result()
        assert after_s <= found.load_s <= after_s + 0.5
        assert "stopped" in [doubt.kind for doubt in found.doubts]

    def test_the_same_seed_gives_the_same_search(self) -> None:
        assert search(five_workers(Cold(3, 1_000)), 5)[0] == search(five_workers(Cold(3, 1_000)), 5)[0]

    def test_nothing_is_offered_open_loop_before_a_closed_loops_queue_is_empty(self) -> None:
        _, drive = search(five_workers(Cold(3, 1_000)), 0)

        kinds = [probe.kind for probe, _, _ in drive.offered]
        assert "closed" in kinds
        assert all(after != "open" for kind, after in pairwise(kinds) if kind == "closed")


class TestSustain:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("share", [0.8, 0.9])
    @pytest.mark.parametrize(
        "cold",
        [Cold(3, 1_000), Cold(10, 240), Cold(3, 600, start_s=4)],
        ids=["3 over 1000", "10 over 240", "3 over 600 after 4 s"],
    )
    def test_a_cold_server_is_not_failed_for_what_it_was(self, cold: Cold, share: float, seed: int) -> None:
        result, _ = sustain(five_workers(cold), share * FIVE_WORKERS_QPS, seed)

        assert result.verdict is Verdict.PASS

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("cold", [None, Cold(3, 1_000)], ids=["warm", "cold"])
    def test_it_never_offers_more_than_its_rate(self, cold: Cold | None, seed: int) -> None:
        qps = 0.9 * FIVE_WORKERS_QPS
        _, drive = sustain(five_workers(cold), qps, seed)

        probes = [probe for probe, _, _ in drive.offered]
        assert {probe.kind for probe in probes} <= {"open", "drain"}
        assert max(probe.rate_qps or 0.0 for probe in probes) == qps
        sent = len(drive.server.arrived_s)
        assert sent < 1.1 * qps * drive.offered[-1][2] + 10

    @pytest.mark.parametrize("seed", range(5))
    def test_an_overload_of_a_warm_server_fails_fast(self, seed: int) -> None:
        result, _ = sustain(five_workers(None), 1.2 * FIVE_WORKERS_QPS, seed)

        assert result.verdict is Verdict.FAIL
        assert result.load_s < 12

    @pytest.mark.parametrize("seed", range(3))
    def test_a_cold_server_that_is_too_slow_once_warm_fails_all_the_same(self, seed: int) -> None:
        result, _ = sustain(five_workers(Cold(3, 500)), 1.2 * FIVE_WORKERS_QPS, seed)

        assert result.verdict is Verdict.FAIL

    @pytest.mark.parametrize("seed", range(3))
    def test_one_that_is_late_without_a_queue_is_not_failed_for_being_cold(self, seed: int) -> None:
        """Its batches take too long at first, but nothing piles up: only the quickest replies tell."""
        spec = ServerSpec(
            batch_max=20, batch_wait_s=0.004, cost_base_s=0.0065, cost_item_s=0.001, cold=Cold(3.7, 2_400)
        )

        result, _ = sustain(spec, 210, seed)

        assert result.verdict is Verdict.PASS

    def test_what_it_did_while_cold_is_left_out_of_the_evidence(self) -> None:
        result, _ = sustain(five_workers(Cold(3, 1_500)), 0.9 * FIVE_WORKERS_QPS, 1)

        assert result.verdict is Verdict.PASS
        assert result.evidence_s < result.load_s - 10

    def test_one_that_is_not_warm_at_the_end_is_inconclusive_and_says_so(self) -> None:
        result, _ = sustain(five_workers(Cold(8, 15_000)), 0.9 * FIVE_WORKERS_QPS, 0)

        assert result.verdict is Verdict.INCONCLUSIVE
        assert result.extended
        assert [doubt.kind for doubt in result.doubts] == ["not_steady"]
        assert result.load_s <= 120 + 0.25
        assert "still getting faster" in result.doubts[0].text

    def test_the_same_seed_gives_the_same_result(self) -> None:
        once, again = (sustain(five_workers(Cold(3, 600)), 400, 4)[0] for _ in range(2))

        assert once == again

    def test_a_server_that_gets_warm_but_keeps_up_is_measured_meanwhile(self) -> None:
        """It gets faster and only just keeps up: neither overloaded nor warm."""
        controller, sent, tick = Sustain(P99_50, 1_000), 150.0, 0
        nothing = np.empty(0)
        while tick < 60:
            tick += 1
            sent += 250 / (1 + 2 * math.exp(-sent / 4_000))
            controller.tell(
                Observation(
                    probe_id=0, now_s=tick / 4, planned=round(sent), sent=round(sent), in_flight=150,
                    oldest_age_s=0.1, health=Health(), intended_s=nothing, latency_s=nothing,
                    outcome=np.empty(0, dtype=np.uint8), operation=np.empty(0, dtype=np.uint16),
                )
            )  # fmt: skip
            asked = controller.ask()
            assert asked is not None
            if asked.id:
                break
            assert asked.max_s >= tick / 4

        assert tick <= 42, "a warm-up lasts ten seconds at most"

    def test_a_server_that_stops_answering_is_not_cold_though_its_requests_time_out(self) -> None:
        """What ends by its timeout is work that nobody did: it makes no server warm."""
        controller = Sustain(SLO(p50_ms=300), 60, min_s=1, budget_s=20)
        hangs_at_s, timeout_s = 1.5, 2.0
        sent = {0: 0}
        intended: list[float] = []
        told = 0
        for tick in range(1, 80):
            now_s = tick / 4
            probe = controller.ask()
            if probe is None:
                break
            if probe.kind == "open" and probe.rate_qps:
                due = np.arange(now_s - 0.25, now_s, 1 / probe.rate_qps)
                intended += due.tolist()
                sent[probe.id] = sent.get(probe.id, 0) + len(due)
            waiting = [at_s for at_s in intended if at_s >= hangs_at_s and now_s - at_s < timeout_s]
            final = [at_s for at_s in intended[told:] if at_s < hangs_at_s or now_s - at_s > 0.5]
            told += len(final)
            outcome = [Outcome.GOOD if at_s < hangs_at_s else Outcome.LATE_UNANSWERED for at_s in final]
            latency_s = [0.001 if at_s < hangs_at_s else 0.5 for at_s in final]
            gave_up = sum(at_s >= hangs_at_s and now_s - at_s >= timeout_s for at_s in intended)
            controller.tell(
                Observation(
                    probe_id=probe.id, now_s=now_s, planned=sent.get(probe.id, 0), sent=sent.get(probe.id, 0),
                    in_flight=len(waiting), oldest_age_s=now_s - waiting[0] if waiting else 0.0,
                    health=Health(), intended_s=np.array(final), latency_s=np.array(latency_s),
                    outcome=np.array(outcome, dtype=np.uint8),
                    operation=np.zeros(len(final), dtype=np.uint16), gave_up=gave_up,
                )
            )  # fmt: skip

        result = controller.result()
        assert result.verdict is Verdict.FAIL
        assert result.load_s < 20


class TestWarming:
    def told(self, served: list[float], sent_qps: float = 1_000.0) -> Warming:
        """A server that answers so many in each quarter of a second, of ever so many sent."""
        warming, done = Warming(healthy=20), 0.0
        for tick, now in enumerate(served, start=1):
            done += now
            sent = round(sent_qps * tick / 4)
            warming.tell(tick / 4, round(done), round(sent - done), 0.5)
        return warming

    def test_a_steady_throughput_below_the_rate_is_an_overload(self) -> None:
        assert not self.told([100.0] * 32).may_serve(1_000)

    def test_a_throughput_that_rises_may_yet_reach_the_rate(self) -> None:
        assert self.told([60 + 4.0 * tick for tick in range(32)]).may_serve(1_000)

    def test_what_nobody_waits_for_any_more_does_not_count_as_answered(self) -> None:
        warming = Warming(healthy=20)
        for tick in range(1, 20):
            warming.tell(tick / 4, 100 * tick, 400 * tick, 4.5)

        assert warming.busy_s == 0

    def test_a_server_that_answers_nothing_is_stuck_sooner_if_it_was_well(self) -> None:
        warming = self.told([200.0] * 8 + [0.0] * 12)

        assert warming.is_stuck(was_well=True)
        assert not warming.is_stuck(was_well=False)
        assert self.told([200.0] * 8 + [0.0] * 24).is_stuck(was_well=False)
        assert not self.told([0.0] * 32).is_stuck(was_well=False), "it may take long to begin"

    def replies(self, latency_s: npt.NDArray[np.float64], qps: float) -> Warming:
        """A server that nobody waits for, whose replies took so long one after the other."""
        warming, evidence = Warming(healthy=1_000), Evidence(50)
        warming.watch(evidence)
        count = len(latency_s)
        evidence.add(
            Observation(
                probe_id=0, now_s=count / qps, planned=count, sent=count, in_flight=1, oldest_age_s=0.0,
                health=Health(), intended_s=np.arange(count) / qps, latency_s=latency_s,
                outcome=np.zeros(count, dtype=np.uint8), operation=np.zeros(count, dtype=np.uint16),
            )
        )  # fmt: skip
        warming.tell(count / qps, count, 1, 0.0)
        return warming

    @pytest.mark.parametrize(("excess", "may"), [(0.0, False), (2.0, True)])
    def test_where_nobody_waits_the_replies_tell_whether_it_may_gain(self, excess: float, may: bool) -> None:
        done = np.arange(6_000)
        noise = np.random.default_rng(1).gamma(4, 0.25, 6_000)

        warming = self.replies(0.02 * noise * (1 + excess * np.exp(-done / 2_000)), 200)

        assert warming.may_gain(5, LIMIT_S) is may
        assert (warming.warm_since_s(0.0) is not None) is may

    @pytest.mark.parametrize(
        ("answered", "gives_up", "keeps_up"),
        [
            ([0, 0, 50] + [100] * 13, 0, True),
            ([0, 0, 50] + [90] * 13, 0, False),
            ([40 + 8 * tick for tick in range(13)], 0, False),
            ([0, 0, 50] + [70] * 13, 30, False),
        ],
        ids=["takes half a second and more", "serves less", "gets faster, serves as much now", "loses some"],
    )
    def test_a_server_keeps_up_that_holds_as_many_all_the_time(
        self, answered: list[int], gives_up: int, keeps_up: bool
    ) -> None:
        """A hundred are sent in each quarter of a second."""
        warming, done, lost = Warming(healthy=20), 0, 0
        for tick, now in enumerate(answered, start=1):
            done, lost = done + now, lost + (gives_up if now else 0)
            warming.tell(tick / 4, done, 100 * tick - done - lost, 0.6, lost=lost)

        assert warming.keeps_up() is keeps_up

    @pytest.mark.parametrize(
        ("probe", "in_flight", "lasted_s", "rate"),
        [
            (Probe(1, "drain"), 15, 1.0, None),
            (Probe(1, "drain"), 5, 1.0, 400.0),
            (Probe(1, "open", 400), 30, 1.0, 0.0),
            (Probe(1, "open", 400), 10, 0.5, None),
            (Probe(1, "open", 400), 10, 1.0, 500.0),
        ],
    )
    def test_it_is_sent_what_it_serves_and_then_more_while_it_keeps_up(
        self, probe: Probe, in_flight: int, lasted_s: float, rate: float | None
    ) -> None:
        assert self.told([100.0] * 8).eased_rate(probe, 1_000, in_flight, lasted_s) == rate

    def test_a_backlog_counts_from_when_it_is_too_long_until_it_drains(self) -> None:
        backlog = Backlog(healthy=10)
        for now_s, in_flight in ((0, 5), (1, 20), (2, 19), (3, 30)):
            backlog.tell(now_s, in_flight)

        assert backlog.lasted_s(3) == 2
        backlog.tell(4, 26)
        assert backlog.lasted_s(4) == 0
