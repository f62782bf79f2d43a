"""The ladder on real servers: its traffic, what each rung sends, and what the searches add up to."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.awkward import Bodies, Draw, awkward, bodies_of, requests_of
from benchmarks.examples import example
from benchmarks.ladder.measuring import Error
from benchmarks.ladder.parts import Part, Site, cut, halves, prepared
from benchmarks.ladder.real import Settings, jobs, results_of, search_all
from benchmarks.ladder.results import Cuts, cuts_of, error_of, table_of, transfer_of, verdict_of
from benchmarks.ladder.rungs import RUNGS, typical_row, typical_sizes
from benchmarks.search.files import Appending, Row
from pytest_capacity.traffic.statistics import index_of_dispersion, lag_one_correlation
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter, read_rows
from tests import servers
from tests.traffics import eventful

SETTINGS = Settings("ranking", "p95", 50.0, 200.0, 480.0, 10.0, 3)
SITE = Site("http://127.0.0.1:9/rank", lambda row: {"items": [0] * int(row.size["bytes"] / 4)})


def recorded(path: Path, rate_qps: float = 50.0, seconds: float = 24.0) -> Path:
    """A trace of awkward traffic with bodies, as the recorder writes it."""
    traffic = awkward(rate_qps, seconds, 1)
    with TraceWriter(path, TraceHeader(name="a", resolution_s=1e-6)) as writer:
        for number, (t_s, size) in enumerate(zip(traffic.t_s.tolist(), traffic.size.tolist(), strict=True)):
            body = {"items": list(range(max(1, round(20 + 10 * size))))}
            data = len(json.dumps(body, separators=(",", ":")))
            writer.write(
                TraceRow(round(t_s, 6), str(number), "/rank", path="/rank", body=body, size={"bytes": data})
            )
    return path


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Part, Part]:
    return cut(recorded(tmp_path / "a.trace.jsonl"), 1, tmp_path)


class TestAwkwardTraffic:
    def test_it_has_the_rate_asked_for_in_the_long_run(self) -> None:
        rates = [len(awkward(100, 200, seed).t_s) / 200 for seed in range(8)]

        assert np.mean(rates) == pytest.approx(100, rel=0.05)

    def test_it_is_bursty_and_its_sizes_are_alike_and_larger_in_spells(self) -> None:
        traffic = awkward(200, 300, 0)

        counts = np.bincount(traffic.t_s.astype(int), minlength=300)
        sizes = np.bincount(traffic.t_s.astype(int), traffic.size, minlength=300) / np.maximum(counts, 1)
        assert (index_of_dispersion(traffic.t_s, 300, 1) or 0) > 5
        assert lag_one_correlation(traffic.size) > 0.4
        assert np.corrcoef(counts, sizes)[0, 1] > 0.3

    def test_few_keys_are_asked_for_often_and_soon_again(self) -> None:
        key = awkward(200, 100, 0).key

        counts = np.sort(np.bincount(key))[::-1]
        soon = np.mean([key[place] in key[place - 40 : place] for place in range(40, len(key))])
        assert counts[:50].sum() > 0.2 * len(key)
        assert soon > 0.3

    def test_a_seed_gives_the_same_traffic(self) -> None:
        first, again, other = awkward(50, 20, 5), awkward(50, 20, 5), awkward(50, 20, 6)

        assert first.t_s.tolist() == again.t_s.tolist()
        assert first.t_s.tolist() != other.t_s.tolist()


@pytest.fixture(params=["ranking", "embedding"])
def bodies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Bodies]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    return request.param, bodies_of(request.param, example(request.param))


def test_a_body_made_of_its_size_is_of_that_size(bodies: tuple[str, Bodies]) -> None:
    for wanted in (120, 200, 440):
        row = TraceRow(0.0, "3", size={"bytes": wanted}, keys=("k12",))

        made = bodies[1].body_for(row)

        assert made == bodies[1].body_for(row)
        assert len(json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()) == pytest.approx(
            wanted, abs=4
        )


def test_requests_tell_their_own_length_and_grow_with_their_size(bodies: tuple[str, Bodies]) -> None:
    name, made = bodies
    traffic = awkward(50, 10, 0)

    requests = requests_of(name, traffic, made.draw, 0)

    lengths = []
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        lengths.append(len(body))
        assert f"Content-Length: {len(body)}".encode() in head
    assert np.corrcoef(np.exp(traffic.size / 2), lengths)[0, 1] > 0.7
    assert _users(made.draw) <= {"", "u7"}


def _users(draw: Draw) -> set[str]:
    return {draw(np.random.default_rng(0), 0.0, 7).get("user", "")}


class TestParts:
    def test_halves_share_out_every_row_in_order_of_time(self) -> None:
        t_s = np.sort(np.random.default_rng(0).random(1001)) * 99

        for repeat in range(4):
            (first, first_s), (second, second_s) = halves(t_s, 100.0, repeat)

            assert sorted([*first.tolist(), *second.tolist()]) == list(range(1001))
            assert first_s[-1] < 50
            assert second_s[-1] < 50
            assert np.all(np.diff(first_s) >= 0)
            assert np.all(np.diff(second_s) >= 0)
            assert min(first_s[0], second_s[0]) >= 0

    def test_two_repeats_have_the_same_halves_exchanged_and_the_next_two_others(self) -> None:
        t_s = np.arange(1000) / 10

        known = [set(halves(t_s, 100.0, repeat)[0][0].tolist()) for repeat in range(6)]

        assert known[0] == set(range(500))
        for repeat in (0, 2, 4):
            assert known[repeat] | known[repeat + 1] == set(range(1000))
            assert known[repeat].isdisjoint(known[repeat + 1])
        assert len({frozenset(one) for one in known}) == 6

    def test_a_part_is_a_trace_with_the_bodies_of_its_rows(self, parts: tuple[Part, Part]) -> None:
        known, held_out = parts

        rows = list(read_rows(known.path)[1])
        assert [row.body for row in rows] == [row.body for row in known.rows]
        assert {row.id for row in known.rows}.isdisjoint(row.id for row in held_out.rows)
        assert len(known.traffic) + len(held_out.traffic) == len(
            list(read_rows(known.path.with_name("a.trace.jsonl"))[1])
        )


class TestRungs:
    def test_the_typical_request_is_the_one_nearest_to_median_or_mean(self) -> None:
        traffic = eventful(1)

        for name in ("L0", "L1"):
            wanted = typical_sizes(name, traffic)
            row = typical_row(name, traffic)
            for unit, column in traffic.sizes.items():
                assert column[row] == pytest.approx(wanted[unit], rel=0.2)

    def test_the_typical_request_of_sizeless_traffic_is_any(self) -> None:
        assert typical_row("L0", replace(eventful(1), sizes={})) == 0

    @pytest.mark.parametrize(("rung", "arrivals"), [("L0", "constant"), ("L1", "poisson"), ("L2", "poisson")])
    def test_the_lower_rungs_send_declared_requests(
        self, parts: tuple[Part, Part], rung: str, arrivals: str
    ) -> None:
        target, conditions = prepared(rung, *parts, SITE, 0)

        sent = target.encode(np.random.default_rng(0)).requests
        bodies = {json.dumps(row.body, separators=(",", ":")).encode() for row in parts[0].rows}
        assert conditions.arrivals_name == arrivals
        assert len(sent) == (len(parts[0].rows) if rung == "L2" else 1)
        assert {request.body for request in sent} <= bodies

    def test_the_upper_rungs_send_traces_of_the_known_part(self, parts: tuple[Part, Part]) -> None:
        known, held_out = parts
        made = {}
        for rung in ("L3", "L4", "L5", "R"):
            trace = prepared(rung, known, held_out, SITE, 0)[1].trace
            assert trace
            made[rung] = trace

        assert made["R"].path == held_out.path
        assert made["L5"].path == known.path
        assert made["L4"].is_model
        ids = [made["L3"].rows.read(row)[0].id for row in range(20)]
        made["L3"].rows.close()
        assert set(ids) <= {row.id for row in known.rows}
        for trace in made.values():
            assert trace.traffic.rate_qps == pytest.approx(known.traffic.rate_qps, rel=0.35)

    def test_bodies_of_the_model_are_made_of_its_sizes(self, parts: tuple[Part, Part]) -> None:
        target, conditions = prepared("L4", *parts, SITE, 0)

        assert conditions.trace
        request = target.encode_row(*conditions.trace.rows.read(0))
        assert request.path == "/rank"
        assert set(json.loads(request.body)) == {"items"}


class TestJobs:
    def test_every_repeat_has_each_rung_and_the_reference_once_in_its_own_order(self) -> None:
        todo = jobs(RUNGS, 6, 0)

        orders = [[rung for repeat, rung in todo if repeat == number] for number in range(6)]
        assert all(sorted(order) == ["L0", "L1", "L2", "L3", "L4", "L5", "R"] for order in orders)
        assert len({tuple(order) for order in orders}) > 1

    def test_more_repeats_go_on_where_fewer_ended(self) -> None:
        assert jobs(RUNGS, 5, 1)[:21] == jobs(RUNGS, 3, 1)


class TestResults:
    def test_a_search_that_failed_is_done_again_and_one_done_twice_counts_once(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        with Appending(path) as file:
            for row in (
                SETTINGS.as_row(),
                line("R", 1),
                line("R", 2),
                {"repeat": 0, "rung": "L1", "error": "x"},
            ):
                file.add(row)

        assert [row["capacity_qps"] for row in results_of(path, SETTINGS)] == [2]

    def test_results_of_other_settings_are_refused(self, tmp_path: Path) -> None:
        with Appending(tmp_path / "a.jsonl") as file:
            file.add(SETTINGS.as_row())

        with pytest.raises(SystemExit, match="other settings"):
            results_of(tmp_path / "a.jsonl", replace(SETTINGS, budget_s=30.0))

    def test_there_are_no_results_before_the_first(self, tmp_path: Path) -> None:
        assert results_of(tmp_path / "a.jsonl", SETTINGS) == []


def line(rung: str, capacity_qps: float | None, repeat: int = 0, width: float = 0.01) -> Row:
    known = capacity_qps or math.nan
    return {
        "repeat": repeat,
        "rung": rung,
        "capacity_qps": capacity_qps,
        "ci_low_qps": known * math.exp(-width),
        "ci_high_qps": known * math.exp(width),
        "status": "converged" if capacity_qps else "not_steady",
    }


class TestErrors:
    def test_the_error_is_that_of_each_repeat_whatever_the_machine_does_meanwhile(self) -> None:
        rows = [line("R", 100, 0), line("L0", 150, 0), line("R", 50, 2), line("L0", 75, 2)]

        error = error_of("L0", cuts_of(rows, "L0"))

        assert error.error == pytest.approx(0.5)
        assert error.capacity_qps == pytest.approx(math.sqrt(150 * 75))
        assert error.low < 0.5 < error.high
        assert error.high - error.low < 0.05

    def test_repeats_that_differ_widen_the_interval_by_students_t(self) -> None:
        cuts = Cuts(np.ones(4), np.log([1.0, 1.1, 1.2, 1.3]), np.full(4, 1e-9))

        error = error_of("L1", cuts)

        half = 3.1824 * np.log([1.0, 1.1, 1.2, 1.3]).std(ddof=1) / 2
        assert math.log1p(error.high) - math.log1p(error.error) == pytest.approx(half, rel=1e-3)

    def test_repeats_that_agree_by_chance_are_no_surer_than_their_searches(self) -> None:
        rows = [line(rung, 100, repeat, width=0.1) for repeat in range(4) for rung in ("R", "L5")]

        error = error_of("L5", cuts_of(rows, "L5"))

        half = 1.96 * math.sqrt(2) * 0.1 / 1.645 / math.sqrt(4)
        assert math.log1p(error.high) == pytest.approx(half, rel=1e-3)

    def test_what_tells_the_halves_apart_is_the_transfer_error_and_none_of_the_rungs(self) -> None:
        rows = [
            line(rung, 100 if (repeat % 2 == 0) == (rung == "L5") else 130, repeat)
            for repeat in range(4)
            for rung in ("R", "L5")
        ]

        error = error_of("L5", cuts_of(rows, "L5"))

        assert error.error == pytest.approx(0)
        assert error.high < 0.02
        assert transfer_of(rows) == pytest.approx(0.3)
        assert "differ by 30.0% on average" in table_of("ranking", rows, ("L5",))

    def test_a_repeat_without_its_reference_does_not_count(self) -> None:
        rows = [line("R", None, 0), line("L0", 150, 0), line("R", 100, 1), line("L0", 120, 1)]

        assert error_of("L0", cuts_of(rows, "L0")).error == pytest.approx(0.2)

    def test_without_a_pair_there_is_no_error(self) -> None:
        assert math.isnan(error_of("L0", cuts_of([line("R", 100)], "L0")).error)

    @pytest.mark.parametrize(
        ("rung", "low", "high", "verdict"),
        [
            ("L0", 0.3, 0.6, "at least 20%: met"),
            ("L0", -0.5, -0.3, "at least 20%: met"),
            ("L1", 0.1, 0.3, "at least 20%: open"),
            ("L1", -0.1, 0.1, "at least 20%: missed"),
            ("L4", -0.02, 0.05, "at most 6%: met"),
            ("L4", -0.02, 0.08, "at most 6%: open"),
            ("L5", -0.2, -0.1, "at most 6%: missed"),
            ("L5", -0.2, 0.2, "at most 6%: open"),
            ("L3", 0.3, 0.6, ""),
            ("L5", math.nan, math.nan, ""),
        ],
    )
    def test_a_bar_is_met_only_by_the_whole_interval(
        self, rung: str, low: float, high: float, verdict: str
    ) -> None:
        assert verdict_of(Error(rung, 1.0, (low + high) / 2, low, high)) == verdict

    def test_the_table_has_a_line_for_each_rung_and_says_how_searches_ended(self) -> None:
        rows = [line("R", 100, 0), line("L0", 150, 0), line("R", None, 1), line("L5", 98, 0)]

        table = table_of("ranking", rows, ("L0", "L4", "L5"))

        lines = table.splitlines()
        assert len({text.count("|") for text in lines[2:]}) == 1
        assert "| 100.0/s |" in lines[4]
        assert lines[4].endswith("| 1 converged, 1 not_steady |")
        assert "| 150.0/s | +50.0% |" in lines[5]
        assert "| - | - | - |" in lines[6]
        assert "| 98.0/s | -2.0% |" in lines[7]

    def test_a_capacity_without_its_reference_is_told_all_the_same(self) -> None:
        table = table_of("ranking", [line("R", None), line("L0", 150)], ("L0",))

        assert "| 150.0/s | - | - |" in table


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["L2", "R"])
def test_a_search_is_written_as_it_comes(tmp_path: Path, rung: str) -> None:
    trace = recorded(tmp_path / "a.trace.jsonl")
    with servers.healthy(delay_s=0.002) as server:
        search_all(
            [(0, rung)], trace, tmp_path / "a.jsonl", SETTINGS, replace(SITE, url=f"{server.url}/rank")
        )

    (row,) = results_of(tmp_path / "a.jsonl", SETTINGS)
    assert row["rung"] == rung
    assert row["load_s"] <= SETTINGS.budget_s
    assert row["requests"] > 0
    assert {json.loads(one.body)["items"][0] for one in server.requests} == {0}
