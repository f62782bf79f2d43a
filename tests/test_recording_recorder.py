"""A recording is readable whatever happens, in the order of arrival, and within its bounds."""

from __future__ import annotations

import errno
import gzip
import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.recording.exchange import Exchange, Memory
from pytest_capacity.recording.files import PartFile, numbered, split_suffix
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.ordering import ArrivalOrder
from pytest_capacity.recording.parts import Parts
from pytest_capacity.recording.recorder import Recorder
from pytest_capacity.traffic.trace import TraceHeader, TraceRow, bodies_directory, body_bytes
from tests.recordings import WAIT_S, header_of, rows_of

JSON = ((b"Content-Type", b"application/json"),)


class Recording:
    """A recorder, what it told, and a short way to hand it a request."""

    def __init__(self, out: Path, **options: Any) -> None:
        self.told: list[str] = []
        self.spoke = threading.Event()
        self.recorder = Recorder(out, RecordingOptions(**options), source="test", tell=self._hear)

    def add(self, body: bytes = b'{"a": 1}', path: str = "/rank") -> Exchange:
        """A request that has been answered."""
        exchange = self.begin(body, path)
        exchange.status = 200
        self.recorder.finish(exchange)
        return exchange

    def begin(self, body: bytes = b'{"a": 1}', path: str = "/rank") -> Exchange:
        exchange = self.recorder.arrive("POST", path, JSON)
        exchange.add_body(body)
        exchange.body_ended = True
        return exchange

    def _hear(self, text: str) -> None:
        self.told.append(text)
        self.spoke.set()


