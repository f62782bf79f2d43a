"""Secrets never reach a recording, and what stays can still be replayed."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.recording.exchange import Exchange, Memory
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.rows import Made, RowMaker
from pytest_capacity.traffic.contents import Document, Form, LeftOut, Opaque, read_content
from pytest_capacity.traffic.fields import (
    FieldRules,
    Hasher,
    redact_document,
    redact_headers,
    redact_target,
    values_of,
)
from pytest_capacity.traffic.redaction import MASK, safe_path
from pytest_capacity.traffic.secrets import is_secret_field, is_secret_name
from pytest_capacity.traffic.trace import parse_row, row_line

SALT = b"s" * 32
HASHER = Hasher(SALT)
NO_RULES = FieldRules((), ())
JSON = {"content-type": "application/json"}


CREDENTIALS = """
    Authorization Proxy-Authorization Cookie Set-Cookie X-Api-Key X-Auth-Token api_key apiKey
    X-Amz-Security-Token X-Amz-Signature Ocp-Apim-Subscription-Key X-CSRF-Token X-Goog-Signature
    token key access_token client_secret password sig code session-id
""".split()  # noqa: SIM905 - a list would take a line for each


def exchange(
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    target: str = "/rank",
    number: int = 1,
    method: str = "POST",
) -> Exchange:
    """An exchange that has ended well."""
    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    made = Exchange(
        number,
        10.0,
        method=method,
        target=target,
        headers=pairs,
        memory=Memory(2**30),
        max_body_bytes=2**20,
    )
    made.add_body(body)
    made.body_ended = True
    made.status, made.first_byte_s, made.done_s = 200, 10.01, 10.02
    return made


def made_of(one: Exchange, **options: Any) -> Made:
    made = RowMaker(RecordingOptions(**options), SALT).make(one)
    assert made is not None
    return made


@pytest.mark.parametrize(
    "name",
    CREDENTIALS,
)
def test_a_credential_is_known_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", CREDENTIALS)
def test_what_is_recorded_and_what_is_imported_goes_by_the_same_names(name: str) -> None:
    assert safe_path(f"http://h/rank?a=1&{name}=abc") == f"/rank?a=1&{name}={MASK}"
    assert redact_target(f"/rank?a=1&{name}=abc", NO_RULES, HASHER) == "/rank?a=1"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("/rank?a=1;token=abc&b=2", f"/rank?a={MASK}&b=2"),
        ("/rank?api%5Fkey=abc", f"/rank?api%5Fkey={MASK}"),
        ("/rank?token", "/rank?token"),
        ("/rank?max_tokens=5", "/rank?max_tokens=5"),
    ],
)
def test_an_imported_path_keeps_what_is_no_credential(url: str, kept: str) -> None:
    assert safe_path(url) == kept


@pytest.mark.parametrize(
    "name",
    ["content-type", "tokenizer", "max_tokens", "keyword", "signature_name", "keep", "author", "passage"],
)
def test_what_models_are_asked_with_is_no_credential(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("password", "x", True),
        ("db_password", 1234, True),
        ("openai_api_key", "k", True),
        ("accessToken", "eyJhbGciOiJIUzI1NiJ9", True),
        ("access_token", "short", True),
        ("auth_key", "k", True),
        ("X-Amz-Signature", "5d672d79", True),
        ("token", "hf_abcdefghijkl", True),
        ("token", "Hello", False),
        ("token", "several words in a row", False),
        ("max_tokens", 16, False),
        ("tokens", ["a"], False),
        ("key", "user 1", False),
        ("signature_name", "serving_default", False),
        ("mask_token", "[MASK]", False),
        ("invalid_token", "<unk>", False),
        ("password", None, False),
        ("password", True, False),
    ],
)
def test_a_field_is_secret_by_name_and_value(name: str, value: object, secret: bool) -> None:
    assert is_secret_field(name, value) is secret


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("/rank?user=7&api_key=SECRET&x=%2F", "/rank?user=7&x=%2F"),
        ("/rank?token=SECRET", "/rank"),
        ("/rank?a=1&%74oken=SECRET", "/rank?a=1"),
        ("/rank?a=1;key=SECRET", "/rank"),
        ("/rank?a=1#token=SECRET", "/rank?a=1"),
        ("/rank?", "/rank"),
        ("/rank?a&b=", "/rank?a&b="),
        ("/rank?drop=SECRET&b=2", "/rank?b=2"),
    ],
)
def test_secrets_are_taken_out_of_queries(target: str, kept: str) -> None:
    assert redact_target(target, FieldRules.of(["drop"], []), HASHER) == kept


def test_a_parameter_is_hashed_where_it_stands() -> None:
    kept = redact_target("/rank?user=al%20ice&b=2", FieldRules.of([], ["user"]), HASHER)

    assert kept == f"/rank?user={HASHER.text('al ice')}&b=2"


def test_only_allowed_headers_are_kept_and_no_credential_ever_is() -> None:
    headers = [("Accept", "a"), ("accept", "b"), ("X-Other", "c"), ("Authorization", "d"), ("X-Team", "e")]

    kept = redact_headers(headers, frozenset({"accept", "authorization", "x-team"}))

    assert kept == {"accept": "a, b", "x-team": "e"}


DOCUMENT: Any = {
    "user": {"id": 7, "mail": "a@b", "password": "p"},
    "instances": [{"user_id": "u1", "x": [0.5]}, {"user_id": "u2", "x": [1.5]}],
    "id": 5,
}


@pytest.mark.parametrize(
    ("drop", "hashed", "expected"),
    [
        ([], [], DOCUMENT | {"user": {"id": 7, "mail": "a@b", "password": MASK}}),
        (["user"], [], {key: DOCUMENT[key] for key in ("instances", "id")}),
        (
            ["user.id", "mail"],
            ["instances.user_id"],
            {
                "user": {"password": MASK},
                "instances": [
                    {"user_id": HASHER.text("u1"), "x": [0.5]},
                    {"user_id": HASHER.text("u2"), "x": [1.5]},
                ],
                "id": 5,
            },
        ),
    ],
)
def test_fields_are_dropped_hashed_and_masked_at_any_depth(
    drop: list[str], hashed: list[str], expected: object
) -> None:
    assert redact_document(DOCUMENT, FieldRules.of(drop, hashed), HASHER) == expected


def test_a_hash_keeps_its_type_so_that_a_typed_server_takes_it() -> None:
    value: Any = {
        "small": 7,
        "large": 2**40,
        "text": "a",
        "real": 0.5,
        "yes": True,
        "none": None,
        "list": [1, "b"],
    }
    hashed: Any = HASHER.like(value)

    assert {name: type(item) for name, item in hashed.items()} == {
        "small": int,
        "large": int,
        "text": str,
        "real": str,
        "yes": bool,
        "none": type(None),
        "list": list,
    }
    assert 0 <= hashed["small"] < 2**31
    assert 0 <= hashed["large"] < 2**53
    assert hashed["small"] != 7


def test_hashes_differ_between_recordings_and_agree_within_one() -> None:
    assert HASHER.text("u7") == HASHER.text("u7") != Hasher(b"t" * 32).text("u7")
    assert HASHER.text(7) == HASHER.text("7")


def test_values_are_found_in_lists_and_below_a_named_object() -> None:
    assert list(values_of(DOCUMENT, ("user_id",))) == ["u1", "u2"]
    assert list(values_of(DOCUMENT, ("id",))) == [7, 5]
    assert list(values_of(DOCUMENT, ("user",))) == [7, "a@b", "p"]
    assert list(values_of([{"id": 1}, {"id": 2}], ("id",))) == [1, 2]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_a_document_without_secrets_stays_as_it_is(document: Any) -> None:
    assert redact_document(document, NO_RULES, HASHER) == document


@given(JSON_VALUES)
def test_no_value_below_a_dropped_field_stays(document: Any) -> None:
    redacted = redact_document(document, FieldRules.of(["a"], []), HASHER)

    assert list(values_of(redacted, ("a",))) == []


@pytest.mark.parametrize(
    ("data", "content_type", "encoding", "expected"),
    [
        (b'{"a": 1}', "application/json", "", Document({"a": 1}, b'{"a": 1}')),
        (b"\xef\xbb\xbf[1]", "application/json; charset=utf-8", "", Document([1], b"\xef\xbb\xbf[1]")),
        (b"\xef\xbb\xbf[1]", "", "", Document([1], b"\xef\xbb\xbf[1]")),
        (b"[1]", "application/octet-stream", "", Document([1], b"[1]")),
        (b'name="a"', "multipart/form-data; boundary=b", "", Opaque(b'name="a"', ("a",))),
        (
            gzip.compress(b'name="a"', mtime=0),
            "multipart/mixed",
            "gzip",
            Opaque(gzip.compress(b'name="a"', mtime=0), ("a",)),
        ),
        (b'{"a": 1}', "application/vnd.api+json", "", Document({"a": 1}, b'{"a": 1}')),
        (b'{"a": 1}', "", "", Document({"a": 1}, b'{"a": 1}')),
        (b'{"a": 1}', "application/x-www-form-urlencoded", "", Document({"a": 1}, b'{"a": 1}')),
        (b"a=1&b=2", "application/x-www-form-urlencoded", "", Form("a=1&b=2")),
        (b"some words", "text/plain", "", Opaque(b"some words")),
        (b"{some words", "text/plain", "", Opaque(b"{some words")),
        (b"\x00\x01", "application/octet-stream", "", Opaque(b"\x00\x01")),
        (gzip.compress(b"[1]", mtime=0), "application/json", "gzip", Document([1], b"[1]")),
        (zlib.compress(b"[1]"), "application/json", "deflate", Document([1], b"[1]")),
        (b"\x00", "image/png", "br", Opaque(b"\x00")),
    ],
)
def test_a_body_is_read_as_what_it_is(
    data: bytes, content_type: str, encoding: str, expected: object
) -> None:
    assert read_content(data, content_type, encoding, limit_bytes=2**20) == expected


@pytest.mark.parametrize(
    ("data", "content_type", "encoding"),
    [
        (b'{"password": "SECRET"', "application/json", ""),
        (b"[" * 200_000, "application/json", ""),
        (b'{"n": ' + b"9" * 5000 + b"}", "application/json", ""),
        (b"\xff\xfe{\x00}\x00", "application/json", ""),
        (b"\x00\x01", "application/json", "br"),
        (gzip.compress(b"[1]", mtime=0)[:-4], "application/json", "gzip"),
        (b"no gzip", "application/json", "gzip"),
        (gzip.compress(b"[" + b"1," * 500_000 + b"1]", mtime=0), "application/json", "gzip"),
        (b"\xff=1", "application/x-www-form-urlencoded", ""),
        (b"no gzip", "multipart/form-data; boundary=b", "gzip"),
    ],
)
def test_a_body_whose_fields_cannot_be_read_is_left_out(
    data: bytes, content_type: str, encoding: str
) -> None:
    assert isinstance(read_content(data, content_type, encoding, limit_bytes=1000), LeftOut)


def test_a_row_holds_what_a_replay_needs() -> None:
    body = b'{"user": "u7", "items": [4, 9]}'
    headers = {**JSON, "authorization": "Bearer SECRET", "x-session": "s3", "x-team": "blue"}
    made = made_of(
        exchange(body, headers, target="/v2/models/rank/infer?v=1"),
        key_fields=("user",),
        session_header="X-Session",
        keep_headers=("X-Team",),
        operations=(("rank", "/v2/models/rank/*"), ("all", "*")),
    )

    row = made.row
    assert (row.op, row.method, row.path) == ("rank", "POST", "/v2/models/rank/infer?v=1")
    assert row.headers == {**JSON, "x-team": "blue"}
    assert row.body == {"user": "u7", "items": [4, 9]}
    assert row.size == {"bytes": len(body)}
    assert row.keys == (HASHER.text("u7"),)
    assert row.session == HASHER.text("s3")
    assert row.seen == {"status": 200, "latency_s": 0.02, "first_byte_s": 0.01}
    assert parse_row(row_line(row), 1) == row


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (exchange(b"u=u7&password=SECRET", {"content-type": "application/x-www-form-urlencoded"}), b"u=u7"),
        (exchange(b"\x00\x01", {"content-type": "image/png"}), b"\x00\x01"),
        (exchange(b'{"x": NaN}', JSON), b'{"x": NaN}'),
        (exchange(b'{"x": 1e999}', JSON), b'{"x": 1e999}'),
        (exchange(b'{"a": 1, "a": 2}', JSON), b'{"a": 1, "a": 2}'),
        (exchange(b"null", JSON), b"null"),
    ],
)
def test_what_no_row_can_hold_as_json_is_kept_in_base64(one: Exchange, expected: bytes) -> None:
    made = made_of(one)

    assert base64.b64decode(made.row.body_b64 or "") == expected
    assert made.row.body is None
    row_line(made.row)


@pytest.mark.parametrize(
    "body",
    [
        b'{"password": "SECRET", "x": NaN}',
        b'{"password": "SECRET", "x": 1e999}',
        b'{"password": "SECRET", "password": 1.5}',
        b'{"deep": [{"a": {"password": "SECRET"}, "a": 1}]}',
    ],
)
def test_a_secret_that_cannot_be_taken_out_faithfully_costs_its_body(body: bytes) -> None:
    made = made_of(exchange(body, JSON))

    assert (made.row.body, made.row.body_b64, made.stored) == (None, None, None)
    assert made.left_out == "it could not be written back as it came without the secrets in it"
    assert "SECRET" not in row_line(made.row)


def test_a_field_named_twice_is_looked_at_both_times() -> None:
    made = made_of(exchange(b'{"u": 1, "u": 2, "v": 3}', JSON), key_fields=("u",), drop_fields=("w",))

    assert made.row.keys == (HASHER.text(1), HASHER.text(2))


def test_a_large_body_without_secrets_is_stored_as_it_came() -> None:
    body = json.dumps({"x": [0.5] * 100}, indent=1).encode()

    assert made_of(exchange(body, JSON), reference_bytes=500).stored == body


def test_a_compressed_document_is_kept_as_it_was_meant() -> None:
    made = made_of(exchange(gzip.compress(b'{"a": 1}'), {**JSON, "content-encoding": "gzip"}))

    assert made.row.body == {"a": 1}
    assert made.row.headers == JSON


@pytest.mark.parametrize(
    ("one", "options"),
    [
        (exchange(b'{"a": 1}', JSON), {"bodies": "none"}),
        (exchange(b"\x00", {"content-type": "image/png"}), {"bodies": "json"}),
        (
            exchange(
                b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nSECRET\r\n--b--\r\n',
                {"content-type": "multipart/form-data; boundary=b"},
            ),
            {},
        ),
    ],
)
def test_a_body_that_is_not_to_be_kept_leaves_its_size_and_a_reason(
    one: Exchange, options: dict[str, Any]
) -> None:
    made = made_of(one, **options)

    assert (made.row.body, made.row.body_b64, made.stored) == (None, None, None)
    assert made.row.size["bytes"] == one.body_bytes
    assert made.row.extra["body_left_out"] == made.left_out


def test_a_large_body_is_stored_beside_the_trace_after_redaction() -> None:
    body = json.dumps({"password": "SECRET", "x": "y" * 1000}).encode()
    made = made_of(exchange(body, JSON), reference_bytes=500)

    assert made.stored == json.dumps({"password": MASK, "x": "y" * 1000}, separators=(",", ":")).encode()
    assert made.row.body is None


def test_a_lone_surrogate_in_a_body_can_be_written() -> None:
    made = made_of(exchange(b'{"x": "\\ud800"}', JSON), hash_fields=("nothing",), key_fields=("x",))

    assert made.row.body == {"x": "\ud800"}


def test_a_request_that_has_not_ended_has_no_reply_and_no_part_of_a_body() -> None:
    unfinished = exchange(b"part", {"content-length": "9"})
    unfinished.body_ended, unfinished.done_s = False, None

    made = made_of(unfinished)

    assert made.row.seen == {}
    assert (made.row.body, made.row.body_b64) == (None, None)
    assert made.left_out == "it had not ended when its row was due"


def sampled(sample: float, sessions: int, requests: int) -> list[tuple[int, int]]:
    """Which requests of which sessions are kept."""
    options = RecordingOptions(sample=sample, session_header="x-session")
    maker = RowMaker(options, SALT)
    pairs = [(session, number) for number in range(requests) for session in range(sessions)]
    return [
        pair
        for index, pair in enumerate(pairs)
        if maker.make(exchange(headers={"x-session": f"s{pair[0]}"}, number=index))
    ]


def test_sampling_keeps_whole_sessions() -> None:
    kept = sampled(0.3, sessions=400, requests=3)
    of_session = {session: sum(1 for one, _ in kept if one == session) for session, _ in kept}

    assert set(of_session.values()) == {3}
    # 400 draws of 0.3: within five standard deviations.
    assert 74 <= len(of_session) <= 166


def test_sampling_without_sessions_keeps_a_share_of_the_requests() -> None:
    maker = RowMaker(RecordingOptions(sample=0.25), SALT)
    kept = sum(maker.make(exchange(number=number)) is not None for number in range(2000))

    assert 400 <= kept <= 600


def test_a_session_may_be_told_by_a_field_or_a_parameter() -> None:
    by_field = made_of(exchange(b'{"meta": {"sid": "s1"}}', JSON), session_field="meta.sid")
    by_parameter = made_of(exchange(target="/a?who=s1"), session_field="who")

    assert by_field.row.session == by_parameter.row.session == HASHER.text("s1")
    assert made_of(exchange(), session_field="who").row.session is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 0.0}, "sample=0.0 must be above 0 and at most 1"),
        ({"sample": float("nan")}, "sample=nan"),
        ({"sample": 1.5}, "sample=1.5"),
        ({"bodies": "some"}, "bodies='some' must be one of all, json, none"),
        ({"hold_s": -1.0}, "hold_s=-1.0 must be 0 or more"),
        ({"max_bytes": 0}, "max_bytes=0 must be above 0"),
        ({"drop_fields": ("a..b",)}, "'a..b' is no field"),
        ({"key_fields": ("",)}, "'' is no field"),
        ({"keep_headers": ("Authorization",)}, "Authorization is a credential and is never recorded"),
    ],
)
def test_options_that_cannot_be_say_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(".", r"\.")):
        RecordingOptions(**options)
