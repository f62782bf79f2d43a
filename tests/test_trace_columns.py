"""A recording in columns: what stands in the rows, with errors as precise as the reader's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.trace import TraceError, TraceHeader, TraceRow, TraceWriter, read_rows

ROWS = [
    TraceRow(0.0, "a", "rank", body={"x": 1}, size={"items": 2}, keys=("u7", "u8"), session="s1", weight=2.0),
    TraceRow(0.5, path="/embed", size={"bytes": 9.5, "items": 4}, keys=("u8",)),
    TraceRow(0.5, op="rank", size={"bytes": 1}, session="s1"),
    TraceRow(2.0, body="ü"),
]


@pytest.fixture(params=["a.trace.jsonl", "a.trace.jsonl.gz"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A trace of the rows above."""
    path: Path = tmp_path / request.param
    with TraceWriter(path, TraceHeader("a", resolution_s=0.5)) as writer:
        for row in ROWS:
            writer.write(row)
    return path


def test_columns_hold_what_the_rows_do(path: Path) -> None:
    recording = load_recording(path)

    assert recording.header == TraceHeader("a", resolution_s=0.5)
    assert len(recording) == 4
    assert recording.span_s == 2.0
    assert recording.t_s.tolist() == [0.0, 0.5, 0.5, 2.0]
    assert [recording.operations[index] for index in recording.operation] == [
        "rank",
        "/embed",
        "rank",
        "request",
    ]
    assert recording.key.tolist() == [0, 1, -1, -1]
    assert recording.key_count == 2
    assert (recording.further_keys.row.tolist(), recording.further_keys.key.tolist()) == ([0], [1])
    assert recording.session.tolist() == [0, -1, 0, -1]
    assert recording.session_count == 1
    assert recording.weight.tolist() == [2.0, 1.0, 1.0, 1.0]
    np.testing.assert_array_equal(recording.sizes["items"], [2, 4, np.nan, np.nan])
    np.testing.assert_array_equal(recording.sizes["bytes"], [np.nan, 9.5, 1, np.nan])


def test_rows_come_back_from_the_file_in_any_order(path: Path) -> None:
    recording = load_recording(path)

    assert list(recording.rows([3, 0, 2, 0])) == [ROWS[3], ROWS[0], ROWS[2], ROWS[0]]
    assert recording.row(1) == ROWS[1]


def test_rows_of_a_file_with_windows_line_ends_blank_lines_and_spaces_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"pytest_capacity_trace":1}\r\n\r\n {"t":0,"op":"a"} \r\n\n{"t":1,"op":"b"}')

    recording = load_recording(path)

    assert [row.op for row in recording.rows([0, 1])] == ["a", "b"]
    assert recording.line.tolist() == [3, 5]


def test_a_file_that_changed_since_is_refused(path: Path) -> None:
    recording = load_recording(path)
    with TraceWriter(path, TraceHeader("a", resolution_s=0.5)) as writer:
        for row in ROWS:
            writer.write(TraceRow(row.t + 1))

    with pytest.raises(TraceError):
        recording.row(2)


@pytest.mark.parametrize(
    "line",
    [
        '{"t":NaN}',
        '{"t":-1}',
        '{"t":1e999}',
        '{"t":"1"}',
        '{"t":null}',
        '{"t":true}',
        '{"t":0,"weight":true}',
        '{"t":0,"size":{"a":true}}',
        '{"op":"a"}',
        '{"t":0',
        "[]",
        "7",
        '{"t":0,"size":{"a":"b"}}',
        '{"t":0,"size":{"a":-1}}',
        '{"t":0,"size":[1]}',
        '{"t":0,"weight":-1}',
        '{"t":0,"keys":7}',
        '{"t":0,"keys":"ab"}',
        '{"t":0,"keys":["a",[]]}',
        '{"t":0,"keys":["a",null]}',
        '{"t":0,"keys":[null,"a"]}',
        '{"t":0}{"t":0}',
        '{"t":0,"op":["a"]}',
    ],
)
def test_what_the_reader_refuses_is_refused_with_the_same_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"pytest_capacity_trace":1}}\n{{"t":0}}\n{line}\n{{"t":5}}\n')

    with pytest.raises(TraceError, match=r"a\.jsonl, line 3: "):
        load_recording(path)
    with pytest.raises(TraceError, match=r"a\.jsonl, line 3: "):
        list(read_rows(path)[1])


def test_a_damaged_body_is_told_when_its_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"pytest_capacity_trace":1}\n{"t":0,"body":{"x":}}\n{"t":1,"seen":{"a":1,"body":2}}\n')

    recording = load_recording(path)

    assert recording.t_s.tolist() == [0.0, 1.0]
    with pytest.raises(TraceError, match=r"a\.jsonl, line 2: not JSON"):
        recording.row(0)
    assert recording.row(1).seen == {"a": 1, "body": 2}


def test_the_latency_that_was_seen_is_a_column_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    seen = [
        '{"latency_s":0.25}',
        '{"latency_s":-1}',
        '{"status":200}',
        '{"latency_s":"1 s"}',
        '{"latency_s":2}',
    ]
    rows = [f'{{"t":{number},"seen":{one}}}' for number, one in enumerate(seen)]
    path.write_text(
        "\n".join(
            ['{"pytest_capacity_trace":1}', *rows, '{"t":9,"body":1,"seen":{"latency_s":3}}', '{"t":10}', ""]
        )
    )

    latency_s = load_recording(path).latency_s

    assert latency_s == pytest.approx([0.25, np.nan, np.nan, np.nan, 2.0, 3.0, np.nan], nan_ok=True)


def test_fields_behind_a_body_count_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"pytest_capacity_trace":1}\n{"body": {"x": 1}, "t": 0, "op": "rank", "size": {"n": 2}}\n'
    )

    recording = load_recording(path)

    assert (recording.operations, recording.sizes["n"].tolist()) == (("rank",), [2.0])


def test_rows_out_of_order_are_counted_and_the_first_one_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"pytest_capacity_trace":1}\n' + "".join(f'{{"t":{t}}}\n' for t in (0, 2, 1, 3, 2)))

    with pytest.raises(TraceError, match=r"line 4: rows out of order: t goes back \(2 times in all\)"):
        load_recording(path)


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"pytest_capacity_trace":1}\n')

    with pytest.raises(TraceError, match="empty: a header and no rows"):
        load_recording(path)
