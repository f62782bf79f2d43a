"""``pytest-capacity import``: its document, its exit code, its words, and nothing written where it fails."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.cli import main
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter, read_rows

TABLE = "when,op,user,n\n10.5,rank,u7,3\n11.25,embed,u8,4\n,rank,u7,1\n13,rank,u7,2\n"
MAPPING = (
    "--time-col",
    "when",
    "--time-unit",
    "s",
    "--size",
    "items=n",
    "--op-col",
    "op",
    "--key-col",
    "user",
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table with one row that has no time."""
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any, str]:
    """Exit code, document and standard error of a command with ``--json``."""
    code = run(*arguments, "--json")
    printed = capsys.readouterr()
    return code, json.loads(printed.out) if printed.out else None, printed.err


def test_the_document_is_that_of_the_contract(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.with_name("a.trace.jsonl.gz")

    code, document, _err = run_json(capsys, "import", table, "--out", out, *MAPPING)

    assert code == 0
    assert document == {
        "rows": 3,
        "dropped": {"no time": 1},
        "out": str(out),
        "clock": "arrival",
        "resolution_s": 0.01,
        "sampling": 1.0,
    }
    header, rows = read_rows(out)
    assert header.name == "table"
    assert [(row.t, row.op, row.size) for row in rows] == [
        (0.0, "rank", {"items": 3}),
        (0.75, "embed", {"items": 4}),
        (2.5, "rank", {"items": 2}),
    ]


def test_people_are_told_what_was_dropped_and_what_to_know(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("import", table, "--out", table.with_name("a.trace.jsonl"), *MAPPING, "--sampling", "0.1")

    printed = capsys.readouterr()
    assert code == 0
    assert "3 rows of csv -> " in printed.out
    assert "dropped 1: no time, first on line 4" in printed.out
    assert "sampling 10 %" in printed.out
    assert "warning: a sample of 10 %" in printed.err


def test_arrivals_and_payloads_are_composed_and_reported_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gaps").write_text("1000000\n1000000\n")
    (tmp_path / "batch").write_text('{"custom_id":"a","method":"POST","url":"/v1/x","body":{"n":1}}\n')
    out = tmp_path / "a.trace.jsonl"

    code, document, err = run_json(
        capsys, "import", "--arrivals", tmp_path / "gaps", "--payloads", tmp_path / "batch", "--out", out
    )

    assert code == 0
    assert document["rows"] == 2
    assert document["composed"] == {"arrivals": "perf-intervals", "payloads": "openai-batch"}
    assert "note: composed: 2 arrivals, 1 payloads" in err


def test_a_trace_is_exported_to_mooncake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TraceWriter(tmp_path / "a.trace.jsonl", TraceHeader()) as writer:
        writer.write(TraceRow(0.5, size={"tokens_in": 3}))

    code, document, _err = run_json(
        capsys, "import", tmp_path / "a.trace.jsonl", "--to", "mooncake", "--out", tmp_path / "m.jsonl"
    )

    assert (code, document["rows"], document["out"]) == (0, 1, [str(tmp_path / "m.jsonl")])
    assert json.loads((tmp_path / "m.jsonl").read_text())["timestamp"] == 500


def test_an_unsorted_trace_with_bad_rows_is_repaired_and_its_header_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.trace.jsonl"
    header = '{"pytest_capacity_trace":1,"name":"prod","class":"nlp","owner":"x","clock":"completion"}'
    source.write_text(f'{header}\n{{"t":2,"z":1}}\n{{"t":1}}\nbroken\n{{"op":"no time"}}\n')

    code, document, err = run_json(capsys, "import", source, "--out", source)

    again, rows = read_rows(source)
    assert code == 0
    assert document["dropped"] == {"not JSON": 1, "no arrival time 't'": 1}
    assert [(row.t, row.extra) for row in rows] == [(1.0, {}), (2.0, {"z": 1})]
    assert (again.name, again.class_, again.extra["owner"]) == ("prod", "nlp", "x")
    assert document["clock"] == "completion"
    assert "out of order" in err


def cut_gzip() -> bytes:
    draw = random.Random(1)
    whole = gzip.compress("\n".join(["when", *(str(t + draw.random()) for t in range(90_000))]).encode())
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    ("content", "options", "complaint"),
    [
        (cut_gzip(), ("--time-col", "when"), "truncated: the gzip stream ends"),
        (b"\x1f\x8b" + b"\x00" * 50, (), "damaged gzip"),
        (bytes(range(256)) * 100, (), "line 1: not text: this is a binary file"),
        (b"Dear diary\nnothing new\n", (), "line 1: which format is this? --format takes one of csv"),
        (bytes(range(256)) * 100, ("--format", "csv", "--time-col", "t"), "line 1: not text"),
        (b"when,n\n1,2\n", ("--time-col", "whem"), "line 1: no column 'whem'; did you mean 'when'?"),
        (b'{"pytest_capacity_trace":9}\n{"t":0}\n', (), "line 1: pytest_capacity_trace 9"),
        (b"when,n\n1,2\n-2,3\n", ("--time-col", "when"), "line 3: the time -2 is negative"),
        (b"when,n\n1,2\nNaN,3\n", ("--time-col", "when"), "line 3: the time is NaN"),
        (b'{"pytest_capacity_trace":1}\n{"t":0}\n{"t":-2}\n', (), "line 3: t must be a number"),
        (gzip.compress(b"x,y" * 2**25, 1), ("--time-col", "when"), "line 1: longer than 64 MiB"),
        (b"", (), "empty"),
        (b"when,n\n", ("--time-col", "when"), "line 1: empty"),
        (b'{"pytest_capacity_trace":1}\n', (), "line 1: empty"),
        (
            b"when,n\n2024-01-01T00:00:00Z,1\n2024-01-01T05:30:00+05:30,2\n",
            ("--time-col", "when"),
            "line 3: mixed time zones",
        ),
        (b"when,n\n1,2\n", ("--time-col", "when", "--format", "nosuch"), "--format nosuch: there is csv"),
        (b"when,n\n1,2\n", ("--time-col", "when", "--size", "n"), "--size n: give NAME=COLUMN"),
        (b"when,n\n1,2\n", ("--time-col", "when", "--sampling", "7"), "--sampling 7 must be"),
        (
            b'{"timestamp":1,"hash_ids":[]}\n',
            ("--op-col", "x"),
            "--op-col has no meaning with --format mooncake",
        ),
        (b"when,n\n1,2\n", ("--payloads", "x"), "--arrivals and --payloads go together"),
    ],
)
def test_bad_input_is_an_error_with_its_place_exit_code_2_and_nothing_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    options: tuple[str, ...],
    complaint: str,
) -> None:
    source = tmp_path / "recorded"
    source.write_bytes(content)
    out = tmp_path / "out.trace.jsonl"
    out.write_text("what was here before")

    code, document, err = run_json(capsys, "import", source, "--out", out, *options)

    assert (code, document) == (2, None)
    assert err.startswith("pytest-capacity: ")
    assert complaint in err
    assert "Traceback" not in err
    assert out.read_text() == "what was here before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.trace.jsonl", "recorded"]


