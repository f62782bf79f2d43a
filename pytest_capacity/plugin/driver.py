"""What a test's own code measures with."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from pytest_capacity.plugin.demand import read_demand, read_search_demand
from pytest_capacity.slo import SLO, CapacityUsageError

if TYPE_CHECKING:
    from pytest_capacity.results.measured import Measured


class Capacity:
    """Measures from a test's own code; what the ``capacity`` fixture returns."""

    def __init__(self, item: pytest.Item, target: object) -> None:
        self._item, self._target = item, target

    def sustain(
        self,
        *,
        qps: float,
        slo: SLO | None = None,
        target: object = None,
        arrivals: str = "poisson",
        budget_s: float = 60.0,
        min_s: float = 10.0,
        max_in_flight: int | None = None,
        model: dict[str, object] | None = None,
        **bounds: float,
    ) -> Measured:
        """Require that the target sustains ``qps`` requests a second under an SLO, and return what was seen.

        Bounds may be said in place of ``slo``: ``sustain(qps=200, p99_ms=50)``. ``target`` replaces the
        test's capacity_target. Takes ``min_s`` to ``budget_s`` seconds, once more as long where undecided.

        Raises SLOViolation where the SLO does not hold, Inconclusive where neither could be shown, and
        CapacityUsageError for a demand that cannot be measured.
        """
        __tracebackhide__ = True
        from pytest_capacity.plugin.measuring import measure  # noqa: PLC0415 - imports what measures

        _refuse_running_loop("sustain")
        given = {"qps": qps, "slo": slo, "arrivals": arrivals, "budget_s": budget_s, "min_s": min_s}
        try:
            demand = read_demand({**given, "max_in_flight": max_in_flight, "model": model, **bounds})
        except (TypeError, ValueError) as error:
            raise CapacityUsageError(str(error)) from None
        return measure(self._item, self._target if target is None else target, demand, source="call")

    def search(
        self,
        *,
        slo: SLO | None = None,
        require_qps: float | None = None,
        allow: str | Iterable[str] = (),
        min_qps: float | None = None,
        max_qps: float | None = None,
        budget_s: float = 60.0,
        tolerance: float = 0.08,
        target: object = None,
        arrivals: str = "poisson",
        max_in_flight: int | None = None,
        model: dict[str, object] | None = None,
        **bounds: float,
    ) -> Measured:
        """Find the highest rate up to which an SLO holds, and return it with its 90 % interval.

        ``require_qps`` makes it an assertion: it passes where the interval's lower end reaches that rate and
        fails where its upper end is below it. ``allow`` names statuses that are accepted all the same, such
        as ``"budget"`` for a wide interval. Rates stay within ``min_qps`` and ``max_qps``, and the load
        within ``budget_s`` seconds; an interval of ``tolerance`` of the capacity ends it earlier.

        Raises SLOViolation below the requirement, Inconclusive where the search shows too little, and
        CapacityUsageError for a search that cannot be made.
        """
        __tracebackhide__ = True
        from pytest_capacity.plugin.measuring import search  # noqa: PLC0415 - imports what measures

        _refuse_running_loop("search")
        rates = {"require_qps": require_qps, "min_qps": min_qps, "max_qps": max_qps}
        how = {"budget_s": budget_s, "tolerance": tolerance, "arrivals": arrivals, "allow": allow, "slo": slo}
        try:
            demand = read_search_demand(
                {**rates, **how, "max_in_flight": max_in_flight, "model": model, **bounds}
            )
        except (TypeError, ValueError) as error:
            raise CapacityUsageError(str(error)) from None
        return search(self._item, self._target if target is None else target, demand)


def _refuse_running_loop(name: str) -> None:
    __tracebackhide__ = True
    # Importing asyncio here would cost every suite; where nobody has, no loop can be running.
    if "asyncio" not in sys.modules:
        return
    try:
        sys.modules["asyncio"].get_running_loop()
    except RuntimeError:
        return
    raise CapacityUsageError(
        f"capacity.{name}() would block the running event loop, and any server on it: use the fixture "
        f"async_capacity and await async_capacity.{name}(...), or a plain test function"
    )
