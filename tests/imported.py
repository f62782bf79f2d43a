"""Importing a small file in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_capacity.traffic.importers.job import ImportOptions
from pytest_capacity.traffic.importing import Imported, import_file
from pytest_capacity.traffic.trace import TraceRow, read_rows

TRACES = Path(__file__).parent.parent.parent / "shared" / "traces"

needs_traces = pytest.mark.skipif(
    not TRACES.is_dir(), reason=f"the recorded traces are not there: {TRACES} is no folder"
)


class Result(NamedTuple):
    """What came of an import, the rows of its trace, and where that lies."""

    found: Imported
    rows: list[TraceRow]
    out: Path

    @property
    def times(self) -> list[float]:
        return [row.t for row in self.rows]

    @property
    def messages(self) -> str:
        return "\n".join([*self.found.notes, *self.found.warnings])


def imported(source: Path, format_name: str | None = None, **options: Any) -> Result:
    """Import a file as the command does, with plain keys unless asked otherwise."""
    out = source.parent / f"{source.name}.out" / "a.trace.jsonl"
    return imported_to(out, source, format_name, **options)


def imported_to(out: Path, source: Path, format_name: str | None = None, **options: Any) -> Result:
    """The same, to a place of one's own."""
    asked = ImportOptions(**{"plain_keys": True, **options})
    found = import_file(source, out, asked, format_name=format_name)
    return Result(found, list(read_rows(out)[1]), out)


def imported_text(
    tmp_path: Path, text: str | bytes, format_name: str | None = None, **options: Any
) -> Result:
    """Import a text."""
    source = tmp_path / "recorded"
    source.write_bytes(text.encode() if isinstance(text, str) else text)
    return imported(source, format_name, **options)
