"""The summary at the end of a run: one row a test, and what to do about the doubtful ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_capacity.report.words import (
    COLUMNS,
    ascii_text,
    middle_shortened,
    milliseconds,
    per_second,
    percent,
    plain,
    seconds,
    wrapped,
)
from pytest_capacity.results.shapes import SummaryRow

_HEADINGS = ("verdict", "test", "asked", "found", "p50", "p99", "errors", "seconds")
_LEFT = {"verdict", "test", "found"}
_SHOWN = {"PASS": "PASS", "FAIL": "FAIL", "INCONCLUSIVE": "?", "MEASURED": "measured", None: "stopped"}
_GAP = "  "
_NAME_MIN = 10


def summary_table(rows: Sequence[SummaryRow]) -> list[str]:
    """The table's lines, none wider than 100 columns, followed by each inconclusive test's reason and remedy.

    No rows give no lines. A failure's reason is not repeated: pytest has shown it above.
    """
    if not rows:
        return []
    cells = [_HEADINGS, *(_cells(row, name) for row, name in zip(rows, _names(rows), strict=True))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    test = _HEADINGS.index("test")
    others = sum(widths) - widths[test] + len(_GAP) * (len(widths) - 1)
    widths[test] = min(widths[test], max(_NAME_MIN, COLUMNS - others))
    lines = [_line(line, widths) for line in cells]
    last = {row["nodeid"]: row["attempt"] for row in rows}
    for row, name in zip(rows, _names(rows), strict=True):
        if row["verdict"] == "INCONCLUSIVE" and row["attempt"] == last[row["nodeid"]]:
            lines += _doubtful(row, middle_shortened(name, COLUMNS // 2))
    return lines


def _cells(row: SummaryRow, name: str) -> tuple[str, ...]:
    return (
        _SHOWN[row["verdict"]] if row["artifact"] or row["verdict"] else "no result",
        name,
        "" if row["asked_qps"] is None else per_second(row["asked_qps"]),
        _found(row),
        milliseconds(row["p50_ms"]),
        milliseconds(row["p99_ms"]),
        percent(row["error_rate"]),
        seconds(row["seconds"]),
    )


def _found(row: SummaryRow) -> str:
    if row["found_qps"] is None:
        return ""
    low, high = row["found_low_qps"], row["found_high_qps"]
    limits = "" if low is None or high is None else f" {plain(low)}-{plain(high)}"
    return per_second(row["found_qps"]) + limits


def _names(rows: Sequence[SummaryRow]) -> list[str]:
    """Each test's name, with its file where two tests share one, and with the attempt where it was rerun."""
    nodeids = {row["nodeid"]: row["test"] for row in rows}
    shared = Counter(nodeids.values())
    attempts = {row["nodeid"]: row["attempt"] for row in rows}
    names = []
    for row in rows:
        file = row["nodeid"].partition("::")[0].rpartition("/")[2].removesuffix(".py")
        name = row["test"] if shared[row["test"]] == 1 else f"{file}::{row['test']}"
        last = attempts[row["nodeid"]]
        rerun = f" (attempt {row['attempt']} of {last})" if last > 1 else ""
        names.append(ascii_text(name + rerun))
    return names


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        middle_shortened(cell, width).ljust(width) if heading in _LEFT else cell.rjust(width)
        for heading, cell, width in zip(_HEADINGS, cells, widths, strict=True)
    ]
    return _GAP.join(padded).rstrip()[:COLUMNS]


def _doubtful(row: SummaryRow, name: str) -> list[str]:
    reason = wrapped(f"INCONCLUSIVE {name}: {row['headline']}")
    return [*reason, *(wrapped(f"try: {row['remedy']}", first="  ", later="    ") if row["remedy"] else [])]
