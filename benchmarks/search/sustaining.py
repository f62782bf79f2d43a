"""Figures of sustain runs: how often wrong, how often undecided, how long. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.search.files import Row
from benchmarks.search.scoring import WELL_POSED, share_with_limits
from benchmarks.search.truths import Known


@dataclass(frozen=True)
class Sustained:
    """One sustain run at ``ratio`` times the capacity."""

    server: int
    condition_number: float
    tags: tuple[str, ...]
    ratio: float
    verdict: str
    load_s: float

    @property
    def wrong(self) -> bool:
        """Whether the verdict is the opposite of the truth."""
        return self.verdict == ("FAIL" if self.ratio < 1 else "PASS")

    @property
    def undecided(self) -> bool:
        """Whether there was neither a pass nor a fail."""
        return self.verdict not in ("PASS", "FAIL")


def sustained(rows: Iterable[Row], known: Mapping[int, Known]) -> list[Sustained]:
    """Join results with what is known of the servers; others are passed over."""
    return [
        Sustained(
            row["server"], server.condition_number, server.tags, row["ratio"], row["verdict"], row["load_s"]
        )
        for row in rows
        if (server := known.get(row["server"])) is not None and server.mark == row["mark"]
    ]


GROUPS: dict[str, Callable[[Sustained], bool]] = {
    "no pauses": lambda run: "pauses" not in run.tags,
    "no pauses, warm": lambda run: not {"pauses", "cold"} & set(run.tags),
    "no pauses, cold": lambda run: "pauses" not in run.tags and "cold" in run.tags,
    "pauses, cond <= 0.1": lambda run: "pauses" in run.tags and run.condition_number <= WELL_POSED,
    "pauses, cond > 0.1": lambda run: "pauses" in run.tags and run.condition_number > WELL_POSED,
    "all": lambda _run: True,
}


@dataclass(frozen=True)
class SustainScore:
    """The figures of one group; limits of the wrong share are 95 % on each side, clustered by server."""

    runs: int
    servers: int
    wrong: float
    wrong_low: float
    wrong_high: float
    undecided: float
    mean_s: float


def score_sustain(runs: Sequence[Sustained]) -> SustainScore:
    """The figures of some runs."""
    wrong, low, high = share_with_limits([(run.server, run.wrong) for run in runs])
    count = len(runs)
    return SustainScore(
        count,
        len({run.server for run in runs}),
        wrong,
        low,
        high,
        sum(run.undecided for run in runs) / count if count else math.nan,
        sum(run.load_s for run in runs) / count if count else math.nan,
    )


def sustain_scores(runs: Sequence[Sustained]) -> dict[str, SustainScore]:
    """The figures of every group at each rate, and at all of them together."""
    found = {}
    for name, test in GROUPS.items():
        part = [run for run in runs if test(run)]
        for ratio in sorted({run.ratio for run in part}):
            found[f"{name}, {ratio:g} C"] = score_sustain([run for run in part if run.ratio == ratio])
        if part:
            found[name] = score_sustain(part)
    return found
