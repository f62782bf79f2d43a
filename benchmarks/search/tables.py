"""Tables of what is in the folder, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.search.bars import bars
from benchmarks.search.files import Row
from benchmarks.search.runs import rows_of
from benchmarks.search.scoring import Score, per_server, ran, scores
from benchmarks.search.sustaining import sustain_scores, sustained
from benchmarks.search.truths import Known, known_servers

SERVERS_SHOWN = 8


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns as wide as what is in them."""
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, rule, *lines]
    )


def percent(share: float, digits: int = 1) -> str:
    """A share in percent."""
    if math.isnan(share):
        return "-"
    return "inf" if math.isinf(share) else f"{100 * share:.{digits}f}"


SEARCH_HEAD = (
    "group", "runs", "servers", "found", "bias", "median", "p90", ">10%", ">5% over", "covered", "limits",
    "width", "low>C", "ill", "load s", "max", "statuses",
)  # fmt: skip


def search_line(name: str, one: Score) -> list[str]:
    """One group's figures in the order of ``SEARCH_HEAD``; shares in percent."""
    return [
        name,
        str(one.runs),
        str(one.servers),
        percent(one.found, 0),
        percent(one.bias),
        percent(one.median_error),
        percent(one.p90_error),
        percent(one.far_off),
        percent(one.over),
        percent(one.coverage),
        f"{percent(one.coverage_low, 0)}-{percent(one.coverage_high, 0)}",
        percent(one.median_width),
        percent(one.low_above),
        percent(one.ill_conditioned, 0),
        f"{one.mean_load_s:.1f}",
        f"{one.max_load_s:.1f}",
        " ".join(f"{status}:{count}" for status, count in one.statuses.items()),
    ]


def search_tables(rows: Sequence[Row], known: Mapping[int, Known]) -> list[str]:
    """A table for each algorithm and budget, and one with all of them in a line each."""
    parts, overview = [], []
    for (algorithm, budget), some in sorted(_by(rows, "algorithm", "budget").items()):
        runs = ran(some, known)
        if not runs:
            continue
        groups = scores(runs)
        title = f"{algorithm}, {budget:g} s"
        overview += [search_line(f"{title}: {name}", groups[name]) for name in ("cond <= 0.1", "cond > 0.1")
                     if name in groups]  # fmt: skip
        lines = [search_line(name, one) for name, one in groups.items()]
        lines += [
            search_line(f"server {server}: {_short(known[server])}", one)
            for server, one in per_server(runs)[:SERVERS_SHOWN]
        ]
        parts.append(f"## {title}\n\n{table(SEARCH_HEAD, lines)}\n\n{_decisions(some)}")
    return [*parts, f"## All algorithms\n\n{table(SEARCH_HEAD, overview)}"] if parts else []


def _short(known: Known) -> str:
    return f"{' '.join(known.tags)}, C {known.capacity_qps:.0f}, cond {known.condition_number:.3g}"


def _decisions(rows: Sequence[Row]) -> str:
    """What a decision cost the controller."""
    counts, means, p99s, longest = np.array([row["decisions_ms"] for row in rows]).T
    mean = float((counts * means).sum() / max(counts.sum(), 1))
    cpu_s = np.mean([row["cpu_s"] for row in rows])
    return (
        f"One decision (tell and ask): mean {mean:.2f} ms; p99 in a run: median {np.median(p99s):.2f}, "
        f"highest {p99s.max():.2f} ms; longest {longest.max():.1f} ms. One run takes {cpu_s:.2f} s of CPU."
    )


SUSTAIN_HEAD = ("group", "runs", "servers", "wrong", "limits", "inconclusive", "mean s")


def sustain_tables(rows: Sequence[Row], known: Mapping[int, Known], title: str) -> list[str]:
    """A table for each controller of a sustain part."""
    parts = []
    for (algorithm,), some in sorted(_by(rows, "algorithm").items()):
        lines = [
            [
                name,
                str(one.runs),
                str(one.servers),
                percent(one.wrong),
                f"{percent(one.wrong_low)}-{percent(one.wrong_high)}",
                percent(one.undecided),
                f"{one.mean_s:.1f}",
            ]
            for name, one in sustain_scores(sustained(some, known)).items()
        ]
        parts.append(f"## {title}: {algorithm}\n\n{table(SUSTAIN_HEAD, lines)}\n\n{_decisions(some)}")
    return parts


def servers_table(known: Mapping[int, Known]) -> str:
    """The population as it was drawn."""
    lines = [
        [str(i), " ".join(k.tags), f"{k.capacity_qps:.1f}", f"{k.condition_number:.3f}"]
        for i, k in sorted(known.items())
    ]
    return "## Servers\n\n" + table(("server", "classes", "capacity", "condition number"), lines)


def all_tables(folder: Path, range_name: str) -> str:
    """Everything that is in the folder of one range."""
    known = known_servers(folder, range_name)
    rows = {part: rows_of(folder, part, range_name) for part in ("search", "sustain", "false-pass", "oracle")}
    parts = [f"# Range {range_name}: {len(known)} servers", servers_table(known)]
    parts += search_tables(rows["search"], known)
    parts += sustain_tables(rows["sustain"], known, "Sustain")
    parts += sustain_tables(rows["false-pass"], known, "Sustain just above the capacity")
    parts += [f"## The bars: {label}\n\n{table(*lines)}" for label, lines in bars(rows, known).items()]
    return "\n\n".join(parts)


def _by(rows: Sequence[Row], *names: str) -> dict[tuple[str | float, ...], list[Row]]:
    found: dict[tuple[str | float, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found
