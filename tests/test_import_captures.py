"""Captures with bodies: GoReplay, HAR, CloudEvents, SageMaker, OpenTelemetry and Mooncake."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.traffic.trace import TraceError, body_bytes
from tests.imported import imported, imported_text

SEPARATOR = "\n🐵🙈🙉\n".encode()
START = 1781024939842000000


def gor(kind: int, key: str, time_ns: int, message: bytes, latency: str = " -1") -> bytes:
    """A message as GoReplay writes it."""
    return f"{kind} {key} {time_ns}{latency}\n".encode() + message + SEPARATOR


POST = b"POST /predict HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
POST += b"Authorization: Bearer s3cret\r\nCookie: a=s3cret\r\n"
CAPTURE = (
    gor(1, "aa1", START, POST + b'Content-Length: 7\r\n\r\n{"x":1}')
    + gor(2, "aa1", START + 30_000_000, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    + gor(1, "bb2", START + 500_000_000, b"GET /healthz?token=s3cret HTTP/1.1\r\nHost: h\r\n\r\n", latency="")
    + gor(3, "aa1", START + 1_000_000_000, b"HTTP/1.1 200 OK\r\n\r\n")
    + gor(
        1,
        "cc3",
        START + 100_000_000,
        b"POST /image HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\xff\xd8ab\r\n3\r\ncde\r\n0\r\n\r\n",
    )
)


def test_goreplay_gives_starts_bodies_and_replies(tmp_path: Path) -> None:
    result = imported_text(tmp_path, CAPTURE)

    first, image, health = result.rows
    assert result.found.format == "goreplay"
    assert result.times == [0.0, 0.1, 0.5]
    assert (first.id, first.op, first.body, first.size) == ("aa1", "POST /predict", {"x": 1}, {"bytes": 7})
    assert first.headers == {"content-type": "application/json"}
    assert first.seen == {"status": 200, "bytes": 2, "latency_s": 0.03}
    assert body_bytes(image, result.out) == b"\xff\xd8abcde"
    assert (health.path, health.method) == ("/healthz?token=***", "GET")
    assert "s3cret" not in result.out.read_text()
    assert result.found.dropped == {"replayed reply": 1}
    assert result.found.header.start == "2026-06-09T17:08:59.842000Z"


def test_goreplay_captures_may_be_compressed_and_hold_separators_in_chunks(tmp_path: Path) -> None:
    large = bytes(range(256)) * 8000
    path = tmp_path / "capture.gor.gz"
    path.write_bytes(gzip.compress(gor(1, "aa", START, b"POST /i HTTP/1.1\r\n\r\n" + large) * 3))

    result = imported(path)

    assert [body_bytes(row, result.out) for row in result.rows] == [large] * 3
    assert len(list(result.out.with_name("a.bodies").iterdir())) == 1


def test_a_message_without_goreplays_header_is_dropped(tmp_path: Path) -> None:
    broken = CAPTURE + b"POST /predict HTTP/1.1\r\n\r\nx" + SEPARATOR

    assert imported_text(tmp_path, broken).found.dropped["no GoReplay header"] == 1


def har(*entries: dict[str, Any]) -> str:
    return json.dumps(
        {"log": {"version": "1.2", "creator": {"name": "t"}, "entries": list(entries)}}, indent=1
    )


def test_an_archive_gives_bodies_in_order_of_their_start(tmp_path: Path) -> None:
    later = {
        "startedDateTime": "2009-04-16T12:07:24.096Z",
        "time": 50,
        "request": {
            "method": "POST",
            "url": "http://user:pw@h/predict?access_token=s3cret",
            "headers": [{"name": "Cookie", "value": "s3cret"}, {"name": "Accept", "value": "*/*"}],
            "postData": {"mimeType": "application/json", "text": '{"x":1,"password":"s3cret"}'},
        },
        "response": {"status": 201},
    }
    form = {
        "startedDateTime": "2009-04-16T12:07:23.596Z",
        "time": -1,
        "request": {
            "method": "POST",
            "url": "http://h/f",
            "postData": {
                "mimeType": "application/x-www-form-urlencoded",
                "params": [{"name": "a", "value": "b c"}],
            },
        },
        "response": {"status": 0},
    }

    result = imported_text(tmp_path, har(later, form, {"startedDateTime": "x", "request": {}}))

    first, second = result.rows
    assert result.found.format == "har"
    assert result.times == [0.0, 0.5]
    assert body_bytes(first, result.out) == b"a=b+c"
    assert first.seen == {}
    assert second.body == {"x": 1, "password": "***"}
    assert second.headers == {"accept": "*/*", "content-type": "application/json"}
    assert second.path == "/predict?access_token=***"
    assert second.seen == {"status": 201, "latency_s": 0.05}
    assert "s3cret" not in result.out.read_text()
    assert result.found.dropped == {"no request": 1}


def test_what_a_browser_asked_no_server_over_http_is_no_request(tmp_path: Path) -> None:
    asked = [
        ("GET", "http://h/a"),
        ("get", "HTTPS://h/b"),
        ("GET", "data:image/png;base64,AAAA"),
        ("GET", "blob:http://h/1234"),
        ("GET", "chrome-extension://abc/x.js"),
        ("GET", "ws://h/ws"),
        ("GET", "wss://h/ws"),
        ("CONNECT", "http://h:443"),
    ]
    entries = [
        {"startedDateTime": "2009-04-16T12:07:24Z", "request": {"method": method, "url": url}}
        for method, url in asked
    ]

    result = imported_text(tmp_path, har(*entries))

    assert [(row.method, row.path) for row in result.rows] == [("GET", "/a"), ("GET", "/b")]
    assert result.found.dropped == {"not an HTTP request": 6}
    assert result.found.first_dropped == {"not an HTTP request": 3}


def test_parts_without_their_bytes_make_no_body(tmp_path: Path) -> None:
    posted = {"mimeType": "multipart/form-data; boundary=b", "params": [{"name": "a", "value": "1"}]}
    request = {"method": "POST", "url": "http://h/f", "postData": posted}

    result = imported_text(tmp_path, har({"startedDateTime": "2009-04-16T12:07:24Z", "request": request}))

    assert body_bytes(result.rows[0], result.out) is None
    assert result.found.bodies_left_out == {"it came in parts, of which the archive has no bytes": 1}


@pytest.mark.parametrize("text", ["{}", '{"log":{"entries":7}}', "[1]", '{"log":'])
def test_what_is_no_archive_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TraceError, match="no HTTP archive"):
        imported_text(tmp_path, text, "har")


def event(kind: str, key: str, time: str, data: Any, **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": f"org.kubeflow.serving.inference.{kind}",
        "id": key,
        "time": time,
        "inferenceservicename": "sklearn-iris",
        "namespace": "default",
        "datacontenttype": "application/x-www-form-urlencoded",
        "data": data,
        **more,
    }


def test_kserves_events_are_joined_by_their_id(tmp_path: Path) -> None:
    events = [
        event("request", "1", "2023-04-05T07:39:53.501752983Z", {"instances": [[6.8, 2.8]]}),
        event("request", "2", "2023-04-05T07:39:53.601752983Z", '{"inputs":[{"name":"x"}]}'),
        event("response", "1", "2023-04-05T07:39:53.505997782Z", {"predictions": [1]}),
        event("response", "9", "2023-04-05T07:39:53.7Z", {}),
        {"specversion": "1.0", "type": "other", "id": "3"},
    ]

    result = imported_text(tmp_path, "\n".join(json.dumps(one) for one in events))

    first, second = result.rows
    assert result.found.format == "cloudevents"
    assert result.times == [0.0, 0.1]
    assert (first.id, first.op, first.path) == ("1", "sklearn-iris", "/v1/models/sklearn-iris:predict")
    assert first.body == {"instances": [[6.8, 2.8]]}
    assert first.headers == {"content-type": "application/json"}
    assert first.seen == {"latency_s": 0.004244799}
    assert second.path == "/v2/models/sklearn-iris/infer"
    assert result.found.dropped == {"neither a request nor a reply": 1}
    assert "1 replies without a request" in result.messages


def test_seldons_events_with_attributes_as_headers_are_read(tmp_path: Path) -> None:
    record = {
        "path": "/",
        "headers": {
            "ce-id": "45a8",
            "ce-inferenceservicename": "model-test",
            "ce-requestid": "12b0d447",
            "CE-Time": "2022-08-16T22:38:13.447502807Z",
            "ce-type": "io.seldon.serving.inference.request",
            "content-type": "application/json",
        },
        "body": '{ "data": {"ndarray": [[2,1]] }}',
    }

    (row,) = imported_text(tmp_path, json.dumps(record)).rows

    assert (row.id, row.op, row.path) == ("12b0d447", "model-test", "/api/v1.0/predictions")
    assert row.body == {"data": {"ndarray": [[2, 1]]}}


def test_an_events_binary_data_is_kept(tmp_path: Path) -> None:
    one = event(
        "request", "1", "2023-04-05T07:39:53Z", None, data_base64=base64.b64encode(b"\x00\x01").decode()
    )

    result = imported_text(tmp_path, json.dumps(one))

    assert body_bytes(result.rows[0], result.out) == b"\x00\x01"


def captured(data: str, encoding: str, time: str = "2020-07-30T13:36:30Z", kind: str = "text/csv") -> str:
    sent = {"observedContentType": kind, "mode": "INPUT", "data": data, "encoding": encoding}
    metadata = {"eventId": "8f45e35c", "inferenceTime": time}
    return json.dumps(
        {"captureData": {"endpointInput": sent}, "eventMetadata": metadata, "eventVersion": "0"}
    )


def test_sagemakers_captures_are_read_in_each_encoding(tmp_path: Path) -> None:
    lines = [
        captured("6,148,72,35", "CSV"),
        captured('{"x": 1}', "JSON", "2020-07-30T13:36:31Z", "application/json"),
        captured(
            base64.b64encode(b'{"y": 2}').decode(), "BASE64", "2020-07-30T13:36:32Z", "application/json"
        ),
        json.dumps({"captureData": {"endpointOutput": {}}, "eventMetadata": {}}),
    ]

    result = imported_text(tmp_path, "\n".join(lines))

    assert result.found.format == "sagemaker"
    assert result.times == [0.0, 1.0, 2.0]
    assert body_bytes(result.rows[0], result.out) == b"6,148,72,35"
    assert [row.body for row in result.rows[1:]] == [{"x": 1}, {"y": 2}]
    assert result.rows[0].headers == {"content-type": "text/csv"}
    assert result.rows[0].path == "/invocations"
    assert result.found.header.sampling is None
    assert result.found.header.resolution_s == 1.0
    assert result.found.dropped == {"no captured input": 1}


def span(
    start: int, attributes: dict[str, str | int] | None = None, *, kind: int | None = 2
) -> dict[str, Any]:
    described = [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in (attributes or {}).items()
    ]
    one = {
        "name": "POST /predict",
        "spanId": "ab",
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": str(start + 30_000_000),
        "attributes": described,
    }
    return one if kind is None else {**one, "kind": kind}


def spans(*some: dict[str, Any], service: str = "ranker") -> dict[str, Any]:
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(some)}]}]}


OLD: dict[str, str | int] = {"http.method": "GET", "http.target": "/old?x=1", "http.status_code": 404}
NEW: dict[str, str | int] = {
    "http.request.method": "POST",
    "http.route": "/v1/{model}",
    "url.path": "/v1/rank",
    "url.query": "api_key=s3cret",
    "http.response.status_code": 200,
    "http.request.body.size": 41,
    "gen_ai.usage.input_tokens": 12,
}


def test_server_spans_in_any_order_become_arrivals(tmp_path: Path) -> None:
    base = 1581452772000000321
    lines = [
        json.dumps(spans(span(base + 10**9, NEW), span(base + 5, kind=3))),
        json.dumps(spans(span(base, OLD, kind=None))),
        json.dumps(spans({**span(base, kind=None), "parentSpanId": "cd"})),
    ]

    result = imported_text(tmp_path, "\n".join(lines))

    old, new = result.rows
    assert result.found.format == "otlp"
    assert result.times == [0.0, 1.0]
    assert (new.op, new.path, new.method) == ("POST /v1/{model}", "/v1/rank?api_key=***", "POST")
    assert new.size == {"bytes": 41, "tokens_in": 12}
    assert new.seen == {"status": 200, "latency_s": 0.03}
    assert (old.op, old.path, old.seen["status"]) == ("POST /predict", "/old?x=1", 404)
    assert result.found.dropped == {"not a server's span": 2}
    assert result.found.header.sampling is None


def test_opentelemetrys_own_example_is_read(tmp_path: Path) -> None:
    # As in the protocol's repository: over many lines, times as numbers, a server's span below a client's.
    one = {**span(0), "startTimeUnixNano": 1544712660000000000, "endTimeUnixNano": 1544712661000000000}

    result = imported_text(tmp_path, json.dumps(spans({**one, "parentSpanId": "EEE19B7EC3C1B173"}), indent=2))

    assert result.rows[0].seen == {"latency_s": 1.0}
    assert result.found.header.start == "2018-12-13T14:51:00Z"


def test_opentelemetry_is_read_as_one_document_and_as_log_records(tmp_path: Path) -> None:
    record = {"timeUnixNano": "1581452773000000789", "attributes": []}
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}

    assert len(imported_text(tmp_path, json.dumps(spans(span(10**18)), indent=2)).rows) == 1
    assert len(imported_text(tmp_path, json.dumps(logs)).rows) == 1


def test_mooncakes_milliseconds_are_milliseconds(tmp_path: Path) -> None:
    text = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    text += '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 2366]}\n'
    text += '{"timestamp": null, "input_length": 1, "output_length": 1}\n'

    result = imported_text(tmp_path, text)

    assert result.found.format == "mooncake"
    assert result.times == [0.0, 3.053]
    assert [row.prefix for row in result.rows] == [(46, 47), (46, 2366)]
    assert result.rows[0].size == {"tokens_in": 6955, "tokens_out": 52}
    assert result.found.header.prefix_block == 512
    assert result.found.dropped == {"no timestamp": 1}
