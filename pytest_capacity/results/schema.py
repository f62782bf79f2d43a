"""The JSON Schema that describes a record, and the history of its versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any

SCHEMA_VERSION = 1
"""The version of the records written here, stored in each as ``schema``.

A reader refuses a record of a later version than it knows and reads every earlier one. History:

1. (0.1.0) The first: verdict, breaches and doubts, measurements with digest and series, probes, generator,
   environment, commit and versions. ``trace`` is reserved.
"""


def load_schema() -> dict[str, Any]:
    """The schema (JSON Schema, draft 2020-12) as shipped with the package; each call gives a fresh copy."""
    text = files("pytest_capacity.results").joinpath("record.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@lru_cache(maxsize=1)
def own_words() -> frozenset[str]:
    """Every key and fixed value that the schema itself names: words that say nothing about a user."""
    return frozenset(_words(load_schema()))


def _words(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _words(item)
    elif isinstance(node, dict):
        yield from node.get("properties", ())
        fixed = [*node.get("enum", ()), node.get("const")]
        yield from (value for value in fixed if isinstance(value, str))
        for item in node.values():
            yield from _words(item)
