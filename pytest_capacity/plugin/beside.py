"""Measuring beside a test's own event loop, so that a server living on that loop answers."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import pytest

from pytest_capacity.plugin.outcome import OUTCOMES
from pytest_capacity.plugin.state import BESIDE, INTERRUPTED
from pytest_capacity.slo import Inconclusive

PATIENCE_S = 15.0
"""How long the end of an interrupted measurement is waited for; its thread ends with the process anyway."""

T = TypeVar("T")


class Beside(Generic[T]):
    """One measurement in a thread of its own, begun and awaited by a coroutine of the test.

    Its test knows it: what ends the loop without a word to the coroutine (Ctrl-C under anyio, SIGTERM, a
    timeout's exception) must end the load as well.
    """

    def __init__(self, item: pytest.Item, measure: Callable[[], T]) -> None:
        self._measure = measure
        self._interrupted = threading.Event()
        self._ended: Future[None] = Future()
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        item.stash.setdefault(BESIDE, []).append(self)

    @property
    def begun(self) -> bool:
        """Whether ``run`` was reached."""
        return self._thread is not None

    async def run(self) -> None:
        """Measure while the loop goes on; cancelling this ends the load."""
        from pytest_capacity.measurement.waiting import sigterm_interrupts  # noqa: PLC0415 - imports what measures

        call = functools.partial(contextvars.copy_context().run, self._work)
        thread = self._thread = threading.Thread(target=call, name="capacity-measurement", daemon=True)
        # A loop that is cancelled must not cancel this too: the thread still has to report its end.
        self._ended.set_running_or_notify_cancel()
        try:
            with sigterm_interrupts():
                thread.start()
                await _until_ended(self._ended, thread)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the measurement where it still runs, and wait for that."""
        self._interrupted.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def result(self) -> T:
        """What the measurement returned, or raise what it raised."""
        __tracebackhide__ = True
        if isinstance(self._error, OUTCOMES):
            raise self._error.with_traceback(None)
        if self._error is not None:
            raise self._error
        return self._value[0]

    def _work(self) -> None:
        INTERRUPTED.set(self._interrupted)
        try:
            self._value.append(self._measure())
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that asks for the result
            self._error = error
        finally:
            self._ended.set_result(None)


@contextmanager
def measuring_after(item: pytest.Item, measure: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Have ``measure`` run as soon as a coroutine test's body has passed, while its loop goes on.

    Yields what ends the test as the measurement did, to be called once the loop has returned: a loop treats
    exceptions its own way, which a verdict has no use for.
    """
    beside = Beside(item, measure)
    # Plugins that run coroutine tests take the function from here; each makes and ends the loop its own way.
    body: Callable[..., Awaitable[object]] = item.obj  # type: ignore[attr-defined]

    @functools.wraps(body)
    async def body_then_load(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        await body(*args, **kwargs)
        await beside.run()

    def finish() -> None:
        __tracebackhide__ = True
        if not beside.begun:
            raise Inconclusive(
                "INCONCLUSIVE  the plugin that ran this coroutine left out the measurement; none was made\n"
                "  try: pytest-asyncio or anyio, or a plain function"
            )
        beside.result()

    item.obj = body_then_load  # type: ignore[attr-defined]
    try:
        yield finish
    finally:
        item.obj = body  # type: ignore[attr-defined]


async def _until_ended(ended: Future[None], thread: threading.Thread) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # anyio runs tests on trio as well.
        from trio.to_thread import run_sync  # noqa: PLC0415 - only there where such a test runs

        await run_sync(thread.join, abandon_on_cancel=True)
        return
    await asyncio.wrap_future(ended)
