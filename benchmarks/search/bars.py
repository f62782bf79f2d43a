"""What is to be reached, and what is reached, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from benchmarks.search.algorithms import OURS
from benchmarks.search.files import Row
from benchmarks.search.least import least_of
from benchmarks.search.scoring import GROUPS, Score, ran, score
from benchmarks.search.sustaining import GROUPS as SUSTAIN_GROUPS
from benchmarks.search.sustaining import Sustained, score_sustain, sustained
from benchmarks.search.truths import Known

Lines: TypeAlias = tuple[tuple[str, ...], list[list[str]]]

HEAD = ("bar", "best known", "to reach", "reached", "an oracle")


def _errors(one: Score) -> str:
    return f"{100 * one.median_error:.1f} / {100 * one.p90_error:.1f} %"


def _interval(one: Score) -> str:
    limits = f"{100 * one.coverage_low:.0f}-{100 * one.coverage_high:.0f}"
    return f"{100 * one.coverage:.1f} % ({limits}); {100 * one.median_width:.1f} %"


# Each bar: its words, the best known, what to reach, the group, the budget, and the figure.
SEARCH_BARS: tuple[tuple[str, str, str, str, float, Callable[[Score], str]], ...] = (
    (
        "condition number up to 0.1, 60 s: median / p90 error",
        "1.6 / 4.1 %", "1.2 / 3.2 %", "cond <= 0.1", 60, _errors,
    ),
    ("its interval covers; median width", "90 %; 10.4 %", "88-94 %; 8 %", "cond <= 0.1", 60, _interval),
    (
        "condition number up to 0.1, 120 s: median / p90 error",
        "1.3 / 2.9 %", "0.9 / 2.2 %", "cond <= 0.1", 120, _errors,
    ),
    ("its interval covers; median width", "90 %; 6.3 %", "88-94 %; 5 %", "cond <= 0.1", 120, _interval),
    (
        "the cold among them, 60 s: p90 error",
        "4.4 %", "3.2 %", "cond <= 0.1, cold", 60, lambda one: f"{100 * one.p90_error:.1f} %",
    ),
    (
        "condition number above 0.1, 60 s: interval covers",
        "72 %", "86-96 %", "cond > 0.1", 60, lambda one: f"{100 * one.coverage:.1f} %",
    ),
    (
        "condition number above 0.1, 120 s: interval covers",
        "72 %", "86-96 %", "cond > 0.1", 120, lambda one: f"{100 * one.coverage:.1f} %",
    ),
    (
        "condition number above 0.2, 60 s: called ill_conditioned",
        "0 %", "80 %", "cond > 0.2", 60, lambda one: f"{100 * one.ill_conditioned:.0f} %",
    ),
    (
        "condition number above 0.2, 120 s: called ill_conditioned",
        "0 %", "80 %", "cond > 0.2", 120, lambda one: f"{100 * one.ill_conditioned:.0f} %",
    ),
)  # fmt: skip
SUSTAIN_BARS = (
    (
        "sustain, no pauses: wrong; inconclusive; mean time",
        "0 %; 0-3 %; 2-16 s", "1 %; 5 %; 10 s", "no pauses",
    ),
    (
        "sustain, pauses, condition number up to 0.1: wrong; inconclusive; mean time",
        "0 %; 18-42 %; 25-37 s", "3 %; 10 %; 30 s", "pauses, cond <= 0.1",
    ),
)  # fmt: skip
FALSE_PASS = ("false pass at 1.05 C on any server", "13 %", "5 %")
DECISION = ("controller's time a decision, mean; p99", "-", "5 ms")


def bars(rows: Mapping[str, Sequence[Row]], known: Mapping[int, Known]) -> dict[str, Lines]:
    """The table of bars for the product's search, and for each of its variants under a label of their own."""
    labels = {row["algorithm"] for row in rows["search"]}
    ours = sorted(label for label in labels if label.split("@")[0] == OURS)
    sustain_labels = sorted({row["algorithm"] for row in [*rows["sustain"], *rows["false-pass"]]})
    found: dict[str, Lines] = {label: (HEAD, _search_lines(rows, known, label)) for label in ours}
    found |= {label: (HEAD, _sustain_lines(rows, known, label)) for label in sustain_labels}
    return found


