"""Simulated servers and arrivals against what queueing theory says of them, and the truth found in them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from pytest_capacity.protocols import Floats
from pytest_capacity.simulate import truth
from pytest_capacity.simulate.arriving import constant, poisson, read_times, replayed
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.simulate.truth import Truth, bad_shares, ceiling_qps, find_truth, warm
from pytest_capacity.slo import SLO

STRATA = 2000
EXPONENTIAL = (
    np.diff([-(1 - p) * (1 - math.log(1 - p)) if p < 1 else 0.0 for p in np.linspace(0, 1, STRATA + 1)])
    * STRATA
)
"""The mean of an exponential variable in each of many equally likely strata: M/M/1's service times."""


def markovian(mean_s: float, *, workers: int = 1, overhead_s: float = 0.0) -> ServerSpec:
    return ServerSpec.of(
        {"workers": workers, "cost_item_s": mean_s, "size": EXPONENTIAL.tolist(), "overhead_s": overhead_s}
    )


def sojourns(spec: ServerSpec, rate_qps: float, requests: int) -> Floats:
    server = SimulatedServer(spec, 5)
    until_s = requests / rate_qps
    server.offer(poisson(5).draw(rate_qps, 0.0, until_s).tolist(), until_s)
    times: Floats = np.array(server.replied_s) - np.array(server.arrived_s)
    return times


def test_one_markovian_slot_has_exponential_sojourns() -> None:
    times = sojourns(markovian(0.01), 50.0, 200_000)

    for age_s in (0.01, 0.03, 0.06, 0.1):
        assert (times > age_s).mean() == pytest.approx(math.exp(-(100 - 50) * age_s), rel=0.06)


def test_three_markovian_slots_make_wait_as_erlang_says() -> None:
    slots, rate_qps, mean_s = 3, 240.0, 0.01
    load = rate_qps * mean_s
    idle = sum(load**n / math.factorial(n) for n in range(slots))
    full = load**slots / math.factorial(slots) * slots / (slots - load)
    wait_s = full / (idle + full) / (slots / mean_s - rate_qps)

    times = sojourns(markovian(mean_s, workers=slots), rate_qps, 300_000)
    assert times.mean() - mean_s == pytest.approx(wait_s, rel=0.06)


def test_the_mean_wait_at_spread_sizes_is_pollaczek_and_khinchine_s() -> None:
    spec = ServerSpec.of({"cost_item_s": 0.01, "size": {"lognormal_sigma": 0.6}, "overhead_s": 0.0})
    rate_qps = 60.0
    second_moment = 0.01**2 * math.exp(0.6**2)

    times = sojourns(spec, rate_qps, 300_000)
    assert times.mean() - 0.01 == pytest.approx(rate_qps * second_moment / (2 * (1 - 0.6)), rel=0.05)


def test_poisson_counts_vary_as_much_as_their_mean_across_changes_of_rate() -> None:
    arrivals = poisson(3)
    counts = [len(arrivals.draw(rate, at_s, at_s + 1.0)) for at_s in range(3000) for rate in (20.0, 80.0)]

    for rate, mine in ((20.0, counts[::2]), (80.0, counts[1::2])):
        assert np.mean(mine) == pytest.approx(rate, rel=0.02)
        assert np.var(mine) / np.mean(mine) == pytest.approx(1.0, abs=0.1)
    assert abs(np.corrcoef(counts[::2], counts[1::2])[0, 1]) < 0.06


def test_two_rates_meet_the_same_gaps_stretched() -> None:
    slow, fast = poisson(4).draw(10.0, 0.0, 1000.0), poisson(4).draw(40.0, 0.0, 250.0)

    assert len(slow) > 9000
    assert slow == pytest.approx(4 * fast)
    assert poisson(5).draw(10.0, 0.0, 1.0)[0] != slow[0]


def test_arrivals_go_on_from_where_they_were_and_stay_within_their_piece() -> None:
    whole, parts = poisson(6), poisson(6)
    pieces = [parts.draw(30.0, at_s, at_s + 0.7) for at_s in np.arange(0, 70, 0.7)]

    assert np.concatenate(pieces) == pytest.approx(whole.draw(30.0, 0.0, 70.0))
    for at_s, piece in zip(np.arange(0, 70, 0.7), pieces, strict=True):
        assert ((piece >= at_s) & (piece < at_s + 0.7)).all()


def test_one_seed_makes_sizes_and_gaps_that_know_nothing_of_each_other() -> None:
    server = SimulatedServer(ServerSpec.of({"cost_item_s": 0.01, "size": {"lognormal_sigma": 1.0}}), 11)
    sizes = np.log([server._size(row) for row in range(8000)])
    gaps = np.diff(poisson(11).draw(1.0, 0.0, 9000.0))[:8000]

    for shift in (0, 1):
        assert abs(np.corrcoef(sizes[shift:], gaps[: len(gaps) - shift])[0, 1]) < 0.04


def test_constant_arrivals_keep_their_distance() -> None:
    assert constant().draw(4.0, 10.0, 11.1) == pytest.approx([10.25, 10.5, 10.75, 11.0])


def test_a_recording_is_replayed_in_its_order_over_and_over() -> None:
    # Gaps of 1, 3 and 2 s: at twice their rate of one in 2 s they are half as long.
    times = replayed(np.array([5.0, 6.0, 9.0, 11.0])).draw(1.0, 0.0, 6.4)

    assert times == pytest.approx([0.5, 2.0, 3.0, 3.5, 5.0, 6.0])
    often = replayed(np.array([5.0, 6.0, 9.0, 11.0])).draw(1.0, 0.0, 20_000.0)
    assert np.diff(often)[:15_000] == pytest.approx(np.resize([1.5, 1.0, 0.5], 15_000))


