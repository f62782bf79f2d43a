"""No secret reaches a record, whatever its place or form."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_capacity.results.redact import mask_headers, redact_record, redact_text
from pytest_capacity.results.schema import load_schema, own_words
from tests.records import failed_record


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:pw@host:8000/rank", "http://***@host:8000/rank"),
        ("cannot reach https://tok3n@host/x?a=1", "cannot reach https://***@host/x?a=1"),
        ("http://a:p@ss@host/", "http://***@host/"),
        ("proxy user:pw@host refused", "proxy ***@host refused"),
        ("tests/test_x.py::test_y[user:pw@host]", "tests/test_x.py::test_y[***@host]"),
        ("test_x.py::TestToken::test_y[token=abc]", "test_x.py::TestToken::test_y[token=***]"),
        ("GET /rank?api_key=abc&items=3", "GET /rank?api_key=***&items=3"),
        ("GET /rank?key=abc#top", "GET /rank?key=***#top"),
        ("/x?X-Amz-Signature=abc&X-Amz-Date=1", "/x?X-Amz-Signature=***&X-Amz-Date=1"),
        ("/x?access_token=a.b-c", "/x?access_token=***"),
        ('{"password": "a b", "items": [1]}', '{"password": ***, "items": [1]}'),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: ***"),
        ("Authorization: Custom a b c\nHost: x", "Authorization: ***\nHost: x"),
        ("{'Authorization': 'Bearer abc', 'Host': 'x'}", "{'Authorization': ***, 'Host': 'x'}"),
        ("('X-Api-Key', 'abc')", "('X-Api-Key', ***)"),
        ("Cookie: a=b; c=d", "Cookie: ***"),
        ("401: bad Bearer abc.def", "401: bad Bearer ***"),
        ("token eyJhbGciOi.eyJzdWIi.sig-nature", "token ***"),
        ("key sk-abcdefghijklmnop0123 is invalid", "key *** is invalid"),
        ("hf_abcdefghijklmnopqrst", "***"),
        ("my-secret-value is wrong", "*** is wrong"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, expected: str) -> None:
    redacted = redact_text(text, ["my-secret-value"])

    assert redacted == expected
    assert redact_text(redacted, ["my-secret-value"]) == expected


@pytest.mark.parametrize(
    "text",
    [
        "422 from POST /rank: field 'items' required",
        "p99 > 50 ms: 3.1 % of requests late (2.4-3.9), 1 % allowed",
        "max_tokens=128, prompt tokens: 17",
        "Unexpected token in JSON at position 3",
        "http://127.0.0.1:8000/v2/models/ranker/infer?monkey=1",
        "tests/test_capacity.py::TestX::test_y[a-1]",
        "test_auth.py::TestToken::test_y[a@b]",
        "the author: someone; signature_name: serving_default",
        "2026-11-20T20:15:12Z connect to ::1:8000",
        "mail someone@example.com",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact_text(text) == text


@pytest.mark.parametrize("secret", ["p\"q\\r's", "ä b&c/d?e", "tab\there", "abc***def", "******"])
def test_a_secret_is_found_in_every_form(secret: str) -> None:
    for form in (secret, quote(secret, safe=""), json.dumps(secret), repr(secret), secret * 2):
        redacted = redact_text(f"before {form} after", [secret])
        assert secret not in redacted
        assert form not in redacted


def test_what_is_left_around_a_mask_is_no_secret_either() -> None:
    assert "ab***cdef" not in redact_text("abhunter2cdef", ["hunter2", "ab***cdef"])


def test_the_scheme_of_a_known_header_is_not_part_of_the_secret() -> None:
    assert redact_text("got zxcvbn123", ["Bearer zxcvbn123"]) == "got ***"


def test_headers_are_masked_unless_known_to_be_harmless() -> None:
    headers = {"Content-Type": "application/json", "X-Odd": "abc", "authorization": "Bearer x"}

    assert mask_headers(headers) == {
        "Content-Type": "application/json",
        "X-Odd": "***",
        "authorization": "***",
    }
    assert mask_headers([("Accept", "*/*"), ("x-api-key", "k")]) == {"Accept": "*/*", "x-api-key": "***"}


def test_a_record_s_keys_and_telling_names_are_masked() -> None:
    record = {
        "target": {
            "headers": {"X-Odd": "abc", "Accept": "*/*"},
            "password": ["a", {"b": "c"}],
            "hunter22": 1,
        },
        "overrides": {"--capacity-bearer": "abc", "--capacity-url": "http://u:p@h/"},
        "verdict": "PASS",
    }

    assert redact_record(record, ["hunter22"]) == {
        "target": {"headers": {"X-Odd": "***", "Accept": "*/*"}, "password": ["***", {"b": "***"}], "***": 1},
        "overrides": {"--capacity-bearer": "***", "--capacity-url": "http://***@h/"},
        "verdict": "PASS",
    }


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


SECRETS = st.text(
    string.ascii_letters + string.digits + "-_.~+/=%&\"'\\ :@äß漢", min_size=6, max_size=40
).filter(lambda secret: not any(secret in word for word in own_words()) and secret.strip() == secret)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(secret=SECRETS, before=st.text(max_size=8), after=st.text(max_size=8))
def test_no_given_secret_survives_anywhere(secret: str, before: str, after: str) -> None:
    record: dict[str, Any] = dict(failed_record())
    text = f"{before}{secret}{after}"
    record["nodeid"] = f"tests/test_x.py::test_y[{text}]"
    record["doubts"] = [{"kind": text, "text": text, "remedy": quote(text, errors="replace")}]
    record["measurements"][0]["target"] = {
        "url": f"http://{secret}@host/?q={text}",
        text: [text, {"a": text}],
    }
    record["measurements"][0]["examples"] = {text: text}
    record["generator"]["notes"] = [json.dumps(text), repr(text)]
    record["environment"]["overrides"] = {"--capacity-url": text}

    redacted = redact_record(record, [secret])

    assert not [found for found in strings(redacted) if secret in found and found not in own_words()]
    stored = json.loads(json.dumps(redacted))
    jsonschema.Draft202012Validator(load_schema()).validate(stored)