def _search_lines(
    rows: Mapping[str, Sequence[Row]], known: Mapping[int, Known], label: str
) -> list[list[str]]:
    lines = []
    of_label = [row for row in rows["search"] if row["algorithm"] == label]
    for words, best, bar, group, budget, figure in SEARCH_BARS:
        runs = [
            run for run in ran([r for r in of_label if r["budget"] == budget], known) if GROUPS[group](run)
        ]
        oracle = oracle_figure(rows["oracle"], known, group, budget) if "error" in words else ""
        lines.append([words, best, bar, figure(score(runs)) if runs else "-", oracle])
    if of_label:
        counts, means, p99s, _ = np.array([row["decisions_ms"] for row in of_label]).T
        mean = (counts * means).sum() / max(counts.sum(), 1)
        lines.append([*DECISION, f"{mean:.2f}; {np.median(p99s):.2f} ms", ""])
    return lines


def _sustain_lines(
    rows: Mapping[str, Sequence[Row]], known: Mapping[int, Known], label: str
) -> list[list[str]]:
    lines = []
    runs = sustained([row for row in rows["sustain"] if row["algorithm"] == label], known)
    for words, best, bar, group in SUSTAIN_BARS:
        part = [run for run in runs if SUSTAIN_GROUPS[group](run)]
        lines.append([words, best, bar, _sustain_figure(part), _least_figure(part, known)])
    above = sustained([row for row in rows["false-pass"] if row["algorithm"] == label], known)
    lines.append([*FALSE_PASS, _false_pass_figure(above), ""])
    return lines


def _sustain_figure(runs: Sequence[Sustained]) -> str:
    if not runs:
        return "-"
    one = score_sustain(runs)
    worst_s = max(
        score_sustain([run for run in runs if run.ratio == ratio]).mean_s for ratio in {r.ratio for r in runs}
    )
    return (
        f"{100 * one.wrong:.1f} % (up to {100 * one.wrong_high:.1f}); {100 * one.undecided:.1f} %; "
        f"{one.mean_s:.1f} s (slowest rate {worst_s:.1f})"
    )


def _least_figure(runs: Sequence[Sustained], known: Mapping[int, Known]) -> str:
    """What one who knows all of the same servers would leave undecided, and need."""
    least = least_of([known[index] for index in sorted({run.server for run in runs})])
    if least is None:
        return ""
    spikes = f"no spike shown in {100 * least.unseen:.1f} %"
    return f"{100 * least.undecided:.1f} %; {least.mean_s:.1f} s; {spikes}"


def _false_pass_figure(runs: Sequence[Sustained]) -> str:
    if not runs:
        return "-"
    one = score_sustain(runs)
    return f"{100 * one.wrong:.1f} % ({100 * one.wrong_low:.1f}-{100 * one.wrong_high:.1f}, {one.runs} runs)"


def oracle_figure(rows: Sequence[Row], known: Mapping[int, Known], group: str, budget: float) -> str:
    """Median and p90 error of who knows the server's form, in the same group of servers."""
    errors = [
        abs(error)
        for row in rows
        if (server := known.get(row["server"])) is not None and server.mark == row["mark"]
        if row["budget"] == budget and _in_group(server, group)
        for error in row["errors"]
    ]
    if not errors:
        return "-"
    return f"{100 * float(np.median(errors)):.1f} / {100 * float(np.quantile(errors, 0.9)):.1f} %"


def _in_group(known: Known, group: str) -> bool:
    blank = ran(
        [
            {
                "server": known.index, "mark": known.mark, "capacity": None, "low": None, "high": None,
                "status": "", "load_s": math.nan,
            }
        ],
        {known.index: known},
    )  # fmt: skip
    return GROUPS[group](blank[0])