@pytest.mark.parametrize("times", [[1.0], [2.0, 1.0], [1.0, 1.0], [1.0, math.nan]])
def test_what_is_no_recording_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="two arrivals or more"):
        replayed(np.array(times))


@pytest.mark.parametrize("packed", [False, True])
def test_a_trace_s_times_are_read(tmp_path: Path, packed: bool) -> None:
    text = '{"pytest_capacity_trace": 1, "t": 9}\n{"t": 0.5, "op": "a"}\n\n{"t": 2}\n'
    path = tmp_path / ("day.trace.jsonl.gz" if packed else "day.trace.jsonl")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    assert read_times(path).tolist() == [0.5, 2.0]


@pytest.mark.parametrize("row", ['{"time": 1}', "5", "{", '{"t": "soon"}', '{"t": null}'])
def test_a_row_without_a_time_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "day.trace.jsonl"
    path.write_text(f'{{"t": 1}}\n{row}\n')

    with pytest.raises(ValueError, match=r"day\.trace\.jsonl, line 2: no arrival time 't'"):
        read_times(path)


@pytest.mark.parametrize(
    "content", [gzip.compress(b'{"t": 1}')[:-5], gzip.compress(b"\xff")], ids=["cut short", "no text"]
)
def test_a_broken_trace_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "day.trace.jsonl.gz"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"day\.trace\.jsonl\.gz: "):
        read_times(path)


# The truth.


def test_the_truth_of_a_markovian_slot_is_its_closed_form() -> None:
    """P(sojourn > t) = exp(-(mu - rate) t): 1 % at mu - ln(100) / t, the number there 1 / (rate t)."""
    mu, limit_s = 200.0, 0.1
    found = find_truth(markovian(1 / mu), SLO(p99_ms=limit_s * 1000), poisson, effort=0.08)

    capacity = mu - math.log(100) / limit_s
    assert found.capacity_qps == pytest.approx(capacity, rel=0.015)
    assert found.condition_number == pytest.approx(1 / (capacity * limit_s), rel=0.25)


def test_where_no_rate_keeps_the_slo_there_is_no_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "SCAN_REQUESTS", 1000)

    assert find_truth(ServerSpec(cost_base_s=0.01), SLO(p99_ms=5), poisson) == Truth(None, None)


def test_the_truth_is_the_top_where_low_rates_fail_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of four that wait for each other: below some rate most wait too long."""
    monkeypatch.setattr(truth, "SCAN_REQUESTS", 5000)
    spec = ServerSpec(batch_max=4, batch_wait_s=1.0, cost_base_s=0.02)
    slo = SLO(p90_ms=200)
    found = find_truth(spec, slo, poisson, effort=0.02)

    assert found.capacity_qps is not None
    assert 130 < found.capacity_qps < ceiling_qps(spec) == 200
    for rate_qps, holds in ((5.0, False), (100.0, True), (1.05 * found.capacity_qps, False)):
        shares, _ = bad_shares(spec, slo, rate_qps, 20_000 / rate_qps, arrivals=poisson(1))
        assert (shares[0] <= 0.1) == holds


def test_the_ceiling_counts_slots_batches_and_sizes() -> None:
    spec = ServerSpec.of(
        {"workers": 2, "batch_max": 4, "cost_base_s": 0.1, "cost_item_s": 0.1, "size": [1, 3]}
    )
    assert ceiling_qps(spec) == pytest.approx(2 * 4 / (0.1 + 0.1 * 4 * 2))


def test_bad_shares_go_bound_by_bound_and_know_no_cold_start() -> None:
    spec = ServerSpec.of(
        {"cost_base_s": 0.03, "timeout_s": 0.05, "cold": {"factor": 100, "requests": 1e6, "start_s": 5}}
    )
    # At one request in 40 ms nobody waits; each takes 30.5 ms.
    shares, requests = bad_shares(
        spec, SLO(p90_ms=30, p99_ms=40, error_rate=0.01), 25.0, 100.0, arrivals=constant()
    )
    assert shares.tolist() == [1.0, 0.0, 0.0]
    assert requests == pytest.approx(2500, abs=1)
    assert warm(spec).cold is None

    # At one in 20 ms the queue grows without end: the client gives up on all.
    shares, _ = bad_shares(spec, SLO(p90_ms=30, p99_ms=40, error_rate=0.01), 50.0, 100.0, arrivals=constant())
    assert shares.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("queue_max", [None, 5])
def test_in_what_pieces_the_time_is_played_changes_no_count(
    monkeypatch: pytest.MonkeyPatch, queue_max: int | None
) -> None:
    """Refused ones among those that wait for a batch, and a load that stops in the midst of a queue."""
    spec = ServerSpec(batch_max=4, batch_wait_s=0.05, cost_base_s=0.1, queue_max=queue_max)
    slo = SLO(p50_ms=180, error_rate=0.2)
    counted = []
    for chunk_s in (0.3, 1e6):
        monkeypatch.setattr(truth, "CHUNK_S", chunk_s)
        shares, requests = bad_shares(spec, slo, 38.0, 20.0, arrivals=poisson(2))
        counted.append(([*shares], requests))
    server = SimulatedServer(spec, 0)
    server.offer(poisson(2).draw(38.0, 0.0, 21.0).tolist(), 100.0)
    arrived = np.array(server.arrived_s)
    latency = (np.array(server.replied_s) - arrived)[arrived >= 1.0]

    assert counted[0] == counted[1]
    assert counted[0][1] == len(latency)
    assert counted[0][0] == pytest.approx([(~(latency <= 0.18)).mean(), np.isnan(latency).mean()])
