"""Which engine loads a target: by name, or the fast one."""

from __future__ import annotations

from pytest_capacity.load.aiohttp_engine import AiohttpEngine
from pytest_capacity.load.fast_engine import FastEngine
from pytest_capacity.protocols import Engine

NAMES = ("fast", "aiohttp")


def engine_named(name: str, workers: int | None = None) -> Engine:
    """The engine of that name, with so many workers where that is set.

    Raises ValueError for a name that no engine has, or workers for the engine that has none.
    """
    if name == "fast":
        return FastEngine(workers)
    if name == "aiohttp":
        if workers is not None and workers > 1:
            raise ValueError("the aiohttp engine sends from one process; several workers need the fast one")
        return AiohttpEngine()
    raise ValueError(f"no engine is called {name!r}; there are {' and '.join(NAMES)}")
