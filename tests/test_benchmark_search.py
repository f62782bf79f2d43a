"""The benchmark of searches: its population, baselines and figures, and that it goes on where it stopped."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("MLRsearch")

from benchmarks.search.__main__ import main
from benchmarks.search.algorithms import ALGORITHMS
from benchmarks.search.files import Appending, read_rows
from benchmarks.search.least import least_of, least_s, serves_from_s, undecided
from benchmarks.search.oracle import RATIOS, ratio_of
from benchmarks.search.playing import Case
from benchmarks.search.pool import results_of
from benchmarks.search.population import CLASSES, draw
from benchmarks.search.runs import do_missing, false_pass_jobs, results_path, rows_of, search_jobs
from benchmarks.search.scoring import Ran, clustered_limits, score, scores, share_with_limits
from benchmarks.search.sustaining import Sustained, score_sustain, sustain_scores
from benchmarks.search.tables import all_tables
from benchmarks.search.truths import Known, known_servers, truths_path
from pytest_capacity.simulate.spec import Cold, ServerSpec, Spikes

TWO_WORKERS = ServerSpec(workers=2, cost_item_s=0.008, lognormal_sigma=0.5)
KNOWN = Known("tune", 0, TWO_WORKERS, ("fifo",), 185.0, 0.05, "mark")


def a_run(server: int = 0, **changes: object) -> Ran:
    run: dict[str, object] = {
        "server": server, "truth_qps": 100.0, "condition_number": 0.05, "tags": ("fifo",),
        "capacity_qps": 100.0, "low_qps": 95.0, "high_qps": 105.0, "status": "converged", "load_s": 60.0,
    }  # fmt: skip
    return Ran(**(run | changes))  # type: ignore[arg-type]  # a table of them


class TestPopulation:
    def test_a_server_is_the_same_every_time_and_another_in_each_range_and_attempt(self) -> None:
        assert draw("tune", 3) == draw("tune", 3)
        marks = {draw(name, 3, attempt).mark for name in ("tune", "report") for attempt in (0, 1)}
        assert len(marks) == 4

    def test_the_shares_of_the_classes_are_those_published(self) -> None:
        drawn = [draw("tune", index) for index in range(600)]
        share = {name: np.mean([name in one.tags for one in drawn]) for name in CLASSES}

        assert share["fifo"] == pytest.approx(1 / 2, abs=0.06)
        assert share["pauses"] == pytest.approx(1 / 3, abs=0.06)
        assert share["cold"] == pytest.approx(1 / 4, abs=0.06)
        for oddity in ("shed", "neighbour", "spikes", "heavy", "overload"):
            assert share[oddity] == pytest.approx(0.06, abs=0.03)

    def test_tags_say_what_the_server_has(self) -> None:
        for index in range(200):
            drawn = draw("report", index)
            spec = drawn.spec
            has = {
                "batching": spec.batch_max > 1,
                "pauses": spec.pause,
                "cold": spec.cold,
                "shed": spec.queue_max,
                "neighbour": spec.neighbour,
                "spikes": spec.spikes,
                "overload": spec.overload,
            }
            assert {name for name, part in has.items() if part} == set(drawn.tags) - {"fifo", "heavy"}

    def test_a_truth_of_a_server_that_is_drawn_otherwise_by_now_is_passed_over(self, tmp_path: Path) -> None:
        row = {"server": 0, "attempt": 0, "mark": draw("tune", 0).mark, "capacity": 1.0, "condition": 0.1}
        with Appending(truths_path(tmp_path, "tune")) as out:
            out.add(row)
            out.add(row | {"server": 1, "mark": "another"})

        assert list(known_servers(tmp_path, "tune")) == [0]


class TestAlgorithms:
    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_it_ends_within_its_budget_and_comes_near(self, name: str) -> None:
        found = ALGORITHMS[name](Case(KNOWN, 1, 60.0))

        assert found.load_s <= 60.0 + 1e-6
        assert found.requests > 1000
        assert found.capacity_qps is not None
        assert 0.25 < found.capacity_qps / KNOWN.capacity_qps < 1.7
        assert found.low_qps is None or found.high_qps is None or found.low_qps <= found.high_qps

    @pytest.mark.parametrize("name", ["qbs", "bisection-warm", "bisection-10", "mlrsearch-5", "doubling"])
    def test_the_better_ones_come_nearer_with_more_load(self, name: str) -> None:
        found = ALGORITHMS[name](Case(KNOWN, 2, 120.0))

        assert found.load_s <= 120.0 + 1e-6
        assert found.capacity_qps == pytest.approx(KNOWN.capacity_qps, rel=0.15)

    def test_every_algorithm_meets_the_same_arrivals_and_bracket(self) -> None:
        one, other = Case(KNOWN, 5, 60.0), Case(KNOWN, 5, 120.0)

        assert one.bracket() == other.bracket() != Case(KNOWN, 6, 60.0).bracket()
        assert (one.arrivals().draw(100, 0, 1) == other.arrivals().draw(100, 0, 1)).all()


class TestResuming:
    def test_what_is_done_is_not_done_again(self, tmp_path: Path) -> None:
        jobs = search_jobs([KNOWN], 2, [20.0], ["bisection-10"], "")
        path = results_path(tmp_path, "search", "tune")

        do_missing(tmp_path, "tune", jobs[:1], processes=0)
        first = path.read_text()
        do_missing(tmp_path, "tune", jobs, processes=0)

        assert path.read_text().startswith(first)
        assert [row["seed"] for row in read_rows(path)] == [0, 1]

    def test_a_line_cut_short_and_a_run_that_erred_are_done_again(self, tmp_path: Path) -> None:
        jobs = search_jobs([KNOWN], 1, [20.0], ["bisection-10"], "again")
        path = results_path(tmp_path, "search", "tune")
        do_missing(tmp_path, "tune", jobs, processes=0)
        (row,) = read_rows(path)
        erred = row | {"error": "was broken"}
        path.write_text(json.dumps(erred) + "\n" + json.dumps(row)[:40])

        assert rows_of(tmp_path, "search", "tune") == []
        assert do_missing(tmp_path, "tune", jobs, processes=0) == 0
        (again,) = rows_of(tmp_path, "search", "tune")
        assert again["algorithm"] == "bisection-10@again"
        assert again["capacity"] == row["capacity"]

    def test_an_algorithms_own_error_leaves_the_others_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(ALGORITHMS, "broken", lambda _case: 1 / 0)
        jobs = search_jobs([KNOWN], 1, [10.0], ["broken", "bisection-10"], "")

        assert do_missing(tmp_path, "tune", jobs, processes=0) == 1
        assert [row["algorithm"] for row in rows_of(tmp_path, "search", "tune")] == ["bisection-10"]

    def test_processes_do_it_too(self) -> None:
        assert sorted(results_of(math.sqrt, [1.0, 4.0, 9.0], 2, "roots")) == [1.0, 2.0, 3.0]

    def test_false_passes_are_looked_for_on_every_server_in_turn(self, tmp_path: Path) -> None:
        other = Known("tune", 1, TWO_WORKERS, ("fifo",), 185.0, 0.05, "other")
        jobs = false_pass_jobs([KNOWN, other], "", runs=3)

        assert [(job.known.index, job.seed) for job in jobs] == [(0, 0), (1, 0), (0, 1)]
        assert do_missing(tmp_path, "tune", jobs, processes=0) == 0
        assert {row["ratio"] for row in rows_of(tmp_path, "false-pass", "tune")} == {1.05}


class TestFigures:
    def test_errors_are_counted_with_runs_without_an_estimate_as_infinitely_far_off(self) -> None:
        estimates = [90.0, 96.0, 101.0, 103.0, 120.0, None]
        found = score([a_run(capacity_qps=c) for c in estimates])

        assert found.found == pytest.approx(5 / 6)
        assert found.median_error == pytest.approx(0.10)
        assert math.isinf(found.p90_error)
        assert found.far_off == pytest.approx(2 / 6)
        assert found.over == pytest.approx(1 / 6)
        assert found.bias == pytest.approx(0.01)

    def test_an_interval_open_on_one_side_covers_on_that_side(self) -> None:
        runs = [
            a_run(0),
            a_run(1, low_qps=101.0, high_qps=110.0),
            a_run(2, low_qps=None, high_qps=99.0),
            a_run(3, low_qps=90.0, high_qps=None),
            a_run(4, low_qps=None, high_qps=None),
        ]
        found = score(runs)

        assert found.coverage == pytest.approx(2 / 4)
        assert found.low_above == pytest.approx(1 / 4)
        assert found.coverage_low < 0.5 < found.coverage_high

    def test_limits_are_wider_where_the_runs_of_a_server_agree(self) -> None:
        agreeing = [(server, server % 5 != 0) for server in range(20) for _ in range(10)]
        mixed = [(server, (server + i) % 5 != 0) for server in range(20) for i in range(10)]

        low, high = clustered_limits(agreeing)
        assert 0.6 < low < 0.7
        assert 0.9 < high < 1.0
        assert np.subtract(*clustered_limits(mixed)[::-1]) < 0.05

    def test_a_share_of_none_still_has_an_upper_limit(self) -> None:
        share, low, high = share_with_limits([(i, False) for i in range(300)])
        assert (share, low) == (0.0, 0.0)
        assert high == pytest.approx(0.00994, abs=1e-4)

    def test_groups_hold_what_their_names_say_and_the_worst_class_is_named(self) -> None:
        runs = [
            a_run(0, capacity_qps=101.0),
            a_run(1, tags=("batching", "cold"), capacity_qps=110.0),
            a_run(2, tags=("fifo", "pauses"), condition_number=0.3, status="ill_conditioned"),
        ]
        found = scores(runs)

        assert found["cond <= 0.1"].runs == 2
        assert found["cond <= 0.1, cold"].median_error == pytest.approx(0.10)
        assert found["cond > 0.2"].ill_conditioned == 1.0
        assert found["status ill_conditioned"].servers == 1
        assert "worst p90: batching" in found

    def test_a_sustain_run_is_wrong_only_with_the_opposite_verdict(self) -> None:
        verdicts = [(0.8, "PASS"), (0.8, "FAIL"), (1.2, "PASS"), (1.2, "INCONCLUSIVE")]
        runs = [Sustained(i, 0.05, (), ratio, verdict, 10.0) for i, (ratio, verdict) in enumerate(verdicts)]
        found = score_sustain(runs)

        assert (found.wrong, found.undecided, found.mean_s) == (0.5, 0.25, 10.0)
        assert sustain_scores(runs)["no pauses, 0.8 C"].wrong == 0.5

    def test_the_least_of_a_sustain_run_is_its_minimum_where_the_answer_is_clear(self) -> None:
        assert least_s(KNOWN, 0.8) == 12
        assert least_s(KNOWN, 1.2) == 4
        assert undecided(KNOWN, 0.8) < 1e-6

    def test_a_share_that_hardly_depends_on_the_rate_leaves_the_verdict_open(self) -> None:
        flat = replace(KNOWN, condition_number=5.0)

        assert undecided(flat, 0.9) > 0.5
        assert least_s(flat, 0.9) == least_s(replace(KNOWN, condition_number=math.inf), 1.1) == 120

    def test_a_cold_server_cannot_pass_before_it_serves_the_rate(self) -> None:
        cold = replace(KNOWN, spec=replace(TWO_WORKERS, cold=Cold(3.0, 1_000, start_s=2.0)))

        served_from_s = serves_from_s(cold, 0.9)
        assert 2 + 2_000 / KNOWN.capacity_qps < served_from_s < 2 + 2 * 3_000 / KNOWN.capacity_qps
        assert least_s(cold, 0.9) == served_from_s + 10
        assert least_s(cold, 1.2) == least_s(KNOWN, 1.2)

    def test_spikes_that_come_seldom_are_not_seen_before_a_pass(self) -> None:
        spiking = replace(KNOWN, spec=replace(TWO_WORKERS, spikes=Spikes(1 / 120, 0.1, 0.2)))

        least = least_of([KNOWN, spiking])
        assert least is not None
        assert least.unseen == pytest.approx(math.exp(-0.1) / 4)
        assert least_of([]) is None

    def test_the_oracle_reads_the_rate_off_the_curve(self) -> None:
        uses = RATIOS**20
        for ratio in (0.85, 1.0, 1.13, 1.3):
            assert ratio_of(ratio**20, uses) == pytest.approx(ratio, rel=1e-3)


class TestTables:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        drawn = draw("tune", 0)
        truth = {"server": 0, "attempt": 0, "mark": drawn.mark, "capacity": 880.0, "condition": 0.035}
        with Appending(truths_path(tmp_path, "tune")) as out:
            out.add(truth)
        return tmp_path

    def test_one_command_does_what_is_missing_and_prints_what_is_there(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [
            "--part",
            "search",
            "--servers",
            "1",
            "--seeds",
            "1",
            "--budgets",
            "60",
            "--range",
            "tune",
        ]
        assert (
            main([*arguments, "--algorithms", "capacity-search", "--processes", "0", "--out", str(folder)])
            == 0
        )

        printed = capsys.readouterr().out
        assert "## capacity-search, 60 s" in printed
        assert "condition number up to 0.1, 60 s: median / p90 error" in printed

    def test_an_empty_folder_has_tables_too(self, tmp_path: Path) -> None:
        assert "0 servers" in all_tables(tmp_path, "report")
