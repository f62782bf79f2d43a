"""Waking up soon after the timer rang, although other processes keep the processor busy.

Linux lets a running task finish its slice, 1.4 to 3 ms by default, before one that has just woken up: enough
to void a measurement beside a server that computes. A thread that asks for short slices is let in sooner, at
no cost to anyone's share of the processor (sched_setattr(2), ``sched_runtime`` of SCHED_OTHER, since Linux
6.12).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading

NICE = -10
"""Half-way to the strongest. The thread mostly sleeps: what it gains is the moment, not the share."""

SLICE_NS = 100_000
"""A tenth of a millisecond: the shortest slice that Linux grants, and longer than a send takes."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_SCHED_OTHER = 0


class _Attributes(ctypes.Structure):
    """``struct sched_attr`` in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def wake_soon() -> None:
    """Have the calling thread let in as soon as it wakes up, as far as the system permits; never fails."""
    ask_for_short_slices()
    if sys.platform == "linux":
        # Only for the privileged, as in most containers. On other systems it would concern the whole process.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def run_first() -> bool:
    """Have the calling thread run whenever it can, before what is scheduled fairly; False where it may not.

    For a process that does nothing but send: what it takes from the server it would take anyway, only later.
    The kernel leaves the others a twentieth of each core in any case (sched(7), real-time throttling). Only
    the privileged may, as in some containers.
    """
    if sys.platform != "linux":
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except OSError:
        return False
    return True


def run_in_turn() -> None:
    """Have the calling thread share its core with the others again, with short slices, at its own niceness.

    A thread that is always awake gains a share by a higher priority, which it would take from the server.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    ask_for_short_slices()


def ask_for_short_slices() -> bool:
    """Ask that the calling thread be let in soon after it wakes up; False where the system cannot.

    Nothing else of its scheduling changes, and needs no privilege.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    attributes = _Attributes(
        size=ctypes.sizeof(_Attributes),
        sched_policy=_SCHED_OTHER,
        sched_nice=os.getpriority(os.PRIO_PROCESS, 0),
        sched_runtime=SLICE_NS,
    )
    library = ctypes.CDLL(None, use_errno=True)
    return int(library.syscall(number, 0, ctypes.byref(attributes), 0)) == 0
