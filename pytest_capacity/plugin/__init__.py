"""pytest's door: options, marker, fixtures and outcomes. Imports the standard library and pytest only."""

from __future__ import annotations

from pytest_capacity.plugin.fixtures import capacity, capacity_target
from pytest_capacity.plugin.hooks import pytest_addoption, pytest_configure

__all__ = ["capacity", "capacity_target", "pytest_addoption", "pytest_configure"]
