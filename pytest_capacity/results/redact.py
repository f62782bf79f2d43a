"""Keeping secrets out of whatever is stored or shown: the last line of defence, not the first.

Known secret values are masked wherever they stand, in plain, percent-encoded or JSON-escaped form. What only
looks like a secret is masked by its place: credentials in a URL, values of parameters, headers and settings
with telling names, authentication schemes, and the well-known shapes of tokens. Masking too much costs a word
of a message; masking too little costs a credential.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, partial
from typing import Any
from urllib.parse import quote, quote_plus

from pytest_capacity.results.schema import own_words

MASK = "***"

MIN_SECRET_CHARACTERS = 6
"""A shorter value would be found inside ordinary words and figures, and masking it would garble them."""

HARMLESS_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type"}
    | {"date", "host", "keep-alive", "retry-after", "server", "transfer-encoding", "user-agent", "vary"}
)
"""Headers whose values are kept; any other may carry a credential under a name that nobody foresaw."""

# "token", but not "max_tokens", which a language model's request is full of.
_NAME = (
    r"[\w.-]*(?:token|secret|passw(?:or)?d|passphrase|pwd|authorization|auth|credentials?|signature|\bsig"
    r"|jwt|cookie|bearer|session[_-]?(?:id|key)"
    r"|(?:api|access|secret|private|subscription|function|account|signing|license)[_.-]?key(?:[_-]?id)?)"
)
_LONG_HEADER = r"(?<![\w-])(?:proxy-authorization|authorization|cookie|set-cookie)"
# "name: value", but not "TestToken::test_rate", the name of a test.
_IS = r"(?:\s*(?:=|(?<!:):(?!:))\s*|['\"]\s*[:=,]\s*)"
_QUOTED = r"\"[^\"]*\"|'[^']*'"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # scheme://user:password@host, and the same without a scheme
        (r"(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/?#'\"<>]*@", rf"\1{MASK}@"),
        # (a test's node id, file.py::test[a@b], has no user)
        (
            r"(?<![^\s'\"(<=,\[])[^\s:/@'\"<>(=,\[]+(?!(?<=\.py)::):[^\s/@'\"<>]+@(?=[\w\[])",
            f"{MASK}@",
        ),
        # A header whose value has several words: the line's rest, or the quoted value.
        (
            rf"({_LONG_HEADER}['\"]?\s*[:=,]\s*)(?!\s*\*\*\*)({_QUOTED}|[^\r\n'\"]+)",
            rf"\1{MASK}",
        ),
        (r"\b(bearer)(\s+)[^\s'\",;)*]+", rf"\1\2{MASK}"),
        (r"\b(basic|negotiate|digest)(\s+)[a-z0-9+/_.~-]{8,}=*", rf"\1\2{MASK}"),
        # name=value, name: value, "name": "value", ("name", "value")
        (
            rf"((?<![\w.-]){_NAME}{_IS})(?!\s*\*\*\*)({_QUOTED}|[^\s&,;'\"#)}}\]]+)",
            rf"\1{MASK}",
        ),
        (r"([?&;]key=)[^\s&#'\"]+", rf"\1{MASK}"),
        # JSON web tokens, and the prefixes that large issuers gave their keys so that they can be found
        (r"\beyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?", MASK),
        (r"\b(?:sk|pk|rk)[-_][\w-]{16,}", MASK),
        (r"\b(?:gh[pousr]_|github_pat_|hf_|glpat-|npm_|pypi-)[\w-]{16,}", MASK),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bxox[abeoprs]-[\w-]{10,}|\bAIza[\w-]{30,}", MASK),
    )
]


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` with every known secret of six characters or more, and all that looks like one, masked."""
    text = _without(text, _forms(tuple(secrets)))
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    # Masking may have joined what stood around a mask into a known secret.
    return _without(text, _forms(tuple(secrets)))


def mask_headers(headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by name with the values of all but harmless ones masked; of several values the last stays."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return {name: redact_text(value) if name.lower() in HARMLESS_HEADERS else MASK for name, value in pairs}


def redact_record(record: Mapping[str, Any], secrets: Iterable[str] = ()) -> dict[str, Any]:
    """A copy of a record in which no string, key or value, holds a known secret or what looks like one.

    Words of the schema's own are left as they are, so that the result stays a valid record. Numbers are left
    alone. Strings under a key that names a secret, and under ``headers``, are masked whatever they hold.
    """
    # Measurements repeat each other's texts, which take long to look through.
    mask = cache(partial(redact_text, secrets=tuple(secrets)))
    redacted: dict[str, Any] = _walk(record, mask)
    return redacted


def _walk(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return value if value in own_words() else mask(value)
    if isinstance(value, Mapping):
        return {_walk(str(key), mask): _under(str(key), item, mask) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_walk(item, mask) for item in value]
    return value


def _under(key: str, value: Any, mask: Callable[[str], str]) -> Any:
    """What stands under a key, masked outright where the key says that it is secret."""
    if key.lower() == "headers" and isinstance(value, Mapping):
        value = {
            name: item if str(name).lower() in HARMLESS_HEADERS else _masked(item)
            for name, item in value.items()
        }
    elif key not in own_words() and _SECRET_NAME.fullmatch(key):
        value = _masked(value)
    return _walk(value, mask)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return MASK
    if isinstance(value, Mapping):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    return value


@lru_cache(maxsize=32)
def _forms(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """Every form in which a secret may be met, longest first, so that none leaves a part of another."""
    bare = set(secrets)
    # Of "Bearer abc" the part after the scheme is the secret.
    bare |= {secret.split(None, 1)[1] for secret in secrets if len(secret.split(None, 1)) == 2}
    forms = set()
    for secret in bare:
        if len(secret) >= MIN_SECRET_CHARACTERS:
            forms |= {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
            forms |= {
                json.dumps(secret)[1:-1],
                json.dumps(secret, ensure_ascii=False)[1:-1],
                repr(secret)[1:-1],
            }
    return tuple(sorted(forms, key=len, reverse=True))


def _without(text: str, forms: tuple[str, ...]) -> str:
    """``text`` without any of the forms; each round shortens it, so it ends."""
    while any(form in text for form in forms):
        for form in forms:
            text = text.replace(form, MASK)
    return text
