"""A session whose load leaves from worker processes: what each is told, and one report of what all tell."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_capacity.load.bystanders import Bystanders
from pytest_capacity.load.frames import Frame
from pytest_capacity.load.messages import answer_from, encoded_to_document, request_to_document
from pytest_capacity.load.opening import check_requests
from pytest_capacity.load.pacing import check_columns, request_indexes
from pytest_capacity.load.refresh import HeaderRefresher
from pytest_capacity.load.renumber import Renumbering
from pytest_capacity.load.rows import Told, samples_of
from pytest_capacity.load.sending import MAX_NOTES
from pytest_capacity.load.split import split_concurrency, split_rows
from pytest_capacity.load.unfinished import Unfinished
from pytest_capacity.load.vitals import LatenessMeter, Vitals, joint
from pytest_capacity.load.workers import START_S, WorkerLost, WorkerProcess, borrow, give_back, shared_columns
from pytest_capacity.protocols import (
    Encoded,
    Floats,
    Health,
    Ints,
    Judgement,
    LoadReport,
    Outcome,
    Reply,
    Request,
    Samples,
    Turns,
    empty_samples,
    join_samples,
)

SWITCH_INTERVAL_S = 0.0005
"""How long another of the tests' threads may keep the interpreter from telling the workers what to send; at
Python's own 5 ms a few threads that compute hold up a probe's first requests by a quarter of a second."""

PATIENCE_S = 10.0
"""A worker that answers nothing for so long hangs, as in a check that never returns."""


class CannotLeaveHome(Exception):
    """The target cannot be loaded from another process; the message says why."""


@dataclass(slots=True)
class _Desk:
    """One worker and what it has told since the last report; filled by its listener's thread."""

    worker: WorkerProcess
    told: deque[Samples] = field(default_factory=deque)
    vitals: Vitals = field(default_factory=Vitals)
    notes: list[str] = field(default_factory=list)
    examples: dict[Outcome, str] = field(default_factory=dict)
    opened: concurrent.futures.Future[Frame] = field(default_factory=concurrent.futures.Future)
    closed: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    max_in_flight: int = 0
    lost: bool = False


