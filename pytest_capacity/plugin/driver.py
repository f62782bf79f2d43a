"""What a test's own code measures with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pytest

from pytest_capacity.plugin.demand import read_demand, read_replay_demand, read_search_demand
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
        slo: SLO | Mapping[str, SLO] | None = None,
        target: object = None,
        trace: str | os.PathLike[str] | None = None,
        trace_mode: str | None = None,
        trace_ticks: str | None = None,
        sessions: str | None = None,
        arrivals: str | None = None,
        budget_s: float = 60.0,
        min_s: float = 10.0,
        max_in_flight: int | None = None,
        model: dict[str, object] | None = None,
        **bounds: float,
    ) -> Measured:
        """Require that the target sustains ``qps`` requests a second under an SLO, and return what was seen.

        Bounds may be said in place of ``slo``: ``sustain(qps=200, p99_ms=50)``; ``slo`` may hold an SLO for
        each of several operations. ``target`` replaces the test's capacity_target. ``trace`` is the path of
        recorded traffic to send at that rate, relative to the test's file or the root directory; above its
        own rate shifted copies are superposed, or its time is compressed (``trace_mode="compress"``). What
        a coarse clock put together is spread within its tick, unless ``trace_ticks="kept"``. Turns
        of its sessions leave when they were recorded; with ``sessions="causal"`` each after the reply to the
        one before and the recorded time between them.
        ``arrivals`` is "poisson" unless it says "constant". Takes ``min_s`` to ``budget_s`` seconds, once
        more as long where undecided.

        Raises SLOViolation where the SLO does not hold, Inconclusive where neither could be shown, and
        CapacityUsageError for a demand that cannot be measured.
        """
        __tracebackhide__ = True
        from pytest_capacity.plugin.measuring import measure  # noqa: PLC0415 - imports what measures

        _refuse_running_loop("sustain")
        given = {"qps": qps, "slo": slo, "arrivals": arrivals, "budget_s": budget_s, "min_s": min_s}
        traced = {
            "trace": trace,
            "trace_mode": trace_mode,
            "trace_ticks": trace_ticks,
            "sessions": sessions,
        }
        try:
            demand = read_demand(
                {**given, **traced, "max_in_flight": max_in_flight, "model": model, **bounds}
            )
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
        trace: str | os.PathLike[str] | None = None,
        trace_mode: str | None = None,
        trace_ticks: str | None = None,
        sessions: str | None = None,
        arrivals: str | None = None,
        max_in_flight: int | None = None,
        model: dict[str, object] | None = None,
        **bounds: float,
    ) -> Measured:
        """Find the highest rate up to which an SLO holds, and return it with its 90 % interval.

        ``require_qps`` makes it an assertion: it passes where the interval's lower end reaches that rate and
        fails where its upper end is below it. ``allow`` names statuses that are accepted all the same, such
        as ``"budget"`` for a wide interval. Rates stay within ``min_qps`` and ``max_qps``, and the load
        within ``budget_s`` seconds; an interval of ``tolerance`` of the capacity ends it earlier. With a
        ``trace`` recorded traffic is sent at each rate, as for ``sustain``, from rows not sent before.

        Raises SLOViolation below the requirement, Inconclusive where the search shows too little, and
        CapacityUsageError for a search that cannot be made.
        """
        __tracebackhide__ = True
        from pytest_capacity.plugin.measuring import search  # noqa: PLC0415 - imports what measures

        _refuse_running_loop("search")
        rates = {"require_qps": require_qps, "min_qps": min_qps, "max_qps": max_qps}
        how = {"budget_s": budget_s, "tolerance": tolerance, "arrivals": arrivals, "allow": allow, "slo": slo}
        traced = {
            "trace": trace,
            "trace_mode": trace_mode,
            "trace_ticks": trace_ticks,
            "sessions": sessions,
        }
        try:
            demand = read_search_demand(
                {**rates, **how, **traced, "max_in_flight": max_in_flight, "model": model, **bounds}
            )
        except (TypeError, ValueError) as error:
            raise CapacityUsageError(str(error)) from None
        return search(self._item, self._target if target is None else target, demand)

    def replay(
        self,
        trace: str | os.PathLike[str],
        *,
        slo: SLO | Mapping[str, SLO] | None = None,
        rate: float | None = None,
        qps: float | None = None,
        duration_s: float | None = None,
        target: object = None,
        trace_mode: str | None = None,
        trace_ticks: str | None = None,
        sessions: str | None = None,
        max_in_flight: int | None = None,
        model: dict[str, object] | None = None,
        **bounds: float,
    ) -> Measured:
        """Require that recorded traffic, sent as it was recorded, keeps an SLO, and return what was seen.

        ``trace`` is its path, relative to the test's file or the root directory. It is sent at the recorded
        rate, at ``rate`` times that, or at ``qps`` on average, once from its beginning to its end or for
        ``duration_s`` seconds, after a short warm-up; ``trace_mode``, ``trace_ticks`` and ``sessions`` are as
        for ``sustain``.
        ``slo`` may hold an SLO for each of several operations.

        Raises SLOViolation where the SLO does not hold, Inconclusive where neither could be shown, and
        CapacityUsageError for a replay that cannot be made.
        """
        __tracebackhide__ = True
        from pytest_capacity.plugin.measuring import replay  # noqa: PLC0415 - imports what measures

        _refuse_running_loop("replay")
        given = {"trace": trace, "slo": slo, "rate": rate, "qps": qps, "duration_s": duration_s}
        how = {
            "trace_mode": trace_mode,
            "trace_ticks": trace_ticks,
            "sessions": sessions,
            "max_in_flight": max_in_flight,
            "model": model,
        }
        try:
            demand = read_replay_demand({**given, **how, **bounds})
        except (TypeError, ValueError) as error:
            raise CapacityUsageError(str(error)) from None
        return replay(self._item, self._target if target is None else target, demand, source="call")


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
