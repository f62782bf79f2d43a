"""The shell's door to simulated servers: its four answers, as text and as JSON, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.cli import main
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.simulate import command, spells, truth
from pytest_capacity.simulate.arriving import Arriving, poisson
from pytest_capacity.simulate.command import read_seeds
from pytest_capacity.simulate.drive import Drive
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.simulate.truth import Truth
from pytest_capacity.slo import SLO

SERVER = "cost_item_s: 0.004\nsize: {lognormal_sigma: 0.5}\n"
TRUE_QPS = 190.5
"""Its capacity under p99 <= 50 ms, from a run of ``--truth``."""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("server.yaml").write_text(SERVER)
    Path("day.trace.jsonl").write_text("".join(f'{{"t": {at / 7}}}\n' for at in range(50)))


def ask(
    capsys: pytest.CaptureFixture[str], *arguments: str, slo: tuple[str, ...] = ("--p99-ms", "50")
) -> str:
    code = main(["simulate", "server.yaml", *slo, *arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def strictly(text: str) -> Any:
    """The one JSON document that a text is, without NaN or infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_search_for_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    results = strictly(ask(capsys, "--seeds", "0-1,5", "--budget-s", "40", "--json"))

    assert [result["seed"] for result in results] == [0, 1, 5]
    for result in results:
        assert set(result) >= {"condition_number", "status", "doubts", "verdict"}
        assert 0 < result["ci_low_qps"] <= result["capacity_qps"] <= result["ci_high_qps"]
        assert result["capacity_qps"] == pytest.approx(TRUE_QPS, rel=0.35)
        assert 10 < result["load_s"] <= 40
        assert result["requests"] > 500
        assert all(isinstance(text, str) for text in result["doubts"])
    assert len({result["capacity_qps"] for result in results}) == 3


def test_the_same_seed_finds_the_same_and_has_60_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    first = ask(capsys, "--seeds", "4", "--json")

    assert first == ask(capsys, "--seeds", "4", "--json", "--budget-s", "60", "--arrivals", "poisson")
    assert first != ask(capsys, "--seeds", "4", "--json", "--arrivals", "constant")
    assert first != ask(capsys, "--seeds", "4", "--json", "--trace", "day.trace.jsonl")


def test_a_search_in_words_is_a_line_for_each_seed_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, summary = ask(capsys, "--seeds", "0,1").splitlines()

    for seed, line in ((0, first), (1, second)):
        assert re.match(
            rf"seed {seed}: [\d.]+/s \([\d.]+/s to [\d.]+/s\), \w+, [\d.]+ s, [\d,]+ requests", line
        )
    assert re.match(r"2 searched: median [\d.]+/s \([\d.]+/s to [\d.]+/s\); .* s of load each$", summary)


def test_a_search_s_seed_is_that_of_the_sizes_and_of_the_arrivals(capsys: pytest.CaptureFixture[str]) -> None:
    two = ("--seeds", "0,1", "--json")
    sizes = strictly(ask(capsys, *two, "--arrivals", "constant"))
    Path("server.yaml").write_text("cost_item_s: 0.004")
    arrivals = strictly(ask(capsys, *two))
    neither = strictly(ask(capsys, *two, "--arrivals", "constant"))

    assert sizes[0]["capacity_qps"] != sizes[1]["capacity_qps"]
    assert arrivals[0]["capacity_qps"] != arrivals[1]["capacity_qps"]
    assert neither[0] | {"seed": 1} == neither[1]


@pytest.mark.parametrize(
    ("slo", "limit_s"),
    [(("--p50-ms", "30", "--p99-ms", "70"), 0.07), (("--error-rate", "0.1"), None)],
)
def test_a_request_is_late_past_the_largest_bound(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    slo: tuple[str, ...],
    limit_s: float | None,
) -> None:
    limits: list[float | None] = []

    class Watched(Drive):
        def __init__(self, server: SimulatedServer, arrivals: Arriving, limit_s: float | None) -> None:
            limits.append(limit_s)
            super().__init__(server, arrivals, limit_s)

    monkeypatch.setattr(command, "Drive", Watched)
    ask(capsys, "--sustain-qps", "100", slo=slo)

    assert limits == [limit_s]