def test_a_truncated_file_is_read_up_to_its_end_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut").write_bytes(cut_gzip())

    code, document, _err = run_json(
        capsys,
        "import",
        tmp_path / "cut",
        "--format",
        "csv",
        "--time-col",
        "when",
        "--allow-cut",
        "--out",
        tmp_path / "o",
    )

    assert code == 0
    assert 10_000 < document["rows"] < 90_000


def test_a_missing_file_and_a_place_that_cannot_be_written_are_errors(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("import", table.with_name("missing"), "--out", table.with_name("o")) == 2
    assert "missing" in capsys.readouterr().err
    assert run("import", table, "--out", table / "o", *MAPPING) == 2
    assert "cannot write" in capsys.readouterr().err


def test_neither_a_file_nor_arrivals_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "--out", tmp_path / "o") == 2
    assert "give a FILE to import, or --arrivals and --payloads" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["times.csv", "times.csv.gz"])
def test_a_table_of_one_column_is_told_by_its_suffix_and_its_column_is_the_time(
    name: str, tmp_path: Path
) -> None:
    text = b"time\n2026-03-02T09:00:00Z\n2026-03-02T09:00:01Z\n"
    source, out = tmp_path / name, tmp_path / "a.trace.jsonl"
    source.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)

    assert main(["import", str(source), "--out", str(out)]) == 0
    assert [row.t for row in read_rows(out)[1]] == [0.0, 1.0]


def test_a_text_that_ends_in_csv_becomes_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "diary.csv", tmp_path / "a.trace.jsonl"
    source.write_text("Dear diary\nnothing new\n")

    assert main(["import", str(source), "--out", str(out)]) == 2
    assert "line 2" in capsys.readouterr().err
    assert not out.exists()
