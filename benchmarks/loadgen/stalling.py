"""A user's check that makes the loop on which it runs stand still once."""

from __future__ import annotations

import os
import time

from pytest_capacity.protocols import Reply

AFTER_VARIABLE = "LOADGEN_STALL_AFTER"
"""After how many replies; unset, it never stalls. A worker process gets it with its environment."""
STALL_S = 0.4

_calls = 0


def stall_once(_reply: Reply) -> bool:
    """Find every reply good, and hold up whoever asks at one of them."""
    global _calls  # noqa: PLW0603 - one count for a process, whoever imports this
    _calls += 1
    if _calls == int(os.environ.get(AFTER_VARIABLE, "0")):
        time.sleep(STALL_S)
    return True
