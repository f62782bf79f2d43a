"""What is wrong with a trace, all of it: counted by reason, with the first line of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytest_capacity.traffic.lines import Line, TraceError, numbered_lines
from pytest_capacity.traffic.trace import OUT_OF_ORDER, TraceRow, decode, parse_row, read_header


@dataclass(slots=True)
class Problem:
    """A reason for which rows are bad: how many, the first one's line and what is wrong there."""

    count: int
    line: int
    example: str


@dataclass(slots=True)
class Validation:
    """The rows of a trace, the good ones among them, and what is wrong with the others by reason."""

    rows: int = 0
    good: int = 0
    problems: dict[str, Problem] = field(default_factory=dict)

    def in_words(self) -> list[str]:
        """One line for each reason, the most frequent first."""
        ranked = sorted(self.problems.items(), key=lambda item: -item[1].count)
        return [f"{one.count:,} x {reason}, first on line {one.line}" for reason, one in ranked]


def validate_trace(path: Path) -> Validation:
    """Look at every row of a trace, whatever is wrong with those before.

    Raises TraceError for what leaves no rows to look at (a bad header, damaged gzip, a binary file, a line
    too long), OSError where the file cannot be opened.
    """
    lines = numbered_lines(path)
    read_header(path, lines)
    found, last_s = Validation(), 0.0
    for line in lines:
        found.rows += 1
        row, what = _row(line)
        if row is not None and row.t < last_s:
            what = f"{OUT_OF_ORDER}: t={row.t!r} after {last_s!r}"
        if what is None:
            found.good += 1
        else:
            reason = what.partition(":")[0]
            found.problems.setdefault(reason, Problem(0, line.number, what)).count += 1
        if row is not None:
            last_s = max(last_s, row.t)
    return found


def _row(line: Line) -> tuple[TraceRow | None, str | None]:
    try:
        return parse_row(decode(line), line.number), None
    except TraceError as error:
        return None, error.what
