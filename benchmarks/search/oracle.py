"""What the count of late requests can tell at best, all of the budget spent at the capacity.

The oracle knows the server's form exactly but for a scale of the rate. It is played warm at its capacity for
the whole budget, counts the late requests, and reads the rate that this share belongs to off the true curve,
which is tabulated with common random numbers. No search that only counts does better; one that does has made
the rest of the latencies speak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.search.files import Appending, Row
from benchmarks.search.playing import Case
from benchmarks.search.pool import results_of
from benchmarks.search.population import SLO_50
from benchmarks.search.runs import key_of, results_path, rows_of
from benchmarks.search.truths import Known, arrivals_alone
from pytest_capacity.protocols import Floats
from pytest_capacity.simulate.truth import bad_shares

RATIOS = np.exp(np.linspace(-0.2, 0.2, 9))
CURVE_REQUESTS = 1_000_000
RUNS = 50
SEED_OFFSET = 1_000_000


def oracle_runs(
    folder: Path, range_name: str, servers: Iterable[Known], budgets: Sequence[float], processes: int
) -> None:
    """Play the oracle on every server that it has not been played on."""
    done = {key_of(row) for row in rows_of(folder, "oracle", range_name)}
    jobs = [(known, [budget for budget in budgets if _key(known, budget) not in done]) for known in servers]
    with Appending(results_path(folder, "oracle", range_name)) as out:
        for rows in results_of(play_oracle, [job for job in jobs if job[1]], processes, "oracle"):
            for row in rows:
                out.add(row)


def _key(known: Known, budget: float) -> tuple[object, ...]:
    return ("oracle", known.index, known.mark, 0, budget, 1.0)


def play_oracle(job: tuple[Known, list[float]]) -> list[Row]:
    """The oracle's errors on one server, a row for each budget."""
    known, budgets = job
    uses = np.array([_use(known, ratio * known.capacity_qps) for ratio in RATIOS])
    rows = []
    for budget in budgets:
        errors = []
        for seed in range(RUNS):
            case = Case(known, SEED_OFFSET + seed, budget)
            use = _use_in(case)
            # The share that is met at rate 1 belongs to rate ``ratio``: the oracle takes the server to be so
            # much nearer to its limit, and its capacity to be so much smaller.
            errors.append(1 / ratio_of(use, uses) - 1)
        rows.append(
            {
                "algorithm": "oracle", "server": known.index, "mark": known.mark, "seed": 0, "budget": budget,
                "ratio": 1.0, "errors": [round(error, 5) for error in errors],
            }
        )  # fmt: skip
    return rows


def ratio_of(use: float, uses: Floats) -> float:
    """The rate over the capacity at which so many times the allowed share is used.

    ``uses`` is the curve at ``RATIOS``, made monotone; between its points and beyond its ends it runs
    straight in logarithms.
    """
    x, y = np.log(RATIOS), np.maximum.accumulate(np.log(uses)) + 1e-9 * np.arange(len(uses))
    at = int(np.clip(np.searchsorted(y, math.log(use)), 1, len(y) - 1))
    slope = (x[at] - x[at - 1]) / (y[at] - y[at - 1])
    reach = x[at - 1] + slope * (math.log(use) - y[at - 1])
    return float(np.exp(np.clip(reach, 2 * x[0], 2 * x[-1])))


def _use(known: Known, rate_qps: float) -> float:
    seconds = CURVE_REQUESTS / rate_qps
    shares, count = bad_shares(
        known.spec, SLO_50, rate_qps, seconds, arrivals=arrivals_alone(known.index), seed=known.index
    )
    return _largest(shares, count)


def _use_in(case: Case) -> float:
    """The use of the allowed share in one budget at the capacity, on a warm server that is under way."""
    known = case.known
    seed = int(np.random.SeedSequence([known.index, case.seed]).generate_state(1)[0])
    shares, count = bad_shares(
        known.spec, SLO_50, known.capacity_qps, case.budget_s, arrivals=case.arrivals(), seed=seed
    )
    return _largest(shares, count)


def _largest(shares: Floats, count: int) -> float:
    """By the bound that uses most; half a request where there is none, for the logarithm."""
    least = 0.5 / max(count, 1)
    uses = [max(s, least) / b.allowed_share for s, b in zip(shares.tolist(), SLO_50.bounds, strict=True)]
    return float(max(uses))
