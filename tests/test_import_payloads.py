"""Payloads without times, times without payloads, both composed, and traces for other tools."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.traffic.exports import to_mooncake, to_perf_analyzer
from pytest_capacity.traffic.importers.job import ImportOptions
from pytest_capacity.traffic.importing import compose
from pytest_capacity.traffic.trace import TraceError, TraceHeader, TraceRow, TraceWriter, read_rows
from tests.imported import imported, imported_text

VEGETA = "\n".join(
    [
        json.dumps(
            {
                "method": "POST",
                "url": "http://h/predict?key=s3cret",
                "header": {"Content-Type": ["application/json"], "Authorization": ["s3cret"]},
                "body": base64.b64encode(b'{"x":1}').decode(),
            }
        ),
        json.dumps({"method": "GET", "url": "http://h/healthz"}),
        json.dumps({"method": "POST", "url": "http://h/x", "body": "not base64!"}),
    ]
)
BATCH = json.dumps(
    {
        "custom_id": "request-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200},
    }
)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("text", "name"), [(VEGETA, "vegeta"), (BATCH, "openai-batch")])
def test_payloads_alone_ask_for_arrivals(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(TraceError, match=f"{name} without arrival times: give them with --arrivals"):
        imported_text(tmp_path, text)

    assert [path.name for path in tmp_path.iterdir()] == ["recorded"]


def test_arrivals_of_one_file_carry_the_requests_of_another(tmp_path: Path) -> None:
    arrivals = written(tmp_path / "gaps.txt", "100000\n200000\n300000\n50\n50\n")
    payloads = written(tmp_path / "targets.json", VEGETA)
    out = tmp_path / "a.trace.jsonl.gz"

    found = compose(arrivals, payloads, out, ImportOptions())

    header, rows = read_rows(out)
    got = [(row.t, row.method, row.path, row.body) for row in rows]
    assert got == [
        (0.0, "POST", "/predict?key=***", {"x": 1}),
        (0.1, "GET", "/healthz", None),
        (0.3, "POST", "/predict?key=***", {"x": 1}),
        (0.6, "GET", "/healthz", None),
        (0.60005, "POST", "/predict?key=***", {"x": 1}),
    ]
    assert header.extra["composed"] == {"arrivals": "perf-intervals", "payloads": "vegeta"}
    assert found.notes[0] == "composed: 5 arrivals, 2 payloads"
    assert found.dropped == {"body is not base64": 1}


def test_a_trace_of_our_own_gives_arrivals_too(tmp_path: Path) -> None:
    source = tmp_path / "native.trace.jsonl"
    with TraceWriter(source, TraceHeader("native", resolution_s=0.5)) as writer:
        writer.write(TraceRow(0.5, op="old"))
        writer.write(TraceRow(1.5, op="old"))
    out = tmp_path / "out.trace.jsonl"

    compose(source, written(tmp_path / "batch.jsonl", BATCH), out, ImportOptions())

    header, rows = read_rows(out)
    got = list(rows)
    assert [(row.t, row.op, row.id) for row in got] == [
        (0.5, "POST /v1/chat/completions", "request-1"),
        (1.5, "POST /v1/chat/completions", "request-1"),
    ]
    assert header.resolution_s == 0.5


def test_a_batch_without_methods_and_urls_is_one_too(tmp_path: Path) -> None:
    batch = written(tmp_path / "batch", '{"custom_id":"a","body":{"model":"m"}}\n{"custom_id":"b"}\n')

    found = compose(written(tmp_path / "gaps", "5\n"), batch, tmp_path / "out", ImportOptions())

    (row,) = read_rows(tmp_path / "out")[1]
    assert (row.id, row.method, row.path, row.body) == ("a", "POST", None, {"model": "m"})
    assert found.dropped == {"no body": 1}


def test_composing_needs_arrivals_on_the_one_side(tmp_path: Path) -> None:
    payloads = written(tmp_path / "a.jsonl", BATCH)

    with pytest.raises(TraceError, match=r"a\.jsonl: openai-batch has no arrival times"):
        compose(payloads, payloads, tmp_path / "out", ImportOptions())

    assert not (tmp_path / "out").exists()


def test_vegetas_results_have_times_and_no_body_to_send(tmp_path: Path) -> None:
    lines = [
        {
            "attack": "",
            "seq": i,
            "code": 200,
            "timestamp": f"2024-01-01T00:00:0{i}.000000001Z",
            "latency": 5_000_000,
            "bytes_out": 7,
            "bytes_in": 2,
            "error": "",
            "body": "b2s=",
            "method": "POST",
            "url": "http://h/p",
            "headers": {},
        }
        for i in range(2)
    ]

    result = imported_text(tmp_path, "\n".join(json.dumps(line) for line in lines))

    assert result.found.format == "vegeta-results"
    assert result.times == [0.0, 1.0]
    assert result.rows[0].body_b64 is None
    assert result.rows[0].size == {"bytes": 7}
    assert result.rows[0].seen == {"status": 200, "latency_s": 0.005}


def test_perf_analyzers_fixed_schedule_has_times_and_payloads(tmp_path: Path) -> None:
    data = {
        "data": [
            {"payload": [{"model": "m", "prompt": "hi"}], "timestamp": [1000], "session_id": ["s"]},
            {"payload": [{"prompt": "yo"}], "timestamp": [1500]},
        ]
    }

    result = imported_text(tmp_path, json.dumps(data))

    assert result.found.format == "perf-analyzer"
    assert [(row.t, row.body, row.session) for row in result.rows] == [
        (0.0, {"model": "m", "prompt": "hi"}, "s"),
        (0.5, {"prompt": "yo"}, None),
    ]


def test_perf_analyzers_tensors_are_payloads_and_its_lists_sequences(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "data": [
            [{"INPUT": ["1"]}, {"INPUT": ["2"]}],
            {"INPUT0": {"content": [1, 2, 3, 4], "shape": [2, 2]}, "INPUT1": {"b64": "/9j/4AAQ"}},
        ]
    }
    payloads = written(tmp_path / "data.json", json.dumps(tensors, indent=2))

    compose(
        written(tmp_path / "gaps", "1\n1\n1\n"), payloads, tmp_path / "out", ImportOptions(plain_keys=True)
    )

    rows = list(read_rows(tmp_path / "out")[1])
    assert [row.session for row in rows] == ["sequence 0", "sequence 0", None]
    assert rows[2].body == tensors["data"][1]


@pytest.mark.parametrize("text", ["100000\n-5\n", "100000\n1.5\n", "1\nx\n"])
def test_a_wrong_interval_is_an_error_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError, match=r"line 2: .* is no interval"):
        imported_text(tmp_path, text, "perf-intervals")


def trace(path: Path, rows: list[TraceRow], **header: Any) -> Path:
    with TraceWriter(path, TraceHeader("a", **header)) as writer:
        for row in rows:
            writer.write(row)
    return path


def test_mooncakes_format_goes_out_and_comes_back(tmp_path: Path) -> None:
    rows = [
        TraceRow(0.0, size={"tokens_in": 6955, "tokens_out": 52}, prefix=(46, 47)),
        TraceRow(0.25, size={"items": 3}),
        TraceRow(3.053, size={"tokens_in": 6472}, prefix=(46,)),
    ]

    found = to_mooncake(trace(tmp_path / "a.jsonl", rows, prefix_block=512), tmp_path / "mooncake.jsonl")

    lines = [json.loads(line) for line in (tmp_path / "mooncake.jsonl").read_text().splitlines()]
    assert lines == [
        {"timestamp": 0, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]},
        {"timestamp": 3053, "input_length": 6472, "output_length": 1, "hash_ids": [46]},
    ]
    assert (found.rows, found.dropped) == (2, {"no tokens_in": 1})
    again = imported(tmp_path / "mooncake.jsonl")
    assert [(row.t, row.prefix) for row in again.rows] == [(0.0, (46, 47)), (3.053, (46,))]


def test_hashed_blocks_are_numbered_for_mooncake_and_an_odd_size_is_told(tmp_path: Path) -> None:
    rows = [
        TraceRow(0.0, size={"tokens_in": 9}, prefix=("b", "c")),
        TraceRow(1.0, size={"tokens_in": 9}, prefix=("c",)),
    ]

    found = to_mooncake(trace(tmp_path / "a.jsonl", rows, prefix_block=16), tmp_path / "out")

    assert [json.loads(line)["hash_ids"] for line in (tmp_path / "out").read_text().splitlines()] == [
        [0, 1],
        [1],
    ]
    assert "blocks of 16 tokens" in found.notes[0]


def test_perf_analyzers_format_goes_out_and_comes_back(tmp_path: Path) -> None:
    rows = [
        TraceRow(0.0, body={"x": 1}, session="s"),
        TraceRow(0.1, body_b64="AA=="),
        TraceRow(0.3, body={"x": 2}),
    ]

    found = to_perf_analyzer(trace(tmp_path / "a.jsonl", rows), tmp_path / "data.json")

    assert found.paths == (tmp_path / "data.json", tmp_path / "data.intervals")
    assert found.dropped == {"no JSON body": 1}
    assert json.loads((tmp_path / "data.json").read_text()) == {
        "data": [
            {"payload": [{"x": 1}], "timestamp": [0], "session_id": ["s"]},
            {"payload": [{"x": 2}], "timestamp": [300]},
        ]
    }
    assert (tmp_path / "data.intervals").read_text() == "300000\n300000\n"
    again = imported(tmp_path / "data.json")
    assert [(row.t, row.body) for row in again.rows] == [(0.0, {"x": 1}), (0.3, {"x": 2})]
    assert imported(tmp_path / "data.intervals").times == [0.0, 0.3]


def test_an_export_of_nothing_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    source = trace(tmp_path / "a.jsonl", [TraceRow(0.0)])

    with pytest.raises(TraceError, match="nothing to export: no tokens_in"):
        to_mooncake(source, tmp_path / "out")
    with pytest.raises(TraceError, match="nothing to export: no JSON body"):
        to_perf_analyzer(source, tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
