"""MLRsearch 1.2.1 (FD.io CSIT's own package) with a simulated server as the system under test.

Its goal is a loss ratio of one percent, lost meaning late or failed, at a relative width of 3 %; the rest are
the package's defaults unless said otherwise. It calls its measurer and waits, so that the server is played
right under it; after each trial nothing is sent until every reply is there.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from MLRsearch import (  # type: ignore[import-untyped]
    AbstractMeasurer,
    Config,
    MeasurementResult,
    MultipleLossRatioSearch,
    SearchGoal,
)

from benchmarks.search.playing import Case, Found
from benchmarks.search.population import ALLOWED, LIMIT_S

WIDTH = 0.03
LEAST_SHARE = 0.1
"""The least load is a tenth of the bracket's lower end: a search that strays down may come back."""


class BudgetSpentError(Exception):
    """The load that may be offered is used up."""


class Measurer(AbstractMeasurer):  # type: ignore[misc]  # the package has no types
    """Plays trials on a simulated server until the budget is spent."""

    def __init__(self, case: Case) -> None:
        self._server, self._arrivals = case.server(), case.arrivals()
        self._budget_s, self._timeout_s = case.budget_s, case.known.spec.timeout_s

    @property
    def load_s(self) -> float:
        """How long the load lasted, waiting included."""
        return self._server.now_s

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return len(self._server.arrived_s)

    def measure(self, intended_duration: float, intended_load: float) -> Any:
        """One trial; raises BudgetSpentError where it would not be over in time."""
        server = self._server
        start_s, first = server.now_s, len(server.arrived_s)
        end_s = start_s + intended_duration
        if end_s > self._budget_s:
            raise BudgetSpentError
        server.offer(self._arrivals.draw(intended_load, start_s, end_s), end_s)
        arrived = np.array(server.arrived_s[first:])
        self._wait(first)
        replied = np.array(server.replied_s[first:])
        late = int((~(replied - arrived <= LIMIT_S)).sum())
        return MeasurementResult(
            intended_duration=intended_duration,
            intended_load=intended_load,
            offered_count=len(arrived),
            loss_count=late,
            duration_with_overheads=server.now_s - start_s,
        )

    def _wait(self, first: int) -> None:
        """Until the last reply, or the client's patience ends; not beyond the budget."""
        server = self._server
        while server.now_s < self._budget_s:
            arrived, replied = np.array(server.arrived_s[first:]), np.array(server.replied_s[first:])
            ends = np.where(np.isnan(replied), arrived, np.minimum(replied, arrived + self._timeout_s))
            if not (ends > server.now_s).any():
                return
            server.offer((), min(server.now_s + LIMIT_S, self._budget_s))


def mlr_search(case: Case, *, trial_s: float, sum_s: float) -> Found:
    """Run it between a tenth of the bracket's lower end and its upper end."""
    low, high = case.bracket()
    goal = SearchGoal(
        loss_ratio=ALLOWED,
        relative_width=WIDTH,
        final_trial_duration=trial_s,
        duration_sum=sum_s,
        fail_fast=False,
    )
    config = Config(goals=[goal], min_load=LEAST_SHARE * low, max_load=high, search_duration_max=1e9)
    measurer, search = Measurer(case), MultipleLossRatioSearch(config)
    status, started_s = "converged", time.thread_time()
    try:
        search.search(measurer, debug=lambda _message: None)
    except BudgetSpentError:
        status = "budget"
    capacity, lower, upper = _bounds(search)
    spent_ms = 1000 * (time.thread_time() - started_s)
    return Found(
        capacity,
        lower,
        upper,
        status,
        None,
        measurer.load_s,
        measurer.requests,
        (1, 0.0, 0.0, round(spent_ms, 2)),
    )


def _bounds(search: Any) -> tuple[float | None, float | None, float | None]:
    """The narrowest bounds of any of its targets, else whichever the goal itself has; first the estimate.

    That is the middle where both bounds are near, and before that the lower one, which is what the package
    itself would report.
    """
    found = [
        search.database.get_relevant_bounds(target=target) for target in reversed(search.scaling.targets)
    ]
    pairs = [(_load(bounds.clo), _load(bounds.chi)) for bounds in found]
    whole = [(low, high) for low, high in pairs if low and high]
    low, high = min(whole, key=lambda pair: pair[1] / pair[0]) if whole else pairs[0]
    if low and high and high / low - 1 <= 4 * WIDTH:
        return math.sqrt(low * high), low, high
    return low or high, low, high


def _load(bound: Any) -> float | None:
    return None if bound is None else float(bound)
