"""What ``pytest-capacity inspect`` answers: a recording in figures, for people and as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_capacity.protocols import Floats
from pytest_capacity.traffic.columns import Recording, load_recording
from pytest_capacity.traffic.inspecting import describe, prefix_reuse
from pytest_capacity.traffic.lines import TraceError
from pytest_capacity.traffic.trace import read_rows
from pytest_capacity.traffic.validate import validate_trace

BINS, BAR = 20, 40
_MOST_LISTED = 10


def answer(options: argparse.Namespace) -> tuple[dict[str, Any], list[str], list[str]]:
    """Describe a trace: one document, the same in lines with histograms, and nothing besides.

    Raises TraceError, with the line, for a trace that is not in order, OSError for one that cannot be read.
    """
    path: Path = options.trace
    try:
        recording = load_recording(path, allow_cut=options.allow_cut)
    except TraceError as error:
        raise _with_counts(error, path) from error
    prefixes = None
    if recording.header.prefix_block is not None:
        prefixes = prefix_reuse(read_rows(path, allow_cut=options.allow_cut)[1])
    document: dict[str, Any] = describe(recording, prefixes)
    return document, list(_lines(document, recording)), []


def _with_counts(error: TraceError, path: Path) -> TraceError:
    """The error with what else is wrong in the trace, where its rows can be read at all."""
    if error.line == 1:
        what = f"{error.what}; of what is no trace yet, 'pytest-capacity import' makes one"
        return TraceError(what, path=error.path, line=1)
    if error.line is None:
        return error
    try:
        found = validate_trace(path)
    except TraceError:
        return error
    counted = "; ".join(found.in_words())
    return TraceError(f"{error.what}\n  {found.rows:,} rows: {counted}", path=error.path, line=error.line)


def _lines(document: dict[str, Any], recording: Recording) -> Iterator[str]:
    yield f"{recording.path}: {document['rows']:,} rows in {_number(document['span_s'])} s"
    for title, text in _facts(document):
        yield f"  {title:<11} {text}"
    yield ""
    yield from histogram("requests", recording.t_s - recording.t_s[0], "s", document["span_s"])
    for name, values in sorted(recording.sizes.items()):
        yield ""
        yield from _size_histogram(name, values[np.isfinite(values)])
    for warning in document["warnings"]:
        yield f"warning: {warning}"


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    mean, peak = _number(document["mean_qps"]), _number(document["peak_qps_1s"])
    yield "rate", f"mean {mean}/s, peak {peak} in a second"
    by_window = [f"{_number(value)} at {name} s" for name, value in document["dispersion"].items()]
    yield "dispersion", f"{', '.join(by_window)} (1 is Poisson, more is bursts)"
    gaps = {name: _number(value) for name, value in document["gaps"].items()}
    yield "gaps", f"p50 {gaps['p50_s']} s, p99 {gaps['p99_s']} s, cv {gaps['cv']}"
    sampling = document["sampling"]
    share = "a sample of unknown share" if sampling is None else f"{sampling * 100:g} % of the traffic"
    yield "clock", f"{document['clock']}, resolution {_number(document['resolution_s'])} s, {share}"
    operations = list(document["operations"].items())
    for name, count in operations[:_MOST_LISTED]:
        yield "operation", f"{name}: {count:,} ({count / document['rows'] * 100:.3g} %)"
    if len(operations) > _MOST_LISTED:
        yield "", f"and {len(operations) - _MOST_LISTED:,} more"
    for name, size in document["sizes"].items():
        told = {figure: _number(value) for figure, value in size.items()}
        yield "size", f"{name}: mean {told['mean']}, p50 {told['p50']}, p99 {told['p99']}"
    yield from _locality(document)


def _locality(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    keys, sessions, prefixes = document["keys"], document["sessions"], document.get("prefixes")
    if keys["distinct"]:
        yield "keys", f"{keys['distinct']:,} distinct, the most frequent {keys['top_share'] * 100:.3g} %"
        hits = [f"{int(name):,}: {share * 100:.3g} %" for name, share in keys["lru_hit_share"].items()]
        yield "LRU cache", f"hits by entries: {', '.join(hits)}"
    if sessions["distinct"]:
        requests = _number(sessions["requests_mean"])
        yield "sessions", f"{sessions['distinct']:,}, of {requests} requests on average"
    if prefixes and prefixes["hit_share"] is not None:
        share = f"{prefixes['hit_share'] * 100:.3g} %"
        yield "prefixes", f"{share} of {prefixes['blocks']:,} blocks were known from before"


def _size_histogram(name: str, values: Floats) -> Iterator[str]:
    yield from histogram(name, values, "", float(values.max()))


def histogram(title: str, values: Floats, unit: str, most: float) -> Iterator[str]:
    """How many values lie where, as bars of ``#``, in equal bins from 0 to ``most``."""
    counts, edges = np.histogram(values, bins=BINS if most > 0 else 1, range=(0.0, most or 1.0))
    yield f"  {title}"
    yield from _bars(counts.tolist(), edges.tolist(), unit)


def _bars(counts: Sequence[int], edges: Sequence[float], unit: str) -> Iterator[str]:
    highest = max(counts) or 1
    last = max((index for index, count in enumerate(counts) if count), default=0)
    for index in range(last + 1):
        bar = "#" * round(counts[index] / highest * BAR)
        # What is there is seen, however little it is.
        shown = bar or ("." if counts[index] else "")
        yield f"  {_number(edges[index]):>10} {unit:<1} {shown:<{BAR}} {counts[index]:,}"


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
