"""The native format: what is written is read again, and what is wrong is refused with its line."""

from __future__ import annotations

import base64
import gzip
import io
import json
import string
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.traffic import lines
from pytest_capacity.traffic.bodies import bodies_directory
from pytest_capacity.traffic.trace import (
    TraceError,
    TraceHeader,
    TraceRow,
    TraceWriter,
    body_bytes,
    header_line,
    parse_header,
    parse_row,
    read_rows,
    row_line,
)
from pytest_capacity.traffic.validate import validate_trace

HEADER = '{"pytest_capacity_trace":1,"name":"n","time_unit":"s"}'

TEXT = st.text(min_size=1, max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NUMBER = st.integers(0, 10**9) | st.floats(0, 1e9)
ROWS = st.builds(
    TraceRow,
    t=st.floats(0, 1e7),
    id=st.none() | TEXT,
    op=st.none() | TEXT,
    method=st.sampled_from(["POST", "GET"]),
    path=st.none() | TEXT,
    headers=st.dictionaries(TEXT, TEXT, max_size=2),
    body=JSON,
    size=st.dictionaries(TEXT, NUMBER, max_size=2),
    keys=st.lists(TEXT, max_size=2).map(tuple),
    prefix=st.lists(st.integers(0, 9) | TEXT, max_size=3).map(tuple),
    session=st.none() | TEXT,
    weight=st.floats(0.001, 1000),
    seen=st.dictionaries(TEXT, JSON, max_size=2),
    extra=st.dictionaries(st.text(string.ascii_uppercase, min_size=1), JSON, max_size=2),
)


def trace(path: Path, *lines: str, header: str = HEADER) -> Path:
    """A trace of lines as they are."""
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> list[TraceRow]:
    return list(read_rows(path, **options)[1])


@given(ROWS)
def test_a_row_survives_its_line(row: TraceRow) -> None:
    line = row_line(row)

    assert "\n" not in line
    assert parse_row(line, 2) == row


@given(
    st.builds(
        TraceHeader,
        name=TEXT,
        class_=st.none() | TEXT,
        resolution_s=st.none() | st.floats(1e-9, 100),
        clock=st.sampled_from(["arrival", "completion"]),
        sampling=st.none() | st.floats(0.001, 1),
        start=st.none() | TEXT,
        source=st.none() | TEXT,
        redacted=st.booleans(),
        license=st.none() | TEXT,
        prefix_block=st.none() | st.integers(1, 4096),
        extra=st.dictionaries(st.text(string.ascii_uppercase, min_size=1), JSON, max_size=2),
    )
)
def test_a_header_survives_its_line(header: TraceHeader) -> None:
    assert parse_header(header_line(header)) == header


def test_the_lines_are_those_of_the_format() -> None:
    header = json.loads(header_line(TraceHeader("rank-prod", "ranking", 0.001, start="2026-03-02T09:00:00Z")))
    row = json.loads(row_line(TraceRow(0.0134, "a1", "rank", keys=("u7",), seen={"status": 200})))

    assert header == {
        "pytest_capacity_trace": 1,
        "name": "rank-prod",
        "class": "ranking",
        "time_unit": "s",
        "resolution_s": 0.001,
        "clock": "arrival",
        "sampling": 1.0,
        "start": "2026-03-02T09:00:00Z",
        "source": None,
        "redacted": False,
        "license": None,
    }
    assert row == {"t": 0.0134, "id": "a1", "op": "rank", "keys": ["u7"], "seen": {"status": 200}}


def test_unknown_fields_are_kept_in_header_and_rows(tmp_path: Path) -> None:
    path = trace(
        tmp_path / "a.trace.jsonl",
        '{"t":0,"op":"a","region":{"name":"eu"},"x":[1]}',
        header='{"pytest_capacity_trace":1,"owner":"search"}',
    )

    header, rows = read_rows(path)
    (row,) = rows
    with TraceWriter(tmp_path / "b.trace.jsonl", header) as writer:
        writer.write(row)

    assert header.extra == {"owner": "search"}
    assert row.extra == {"region": {"name": "eu"}, "x": [1]}
    again, rows = read_rows(tmp_path / "b.trace.jsonl")
    assert (again, list(rows)) == (header, [row])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_trace_is_compressed_by_its_suffix_and_read_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.trace.jsonl{suffix}"
    rows = [TraceRow(i / 8, op="rank", body={"items": [i]}) for i in range(1000)]

    with TraceWriter(path, TraceHeader("a")) as writer:
        for row in rows:
            writer.write(row)

    assert (path.read_bytes()[:2] == b"\x1f\x8b") == bool(suffix)
    assert writer.rows == 1000
    assert read(path) == rows


def test_equal_traces_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TraceWriter(tmp_path / f"{name}.gz", TraceHeader("same")) as writer:
            writer.write(TraceRow(1.0))

    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_a_lone_surrogate_does_not_break_a_trace(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.jsonl", TraceHeader()) as writer:
        writer.write(TraceRow(0.0, body="\ud83d"))

    assert read(tmp_path / "a.jsonl")[0].body == "\ud83d"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.trace.jsonl{suffix}"
    path.write_bytes(b"old")

    def break_off() -> None:
        with TraceWriter(path, TraceHeader()) as writer:
            writer.write(TraceRow(0.0, body_ref=writer.bodies.put(b"x" * 10)))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        break_off()

    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("times", [(1.0, 0.5), (float("nan"),), (float("inf"),), (-1.0,)])
def test_a_writer_refuses_times_that_no_trace_has(tmp_path: Path, times: tuple[float, ...]) -> None:
    def write() -> None:
        with TraceWriter(tmp_path / "a.jsonl", TraceHeader()) as writer:
            for t_s in times:
                writer.write(TraceRow(t_s))

    with pytest.raises(ValueError, match="t="):
        write()

    assert list(tmp_path.iterdir()) == []


def test_a_writer_says_which_place_it_cannot_write_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(OSError, match="cannot write"),
        TraceWriter(tmp_path / "file" / "a.jsonl", TraceHeader()),
    ):
        pass


def test_shared_bodies_are_stored_once_and_found_from_both_names(tmp_path: Path) -> None:
    image = bytes(range(256)) * 100
    path = tmp_path / "a.trace.jsonl.gz"

    with TraceWriter(path, TraceHeader()) as writer:
        for t_s in (0.0, 1.0, 2.0):
            writer.write(TraceRow(t_s, body_ref=writer.bodies.put(image)))
        writer.write(TraceRow(3.0, body_ref=writer.bodies.put(b"other")))

    assert bodies_directory(path) == tmp_path / "a.bodies" == bodies_directory(tmp_path / "a.trace.jsonl")
    assert len(list((tmp_path / "a.bodies").iterdir())) == 2
    assert [body_bytes(row, path) for row in read(path)] == [image, image, image, b"other"]


@pytest.mark.parametrize(
    ("row", "body"),
    [
        (TraceRow(0.0, body={"x": [1, 2]}), b'{"x":[1,2]}'),
        (TraceRow(0.0, body_b64=base64.b64encode(b"\x00\xff").decode()), b"\x00\xff"),
        (TraceRow(0.0, size={"bytes": 3}), None),
    ],
)
def test_a_body_is_given_as_bytes(tmp_path: Path, row: TraceRow, body: bytes | None) -> None:
    assert body_bytes(row, tmp_path / "a.jsonl") == body


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (TraceRow(0.0, body_b64="not base64!"), "not base64"),
        (TraceRow(0.0, body_ref="sha256:9f2c"), "64 hexadecimal digits"),
        (TraceRow(0.0, body_ref="sha256:../../etc/passwd"), "64 hexadecimal digits"),
        (TraceRow(0.0, body_ref=f"sha256:{'0' * 64}"), "no body"),
        (TraceRow(0.0, body_ref=f"sha256:{'1' * 64}"), "altered"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(tmp_path: Path, row: TraceRow, complaint: str) -> None:
    (tmp_path / "a.bodies").mkdir()
    (tmp_path / "a.bodies" / ("1" * 64)).write_bytes(b"changed")

    with pytest.raises(TraceError, match=complaint):
        body_bytes(row, tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ('{"t":0}', "first line must be a header"),
        ("not json", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"pytest_capacity_trace":2}', "this version reads 1 only"),
        ('{"pytest_capacity_trace":true}', "this version reads 1 only"),
        ('{"pytest_capacity_trace":1,"time_unit":"ms"}', "time_unit"),
        ('{"pytest_capacity_trace":1,"resolution_s":0}', "resolution_s must be a positive number"),
        ('{"pytest_capacity_trace":1,"sampling":2}', "sampling must be a share"),
        ('{"pytest_capacity_trace":1,"name":7}', "name must be a text"),
    ],
)
def test_a_wrong_header_is_refused_on_line_1(tmp_path: Path, header: str, complaint: str) -> None:
    path = trace(tmp_path / "a.trace.jsonl", '{"t":0}', header=header)

    with pytest.raises(TraceError, match=rf"a\.trace\.jsonl, line 1: .*{complaint}"):
        read_rows(path)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"op":"a"}', "no arrival time"),
        ('{"t":null}', "t must be a number"),
        ('{"t":"0"}', "t must be a number"),
        ('{"t":-1}', "t must be a number of seconds, 0 or more"),
        ('{"t":NaN}', "not JSON: NaN"),
        ('{"t":Infinity}', "not JSON: Infinity"),
        ('{"t":1e999}', "t must be a number"),
        ('{"t":true}', "t must be a number"),
        ('{"t":1e300}', "t must be a number"),
        ('{"t":0,', "not JSON"),
        ("[0]", "not a JSON object"),
        ('{"t":0,"size":{"bytes":-1}}', "size must be"),
        ('{"t":0,"size":{"bytes":"4"}}', "size must be"),
        ('{"t":0,"keys":"u7"}', "keys must be"),
        ('{"t":0,"headers":{"a":1}}', "headers must be"),
        ('{"t":0,"weight":0}', "weight must be"),
        ('{"t":0,"body":1,"body_b64":"AA=="}', "at most one of"),
        ('{"t":0,"body":' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON"),
        ('{"t":0}{"t":0}', "not JSON"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = trace(tmp_path / "a.trace.jsonl", '{"t":0}', "", line)

    with pytest.raises(TraceError, match=rf"a\.trace\.jsonl, line 4: .*{complaint}"):
        read(path)


def test_rows_that_go_back_in_time_are_refused_with_a_remedy(tmp_path: Path) -> None:
    path = trace(tmp_path / "a.trace.jsonl", '{"t":1}', '{"t":1}', '{"t":0.5}')

    with pytest.raises(TraceError, match=r"line 4: rows out of order.*import' sorts them"):
        read(path)


def test_a_file_of_nothing_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")

    with pytest.raises(TraceError, match="empty"):
        read_rows(tmp_path / "a.jsonl")


def test_a_truncated_gzip_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join([HEADER, *(f'{{"t":{t}}}' for t in range(50_000))]).encode())
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.gz").write_bytes(whole[:200] + bytes(50) + whole[250:])
    (tmp_path / "none.gz").write_text(HEADER)

    with pytest.raises(TraceError, match=r"cut\.gz, line \d+: truncated"):
        read(tmp_path / "cut.gz")
    with pytest.raises(TraceError, match=r"bad\.gz, line \d+: damaged gzip"):
        read(tmp_path / "bad.gz")
    with pytest.raises(TraceError, match="the suffix says gzip"):
        read(tmp_path / "none.gz")


def test_what_a_killed_recorder_left_is_readable_up_to_its_last_whole_line(tmp_path: Path) -> None:
    text = "\n".join([HEADER, *(f'{{"t":{t}}}' for t in range(100)), '{"t":100,"op":"ra']).encode()
    squeeze = zlib.compressobj(wbits=31)
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "a.gz").write_bytes(squeeze.compress(text) + squeeze.flush(zlib.Z_SYNC_FLUSH))

    for name in ("a.jsonl", "a.gz"):
        assert [row.t for row in read(tmp_path / name, allow_cut=True)] == list(range(100))
        with pytest.raises(TraceError):
            read(tmp_path / name)


