"""The fixtures: a session-wide target, and a function-wide driver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pytest_capacity.plugin.collecting import NO_TARGET
from pytest_capacity.plugin.demand import read_demand
from pytest_capacity.plugin.state import SETTINGS
from pytest_capacity.slo import SLO, CapacityUsageError

if TYPE_CHECKING:
    from pytest_capacity.results.measured import Measured


@pytest.fixture(scope="session")
def capacity_target(pytestconfig: pytest.Config) -> object:
    """Where load goes: override it to return a URL or an HttpTarget; by default --capacity-url."""
    url = pytestconfig.stash[SETTINGS].url
    if url is None:
        raise pytest.UsageError(NO_TARGET)
    return url


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

        _refuse_running_loop()
        try:
            demand = read_demand(
                {
                    "qps": qps,
                    "slo": slo,
                    "arrivals": arrivals,
                    "budget_s": budget_s,
                    "min_s": min_s,
                    "max_in_flight": max_in_flight,
                    "model": model,
                    **bounds,
                }
            )
        except (TypeError, ValueError) as error:
            raise CapacityUsageError(str(error)) from None
        return measure(self._item, self._target if target is None else target, demand, source="call")


@pytest.fixture
def capacity(request: pytest.FixtureRequest, capacity_target: object) -> Capacity:
    """Measure from the test's own code: ``capacity.sustain(qps=200, slo=SLO(p99_ms=50))``."""
    item = request.node
    assert isinstance(item, pytest.Item)  # noqa: S101 - a function-scoped fixture's node is its test
    return Capacity(item, capacity_target)


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CapacityUsageError(
        "capacity.sustain() would block the running event loop, and any server on it: "
        "use a plain test function, or await asyncio.to_thread(capacity.sustain, ...)"
    )
