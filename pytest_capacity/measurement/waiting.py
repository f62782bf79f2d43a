"""How a measurement is interrupted: by a signal, or where none reaches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

LOOK_EVERY_S = 0.05
"""A human notices nothing shorter, and the call's own end is noticed at once."""

T = TypeVar("T")


def unless_interrupted(call: Callable[[], T], interrupted: threading.Event | None) -> T:
    """Return what ``call`` returns or raise what it raises; once ``interrupted`` is set, wait no longer.

    Without that event the call runs right here, where Ctrl-C ends it. An abandoned call goes on in a daemon
    thread: whoever closes what it uses ends it.

    Raises KeyboardInterrupt where ``interrupted`` was set.
    """
    if interrupted is None:
        return call()
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again by the thread that waits
            outcome.set_exception(error)

    heed(interrupted)
    threading.Thread(target=work, name="capacity-call", daemon=True).start()
    while not wait([outcome], LOOK_EVERY_S).done:
        heed(interrupted)
    return outcome.result()


def heed(interrupted: threading.Event | None) -> None:
    """Raise KeyboardInterrupt where ``interrupted`` is set."""
    if interrupted is not None and interrupted.is_set():
        raise KeyboardInterrupt("the measuring thread was told to stop")


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt meanwhile, so that load stops and what was seen is kept.

    Only the main thread may handle signals; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
