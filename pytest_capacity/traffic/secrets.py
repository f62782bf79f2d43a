"""Which names announce a secret: of headers, query parameters and fields. Pure.

A name is compared in lower case and without punctuation, so that ``X-Api-Key``, ``api_key`` and ``apiKey``
are one. Endings count, not parts: ``tokenizer``, ``max_tokens`` and TensorFlow Serving's ``signature_name``
are what models are asked with.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PUNCTUATION = re.compile(r"[^a-z0-9]+")

_CREDENTIAL = re.compile(
    r".*(?:passw(?:or)?d|passphrase|secret|credentials?|authorization|cookie|jwt|xamzsignature"
    r"|(?:access|account|api|auth|function|license|private|secret|session|signing|subscription)key(?:id)?"
    r"|(?:access|api|auth|bearer|csrf|refresh|security|session)token)"
)
_OUTSIDE_OF_BODIES = ("auth", "bearer", "csrf", "sessionid", "signature", "token", "xsrf")
_PARAMETERS = frozenset({"code", "key", "pass", "pwd", "sid", "sig"})
"""Too short to be endings. ``code`` is what OAuth and Azure Functions call theirs."""

_FIELDS = frozenset({"auth", "pwd"})
_TOKEN_CHARACTERS = 12


@lru_cache(maxsize=1024)
def normalised(name: str) -> str:
    """A name in lower case, of letters and digits only. The same few come again and again."""
    return _PUNCTUATION.sub("", name.lower())


def is_secret_name(name: str) -> bool:
    """Whether a header or a query parameter of this name holds a credential."""
    plain = normalised(name)
    return plain in _PARAMETERS or plain.endswith(_OUTSIDE_OF_BODIES) or bool(_CREDENTIAL.fullmatch(plain))


def is_secret_field(name: str, value: object) -> bool:
    """Whether a field of a body, named so and holding this, holds a credential.

    A word called ``token`` is what taggers are asked about; a long one without blanks is a credential.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return False
    plain = normalised(name)
    if plain in _FIELDS or _CREDENTIAL.fullmatch(plain):
        return True
    is_long_word = isinstance(value, str) and len(value) >= _TOKEN_CHARACTERS and not re.search(r"\s", value)
    return plain.endswith("token") and is_long_word
