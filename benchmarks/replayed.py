"""A trace replayed against a server, with what was really sent when: for comparing it with the recording."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pytest_capacity import HttpTarget
from pytest_capacity.load.engines import engine_named
from pytest_capacity.measurement import Conditions, ReplayRequest, ReplayRun, load_recorded
from pytest_capacity.measurement.replaying import Played, Replay
from pytest_capacity.measurement.run import rows_of
from pytest_capacity.measurement.sources import Source
from pytest_capacity.measurement.traced import sent_traffic
from pytest_capacity.protocols import Outcome, Samples, Target
from pytest_capacity.slo import SLO, Verdict
from pytest_capacity.traffic.fidelity import Statistic, fidelity, sender_statistic
from pytest_capacity.traffic.pattern import Traffic

MOST_AT_END, SAME_S = 20, 1e-3


@dataclass(frozen=True)
class Watched(Conditions):
    """Conditions that keep the source made under them."""

    sources: list[Source] = field(default_factory=list)

    def source(self, target: Target, rng: np.random.Generator) -> Source:
        """As any, and kept."""
        made = super().source(target, rng)
        self.sources.append(made)
        return made


@dataclass(frozen=True)
class Replayed:
    """A whole recording as it was sent: the plan, and what became of each request."""

    recorded: Traffic
    played: Played
    samples: Samples
    limit_s: float
    verdict: Verdict | None

    @property
    def in_time(self) -> float:
        """The share of requests answered well within the limit, from when each was due."""
        latency_s = self.samples.done_s - self.samples.intended_s
        return float(np.mean((self.samples.outcome == Outcome.GOOD) & (latency_s <= self.limit_s)))

    @property
    def unanswered(self) -> int:
        """Requests without a good reply, however late."""
        return int((self.samples.outcome != Outcome.GOOD).sum())


def replay(trace: Path, url: str, limit_ms: float, seed: int) -> Replayed:
    """Send the trace once at its own rate; raises SystemExit where the server did not take it."""
    conditions = Watched(engine_named("fast"), seed, trace=load_recorded(trace, seed))
    measured = ReplayRun(HttpTarget(url), ReplayRequest(SLO(p99_ms=limit_ms)), conditions).run()
    (source,) = conditions.sources
    if measured.state != "complete" or not isinstance(source, Replay):
        raise SystemExit(f"the replay ended early: {measured.message or measured.stop_reason}")
    played, samples = paired(source.played[-1], measured.probes[-1].samples)
    return Replayed(source.recorded.traffic, played, samples, limit_ms / 1000, measured.verdict)


def paired(played: Played, samples: Samples) -> tuple[Played, Samples]:
    """The rows and their samples, as far as both are there: at the very end one may be without the other.

    Raises SystemExit where a sample is not that of its row.
    """
    count = min(len(played.rows), len(samples))
    apart_s = (samples.intended_s[:count] - samples.intended_s[0]) - (
        played.offsets_s[:count] - played.offsets_s[0]
    )
    if abs(len(played.rows) - len(samples)) > MOST_AT_END or np.abs(apart_s).max() > SAME_S:
        raise SystemExit(f"{len(played.rows)} requests were due, and {len(samples)} others were sent")
    first = np.arange(len(samples)) < count
    return (
        replace(played, offsets_s=played.offsets_s[:count], rows=played.rows[:count]),
        rows_of(samples, first),
    )


def compared(replayed: Replayed) -> tuple[Statistic, ...]:
    """The fidelity vector of what was sent, each request at the moment when it left."""
    late_s = replayed.samples.sent_s - replayed.samples.intended_s
    sent = sent_traffic(replayed.recorded, replayed.played, replayed.played.offsets_s + late_s, is_whole=True)
    if sent is None:
        raise SystemExit("nothing was sent")
    sender = sender_statistic(float(np.quantile(late_s, 0.99)), replayed.limit_s)
    return (*fidelity(replayed.recorded, sent)[:-1], sender)
