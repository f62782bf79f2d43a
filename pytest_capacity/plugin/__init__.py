"""pytest's door: options, marker, fixtures and outcomes. Imports the standard library and pytest only."""

from __future__ import annotations

from pytest_capacity.plugin.fixtures import (
    async_capacity,
    capacity,
    capacity_replay,
    capacity_search,
    capacity_target,
)
from pytest_capacity.plugin.hooks import (
    pytest_addoption,
    pytest_collection_finish,
    pytest_configure,
    pytest_itemcollected,
)

__all__ = [
    "async_capacity",
    "capacity",
    "capacity_replay",
    "capacity_search",
    "capacity_target",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_itemcollected",
]
