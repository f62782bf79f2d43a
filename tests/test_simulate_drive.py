"""Playing controllers on simulated servers: what is told, when, and in which order (design.md, Ask/tell)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from pytest_capacity.protocols import Health, Observation, Outcome, Probe
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.simulate.arriving import constant, poisson
from pytest_capacity.simulate.drive import TICK_S, Drive
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.slo import SLO

ONE_AFTER_THE_OTHER = ServerSpec(cost_base_s=0.02)
OFTEN_STILL = ServerSpec.of(
    {
        "workers": 2,
        "cost_item_s": 0.03,
        "size": {"lognormal_sigma": 1.0},
        "queue_max": 30,
        "timeout_s": 0.6,
        "spikes": {"rate_hz": 0.5, "low_s": 0.1, "high_s": 0.9},
    }
)
SEVERAL = (
    Probe(0, "closed", concurrency=3, max_s=1.1),
    Probe(1, "open", rate_qps=90, max_s=2.6, settle_s=0.5),
    Probe(2, "drain", max_s=0.3),
    Probe(3, "open", rate_qps=40, max_s=0.1),
    Probe(4, "open", rate_qps=20, max_s=2.0),
    Probe(5, "closed", concurrency=1, max_s=0.5),
)


@dataclass
class Scripted:
    """Asks for probes in turn, each to its end, and keeps what it is told."""

    probes: tuple[Probe, ...]
    told: list[Observation] = field(default_factory=list)
    begun_s: float = 0.0
    at: int = 0

    def ask(self) -> Probe | None:
        return self.probes[self.at] if self.at < len(self.probes) else None

    def tell(self, observation: Observation) -> None:
        self.told.append(observation)
        probe = self.ask()
        is_over = probe is not None and observation.now_s >= self.begun_s + probe.max_s - 1e-9
        if probe is not None and observation.probe_id == probe.id and is_over:
            self.begun_s, self.at = observation.now_s, self.at + 1

    def of(self, probe: int) -> list[Observation]:
        return [observation for observation in self.told if observation.probe_id == probe]


def play(
    spec: ServerSpec, probes: tuple[Probe, ...], limit_s: float | None, seed: int = 1
) -> tuple[Scripted, Drive]:
    controller = Scripted(probes)
    drive = Drive(SimulatedServer(spec, seed), poisson(seed), limit_s)
    drive.play(controller)
    return controller, drive


def joined(observations: list[Observation], column: str) -> list[float]:
    parts = [getattr(observation, column).tolist() for observation in observations]
    return [value for part in parts for value in part]


@pytest.mark.parametrize("limit_s", [0.05, 0.4, 2.0, None])
@pytest.mark.parametrize("spec", [ONE_AFTER_THE_OTHER, OFTEN_STILL])
def test_every_request_is_told_once_in_order_under_its_own_probe(
    spec: ServerSpec, limit_s: float | None
) -> None:
    controller, drive = play(spec, SEVERAL, limit_s)

    told = [observation for observation in controller.told if len(observation.intended_s)]
    offered = [(probe.id, begin_s, end_s) for probe, begin_s, end_s in drive.offered]
    assert [probe.id for probe, _, _ in drive.offered] == [0, 1, 2, 3, 4, 5]
    assert joined(told, "intended_s")[: len(drive.server.arrived_s)] == drive.server.arrived_s
    assert len(joined(told, "intended_s")) == len(drive.server.arrived_s) > 250
    ids = [observation.probe_id for observation in told]
    assert ids == sorted(ids)
    for probe_id, begin_s, end_s in offered:
        times = np.array(joined(controller.of(probe_id), "intended_s"))
        assert ((times >= begin_s) & (times <= end_s)).all()
        assert controller.of(probe_id)[-1].sent == controller.of(probe_id)[-1].planned == len(times)


def test_a_probe_follows_the_other_without_a_gap_and_is_told_at_each_tick() -> None:
    controller, drive = play(OFTEN_STILL, SEVERAL, 0.4)

    edges_s = [0, 1.1, 3.7, 4.0, 4.1, 6.1, 6.6]
    assert [begin_s for _, begin_s, _ in drive.offered] == pytest.approx(edges_s[:-1])
    assert [end_s for _, _, end_s in drive.offered] == pytest.approx(edges_s[1:])
    for probe, begin_s, end_s in drive.offered:
        heard = [o.now_s - begin_s for o in controller.of(probe.id) if o.now_s <= end_s]
        ticks = [TICK_S * tick for tick in range(1, 1 + math.ceil(probe.max_s / TICK_S - 1e-9))]
        assert heard == pytest.approx([min(tick, probe.max_s) for tick in ticks])


@pytest.mark.parametrize("limit_s", [0.05, 0.4, None])
def test_a_cohort_is_told_whole_and_as_soon_as_it_is_final(limit_s: float | None) -> None:
    controller, drive = play(OFTEN_STILL, SEVERAL, limit_s)
    late_s = min(limit_s or math.inf, OFTEN_STILL.timeout_s)
    arrived, replied = np.array(drive.server.arrived_s), np.array(drive.server.replied_s)
    final_s = np.where(np.isnan(replied), arrived + OFTEN_STILL.overhead_s, replied)
    final_s = np.minimum(final_s, arrived + late_s)

    told_s = np.concatenate(
        [np.full(len(o.intended_s), o.now_s) for o in sorted(controller.told, key=lambda o: o.now_s)]
    )
    assert (final_s <= told_s).all()
    before_s = 0.0
    for _probe, begin_s, end_s in drive.offered:
        for tick in range(round((end_s - begin_s) / TICK_S) + 1):
            from_s, to_s = begin_s + tick * TICK_S, min(end_s, begin_s + (tick + 1) * TICK_S)
            rows = (arrived >= from_s) & (arrived < to_s)
            if not rows.any():
                continue
            assert len(set(told_s[rows])) == 1
            # No earlier tick may be told later; the present one is told within a tick of becoming final.
            before_s = max(before_s, float(final_s[rows].max()), to_s)
            assert told_s[rows][0] < before_s + TICK_S + 1e-9


@pytest.mark.parametrize("limit_s", [0.05, 0.4, None])
def test_outcomes_and_latencies_are_as_known_at_that_moment(limit_s: float | None) -> None:
    controller, drive = play(OFTEN_STILL, SEVERAL, limit_s)
    replies = dict(zip(drive.server.arrived_s, drive.server.replied_s, strict=True))
    met = set()
    for observation in controller.told:
        rows = zip(observation.intended_s, observation.latency_s, observation.outcome, strict=True)
        for at_s, latency_s, outcome in rows:
            met.add(Outcome(outcome))
            age_s, true_s = observation.now_s - at_s, replies[at_s] - at_s
            if len([other for other in drive.server.arrived_s if other == at_s]) > 1:
                continue
            if math.isnan(true_s):
                expected = (Outcome.BAD_STATUS, OFTEN_STILL.overhead_s)
            elif true_s <= OFTEN_STILL.timeout_s and true_s <= age_s:
                expected = (Outcome.GOOD, true_s)
            elif age_s >= OFTEN_STILL.timeout_s:
                expected = (Outcome.TIMEOUT, OFTEN_STILL.timeout_s)
            else:
                expected = (Outcome.LATE_UNANSWERED, age_s)
            assert (outcome, latency_s) == (expected[0], pytest.approx(expected[1]))
    assert met >= {Outcome.GOOD, Outcome.BAD_STATUS}
    assert (Outcome.LATE_UNANSWERED in met) is (limit_s is not None)
    assert Outcome.TIMEOUT in met or limit_s == 0.05


@pytest.mark.parametrize("spec", [ONE_AFTER_THE_OTHER, OFTEN_STILL])
def test_what_is_in_flight_or_was_given_up_is_counted_over_all_probes(spec: ServerSpec) -> None:
    controller, drive = play(spec, SEVERAL, 0.4)
    arrived, replied = np.array(drive.server.arrived_s), np.array(drive.server.replied_s)
    gone_s = np.where(np.isnan(replied), arrived + spec.overhead_s, replied)
    gone_s = np.minimum(gone_s, arrived + spec.timeout_s)

    for observation in controller.told:
        # A closed loop's users come the moment after this one.
        waiting = (arrived < observation.now_s) & (gone_s > observation.now_s)
        assert observation.in_flight == waiting.sum()
        oldest_s = observation.now_s - arrived[waiting].min() if waiting.any() else 0.0
        assert observation.oldest_age_s == pytest.approx(oldest_s)
        timed_out = (arrived + spec.timeout_s <= observation.now_s) & (replied > arrived + spec.timeout_s)
        assert observation.gave_up == timed_out.sum()
    assert max(observation.in_flight for observation in controller.told) > 20


def test_the_rest_of_an_old_probe_comes_before_the_new_one_s_and_hides_no_tick() -> None:
    probes = (Probe(0, "open", rate_qps=100, max_s=1.0), Probe(1, "open", rate_qps=10, max_s=4.0))
    controller, drive = play(ONE_AFTER_THE_OTHER, probes, 2.0)

    # A second at twice the capacity leaves about a second of work, which later requests wait for too.
    rest = [o for o in controller.of(0) if o.now_s > 1.0]
    first_of_new = next(o for o in controller.of(1) if len(o.intended_s))
    assert len(rest) >= 2
    assert all(len(o.intended_s) for o in rest)
    assert [o.now_s for o in controller.of(1) if o.now_s <= 5] == pytest.approx(np.arange(1.25, 5.1, TICK_S))
    assert first_of_new.now_s >= rest[-1].now_s
    assert first_of_new.latency_s[0] > 0.3, "the queue is carried over"
    assert controller.of(1)[-1].latency_s[-1] < 0.1
    assert drive.server.now_s < 5.0 + TICK_S + 1e-9, "the load has an end when all is told"


def test_what_is_known_at_once_waits_for_the_rest_of_the_probe_before() -> None:
    full = ServerSpec(cost_base_s=100.0, queue_max=1)
    probes = (Probe(0, "open", rate_qps=30, max_s=1.0), Probe(1, "open", rate_qps=30, max_s=3.0))
    controller, _ = play(full, probes, 2.0)

    # Two of the first probe's requests are unanswered until they are late; all later ones are refused.
    told = [o for o in controller.told if len(o.intended_s)]
    assert [o.probe_id for o in told] == sorted(o.probe_id for o in told)
    assert next(o.now_s for o in told if o.probe_id == 1) == pytest.approx(2.25)


def test_after_the_last_probe_late_ones_are_told_by_age() -> None:
    stuck = ServerSpec(cost_base_s=100.0)
    controller, drive = play(stuck, (Probe(0, "open", rate_qps=30, max_s=1.0),), 0.3)

    assert len(joined(controller.told, "intended_s")) == len(drive.server.arrived_s) > 15
    assert set(joined(controller.told, "outcome")) == {Outcome.LATE_UNANSWERED}
    assert 0.3 <= min(joined(controller.told, "latency_s")) < 0.3 + 2 * TICK_S
    assert drive.server.now_s <= 1.0 + 0.3 + TICK_S


def test_refusals_are_told_as_failures_that_took_no_time() -> None:
    full = ServerSpec(cost_base_s=10.0, queue_max=1, overhead_s=0.002)
    controller, _ = play(full, (Probe(0, "open", rate_qps=30, max_s=2.0),), 0.3)

    outcomes = joined(controller.told, "outcome")
    assert outcomes[:2] == [Outcome.LATE_UNANSWERED] * 2
    assert set(outcomes[2:]) == {Outcome.BAD_STATUS}
    assert joined(controller.told, "latency_s")[2:] == pytest.approx([0.002] * (len(outcomes) - 2))
    assert controller.told[-1].in_flight == 2


def test_a_seed_repeats_every_observation_and_another_does_not() -> None:
    first, _ = play(OFTEN_STILL, SEVERAL, 0.4, seed=3)
    again, _ = play(OFTEN_STILL, SEVERAL, 0.4, seed=3)
    other, _ = play(OFTEN_STILL, SEVERAL, 0.4, seed=4)

    def plain(controller: Scripted) -> list[str]:
        return [repr(observation) for observation in controller.told]

    assert plain(first) == plain(again)
    assert plain(first) != plain(other)


def test_the_generator_s_health_is_whatever_a_test_makes_it() -> None:
    controller = Scripted((Probe(0, "open", rate_qps=10, max_s=0.5),))
    server = SimulatedServer(ONE_AFTER_THE_OTHER)
    Drive(server, constant(), 0.1, health=lambda now_s: Health(not_sent=int(now_s * 4))).play(controller)

    assert [observation.health.not_sent for observation in controller.told][:2] == [1, 2]


def test_a_probe_may_grow_while_it_plays() -> None:
    @dataclass
    class Growing(Scripted):
        def tell(self, observation: Observation) -> None:
            if observation.now_s == 0.5:
                self.probes = (replace(self.probes[0], max_s=1.0),)
            super().tell(observation)

    controller = Growing((Probe(0, "open", rate_qps=40, max_s=0.6),))
    drive = Drive(SimulatedServer(ONE_AFTER_THE_OTHER), constant(), 0.1)
    drive.play(controller)

    assert drive.offered[0][1:] == (0.0, 1.0)
    assert drive.server.arrived_s == pytest.approx(np.arange(1, 40) / 40)


def test_a_controller_that_holds_on_to_a_probe_is_stopped_and_nothing_more_arrives() -> None:
    class Clinging(Scripted):
        def tell(self, observation: Observation) -> None:
            self.told.append(observation)

    controller = Clinging((Probe(7, "open", rate_qps=40, max_s=0.6),))
    drive = Drive(SimulatedServer(ONE_AFTER_THE_OTHER), constant(), 0.1)
    with pytest.raises(RuntimeError, match="holds on to probe 7 past its max_s"):
        drive.play(controller)

    assert len(controller.told) < 12
    assert max(drive.server.arrived_s) < 0.6 + 1e-9


def test_a_judgement_that_ends_undecided_may_be_extended_once() -> None:
    """At the capacity itself 20 s decide nothing: what ``extend`` grants is played as well."""
    spec = ServerSpec.of({"cost_item_s": 0.004, "size": {"lognormal_sigma": 0.5}})

    def load_s(*, extended: bool) -> float:
        sustain = Sustain(SLO(p99_ms=50), 190.0, budget_s=20)
        drive = Drive(SimulatedServer(spec, 2), poisson(2), 0.05)
        drive.play(sustain, sustain.extend if extended else None)
        return sustain.result().load_s

    assert load_s(extended=False) == pytest.approx(20, abs=TICK_S)
    assert load_s(extended=True) > 20 + TICK_S
