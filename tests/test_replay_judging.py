"""What is decided of operations side by side, and of recorded traffic as a whole; no server, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from pytest_capacity.protocols import Floats, Health, Observation, Outcome, Probe
from pytest_capacity.search.found import SustainResult
from pytest_capacity.search.operations import Part, SideBySide, SustainOperations, parts_of
from pytest_capacity.search.replaying import Replay, check_replay, warmup_s
from pytest_capacity.slo import SLO, OperationSLOs, Verdict

TICK_S = 0.25
NAMES = ("rank", "embed")
SHARES = (0.75, 0.25)
SLOS = OperationSLOs({"rank": SLO(p99_ms=50), "embed": SLO(p99_ms=120)})

Latency = Callable[[float, np.random.Generator], float]


def quick(_at_s: float, rng: np.random.Generator) -> float:
    return float(rng.exponential(0.005))


def sometimes_slow(share: float, slow_s: float) -> Latency:
    def latency(_at_s: float, rng: np.random.Generator) -> float:
        return slow_s if rng.random() < share else 0.005

    return latency


@dataclass
class Server:
    """Answers each operation in a time of its own, whatever the load; told in ticks, as a load run tells."""

    rank: Latency = quick
    embed: Latency = quick
    fails: Callable[[float, int], bool] = lambda _at_s, _operation: False
    shares: tuple[float, float] = SHARES
    health: Health = field(default_factory=Health)
    seed: int = 0

    _sent: dict[int, int] = field(default_factory=dict)

    def run(self, controller: SideBySide, *, extend: bool = False) -> SustainResult:
        """Play a controller to its end."""
        rng = np.random.default_rng(self.seed)
        now, probe = 0.0, controller.ask()
        while probe is not None:
            self.tell(controller, probe, now, rng)
            now += TICK_S
            probe = controller.ask()
            if probe is None and extend and controller.extend():
                probe = controller.ask()
        return controller.result()

    def tell(self, controller: SideBySide, probe: Probe, now: float, rng: np.random.Generator) -> None:
        """Tell what came of a tick."""
        count = int(rng.poisson((probe.rate_qps or 0.0) * TICK_S))
        intended: Floats = np.sort(now + rng.random(count) * TICK_S)
        operation = (rng.random(count) >= self.shares[0]).astype(np.uint16)
        pairs = list(zip(intended.tolist(), operation.tolist(), strict=True))
        failed = [self.fails(at_s, which) for at_s, which in pairs]
        latencies = [(self.embed if which else self.rank)(at_s, rng) for at_s, which in pairs]
        self._sent[probe.id] = sent = self._sent.get(probe.id, 0) + count
        controller.tell(
            Observation(
                probe_id=probe.id,
                now_s=now + TICK_S,
                planned=sent,
                sent=sent,
                in_flight=0,
                oldest_age_s=0.0,
                health=self.health,
                intended_s=intended,
                latency_s=np.array(latencies),
                outcome=np.where(failed, Outcome.BAD_STATUS, Outcome.GOOD).astype(np.uint8),
                operation=operation,
            )
        )


def both(qps: float = 200.0, *, budget_s: float = 60.0) -> SustainOperations:
    return SustainOperations(parts_of(SLOS, NAMES, SHARES), qps, min_s=10, budget_s=budget_s)


class TestOperations:
    def test_all_pass_where_each_keeps_its_own_bounds(self) -> None:
        result = Server().run(both())

        assert result.verdict is Verdict.PASS
        assert [judged.bound.label for judged in result.bounds] == [
            "rank p99",
            "rank error_rate",
            "embed p99",
            "embed error_rate",
        ]
        assert result.load_s < 60

    def test_one_that_breaks_its_bound_fails_them_and_is_named(self) -> None:
        """80 ms are late for rank and in time for embed."""
        result = Server(rank=sometimes_slow(0.05, 0.08), embed=sometimes_slow(0.05, 0.08)).run(both())

        assert result.verdict is Verdict.FAIL
        assert [judged.bound.label for judged in result.breached] == ["rank p99"]

    def test_a_rare_one_that_breaks_its_bound_is_not_hidden_by_the_others(self) -> None:
        """A fortieth of all requests is late, which a p97 of all would never see."""
        result = Server(embed=sometimes_slow(0.1, 0.3)).run(both())

        assert [judged.bound.label for judged in result.breached] == ["embed p99"]

    def test_errors_of_one_break_its_error_rate(self) -> None:
        result = Server(fails=lambda at_s, which: which == 1 and int(at_s * 1000) % 10 == 0).run(both())

        assert "embed error_rate" in [judged.bound.label for judged in result.breached]

    def test_one_with_too_few_samples_is_named_as_inconclusive(self) -> None:
        parts = parts_of(SLOS, NAMES, (0.99, 0.01))
        server = Server(shares=(0.99, 0.01))

        result = server.run(SustainOperations(parts, 100.0, min_s=10, budget_s=30))

        assert result.verdict is Verdict.INCONCLUSIVE
        (doubt,) = result.doubts
        assert doubt.kind == "too_few_samples"
        assert doubt.text.startswith("operation 'embed' has too few samples: ")
        assert "p99 needs" in doubt.text
        assert "budget_s=" in doubt.remedy

    def test_one_near_its_limit_is_undecided_and_named(self) -> None:
        result = Server(embed=sometimes_slow(0.0105, 0.3)).run(both(budget_s=20))

        assert result.verdict is Verdict.INCONCLUSIVE
        assert [doubt.kind for doubt in result.doubts] == ["undecided"]
        assert result.doubts[0].text.startswith("embed p99: ")

    def test_the_budget_is_granted_once_more_where_that_is_all_that_is_wanting(self) -> None:
        result = Server(embed=sometimes_slow(0.0105, 0.3)).run(both(budget_s=20), extend=True)

        assert result.extended
        assert result.load_s == pytest.approx(40, abs=1)

    def test_a_plan_that_can_decide_about_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"no verdict can be reached: rank p99 at 3\.75/s needs"):
            both(5.0, budget_s=20)

    def test_a_server_where_nothing_goes_well_is_given_up_on(self) -> None:
        controller = both(20.0, budget_s=300)
        first_look_s = controller.plan.looks[0].at_s

        result = Server(rank=lambda at_s, _: 9.0 if at_s > 5.0 else 0.01).run(controller)

        assert result.verdict is Verdict.FAIL
        assert result.load_s < first_look_s

    def test_a_late_generator_explains_slow_replies(self) -> None:
        late = Health(late_p99_s=0.2, late_max_s=0.3)
        slow = sometimes_slow(0.05, 0.2)

        result = Server(slow, slow, health=late).run(both())

        assert result.verdict is Verdict.INCONCLUSIVE
        assert result.doubts[0].kind == "generator_late"

    def test_an_operation_that_is_not_sent_is_refused_with_those_that_are(self) -> None:
        with pytest.raises(
            ValueError, match="operation 'rnak', which is not sent; there are 'rank', 'embed'"
        ):
            parts_of(OperationSLOs({"rnak": SLO(p99_ms=50)}), NAMES, SHARES)

    def test_wrong_verdicts_are_seldom(self) -> None:
        """Each operation sits exactly at what it may be: four bounds are no four chances."""
        slow = sometimes_slow(0.01, 0.3)
        verdicts = [Server(slow, slow, seed=seed).run(both(100.0)).verdict for seed in range(12)]

        assert verdicts.count(Verdict.PASS) <= 2
        assert verdicts.count(Verdict.FAIL) <= 2

    def test_what_is_stopped_in_the_warm_up_is_judged_by_it(self) -> None:
        controller = both()
        server = Server(fails=lambda _at_s, _which: True)
        probe = controller.ask()
        assert probe is not None
        server.tell(controller, probe, 0.0, np.random.default_rng(0))

        controller.halt("every reply was a server error")

        assert controller.result().verdict is Verdict.FAIL
        assert "rank error_rate" in [judged.bound.label for judged in controller.result().breached]

    def test_halted_it_judges_what_there_is_and_never_passes(self) -> None:
        controller = both()
        controller.halt("the server answered 401")

        assert controller.result().verdict is Verdict.INCONCLUSIVE
        assert controller.ask() is None
        assert controller.result().doubts[0].kind == "stopped"


class TestReplay:
    def whole(self, duration_s: float = 60.0, qps: float = 50.0, slo: SLO | None = None) -> Replay:
        return Replay([Part(slo or SLO(p99_ms=50))], qps, duration_s)

    def test_it_takes_the_whole_piece_and_a_warm_up(self) -> None:
        result = Server().run(self.whole())

        assert result.verdict is Verdict.PASS
        assert result.evidence_s == pytest.approx(60, abs=0.5)
        assert result.warmup_s <= warmup_s(60.0)

    def test_a_peak_that_is_late_counts_by_its_share_of_the_whole(self) -> None:
        def peak(length_s: float) -> Latency:
            return lambda at_s, _: 0.3 if 30 <= at_s < 30 + length_s else 0.005

        short = Server(peak(0.1), peak(0.1)).run(self.whole(300.0))
        long = Server(peak(20.0), peak(20.0)).run(self.whole(300.0))

        assert short.verdict is Verdict.PASS
        assert long.verdict is Verdict.FAIL
        assert [judged.bound.name for judged in long.breached] == ["p99_ms"]

    def test_it_ends_early_only_where_a_spotless_rest_would_change_nothing(self) -> None:
        def broken_until(end_s: float) -> Latency:
            return lambda at_s, _: 0.3 if at_s < end_s else 0.005

        early = Server(broken_until(999), broken_until(999)).run(self.whole(600.0))
        spoilt = Server(broken_until(8), broken_until(8)).run(self.whole(2000.0))

        assert early.verdict is Verdict.FAIL
        assert early.load_s < 200
        assert spoilt.verdict is Verdict.PASS
        assert spoilt.load_s == pytest.approx(2000, abs=15)

    def test_operations_are_judged_by_their_own_bounds(self) -> None:
        replay = Replay(parts_of(SLOS, NAMES, SHARES), 50.0, 120.0)

        result = Server(embed=sometimes_slow(0.1, 0.2)).run(replay)

        assert [judged.bound.label for judged in result.breached] == ["embed p99"]

    def test_too_few_of_an_operation_are_named_with_a_longer_replay_as_the_remedy(self) -> None:
        replay = Replay(parts_of(SLOS, NAMES, (0.99, 0.01)), 50.0, 60.0)

        result = Server(shares=(0.99, 0.01)).run(replay)

        (doubt,) = result.doubts
        assert doubt.kind == "too_few_samples"
        assert "duration_s=" in doubt.remedy

    def test_a_thinned_replay_must_be_long_enough_for_what_chance_leaves_out(self) -> None:
        part = [Part(SLO(p99_ms=50))]

        check_replay(part, 20.0, 15.0)
        with pytest.raises(
            ValueError, match=r"300 requests, give or take 24 as rows are .* p99 needs 299"
        ) as raised:
            check_replay(part, 20.0, 15.0, variance=0.5)
        advised_s = int(str(raised.value).partition("duration_s=")[2].split(" ")[0])
        check_replay(part, 20.0, advised_s, variance=0.5)

    @pytest.mark.parametrize("variance", [0.2, 0.9])
    def test_what_is_advised_is_enough_however_few_are_needed(self, variance: float) -> None:
        part = [Part(SLO(error_rate=0.3))]
        with pytest.raises(ValueError, match="duration_s=") as raised:
            check_replay(part, 1.0, 5.0, variance=variance)

        advised_s = int(str(raised.value).partition("duration_s=")[2].split(" ")[0])
        check_replay(part, 1.0, advised_s, variance=variance)

    def test_an_open_question_has_a_longer_replay_as_its_remedy(self) -> None:
        slow = sometimes_slow(0.0101, 0.2)

        result = Server(slow, slow).run(self.whole())

        assert result.verdict is Verdict.INCONCLUSIVE
        assert result.doubts[0].remedy.startswith("duration_s=120 (the recording loops)")

    def test_a_recording_that_is_too_short_for_any_verdict_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"10 s at 20/s are 200 requests, and p99 needs 299\. Use duration_s=18 or more"
        ):
            self.whole(10.0, 20.0)
