"""Which format a file has, from how it begins, and the importer of each format's name."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path
from typing import Any

from pytest_capacity.traffic.importers.access_logs import (
    COMBINED,
    ENVOY,
    read_combined,
    read_envoy,
    read_json_log,
    read_nginx,
)
from pytest_capacity.traffic.importers.cloudevents import read_cloudevents
from pytest_capacity.traffic.importers.goreplay import HEADER, read_goreplay
from pytest_capacity.traffic.importers.har import read_har
from pytest_capacity.traffic.importers.job import Importer
from pytest_capacity.traffic.importers.mooncake import read_mooncake
from pytest_capacity.traffic.importers.native import read_native
from pytest_capacity.traffic.importers.otlp import read_otlp
from pytest_capacity.traffic.importers.payloads import (
    read_openai_batch,
    read_vegeta_results,
    read_vegeta_targets,
)
from pytest_capacity.traffic.importers.perf_analyzer import read_perf_data, read_perf_intervals
from pytest_capacity.traffic.importers.sagemaker import read_sagemaker
from pytest_capacity.traffic.importers.tables import read_csv, read_jsonl
from pytest_capacity.traffic.lines import TraceError, open_bytes
from pytest_capacity.traffic.trace import PARSE

IMPORTERS: dict[str, Importer] = {
    "csv": read_csv,
    "tsv": read_csv,
    "jsonl": read_jsonl,
    "native": read_native,
    "combined": read_combined,
    "nginx": read_nginx,
    "envoy": read_envoy,
    "json-log": read_json_log,
    "mooncake": read_mooncake,
    "goreplay": read_goreplay,
    "har": read_har,
    "cloudevents": read_cloudevents,
    "sagemaker": read_sagemaker,
    "perf-analyzer": read_perf_data,
    "perf-intervals": read_perf_intervals,
    "vegeta": read_vegeta_targets,
    "vegeta-results": read_vegeta_results,
    "openai-batch": read_openai_batch,
    "otlp": read_otlp,
}

TABLES = frozenset({"csv", "tsv", "jsonl"})
"""The formats that have columns to be mapped."""

_HEAD_BYTES = 2**16

# The fields that tell a line of JSON; the more telling first.
_TELLING_FIELDS: tuple[tuple[str, set[str]], ...] = (
    ("native", {"pytest_capacity_trace"}),
    ("sagemaker", {"captureData", "eventMetadata"}),
    ("cloudevents", {"specversion", "type"}),
    ("otlp", {"resourceSpans"}),
    ("otlp", {"resourceLogs"}),
    ("mooncake", {"timestamp", "input_length", "output_length"}),
    ("mooncake", {"timestamp", "hash_ids"}),
    ("openai-batch", {"custom_id", "body"}),
    ("vegeta-results", {"attack", "seq", "timestamp", "latency"}),
    ("json-log", {"start_time", "method", "path"}),
    ("json-log", {"request_time", "status"}),
    ("json-log", {"request_time", "request_uri"}),
    ("har", {"log"}),
    ("perf-analyzer", {"data"}),
    ("vegeta", {"method", "url"}),
)

_DOCUMENTS = (
    (re.compile(rb"\{\s*\"log\"\s*:\s*\{"), "har"),
    (re.compile(rb"\{\s*\"data\"\s*:\s*\["), "perf-analyzer"),
    (re.compile(rb"\{\s*\"resource(?:Spans|Logs)\"\s*:\s*\["), "otlp"),
)


_TABLE_SUFFIXES = {".csv": "csv", ".tsv": "tsv"}


def guess_format(path: Path) -> str:
    """The name of a file's format.

    Raises TraceError where it is not plain or the file is empty, OSError where it cannot be opened.
    """
    head = _head(path)
    if not head.strip():
        raise TraceError("empty", path=path)
    name = _guess_document(head) or _guess_lines(head)
    if name is None and b"\0" in head:
        raise TraceError("not text: this is a binary file", path=path, line=1)
    if name is None:
        # A table of one column looks like any text.
        name = _TABLE_SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix)
    if name is None:
        raise TraceError(
            f"which format is this? --format takes one of {', '.join(IMPORTERS)}", path=path, line=1
        )
    return name


def guess_table(path: Path) -> str:
    """Which kind of table a file is; errors are as for ``guess_format``."""
    head = _head(path)
    if not head.strip():
        raise TraceError("empty", path=path)
    first = head.lstrip().partition(b"\n")[0]
    return "jsonl" if first.startswith(b"{") else "tsv" if b"\t" in first else "csv"


def _head(path: Path) -> bytes:
    with open_bytes(path) as file:
        try:
            return file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
        except (EOFError, gzip.BadGzipFile, zlib.error):
            # The importer says where it breaks; of what can be read the beginning may tell enough.
            return _first_bytes(path)


def _first_bytes(path: Path) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(path.read_bytes()[:_HEAD_BYTES], _HEAD_BYTES)
    except zlib.error as error:
        raise TraceError(f"damaged gzip: {error}", path=path) from error


def _guess_document(head: bytes) -> str | None:
    """A format that is one document over many lines, or whose lines are no text."""
    start = head.lstrip()
    first = start.partition(b"\n")[0]
    if HEADER.fullmatch(first) and b"HTTP/" in head:
        return "goreplay"
    if _json_object(first.strip()) is not None:
        return None
    return next((name for pattern, name in _DOCUMENTS if pattern.match(start)), None)


def _guess_lines(head: bytes) -> str | None:
    lines = [line for line in head.decode("utf-8", "replace").splitlines() if line.strip()]
    first = lines[0].strip()
    fields = _json_object(first.encode())
    if fields is not None:
        return _guess_fields(fields)
    if first.startswith("{"):
        # A line longer than what was read is told by its first fields.
        return next((name for name, telling in _TELLING_FIELDS if _all_named(telling, first)), None)
    if all(line.strip().isdecimal() for line in lines[:100]):
        return "perf-intervals"
    for pattern, name in ((ENVOY, "envoy"), (COMBINED, "combined")):
        if pattern.fullmatch(first):
            return name
    return _guess_delimited(first)


def _all_named(names: set[str], text: str) -> bool:
    return all(f'"{name}"' in text for name in names)


def _guess_fields(fields: dict[str, Any]) -> str:
    headers = fields.get("headers")
    if isinstance(headers, dict) and any(name.lower() in ("ce-type", "ce_type") for name in headers):
        return "cloudevents"
    return next((name for name, telling in _TELLING_FIELDS if telling <= fields.keys()), "jsonl")


def _guess_delimited(first: str) -> str | None:
    """A header has names between delimiters, a record mostly has a number somewhere."""
    if "\0" in first or "\ufffd" in first:
        return None
    if "\t" in first:
        return "tsv"
    return "csv" if any(delimiter in first for delimiter in ",;|") else None


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        fields = PARSE(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None
