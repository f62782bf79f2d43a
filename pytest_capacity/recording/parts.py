"""The rows of a recording on their way into files: in parts of a bounded size, within a bound on them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from pytest_capacity.recording.files import PartFile, open_free
from pytest_capacity.traffic.trace import (
    BodyStore,
    TraceHeader,
    TraceRow,
    bodies_directory,
    header_line,
    row_line,
)

PENDING_CHARACTERS = 2**18
"""So much is written at once at the latest: what a killed recorder loses, beside the last second."""


class LimitReached(Exception):
    """The recording has become as large as it may; what did not fit was not written."""


class Parts:
    """Writes rows, in the order of arrival, into one file after another; each is a whole trace.

    ``t`` counts from a part's first row, and ``start`` in its header says when that was, so that every part
    can be replayed by itself and all of them together are the recording.
    """

    def __init__(
        self,
        path: Path,
        header: TraceHeader,
        began: tuple[float, datetime],
        *,
        rotate_bytes: int | None,
        max_bytes: int | None,
        exclusive: bool,
    ) -> None:
        """Open the first file; ``began`` is one instant on the clock of arrivals and on the wall's.

        Raises FileExistsError where ``exclusive`` and the file is there (else a free name is taken), OSError
        where it cannot be made.
        """
        self.rows = 0
        self.files: list[Path] = []
        self._path, self._header, self._began = path, header, began
        self._rotate_bytes, self._max_bytes = rotate_bytes, max_bytes
        self._done_bytes = self._bodies_bytes = 0
        self._part = 0
        self._pending: list[str] = []
        self._pending_rows = self._pending_characters = 0
        self._file: PartFile
        self._open(PartFile(path) if exclusive else open_free(path, 1))
        self._write_first_header()

    @property
    def total_bytes(self) -> int:
        """What lies on the disk, bodies beside the traces included."""
        return self._done_bytes + self._file.size_bytes + self._bodies_bytes

    @property
    def bodies_directories(self) -> list[Path]:
        """Where bodies were stored."""
        return [folder for folder in map(bodies_directory, self.files) if folder.exists()]

    def add(self, arrived_s: float, row: TraceRow, stored: bytes | None) -> None:
        """Take a row, and the body that it refers to.

        Raises ValueError where the row cannot be written, LimitReached where there is no more room, OSError
        where the disk does not take it; the recording is to be closed after the last two.
        """
        if self._is_full():
            self.flush()
            self._rotate()
        if self._start_s is None:
            self._start(arrived_s)
        if stored is not None:
            row.body_ref = self._store(stored)
        row.t = round(max(arrived_s - (self._start_s or 0.0), 0.0), 6)
        self._put(row_line(row))
        self._pending_rows += 1
        if self._pending_characters >= PENDING_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as one piece; raises LimitReached and OSError as ``add`` does."""
        lines, rows = self._pending, self._pending_rows
        if not lines:
            return
        self._pending, self._pending_rows, self._pending_characters = [], 0, 0
        piece, fitting = _fitting(self._file.piece, lines, self._room())
        self._file.append(piece)
        # The header goes out by itself: it is no row, and none is behind it.
        self.rows += min(rows, fitting)
        if fitting < len(lines):
            raise LimitReached

    def close(self) -> None:
        """Write the rest and close the file; raises LimitReached and OSError as ``add`` does."""
        try:
            if self._start_s is None:
                self._start(self._began[0])
            self.flush()
        finally:
            self._file.close()

    def _open(self, file: PartFile) -> None:
        self._file = file
        self.files.append(file.path)
        self._bodies, self._references = BodyStore(file.path), set[str]()
        self._start_s: float | None = None
        self._part_bodies_bytes = 0
        self._part += 1

    def _is_full(self) -> bool:
        if self._rotate_bytes is None or self._start_s is None:
            return False
        return self._file.size_bytes + self._part_bodies_bytes >= self._rotate_bytes

    def _rotate(self) -> None:
        self._file.close()
        file = open_free(self._path, self._part + 1)
        self._done_bytes += self._file.size_bytes
        self._open(file)

    def _write_first_header(self) -> None:
        """Make the file a trace before there is any arrival: nobody knows when a recorder is killed."""
        piece, room = self._file.header_piece(self._header_line(self._began[0])), self._room()
        if room is None or len(piece) <= room:
            self._file.append(piece)

    def _start(self, arrived_s: float) -> None:
        """Write the header: the part begins at its first arrival."""
        self._start_s = arrived_s
        line = self._header_line(arrived_s)
        if self._file.size_bytes:
            # The first part has one already, as long, from before its first arrival was known.
            self._file.overwrite(self._file.header_piece(line))
        else:
            self._put(line)
            self.flush()

    def _header_line(self, arrived_s: float) -> str:
        began_s, began = self._began
        start = (began + timedelta(seconds=arrived_s - began_s)).isoformat(timespec="microseconds")
        extra = {**self._header.extra, "part": self._part}
        start = start.replace("+00:00", "Z")
        return header_line(replace(self._header, start=start, extra=extra))

    def _put(self, line: str) -> None:
        self._pending.append(line)
        self._pending_characters += len(line)

    def _store(self, data: bytes) -> str:
        room = self._room()
        if room is not None and len(data) > room:
            self.flush()
            raise LimitReached
        # For their owner only, as the trace itself.
        bodies_directory(self._file.path).mkdir(mode=0o700, exist_ok=True)
        reference = self._bodies.put(data)
        if reference not in self._references:
            self._references.add(reference)
            self._bodies_bytes += len(data)
            self._part_bodies_bytes += len(data)
        return reference

    def _room(self) -> int | None:
        return None if self._max_bytes is None else self._max_bytes - self.total_bytes


def _fitting(piece_of: Callable[[list[str]], bytes], lines: list[str], room: int | None) -> tuple[bytes, int]:
    """As many of the first lines as there is room for, as a piece, and how many they are."""
    count = len(lines)
    while count:
        piece = piece_of(lines[:count])
        if room is None or len(piece) <= room:
            return piece, count
        count //= 2
    return b"", 0
