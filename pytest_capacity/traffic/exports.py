"""Traces for other tools: Mooncake's format (aiperf, vLLM, SGLang, Dynamo) and perf_analyzer's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytest_capacity.traffic.atomic import written_whole
from pytest_capacity.traffic.importers.mooncake import BLOCK_TOKENS
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.trace import TraceRow, body_bytes, read_rows


@dataclass(frozen=True)
class Exported:
    """What came of an export: rows written, the files, what was left out, and what to know."""

    rows: int
    paths: tuple[Path, ...]
    dropped: dict[str, int]
    notes: tuple[str, ...]


def to_mooncake(trace: Path, out: Path) -> Exported:
    """Write rows with token counts as Mooncake's: whole milliseconds, lengths, ids of prompt blocks.

    Block ids that are no numbers are numbered in order of appearance. Raises TraceError for a bad trace and
    for one without ``tokens_in``, OSError where it cannot be written; then nothing is.
    """
    header, rows = read_rows(trace)
    dropped, numbers, written = Counter[str](), dict[int | str, int](), 0
    block = header.prefix_block
    with written_whole(out) as file:
        for row in rows:
            if "tokens_in" not in row.size:
                dropped["no tokens_in"] += 1
                continue
            fields: dict[str, Any] = {
                "timestamp": round(row.t * 1000),
                "input_length": int(row.size["tokens_in"]),
                "output_length": int(row.size.get("tokens_out", 1)),
            }
            if row.prefix:
                fields["hash_ids"] = _numbered(row.prefix, numbers)
            file.write(json.dumps(fields).encode() + b"\n")
            written += 1
        _check_written(written, dropped, trace)
    notes = []
    if block not in (None, BLOCK_TOKENS):
        notes.append(f"blocks of {block} tokens: tell the reader, whose default is {BLOCK_TOKENS}")
    return Exported(written, (out,), dict(dropped), tuple(notes))


def to_perf_analyzer(trace: Path, out: Path) -> Exported:
    """Write the JSON bodies as perf_analyzer's ``--input-data``, with their times for ``--fixed-schedule``.

    The gaps go to a file beside, ending in ``.intervals``, for ``--request-intervals``: each after its
    request, the last one of mean length so that a loop has no seam. Errors are as for ``to_mooncake``.
    """
    _header, rows = read_rows(trace)
    dropped, times_s, written = Counter[str](), list[float](), 0
    intervals = out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.json')}.intervals")
    with written_whole(out) as file, written_whole(intervals) as gaps:
        file.write(b'{"data":[')
        for row in rows:
            entry = _perf_entry(row, trace)
            if entry is None:
                dropped["no JSON body"] += 1
                continue
            file.write((b",\n" if written else b"\n") + json.dumps(entry).encode())
            times_s.append(row.t)
            written += 1
        file.write(b"\n]}\n")
        _check_written(written, dropped, trace)
        gaps.write(_intervals(times_s))
    note = "an entry has the time in ms for --fixed-schedule; --request-intervals takes the second file"
    return Exported(written, (out, intervals), dict(dropped), (note,))


EXPORTS: dict[str, Callable[[Path, Path], Exported]] = {
    "mooncake": to_mooncake,
    "perf-analyzer": to_perf_analyzer,
}


def _numbered(prefix: tuple[int | str, ...], numbers: dict[int | str, int]) -> list[int]:
    if all(isinstance(block, int) for block in prefix):
        return [int(block) for block in prefix]
    return [numbers.setdefault(block, len(numbers)) for block in prefix]


def _perf_entry(row: TraceRow, trace: Path) -> dict[str, Any] | None:
    body: Any = row.body
    if body is None:
        data = body_bytes(row, trace)
        try:
            body = json.loads(data) if data else None
        except (ValueError, RecursionError):
            body = None
    if not isinstance(body, dict):
        return None
    entry: dict[str, Any] = {"payload": [body], "timestamp": [round(row.t * 1000)]}
    if row.session is not None:
        entry["session_id"] = [row.session]
    return entry


def _intervals(times_s: list[float]) -> bytes:
    micros = [round(t_s * 1e6) for t_s in times_s]
    gaps = [after - before for before, after in pairwise(micros)]
    gaps.append(round(sum(gaps) / len(gaps)) if gaps else 0)
    return "".join(f"{gap}\n" for gap in gaps).encode()


def _check_written(written: int, dropped: Counter[str], trace: Path) -> None:
    if not written:
        why = f": {', '.join(dropped)} in any of {dropped.total():,} rows" if dropped else ""
        raise TraceError(f"nothing to export{why}", path=trace)
