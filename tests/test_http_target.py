"""What an HTTP target sends, what it shows of itself, and how it judges and explains replies."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_capacity.protocols import Encoded, Judge, Outcome, Reply, Request
from pytest_capacity.targets.http import HttpTarget
from pytest_capacity.targets.resolve import as_target

URL = "http://127.0.0.1:8000/rank"


def encode(target: HttpTarget, seed: int = 0) -> Encoded:
    return target.encode(np.random.default_rng(seed))


def only(target: HttpTarget) -> Request:
    (request,) = encode(target).requests
    return request


def reply(
    status: int = 200, body: bytes = b'{"score": 1}', headers: Mapping[str, str] | None = None
) -> Reply:
    return Reply(status, headers or {}, body)


def is_scored(received: Reply) -> bool:
    return b"score" in received.body


async def is_scored_later(received: Reply) -> bool:
    return is_scored(received)


class TestEncoding:
    def test_without_a_payload_it_gets(self) -> None:
        request = only(HttpTarget(URL))

        assert (request.method, request.path, request.body, request.headers) == ("GET", "/rank", b"", ())
        assert request.operation == "GET /rank"

    @pytest.mark.parametrize("value", [{"items": [1, 2]}, [1], "text", None, 1.5, True])
    def test_a_json_value_is_posted_as_json(self, value: Any) -> None:
        request = only(HttpTarget(URL, json=value))

        assert request.method == "POST"
        assert json.loads(request.body) == value
        assert request.headers == (("Content-Type", "application/json"),)

    @pytest.mark.parametrize(("body", "sent"), [(b"\x00\xff", b"\x00\xff"), ("naïve", "naïve".encode())])
    def test_a_body_is_sent_as_it_is_with_no_content_type_made_up(
        self, body: bytes | str, sent: bytes
    ) -> None:
        request = only(HttpTarget(URL, body=body, headers={"Accept": "text/plain"}))

        assert (request.method, request.body, request.headers) == ("POST", sent, (("Accept", "text/plain"),))

    def test_a_content_type_that_is_given_stays(self) -> None:
        request = only(HttpTarget(URL, json={}, headers={"content-type": "application/x-ndjson"}))

        assert request.headers == (("content-type", "application/x-ndjson"),)

    def test_a_list_of_payloads_becomes_a_request_each(self) -> None:
        requests = encode(HttpTarget(URL, payloads=[{"n": 1}, b"raw", "as is"], operation="rank")).requests

        assert [request.body for request in requests] == [b'{"n":1}', b"raw", b"as is"]
        assert [bool(request.headers) for request in requests] == [True, False, False]
        assert {request.operation for request in requests} == {"rank"}

    def test_a_callable_draws_payloads_before_the_load_and_follows_the_seed(self) -> None:
        target = HttpTarget(URL, payloads=lambda rng: {"user": int(rng.integers(1_000_000))})

        first, again, other = encode(target, 1), encode(target, 1), encode(target, 2)

        assert first.requests == again.requests != other.requests
        assert len(first.requests) == 256
        assert len({request.body for request in first.requests}) > 200

    def test_the_endpoint_holds_what_the_url_says(self) -> None:
        endpoint = encode(HttpTarget("https://Model.Example/v1?a=1#part", verify_tls=False)).endpoint

        assert (endpoint.scheme, endpoint.host, endpoint.port) == ("https", "model.example", 443)
        assert endpoint.addresses == ()
        assert not endpoint.verify_tls

    @pytest.mark.parametrize(
        ("url", "path"),
        [
            ("http://h", "/"),
            ("http://h/a%20b/ü?q=ü&x=1", "/a%20b/%C3%BC?q=%C3%BC&x=1"),
            ("http://[::1]:8000/p?", "/p"),
        ],
    )
    def test_the_path_is_encoded_once_and_keeps_its_query(self, url: str, path: str) -> None:
        assert only(HttpTarget(url)).path == path

    def test_credentials_in_the_url_become_basic_authorization(self) -> None:
        request = only(HttpTarget("http://me:p%40ss@127.0.0.1/rank"))

        ((name, value),) = request.headers
        assert name == "Authorization"
        assert base64.b64decode(value.removeprefix("Basic ")) == b"me:p@ss"

    def test_a_callable_of_headers_is_left_to_the_engine(self) -> None:
        calls: list[int] = []

        def token() -> dict[str, str]:
            calls.append(1)
            return {"Authorization": f"Bearer {len(calls)}"}

        encoded = encode(HttpTarget(URL, headers=token, refresh_headers_s=5))

        assert not calls
        assert encoded.requests[0].headers == ()
        assert encoded.refresh_every_s == 5
        assert encoded.refresh_headers is not None
        assert encoded.refresh_headers() == {"Authorization": "Bearer 1"}

    def test_what_a_callable_of_headers_returns_is_checked(self) -> None:
        encoded = encode(HttpTarget(URL, headers=lambda: {"Authorization": "Bearer x\r\nEvil: 1"}))

        assert encoded.refresh_headers is not None
        with pytest.raises(ValueError, match="header Authorization holds a line break"):
            encoded.refresh_headers()


class TestRefusals:
    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("127.0.0.1:8000/rank", "needs a scheme; did you mean 'http://127.0.0.1:8000/rank'"),
            ("localhost:8000", "needs a scheme; did you mean 'http://localhost:8000'"),
            ("/rank", "needs a scheme"),
            ("", "needs a scheme"),
            ("ftp://host/rank", "scheme 'ftp'; only http and https"),
            ("http://", "needs a scheme|names no host"),
            ("http:///rank", "names no host|needs a scheme"),
            ("http://:80/", "names no host"),
            ("http://host:0/", "port 0"),
            ("http://host:70000/", "[Pp]ort out of range"),
            ("http://host:x/", "cannot be read"),
            ("http://[::1/", "cannot be read"),
            ("http://ho st/", "holds a space"),
            ("http://host/\r\nEvil: 1", "holds a space"),
            ("http://127.1/", "no IPv4 address of four decimal numbers"),
            ("http://2130706433/", "no IPv4 address"),
        ],
    )
    def test_a_url_that_cannot_be_loaded(self, url: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            HttpTarget(url)

    def test_a_bad_url_does_not_show_its_credentials(self) -> None:
        with pytest.raises(ValueError, match="scheme 'ftp'") as refused:
            HttpTarget("ftp://me:hunter2@host/")

        assert "hunter2" not in str(refused.value)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"json": {}, "body": b""}, ValueError, "exclude each other"),
            ({"json": None, "payloads": [1]}, ValueError, "exclude each other"),
            ({"json": {1, 2}}, TypeError, r"json is no JSON .*\.tolist\(\)"),
            ({"json": np.zeros(2)}, TypeError, "json is no JSON"),
            ({"json": float("nan")}, ValueError, "json is no JSON"),
            ({"payloads": [1, object()]}, TypeError, r"payloads\[1\] is no JSON"),
            ({"payloads": []}, ValueError, "payloads is empty"),
            ({"payloads": {"a": 1}}, TypeError, "for one payload say json="),
            ({"payloads": "abc"}, TypeError, "for one payload say json="),
            ({"body": {"a": 1}}, TypeError, "for JSON say json="),
            ({"method": "G ET"}, ValueError, "is no HTTP method"),
            ({"method": 3}, ValueError, "is no HTTP method"),
            ({"method": "CONNECT"}, ValueError, "asks nothing of a model server"),
            ({"timeout_s": 0}, ValueError, "timeout_s=0 must be a positive number of seconds"),
            ({"timeout_s": float("inf")}, ValueError, "timeout_s=inf"),
            ({"timeout_s": "5"}, TypeError, "timeout_s must be a number of seconds, not '5'"),
            ({"refresh_headers_s": -1}, ValueError, "refresh_headers_s=-1"),
            ({"headers": [("a", "b")]}, TypeError, "headers must be a mapping"),
            ({"headers": {"a b": "c"}}, ValueError, "'a b' is no header name"),
            ({"headers": {"X-N": 3}}, TypeError, "header X-N must be a string, not int"),
            ({"headers": {"X": "a\nb"}}, ValueError, "header X holds a line break"),
            ({"headers": {"Content-Length": "3"}}, ValueError, "set by the load engine"),
            ({"headers": {"a": "1", "A": "2"}}, ValueError, "same header twice"),
            ({"good_statuses": []}, ValueError, "no reply could ever be good"),
            ({"good_statuses": ["200"]}, ValueError, "'200'; statuses are integers"),
            ({"good_statuses": 200}, TypeError, "must be a list of statuses"),
            ({"check": "score"}, TypeError, "check must be a function"),
            ({"check": is_scored_later}, TypeError, "check must not be async"),
        ],
    )
    def test_arguments_that_cannot_be_sent(
        self, arguments: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            HttpTarget(URL, **arguments)

    def test_credentials_in_both_url_and_headers(self) -> None:
        with pytest.raises(ValueError, match="exclude each other"):
            HttpTarget("http://me:x@127.0.0.1/", headers={"authorization": "Bearer y"})

    def test_a_drawn_payload_that_is_no_json_names_the_callable(self) -> None:
        with pytest.raises(TypeError, match=r"a payload drawn by tests\..* is no JSON"):
            encode(HttpTarget(URL, payloads=lambda _: object()))  # type: ignore[arg-type, return-value]


class TestDescription:
    def test_it_holds_no_secret(self) -> None:
        target = HttpTarget(
            "http://me:hunter2@127.0.0.1:8000/rank?api_key=hunter2&n=3&sig=hunter2",
            headers={"X-Token": "hunter2", "Accept": "application/json"},
            json={"secret": "hunter2"},
        )

        described = target.describe()

        assert "hunter2" not in json.dumps(described)
        assert "hunter2" not in repr(target)
        assert described["url"] == "http://127.0.0.1:8000/rank?api_key=***&n=3&sig=***"
        assert described["headers"] == {
            "X-Token": "***",
            "Accept": "application/json",
            "Authorization": "***",
        }

    def test_it_says_what_is_sent_and_how_it_is_judged(self) -> None:
        target = HttpTarget(
            URL, payloads=[b"12", b"1234"], good_statuses=[404, 200], check=is_scored, timeout_s=3
        )

        assert target.describe() == {
            "kind": "http",
            "url": URL,
            "method": "POST",
            "operation": "POST /rank",
            "headers": {},
            "headers_from": None,
            "payloads": 2,
            "payload_mean_bytes": 3.0,
            "good_statuses": [200, 404],
            "check": f"{__name__}:is_scored",
            "timeout_s": 3.0,
            "unix_socket": None,
            "stream": None,
            "body_for": None,
        }

    def test_drawn_payloads_are_measured_once_drawn(self) -> None:
        target = HttpTarget(URL, payloads=lambda _: b"12345")

        encode(target)

        assert target.describe()["payloads"] == 256
        assert target.describe()["payload_mean_bytes"] == 5.0


class TestJudging:
    @pytest.mark.parametrize("status", [200, 201, 299])
    def test_two_hundreds_are_good(self, status: int) -> None:
        assert encode(HttpTarget(URL)).judge.load()(reply(status)).outcome is Outcome.GOOD

    @pytest.mark.parametrize("status", [199, 302, 404, 500])
    def test_other_statuses_are_bad_and_say_why(self, status: int) -> None:
        judgement = encode(HttpTarget(URL)).judge.load()(reply(status, b'{"error": "no model"}'))

        assert judgement.outcome is Outcome.BAD_STATUS
        assert judgement.reason == f"status {status}: no model"

    def test_the_user_says_which_statuses_are_good(self) -> None:
        judge = encode(HttpTarget(URL, good_statuses=[404])).judge.load()

        assert judge(reply(404)).outcome is Outcome.GOOD
        assert judge(reply(200)).outcome is Outcome.BAD_STATUS

    @pytest.mark.parametrize(
        ("answer", "outcome", "reason"),
        [
            (True, Outcome.GOOD, ""),
            (None, Outcome.GOOD, ""),
            (np.True_, Outcome.GOOD, ""),
            (False, Outcome.BAD_REPLY, "refused the reply"),
            (np.False_, Outcome.BAD_REPLY, "refused the reply"),
            ("no score\n in it", Outcome.BAD_REPLY, "no score in it"),
            ("", Outcome.BAD_REPLY, "refused the reply"),
            (KeyError("score"), Outcome.BAD_REPLY, "the check raised KeyError: 'score'"),
            (np.zeros(2), Outcome.BAD_REPLY, "the check raised ValueError"),
        ],
    )
    def test_a_check_has_the_last_word(self, answer: object, outcome: Outcome, reason: str) -> None:
        def check(_: Reply) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

        judgement = encode(HttpTarget(URL, check=check)).judge.load()(reply())

        assert judgement.outcome is outcome
        assert reason in judgement.reason

    def test_an_empty_body_is_no_answer(self) -> None:
        judgement = encode(HttpTarget(URL)).judge.load()(reply(200, b""))

        assert judgement.outcome is Outcome.BAD_REPLY
        assert "empty body" in judgement.reason
        assert "pass a check" in judgement.reason

    @pytest.mark.parametrize(
        ("target", "status"),
        [
            (HttpTarget(URL), 204),
            (HttpTarget(URL, method="HEAD"), 200),
            (HttpTarget(URL, check=lambda _: True), 200),
        ],
    )
    def test_an_empty_body_is_good_where_it_is_meant(self, target: HttpTarget, status: int) -> None:
        assert encode(target).judge.load()(reply(status, b"")).outcome is Outcome.GOOD

    def test_a_reply_to_head_is_good_without_a_body_and_bad_by_its_status(self) -> None:
        judge = encode(HttpTarget(URL)).judge.load()

        assert judge(Reply(200, {}, b"", to_head=True)).outcome is Outcome.GOOD
        assert judge(Reply(404, {}, b"", to_head=True)).outcome is Outcome.BAD_STATUS

    def test_a_check_of_a_module_is_named_so_that_another_process_can_import_it(self) -> None:
        judge = encode(HttpTarget(URL, check=is_scored)).judge

        assert judge.check == f"{__name__}:is_scored"
        assert judge.function == "pytest_capacity.targets.http:judge_reply"
        rebuilt = Judge(judge.function, json.loads(json.dumps(judge.settings)), judge.check)
        assert rebuilt.load()(reply()).outcome is Outcome.GOOD
        assert rebuilt.load()(reply(200, b"{}")).outcome is Outcome.BAD_REPLY

    @pytest.mark.parametrize("check", [lambda _: True, dict, TestEncoding().test_without_a_payload_it_gets])
    def test_a_check_that_cannot_be_imported_stays_an_object(self, check: Any) -> None:
        assert encode(HttpTarget(URL, check=check)).judge.check == check


class TestExplanation:
    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b'{"detail":[{"loc":["body","items"],"msg":"Field required"}]}', "field 'items' required"),
            (b'{"detail":[{"loc":["body"],"msg":"Field required"}]}', "a body is required"),
            (
                b'{"detail":[{"loc":["body","user",0,"age"],"msg":"Input should be a valid integer"}]}',
                "user.0.age: Input should be a valid integer",
            ),
            (
                b'{"detail":[{"loc":["body","a"],"msg":"Missing"},{"loc":["query","b"],"msg":"Missing"}]}',
                "field 'a' required; field 'query.b' required",
            ),
            (b'{"detail":"Not Found"}', "Not Found"),
            (b'{"error":"model is loading"}', "model is loading"),
            (b'{"error":{"message":"too many tokens","code":3}}', "too many tokens"),
            (b'{"message":"bad"}', "bad"),
            (b'{"unknown":1}', '{"unknown":1}'),
            (b"{broken", "{broken"),
            (b"Internal\x1b[31m Server\r\nError", "Internal [31m Server Error"),
            (b"<html><head><title>502 Bad &amp; Gateway</title></head></html>", "502 Bad & Gateway"),
            (b"<p>gone <b>wrong</b></p>", "gone wrong"),
            (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"),
            (b"[" * 60_000, "[" * 100),
        ],
    )
    def test_the_servers_own_reason_is_found(self, body: bytes, said: str) -> None:
        target = HttpTarget(URL + "?key=hunter2", json={})

        line = target.explain(reply(422, body), only(target))

        assert line.startswith(f"422 from POST /rank: {said}")
        assert "hunter2" not in line

    def test_no_reason_is_made_up(self) -> None:
        target = HttpTarget(URL)

        assert target.explain(reply(500, b""), only(target)) == "500 from GET /rank"

    def test_a_long_reason_is_cut(self) -> None:
        line = HttpTarget(URL).explain(reply(500, b"word " * 1000), only(HttpTarget(URL)))

        assert len(line) <= 200
        assert line.endswith("...")


class TestAsTarget:
    def test_a_url_becomes_an_http_target(self) -> None:
        target = as_target(URL)

        assert isinstance(target, HttpTarget)
        assert target.describe()["url"] == URL

    def test_a_target_passes_through(self) -> None:
        target = HttpTarget(URL)

        assert as_target(target) is target

    @pytest.mark.parametrize("value", [None, 8000, b"http://127.0.0.1", [URL], lambda: URL, HttpTarget])
    def test_anything_else_is_refused_with_what_is_wanted(self, value: object) -> None:
        with pytest.raises(TypeError, match="a capacity target is a URL such as"):
            as_target(value)

    def test_a_bad_url_says_what_is_wrong_with_it(self) -> None:
        with pytest.raises(ValueError, match="needs a scheme"):
            as_target("127.0.0.1:8000")


class TestConnection:
    def test_paths_are_made_absolute_since_another_process_may_live_elsewhere(self) -> None:
        target = HttpTarget(
            "https://127.0.0.1", verify_tls="ca.pem", client_cert=("me.pem", "me.key"), unix_socket="m.sock"
        )
        endpoint = target.encode(np.random.default_rng(0)).endpoint

        assert endpoint.verify_tls
        assert endpoint.ca_file == str(Path("ca.pem").absolute())
        assert endpoint.cert_file == str(Path("me.pem").absolute())
        assert endpoint.key_file == str(Path("me.key").absolute())
        assert endpoint.unix_path == str(Path("m.sock").absolute())

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"client_cert": ("a", "b", "c")}, ValueError),
            ({"client_cert": 3}, TypeError),
            ({"unix_socket": 3}, TypeError),
            ({"stream": "tokens"}, ValueError),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, arguments: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=next(iter(arguments))):
            HttpTarget("https://127.0.0.1", **arguments)

    def test_a_check_makes_every_reply_be_judged(self) -> None:
        def judge_of(**arguments: Any) -> bool:
            return HttpTarget(URL, **arguments).encode(np.random.default_rng(0)).judge.by_status

        assert judge_of()
        assert not judge_of(check=is_scored)
