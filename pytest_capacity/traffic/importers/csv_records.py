"""The records of a CSV file with their lines; a quote that is never closed is told, not taken for a field."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from pytest_capacity.traffic.importers.job import Job
from pytest_capacity.traffic.lines import MAX_LINE_BYTES, TraceError

MOST_LINES = 10_000
"""A field of more lines is no body: a stray quote has swallowed the rows up to the next one."""

CUT = "cut off within quotes"

_END = "\x1cend of the file\x1c"
"""Stands behind the last line. What has it in a field of its own ends where the file does; else a quote is
open there, which ``csv`` would close without a word."""


def csv_records(job: Job) -> Iterator[tuple[int, list[str]]]:
    """Records with the number of their last line.

    Raises TraceError, with the line where it opened, for a quote that is not closed before the file's end,
    or where the text goes on behind a field of several lines, and for a field above ``MOST_LINES``.
    """
    lines = _Lines(job)
    delimiter = _delimiter(lines.first)
    # Bodies in a column are longer than csv's own limit; ours on lines holds already.
    limit = csv.field_size_limit(MAX_LINE_BYTES)
    longest, longest_line = 1, 0
    try:
        for record in csv.reader(lines, delimiter=delimiter):
            if record == [_END]:
                break
            if len(lines.texts) > 1:
                opened = _opened(record, lines.numbers)
                if record[-1].endswith(f"{_END}\n"):
                    _cut(job, opened)
                    break
                _check(lines.texts, delimiter, opened)
                if len(lines.texts) > longest:
                    longest, longest_line = len(lines.texts), opened
            yield lines.numbers[-1], record
            lines.forget()
    except csv.Error as error:
        raise TraceError(f"not a table: {error}", line=lines.numbers[0]) from error
    finally:
        csv.field_size_limit(limit)
    if longest > 1:
        job.findings.note(
            f"quoted fields of up to {longest:,} lines, the longest from line {longest_line}: a stray quote "
            "would look the same"
        )


class _Lines:
    """The lines for ``csv``, and those that it has taken since the last record."""

    def __init__(self, job: Job) -> None:
        self._source = job.lines()
        first = next(self._source, None)
        self.first = first[1] if first else ""
        self._waiting = [first] if first else []
        self._ended = False
        self.texts: list[str] = []
        self.numbers: list[int] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        if len(self.texts) > MOST_LINES:
            raise csv.Error(f"a quote that opens here is not closed within {MOST_LINES:,} lines")
        line = self._waiting.pop() if self._waiting else next(self._source, None)
        if line is None:
            self._ended = True
            line = (self.numbers[-1] if self.numbers else 0, _END)
        self.numbers.append(line[0])
        self.texts.append(f"{line[1]}\n")
        return self.texts[-1]

    def forget(self) -> None:
        """Begin another record."""
        self.texts.clear()
        self.numbers.clear()


def _delimiter(header: str) -> str:
    counts = {delimiter: header.count(delimiter) for delimiter in "\t,;|"}
    return max(counts, key=lambda delimiter: counts[delimiter])


def _opened(record: list[str], numbers: list[int]) -> int:
    """The line on which the field with the most lines begins."""
    ends = [field.count("\n") for field in record]
    return numbers[sum(ends[: ends.index(max(ends))])]


def _check(texts: list[str], delimiter: str, opened: int) -> None:
    """Refuse a record of several lines whose quotes are not where quotes belong."""
    try:
        list(csv.reader(texts, delimiter=delimiter, strict=True))
    except csv.Error:
        raise TraceError(
            f"a quote opens here and text follows its end, {len(texts) - 1:,} lines on: is it a stray one?",
            line=opened,
        ) from None


def _cut(job: Job, opened: int) -> None:
    if not job.options.allow_cut:
        raise TraceError("a quote opens here and is not closed before the file ends", line=opened)
    job.findings.drop(CUT, opened)
