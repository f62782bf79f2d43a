"""``pytest-capacity inspect``: its document is the contract's, its figures are right, its doubts are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_capacity.cli import main
from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.inspecting import describe, prefix_reuse
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter


def trace(path: Path, rows: list[TraceRow], **header: Any) -> Path:
    with TraceWriter(path, TraceHeader(path.name, **header)) as writer:
        for row in rows:
            writer.write(row)
    return path


def poisson(path: Path, rate_qps: float = 20.0, seconds: float = 700.0, **header: Any) -> Path:
    draw = np.random.default_rng(11)
    times = np.cumsum(draw.exponential(1 / rate_qps, int(rate_qps * seconds)))
    return trace(path, [TraceRow(round(t, 6)) for t in times.tolist()], **header)


def inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_document_holds_what_the_contract_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [TraceRow(t / 4, op="rank" if t % 4 else "embed", keys=(f"u{t % 3}",)) for t in range(101)]

    document = inspected(trace(tmp_path / "a.trace.jsonl", rows, resolution_s=0.25, sampling=0.5), capsys)

    assert document["rows"] == 101
    assert document["span_s"] == 25.0
    assert document["mean_qps"] == 101 / 25
    assert document["peak_qps_1s"] == 4
    assert document["dispersion"] == {"1": 0.0, "10": None, "60": None}
    assert document["operations"] == {"rank": 75, "embed": 26}
    assert document["keys"]["distinct"] == 3
    assert document["keys"]["top_share"] == 34 / 101
    assert document["clock"] == "arrival"
    assert document["resolution_s"] == 0.25
    assert document["sampling"] == 0.5
    assert document["warnings"] == ["a sample of 50 %: burstiness, sessions and cache reuse are thinned away"]


def test_poisson_arrivals_have_dispersion_one_in_every_window(tmp_path: Path) -> None:
    document: Any = describe(load_recording(poisson(tmp_path / "a.trace.jsonl.gz")))

    assert document["dispersion"]["1"] == pytest.approx(1, abs=0.15)
    assert document["dispersion"]["10"] == pytest.approx(1, abs=0.5)
    assert document["dispersion"]["60"] is not None
    assert document["gaps"]["cv"] == pytest.approx(1, abs=0.05)


def test_a_trace_may_span_a_century(tmp_path: Path) -> None:
    rows = [TraceRow(0.0), TraceRow(0.5), TraceRow(3e9)]

    document: Any = describe(load_recording(trace(tmp_path / "a.jsonl", rows)))

    assert document["peak_qps_1s"] == 2
    assert document["dispersion"]["60"] == pytest.approx(2)


def test_the_cache_hit_rate_is_that_of_an_lru_cache(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    keys = [f"k{key}" for key in draw.zipf(1.4, 3000) % 500]
    path = trace(tmp_path / "a.jsonl", [TraceRow(float(t), keys=(key,)) for t, key in enumerate(keys)])

    document: Any = describe(load_recording(path))

    cache: dict[str, None] = {}
    hits = 0
    for key in keys:
        hits += key in cache
        cache.pop(key, None)
        cache[key] = None
        if len(cache) > 100:
            cache.pop(next(iter(cache)))
    assert document["keys"]["lru_hit_share"]["100"] == pytest.approx(hits / len(keys))
    distinct = len(set(keys))
    assert document["keys"]["lru_hit_share"][str(distinct)] == pytest.approx(1 - distinct / len(keys))


def test_every_key_of_a_request_is_looked_up_in_its_order(tmp_path: Path) -> None:
    rows = [
        TraceRow(0.0, keys=("u1", "a", "b")),
        TraceRow(1.0, keys=("u2", "a")),
        TraceRow(2.0),
        TraceRow(3.0, keys=("u1",)),
    ]

    document: Any = describe(load_recording(trace(tmp_path / "a.jsonl", rows)))

    assert document["keys"]["distinct"] == 4
    assert document["keys"]["top_share"] == pytest.approx(2 / 6)
    # An unbounded cache answers the second a and the second u1.
    assert document["keys"]["lru_hit_share"] == {"4": pytest.approx(2 / 6)}


def test_prefix_blocks_are_known_up_to_the_first_new_one() -> None:
    rows = [TraceRow(0.0, prefix=(1, 2, 3)), TraceRow(1.0, prefix=(1, 2, 9, 3)), TraceRow(2.0, prefix=(7, 1))]

    reuse = prefix_reuse(rows)

    assert (reuse.blocks, reuse.distinct, reuse.hit_share) == (9, 5, 2 / 9)


def test_sizes_and_sessions_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [TraceRow(float(t), size={"items": t}, session=f"s{t // 10}") for t in range(100)]

    document = inspected(trace(tmp_path / "a.jsonl", rows), capsys)

    assert document["sizes"]["items"] == {"rows": 100, "mean": 49.5, "p50": 49.5, "p99": 98.01, "max": 99.0}
    assert document["sessions"] == {"distinct": 10, "requests_mean": 10.0, "requests_max": 10}


def test_a_coarse_clock_is_told_whatever_the_header_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(3)
    times = np.sort(draw.integers(0, 200, 2000)) * 3
    path = trace(tmp_path / "a.jsonl", [TraceRow(float(t)) for t in times], resolution_s=0.001)

    document = inspected(path, capsys)

    assert document["resolution_s"] == 3.0
    assert document["warnings"] == [
        "times are quantised to 3 s: a replay spreads them within the tick",
        "dispersion at 1 s is the clock's: below three ticks",
    ]


def test_what_the_importer_found_is_told_first_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trace(
        tmp_path / "a.jsonl",
        [TraceRow(0.0), TraceRow(1.0)],
        clock="completion",
        sampling=None,
        extra={"warnings": ["arrivals not credible: made up", "times are of completion, not of arrival"]},
    )

    document = inspected(path, capsys)

    assert document["sampling"] is None
    assert document["clock"] == "completion"
    assert document["warnings"] == [
        "arrivals not credible: made up",
        "times are of completion, not of arrival",
        "a sample of unknown share: burstiness, sessions and cache reuse are thinned away",
    ]


def test_a_trace_of_one_row_has_no_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = inspected(trace(tmp_path / "a.jsonl", [TraceRow(5.0)]), capsys)

    assert (document["rows"], document["span_s"], document["mean_qps"]) == (1, 0.0, None)
    assert document["peak_qps_1s"] == 1
    assert main(["inspect", str(tmp_path / "a.jsonl")]) == 0


def test_people_get_figures_and_histograms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        TraceRow(t / 10, op="rank", size={"items": t % 7}, keys=(f"u{t % 3}",), session="s", prefix=(t % 5,))
        for t in range(1000)
    ]
    path = trace(tmp_path / "a.trace.jsonl", rows, prefix_block=16)
    monkeypatch.chdir(tmp_path)

    assert main(["inspect", path.name]) == 0

    printed = capsys.readouterr().out
    assert "1,000 rows in 99.9 s" in printed
    assert "mean 10/s" in printed
    assert "rank: 1,000 (100 %)" in printed
    assert "3 distinct" in printed
    assert "blocks were known from before" in printed
    bars = [line for line in printed.splitlines() if "####" in line]
    assert len(bars) >= 20
    assert max(len(line) for line in printed.splitlines()) <= 100


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["nonsense"], "line 1: not JSON"),
        (['{"t":0}'], "line 1: no trace"),
        (['{"pytest_capacity_trace":1}'], "line 1: empty"),
        (['{"pytest_capacity_trace":1}', '{"t":0}', '{"t":-1}'], "line 3: t must be"),
        (['{"pytest_capacity_trace":1}', '{"t":NaN}'], "line 2: not JSON"),
    ],
)
def test_bad_input_is_an_error_with_its_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], complaint: str
) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(lines))

    assert main(["inspect", str(tmp_path / "a.jsonl"), "--json"]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"pytest-capacity: {tmp_path / 'a.jsonl'}, {complaint}" in printed.err


def test_all_that_is_wrong_with_the_rows_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ['{"t":2}', '{"t":1}', '{"t":0}', '{"op":"x"}', '{"t":3}']
    (tmp_path / "a.jsonl").write_text("\n".join(['{"pytest_capacity_trace":1}', *rows]))

    assert main(["inspect", str(tmp_path / "a.jsonl")]) == 2

    err = capsys.readouterr().err
    assert "5 rows: 2 x rows out of order, first on line 3; 1 x no arrival time 't', first on line 5" in err


def test_what_a_killed_recorder_left_can_be_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"pytest_capacity_trace":1}\n{"t":0}\n{"t":1}\n{"t":2,"op":"ra')

    assert main(["inspect", str(path)]) == 2
    capsys.readouterr()
    assert main(["inspect", str(path), "--allow-cut", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
