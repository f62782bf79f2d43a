"""What this process may hold open."""

from __future__ import annotations

import resource
from pathlib import Path

RESERVED_FILES = 64
"""For what the tests and the server beside us open meanwhile: logs, databases, sockets of their own."""


def bound_by_files(max_in_flight: int) -> tuple[int, str | None]:
    """The bound on requests in flight that free file descriptors allow, and a note where it is lower.

    Each request in flight holds a connection, and each connection a file descriptor.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_in_flight, None
    free = soft - RESERVED_FILES - _open_files()
    if free >= max_in_flight:
        return max_in_flight, None
    bound = max(free, 1)
    return bound, (
        f"at most {bound} requests can be in flight instead of {max_in_flight}: the limit on open files "
        f"is {soft}; raise it with ulimit -n"
    )


def _open_files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())
