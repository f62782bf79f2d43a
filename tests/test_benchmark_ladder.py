"""The ladder: its servers, its rungs and its bars."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ladder.__main__ import bars_of, main
from benchmarks.ladder.measuring import ClassResult, Curve, Error, halves_of, server_for
from benchmarks.ladder.rungs import RUNGS, rung
from benchmarks.ladder.servers import BySize, EmbeddingCache, PrefixCache, latencies
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.traffic.statistics import index_of_dispersion, lru_hit_shares, stack_distances
from tests.traffics import eventful

TRACES = Path("../shared/traces")
RECORDED = eventful(2)


@pytest.mark.parametrize("slots", [1, 3])
def test_where_both_can_say_it_the_server_replies_as_the_simulated_one(slots: int) -> None:
    arrivals_s = np.cumsum(np.random.default_rng(0).exponential(0.01, 2000))
    simulated = SimulatedServer(ServerSpec(workers=slots, cost_item_s=0.009 * slots, overhead_s=0.0))
    simulated.offer(arrivals_s.tolist(), float(arrivals_s[-1]))

    ours = latencies(arrivals_s, np.full(2000, 0.009 * slots), slots)

    assert ours == pytest.approx(np.array(simulated.replied_s) - arrivals_s)


def test_an_embedding_that_is_not_there_takes_longer() -> None:
    key = np.random.default_rng(1).zipf(1.5, 3000) % 50

    work = EmbeddingCache(10, hit=1, miss=6).work({}, key)

    (hits,) = lru_hit_shares(stack_distances(key), [10])
    assert np.mean(work == 1) == pytest.approx(hits)
    assert set(work) == {1, 6}


def test_what_is_known_of_a_conversation_is_not_read_again() -> None:
    sizes = {"tokens_in": np.array([100.0, 50.0, 130.0, 20.0]), "tokens_out": np.array([10.0, 0.0, 0.0, 0.0])}
    key = np.array([0, 1, 0, 0])

    whole = PrefixCache(1000, mean_tokens=1.0, base=0.0).work(sizes, key)
    forgetful = PrefixCache(60, mean_tokens=1.0, base=0.0).work(sizes, key)

    assert whole.tolist() == [100, 50, 20, 0]
    assert forgetful.tolist() == [100, 50, 130, 0]


@pytest.mark.parametrize("name", ["R", *RUNGS])
def test_every_rung_offers_the_rate_asked_for(name: str) -> None:
    play = rung(name, RECORDED)

    load = play(1.5 * RECORDED.rate_qps, 2 * RECORDED.cycle_s, 3)

    assert len(load.t_s) == pytest.approx(3 * len(RECORDED), rel=0.05)
    assert np.all(np.diff(load.t_s) >= 0)
    assert {len(column) for column in load.sizes.values()} == {len(load.t_s)} == {len(load.key)}


def test_the_rungs_differ_in_what_they_keep_of_the_recording() -> None:
    loads = {name: rung(name, RECORDED)(RECORDED.rate_qps, RECORDED.cycle_s, 1) for name in ("R", *RUNGS)}
    bursts = {name: index_of_dispersion(load.t_s, RECORDED.cycle_s, 10) or 0 for name, load in loads.items()}

    assert bursts["L0"] < 0.1
    assert bursts["L1"] == pytest.approx(1, abs=0.6)
    for name in ("L3", "L4", "L5"):
        assert bursts[name] == pytest.approx(bursts["R"], rel=0.25)
    assert {len(set(loads[name].sizes["items"])) for name in ("L0", "L1")} == {1}
    assert loads["L2"].sizes["items"].mean() == pytest.approx(loads["R"].sizes["items"].mean(), rel=0.1)


def test_a_server_is_half_busy_at_the_recorded_rate() -> None:
    server = server_for(RECORDED, lambda: BySize("items", 10.0), slots=4)

    load = rung("R", RECORDED)(RECORDED.rate_qps, RECORDED.cycle_s, 0)
    work_s = server.make_model().work(load.sizes, load.key) * server.unit_s
    assert work_s.sum() / RECORDED.cycle_s / 4 == pytest.approx(0.5)


def test_capacity_is_where_the_mean_share_crosses_the_allowed_one() -> None:
    curve = Curve(np.array([1.0, 2.0, 4.0]), np.array([[0.0, 0.02, 0.3], [0.0, 0.04, 0.5]]))

    assert 2 < curve.capacity_qps() < 2.2
    assert curve.capacity_qps(np.array([1, 1])) < curve.capacity_qps(np.array([0, 0]))
    assert np.isnan(Curve(np.array([1.0, 2.0]), np.array([[0.0, 0.01]])).capacity_qps())
    assert np.isnan(Curve(np.array([1.0, 2.0]), np.array([[0.2, 0.3]])).capacity_qps())


def test_halves_are_recordings_of_half_the_time() -> None:
    first, second = halves_of(RECORDED)

    assert len(first) + len(second) == len(RECORDED)
    assert first.cycle_s == second.cycle_s == RECORDED.cycle_s / 2
    assert second.t_s[0] >= 0


def result(*errors: tuple[str, float]) -> ClassResult:
    return ClassResult(
        "any",
        10,
        1.0,
        2.0,
        tuple(Error(name, 2.0, error, error - 0.01, error + 0.01) for name, error in errors),
        0.0,
    )


def test_bars_are_met_or_missed() -> None:
    good = [result(("L0", 0.5), ("L4", -0.02), ("L5", 0.01))] * 3
    bad = [*good, result(("L0", 0.1), ("L4", -0.2), ("L5", 0.01))]

    assert all(bars_of(good).values())
    missed = [text for text, met in bars_of(bad).items() if not met]
    assert missed == [
        "L4 errs by 21.0% at most at the end of an interval (6% allowed)",
        "L4 errs by 20.0% at most (6% allowed)",
    ]


def test_an_error_that_is_small_but_not_shown_to_be_meets_no_bar() -> None:
    wide = ClassResult("any", 10, 1.0, 2.0, (Error("L4", 2.0, 0.01, -0.02, 0.09),), 0.0)

    assert [met for text, met in bars_of([wide]).items()] == [False, True, True]


def test_a_capacity_that_was_not_found_meets_no_bar() -> None:
    assert not any(bars_of([result(("L4", float("nan")))]).values())


@pytest.mark.skipif(not TRACES.is_dir(), reason="needs the recordings in ../shared/traces")
def test_the_ladder_runs_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--classes", "recommendation", "--rungs", "L1,L5", "--seeds", "1", "--json"])

    document = json.loads(capsys.readouterr().out)
    assert code == int(not all(document["bars"].values()))
    (found,) = document["classes"]
    assert [error["rung"] for error in found["errors"]] == ["L1", "L5"]
    assert found["errors"][0]["error"] > 1
    assert abs(found["errors"][1]["error"]) < 0.3


def test_without_recordings_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--traces", str(tmp_path / "none")]) == 2
    assert "no traces in" in capsys.readouterr().err


def test_an_unknown_class_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--classes", "rankings"])
    assert "no rankings; known are ranking" in capsys.readouterr().err


def test_the_recording_of_a_rung_has_the_units_of_the_recording() -> None:
    one_unit = replace(RECORDED, sizes={"items": RECORDED.sizes["items"]})

    assert set(rung("L4", one_unit)(5.0, 50.0, 0).sizes) == {"items"}
