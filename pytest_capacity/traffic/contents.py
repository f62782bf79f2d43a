"""What a request's body is, as far as it can be read: a document, a form, or plain bytes. Pure."""

from __future__ import annotations

import json
import re
import zlib
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import Final

from pytest_capacity.protocols import Json

MOST_TIMES_LARGER = 32
"""A compressed body is read up to so many times its bound; one that grows further is no honest request."""

UNREADABLE: Final = "its fields cannot be read, so secrets could not be taken out"

FORM: Final = "application/x-www-form-urlencoded"
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 47}
_PART_NAME = re.compile(rb'name\*?="?([^";\r\n]*)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document and the bytes, decompressed, that it was read from.

    It may hold NaN, which some clients send, and infinities, which is what a number too large becomes. Where
    an object names a field twice, ``repeats`` says so, and ``value`` has a list of objects of one field each
    in its place: which of the two a server takes nobody knows.
    """

    value: Json
    data: bytes
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """An URL-encoded form."""

    text: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """Bytes that are kept as they are; ``part_names`` are those of a multipart body's fields."""

    data: bytes
    part_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A body that is not kept, and why."""

    why: str


Content = Document | Form | Opaque | LeftOut


def read_content(data: bytes, content_type: str, encoding: str, *, limit_bytes: int) -> Content:
    """Read a body by its content type and encoding; ``limit_bytes`` bounds what it may be decompressed to.

    A body that says it has fields and cannot be read is left out: secrets might be in it. Whatever looks like
    JSON and can be read as such is JSON, whatever it says: curl calls it a form, others plain bytes.
    """
    media = content_type.partition(";")[0].strip().lower()
    in_parts = media.startswith("multipart/")
    announced = "json" in media or media == FORM or in_parts
    try:
        plain_data = _decompressed(data, encoding, limit_bytes)
    except ValueError:
        return LeftOut(UNREADABLE) if announced else Opaque(data)
    if in_parts:
        return Opaque(data, _part_names(plain_data))
    looks_so = plain_data.removeprefix(BOM_UTF8).lstrip()[:1] in (b"{", b"[")
    if "json" in media or looks_so:
        return _document(plain_data) or (LeftOut(UNREADABLE) if announced else Opaque(data))
    return _form(plain_data) if media == FORM else Opaque(data)


def _form(data: bytes) -> Form | LeftOut:
    try:
        return Form(data.decode("utf-8"))
    except ValueError:
        return LeftOut(UNREADABLE)


def _part_names(data: bytes) -> tuple[str, ...]:
    return tuple(name.decode("utf-8", "replace") for name in _PART_NAME.findall(data))


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
    repeats = False

    def fields_of(pairs: list[tuple[str, Json]]) -> Json:
        nonlocal repeats
        fields = dict(pairs)
        if len(fields) == len(pairs):
            return fields
        repeats = True
        return [{name: value} for name, value in pairs]

    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=fields_of)
    except (ValueError, RecursionError):
        return None
    return Document(value, data, repeats)
