"""What is taken out of paths, headers and documents before anything is written. Pure.

Fields are named by the end of their path: the rule ``("user", "id")`` fits every ``id`` in a ``user``. Lists
are looked through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from pytest_capacity.protocols import Json
from pytest_capacity.traffic.redaction import MASK
from pytest_capacity.traffic.secrets import is_secret_field, is_secret_name

_SMALL_INTEGER, _LARGE_INTEGER = 2**31, 2**53
"""A hash of an integer stays in the range that typed fields, and JavaScript, take."""

_NESTED = frozenset({dict, list})

Trail = tuple[str, ...]


class Hasher:
    """Salted hashes: equal values stay equal, and cannot be guessed by who does not know the salt."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt

    def text(self, value: object) -> str:
        """Sixteen hexadecimal digits for a value; the number 5 and the text "5" are one."""
        return self._digest(str(value)).hex()

    def like(self, value: Json) -> Json:
        """A hash of a value's own kind, so that a typed server still accepts it; lists by their items."""
        if isinstance(value, dict):
            return {name: self.like(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.like(item) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            small = -_SMALL_INTEGER <= value < _SMALL_INTEGER
            digest = int.from_bytes(self._digest(str(value)), "big")
            return digest % (_SMALL_INTEGER if small else _LARGE_INTEGER)
        return self.text(value)

    def share(self, value: str) -> float:
        """A number from 0 to 1, uniform over values and always the same for one."""
        return int.from_bytes(self._digest(f"share {value}"), "big") / 2**64

    def _digest(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(data, key=self._salt, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class FieldRules:
    """Which fields are left out and which are hashed, beside those whose names announce a secret."""

    drop: tuple[Trail, ...]
    hashed: tuple[Trail, ...]

    @classmethod
    def of(cls, drop_fields: Iterable[str], hash_fields: Iterable[str]) -> FieldRules:
        """Rules from dotted names."""
        return cls(tuple(map(trail_of, drop_fields)), tuple(map(trail_of, hash_fields)))

    def drops(self, trail: Trail) -> bool:
        """Whether the field at the end of this path is left out."""
        return any(fits(trail, rule) for rule in self.drop)

    def hashes(self, trail: Trail) -> bool:
        """Whether the field at the end of this path is hashed."""
        return any(fits(trail, rule) for rule in self.hashed)


def trail_of(field: str) -> Trail:
    """The path that a dotted name describes the end of."""
    return tuple(field.split("."))


def fits(trail: Trail, rule: Trail) -> bool:
    """Whether a path ends as the rule says."""
    return trail[-len(rule) :] == rule


def redact_document(value: Json, rules: FieldRules, hasher: Hasher, trail: Trail = ()) -> Json:
    """A copy of a document without what the rules drop, with hashes and masks in place of what they hide."""
    if isinstance(value, list):
        # Most lists hold thousands of numbers, and this is what their cost depends on.
        return [
            redact_document(item, rules, hasher, trail) if item.__class__ in _NESTED else item
            for item in value
        ]
    if not isinstance(value, dict):
        return value
    redacted: dict[str, Any] = {}
    for name, item in value.items():
        here = (*trail, name)
        if rules.drops(here):
            continue
        if rules.hashes(here):
            redacted[name] = hasher.like(item)
        elif is_secret_field(name, item):
            redacted[name] = MASK
        else:
            redacted[name] = redact_document(item, rules, hasher, here)
    return redacted


def values_of(value: Json, rule: Trail, trail: Trail = ()) -> Iterator[str | int | float]:
    """The texts and numbers in every field that the rule fits, in the document's order."""
    if isinstance(value, list):
        for item in value:
            yield from values_of(item, rule, trail)
    elif isinstance(value, dict):
        for name, item in value.items():
            # Below a field that fits, everything does.
            yield from values_of(item, rule, rule if fits(trail, rule) else (*trail, name))
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool) and fits(trail, rule):
        yield value


def split_target(target: str) -> tuple[str, str]:
    """A request's path and its query; a fragment, which no server sees, is left out."""
    path, _, query = target.partition("#")[0].partition("?")
    return path, query


def parameters(encoded: str) -> list[tuple[str, str]]:
    """The names and values in a query or a form."""
    pairs = (part.partition("=") for part in encoded.split("&") if part)
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def redact_parameters(encoded: str, rules: FieldRules, hasher: Hasher) -> str:
    """A query or a form without secrets and dropped fields; what stays is left as it was written.

    A semicolon separates parameters for some servers, so a name is looked for behind each.
    """
    kept = []
    for part in encoded.split("&"):
        name, _, value = part.partition("=")
        plain = unquote_plus(name)
        if any(is_hidden(unquote_plus(piece.partition("=")[0]), rules) for piece in part.split(";")):
            continue
        hashed = rules.hashes((plain,))
        kept.append(f"{name}={quote_plus(hasher.text(unquote_plus(value)))}" if hashed else part)
    return "&".join(kept)


def redact_target(target: str, rules: FieldRules, hasher: Hasher) -> str:
    """A request's path and query without secrets."""
    path, query = split_target(target)
    query = redact_parameters(query, rules, hasher)
    return f"{path}?{query}" if query else path


def redact_headers(headers: Iterable[tuple[str, str]], keep: frozenset[str]) -> dict[str, str]:
    """The headers to keep, by their names in lower case; several of one name are joined with commas."""
    kept: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in keep and not is_secret_name(lower):
            kept[lower] = f"{kept[lower]}, {value}" if lower in kept else value
    return kept


def is_hidden(name: str, rules: FieldRules) -> bool:
    """Whether a parameter or a part of this name is left out."""
    return is_secret_name(name) or rules.drops((name,))