@pytest.fixture(params=["a.trace.jsonl", "a.trace.jsonl.gz"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param)


def test_a_recording_says_what_it_is(out: Path) -> None:
    recording = Recording(out, name="rank-prod", model_class="ranking", sample=0.5)
    summary = recording.recorder.close()

    header = header_of(out)
    assert (header.name, header.class_, header.clock, header.source) == (
        "rank-prod",
        "ranking",
        "arrival",
        "test",
    )
    assert (header.sampling, header.redacted, header.resolution_s) == (0.5, True, 1e-6)
    assert header.extra["sampled_by"] == "request"
    assert (header.start or "").endswith("Z")
    assert rows_of(out) == []
    assert summary.rows == 0


def test_a_recording_is_a_trace_from_its_beginning_on(out: Path) -> None:
    recording = Recording(out)
    before = header_of(out)
    assert rows_of(out) == []
    recording.add()
    recording.recorder.close()

    after = header_of(out)
    assert (before.source, before.extra) == (after.source, after.extra)
    assert (before.start or "") <= (after.start or "")
    assert [row.t for row in rows_of(out)] == [0.0]


def test_a_part_has_its_header_as_soon_as_it_is_there(tmp_path: Path) -> None:
    path, began = tmp_path / "a.trace.jsonl", (0.0, datetime.now(timezone.utc))
    parts = Parts(path, TraceHeader(), began, rotate_bytes=1, max_bytes=None, exclusive=True)
    for arrived_s in (1.0, 2.0):
        parts.add(arrived_s, TraceRow(0.0), None)

    assert [header_of(file).extra["part"] for file in parts.files] == [1, 2]
    parts.close()


def test_a_file_that_is_there_is_not_written_over(out: Path) -> None:
    out.write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        Recording(out)

    assert out.read_bytes() == b"precious"


def test_a_recording_is_for_its_owner_only(out: Path) -> None:
    Recording(out).recorder.close()

    assert out.stat().st_mode & 0o077 == 0


def test_rows_wait_for_those_that_arrived_before(out: Path) -> None:
    recording = Recording(out)
    slow = recording.begin(path="/slow")
    for number in range(3):
        recording.add(path=f"/{number}")
    recording.recorder.finish(slow)
    recording.recorder.close()

    rows = rows_of(out)
    assert [row.path for row in rows] == ["/slow", "/0", "/1", "/2"]
    assert [row.t for row in rows] == sorted(row.t for row in rows)


def test_a_request_that_never_ends_is_written_without_its_reply(out: Path) -> None:
    recording = Recording(out, hold_s=0.0)
    recording.begin(path="/endless")
    recording.add(path="/quick")
    summary = recording.recorder.close()

    endless, quick = rows_of(out)
    assert (endless.path, endless.seen, endless.body) == ("/endless", {}, {"a": 1})
    assert quick.seen["status"] == 200
    assert summary.unfinished == 1
    assert any("had not ended" in line for line in summary.lines())


def test_what_arrives_after_the_end_is_counted_and_harms_nothing(out: Path) -> None:
    recording = Recording(out)
    summary = recording.recorder.close()
    recording.add()

    assert recording.recorder.close() is summary
    assert summary.dropped == {"closed": 1}
    assert rows_of(out) == []


def test_ignored_paths_are_counted_only(out: Path) -> None:
    recording = Recording(out, ignore=("/health*", "/metrics"))
    for path in ("/healthz?full=1", "/metrics", "/rank"):
        recording.add(path=path)
    summary = recording.recorder.close()

    assert [row.path for row in rows_of(out)] == ["/rank"]
    assert summary.ignored == 2


def parts_of(out: Path) -> list[Path]:
    return sorted(path for path in out.parent.iterdir() if path.is_file())


def random_text(number: int) -> bytes:
    """A JSON text that does not compress, another for each number."""
    return b'"%b"' % os.urandom(20_000).hex().encode() if number >= 0 else b""


def test_rotation_makes_parts_that_are_traces_by_themselves(out: Path) -> None:
    recording = Recording(out, rotate_bytes=200_000)
    for number in range(40):
        recording.add(random_text(number), path=f"/{number}")
    summary = recording.recorder.close()

    files_found = [Path(name) for name in summary.files]
    assert len(files_found) >= 3
    assert set(files_found) == set(parts_of(out))
    assert files_found[:2] == [out, numbered(out, 2)]
    rows = [row for path in files_found for row in rows_of(path)]
    assert [row.path for row in rows] == [f"/{number}" for number in range(40)]
    headers = [header_of(path) for path in files_found]
    assert [header.extra["part"] for header in headers] == list(range(1, len(headers) + 1))
    assert len({header.extra["recording"] for header in headers}) == 1
    assert [rows_of(path)[0].t for path in files_found] == [0.0] * len(files_found)
    starts = [header.start or "" for header in headers]
    assert starts == sorted(set(starts))


def test_a_part_never_writes_over_another_file(out: Path) -> None:
    numbered(out, 2).write_bytes(b"precious")
    recording = Recording(out, rotate_bytes=1)
    for number in range(20):
        recording.add(random_text(number))
    summary = recording.recorder.close()

    assert numbered(out, 2).read_bytes() == b"precious"
    assert summary.files[1] == str(numbered(out, 3))


def test_recording_stops_at_its_size_limit_and_says_so(out: Path) -> None:
    recording = Recording(out, max_bytes=300_000)
    for number in range(40):
        recording.add(random_text(number))
    assert recording.spoke.wait(WAIT_S)
    recording.add()
    summary = recording.recorder.close()

    rows = rows_of(out)
    assert 0 < len(rows) < 40
    assert out.stat().st_size <= 300_000
    assert summary.rows == len(rows)
    assert summary.dropped == {"limit": 41 - len(rows)}
    assert summary.trouble == "it has reached its size limit"
    assert not summary.failed
    (told,) = recording.told
    assert told == "recording has stopped: it has reached its size limit; requests go on being served"


def test_bodies_beside_the_trace_count_towards_the_limit(out: Path) -> None:
    recording = Recording(out, max_bytes=100_000, reference_bytes=1000)
    for number in range(40):
        recording.add(random_text(number))
    summary = recording.recorder.close()

    stored = [path.stat().st_size for path in bodies_directory(out).iterdir()]
    assert sum(stored) + out.stat().st_size == summary.size_bytes <= 100_000
    assert len(rows_of(out)) == summary.rows
    assert summary.rows + summary.dropped["limit"] == 40


def test_a_body_sent_often_is_stored_once(out: Path) -> None:
    image = os.urandom(5000)
    recording = Recording(out, reference_bytes=5000)
    for body in (image, image, b"\x00" * 6000, image):
        exchange = recording.recorder.arrive("POST", "/embed", ((b"Content-Type", b"image/png"),))
        exchange.add_body(body)
        exchange.body_ended = True
        recording.recorder.finish(exchange)
    summary = recording.recorder.close()

    rows = rows_of(out)
    assert [body_bytes(row, out) for row in rows] == [image, image, b"\x00" * 6000, image]
    assert len({row.body_ref for row in rows}) == 2
    assert len(list(bodies_directory(out).iterdir())) == 2
    assert summary.bodies == [str(bodies_directory(out))]
    assert bodies_directory(out).stat().st_mode & 0o077 == 0
    assert summary.size_bytes == out.stat().st_size + 11_000


def test_a_full_disk_leaves_whole_rows_and_is_told(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    class FullDisk:
        """Takes part of a piece, once it is told to be full, and no more."""

        full = False

        def __call__(self, descriptor: int, data: bytes) -> int:
            if self.full:
                if len(data) > 10:
                    return write(descriptor, data[:10])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data)

    disk = FullDisk()
    monkeypatch.setattr("pytest_capacity.recording.files.os.write", disk)
    recording = Recording(out)
    header_bytes = out.stat().st_size
    for number in range(10):
        recording.add(random_text(number))
    while out.stat().st_size == header_bytes:
        threading.Event().wait(0.01)
    disk.full = True
    for number in range(20):
        recording.add(random_text(number))
    assert recording.spoke.wait(WAIT_S)
    recording.add()
    summary = recording.recorder.close()

    rows = rows_of(out)
    assert len(rows) == summary.rows > 0
    assert summary.dropped == {"write_error": 31 - len(rows)}
    assert f"{out}: No space left on device" in recording.told[0]
    assert "requests go on being served" in recording.told[0]


def test_a_body_that_cannot_be_stored_is_told_and_the_rows_before_it_stay(out: Path) -> None:
    bodies_directory(out).write_text("in the way")
    recording = Recording(out, reference_bytes=100)
    recording.add()
    recording.add(random_text(1))
    assert recording.spoke.wait(WAIT_S)
    summary = recording.recorder.close()

    assert len(rows_of(out)) == summary.rows == 1
    assert summary.dropped == {"write_error": 1}


def test_memory_is_bounded_by_leaving_bodies_out_and_waiting_for_nobody(out: Path) -> None:
    recording = Recording(out, max_waiting_bytes=10_000)
    slow = recording.begin(path="/slow")
    for _ in range(10):
        recording.add(b'"%b"' % (b"x" * 3000))
    recording.recorder.finish(slow)
    summary = recording.recorder.close()

    rows = rows_of(out)
    assert len(rows) == 11
    kept = sum(row.body is not None for row in rows)
    assert kept + summary.bodies_left_out["too much waited in memory"] == 11


def test_too_many_waiting_rows_are_dropped_and_counted(out: Path) -> None:
    recording = Recording(out, max_waiting_rows=5, hold_s=1e9)
    # The writing thread may take some meanwhile, but never more than there is room for.
    for _ in range(500):
        recording.begin()
    summary = recording.recorder.close()

    assert summary.rows + summary.dropped["queue_full"] == 500
    assert len(rows_of(out)) == summary.rows


def test_what_no_row_can_be_made_of_is_counted_and_the_rest_goes_on(out: Path) -> None:
    recording = Recording(out, key_fields=("a",), reference_bytes=2**30)
    recording.add(b"[" * 600 + b"]" * 600)
    recording.add()
    summary = recording.recorder.close()

    assert summary.rows + summary.dropped["unreadable"] == 2
    assert len(rows_of(out)) == summary.rows >= 1
    assert summary.trouble is None


def test_an_error_of_our_own_stops_the_recording_only(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(out)
    recording.add()

    def break_down(*_: object, **__: object) -> None:
        raise AssertionError("s3cret")

    monkeypatch.setattr(recording.recorder._maker, "make", break_down)
    recording.add()
    assert recording.spoke.wait(WAIT_S)
    recording.add()
    summary = recording.recorder.close()

    assert "internal error: AssertionError in " in str(summary.trouble)
    assert summary.failed
    assert "s3cret" not in str(summary)
    assert summary.rows + summary.dropped["write_error"] == 3
    rows_of(out)


def test_several_threads_may_record_at_once(out: Path) -> None:
    recording = Recording(out)

    def add() -> None:
        for _ in range(200):
            recording.add()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    recording.recorder.close()

    rows = rows_of(out)
    assert [row.id for row in rows] == [str(number) for number in range(1, 801)]
    assert [row.t for row in rows] == sorted(row.t for row in rows)


def test_a_compressed_recording_is_whole_after_each_write(tmp_path: Path) -> None:
    """What a killed process leaves: members one after another, each whole."""
    file = PartFile(tmp_path / "a.jsonl.gz")
    for number in range(3):
        file.append(file.piece([f"line {number}"]))
        read = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode()
        assert read.splitlines() == [f"line {one}" for one in range(number + 1)]
    file.close()
    file.close()


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("a.trace.jsonl.gz", "a", ".trace.jsonl.gz"),
        ("a.b.trace.jsonl", "a.b", ".trace.jsonl"),
        ("a.jsonl", "a", ".jsonl"),
        ("a.gz", "a", ".gz"),
        ("a", "a", ""),
    ],
)
def test_a_number_stands_before_the_suffixes(name: str, stem: str, suffix: str) -> None:
    assert split_suffix(name) == (stem, suffix)
    assert numbered(Path("x", name), 2) == Path("x", f"{stem}-2{suffix}")


STEPS = st.lists(st.tuples(st.sampled_from(["arrive", "finish", "release", "wait"]), st.integers(0, 9)))


@given(STEPS)
def test_exchanges_come_out_once_each_in_the_order_of_arrival(steps: list[tuple[str, int]]) -> None:
    order = ArrivalOrder(hold_s=5.0, max_rows=4)
    now_s, arrived, came_out = 0.0, list[Exchange](), list[Exchange]()
    for step, number in steps:
        if step == "arrive":
            exchange = Exchange(
                len(arrived), now_s, method="GET", target="/", headers=(), memory=Memory(0), max_body_bytes=0
            )
            arrived.append(exchange)
            order.add(exchange)
        elif step == "finish" and arrived:
            arrived[number % len(arrived)].done_s = now_s
        elif step == "wait":
            now_s += number
        while step == "release" and (released := order.release(now_s)):
            overdue = now_s - released.arrived_s > 5.0
            assert released.done_s is not None or overdue or len(order) >= 4
            came_out.append(released)
    while released := order.release(now_s, hurry=True):
        came_out.append(released)

    assert came_out == arrived
    assert len(order) == 0