class WorkerSession:
    """An open engine in worker processes; see LoadSession for what its methods promise."""

    def __init__(
        self,
        encoded: Encoded,
        headers: Mapping[str, str],
        max_in_flight: int,
        workers: int,
        *,
        sender: str = "fast",
    ) -> None:
        """Open the target in every worker, for the ``sender`` of that name.

        Raises CannotLeaveHome where a worker cannot import what judges replies, WorkerLost or OSError where
        none starts, ValueError for requests that cannot be written.
        """
        self._encoded = encoded
        self._requests = len(encoded.requests)
        self._origin_s = time.monotonic()
        self._changed = threading.Condition()
        self._cuts = 0
        self._answers: dict[int, concurrent.futures.Future[tuple[Reply | None, Judgement]]] = {}
        self._asked = 0
        self._halted = threading.Event()
        self._halted_why: str | None = None
        self._closed = False
        self._notes: list[str] = []
        self._lateness = LatenessMeter()
        self._numbers = Renumbering(workers)
        self._era = 0
        self._unfinished = Unfinished()
        self._bystanders: Bystanders | None = None
        self._desks = [_Desk(worker) for worker in borrow(workers)]
        self._cut_of = [0] * workers
        self._switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            self._open(headers, max_in_flight, sender)
        except BaseException:
            self._end_workers()
            raise
        self._bystanders = Bystanders(encoded.endpoint, [desk.worker.pid for desk in self._desks])
        self._refresher = self._refresh()

    def now_s(self) -> float:
        """The session's clock, monotonic, zero at opening."""
        return time.monotonic() - self._origin_s

    def exchange(self, request: Request) -> tuple[Reply | None, Judgement]:
        """Send one request outside any load and judge the reply; None where no reply came.

        Raises RuntimeError after ``close``, and where the worker does not answer.
        """
        if self._closed or self._halted.is_set():
            raise RuntimeError(self._halted_why or "the session is closed")
        answer: concurrent.futures.Future[tuple[Reply | None, Judgement]] = concurrent.futures.Future()
        self._asked += 1
        self._answers[self._asked] = answer
        document = {"kind": "exchange", "number": self._asked, "request": request_to_document(request)}
        self._send(0, document, request.body)
        try:
            return answer.result(self._encoded.timeout_s + PATIENCE_S)
        except concurrent.futures.TimeoutError:
            self._halt(_stuck())
        except concurrent.futures.CancelledError:
            pass
        raise RuntimeError(self._halted_why or "the session is closed")

    def add(self, requests: Sequence[Request]) -> int:
        """Have more requests ready to be sent; returns the index of the first.

        Raises ValueError for one that cannot be written, or of an unknown operation.
        """
        check_requests(self._encoded, requests)
        first, self._requests = self._requests, self._requests + len(requests)
        document = {"kind": "add", "requests": [request_to_document(request) for request in requests]}
        for number in range(len(self._desks)):
            self._send(number, document, b"".join(request.body for request in requests))
        return first

    def play(
        self, first_row: int, intended_s: Floats, request_index: Ints, turns: Turns | None = None
    ) -> None:
        """Send open loop from now on, replacing rows due at or after ``intended_s[0]``.

        Columns without a row change nothing.

        Raises ValueError where the columns do not fit each other or the requests.
        """
        check_columns(intended_s, request_index, self._requests, turns)
        if not len(intended_s):
            return
        parts = split_rows(len(intended_s), len(self._desks), None if turns is None else turns.session)
        first = self._numbers.begin_open(first_row, parts)
        self._begin_era()
        for number, part in enumerate(parts):
            if not len(part):
                at_s = float(intended_s[0])
                self._send(number, {"kind": "pause", "at_s": at_s, "turns_stay": turns is not None})
                continue
            columns: list[Floats | Ints] = [intended_s[part], request_index[part]]
            if turns is not None:
                columns += [turns.session[part], turns.think_s[part]]
            with shared_columns(columns) as descriptor:
                document = {
                    "kind": "play",
                    "first_row": first,
                    "count": len(part),
                    "turns": turns is not None,
                }
                self._send(number, document, descriptor=descriptor)

    def hold(self, first_row: int, concurrency: int, request_index: Ints) -> None:
        """Keep so many requests in flight, at most as many as may be.

        Raises ValueError where there is no request to send or none to hold.
        """
        indexes = request_indexes(request_index, self._requests)
        if not indexes or concurrency < 1:
            raise ValueError("a closed loop needs a concurrency of at least 1 and a request to send")
        first = self._numbers.begin_closed(first_row)
        self._begin_era()
        for number, share in enumerate(split_concurrency(concurrency, len(self._desks))):
            if share:
                document = {"kind": "hold", "first_row": first, "concurrency": share}
                self._send(number, document, indexes.tobytes())
            else:
                self._send(number, {"kind": "pause", "at_s": 0.0})

    def pause(self, at_s: float) -> None:
        """Withdraw open-loop rows due at or after ``at_s``, end a closed loop; replies go on coming."""
        for number in range(len(self._desks)):
            self._send(number, {"kind": "pause", "at_s": at_s})

    def collect(self, until_s: float) -> LoadReport:
        """Wait until the clock reads ``until_s`` or the engine halts, then tell what is new."""
        while (left_s := until_s - self.now_s()) > 0 and not self._halted.is_set():
            self._halted.wait(left_s)
        # What happens from here on may be told or not.
        now_s = self.now_s()
        if not self._closed and not self._halted.is_set():
            self._cut()
        return self._report(now_s)

    def close(self) -> LoadReport:
        """Cancel what is in flight, close every connection, and tell the rest."""
        if self._closed:
            return LoadReport(self.now_s(), empty_samples(), 0, self._health(), {}, self._halted_why)
        if self._refresher is not None:
            self._refresher.stop()
        self._closed = True
        for answer in self._answers.values():
            answer.cancel()
        for number in range(len(self._desks)):
            self._send(number, {"kind": "close"})
        deadline_s = time.monotonic() + PATIENCE_S
        for desk in self._desks:
            if not desk.closed.wait(max(0.0, deadline_s - time.monotonic())):
                self._halt(_stuck())
        self._end_workers()
        return self._report(self.now_s(), last=True)

    # How it is done.

    def _open(self, headers: Mapping[str, str], max_in_flight: int, sender: str) -> None:
        encoded, bodies = encoded_to_document(self._encoded)
        document = {
            "kind": "open",
            "encoded": encoded,
            "sender": sender,
            "headers": dict(headers),
            "origin_s": self._origin_s,
            "path": sys.path,
            "folder": str(Path.cwd()),
        }
        shares = split_concurrency(max_in_flight, len(self._desks))
        for number, desk in enumerate(self._desks):
            desk.max_in_flight = max(1, shares[number])
            desk.thread = threading.Thread(
                target=self._listen, args=(number,), name="capacity-worker", daemon=True
            )
            desk.thread.start()
            desk.worker.send({**document, "max_in_flight": desk.max_in_flight}, *bodies)
        for desk in self._desks:
            try:
                frame = desk.opened.result(START_S)
            except concurrent.futures.TimeoutError:
                raise CannotLeaveHome(f"a load worker was not ready within {START_S:g} s") from None
            if frame.kind == "refused":
                raise CannotLeaveHome(frame.document["message"])
            desk.max_in_flight = frame.document["max_in_flight"]

    def _begin_era(self) -> None:
        self._era += 1
        if self._bystanders is not None:
            self._bystanders.begin()

    def _send(
        self, number: int, document: Mapping[str, Any], data: bytes = b"", descriptor: int | None = None
    ) -> None:
        desk = self._desks[number]
        if desk.lost:
            return
        try:
            desk.worker.send(document, data, descriptor=descriptor)
        except WorkerLost as lost:
            self._lose(desk, lost)

    def _cut(self) -> None:
        self._cuts += 1
        for number in range(len(self._desks)):
            self._send(number, {"kind": "cut", "number": self._cuts})
        with self._changed:
            arrived = self._changed.wait_for(self._all_cut, PATIENCE_S)
        if not arrived:
            self._halt(_stuck())

    def _all_cut(self) -> bool:
        return self._halted.is_set() or min(self._cut_of) >= self._cuts

    def _listen(self, number: int) -> None:
        desk = self._desks[number]
        try:
            desk.worker.listen(lambda frame: self._take(number, frame))
        except (WorkerLost, ValueError) as lost:
            self._lose(desk, lost)

    def _take(self, number: int, frame: Frame) -> bool:
        """Take in one frame on its listener's thread; False after the last."""
        desk, document = self._desks[number], frame.document
        if frame.kind == "told":
            records = document["records"]
            desk.told.append(samples_of(Told(frame.data[:records], frame.data[records:])))
            desk.vitals = Vitals(**document["vitals"])
            desk.notes = document["notes"]
            desk.examples = {Outcome(int(key)): text for key, text in document["examples"].items()}
        elif frame.kind == "cut":
            with self._changed:
                self._cut_of[number] = document["number"]
                self._changed.notify_all()
        elif frame.kind == "answer":
            answer = self._answers.pop(document["number"], None)
            if answer is not None and answer.set_running_or_notify_cancel():
                answer.set_result(answer_from(document, frame.data))
        elif frame.kind in {"opened", "refused"}:
            desk.opened.set_result(frame)
            return frame.kind == "opened"
        elif frame.kind == "halt":
            self._halt(document["why"])
        elif frame.kind == "closed":
            desk.closed.set()
            return False
        return True

    def _lose(self, desk: _Desk, lost: Exception) -> None:
        desk.lost = True
        self._halt(str(lost))
        if not desk.opened.done():
            desk.opened.set_exception(lost)
        desk.closed.set()

    def _halt(self, why: str) -> None:
        if self._halted_why is None and not self._closed:
            self._halted_why = why
        self._halted.set()
        for answer in list(self._answers.values()):
            answer.cancel()
        with self._changed:
            self._changed.notify_all()

    def _end_workers(self) -> None:
        sys.setswitchinterval(self._switch_interval_s)
        for desk in self._desks:
            if desk.closed.is_set() and not desk.lost:
                give_back(desk.worker)
            else:
                desk.worker.end()
        for desk in self._desks:
            if desk.thread is not None:
                desk.thread.join(PATIENCE_S)

    def _refresh(self) -> HeaderRefresher | None:
        if self._encoded.refresh_headers is None:
            return None
        return HeaderRefresher(
            self._encoded.refresh_headers,
            self._encoded.refresh_every_s,
            renewed=self._renew,
            failed=self._note,
        )

    def _note(self, trouble: str) -> None:
        if trouble not in self._notes and len(self._notes) < MAX_NOTES:
            self._notes.append(trouble)

    def _renew(self, headers: Mapping[str, str]) -> None:
        for number in range(len(self._desks)):
            self._send(number, {"kind": "renew", "headers": dict(headers)})

    def _report(self, now_s: float, *, last: bool = False) -> LoadReport:
        parts = []
        for desk in self._desks:
            told = [desk.told.popleft() for _ in range(len(desk.told))]
            parts.append(join_samples(told))
        samples = join_samples(self._numbers.whole(parts))
        self._unfinished.add(samples)
        if last:
            # What a lost worker had in the air is no evidence, but it is accounted for.
            samples = join_samples([samples, self._unfinished.cancelled()])
        self._lateness.add(self._era, samples)
        examples: dict[Outcome, str] = {}
        for desk in self._desks:
            examples = {**desk.examples, **examples}
        return LoadReport(
            now_s=now_s,
            samples=samples,
            in_flight=0 if self._closed else sum(desk.vitals.in_flight for desk in self._desks),
            health=self._health(),
            examples=examples,
            halted=self._halted_why,
        )

    def _health(self) -> Health:
        notes = dict.fromkeys([*self._notes, *(note for desk in self._desks for note in desk.notes)])
        bound = sum(desk.max_in_flight for desk in self._desks)
        health = self._lateness.health(joint([desk.vitals for desk in self._desks]), bound, tuple(notes))
        health = replace(health, workers=len(self._desks))
        return self._bystanders.explain(health) if self._bystanders is not None else health


def _stuck() -> str:
    return f"a load worker has stood still for {PATIENCE_S:g} s; does a check never return?"
