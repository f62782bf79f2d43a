"""Recorded traffic as a source of schedules: rows not sent before, each encoded once and only when due."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from pytest_capacity.load.guard import Ceilings
from pytest_capacity.measurement.recorded import load_recorded
from pytest_capacity.measurement.replay import ReplayRequest
from pytest_capacity.measurement.replaying import HOLD_REQUESTS, SLACK_S, Replay
from pytest_capacity.measurement.sources import CannotSend, Piece
from pytest_capacity.measurement.traced import trace_facts, verdict_with
from pytest_capacity.protocols import Probe, Request
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.slo import SLO, Bound, CapacityUsageError, Verdict
from pytest_capacity.targets.http import HttpTarget
from pytest_capacity.traffic.calibrate_command import calibrate_file
from pytest_capacity.traffic.trace import TraceRow
from tests.replays import RATE_QPS, made_rows, without_bodies, write_trace

URL = "http://127.0.0.1:8000/"


class Session:
    """Takes what is added, as an engine's session does; its other methods are of no concern here."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = list(requests)
        self.batches: list[int] = []

    def add(self, requests: Sequence[Request]) -> int:
        self.requests += requests
        self.batches.append(len(requests))
        return len(self.requests) - len(requests)

    def bodies(self, piece: Piece) -> list[bytes]:
        return [self.requests[index].body for index in piece.request_index.tolist()]


class Played:
    """A replay of a trace, and its session; its file is closed when the test ends."""

    all: ClassVar[list[Played]] = []

    def __init__(self, path: Path, **target: Any) -> None:
        self.recorded = load_recorded(path, seed=0)
        rng = np.random.default_rng(0)
        self.source = Replay(HttpTarget(URL, **target), self.recorded, "superpose", 0, rng)
        self.session: Any = Session(self.source.encoded.requests)
        self.all.append(self)

    def play(self, rate_qps: float, seconds: float, number: int = 0) -> Piece:
        """Play an open probe to its end."""
        self.source.draw(Probe(number, "open", rate_qps, max_s=seconds))
        piece = self.source.take(self.session, seconds)
        self.source.end(seconds, len(piece.offsets_s))
        return piece


@pytest.fixture(autouse=True)
def _close_files() -> Iterator[None]:
    yield
    while Played.all:
        Played.all.pop().source.close()


@pytest.fixture
def minute(tmp_path: Path) -> Path:
    """A minute of traffic: 2,400 requests."""
    return write_trace(tmp_path / "minute.trace.jsonl.gz", made_rows(60.0))


def test_the_recorded_rate_sends_the_recording_as_it_is(minute: Path) -> None:
    played = Played(minute)
    made = made_rows(60.0)

    piece = played.play(played.recorded.traffic.rate_qps, 10.0)

    sent = [row for row in made if row.t - made[0].t < 10]
    assert piece.offsets_s == pytest.approx([row.t - made[0].t for row in sent])
    assert [json.loads(body) for body in played.session.bodies(piece)] == [row.body for row in sent]
    names = [played.source.encoded.operations[number] for number in piece.operation.tolist()]
    assert names == [row.op for row in sent]


def test_each_probe_sends_rows_that_were_not_sent_before(minute: Path) -> None:
    played = Played(minute)

    pieces = [played.play(RATE_QPS * factor, 4.0, number) for number, factor in enumerate((1, 2, 0.5, 3))]

    bodies = [body for piece in pieces for body in played.session.bodies(piece)]
    assert len(bodies) > 700
    # The slack left between probes is not sent at all; nothing is sent twice.
    assert len(set(bodies)) == len(bodies)


def test_each_row_is_encoded_once_and_only_when_it_falls_due(minute: Path) -> None:
    played = Played(minute)
    source, session = played.source, played.session

    source.draw(Probe(0, "open", RATE_QPS, max_s=120.0))
    first = source.take(session, 0.5)
    second = source.take(session, 2.0)

    assert sum(session.batches) <= len(first.offsets_s) + len(second.offsets_s) < 200
    assert source.reaches_s == 2.0
    rest = source.take(session, 120.0)
    # Two minutes of a recording of one: each row comes twice, and is known by then.
    assert len(rest.offsets_s) > 4000
    assert sum(session.batches) <= 2400
    assert source.reaches_s == float("inf")


