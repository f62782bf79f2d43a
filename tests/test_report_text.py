"""What is printed, to the letter: the verdict first, the evidence beside it, the remedy when in doubt."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_capacity.report.text import (
    failure_text,
    plan_line,
    progress_line,
    summary_table,
    verdict_in_words,
)
from pytest_capacity.report.words import (
    ascii_text,
    interval,
    middle_shortened,
    milliseconds,
    per_second,
    percent,
    plain,
    seconds,
    wrapped,
)
from pytest_capacity.results.record import SummaryRow, summary_of
from tests import records

ARTIFACT = ".capacity/test_capacity/test_sustains_200_per_second-a1b2c3d.json"


def row(test: str = "test_a", **other: Any) -> SummaryRow:
    example: dict[str, Any] = {
        "nodeid": f"tests/test_capacity.py::{test}",
        "test": test,
        "verdict": "PASS",
        "asked_qps": 120,
        "found_qps": None,
        "found_low_qps": None,
        "found_high_qps": None,
        "p50_ms": 9.2,
        "p99_ms": 31,
        "error_rate": 0.0,
        "seconds": 16.2,
        "artifact": None,
        "attempt": 1,
        "headline": "",
        "remedy": "",
    }
    joined: Any = {**example, **other}
    found: SummaryRow = joined
    return found


def test_a_failure_names_bound_limit_measured_and_share() -> None:
    assert failure_text(records.failed_record(), ARTIFACT) == (
        "FAIL  p99 > 50 ms at 200/s: 3.1 % of requests late (2.4-3.9), 1 % allowed\n"
        "  bound        limit      measured            allowed share\n"
        "  p99          50 ms      71 ms (64-80)       late 3.1 % > 1 %\n"
        "  error_rate   1.00 %     0.00 % (0-0.2)      ok\n"
        "  offered 200.0/s, achieved 200.0/s for 21 s, 4,200 requests; sent within 0.1 ms of schedule (p99)\n"
        "  artifact .capacity/test_capacity/test_sustains_200_per_second-a1b2c3d.json"
    )


def test_an_inconclusive_one_gives_reason_and_remedy() -> None:
    assert failure_text(records.inconclusive_record(), ARTIFACT) == (
        "INCONCLUSIVE  the load generator was late: p99 38 ms behind schedule, "
        "1 ms allowed (2 % of the 50 ms\n"
        "  bound)\n"
        "  the machine's CPUs were 96 % busy with other processes; this is not the server's limit\n"
        "  try: a quieter runner, --capacity-workers=2, or a lower rate\n"
        "  bound        limit      measured            allowed share\n"
        "  p99          50 ms      31 ms (29-34)       undecided: late 0.9 % (0.45-1.4), 1 % allowed\n"
        "  error_rate   1.00 %     0.00 % (0-0.2)      ok\n"
        "  offered 200.0/s, achieved 200.0/s for 21 s, 4,200 requests; sent within 38 ms of schedule (p99)\n"
        "  artifact .capacity/test_capacity/test_sustains_200_per_second-a1b2c3d.json"
    )


def test_a_preflight_failure_says_that_no_load_was_sent() -> None:
    assert failure_text(records.preflight_record()) == (
        "FAIL  422 from POST /rank: field 'items' required. No load was sent."
    )


def test_an_interrupted_one_shows_what_there_is() -> None:
    assert failure_text(records.interrupted_record()) == (
        "INTERRUPTED  after 21 s of load; no verdict\n"
        "  offered 200.0/s, achieved 200.0/s for 21 s, 4,200 requests; sent within 0.1 ms of schedule (p99)\n"
        "  interrupted: Ctrl-C"
    )


def test_a_pass_can_be_shown_too() -> None:
    assert verdict_in_words(records.passed_record()) == (
        "PASS  200/s held: p99 31 ms (29-34) <= 50 ms, error_rate 0.00 % (0-0.2) <= 1.00 %; "
        "4,200 requests in 21 s"
    )
    assert failure_text(records.passed_record()).startswith("PASS  200/s held: p99 31 ms (29-34) <= 50 ms,")


def test_failed_requests_are_counted_with_an_example_and_doubts_are_told() -> None:
    dead = {**records.latency_bound("FAIL"), "measured_ms": None, "low_ms": None, "high_ms": None}
    broken: Any = records.measurement(
        "FAIL",
        (dead, records.error_bound("FAIL", 0.5)),  # type: ignore[arg-type]
        state="stopped",
        stop_reason="every reply was a 500",
        outcomes={"good": 100, "bad_status": 2100},
        examples={"bad_status": "500 from POST /rank: boom\x1b[31m\nTraceback"},
    )
    doubt: Any = {"kind": "x", "text": "the server was restarted", "remedy": "leave it alone"}

    text = failure_text(records.record("FAIL", broken, doubts=(doubt,), late_p99_ms=None))

    assert text == (
        "FAIL  every reply was a 500\n"
        "  bound        limit      measured            allowed share\n"
        "  p99          50 ms      no answer           late 3.1 % > 1 %\n"
        "  error_rate   1.00 %     50.00 % (25-50)     failed 50 % > 1 %\n"
        "  offered 200.0/s, achieved 200.0/s for 21 s, 4,200 requests\n"
        "  bad_status: 2,100 x 500 from POST /rank: boom [31m Traceback\n"
        "  doubt: the server was restarted\n"
        "  try: leave it alone"
    )


def test_several_doubts_each_have_their_remedy() -> None:
    doubts: Any = (
        {"kind": "a", "text": "one reason", "remedy": "one way"},
        {"kind": "b", "text": "another reason", "remedy": ""},
        {"kind": "c", "text": "a third reason", "remedy": "a third way"},
    )

    text = failure_text(records.record("INCONCLUSIVE", doubts=doubts))

    assert text == (
        "INCONCLUSIVE  one reason\n"
        "  try: one way\n"
        "  also: another reason\n"
        "  also: a third reason\n"
        "  try: a third way"
    )


def test_a_path_is_printed_in_one_piece_as_long_as_a_line_can_hold_it() -> None:
    *_, heading, path = failure_text(records.preflight_record(), "x" * 95).splitlines()

    assert (heading, path) == ("  artifact", "x" * 95)


def test_the_summary_has_a_row_a_test_and_a_remedy_for_each_doubtful_one() -> None:
    rows = [
        row("test_peak_hour"),
        row(
            "test_sustains_200_per_second",
            verdict="FAIL",
            asked_qps=200,
            p50_ms=18,
            p99_ms=71,
            seconds=21,
            headline="not repeated",
        ),
        row(
            "test_capacity",
            verdict="INCONCLUSIVE",
            asked_qps=150,
            found_qps=152,
            found_low_qps=141,
            found_high_qps=163,
            p50_ms=14,
            p99_ms=50,
            seconds=120,
            headline="the interval 141-163/s contains 150/s after 120 s of load",
            remedy="budget_s=300, or require_qps=140",
        ),
    ]

    assert summary_table(rows) == [
        "verdict  test                          asked  found             p50    p99  errors  seconds",
        "PASS     test_peak_hour                120/s                 9.2 ms  31 ms   0.0 %       16",
        "FAIL     test_sustains_200_per_second  200/s                  18 ms  71 ms   0.0 %       21",
        "?        test_capacity                 150/s  152/s 141-163   14 ms  50 ms   0.0 %      120",
        "INCONCLUSIVE test_capacity: the interval 141-163/s contains 150/s after 120 s of load",
        "  try: budget_s=300, or require_qps=140",
    ]


def test_what_is_not_known_is_left_open() -> None:
    rows = [
        row(verdict="MEASURED", asked_qps=None, found_qps=1520.4, seconds=9.94),
        row(
            "test_b",
            verdict=None,
            artifact=ARTIFACT,
            p50_ms=None,
            p99_ms=None,
            error_rate=None,
            seconds=0,
            attempt=2,
        ),
        row("test_c", verdict="INCONCLUSIVE", headline="stopped", p99_ms=12345, error_rate=0.0002),
    ]

    assert summary_table(rows) == [
        "verdict   test                     asked  found       p50        p99   errors  seconds",
        "measured  test_a                          1,520/s  9.2 ms      31 ms    0.0 %      9.9",
        "stopped   test_b (attempt 2 of 2)  120/s                -          -        -        0",
        "?         test_c                   120/s           9.2 ms  12,345 ms  < 0.1 %       16",
        "INCONCLUSIVE test_c: stopped",
    ]


def test_of_a_test_that_was_rerun_the_last_attempt_counts() -> None:
    rows = [
        row(verdict="INCONCLUSIVE", headline="the machine was busy", remedy="a quieter one"),
        row(attempt=2),
    ]

    lines = summary_table(rows)

    assert [line.split("  ")[0] for line in lines] == ["verdict", "?", "PASS"]
    assert "test_a (attempt 1 of 2)" in lines[1]
    assert "test_a (attempt 2 of 2)" in lines[2]


def test_a_test_without_a_record_has_no_result() -> None:
    lost = row(verdict=None, artifact=None, p50_ms=None, p99_ms=None, error_rate=None, asked_qps=None)

    assert summary_table([lost])[1].startswith("no result  test_a ")


def test_no_row_makes_no_table() -> None:
    assert summary_table([]) == []


def test_long_names_give_way_in_the_middle() -> None:
    rows = [row(f"test_{'very_' * 30}long[{end}]", verdict="INCONCLUSIVE", headline="x") for end in "ab"]

    lines = summary_table(rows)

    assert all(len(line) <= 100 for line in lines)
    assert lines[1].startswith("?        test_very_very_very_v...ery_very_very_long[a]  120/s ")
    assert len(set(lines)) == 5


def test_tests_of_one_name_are_told_apart_by_their_file() -> None:
    rows = [
        row(nodeid="tests/test_x.py::test_a"),
        row(nodeid="tests/test_y.py::test_a"),
        row("test_b", nodeid="tests/test_y.py::test_b"),
    ]

    assert [line.split()[1] for line in summary_table(rows)[1:]] == [
        "test_x::test_a",
        "test_y::test_a",
        "test_b",
    ]


NUMBERS = st.none() | st.floats(0, 1e12)
TEXTS = st.text(max_size=300)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            row,
            test=TEXTS,
            verdict=st.sampled_from(["PASS", "FAIL", "INCONCLUSIVE", "MEASURED", None]),
            asked_qps=NUMBERS,
            found_qps=NUMBERS,
            found_low_qps=NUMBERS,
            found_high_qps=NUMBERS,
            p50_ms=NUMBERS,
            p99_ms=NUMBERS,
            error_rate=st.none() | st.floats(0, 1),
            seconds=st.floats(0, 1e9),
            headline=TEXTS,
            remedy=TEXTS,
        ),
        max_size=4,
    )
)
def test_no_table_is_wider_than_100_columns(rows: list[SummaryRow]) -> None:
    for line in summary_table(rows):
        assert len(line) <= 100
        assert line.isprintable()


@settings(deadline=None, max_examples=50)
@given(TEXTS, TEXTS, TEXTS, st.floats(0, 1e9))
def test_no_failure_is_wider_than_100_columns(text: str, note: str, path: str, figure: float) -> None:
    doubt: Any = {"kind": "x", "text": text, "remedy": note}
    bound: Any = {
        **records.latency_bound("FAIL"),
        "measured_ms": figure,
        "high_ms": figure,
        "limit_ms": figure,
    }
    broken: Any = records.measurement(
        "INCONCLUSIVE", (bound,), state="stopped", stop_reason=text, examples={"timeout": note}
    )
    broken.update(offered_qps=figure, achieved_qps=figure, load_s=figure)
    record = records.record("INCONCLUSIVE", broken, doubts=(doubt,) * 2, notes=(note,))

    for line in failure_text(record, "".join(c for c in path if c.isprintable())).split("\n"):
        assert len(line) <= 100
        assert line.isprintable()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, "t 38 s  offered 187/s  achieved 186.2/s  p99 41 ms  errors 0.0 %  22 s left"),
        (
            {"phase": "warm-up", "elapsed_s": 4.1, "left_s": None},
            "warm-up 4.1 s  offered 187/s  achieved 186.2/s  p99 41 ms  errors 0.0 %",
        ),
        (
            {"p99_ms": None, "error_rate": None, "left_s": -3},
            "t 38 s  offered 187/s  achieved 186.2/s  p99 -  errors -  0 s left",
        ),
        (
            {"phase": "extension", "offered_qps": 12500, "achieved_qps": 12499, "p99_ms": 12345},
            "extension 38 s  achieved 12,499/s  p99 12,345 ms  errors 0.0 %  22 s left",
        ),
    ],
)
def test_progress_fits_a_narrow_terminal(other: dict[str, Any], expected: str) -> None:
    figures: dict[str, Any] = {
        "elapsed_s": 38,
        "offered_qps": 187,
        "achieved_qps": 186.2,
        "p99_ms": 41,
        "error_rate": 0.0,
        "left_s": 22,
    }

    line = progress_line(**{**figures, **other})

    assert line == expected
    assert len(line) <= 80


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ((10, 60, 2000, 12000, 200), "10-60 s, 2,000-12,000 requests, at most 200/s"),
        ((60, 60, 12000, 12000, 200), "60 s, 12,000 requests, at most 200/s"),
        ((2.5, 60, 1, 30, 0.5), "2.5-60 s, 1-30 requests, at most 0.5/s"),
    ],
)
def test_a_plan_tells_the_price(figures: tuple[float, float, int, int, float], expected: str) -> None:
    assert plan_line(*figures) == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (per_second(200), "200/s"),
        (per_second(12.5), "12.5/s"),
        (per_second(0.25), "0.25/s"),
        (per_second(12_345.6), "12,346/s"),
        (per_second(2.5e6), "2.5M/s"),
        (plain(0), "0"),
        (plain(0.424), "0.42"),
        (plain(8.31), "8.3"),
        (plain(99.7), "100"),
        (plain(1204), "1,204"),
        (milliseconds(None), "-"),
        (milliseconds(0.31), "0.31 ms"),
        (milliseconds(123_456), "123 s"),
        (percent(0.031), "3.1 %"),
        (percent(0.0001), "< 0.1 %"),
        (percent(0.0), "0.0 %"),
        (percent(None), "-"),
        (percent(0.01, 2), "1.00 %"),
        (seconds(21.4), "21"),
        (seconds(2.5), "2.5"),
        (seconds(9.97), "10"),
        (seconds(360_000), "100 h"),
        (interval(64, 80), "(64-80)"),
        (interval(64, None), "(over 64)"),
        (interval(None, None), ""),
        (ascii_text("test_ä[\x1b]"), "test_\\xe4[\\x1b]"),
        (middle_shortened("abcdefghij", 7), "ab...ij"),
        (middle_shortened("abc", 2), "ab"),
    ],
)
def test_figures_and_names_are_short(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_figure_stays_with_its_unit() -> None:
    lines = wrapped("x" * 96 + " 38 ms behind")

    assert lines == ["x" * 96, "  38 ms behind"]
    assert wrapped("", first="PASS  ") == ["PASS"]


def test_showing_a_record_needs_no_numpy() -> None:
    code = "import sys, pytest_capacity.report.text; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_summary_row_of_a_record_fits_the_table() -> None:
    lines = summary_table([summary_of(records.failed_record(), ARTIFACT)])

    assert lines[1] == "FAIL     test_sustains_200_per_second  200/s         18 ms  71 ms   0.0 %       21"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"spread_within_s": 3.0}, "arrivals spread within the clock's tick of 3 s"),
        ({"clock": "completion"}, "by times of completion"),
        ({"composed": True}, "composed of one file's arrivals and another's requests"),
        ({"loops": 1}, "began anew once"),
    ],
)
def test_what_was_replayed_says_what_is_not_as_recorded(facts: dict[str, Any], said: str) -> None:
    usual_record: Any = {**records.failed_record(), "trace": records.trace_row()}
    told_record: Any = {**usual_record, "trace": {**records.trace_row(), **facts}}

    usual, told = failure_text(usual_record), failure_text(told_record)

    assert said not in usual.replace("\n    ", " ")
    assert said in told.replace("\n    ", " ")
