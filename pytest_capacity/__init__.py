"""Assert in pytest that a model server sustains a rate of requests under a latency SLO.

The public names are exported lazily, so that importing the package costs nothing until one is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_capacity.plugin.driver import Capacity
    from pytest_capacity.slo import SLO, Bound, Breach, Inconclusive, SLOViolation, Verdict
    from pytest_capacity.targets.http import HttpTarget

__version__ = "0.1.0"

__all__ = ["SLO", "Bound", "Breach", "Capacity", "HttpTarget", "Inconclusive", "SLOViolation", "Verdict"]

_HOME = {
    "SLO": "pytest_capacity.slo",
    "Bound": "pytest_capacity.slo",
    "Breach": "pytest_capacity.slo",
    "Capacity": "pytest_capacity.plugin.driver",
    "HttpTarget": "pytest_capacity.targets.http",
    "Inconclusive": "pytest_capacity.slo",
    "SLOViolation": "pytest_capacity.slo",
    "Verdict": "pytest_capacity.slo",
}


def __getattr__(name: str) -> object:
    """Import a public name's home when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
