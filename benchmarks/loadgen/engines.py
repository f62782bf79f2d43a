"""The engines to be measured, by name. Another one is a line in ``ENGINES``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pytest_capacity.protocols import Engine

PRODUCT_TABLE = "pytest_capacity.load.engines"
"""The package's own way from a name to an engine: ``engine_named(name, workers=N)``."""


class NotThereYet(Exception):
    """The engine, or its several workers, do not exist in this version of the package."""


def _aiohttp(workers: int) -> Engine:
    return _from_table("aiohttp", workers)


def _fast(workers: int) -> Engine:
    return _from_table("fast", workers)


ENGINES: Mapping[str, Callable[[int], Engine]] = {"fast": _fast, "aiohttp": _aiohttp}


def make_engine(name: str, workers: int = 1) -> Engine:
    """The engine of that name with so many workers.

    Raises NotThereYet where the package has none such, KeyError for a name that is no engine's.
    """
    return ENGINES[name](workers)


def _from_table(name: str, workers: int) -> Engine:
    wanted = f"the engine {name!r}" + (f" with {workers} workers" if workers > 1 else "")
    try:
        named: Callable[..., Any] = import_module(PRODUCT_TABLE).engine_named
    except (ModuleNotFoundError, AttributeError) as error:
        raise NotThereYet(f"{wanted} is not there yet ({PRODUCT_TABLE}.engine_named: {error})") from error
    try:
        engine: Engine = named(name, workers=workers)
    except (TypeError, KeyError, ValueError) as error:
        raise NotThereYet(f"{wanted} is not there yet (engine_named said: {error})") from error
    return engine
