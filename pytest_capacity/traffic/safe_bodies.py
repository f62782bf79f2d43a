"""A body without its secrets: the same for what is recorded and what is imported. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from pytest_capacity.protocols import Json
from pytest_capacity.traffic.contents import UNREADABLE, Content, Document, Form, LeftOut, Opaque
from pytest_capacity.traffic.fields import (
    FieldRules,
    Hasher,
    is_hidden,
    redact_document,
    redact_parameters,
)

BODY_LEFT_OUT: Final = "body_left_out"
"""A row's field that tells why its body is missing."""

HIDDEN_PART: Final = "a part of it holds a secret"
UNFAITHFUL: Final = "it could not be written back as it came without the secrets in it"


@dataclass(frozen=True, slots=True)
class SafeBody:
    """What may be kept of a body.

    ``document`` is what says the same as ``data`` where a row can hold it as JSON, else None. ``encoded``
    tells that ``data`` still has the content encoding in which it came.
    """

    document: Json
    data: bytes
    encoded: bool = False


def safe_body(content: Content, rules: FieldRules, hasher: Hasher) -> SafeBody | LeftOut:
    """What may be kept of a body that was read; where nothing is to be hidden, its bytes are as they came."""
    if isinstance(content, LeftOut):
        return content
    if isinstance(content, Opaque):
        if any(is_hidden(name, rules) for name in content.part_names):
            return LeftOut(HIDDEN_PART)
        return SafeBody(None, content.data, encoded=True)
    if isinstance(content, Form):
        return SafeBody(None, redact_parameters(content.text, rules, hasher).encode("utf-8"))
    try:
        return _safe_document(content, rules, hasher)
    except RecursionError:
        return LeftOut(UNREADABLE)


def _safe_document(content: Document, rules: FieldRules, hasher: Hasher) -> SafeBody | LeftOut:
    document = redact_document(content.value, rules, hasher)
    is_as_it_came = document == content.value
    written = None if content.repeats else _written(document)
    if written is None:
        return SafeBody(None, content.data) if is_as_it_came else LeftOut(UNFAITHFUL)
    return SafeBody(document, content.data if is_as_it_came else written)


def _written(document: Json) -> bytes | None:
    """The document as JSON; None where it holds NaN or an infinity, which JSON does not know."""
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return None
    return text.encode("utf-8", "backslashreplace")
