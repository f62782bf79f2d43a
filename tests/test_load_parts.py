"""The parts of the fast engine that need no socket: splitting, numbering, framing, waiting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.load.engines import workers_for
from pytest_capacity.load.frames import Frame, Unpacker, pack
from pytest_capacity.load.machine import ProcessorTimes, parse_stat
from pytest_capacity.load.messages import (
    answer_from,
    answer_to_document,
    encoded_from_document,
    encoded_to_document,
)
from pytest_capacity.load.renumber import ERA_BITS, Renumbering
from pytest_capacity.load.rows import RECORD_BYTES, Rows, samples_of
from pytest_capacity.load.spin import LEAST_CORES, LEAST_S, MOST_S, Lead, WakeError, affordable_lead_s
from pytest_capacity.load.split import split_concurrency, split_rows
from pytest_capacity.load.tokens import TokenTimes
from pytest_capacity.load.unfinished import Unfinished
from pytest_capacity.load.wire import Wires, head_of, host_header
from pytest_capacity.protocols import (
    Encoded,
    Endpoint,
    Ints,
    Judge,
    Judgement,
    Outcome,
    Reply,
    Request,
    Samples,
    empty_samples,
    join_samples,
)
from pytest_capacity.targets.http import HttpTarget
from pytest_capacity.traffic.arrivals import poisson


def told(*rows: tuple[int, Outcome, float]) -> Samples:
    """Rows told as sent at a time, or as final."""
    log = Rows()
    for row, outcome, sent_s in rows:
        if outcome is Outcome.PENDING:
            log.sent(row, 0, sent_s, sent_s)
        else:
            log.final(row, 0, sent_s, outcome, sent_s)
    return samples_of(log.take())


class TestSplit:
    @given(st.integers(0, 200), st.integers(1, 10), st.booleans(), st.integers(0, 2**32 - 1))
    def test_each_row_goes_to_one_worker_in_order_and_a_session_to_one(
        self, count: int, workers: int, sessions: bool, seed: int
    ) -> None:
        session = np.random.default_rng(seed).integers(-1, 12, count) if sessions else None
        parts = split_rows(count, workers, session)

        assert len(parts) == workers
        assert sorted(np.concatenate(parts).tolist()) == list(range(count))
        assert all(np.all(np.diff(part) > 0) for part in parts)
        if session is not None:
            for number in range(12):
                homes = [w for w, part in enumerate(parts) if np.any(session[part] == number)]
                assert len(homes) <= 1

    @pytest.mark.parametrize("workers", [1, 2, 4, 10])
    def test_the_union_of_poisson_arrivals_stays_poisson(self, workers: int) -> None:
        offsets_s = poisson(50.0, 4000.0, np.random.default_rng(3))
        union = np.sort(np.concatenate([offsets_s[part] for part in split_rows(len(offsets_s), workers)]))
        counts = np.bincount(union.astype(int), minlength=4000)

        assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)

    @given(st.integers(1, 1000), st.integers(1, 10))
    def test_concurrency_is_shared_evenly(self, concurrency: int, workers: int) -> None:
        shares = split_concurrency(concurrency, workers)
        assert sum(shares) == concurrency
        assert max(shares) - min(shares) <= 1

    def test_what_cannot_be_split_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0 workers"):
            split_rows(3, 0)
        with pytest.raises(ValueError, match="2 sessions do not match 3 rows"):
            split_rows(3, 1, np.zeros(2, dtype=np.int64))

    @pytest.mark.parametrize(
        ("most_qps", "cores", "workers"),
        [(None, 64, 1), (200.0, 64, 1), (60_001.0, 64, 3), (1e6, 8, 4), (1e6, 2, 1), (1e6, 1, 1)],
    )
    def test_workers_follow_the_rate_and_leave_half_the_cores(
        self, most_qps: float | None, cores: int, workers: int
    ) -> None:
        assert workers_for(most_qps, cores, 30_000) == workers


class TestRenumbering:
    def test_an_open_loop_s_rows_are_those_of_the_schedule(self) -> None:
        numbers = Renumbering(2)
        parts_of_both: list[Ints] = [np.array([0, 2]), np.array([1])]
        first = numbers.begin_open(10, parts_of_both)
        parts = [
            told((first, Outcome.PENDING, 0.0), (first + 1, Outcome.GOOD, 0.2)),
            told((first, Outcome.GOOD, 0.1)),
        ]
        assert [part.row.tolist() for part in numbers.whole(parts)] == [[10, 12], [11]]

    def test_a_closed_loop_s_rows_are_numbered_as_they_were_sent_whoever_sent_them(self) -> None:
        numbers = Renumbering(2)
        first = numbers.begin_closed(100)
        sent = Outcome.PENDING
        one = [
            told((first, sent, 0.0), (first + 1, sent, 0.3)),
            told((first, sent, 0.1), (first, Outcome.GOOD, 0.1), (first + 1, sent, 0.2)),
        ]
        assert [part.row.tolist() for part in numbers.whole(one)] == [[100, 103], [101, 101, 102]]
        two = [told((first + 1, Outcome.GOOD, 0.3)), told((first + 2, sent, 0.4))]
        assert [part.row.tolist() for part in numbers.whole(two)] == [[103], [104]]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_a_former_era_still_tells_is_not_mixed_up_with_the_next(self, workers: int) -> None:
        numbers = Renumbering(workers)
        others = [empty_samples()] * (workers - 1)
        closed = numbers.begin_closed(7)
        numbers.whole([told((closed, Outcome.PENDING, 0.0)), *others])
        opened = numbers.begin_open(8, [np.array([0, 1]), *[np.array([], dtype=np.int64)] * (workers - 1)])
        late = [told((closed, Outcome.GOOD, 0.0), (opened + 1, Outcome.PENDING, 0.5)), *others]

        assert opened - closed == 1 << ERA_BITS
        assert numbers.whole(late)[0].row.tolist() == [7, 9]


class TestUnfinished:
    def test_what_was_sent_and_never_ended_is_cancelled_once(self) -> None:
        unfinished = Unfinished()
        unfinished.add(told((1, Outcome.PENDING, 0.0), (2, Outcome.PENDING, 0.1), (3, Outcome.PENDING, 0.2)))
        unfinished.add(told((2, Outcome.GOOD, 0.1), (4, Outcome.PENDING, 0.3), (4, Outcome.TIMEOUT, 0.3)))

        left = unfinished.cancelled()
        assert sorted(left.row.tolist()) == [1, 3]
        assert set(left.outcome.tolist()) == {Outcome.CANCELLED}
        assert len(unfinished) == 0


class TestRows:
    def test_what_goes_in_comes_out_in_columns(self) -> None:
        rows = Rows()
        rows.sent(7, 2, 1.0, 1.5)
        rows.final(7, 2, 1.0, Outcome.BAD_STATUS, 1.5, 1.75, 2.0, 503, 12)
        assert len(rows) == 2

        samples = samples_of(rows.take())
        assert len(rows) == 0
        assert samples.row.tolist() == [7, 7]
        assert samples.outcome.tolist() == [Outcome.PENDING, Outcome.BAD_STATUS]
        assert samples.operation.tolist() == [2, 2]
        assert samples.done_s[1] == 2.0
        assert np.isnan(samples.done_s[0])
        assert (samples.status[1], samples.bytes_received[1]) == (503, 12)
        assert len(samples.token_start) == 0

    def test_token_times_stay_with_their_row_when_parcels_are_joined(self) -> None:
        parcels = []
        for row, times in ((0, [0.1, 0.2]), (1, []), (2, [0.3])):
            rows, tokens = Rows(), TokenTimes("chunks")
            for time_s in times:
                tokens.add(b"x", time_s)
            rows.sent(row, 0, 0.0, 0.0)
            rows.final(row, 0, 0.0, Outcome.GOOD, token_times_s=tokens.times_s)
            parcels.append(samples_of(rows.take()))
        joined = join_samples(parcels)
        ends = joined.token_start
        of_row = {int(joined.row[i]): joined.token_times_s[ends[i] : ends[i + 1]].tolist() for i in (1, 3, 5)}
        assert of_row == {0: [0.1, 0.2], 1: [], 2: [0.3]}

    def test_a_record_is_small(self) -> None:
        assert RECORD_BYTES <= 64


class TestTokens:
    @given(
        st.lists(st.sampled_from([b"data: a", b"\n", b"\n\n", b"\r\n", b": hi", b"x" * 9]), max_size=12),
        st.data(),
    )
    def test_events_are_counted_alike_however_the_network_cuts_them(
        self, pieces: list[bytes], data: st.DataObject
    ) -> None:
        # A carriage return at a cut may be half of a line end, which only the next part tells.
        text = b"".join(pieces).replace(b"\r", b"")
        whole = TokenTimes("events")
        whole.add(text, 1.0)
        cut = TokenTimes("events")
        start = 0
        while start < len(text):
            end = data.draw(st.integers(start + 1, len(text)))
            cut.add(text[start:end], 1.0)
            start = end
        assert len(cut.times_s) == len(whole.times_s)

    def test_each_event_has_the_time_of_its_end(self) -> None:
        tokens = TokenTimes("events")
        tokens.add(b"data: 1\n", 1.0)
        tokens.add(b"\ndata: 2\r\n\r", 2.0)
        tokens.add(b"\n\n\n", 3.0)
        assert tokens.times_s.tolist() == [2.0, 3.0]


class TestFrames:
    @given(
        st.lists(
            st.tuples(st.dictionaries(st.text(max_size=5), st.integers()), st.binary(max_size=50)), max_size=5
        ),
        st.data(),
    )
    def test_frames_arrive_as_they_were_sent_however_they_are_cut(
        self, frames: list[tuple[dict[str, int], bytes]], data: st.DataObject
    ) -> None:
        stream = b"".join(b"".join(pack({"kind": "x", **said}, carried)) for said, carried in frames)
        unpacker, found, start = Unpacker(), [], 0
        while start < len(stream):
            end = data.draw(st.integers(start + 1, len(stream)))
            found += list(unpacker.feed(stream[start:end]))
            start = end
        assert found == [Frame({"kind": "x", **said}, carried) for said, carried in frames]

    def test_what_is_no_frame_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not a frame"):
            list(Unpacker().feed(b"\xff" * 64))

    def test_a_target_survives_the_way_to_a_worker(self) -> None:
        target = HttpTarget("http://127.0.0.1/p?x=1", payloads=[b"one", {"two": 2}], headers={"X-A": "ü"})
        encoded = target.encode(np.random.default_rng(0))
        document, bodies = encoded_to_document(encoded)

        assert encoded_from_document(document, b"".join(bodies)) == encoded

    def test_a_check_that_is_an_object_cannot_go(self) -> None:
        encoded = HttpTarget("http://127.0.0.1/", check=lambda _: True).encode(np.random.default_rng(0))
        with pytest.raises(TypeError, match="importable name"):
            encoded_to_document(encoded)

    def test_an_answer_survives_the_way_back(self) -> None:
        judgement = Judgement(Outcome.BAD_STATUS, "status 500")
        reply = Reply(500, {"A": "b"}, b"boom")
        back, said = answer_from(answer_to_document(reply, judgement), b"boom")

        assert back is not None
        assert (back.status, back.body, back.headers["a"], said) == (500, b"boom", "b", judgement)
        assert answer_from(answer_to_document(None, judgement), b"") == (None, judgement)


class TestWire:
    request = Request("rank", "POST", "/r?x=1", (("Content-Type", "a/b"), ("X-T", "old")), b"body")

    def test_a_request_s_bytes(self) -> None:
        head = head_of(self.request, "h:1", {"x-t": "new"}).decode()

        assert head.startswith("POST /r?x=1 HTTP/1.1\r\nHost: h:1\r\n")
        assert head.endswith("Content-Length: 4\r\n\r\n")
        assert "x-t: new" in head
        assert "old" not in head

    @pytest.mark.parametrize("header", [("A", "b\r\nC: d"), ("A\nB", "c"), ("A", "b\0")])
    def test_nothing_breaks_out_of_its_line(self, header: tuple[str, str]) -> None:
        with pytest.raises(ValueError, match="a line break in a header of rank"):
            head_of(replace(self.request, headers=(header,)), "h", {})

    def test_a_get_has_no_length_and_an_empty_post_has_one(self) -> None:
        assert b"Content-Length" not in head_of(Request("a", "GET", "/"), "h", {})
        assert b"Content-Length: 0" in head_of(Request("a", "POST", "/"), "h", {})

    @pytest.mark.parametrize(
        ("endpoint", "host"),
        [
            (Endpoint("http", "h", 80), "h"),
            (Endpoint("https", "h", 443), "h"),
            (Endpoint("http", "h", 443), "h:443"),
            (Endpoint("http", "::1", 8000), "[::1]:8000"),
        ],
    )
    def test_the_host_names_a_port_that_is_not_the_scheme_s(self, endpoint: Endpoint, host: str) -> None:
        assert host_header(endpoint) == host

    def test_fresh_headers_make_the_bytes_anew(self) -> None:
        wires = Wires(Endpoint("http", "h", 80), (self.request,), {})
        wires.prepare()
        assert b"X-T: old" in wires[0]
        wires.renew({"X-T": "new"})
        assert b"X-T: new" in wires[0]
        assert wires[0].endswith(b"\r\n\r\nbody")


class TestWaiting:
    def test_the_estimate_settles_where_one_wake_up_in_fifty_is_later(self) -> None:
        rng = np.random.default_rng(1)
        error = WakeError(150e-6)
        late_s = rng.exponential(30e-6, 20_000)
        estimates = []
        for one in late_s:
            error.add(float(one))
            estimates.append(error.estimate_s)
        settled = float(np.median(estimates[5_000:]))
        assert (late_s > settled).mean() == pytest.approx(0.02, abs=0.01)

    @given(st.lists(st.floats(0, 1), max_size=200))
    def test_the_estimate_stays_in_its_bounds(self, late_s: list[float]) -> None:
        error = WakeError(150e-6)
        for one in late_s:
            error.add(one)
        assert LEAST_S <= error.estimate_s <= MOST_S

    @given(st.floats(0, 64), st.floats(0.01, 1e6))
    def test_waiting_awake_never_takes_more_than_is_to_spare(self, spare: float, waits: float) -> None:
        spent_cores = affordable_lead_s(spare, waits) * waits
        assert spent_cores <= max(LEAST_CORES, min(1.0, spare)) + 1e-9

    def test_a_busy_machine_gets_less_and_is_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        times = iter(ProcessorTimes(float(t), 1, 0.0, float(t), 0.0) for t in range(3))
        monkeypatch.setattr("pytest_capacity.load.spin.read_processors", lambda: next(times))
        lead = Lead(200e-6)
        before_s = lead.lead_s
        assert lead.review(0.0, 0.0) is None
        for _ in range(1000):
            lead.waited()
            lead.woke(50e-6)
        said = lead.review(1.5, 0.1)

        assert said is not None
        assert "too busy" in said
        assert lead.lead_s < before_s

    def test_waits_too_short_to_sleep_through_cost_no_more_than_may_be_spent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """2,000 sends a second, each awaited awake, beside a server that would use the whole core."""
        times = iter(ProcessorTimes(float(t), 1, 0.0, float(t), 0.0) for t in range(3))
        monkeypatch.setattr("pytest_capacity.load.spin.read_processors", lambda: next(times))
        lead = Lead(500e-6)
        lead.review(0.0, 0.0)
        for _ in range(3_000):
            lead.waited()

        lead.review(1.5, 0.5 * 1.5)

        assert lead.lead_s * 2_000 == pytest.approx(LEAST_CORES)

    def test_a_timer_of_milliseconds_is_never_cut_short(self) -> None:
        lead = Lead(1.2e-3)
        for _ in range(1000):
            lead.woke(0.0)
        assert lead.lead_s == 1.2e-3


class TestProcessorTimes:
    STAT = "cpu  9 9 9 9 9\ncpu0 100 0 50 800 10 1 2 30 0 0\ncpu1 5 5 5 5 5 5 5 5\nintr 1 2\n"

    def test_only_the_usable_processors_count(self) -> None:
        idle_s, busy_s, steal_s = parse_stat(self.STAT, {0}) or (0, 0, 0)
        assert (idle_s, busy_s, steal_s) == pytest.approx((8.1, 1.53, 0.3))

    def test_none_of_them_there_is_unknown(self) -> None:
        assert parse_stat(self.STAT, {7}) is None

    def test_a_quota_leaves_less_than_is_idle(self) -> None:
        before = ProcessorTimes(0.0, 4, 0.0, 0.0, 0.0, group_s=0.0, quota_cores=1.0)
        after = ProcessorTimes(10.0, 4, 30.0, 10.0, 0.4, group_s=8.0, quota_cores=1.0)

        assert after.idle_cores_since(before) == pytest.approx(0.2)
        assert replace(after, quota_cores=None).idle_cores_since(before) == pytest.approx(3.0)
        assert after.busy_cores_since(before) == pytest.approx(1.0)
        assert after.steal_share_since(before) == pytest.approx(0.01)


def test_judges_are_data_that_any_process_can_load() -> None:
    encoded = Encoded(
        Endpoint("http", "h", 80, ("127.0.0.1",)), (Request("a", "GET", "/"),), Judge("m:f"), 1.0
    )
    document, _ = encoded_to_document(encoded)
    assert document["judge"] == {"function": "m:f", "settings": {}, "check": None, "by_status": False}