def test_what_a_search_may_do_and_must_reach(capsys: pytest.CaptureFixture[str]) -> None:
    (low,) = strictly(ask(capsys, "--max-qps", "60", "--require-qps", "50", "--json"))
    (high,) = strictly(ask(capsys, "--min-qps", "400", "--tolerance", "0.3", "--json"))
    loose = strictly(ask(capsys, "--tolerance", "0.5", "--json"))[0]

    assert (low["status"], low["capacity_qps"]) == ("no_limit_found", None)
    assert low["verdict"] == "PASS"
    assert low["ci_low_qps"] >= 50
    assert (high["status"], high["capacity_qps"], high["verdict"]) == ("unattainable", None, "FAIL")
    assert loose["load_s"] < strictly(ask(capsys, "--tolerance", "0.001", "--json"))[0]["load_s"]
    assert "seed 0: PASS, ?" in ask(capsys, "--max-qps", "60", "--require-qps", "50")
    assert "no capacity found" in ask(capsys, "--max-qps", "60")


def test_a_rate_is_judged_for_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    low = strictly(ask(capsys, "--sustain-qps", "80", "--seeds", "2,3", "--json"))
    (high,) = strictly(ask(capsys, "--sustain-qps", "400", "--json"))

    assert [set(result) for result in low] == [{"seed", "verdict", "load_s", "requests"}] * 2
    assert [(result["seed"], result["verdict"]) for result in low] == [(2, "PASS"), (3, "PASS")]
    assert (high["seed"], high["verdict"]) == (0, "FAIL")
    assert low[0]["requests"] == pytest.approx(80 * low[0]["load_s"], rel=0.1)
    assert low[0]["load_s"] <= 60


