"""A precise wake-up for an event loop.

An event loop's own timers are rounded to milliseconds: epoll takes no finer timeout, and uvloop counts in
them. A timer file descriptor wakes the loop within tens of microseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from typing import Protocol

TIMERFD_LEAD_S = 200e-6
"""A timerfd wakes a loop some 40 us late as a rule and 100-250 us late at the 99th percentile
(research/load_generation.md); a longer lead burns a core on spinning, a shorter one sends late."""

CALL_AT_LEAD_S = 1.2e-3
"""The loop's own timers are rounded to a millisecond, upwards too, and then take a little to wake."""

HAS_TIMERFD = sys.platform.startswith("linux")

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = getattr(os, "O_NONBLOCK", 0o4000)
_TFD_CLOEXEC = getattr(os, "O_CLOEXEC", 0o2000000)
_TFD_TIMER_ABSTIME = 1


class _Timer(Protocol):
    lead_s: float

    def arm(self, at_s: float) -> None: ...
    def disarm(self) -> None: ...
    def close(self) -> None: ...


class Alarm:
    """One coroutine's alarm clock on a running event loop; times are seconds of ``time.monotonic``.

    ``lead_s`` is how long before a deadline to be woken, so that what the wake-up takes is over by then.
    Use it from the loop's own thread, and close it there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: _Timer = _open_timer(loop, self._fire)
        self.lead_s = self._timer.lead_s

    async def sleep_until(self, at_s: float | None) -> bool:
        """Sleep until the clock reads ``at_s`` (None: for good) or ``ring`` is called.

        True where the time came, False where it was rung. Raises RuntimeError where someone sleeps on it.
        """
        if self._waiter is not None:
            raise RuntimeError("an alarm wakes one sleeper only")
        self._waiter = self._loop.create_future()
        try:
            if at_s is not None:
                self._timer.arm(at_s)
            return await self._waiter
        finally:
            self._waiter = None
            self._timer.disarm()

    def ring(self) -> None:
        """Wake the sleeper now, if there is one."""
        self._wake(in_time=False)

    def close(self) -> None:
        """Give back the timer. Nobody may be asleep."""
        self._timer.close()

    def _fire(self) -> None:
        self._wake(in_time=True)

    def _wake(self, *, in_time: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(in_time)


class _Callback(Protocol):
    def __call__(self) -> None: ...


def _open_timer(loop: asyncio.AbstractEventLoop, fire: _Callback) -> _Timer:
    if HAS_TIMERFD:
        try:
            return _FileTimer(loop, fire)
        except (OSError, AttributeError, NotImplementedError):
            # A kernel, a C library or a loop without them: the coarse timer does the same, less precisely.
            pass
    return _LoopTimer(loop, fire)


class _LoopTimer:
    """The loop's own timer."""

    lead_s = CALL_AT_LEAD_S

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: _Callback) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, at_s: float) -> None:
        # The clock is read afresh, since the loop's own was last read when this iteration began.
        self._handle = self._loop.call_later(max(at_s - time.monotonic(), 0.0), self._fire)

    def disarm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        self.disarm()


class _FileTimer:
    """Linux's timerfd. Being read clears it, and setting it anew does so as well."""

    lead_s = TIMERFD_LEAD_S

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: _Callback) -> None:
        self._loop = loop
        self._fire = fire
        self._fd = _timerfd_create()
        try:
            loop.add_reader(self._fd, self._ready)
        except BaseException:
            os.close(self._fd)
            raise

    def arm(self, at_s: float) -> None:
        # Zero would disarm it; a moment already past fires at once.
        _timerfd_settime(self._fd, max(at_s, 1e-9))

    def disarm(self) -> None:
        _timerfd_settime(self._fd, 0.0)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ready(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._fire()


if sys.version_info >= (3, 13) and sys.platform == "linux":

    def _timerfd_create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _timerfd_settime(fd: int, at_s: float) -> None:
        os.timerfd_settime(fd, flags=os.TFD_TIMER_ABSTIME, initial=at_s)

else:

    class _TimeSpec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    class _TimerSpec(ctypes.Structure):
        _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))

    _LIBC = ctypes.CDLL(None, use_errno=True)

    def _timerfd_create() -> int:
        fd: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        return fd

    def _timerfd_settime(fd: int, at_s: float) -> None:
        seconds, rest = divmod(at_s, 1.0)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(int(seconds), int(rest * 1e9)))
        if _LIBC.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
