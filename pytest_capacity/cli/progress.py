"""Live progress on standard error."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pytest_capacity.measurement import Progress


class ProgressPrinter:
    """Live progress on standard error: one line rewritten on a terminal, one every ten seconds elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._terminal = stream, stream.isatty()
        self._next_s = 0.0

    def show(self, progress: Progress) -> None:
        """Write how the measurement stands, unless it was written a moment ago."""
        if time.monotonic() < self._next_s:
            return
        from pytest_capacity.report.text import progress_line  # noqa: PLC0415 - --help needs none of it

        self._next_s = time.monotonic() + (1.0 if self._terminal else 10.0)
        line = progress_line(**asdict(progress))
        end = "\r" if self._terminal else "\n"
        print(f"{line:<79}" if self._terminal else line, end=end, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the line away from a terminal."""
        if self._terminal and self._next_s:
            print(f"{'':<79}", end="\r", file=self._stream, flush=True)
