"""Tables: columns by name, units, durations, known headers, and what a row must have to be a request."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pytest_capacity.traffic.trace import TraceError
from tests.imported import imported_text

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:17:03.9799600,4808,10\r\n"
    "2023-11-16 18:17:04.0319607,3180,8"
)


def test_azures_seven_digits_and_missing_last_newline_are_kept(tmp_path: Path) -> None:
    result = imported_text(tmp_path, AZURE)

    assert result.times == [0.0, 0.0520007]
    assert [row.size for row in result.rows] == [
        {"tokens_in": 4808, "tokens_out": 10},
        {"tokens_in": 3180, "tokens_out": 8},
    ]
    assert result.found.header.resolution_s == 1e-7
    assert result.found.header.start == "2023-11-16T18:17:03.979960"


def test_an_explicit_mapping_adds_nothing_unasked(tmp_path: Path) -> None:
    result = imported_text(
        tmp_path, AZURE, time_col="TIMESTAMP", time_unit="iso", sizes={"tokens_in": "ContextTokens"}
    )

    assert [row.size for row in result.rows] == [{"tokens_in": 4808}, {"tokens_in": 3180}]


def test_burstgpt_is_read_by_name_wherever_its_columns_stand(tmp_path: Path) -> None:
    rest = "Model,Request tokens,Response tokens,Total tokens,Log Type"
    plain = f"Timestamp,{rest}\n5,ChatGPT,472,18,490,Conversation log\n118,GPT-4,417,0,417,API log\n"
    third = f"Timestamp,Session ID,Elapsed time,{rest}\n"
    third += "5,s1,3,ChatGPT,472,18,490,Conversation log\n118,s1,2,GPT-4,417,0,417,API log\n"

    without, with_session = imported_text(tmp_path, plain), imported_text(tmp_path, third)

    assert without.times == with_session.times == [0.0, 113.0]
    assert [row.size for row in with_session.rows] == [row.size for row in without.rows]
    assert with_session.rows[1].size == {"tokens_in": 417, "tokens_out": 0}
    assert [row.op for row in with_session.rows] == ["ChatGPT", "GPT-4"]
    assert [row.session for row in with_session.rows] == ["s1", "s1"]


def test_nasas_unnamed_trailing_columns_are_no_trouble(tmp_path: Path) -> None:
    text = "host\tlogname\ttime\tmethod\turl\tresponse\tbytes\n"
    text += "a.net\t-\t804571201\tGET\t/history/\t200\t6245\t\t\n"
    text += "b.net\t-\t804571206\tGET\t/x?token=s3cret\t304\t0\t\t\n"

    result = imported_text(tmp_path, text)

    assert result.found.format == "tsv"
    assert result.times == [0.0, 5.0]
    assert [(row.op, row.method, row.path, row.session) for row in result.rows] == [
        ("GET", "GET", "/history/", "a.net"),
        ("GET", "GET", "/x?token=***", "b.net"),
    ]
    assert result.rows[0].seen == {"status": 200}


def test_an_end_and_a_duration_give_the_arrival(tmp_path: Path) -> None:
    text = "app,func,end_timestamp,duration\na,f,0.5,0.25\na,g,57.25,57.125\na,f,60.0,\n"

    result = imported_text(tmp_path, text)

    assert [(row.op, row.t, row.seen["latency_s"]) for row in result.rows] == [
        ("g", 0.0, 57.125),
        ("f", 0.125, 0.25),
    ]
    assert result.found.header.clock == "arrival"
    assert result.found.dropped == {"no duration": 1}


@pytest.mark.parametrize(
    ("unit", "times", "duration", "expected"),
    [
        ("s", ["10", "20"], ["1", "5"], [0.0, 6.0]),
        ("ms", ["10000", "20000"], ["1000", "5000"], [0.0, 6.0]),
        ("us", ["10000000", "20000000"], ["1000000", "5000000"], [0.0, 6.0]),
        ("ns", ["10000000000", "20000000000"], ["1000000000", "5000000000"], [0.0, 6.0]),
        ("min", ["10", "20"], ["1", "5"], [0.0, 360.0]),
        ("iso", ["2024-01-01T00:00:10Z", "2024-01-01T00:00:20Z"], ["1", "5"], [0.0, 6.0]),
    ],
)
def test_every_unit_is_read_and_a_duration_is_in_it(
    tmp_path: Path, unit: str, times: list[str], duration: list[str], expected: list[float]
) -> None:
    rows = [f"{time},{took}" for time, took in zip(times, duration, strict=True)]
    text = "\n".join(["finished,took", *rows])

    result = imported_text(tmp_path, text, time_col="finished", time_unit=unit, duration_col="took")

    assert result.times == expected


def test_a_duration_in_milliseconds_by_its_name_is_taken_as_such(tmp_path: Path) -> None:
    text = "ended_at,took_ms\n2024-01-01T00:00:10.000Z,1500\n2024-01-01T00:00:20.000Z,0\n"

    result = imported_text(tmp_path, text, time_col="ended_at", duration_col="took_ms")

    assert result.times == [0.0, 11.5]


def test_a_time_that_is_a_start_by_its_name_is_left_alone(tmp_path: Path) -> None:
    text = "start_time,duration\n10,5\n20,1\n"

    result = imported_text(tmp_path, text, time_col="start_time", time_unit="s", duration_col="duration")

    assert result.times == [0.0, 10.0]
    assert "is the start by its name" in result.messages


def test_an_end_without_a_duration_is_marked_as_completion(tmp_path: Path) -> None:
    result = imported_text(tmp_path, "end_time,n\n10,5\n20,1\n", time_col="end_time", time_unit="s")

    assert result.found.header.clock == "completion"
    assert "times are of completion, not of arrival" in result.found.warnings


@pytest.mark.parametrize(("delimiter", "name"), [(",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "csv")])
def test_columns_are_mapped_whatever_delimits_them(tmp_path: Path, delimiter: str, name: str) -> None:
    lines = [
        ["when", "endpoint", "user", "talk", "n"],
        ["0.5", "rank", "u7", "s1", "3"],
        ["1.5", "embed", "", "", ""],
    ]
    text = "\n".join(delimiter.join(line) for line in lines)

    result = imported_text(
        tmp_path,
        text,
        time_col="when",
        time_unit="s",
        op_col="endpoint",
        key_col="user",
        session_col="talk",
        sizes={"items": "n"},
    )

    first, second = result.rows
    assert result.found.format == name
    assert (first.op, first.keys, first.session, first.size) == ("rank", ("u7",), "s1", {"items": 3})
    assert (second.op, second.keys, second.session, second.size) == ("embed", (), None, {})


def test_quoted_fields_may_hold_delimiters_newlines_and_long_bodies(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    body = json.dumps({"text": "a,b\n" + "x" * 200_000, "api_key": "sk-secret"})
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "databricks_request_id",
                "timestamp_ms",
                "status_code",
                "execution_time_ms",
                "request",
                "sampling_fraction",
            ]
        )
        writer.writerow(["r1", "1712973829000", "200", "12", body, "0.5"])
        writer.writerow(["r2", "1712973829250", "500", "7", "plain text", "0.5"])

    result = imported_text(tmp_path, path.read_bytes())

    first, second = result.rows
    assert result.times == [0.0, 0.25]
    assert first.body == {"text": "a,b\n" + "x" * 200_000, "api_key": "***"}
    assert (first.id, first.weight, first.seen) == ("r1", 2.0, {"status": 200, "latency_s": 0.012})
    assert second.body_b64 is not None
    assert result.found.header.sampling == 0.5
    assert "sk-secret" not in result.out.read_text()


ROWS = [f"{number},b" for number in range(1000)]


@pytest.mark.parametrize(
    ("at", "complaint"),
    [
        ({3: '3,"a'}, "line 5: a quote opens here and is not closed before the file ends"),
        ({3: '3,"a', 700: '700,"b,c"'}, "line 5: a quote opens here and text follows its end, 697 lines on"),
        ({3: '"3\n",b', 4: '4,"a'}, "line 7: a quote opens here and is not closed"),
    ],
)
def test_a_stray_quote_swallows_no_rows(tmp_path: Path, at: dict[int, str], complaint: str) -> None:
    text = "\n".join(["time,op", *(at.get(number, row) for number, row in enumerate(ROWS))])

    with pytest.raises(TraceError, match=complaint):
        imported_text(tmp_path, text, "csv", time_col="time", op_col="op")


def test_a_quote_is_not_looked_for_forever(tmp_path: Path) -> None:
    text = 'time,op\n1,"a\n' + "2,b\n" * 20_000

    with pytest.raises(TraceError, match=r"line 2: .*not closed within 10,000 lines"):
        imported_text(tmp_path, text, "csv", time_col="time", op_col="op")


def test_two_stray_quotes_that_make_a_field_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    text = "\n".join(["time,op", '0,"a', *ROWS[1:50], '50,b"', *ROWS[51:]])

    result = imported_text(tmp_path, text, "csv", time_col="time", op_col="op")

    assert len(result.rows) == 950
    assert "quoted fields of up to 51 lines, the longest from line 2" in result.messages


def test_a_table_cut_within_quotes_loses_that_row_only_and_it_is_counted(tmp_path: Path) -> None:
    text = 'time,op\n1,a\n2,b\n3,"c\n'

    result = imported_text(tmp_path, text, "csv", time_col="time", op_col="op", allow_cut=True)

    assert [row.op for row in result.rows] == ["a", "b"]
    assert result.found.dropped == {"cut off within quotes": 1}


def test_json_lines_are_mapped_by_fields_within_fields(tmp_path: Path) -> None:
    text = '{"meta":{"at":1000}}\n{"meta":{"at":1500,"user":7},"n":2}\n{"meta":null}\nnot json\n'

    result = imported_text(
        tmp_path, text, time_col="meta.at", time_unit="ms", key_col="meta.user", sizes={"items": "n"}
    )

    assert result.times == [0.0, 0.5]
    assert (result.rows[1].keys, result.rows[1].size) == (("7",), {"items": 2})
    assert result.found.dropped == {"no time": 1, "not JSON": 1}
    assert result.found.first_dropped == {"no time": 3, "not JSON": 4}


def test_rows_out_of_order_are_sorted_and_it_is_said(tmp_path: Path) -> None:
    result = imported_text(tmp_path, "t,op\n3,c\n1,a\n2,b\n", time_col="t", op_col="op")

    assert [(row.t, row.op) for row in result.rows] == [(0.0, "a"), (1.0, "b"), (2.0, "c")]
    assert "1 of 3 rows were out of order in the file, and were sorted" in result.found.warnings


def test_lines_of_an_invoice_are_items_of_one_request_and_cancellations_none(tmp_path: Path) -> None:
    text = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
580538,23084,RABBIT NIGHT LIGHT,48,2011-12-05 08:38:00,1.79,14075.0,United Kingdom
580538,23077,DOUGHNUT LIP GLOSS ,20,2011-12-05 08:38:00,1.25,14075.0,United Kingdom
C580539,22906,CARDS,-24,2011-12-05 08:39:00,1.65,14075.0,United Kingdom
580540,21914,HARMONICA,24,2011-12-05 08:40:00,1.25,,United Kingdom
"""

    result = imported_text(tmp_path, text)

    assert [(row.t, row.size, row.keys) for row in result.rows] == [
        (0.0, {"pieces": 68, "items": 2}, ("14075.0",)),
        (120.0, {"pieces": 24, "items": 1}, ()),
    ]
    assert result.found.dropped == {"negative size pieces": 1}


