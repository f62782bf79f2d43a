"""The recorder: takes exchanges as they come, and writes them in a thread of its own.

Whoever serves requests calls ``arrive`` and ``finish``, which touch no file and wait for nothing. Whatever
goes wrong with the recording is told and counted; it never reaches who serves.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from pathlib import Path

from pytest_capacity import __version__
from pytest_capacity.protocols import Json
from pytest_capacity.recording.exchange import Exchange, Memory, RawHeaders
from pytest_capacity.recording.files import split_suffix
from pytest_capacity.recording.options import RecordingOptions
from pytest_capacity.recording.ordering import ArrivalOrder
from pytest_capacity.recording.parts import LimitReached, Parts
from pytest_capacity.recording.rows import RowMaker
from pytest_capacity.recording.summary import Summary
from pytest_capacity.traffic.fields import split_target
from pytest_capacity.traffic.trace import TraceHeader

TURN_S = 0.05
"""How often the thread looks for what has ended. Small turns keep the interpreter from those who serve only
shortly at a time."""

FLUSH_S = 1.0
"""What a killed recorder has not written is at most so old."""

RESOLUTION_S = 1e-6


class Recorder:
    """Records into a file from its making until ``close``. Its methods may be called from any thread.

    ``tell`` is given, at most once each and from another thread, what the user must hear while it goes on.
    Raises FileExistsError where ``exclusive`` and there is such a file (else a free name beside it is taken),
    OSError where it cannot be made.
    """

    def __init__(
        self,
        out: Path | str,
        options: RecordingOptions,
        *,
        source: str,
        tell: Callable[[str], None],
        exclusive: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        path = Path(out)
        self._options, self._tell, self._clock = options, tell, clock
        self._memory = Memory(options.max_waiting_bytes)
        self._order = ArrivalOrder(options.hold_s, options.max_waiting_rows)
        self._maker = RowMaker(options, secrets.token_bytes(32))
        self._summary = Summary(str(path), options.sample)
        self._lock = threading.Lock()
        self._number = 0
        self._handed = 0
        self._told: set[str] = set()
        self._stopped: str | None = None
        self._began = (clock(), datetime.now(timezone.utc))
        self._parts = Parts(
            path,
            _header(path, options, source),
            self._began,
            rotate_bytes=options.rotate_bytes,
            max_bytes=options.max_bytes,
            exclusive=exclusive,
        )
        self._flushed_s = self._began[0]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pytest-capacity-recorder", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The first file."""
        return self._parts.files[0]

    def now_s(self) -> float:
        """The clock of an exchange's times."""
        return self._clock()

    def arrive(self, method: str, target: str, headers: RawHeaders) -> Exchange:
        """Note a request's arrival.

        What it returns is to be filled, and given to ``finish`` whatever happens.
        """
        with self._lock:
            self._number += 1
            number = self._number
            exchange = Exchange(
                number,
                self._clock(),
                method=method,
                target=target,
                headers=headers,
                memory=self._memory,
                max_body_bytes=self._options.max_body_bytes,
            )
            if self._is_ignored(target):
                self._summary.ignored += 1
            elif self._stopped:
                self._summary.dropped[self._stopped] += 1
            elif len(self._order) >= 2 * self._options.max_waiting_rows:
                self._summary.dropped["queue_full"] += 1
            else:
                self._order.add(exchange)
                return exchange
        # Nothing will ever be read from it.
        exchange.close()
        return exchange

    def finish(self, exchange: Exchange) -> None:
        """Note that an exchange has ended; a second time changes nothing."""
        if exchange.done_s is None:
            exchange.done_s = self._clock()

    def upgrade(self) -> None:
        """Count a connection that became something else than HTTP."""
        with self._lock:
            self._summary.upgraded += 1

    def close(self) -> Summary:
        """Write what there is, the unfinished too, and close the file; a second time changes nothing."""
        self._closing.set()
        self._thread.join()
        return self._summary

    def _is_ignored(self, target: str) -> bool:
        ignore = self._options.ignore
        return bool(ignore) and any(fnmatchcase(split_target(target)[0], one) for one in ignore)

    def _run(self) -> None:
        try:
            self._record()
            self._parts.close()
        except LimitReached:
            self._halt("limit", "it has reached its size limit")
        except OSError as error:
            self._halt("write_error", f"{error.filename or self._parts.files[-1]}: {error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - whatever it is, requests are served on
            # Its words may hold what a client sent.
            place = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
            self._halt("write_error", f"internal error: {what}")
        finally:
            self._summarise()

    def _record(self) -> None:
        while not self._closing.wait(TURN_S):
            self._drain(hurry=False)
            now_s = self._clock()
            if now_s - self._flushed_s >= FLUSH_S:
                self._flushed_s = now_s
                self._parts.flush()
            if self._summary.dropped["queue_full"]:
                self._say_once("the recorder cannot keep up: requests pass, but some are not recorded")
        self._drain(hurry=True)

    def _drain(self, *, hurry: bool) -> None:
        """Write what is due; where memory is short, what has not ended too."""
        memory = self._memory
        while True:
            short = 2 * memory.used_bytes > memory.limit_bytes
            exchange = self._order.release(self._clock(), hurry=hurry or short)
            if exchange is None:
                return
            try:
                self._write(exchange)
            finally:
                exchange.close()

    def _write(self, exchange: Exchange) -> None:
        unfinished = exchange.done_s is None
        self._handed += 1
        try:
            made = self._maker.make(exchange)
            if made is not None:
                self._parts.add(exchange.arrived_s, made.row, made.stored)
        except (ValueError, RecursionError):
            self._handed -= 1
            with self._lock:
                self._summary.dropped["unreadable"] += 1
            return
        if made is None:
            self._handed -= 1
            self._summary.sampled_out += 1
            return
        self._summary.unfinished += unfinished
        if made.left_out:
            self._summary.bodies_left_out[made.left_out] += 1

    def _halt(self, reason: str, why: str) -> None:
        """Stop recording for good, and count what is lost by it."""
        with contextlib.suppress(LimitReached, OSError):
            self._parts.close()
        with self._lock:
            self._stopped = reason
            self._summary.trouble, self._summary.failed = why, reason != "limit"
            lost = self._handed - self._parts.rows
            while (exchange := self._order.release(0.0, hurry=True)) is not None:
                exchange.close()
                lost += 1
            self._summary.dropped[reason] += lost
        self._say_once(f"recording has stopped: {why}; requests go on being served")

    def _summarise(self) -> None:
        summary, parts = self._summary, self._parts
        with self._lock:
            self._stopped = self._stopped or "closed"
            summary.dropped = +summary.dropped
            summary.rows, summary.size_bytes = parts.rows, parts.total_bytes
            summary.files = [str(path) for path in parts.files]
            summary.bodies = [str(path) for path in parts.bodies_directories]

    def _say_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            # Where nobody listens any more there is nobody to tell.
            with contextlib.suppress(OSError, ValueError):
                self._tell(text)


def _header(path: Path, options: RecordingOptions, source: str) -> TraceHeader:
    by_session = options.session_field or options.session_header
    extra: dict[str, Json] = {"recording": secrets.token_hex(8), "recorder": f"pytest-capacity {__version__}"}
    if options.sample < 1:
        extra["sampled_by"] = "session" if by_session else "request"
    return TraceHeader(
        name=options.name or split_suffix(path.name)[0],
        class_=options.model_class,
        resolution_s=RESOLUTION_S,
        sampling=options.sample,
        source=source,
        redacted=True,
        extra=extra,
    )
