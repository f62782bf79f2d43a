"""Rows of a trace as requests to a target: what is sent of each, and what is refused with which advice."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_capacity.measurement.recorded import (
    MOST_OPERATIONS,
    OTHER,
    check_recorded,
    first_rows,
    load_recorded,
    with_fewer_operations,
)
from pytest_capacity.protocols import Encoded, Reply, Request
from pytest_capacity.slo import CapacityUsageError
from pytest_capacity.targets.http import HttpTarget
from pytest_capacity.targets.recorded import as_replay_target, safe_target
from pytest_capacity.traffic.calibrate_command import calibrate_file
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, TraceWriter, body_bytes
from pytest_capacity.traffic.workload import as_text
from pytest_capacity.traffic.workload_reading import read_workload
from tests.replays import made_rows, without_bodies, write_trace
from tests.traffics import steady

URL = "http://127.0.0.1:8000/own?key=1"


def encode(row: TraceRow, **arguments: Any) -> Request:
    return HttpTarget(URL, **arguments).encode_row(row, body_bytes(row, "a.trace.jsonl"))


class TestEncoding:
    def test_a_row_is_sent_by_its_own_method_path_and_body_to_the_target_s_host(self) -> None:
        row = TraceRow(0.0, op="rank", path="/v2/rank?user=7", body={"items": [4, 9]})

        request = encode(row, json={"another": "body"})

        assert (request.operation, request.method, request.path) == ("rank", "POST", "/v2/rank?user=7")
        assert json.loads(request.body) == {"items": [4, 9]}
        assert request.headers == (("Content-Type", "application/json"),)

    def test_of_a_whole_url_only_the_path_is_asked_for(self) -> None:
        row = TraceRow(0.0, method="GET", path="https://production.example/rank?user=7#top")

        assert encode(row).path == "/rank?user=7"

    @pytest.mark.parametrize(
        ("path", "sent"),
        [
            ("rank", "/rank"),
            ("/a b/ü?q=x y", "/a%20b/%C3%BC?q=x%20y"),
            ("/a%20b", "/a%20b"),
            ("/x\r\nEvil: 1", "/x%0D%0AEvil:%201"),
            ("http://host", "/"),
        ],
    )
    def test_a_path_cannot_break_out_of_its_line(self, path: str, sent: str) -> None:
        assert safe_target(path) == sent

    def test_bytes_are_sent_as_they_were_without_a_content_type_of_ours(self) -> None:
        data = b"\x00\xffimage"
        row = TraceRow(0.0, path="/x", body_b64=base64.b64encode(data).decode())

        request = encode(row)

        assert (request.body, request.headers) == (data, ())

    def test_recorded_headers_are_sent_and_the_target_s_own_win(self) -> None:
        headers = {"accept": "text/csv", "x-tenant": "recorded", "content-type": "text/csv"}
        row = TraceRow(0.0, path="/x", headers=headers, body={"a": 1})

        request = encode(row, headers={"X-Tenant": "mine"})

        assert request.headers == (("X-Tenant", "mine"), ("accept", "text/csv"), ("content-type", "text/csv"))

    @pytest.mark.parametrize(
        "name", ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Authorization", "Cookie", "TE"]
    )
    def test_headers_of_another_connection_and_credentials_are_left_out(self, name: str) -> None:
        row = TraceRow(0.0, path="/x", headers={name: "recorded"}, body={})

        assert name not in dict(encode(row).headers)

    def test_a_get_without_a_body_has_none(self) -> None:
        request = encode(TraceRow(0.0, method="get", path="/healthz"), body_for=lambda _: {"never": "asked"})

        assert (request.method, request.body, request.headers) == ("GET", b"", ())

    def test_a_factory_makes_the_body_that_was_not_recorded(self) -> None:
        row = TraceRow(0.0, op="rank", path="/rank", size={"items": 3}, keys=("u7",))

        request = encode(row, body_for=lambda row: {"user": row.keys[0], "n": row.size["items"]})

        assert json.loads(request.body) == {"user": "u7", "n": 3}
        assert request.headers == (("Content-Type", "application/json"),)

    def test_without_body_and_factory_it_says_what_to_do(self) -> None:
        with pytest.raises(ValueError, match=r"POST /rank has no body in the recording: .*body_for="):
            encode(TraceRow(0.0, path="/rank"))

    @pytest.mark.parametrize(
        ("operation", "line"),
        [
            ("rank", ("POST", "/v2/rank")),
            ("GET /items", ("GET", "/items")),
            ("/embed", ("POST", "/embed")),
            ("other", ("POST", "/own?key=1")),
        ],
    )
    def test_where_no_path_was_recorded_the_operation_tells_one(
        self, operation: str, line: tuple[str, str]
    ) -> None:
        row = TraceRow(0.0, op=operation)

        request = encode(row, body_for=lambda _: b"x", paths={"rank": "/v2/rank"})

        assert (request.method, request.path) == line

    @pytest.mark.parametrize("method", ["CONNECT", "GET /x", ""])
    def test_a_method_that_asks_nothing_of_a_model_is_refused(self, method: str) -> None:
        with pytest.raises(ValueError, match="cannot be replayed"):
            encode(TraceRow(0.0, method=method, path="/x", body={}))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"body_for": {"a": 1}}, "body_for must be a function of a recorded row"),
            ({"paths": "/rank"}, "paths must map operations to paths"),
            ({"paths": {"rank": "rank"}}, r"paths\['rank'\]='rank' must be a path such as '/rank'"),
        ],
    )
    def test_arguments_that_cannot_be(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            HttpTarget(URL, **arguments)

    def test_what_a_factory_returns_is_checked(self) -> None:
        with pytest.raises(TypeError, match=r"what tests\..* returned is no JSON"):
            encode(TraceRow(0.0, path="/x"), body_for=lambda _: object())

    def test_a_target_that_cannot_send_rows_says_so(self) -> None:
        class Own:
            def encode(self, rng: np.random.Generator) -> Encoded:
                raise NotImplementedError

            def describe(self) -> dict[str, Any]:
                return {}

            def explain(self, reply: Reply, request: Request) -> str:
                return f"{reply}{request}"

        with pytest.raises(CapacityUsageError, match=r"Own cannot send recorded requests: .*encode_row"):
            as_replay_target(Own())


class TestLoading:
    @pytest.mark.parametrize("name", ["a.trace.jsonl", "a.trace.jsonl.gz"])
    def test_rows_are_read_in_any_order_with_their_bodies(self, tmp_path: Path, name: str) -> None:
        made = made_rows(1.0)
        recorded = load_recorded(write_trace(tmp_path / name, made), seed=0)

        for index in (30, 2, 17, 2):
            row, body = recorded.rows.read(index)
            assert row.id == made[index].id
            assert json.loads(body or b"") == made[index].body
            assert recorded.rows.place(index) == f"{name}, line {index + 2}"
        recorded.rows.close()

    def test_bodies_by_reference_are_found_beside_the_trace(self, tmp_path: Path) -> None:
        path = tmp_path / "a.trace.jsonl"
        with TraceWriter(path, TraceHeader()) as writer:
            for number in range(2):
                writer.write(TraceRow(float(number), path="/x", body_ref=writer.bodies.put(b"large")))

        recorded = load_recorded(path, seed=0)

        assert recorded.rows.read(1)[1] == b"large"
        recorded.rows.close()

    def test_it_tells_what_the_record_holds_and_nothing_of_a_body_key_or_session(
        self, tmp_path: Path
    ) -> None:
        recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl.gz"), seed=0)

        assert recorded.facts == {
            "file": "a.trace.jsonl.gz",
            "kind": "recording",
            "name": "made",
            "class": "ranking",
            "source": "test",
            "clock": "arrival",
            "sampling": 1.0,
            "resolution_s": 1e-4,
            "spread_within_s": None,
            "composed": False,
            "rows": 200,
            "cycle_s": pytest.approx(5.0, rel=0.05),
            "recorded_qps": pytest.approx(40.0, rel=0.05),
            "warnings": [],
        }
        assert recorded.doubts == ()

    def test_a_coarse_clock_s_ticks_are_spread_and_told(self, tmp_path: Path) -> None:
        rows = made_rows(30.0)
        for row in rows:
            row.t = float(int(row.t))
        recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl", rows, resolution_s=1.0), seed=0)

        assert recorded.facts["spread_within_s"] == 1.0
        assert len(np.unique(recorded.traffic.t_s)) > 1000

    def test_a_coarse_clock_s_ticks_are_kept_where_asked_for(self, tmp_path: Path) -> None:
        rows = made_rows(30.0)
        for row in rows:
            row.t = float(int(row.t))
        path = write_trace(tmp_path / "a.trace.jsonl", rows, resolution_s=1.0)
        recorded = load_recorded(path, seed=0, spread=False)

        assert recorded.facts["spread_within_s"] is None
        assert sorted(set(recorded.traffic.t_s.tolist())) == list(range(30))

    @pytest.mark.parametrize(
        ("header", "kind"),
        [
            ({"sampling": 0.1}, "trace_sampled"),
            ({"sampling": None}, "trace_sampled"),
            ({"extra": {"warnings": ["arrivals not credible: 49 % go back"]}}, "trace_not_credible"),
        ],
    )
    def test_a_recording_that_cannot_be_believed_is_doubted(
        self, tmp_path: Path, header: dict[str, Any], kind: str
    ) -> None:
        recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl", **header), seed=0)

        (doubt,) = recorded.doubts
        assert doubt.kind == kind
        assert doubt.remedy

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "empty: a trace begins with a header line"),
            ('{"t": 1}\n', "no trace: its first line must be a header"),
            ('{"pytest_capacity_trace": 1}\n', "a header and no rows"),
            ('{"pytest_capacity_trace": 1}\n{"t": 1}\n{"t": "x"}\n', "line 3: t must be"),
            ('{"pytest_capacity_trace": 1}\n{"t": 1}\n', "two arrivals or more"),
        ],
    )
    def test_a_file_that_is_no_trace_is_a_usage_error_with_its_line(
        self, tmp_path: Path, content: str, message: str
    ) -> None:
        path = tmp_path / "a.trace.jsonl"
        path.write_text(content)

        with pytest.raises(CapacityUsageError, match=message):
            load_recorded(path, seed=0)

    def test_a_glance_sees_what_is_no_trace_without_reading_it_all(self, tmp_path: Path) -> None:
        (tmp_path / "a.trace.jsonl").write_text("no trace\n")
        (tmp_path / "a.yaml").write_text("pytest_capacity_workload: 7\n")

        for name, message in (("a.trace.jsonl", "not JSON"), ("a.yaml", "reads 1 only")):
            with pytest.raises(CapacityUsageError, match=message):
                check_recorded(tmp_path / name)
        check_recorded(write_trace(tmp_path / "b.trace.jsonl"))

    def test_a_row_that_was_answered_badly_is_not_the_one_tried_first(self, tmp_path: Path) -> None:
        rows = made_rows(1.0)
        rows[0].seen = {"status": 422}
        rows[1].seen = {"status": 200}

        recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl", rows), seed=0)

        assert sorted(first_rows(recorded).tolist()) == [1, 4]
        recorded.rows.close()

    def test_the_rarest_of_many_operations_are_one_but_those_that_are_asked_for(self) -> None:
        traffic = steady()
        names = tuple(f"/users/{number}" for number in range(100))
        many = type(traffic)(
            traffic.t_s,
            traffic.cycle_s,
            np.minimum(np.arange(len(traffic)) % 200, 99),
            names,
            traffic.key,
            traffic.session,
        )

        fewer = with_fewer_operations(many, keep=["/users/3"])

        assert len(fewer.operations) == MOST_OPERATIONS
        assert {"/users/99", "/users/3", OTHER} <= set(fewer.operations)
        share = np.mean(np.array(fewer.operations)[fewer.operation] == "/users/99")
        assert share == pytest.approx(np.mean(many.operation == 99))


class TestModels:
    def test_traffic_is_drawn_with_sizes_keys_and_sessions_for_a_factory(self, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "a.trace.jsonl", without_bodies(made_rows(60.0)))
        calibrate_file(trace, tmp_path / "a.yaml")

        recorded = load_recorded(tmp_path / "a.yaml", seed=3)

        row, body = recorded.rows.read(20)
        assert recorded.facts["kind"] == "workload"
        assert set(recorded.traffic.operations) == {"rank", "embed"}
        assert row.op in {"rank", "embed"}
        assert row.size["items"] in {1.0, 2.0, 3.0, 4.0, 5.0}
        assert (row.path, body, row.keys[0][0]) == (None, None, "k")

    def test_a_model_outside_its_tolerances_is_doubted(self, tmp_path: Path) -> None:
        """What calibrate found stands in the model's file: who replays it may not have the recording."""
        trace = write_trace(tmp_path / "a.trace.jsonl", without_bodies(made_rows(60.0)))
        found = calibrate_file(trace, tmp_path / "a.yaml")
        model = read_workload(tmp_path / "a.yaml")
        notes = ("outside its tolerance: gaps", "outside its tolerance: rate", "something else")
        (tmp_path / "b.yaml").write_text(as_text(type(model)(**{**_fields(model), "notes": notes})))

        assert bool(load_recorded(tmp_path / "a.yaml", seed=0).doubts) is not found.within_tolerance
        (doubt,) = load_recorded(tmp_path / "b.yaml", seed=0).doubts
        assert doubt.kind == "workload_outside_tolerance"
        assert "gaps and 1 more" in doubt.text

    def test_a_model_of_a_sample_is_doubted_as_the_sample_is(self, tmp_path: Path) -> None:
        trace = write_trace(tmp_path / "a.trace.jsonl", without_bodies(made_rows(60.0)), sampling=0.1)
        calibrate_file(trace, tmp_path / "a.yaml")

        assert "trace_sampled" in [doubt.kind for doubt in load_recorded(tmp_path / "a.yaml", seed=0).doubts]


def _fields(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}