def test_a_binary_file_and_one_in_another_encoding_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x00\x01\x02" * 1000)
    (tmp_path / "latin").write_bytes(HEADER.encode() + b'\n{"t":0,"op":"caf\xe9"}\n')

    with pytest.raises(TraceError, match="binary, line 1: not text"):
        read(tmp_path / "binary")
    with pytest.raises(TraceError, match="latin, line 2: not UTF-8"):
        read(tmp_path / "latin")


def test_a_line_of_ten_gigabytes_is_refused_without_being_read(tmp_path: Path) -> None:
    # Sixteen megabytes of one byte in a gzip member of its own; members follow each other in a file.
    member = gzip.compress(b"x" * 2**24, compresslevel=1)
    with (tmp_path / "huge.gz").open("wb") as file:
        file.write(gzip.compress(HEADER.encode() + b"\n"))
        for _ in range(640):
            file.write(member)

    with pytest.raises(TraceError, match=r"huge\.gz, line 2: longer than 64 MiB: refused"):
        read(tmp_path / "huge.gz")


def test_the_limit_holds_for_a_line_with_an_end_too(tmp_path: Path) -> None:
    path = trace(tmp_path / "a.jsonl", '{"t":0}', json.dumps({"t": 1, "body": "x" * 5000}))

    assert len(read(path)) == 2
    with pytest.raises(TraceError, match="line 3: longer than"):
        read(path, limit_bytes=4096)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b'\r\n{"t":0}\r\n{"t":1}')

    assert [row.t for row in read(tmp_path / "a.jsonl")] == [0, 1]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_lines_are_the_same_however_the_file_is_cut_into_chunks(sizes: list[int]) -> None:
    text = b"\n".join(bytes([97 + i % 26]) * size for i, size in enumerate(sizes))
    path = Path("/dev/null")
    with mock.patch.object(lines, "_CHUNK_BYTES", 7), mock.patch.object(lines, "open_bytes") as opened:
        opened.return_value = io.BytesIO(text)
        found = list(lines.numbered_lines(path))

    assert [line.data for line in found] == text.split(b"\n")
    assert [line.number for line in found] == list(range(1, len(sizes) + 1))
    assert all(text[line.offset :].startswith(line.data) for line in found)


def test_a_validator_counts_every_problem_by_its_reason(tmp_path: Path) -> None:
    path = trace(
        tmp_path / "a.jsonl",
        '{"t":0}',
        '{"op":"a"}',
        '{"t":2}',
        '{"t":1}',
        '{"t":1.5}',
        "garbage",
        '{"t":-3}',
        '{"t":3}',
        '{"op":"b"}',
    )

    found = validate_trace(path)

    assert (found.rows, found.good) == (9, 3)
    assert {reason: (one.count, one.line) for reason, one in found.problems.items()} == {
        "no arrival time 't'": (2, 3),
        "rows out of order": (2, 5),
        "not JSON": (1, 7),
        "t must be a number of seconds, 0 or more": (1, 8),
    }
    assert found.in_words()[0] == "2 x no arrival time 't', first on line 3"