def test_a_judgement_short_of_evidence_is_extended_once(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = strictly(ask(capsys, "--sustain-qps", "190", "--seeds", "2", "--budget-s", "20", "--json"))

    assert 20.5 < found["load_s"] <= 40.5


def test_a_judgement_in_words_tells_its_doubts(capsys: pytest.CaptureFixture[str]) -> None:
    # At the capacity itself neither verdict can be shown.
    lines = ask(capsys, "--sustain-qps", str(TRUE_QPS), "--seeds", "0-2", "--budget-s", "20").splitlines()

    assert re.match(r"seed 0: (PASS|FAIL|INCONCLUSIVE), [\d.]+ s, [\d,]+ requests", lines[0])
    assert any(re.search(r"INCONCLUSIVE.* requests; \w+", line) for line in lines[:-1])
    assert re.match(r"3 tried: .*\d INCONCLUSIVE", lines[-1])


def test_the_long_run_share_at_a_rate_is_of_any_bound_or_failed(capsys: pytest.CaptureFixture[str]) -> None:
    one = strictly(ask(capsys, "--at-qps", "180", "--seconds", "300", "--json"))
    more = ("--p50-ms", "10", "--p99-ms", "50")
    two = strictly(ask(capsys, "--at-qps", "180", "--seconds", "300", "--json", slo=more))
    failed = strictly(
        ask(capsys, "--at-qps", "180", "--seconds", "300", "--json", slo=("--error-rate", "0.1"))
    )

    assert set(one) == {"bad_fraction", "requests"}
    assert one["requests"] == two["requests"] == pytest.approx(180 * 300, rel=0.02)
    assert 0.001 < one["bad_fraction"] < 0.01
    assert two["bad_fraction"] > 0.2
    assert failed["bad_fraction"] == 0.0
    other = strictly(ask(capsys, "--at-qps", "180", "--seconds", "300", "--json", "--seeds", "9"))
    assert other["requests"] != one["requests"]
    assert re.match(
        r"0\.\d+ % of [\d,]+ requests bad at 180/s\n$", ask(capsys, "--at-qps", "180", "--seconds", "300")
    )


def test_the_long_run_is_warm_and_counts_5000_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    Path("server.yaml").write_text(SERVER + "cold: {factor: 50, requests: 1.0e+6, start_s: 100}")

    found = strictly(ask(capsys, "--at-qps", "20", "--arrivals", "constant", "--json"))
    assert found["requests"] == pytest.approx(100_000, abs=1)
    assert found["bad_fraction"] < 1e-3


def test_a_trace_brings_its_own_arrivals(capsys: pytest.CaptureFixture[str]) -> None:
    Path("server.yaml").write_text("cost_base_s: 0.01")
    # Pairs that come together: of each, the second waits for the first.
    Path("pairs.jsonl").write_text("".join(f'{{"t": {at}}}\n' for pair in range(20) for at in (pair, pair)))

    found = strictly(ask(capsys, "--trace", "pairs.jsonl", "--at-qps", "2", "--json", slo=("--p50-ms", "15")))
    assert found["bad_fraction"] == pytest.approx(0.5, abs=0.02)


def test_the_truth(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "REQUESTS", 60_000)
    monkeypatch.setattr(truth, "SCAN_REQUESTS", 20_000)
    found = strictly(ask(capsys, "--truth", "--json"))

    assert set(found) == {"capacity_qps", "condition_number"}
    assert found["capacity_qps"] == pytest.approx(TRUE_QPS, rel=0.05)
    assert 0.01 < found["condition_number"] < 0.3
    assert re.match(r"capacity 1\d\d\.?\d?/s, condition number 0\.\d+\n$", ask(capsys, "--truth"))


def test_where_there_is_no_truth_it_is_null(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth, "SCAN_REQUESTS", 1000)
    slo = ("--p99-ms", "1")

    none = {"capacity_qps": None, "condition_number": None}
    assert strictly(ask(capsys, "--truth", "--json", slo=slo)) == none
    assert ask(capsys, "--truth", slo=slo) == "no rate keeps the SLO\n"


def test_infinite_numbers_are_null(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_truth", lambda *_, **__: Truth(12.5, float("inf")))

    assert strictly(ask(capsys, "--truth", "--json")) == {"capacity_qps": 12.5, "condition_number": None}

    result = CapacitySearch.result
    monkeypatch.setattr(
        CapacitySearch, "result", lambda search: replace(result(search), condition_number=math.inf)
    )
    assert strictly(ask(capsys, "--json"))[0]["condition_number"] is None


def test_a_seed_reaches_the_server_and_the_arrivals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def drawn(_spec: ServerSpec, _slo: SLO, make_arrivals: Callable[[int], Arriving], *, seed: int) -> Truth:
        return Truth(float(seed), float(make_arrivals(seed).draw(1.0, 0.0, 100.0)[0]))

    monkeypatch.setattr(command, "find_truth", drawn)
    found = {seed: strictly(ask(capsys, "--truth", "--json", "--seeds", str(seed))) for seed in (6, 7)}

    for seed in (6, 7):
        first_s = poisson(seed).draw(1.0, 0.0, 100.0)[0]
        assert found[seed] == {"capacity_qps": seed, "condition_number": first_s}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1,4,7-9", [1, 4, 7, 8, 9]), ("2, 1-3", [2, 1, 3]), ("5-5", [5])],
)
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1,,2", "1.5", "0-99999999", "1-2-3"])
def test_what_are_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give seeds like 3, 0-11 or 1,4,7-9"):
        read_seeds(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.yaml", "--p99-ms", "50"], "nowhere.yaml"),
        (["wrong.yaml", "--p99-ms", "50"], "wrong.yaml: workers=0 must be a whole number of at least 1"),
        (["server.yaml"], "an SLO needs at least one bound"),
        (["server.yaml", "--p99-ms", "-1"], "p99_ms=-1.0 must be a positive number"),
        (["server.yaml", "--p99-ms", "50", "--seeds", "9-2"], "--seeds 9-2: give seeds like"),
        (["server.yaml", "--p99-ms", "50", "--truth", "--seeds", "0-2"], "--truth takes one seed"),
        (["server.yaml", "--p99-ms", "50", "--at-qps", "9", "--seeds", "0,1"], "--at-qps takes one seed"),
        (["server.yaml", "--p99-ms", "50", "--at-qps", "0"], "--at-qps 0 must be positive"),
        (["server.yaml", "--p99-ms", "50", "--at-qps", "nan"], "--at-qps nan must be positive"),
        (
            ["server.yaml", "--p99-ms", "50", "--at-qps", "5", "--seconds", "-1"],
            "--seconds -1 must be positive",
        ),
        (["server.yaml", "--p99-ms", "50", "--seconds", "5"], "--seconds has no meaning with a search"),
        (
            ["server.yaml", "--p99-ms", "50", "--truth", "--budget-s", "5"],
            "--budget-s has no meaning with --truth",
        ),
        (
            ["server.yaml", "--p99-ms", "50", "--sustain-qps", "5", "--max-qps", "5"],
            "--max-qps has no meaning with --sustain-qps",
        ),
        (["server.yaml", "--p99-ms", "50", "--budget-s", "inf"], "--budget-s inf must be positive"),
        (["server.yaml", "--p99-ms", "50", "--budget-s", "1e9"], "--budget-s 1e+09: at most 100,000"),
        (["server.yaml", "--p99-ms", "50", "--seeds", ""], "--seeds : give seeds like"),
        (
            ["server.yaml", "--p99-ms", "50", "--at-qps", "1e9", "--seconds", "20"],
            "--at-qps 1e+09 and --seconds 20 are 2e+10 requests; at most 20,000,000 are simulated",
        ),
        (
            ["server.yaml", "--p99-ms", "50", "--sustain-qps", "1e9"],
            "--sustain-qps 1e+09 and --budget-s 60 are 6e+10 requests",
        ),
        (
            ["server.yaml", "--p99-ms", "50", "--at-qps", "1e-9", "--seconds", "20"],
            "no request came in --seconds 20 at 1e-09/s: nothing to tell",
        ),
        (
            ["hopeless.yaml", "--p99-ms", "50", "--at-qps", "9"],
            "more than 1,000 pauses, spikes or slow spells",
        ),
        (["server.yaml", "--p99-ms", "50", "--tolerance", "0"], "tolerance=0"),
        (
            ["server.yaml", "--p99-ms", "50", "--min-qps", "9", "--max-qps", "5"],
            "min_qps=9 is above max_qps=5",
        ),
        (["server.yaml", "--p99-ms", "50", "--sustain-qps", "0"], "qps=0 must be positive"),
        (["server.yaml", "--p99-ms", "50", "--trace", "wrong.yaml"], "wrong.yaml, line 1: no arrival time"),
        (["server.yaml", "--p99-ms", "50", "--trace", "short.jsonl"], "short.jsonl: a recording needs two"),
        (["server.yaml", "--p99-ms", "50", "--trace", "none.jsonl"], "none.jsonl"),
    ],
)
def test_what_makes_no_sense_exits_with_2_and_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(spells, "MOST_SPELLS", 1_000)
    Path("wrong.yaml").write_text("workers: 0\ncost_base_s: 1")
    # Seconds for milliseconds: each request takes as long as 10,000 pauses are apart.
    Path("hopeless.yaml").write_text("cost_base_s: 1000\npause: {every_s: 0.1, duration_s: 0.01}")
    Path("short.jsonl").write_text('{"t": 1}\n')
    code = main(["simulate", *arguments, "--json"])

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("pytest-capacity: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "contradiction",
    [
        ["--truth", "--at-qps", "5"],
        ["--sustain-qps", "5", "--at-qps", "5"],
        ["--trace", "day.trace.jsonl", "--arrivals", "constant"],
    ],
)
def test_contradictions_exit_with_2(capsys: pytest.CaptureFixture[str], contradiction: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["simulate", "server.yaml", "--p99-ms", "50", *contradiction])

    assert "not allowed with argument" in capsys.readouterr().err


def test_help_and_the_other_commands_load_nothing_of_it() -> None:
    code = (
        "import sys\n"
        "from pytest_capacity.cli import make_parser\n"
        "make_parser().parse_args(['simulate', 'x.yaml', '--truth'])\n"
        "print([name for name in ('numpy', 'yaml', 'pytest_capacity.simulate') if name in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "[]\n"
