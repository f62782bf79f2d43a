"""Results as JSON lines: appended one by one, so that a stop loses no more than the line being written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Every whole line of a file; none where there is no file. A line cut short by a stop is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


class Appending:
    """A file of JSON lines, open for more."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A line that was cut short must not swallow the next one.
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def add(self, row: Row) -> None:
        """Write a row at once."""
        self._file.write(json.dumps(row, separators=(",", ":")) + "\n")
        self._file.flush()

    def __enter__(self) -> Appending:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
