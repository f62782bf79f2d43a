"""Tables of rows, as Markdown: medians of the clean runs, and how many those were."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.loadgen.bars import HEAD, Scored, bar_line, show
from benchmarks.loadgen.figures import median
from benchmarks.loadgen.files import Row


@dataclass(frozen=True, slots=True)
class Figure:
    """A median over runs: over the clean ones, over all where none was."""

    value: float
    runs: int
    clean: int

    def __str__(self) -> str:
        return show(self.value) + ("*" if self.runs and not self.clean else "")

    def scored(self, key: str, value: float | None = None, case: str = "") -> Scored:
        """This figure, or one made of it, against a bar."""
        return Scored(key, self.value if value is None else value, self.runs, self.clean, case)


@dataclass(frozen=True, slots=True)
class Report:
    """A part's table and what it says of its bars; notes stand below."""

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    scored: Sequence[Scored]
    notes: Sequence[str] = ()


def of(rows: Iterable[Row], **where: object) -> list[Row]:
    """The rows of finished runs whose members have these values."""
    return [
        row
        for row in rows
        if "not_there" not in row and all(row.get(name) == value for name, value in where.items())
    ]


def figure(rows: Sequence[Row], value: str | Callable[[Row], float]) -> Figure:
    """The median of a member, or of what a function makes of a row."""
    clean = [row for row in rows if row["clean"]]
    values = [value(row) if callable(value) else _number(row.get(value)) for row in clean or rows]
    return Figure(median(values), len(rows), len(clean))


def combined(key: str, over: Figure, under: Figure, case: str = "") -> Scored:
    """A quotient of two figures against a bar; as clean as the less clean of them."""
    value = over.value / under.value if under.value else math.nan
    return Scored(key, value, min(over.runs, under.runs), min(over.clean, under.clean), case)


def contenders(rows: Iterable[Row]) -> list[str]:
    """Who ran, in the order of first appearance."""
    return list(dict.fromkeys(row["contender"] for row in rows if "not_there" not in row))


def runs_text(found: Figure) -> str:
    """How many runs, and how many of them were clean."""
    return f"{found.runs} ({found.clean} clean)"


def absent(rows: Iterable[Row]) -> list[str]:
    """A line for everything that could not be measured, with the reason."""
    return [f"{row['contender']}: {row['not_there']}" for row in rows if "not_there" in row]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns as wide as what is in them."""
    widths = [max(len(line[number]) for line in [head, *lines]) for number in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def part_text(title: str, report: Report, rows: Sequence[Row], noise: Sequence[Row]) -> str:
    """A part as it is printed."""
    pieces = [f"## {title}"]
    if report.lines:
        pieces.append(table(report.head, report.lines))
    notes = [*report.notes, *absent(rows)]
    if any(not row.get("clean", True) for row in rows):
        notes.append("* only contaminated runs")
    if notes:
        pieces.append("\n".join(notes))
    pieces.append(table(HEAD, [bar_line(one) for one in report.scored]))
    pieces.append(noise_text(noise))
    return "\n\n".join(pieces)


def noise_text(noise: Sequence[Row]) -> str:
    """The machine's noise during all runs, the repeated ones included, in a line."""
    if not noise:
        return "The witness saw no run."
    dirty = sum(not one["clean"] for one in noise)
    foreign = sorted(one["foreign"] for one in noise)
    steal = max(one["steal"] for one in noise)
    return (
        f"Noise: {dirty} of {len(noise)} runs contaminated. Others took {100 * median(foreign):.1f} % of one "
        f"core in the median run, {100 * foreign[-1]:.1f} % in the worst; stolen: up to {100 * steal:.1f} %."
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
