"""All runs of a part: what is still to do, doing it, and what is there."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search.algorithms import ALGORITHMS
from benchmarks.search.files import Appending, Row, read_rows
from benchmarks.search.playing import Case, load_s, play
from benchmarks.search.pool import at_most, results_of
from benchmarks.search.population import SLO_50
from benchmarks.search.truths import Known
from pytest_capacity.search.sustain import Sustain

SUSTAIN_RATIOS = (0.8, 0.9, 1.1, 1.2)
SUSTAIN_BUDGET_S = 60.0
MOST_WALL_S = 300.0
NO_DECISIONS = (0, 0.0, 0.0, 0.0)
FALSE_PASS_RATIO = 1.05
FALSE_PASS_RUNS = 300


@dataclass(frozen=True)
class Job:
    """One run. ``label`` is the name in the results; ``ratio`` is for sustain, the rate over the capacity."""

    part: str
    algorithm: str
    label: str
    known: Known
    seed: int
    budget_s: float
    ratio: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What makes a run the same run."""
        return (self.label, self.known.index, self.known.mark, self.seed, self.budget_s, self.ratio)


def key_of(row: Row) -> tuple[object, ...]:
    """The key of the run that a row is of."""
    return tuple(row[name] for name in ("algorithm", "server", "mark", "seed", "budget", "ratio"))


def results_path(folder: Path, part: str, range_name: str) -> Path:
    """Where the results of a part are kept."""
    return folder / f"{part}-{range_name}.jsonl"


def rows_of(folder: Path, part: str, range_name: str) -> list[Row]:
    """The last row of every run that ended without an error."""
    rows = {key_of(row): row for row in read_rows(results_path(folder, part, range_name))}
    return [row for row in rows.values() if "error" not in row]


def named(name: str, label: str) -> str:
    """The name in the results: a changed algorithm stands beside what it was."""
    return f"{name}@{label}" if label else name


def search_jobs(
    servers: Iterable[Known], seeds: int, budgets: Sequence[float], algorithms: Sequence[str], label: str
) -> list[Job]:
    """Every run of the search part, seed by seed: what is there at any time covers all servers alike."""
    known = list(servers)
    return [
        Job("search", name, named(name, label), server, seed, budget)
        for seed in range(seeds)
        for budget in budgets
        for name in algorithms
        for server in known
    ]


def sustain_jobs(servers: Iterable[Known], seeds: int, label: str) -> list[Job]:
    """Every run of the sustain part."""
    known = list(servers)
    return [
        Job("sustain", "sustain", named("sustain", label), server, seed, SUSTAIN_BUDGET_S, ratio)
        for seed in range(seeds)
        for ratio in SUSTAIN_RATIOS
        for server in known
    ]


def false_pass_jobs(servers: Iterable[Known], label: str, runs: int = FALSE_PASS_RUNS) -> list[Job]:
    """Runs just above the capacity, spread over the servers."""
    known = list(servers)
    return [
        Job(
            "false-pass",
            "sustain",
            named("sustain", label),
            known[run % len(known)],
            run // len(known),
            SUSTAIN_BUDGET_S,
            FALSE_PASS_RATIO,
        )
        for run in range(runs)
    ]


def do_missing(folder: Path, range_name: str, jobs: Sequence[Job], processes: int) -> int:
    """Do the runs that are not there yet; returns how many ended in an error."""
    if not jobs:
        return 0
    part, errors = jobs[0].part, 0
    done = {key_of(row) for row in rows_of(folder, part, range_name)}
    missing = [job for job in jobs if job.key not in done]
    with Appending(results_path(folder, part, range_name)) as out:
        for row in results_of(run, missing, processes, part):
            errors += "error" in row
            out.add(row)
    return errors


def run(job: Job) -> Row:
    """Play one run; an algorithm's own error is a row too, which a later start tries again."""
    start_s = time.process_time()
    row: Row = {
        "algorithm": job.label,
        "server": job.known.index,
        "mark": job.known.mark,
        "seed": job.seed,
        "budget": job.budget_s,
        "ratio": job.ratio,
    }
    case = Case(job.known, job.seed, job.budget_s)
    try:
        with at_most(MOST_WALL_S):
            row |= _search(job, case) if job.part == "search" else _sustain(job, case)
    except Exception:  # noqa: BLE001 - whatever it is, the other runs go on
        row["error"] = traceback.format_exc(limit=-4)
    row["cpu_s"] = round(time.process_time() - start_s, 3)
    return row


def _search(job: Job, case: Case) -> Row:
    found = ALGORITHMS[job.algorithm](case)
    return {
        "capacity": found.capacity_qps,
        "low": found.low_qps,
        "high": found.high_qps,
        "status": found.status,
        "condition": found.condition_number,
        "load_s": round(found.load_s, 4),
        "requests": found.requests,
        "decisions_ms": found.decisions_ms,
    }


def _sustain(job: Job, case: Case) -> Row:
    rate = job.ratio * job.known.capacity_qps
    try:
        controller = Sustain(SLO_50, rate, min_s=10, budget_s=job.budget_s, seed=job.seed)
    except ValueError as error:
        # The product refuses before any load where no verdict can be reached: one more that is undecided.
        reason = f"refused: {error}"
        return {
            "verdict": "NONE",
            "stop_reason": reason,
            "load_s": 0.0,
            "requests": 0,
            "decisions_ms": NO_DECISIONS,
        }
    drive, timed = play(case, controller, controller.extend)
    result = controller.result()
    return {
        "verdict": result.verdict.name if result.verdict else "NONE",
        "stop_reason": result.stop_reason,
        "load_s": round(load_s(drive), 4),
        "requests": result.requests,
        "decisions_ms": timed.decisions_ms(),
    }
