"""The fields of a trace's header and rows: what each must be, in code and in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

BAD_TIME = "t must be a number of seconds, 0 or more"

LATEST_S = 5e9
"""More than a century: a time beyond is in another unit, and too large to count its nanoseconds."""

Check = Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_size(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _is_sizes(value: object) -> bool:
    return isinstance(value, dict) and all(_is_size(one) for one in value.values())


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str | int) for one in value)


HEADER_FIELDS: dict[str, tuple[str, Check, str]] = {
    "name": ("name", _is_text, "a text"),
    "class": ("class_", _is_text, "a text"),
    "resolution_s": ("resolution_s", _is_positive, "a positive number of seconds"),
    "clock": ("clock", _is_text, "a text such as 'arrival'"),
    "sampling": ("sampling", _is_share, "a share above 0, at most 1"),
    "start": ("start", _is_text, "a text in ISO 8601"),
    "source": ("source", _is_text, "a text"),
    "redacted": ("redacted", lambda value: isinstance(value, bool), "true or false"),
    "license": ("license", _is_text, "a text"),
    "prefix_block": ("prefix_block", _is_positive, "a positive number of tokens"),
}
"""Each field of a header: its attribute, what it must be, and that in words."""

ROW_FIELDS: dict[str, tuple[Check, str]] = {
    "t": (lambda value: _is_size(value) and value <= LATEST_S, BAD_TIME.removeprefix("t must be ")),
    "id": (_is_text, "a text"),
    "op": (_is_text, "a text"),
    "method": (_is_text, "a text"),
    "path": (_is_text, "a text"),
    "headers": (_is_texts, "an object of texts"),
    "body": (lambda _value: True, "JSON"),
    "body_b64": (_is_text, "a text in base64"),
    "body_ref": (_is_text, "a text such as 'sha256:...'"),
    "size": (_is_sizes, "an object of numbers, 0 or more"),
    "keys": (_is_ids, "a list of texts"),
    "prefix": (_is_ids, "a list of block ids"),
    "session": (_is_text, "a text"),
    "weight": (_is_positive, "a positive number"),
    "seen": (_is_object, "an object"),
}
"""Each field of a row: what it must be, and that in words."""