def test_a_sample_is_never_taken_for_all_of_the_traffic(tmp_path: Path) -> None:
    text = (
        ",timestamp,item_id,position,click,propensity_score\n0,2019-11-24 00:01:03.979311+00:00,2,2,0,0.04\n"
    )

    result = imported_text(tmp_path, text)

    assert result.found.header.sampling is None
    assert "a sample of unknown share" in result.messages
    assert imported_text(tmp_path, text, sampling=0.1).found.header.sampling == 0.1


def test_keys_and_sessions_are_hashed_unless_asked_otherwise(tmp_path: Path) -> None:
    text = "t,user\n1,alice\n2,bob\n3,alice\n"

    result = imported_text(tmp_path, text, time_col="t", key_col="user", session_col="user", plain_keys=False)

    keys = [row.keys[0] for row in result.rows]
    assert keys[0] == keys[2] != keys[1]
    assert result.rows[0].session == keys[0]
    assert "alice" not in result.out.read_text()
    again = imported_text(tmp_path, text, time_col="t", key_col="user", plain_keys=False)
    assert again.rows[0].keys[0] != keys[0]


def test_literals_in_texts_are_never_evaluated(tmp_path: Path) -> None:
    trap = "__import__('pathlib').Path('evaluated').touch()"
    text = f't,op,size\n1,"{trap}",3\n2,"{{970: 0.5}}",4\n'

    result = imported_text(tmp_path, text, time_col="t", op_col="op", sizes={"items": "size"})

    assert [row.op for row in result.rows] == [trap, "{970: 0.5}"]
    assert not Path("evaluated").exists()


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("when,n\n1,2\n", {}, "line 1: which column is the time.*'when', 'n'"),
        ("when,n\n1,2\n", {"time_col": "wen"}, "line 1: no column 'wen'; did you mean 'when'"),
        (
            "when,n\n1,2\n",
            {"time_col": "when", "sizes": {"a": "b"}},
            "line 1: no column 'b'; there are 'when', 'n'",
        ),
        ("when,n,when\n1,2,3\n", {"time_col": "when"}, "line 1: 2 columns are named 'when': rename all but"),
        ("t,n,n\n1,2,3\n", {"time_col": "t", "sizes": {"a": "n"}}, "line 1: 2 columns are named 'n'"),
        ("when,n\n1,2\nnan,3\n", {"time_col": "when"}, "line 3: the time is nan"),
        ("when,n\n1,2\n-5,3\n", {"time_col": "when"}, "line 3: the time -5 is negative"),
        ("when,n\nx,2\ny,3\n", {"time_col": "when"}, "line 2: unreadable time"),
        ("when,n\n1,2\n" + ",3\n" * 10, {"time_col": "when"}, "line 3: no time .10 of 11 rows"),
        ("when,n\n1,2\n9e9,3\n", {"time_col": "when"}, "line 3: a time of more than a century"),
        ("when,n\n", {"time_col": "when"}, "line 1: empty"),
        ("when,n\n1,\x00\n", {"time_col": "when"}, "line 2: not text"),
        (
            "when,n\n2024-03-01T10:00:00Z,1\n2024-03-01T10:00:00,1\n",
            {"time_col": "when"},
            "line 3: mixed time zones",
        ),
        ("0,1.18,Gamma\n600,1.05,Gamma\n", {}, "line 1: which column is the time"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line_and_nothing_is_written(
    tmp_path: Path, text: str, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(TraceError, match=f"recorded, {complaint}"):
        imported_text(tmp_path, text, "csv", **options)

    assert [path.name for path in tmp_path.iterdir()] == ["recorded"]


def test_a_name_that_two_columns_have_harms_nothing_unless_it_is_asked_for(tmp_path: Path) -> None:
    result = imported_text(tmp_path, "when,n,n\n1,2,3\n", "csv", time_col="when")

    assert len(result.rows) == 1


def test_one_column_of_times_is_a_table_and_so_is_any_file_with_a_column_named(tmp_path: Path) -> None:
    times = imported_text(tmp_path, "t\n0.25\n1.5\n", time_col="t", time_unit="s")
    lines = '{"timestamp":1000,"input_length":3,"output_length":1,"user":"u"}\n'
    mapped = imported_text(tmp_path, lines, time_col="timestamp", time_unit="ms", key_col="user")

    assert times.times == [0.0, 1.25]
    assert mapped.found.format == "jsonl"
    assert mapped.rows[0].keys == ("u",)


@pytest.mark.parametrize(
    ("column", "clock"),
    [
        ("end", "completion"),
        ("end_time", "completion"),
        ("time_finished", "completion"),
        ("completedAt", "completion"),
        ("requestEnd", "completion"),
        ("endpoint_time", "arrival"),
        ("backend_ts", "arrival"),
        ("calendar", "arrival"),
        ("ts", "arrival"),
        ("start_of_end", "arrival"),
    ],
)
def test_a_column_is_an_end_by_its_name_only_where_that_says_so(
    tmp_path: Path, column: str, clock: str
) -> None:
    assert imported_text(tmp_path, f"{column}\n1\n2\n", time_col=column).found.header.clock == clock


def test_an_infinity_in_a_body_costs_its_row_only(tmp_path: Path) -> None:
    text = '{"t":1,"n":1}\n{"t":2,"n":1e999}\n'
    path = tmp_path / "native.jsonl"
    path.write_text('{"pytest_capacity_trace":1}\n{"t":1}\n{"t":2,"body":{"x":1e999}}\n')

    assert imported_text(tmp_path, text, time_col="t", sizes={"n": "n"}).found.dropped == {
        "unreadable size n": 1
    }
    assert imported_text(tmp_path, path.read_bytes()).found.dropped == {"a number too large for JSON": 1}