def test_equal_requests_are_one(tmp_path: Path) -> None:
    rows = made_rows(10.0)
    for row in rows:
        row.body, row.op, row.path = {"always": "the same"}, "rank", "/rank"
    played = Played(write_trace(tmp_path / "a.trace.jsonl", rows))

    piece = played.play(RATE_QPS, 8.0)

    assert sum(played.session.batches) == 1
    assert len(set(piece.request_index.tolist())) == 1


def test_a_probe_that_is_made_longer_goes_on_where_it_was(minute: Path) -> None:
    played = Played(minute)
    source, session = played.source, played.session
    source.draw(Probe(0, "open", RATE_QPS, max_s=10.0))
    first = source.take(session, 10.0)

    source.draw(Probe(0, "open", RATE_QPS, max_s=20.0), 10.0)
    second = source.take(session, 20.0)
    source.end(20.0, 800)

    assert first.offsets_s[-1] < 10.0 <= second.offsets_s[0]
    assert set(session.bodies(first)).isdisjoint(session.bodies(second))
    facts: Any = trace_facts(source)
    assert facts["requests"] == len(first.offsets_s) + len(second.offsets_s)


def test_a_closed_loop_takes_the_next_rows_as_requests(minute: Path) -> None:
    played = Played(minute)
    source, session = played.source, played.session
    opened = played.play(RATE_QPS, 10.0)

    held = source.hold(session, Probe(1, "closed", concurrency=4))
    assert source.reaches_s == np.inf
    source.end(3.0, 100)
    assert source.played[-1].requests == len(source.played[-1].rows) == 100
    after = played.play(RATE_QPS, 5.0, 2)

    bodies = [session.requests[index].body for index in held.tolist()]
    assert 0 < len(held) <= HOLD_REQUESTS
    assert set(bodies).isdisjoint(session.bodies(opened))
    # Of the rows it had, those beyond the hundred that were sent are still there to be sent.
    assert set(session.bodies(after)).isdisjoint(bodies[:100])
    assert not set(session.bodies(after)).isdisjoint(bodies[100:])


def test_a_closed_loop_that_gets_through_its_rows_sends_them_again(minute: Path) -> None:
    played = Played(minute)
    held = played.source.hold(played.session, Probe(0, "closed", concurrency=4))

    played.source.end(9.0, 10 * len(held))

    facts: Any = trace_facts(played.source)
    assert (facts["requests"], facts["distinct_rows"]) == (10 * len(held), len(held))


def test_the_record_tells_how_it_was_scaled_and_what_was_sent_before(minute: Path) -> None:
    played = Played(minute)
    played.play(2 * played.recorded.traffic.rate_qps, 10.0, 0)
    played.play(2 * played.recorded.traffic.rate_qps, 40.0, 1)

    facts: Any = trace_facts(played.source)

    (scaling,) = facts["scalings"]
    assert (scaling["kind"], scaling["factor"], scaling["copies"]) == ("superposed", pytest.approx(2.0), 2)
    assert facts["sessions"] == "as timed"
    assert facts["requests"] == pytest.approx(4000, rel=0.05)
    assert facts["distinct_rows"] == 2400
    assert facts["loops"] >= 1
    assert 0 < facts["rows_seen_share"] < facts["keys_seen_share"] <= 1
    assert facts["fidelity"]["outside_names"] == []
    told = str(facts)
    assert "session-" not in told
    assert "key-" not in told


def test_a_whole_cycle_at_the_recorded_rate_is_the_recording(minute: Path) -> None:
    played = Played(minute)
    traffic = played.recorded.traffic
    played.play(traffic.rate_qps, traffic.cycle_s)

    facts: Any = trace_facts(played.source)

    assert facts["fidelity"]["judged"] > 10
    assert facts["fidelity"]["outside"] == 0
    assert facts["rows_seen_share"] == 0.0


def test_a_cycle_that_begins_in_the_middle_is_the_recording_all_the_same(tmp_path: Path) -> None:
    """Its first half is twice as fast as its second: the rate profile has to be laid where it belongs."""
    rows = made_rows(60.0)
    for row in rows:
        row.t = row.t * 2 / 3 if row.t < 30 else 20 + (row.t - 30) * 4 / 3
    played = Played(write_trace(tmp_path / "a.trace.jsonl", rows))
    traffic = played.recorded.traffic
    played.play(traffic.rate_qps, 10.0, 0)
    played.play(traffic.rate_qps, traffic.cycle_s, 1)

    facts: Any = trace_facts(played.source)

    assert (facts["loops"], facts["fidelity"]["outside_names"]) == (1, [])
    assert facts["fidelity"]["judged"] > 10


