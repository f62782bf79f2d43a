"""The algorithms that are compared, by name."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.search.baselines import (
    AdaptiveScale,
    Bisection,
    Doubling,
    PerfAnalyzer,
    ProbabilisticBisection,
    Staircase,
    WarmBisection,
)
from benchmarks.search.mlrsearch import mlr_search
from benchmarks.search.playing import Case, Found, load_s, play
from benchmarks.search.population import SLO_50
from benchmarks.search.qbs import QBS
from benchmarks.search.scripted import Scripted
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.search.found import CapacityResult

OURS = "capacity-search"


def capacity_search(case: Case) -> Found:
    """The product's search, with its own defaults."""
    controller = CapacitySearch(SLO_50, budget_s=case.budget_s, seed=case.seed)
    drive, timed = play(case, controller)
    result: CapacityResult = controller.result()
    return Found(
        result.capacity_qps,
        result.ci_low_qps,
        result.ci_high_qps,
        result.status,
        result.condition_number,
        load_s(drive),
        result.requests,
        timed.decisions_ms(),
    )


def _scripted(make: Callable[[Case], Scripted]) -> Callable[[Case], Found]:
    """Play a baseline that ``make`` makes for a case."""

    def find(case: Case) -> Found:
        controller = make(case)
        drive, timed = play(case, controller)
        capacity, low, high = controller.answer()
        return Found(
            capacity,
            low,
            high,
            controller.status,
            None,
            load_s(drive),
            controller.requests,
            timed.decisions_ms(),
        )

    return find


ALGORITHMS: dict[str, Callable[[Case], Found]] = {
    OURS: capacity_search,
    "qbs": _scripted(lambda case: QBS(case.budget_s)),
    "bisection-10": _scripted(lambda case: Bisection(case.bracket(), case.budget_s, 10.0)),
    "bisection-30": _scripted(lambda case: Bisection(case.bracket(), case.budget_s, 30.0)),
    "bisection-warm": _scripted(lambda case: WarmBisection(case.bracket(), case.budget_s, 10.0)),
    "doubling": _scripted(lambda case: Doubling(case.bracket(), case.budget_s, 10.0)),
    "perf-analyzer": _scripted(lambda case: PerfAnalyzer(case.bracket(), case.budget_s)),
    "adaptive-scale": _scripted(lambda case: AdaptiveScale(case.bracket(), case.budget_s)),
    "staircase": _scripted(lambda case: Staircase(case.bracket(), case.budget_s)),
    "pba": _scripted(lambda case: ProbabilisticBisection(case.bracket(), case.budget_s)),
    "mlrsearch": lambda case: mlr_search(case, trial_s=1.0, sum_s=21.0),
    "mlrsearch-5": lambda case: mlr_search(case, trial_s=5.0, sum_s=20.0),
}
