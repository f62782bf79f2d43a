"""No secret in a body reaches an imported trace, whatever format it comes in and whatever form it has."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_capacity.cli import main
from pytest_capacity.traffic.importers.job import ImportOptions
from pytest_capacity.traffic.importing import compose
from pytest_capacity.traffic.trace import TraceRow, body_bytes, read_rows

FORM, JSON, PARTS = "application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=b"

FORM_BODY = b"user=bob&password=s3cret&access_token=s3cret"
BROKEN = b'{"password":"s3cret",'
IN_PARTS = b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\ns3cret\r\n--b--\r\n'
TWICE = b'{"password":"s3cret","password":null}'
UNREADABLE = "its fields cannot be read, so secrets could not be taken out"
UNFAITHFUL = "it could not be written back as it came without the secrets in it"


def har(content_type: str, body: bytes) -> str:
    posted = {"mimeType": content_type, "text": body.decode("latin-1")}
    return _har(content_type, posted)


def har_in_base64(content_type: str, body: bytes) -> str:
    return _har(content_type, {"text": base64.b64encode(body).decode(), "encoding": "base64"})


def _har(content_type: str, posted: dict[str, Any]) -> str:
    request = {
        "method": "POST",
        "url": "http://h/login",
        "headers": [{"name": "Content-Type", "value": content_type}],
        "postData": posted,
    }
    entry = {"startedDateTime": "2024-01-01T00:00:01Z", "time": 5, "request": request}
    return json.dumps({"log": {"version": "1.2", "entries": [entry]}})


def goreplay(content_type: str, body: bytes) -> str:
    head = f"1 abc 1700000000000000000 0\nPOST /login HTTP/1.1\r\nContent-Type: {content_type}\r\n\r\n"
    return f"{head}{body.decode('latin-1')}\n🐵🙈🙉\n"


def vegeta(content_type: str, body: bytes) -> str:
    target = {"method": "POST", "url": "http://h/login", "header": {"Content-Type": [content_type]}}
    return json.dumps({**target, "body": base64.b64encode(body).decode()})


def sagemaker(content_type: str, body: bytes) -> str:
    sent = {
        "observedContentType": content_type,
        "encoding": "BASE64",
        "data": base64.b64encode(body).decode(),
    }
    metadata = {"eventId": "8f45e35c", "inferenceTime": "2020-07-30T13:36:30Z"}
    return json.dumps(
        {"captureData": {"endpointInput": sent}, "eventMetadata": metadata, "eventVersion": "0"}
    )


def cloudevent(content_type: str, body: bytes) -> str:
    return json.dumps(
        {
            "specversion": "1.0",
            "type": "org.kubeflow.serving.inference.request",
            "id": "1",
            "time": "2023-04-05T07:39:53Z",
            "inferenceservicename": "iris",
            "datacontenttype": content_type,
            "data": body.decode("latin-1"),
        }
    )


@pytest.mark.parametrize("file_of", [har, har_in_base64, goreplay, vegeta, sagemaker, cloudevent])
@pytest.mark.parametrize(
    ("content_type", "body", "kept", "left_out"),
    [
        (FORM, FORM_BODY, b"user=bob", {}),
        (JSON, BROKEN, None, {UNREADABLE: 1}),
        (PARTS, IN_PARTS, None, {"a part of it holds a secret": 1}),
        (JSON, TWICE, None, {UNFAITHFUL: 1}),
        ("", b'{"n":1e999, "n":2}', b'{"n":1e999, "n":2}', {}),
        ("text/csv", b"1,2,3", b"1,2,3", {}),
    ],
)
def test_a_body_is_treated_as_a_recording_does(
    *,
    tmp_path: Path,
    file_of: Callable[[str, bytes], str],
    content_type: str,
    body: bytes,
    kept: bytes | None,
    left_out: dict[str, int],
) -> None:
    row, found = _imported(tmp_path, file_of(content_type, body))

    assert body_bytes(row, tmp_path / "a.trace.jsonl") == kept
    assert row.size == {"bytes": len(body)}
    assert row.extra.get("body_left_out") == next(iter(left_out), None)
    assert found == left_out


def _imported(tmp_path: Path, text: str) -> tuple[TraceRow, dict[str, int]]:
    """The row of a file, and the bodies left out; payloads get an arrival."""
    source, times, out = tmp_path / "recorded", tmp_path / "times.csv", tmp_path / "a.trace.jsonl"
    source.write_text(text, encoding="utf-8", newline="")
    times.write_text("timestamp\n1\n")
    found = compose(times, source, out, ImportOptions())
    (row,) = read_rows(out)[1]
    return row, found.bodies_left_out


@pytest.mark.parametrize("redacted", [True, False])
def test_payloads_of_a_trace_that_may_hold_secrets_make_one_that_may(tmp_path: Path, redacted: bool) -> None:
    payloads, times, out = tmp_path / "a.jsonl", tmp_path / "times.csv", tmp_path / "a.trace.jsonl"
    payloads.write_text(f'{{"pytest_capacity_trace":1,"redacted":{json.dumps(redacted)}}}\n{{"t":0}}\n')
    times.write_text("timestamp\n1\n")

    assert compose(times, payloads, out, ImportOptions()).header.redacted is redacted


@pytest.mark.parametrize("kind", [{}, {"mimeType": FORM}])
def test_an_archives_parameters_are_a_form(tmp_path: Path, kind: dict[str, str]) -> None:
    params = [{"name": "password", "value": "s3cret"}, {"name": "user", "value": "b c"}]
    request = {"method": "POST", "url": "http://h/f", "postData": {**kind, "params": params}}
    entry = {"startedDateTime": "2024-01-01T00:00:01Z", "request": request}

    row, _ = _imported(tmp_path, json.dumps({"log": {"version": "1.2", "entries": [entry]}}))

    assert row.headers == {"content-type": FORM}
    assert body_bytes(row, tmp_path / "a.trace.jsonl") == b"user=b+c"


def test_a_compressed_body_is_looked_into(tmp_path: Path) -> None:
    source, out = tmp_path / "a.gor", tmp_path / "a.trace.jsonl"
    head = b"1 abc 1700000000000000000 0\nPOST / HTTP/1.1\r\nContent-Encoding: gzip\r\n"
    data = gzip.compress(b'{"password":"s3cret","x":1}')
    source.write_bytes(head + b"Content-Type: application/json\r\n\r\n" + data + "\n🐵🙈🙉\n".encode())

    assert main(["import", str(source), "--out", str(out)]) == 0

    (row,) = read_rows(out)[1]
    assert row.body == {"password": "***", "x": 1}
    assert row.headers == {"content-type": "application/json"}


def test_the_command_tells_which_bodies_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.har"
    source.write_text(har(JSON, BROKEN))

    assert main(["import", str(source), "--out", str(tmp_path / "a.trace.jsonl")]) == 0
    assert f"  1 without their body: {UNREADABLE}\n" in capsys.readouterr().out
    assert main(["import", str(source), "--out", str(tmp_path / "a.trace.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bodies_left_out"] == {UNREADABLE: 1}
