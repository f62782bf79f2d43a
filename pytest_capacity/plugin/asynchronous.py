"""Measuring from a coroutine, while its event loop goes on and serves whatever lives on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

import pytest

from pytest_capacity.plugin.beside import Beside
from pytest_capacity.plugin.driver import Capacity
from pytest_capacity.slo import SLO

if TYPE_CHECKING:
    from pytest_capacity.results.measured import Measured

T = TypeVar("T")


class AsyncCapacity:
    """Measures from a coroutine test's own code; what the ``async_capacity`` fixture returns."""

    def __init__(self, item: pytest.Item, target: object) -> None:
        self._item, self._capacity = item, Capacity(item, target)

    async def sustain(
        self, *, qps: float, slo: SLO | Mapping[str, SLO] | None = None, **options: object
    ) -> Measured:
        """``Capacity.sustain`` with the same options, awaited."""
        __tracebackhide__ = True
        return await _in_thread(self._item, lambda: self._capacity.sustain(qps=qps, slo=slo, **options))  # type: ignore[arg-type]

    async def replay(
        self, trace: str | os.PathLike[str], *, slo: SLO | Mapping[str, SLO] | None = None, **options: object
    ) -> Measured:
        """``Capacity.replay`` with the same options, awaited."""
        __tracebackhide__ = True
        return await _in_thread(self._item, lambda: self._capacity.replay(trace, slo=slo, **options))  # type: ignore[arg-type]

    async def search(self, *, slo: SLO | None = None, **options: object) -> Measured:
        """``Capacity.search`` with the same options, awaited."""
        __tracebackhide__ = True
        return await _in_thread(self._item, lambda: self._capacity.search(slo=slo, **options))  # type: ignore[arg-type]


async def _in_thread(item: pytest.Item, measure: Callable[[], T]) -> T:
    """Run a measurement in a thread of its own; cancelling the coroutine stops the load first."""
    __tracebackhide__ = True
    beside = Beside(item, measure)
    await beside.run()
    return beside.result()
