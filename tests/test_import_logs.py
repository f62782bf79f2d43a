"""Access logs: whose clock is whose, durations, request lines, secrets in paths, altered logs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from pytest_capacity.traffic.trace import TraceError
from tests.imported import imported_text

COMBINED = """\
83.149.9.0 - - [17/May/2015:10:05:03 +0000] "POST /predict HTTP/1.1" 200 203 "-" "curl/8.5"
83.149.9.0 - bob [17/May/2015:10:05:04 +0000] "GET /healthz HTTP/1.1" 200 2 "-" "kube-probe \\"1.2\\""
83.149.9.0 - - [17/May/2015:10:05:04 +0000] "GET /users/42/items?api_key=s3cret&page=2 HTTP/2.0" 304 - "-" "x"
83.149.9.0 - - [17/May/2015:10:05:05 +0000] "\\x16\\x03\\x01" 400 0 "-" "-"
"""


def test_a_combined_log_gives_times_operations_and_replies(tmp_path: Path) -> None:
    result = imported_text(tmp_path, COMBINED)

    assert result.found.format == "combined"
    assert [(row.t, row.op, row.method, row.path) for row in result.rows] == [
        (0.0, "POST /predict", "POST", "/predict"),
        (1.0, "GET /healthz", "GET", "/healthz"),
        (1.0, "GET /users/{id}/items", "GET", "/users/42/items?api_key=***&page=2"),
    ]
    assert result.rows[0].seen == {"status": 200, "bytes": 203}
    assert result.rows[0].size == {}
    assert result.found.header.resolution_s == 1.0
    assert result.found.header.start == "2015-05-17T10:05:03Z"
    assert result.found.dropped == {"no HTTP request": 1}
    assert "83.149" not in result.out.read_text()


def test_apache_logs_arrivals_and_nginx_ends(tmp_path: Path) -> None:
    apache, nginx = imported_text(tmp_path, COMBINED), imported_text(tmp_path, COMBINED, "nginx")

    assert apache.found.header.clock == "arrival"
    assert "--format nginx" in apache.messages
    assert nginx.found.header.clock == "completion"
    assert "times are of completion, not of arrival" in nginx.found.warnings


@pytest.mark.parametrize("tail", ["2.500", 'rt=2.500 uct="0.001" urt="2.499"', '"-" "2.500"'])
def test_nginxs_request_time_gives_the_arrival(tmp_path: Path, tail: str) -> None:
    text = f'1.1.1.1 - - [17/May/2015:10:05:03 +0000] "POST /p HTTP/1.1" 200 3 "-" "c" {tail}\n'
    text += '1.1.1.1 - - [17/May/2015:10:05:03 +0000] "POST /p HTTP/1.1" 200 3 "-" "c" 0.000\n'

    result = imported_text(tmp_path, text)

    assert result.times == [0.0, 2.5]
    assert result.found.header.clock == "arrival"
    assert result.rows[0].seen["latency_s"] == 2.5
    assert result.found.header.resolution_s == 1.0


def test_daylight_saving_does_not_send_a_log_back_in_time(tmp_path: Path) -> None:
    text = '1.1.1.1 - - [27/Oct/2024:02:59:59 +0200] "GET / HTTP/1.1" 200 3\n'
    text += '1.1.1.1 - - [27/Oct/2024:02:00:01 +0100] "GET / HTTP/1.1" 200 3\n'

    result = imported_text(tmp_path, text)

    assert result.times == [0.0, 2.0]
    assert "daylight saving" in result.messages


def test_envoys_log_gives_starts_and_sizes_of_requests(tmp_path: Path) -> None:
    text = '[2016-04-15T20:17:00.310Z] "POST /api/v1/locations HTTP/2" 204 - 154 0 226 100 '
    text += '"10.0.35.28" "nsq2http" "cc21d9b0-cf5c" "locations" "tcp://10.0.2.1:80"\n'
    istio = '[2016-04-15T20:17:01.000Z] "GET /status/418 HTTP/1.1" 418 UF via_upstream - "-" 7 135 4 3 '
    istio += '"-" "curl" "84961386" "httpbin:8000" "127.0.0.1:80" inbound|8000|| 127.0.0.1:1 10.0.0.1:80 '
    istio += "10.0.0.2:3 outbound_.8000 default\n"

    result = imported_text(tmp_path, text + istio)

    first, second = result.rows
    assert result.found.format == "envoy"
    assert result.times == [0.0, 0.69]
    assert first.size == {"bytes": 154}
    assert first.id == "cc21d9b0-cf5c"
    assert first.seen == {"status": 204, "bytes": 0, "latency_s": 0.226}
    assert (second.size, second.seen["flags"], second.id) == ({"bytes": 7}, "UF", "84961386")
    assert result.found.header.clock == "arrival"
    assert result.found.header.resolution_s == 0.001


def test_nginx_in_json_gives_arrivals_with_milliseconds(tmp_path: Path) -> None:
    lines = [
        {
            "msec": "1700000010.500",
            "request_time": "0.250",
            "request_method": "POST",
            "request_uri": "/rank?sig=x",
            "status": "200",
            "request_length": "312",
            "request_id": "r1",
        },
        {
            "msec": "1700000010.600",
            "request_time": "0.100",
            "request": "GET /healthz HTTP/1.1",
            "status": 200,
        },
    ]

    result = imported_text(tmp_path, "\n".join(json.dumps(line) for line in lines))

    first, second = result.rows
    assert result.found.format == "json-log"
    assert (first.t, first.path, first.id) == (0.0, "/rank?sig=***", "r1")
    assert first.size == {"request_bytes": 312}
    assert (second.t, second.op) == (0.25, "GET /healthz")
    assert (result.found.header.clock, result.found.header.resolution_s) == ("arrival", 0.001)


def test_nginx_in_json_without_request_time_knows_ends_only(tmp_path: Path) -> None:
    line = {"time_iso8601": "2024-01-01T00:00:00+00:00", "method": "GET", "path": "/", "status": 200}

    result = imported_text(tmp_path, json.dumps(line), "json-log")

    assert result.found.header.clock == "completion"


def test_envoy_in_json_gives_starts(tmp_path: Path) -> None:
    line = {
        "start_time": "2024-01-01T00:00:00.125Z",
        "method": "POST",
        "path": "/p",
        "response_code": 200,
        "bytes_received": 41,
        "duration": 7,
    }

    result = imported_text(tmp_path, json.dumps(line))

    assert result.found.format == "json-log"
    assert result.rows[0].size == {"bytes": 41}
    assert result.rows[0].seen == {"status": 200, "latency_s": 0.007}
    assert result.found.header.start == "2024-01-01T00:00:00.125000Z"


def test_an_altered_log_is_told(tmp_path: Path) -> None:
    draw = random.Random(1)
    times = [f"{17 + i // 240}/May/2015:{i // 10 % 24:02}:05:{draw.randrange(60):02}" for i in range(500)]
    lines = [f'1.1.1.1 - - [{time} +0000] "GET / HTTP/1.1" 200 3' for time in times]

    result = imported_text(tmp_path, "\n".join(lines))

    doubts = [text for text in result.found.warnings if text.startswith("arrivals not credible")]
    assert len(doubts) == 2
    assert "minute 5 of its hour" in doubts[1]
    assert result.found.header.extra["warnings"] == list(result.found.warnings)


def test_a_file_that_is_no_access_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="line 1: not a line of an access log"):
        imported_text(tmp_path, "hello\nworld\n", "combined")
