"""One measurement at a time on this machine, whichever process makes it."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_capacity.plugin.options import Settings
from pytest_capacity.slo import CapacityUsageError, Inconclusive

LOOK_EVERY_S = 0.05
"""A measurement lasts many seconds: a wait that looks this often adds nothing to see."""


@contextmanager
def one_at_a_time(settings: Settings, interrupted: threading.Event | None = None) -> Iterator[None]:
    """Keep this user's other measurements waiting meanwhile, where ``--capacity-xdist=lock`` asks for it.

    The system frees the lock of a process that dies. Waits as long as any test's load may last; Ctrl-C and
    ``interrupted`` end the wait.

    Raises Inconclusive where the wait was in vain, CapacityUsageError where the lock cannot be had at all.
    """
    if settings.xdist != "lock":
        yield
        return
    path = lock_path()
    try:
        # No link of another user's is followed in a folder that everybody may write to.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CapacityUsageError(
            f"cannot take the lock {path}: {error.strerror}; remove that file or set TMPDIR"
        ) from error
    try:
        _wait_for(descriptor, settings.max_s, interrupted or threading.Event())
        yield
    finally:
        os.close(descriptor)


def lock_path() -> Path:
    """The file that all measurements of this user on this machine lock; it stays, empty."""
    return Path(tempfile.gettempdir()) / f"pytest-capacity-{os.getuid()}.lock"


def _wait_for(descriptor: int, patience_s: float, interrupted: threading.Event) -> None:
    until_s = time.monotonic() + patience_s
    while not _try(descriptor):
        if time.monotonic() > until_s:
            raise Inconclusive(
                f"INCONCLUSIVE  no load was sent: other measurements here went on for {patience_s:g} s\n"
                "  try: fewer capacity tests at once, or a longer wait: the ini option capacity_max_s"
            )
        if interrupted.wait(LOOK_EVERY_S):
            raise KeyboardInterrupt("the measuring thread was told to stop")


def _try(descriptor: int) -> bool:
    import fcntl  # noqa: PLC0415 - not there on Windows, where this module can be imported all the same

    try:
        # Not flock: children forked meanwhile would share that, and hold it after a crash of their parent.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
