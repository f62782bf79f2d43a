"""What a request's body is, as far as it can be read: a document, a form, or plain bytes. Pure."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from typing import Final

from pytest_capacity.protocols import Json

MOST_TIMES_LARGER = 32
"""A compressed body is read up to so many times its bound; one that grows further is no honest request."""

UNREADABLE: Final = "its fields cannot be read, so secrets could not be taken out"

_FORM = "application/x-www-form-urlencoded"
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 47}
_PART_NAME = re.compile(rb'name\*?="?([^";\r\n]*)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document; it may hold NaN, which some clients send."""

    value: Json


@dataclass(frozen=True, slots=True)
class Form:
    """An URL-encoded form."""

    text: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """Bytes that are kept as they are."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A body that is not kept, and why."""

    why: str


Content = Document | Form | Opaque | LeftOut


def read_content(data: bytes, content_type: str, encoding: str, *, limit_bytes: int) -> Content:
    """Read a body by its content type and encoding; ``limit_bytes`` bounds what it may be decompressed to.

    A body that says it is JSON or a form and cannot be read is left out: secrets might be in it. One that
    says nothing, or says plain text or a form as curl does, is JSON where it looks so and can be read as
    such.
    """
    media = content_type.partition(";")[0].strip().lower()
    announced = "json" in media or media == _FORM
    try:
        plain_data = _decompressed(data, encoding, limit_bytes)
    except ValueError:
        return LeftOut(UNREADABLE) if announced else Opaque(data)
    looks_so = plain_data.lstrip()[:1] in (b"{", b"[") and media in ("", "text/plain", _FORM)
    if "json" in media or looks_so:
        document = _document(plain_data)
        if document is not None:
            return document
        if announced:
            return LeftOut(UNREADABLE)
    if media == _FORM:
        try:
            return Form(plain_data.decode("utf-8"))
        except ValueError:
            return LeftOut(UNREADABLE)
    return Opaque(data)


def part_names(data: bytes, content_type: str) -> list[str]:
    """The names of a multipart body's fields; nothing for any other body."""
    if not content_type.lower().startswith("multipart/"):
        return []
    return [name.decode("utf-8", "replace") for name in _PART_NAME.findall(data)]


def _decompressed(data: bytes, encoding: str, limit_bytes: int) -> bytes:
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    if encoding not in _WINDOWS:
        raise ValueError(f"content-encoding {encoding}")
    reader = zlib.decompressobj(_WINDOWS[encoding])
    try:
        plain = reader.decompress(data, limit_bytes * MOST_TIMES_LARGER)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not reader.eof or reader.unused_data:
        raise ValueError("truncated, too large, or more than one")
    return plain


def _document(data: bytes) -> Document | None:
    """The JSON in a body; None where it is none."""
    try:
        return Document(json.loads(data.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        return None