def test_a_part_of_the_recording_is_compared_by_what_any_part_has(minute: Path) -> None:
    played = Played(minute)
    played.play(played.recorded.traffic.rate_qps, 20.0)

    facts: Any = trace_facts(played.source)

    assert 1 < facts["fidelity"]["judged"] < 10


def test_warm_up_is_no_evidence_of_what_was_seen_before(minute: Path) -> None:
    played = Played(minute)
    source = played.source
    source.draw(Probe(0, "open", RATE_QPS, max_s=2.0, settle_s=2.0))
    source.take(played.session, 2.0)
    source.end(2.0, 80)

    facts: Any = trace_facts(source)

    assert (facts["scalings"], facts["rows_seen_share"], facts["fidelity"]) == ([], None, None)
    assert facts["requests"] == pytest.approx(80, abs=40)


def test_what_was_made_ready_and_not_played_counts_as_sent_for_a_moment_only(minute: Path) -> None:
    played = Played(minute)
    source, session = played.source, played.session
    source.draw(Probe(0, "open", RATE_QPS, max_s=30.0))
    ready = source.take(session, 30.0)
    source.end(2.0, 80)

    after = played.play(RATE_QPS, 10.0, 1)

    skipped = [offset for offset in ready.offsets_s.tolist() if offset < 2.0 + SLACK_S]
    bodies = session.bodies(ready)
    assert session.bodies(after)[0] == bodies[len(skipped)]


def test_a_row_without_a_body_is_named_before_any_load(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "a.trace.jsonl", without_bodies(made_rows(2.0)))

    with pytest.raises(
        CapacityUsageError,
        match=r"trace: a\.trace\.jsonl, line 2: POST /embed has no body.*, or record bodies",
    ):
        Played(path)


def modelled(folder: Path, rows: list[TraceRow]) -> Path:
    calibrate_file(write_trace(folder / "a.trace.jsonl", rows), folder / "a.yaml")
    return folder / "a.yaml"


def test_several_operations_of_a_model_need_a_path_each(tmp_path: Path) -> None:
    model = modelled(tmp_path, made_rows(20.0))

    with pytest.raises(CapacityUsageError, match=r"none for operations '.*', '.*': name them") as raised:
        Played(model, body_for=lambda _: {})
    assert "paths={'rank': '/rank', 'embed': '/embed'}" in str(raised.value) or (
        "paths={'embed': '/embed', 'rank': '/rank'}" in str(raised.value)
    )
    with pytest.raises(
        CapacityUsageError, match=r"none for operation 'embed': .*paths=\{'embed': '/embed'\}"
    ):
        Played(model, body_for=lambda _: {}, paths={"rank": "/rank"})


def test_several_operations_of_a_model_may_have_one_path_where_that_is_said(tmp_path: Path) -> None:
    model = modelled(tmp_path, made_rows(20.0))

    played = Played(model, body_for=lambda _: {}, paths={"rank": "/one", "embed": "/one"})

    assert {request.path for request in played.session.requests} == {"/one"}


def test_operations_of_a_model_named_by_their_paths_need_no_others(tmp_path: Path) -> None:
    rows = made_rows(20.0)
    for row in rows:
        row.op = f"POST /{row.op}"

    played = Played(modelled(tmp_path, rows), body_for=lambda _: {})

    assert {request.path for request in played.session.requests} == {"/rank", "/embed"}


def test_the_only_operation_of_a_model_has_the_target_s_own_path(tmp_path: Path) -> None:
    rows = made_rows(20.0)
    for row in rows:
        row.op = "rank"

    played = Played(modelled(tmp_path, rows), body_for=lambda _: {})

    assert [request.path for request in played.session.requests] == ["/"]


def test_nobody_is_told_to_record_bodies_for_a_model(tmp_path: Path) -> None:
    model = modelled(tmp_path, made_rows(20.0))

    with pytest.raises(
        CapacityUsageError, match=r"has no body .*body_for=.*holds no bodies.*paths="
    ) as raised:
        Played(model, paths={"rank": "/rank", "embed": "/embed"})
    assert "pytest-capacity record" not in str(raised.value)


def test_a_row_that_cannot_be_sent_later_is_named_when_it_falls_due(tmp_path: Path) -> None:
    rows = made_rows(10.0)
    rows[200].body = None
    played = Played(write_trace(tmp_path / "a.trace.jsonl", rows))
    played.source.draw(Probe(0, "open", RATE_QPS, max_s=10.0))

    played.source.take(played.session, 3.0)
    with pytest.raises(CannotSend, match=r"a\.trace\.jsonl, line 202: POST /embed has no body"):
        played.source.take(played.session, 10.0)


def test_what_a_factory_raises_is_told_with_its_row(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "a.trace.jsonl", without_bodies(made_rows(2.0)))

    with pytest.raises(CapacityUsageError, match="line 2: body_for raised KeyError: 'tokens'"):
        Played(path, body_for=lambda row: row.size["tokens"])


def test_shares_are_those_of_the_recording(minute: Path) -> None:
    source = Played(minute).source

    assert dict(zip(source.encoded.operations, source.shares, strict=True)) == {"rank": 0.75, "embed": 0.25}


DOUBT = Doubt("trace_sampled", "a sample", "all of it")
EXPLAINS = Doubt("trace_not_credible", "made up", "another", ("latency",))
LATENCY, ERRORS = Bound("p99_ms", 0.01, 50.0), Bound("error_rate", 0.01)


@pytest.mark.parametrize(
    ("verdict", "doubts", "breached", "then"),
    [
        (Verdict.PASS, (), (), Verdict.PASS),
        (Verdict.PASS, (DOUBT,), (), Verdict.INCONCLUSIVE),
        (Verdict.MEASURED, (DOUBT,), (), Verdict.INCONCLUSIVE),
        (Verdict.FAIL, (DOUBT,), (LATENCY,), Verdict.FAIL),
        (Verdict.FAIL, (EXPLAINS,), (LATENCY,), Verdict.INCONCLUSIVE),
        (Verdict.FAIL, (EXPLAINS,), (LATENCY, ERRORS), Verdict.FAIL),
        (None, (DOUBT,), (), None),
    ],
)
def test_a_doubt_on_the_trace_outranks_a_pass_and_what_it_can_explain(
    verdict: Verdict | None, doubts: tuple[Doubt, ...], breached: tuple[Bound, ...], then: Verdict | None
) -> None:
    assert verdict_with(verdict, doubts, breached) is then


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_load_that_is_longer_than_the_recording_goes_on_where_the_warm_up_ended(
    minute: Path, copies: int
) -> None:
    """What it sends first is what was not sent yet, however often all of it comes in the end."""
    played = Played(minute)
    rate_qps = copies * played.recorded.traffic.rate_qps
    warm_up = played.play(rate_qps, 5.0, 0)

    after = played.play(rate_qps, 120.0, 1)

    soon = [
        body for body, at_s in zip(played.session.bodies(after), after.offsets_s, strict=True) if at_s < 10
    ]
    assert len(soon) > 300 * copies
    assert set(soon).isdisjoint(played.session.bodies(warm_up))


def test_a_replay_thinned_to_hardly_enough_requests_is_refused_before_any_load(tmp_path: Path) -> None:
    rows = [TraceRow(number / 40, op="/rank", method="GET", path="/rank") for number in range(600)]
    alone = load_recorded(write_trace(tmp_path / "alone.trace.jsonl", rows), seed=0)
    for number, row in enumerate(rows):
        row.session = f"s{number // 4}"
    together = load_recorded(write_trace(tmp_path / "together.trace.jsonl", rows), seed=0)
    half, whole = (ReplayRequest(SLO(p99_ms=500), rate=rate) for rate in (0.5, 1.0))

    with pytest.raises(CapacityUsageError, match="300 requests, give or take 24 as rows are left out by"):
        half.plan_for(alone, "superpose", Ceilings())
    # Of sessions it is known how many stay, of compressed time that all do.
    assert half.plan_for(together, "superpose", Ceilings()).variance == 0
    assert half.plan_for(alone, "compress", Ceilings()).variance == 0
    assert whole.plan_for(alone, "superpose", Ceilings()).variance == 0
