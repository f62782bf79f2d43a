"""Making a record of its parts: redacted, finite, and under 200 kB however long the run. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from pytest_capacity.protocols import Health, Json
from pytest_capacity.results.bounding import LEVELS, clipped, trimmed
from pytest_capacity.results.redact import redact_record
from pytest_capacity.results.schema import SCHEMA_VERSION
from pytest_capacity.results.shapes import (
    BoundRow,
    BreachRow,
    Capacity,
    Commit,
    Digest,
    DoubtRow,
    Environment,
    Generator,
    Latency,
    Measurement,
    Model,
    PreflightRow,
    ProbeRow,
    Record,
    Requirement,
    SummaryRow,
    Trace,
    VerdictName,
    Versions,
)
from pytest_capacity.results.summary import summary_of
from pytest_capacity.slo import Breach

__all__ = [
    "MAX_BYTES",
    "BoundRow",
    "BreachRow",
    "Capacity",
    "Commit",
    "Digest",
    "DoubtRow",
    "Environment",
    "Generator",
    "Latency",
    "Measurement",
    "Model",
    "PreflightRow",
    "ProbeRow",
    "Record",
    "Requirement",
    "SummaryRow",
    "Trace",
    "VerdictName",
    "Versions",
    "breach_row",
    "generator_row",
    "json_text",
    "make_record",
    "summary_of",
]

MAX_BYTES = 195_000
"""A record's size as stored is under 200 kB; the rest is for the last newline and for doubt."""

_DIGITS = 7


def make_record(
    *,
    nodeid: str,
    verdict: VerdictName | None,
    requirement: Requirement,
    measurements: Sequence[Measurement],
    generator: Generator,
    environment: Environment,
    versions: Versions,
    attempt: int = 1,
    breaches: Sequence[BreachRow] = (),
    doubts: Sequence[DoubtRow] = (),
    probes: Sequence[ProbeRow] = (),
    capacity: Capacity | None = None,
    commit: Commit | None = None,
    trace: Trace | None = None,
    model: Model | None = None,
    secrets: Iterable[str] = (),
) -> Record:
    """Join the parts into a record that can be stored as it is.

    Secrets are masked before texts are cut, so that none keeps half of one. What is infinite or not a number
    becomes None, numpy's numbers become Python's, floats keep seven digits. Long texts, lists and series are
    shortened as little as the size allows, with a note saying so.
    """
    parts = {
        "schema": SCHEMA_VERSION,
        "nodeid": nodeid,
        "attempt": attempt,
        "verdict": None if verdict is None else str(verdict),
        "breaches": breaches,
        "doubts": doubts,
        "requirement": requirement,
        "capacity": capacity,
        "measurements": measurements,
        "probes": probes,
        "generator": generator,
        "environment": environment,
        "commit": commit,
        "versions": versions,
        "trace": trace,
        "model": model,
    }
    plain = _plain(parts)
    known = tuple(secrets)
    records = (clipped(redact_record(trimmed(plain, limits), known), limits) for limits in LEVELS)
    for record in records:
        if len(json_text(record).encode()) <= MAX_BYTES:
            break
    return cast("Record", record)


def breach_row(breach: Breach) -> BreachRow:
    """A breach as the record holds it."""
    return {
        "bound": breach.bound.name,
        "label": breach.bound.label,
        "operation": breach.bound.operation or None,
        "limit_ms": breach.bound.limit_ms,
        "allowed_share": breach.bound.allowed_share,
        "bad_share": breach.bad_share,
        "share_low": breach.share_low,
        "share_high": breach.share_high,
        "measured_ms": _finite(breach.measured_ms),
        "low_ms": _finite(breach.low_ms),
        "high_ms": _finite(breach.high_ms),
        "margin": breach.margin,
        "text": breach.describe(),
    }


def generator_row(
    health: Health,
    *,
    engine: str,
    arrivals: str,
    seed: int | None,
    offered_qps: float | None,
    achieved_qps: float | None,
    max_in_flight: int | None = None,
) -> Generator:
    """The generator's health as the record holds it, in milliseconds where it is lateness.

    ``max_in_flight`` is the bound on requests in flight, by default the one that ``health`` names.
    """
    return {
        "engine": engine,
        "arrivals": arrivals,
        "seed": seed,
        "max_in_flight": health.max_in_flight if max_in_flight is None else max_in_flight,
        "late_p50_ms": _finite(health.late_p50_s * 1000),
        "late_p99_ms": _finite(health.late_p99_s * 1000),
        "late_max_ms": _finite(health.late_max_s * 1000),
        "offered_qps": _finite(offered_qps),
        "achieved_qps": _finite(achieved_qps),
        "not_sent": health.not_sent,
        "loop_stall_ms": _finite(health.loop_stall_s * 1000),
        "cpu_s": health.cpu_s,
        "wall_s": health.wall_s,
        "gc_collections": health.gc_collections,
        "workers": health.workers,
        "connection_waits": health.connection_waits,
        "late_share": _finite(health.late_share),
        "spin_s": health.spin_s,
        "throttled_s": health.throttled_s,
        "steal_share": _finite(health.steal_share),
        "foreign_share": _finite(health.foreign_share),
        "notes": list(health.notes),
    }


def json_text(document: Json | Mapping[str, Any]) -> str:
    """A document as JSON for people: indented, but columns and rows of figures on one line each.

    Raises ValueError where it holds NaN or an infinity.
    """
    return _json(document, "")


def _json(node: Any, indent: str) -> str:
    line = json.dumps(node, ensure_ascii=False, allow_nan=False)
    deeper = indent + " "
    if isinstance(node, dict) and any(isinstance(item, (dict, list)) and item for item in node.values()):
        rows = [f"{json.dumps(key, ensure_ascii=False)}: {_json(item, deeper)}" for key, item in node.items()]
        opening, closing = "{", "}"
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        rows = [_json(item, deeper) for item in node]
        opening, closing = "[", "]"
    else:
        return line
    return opening + "\n" + ",\n".join(deeper + row for row in rows) + "\n" + indent + closing


def _plain(value: Any) -> Any:
    """Plain JSON of anything a part may hold; what JSON has no form for becomes its text."""
    if value is None or isinstance(value, (bool, int)):
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, str):
        # Half a surrogate pair, as of an undecodable file name, could not be written as UTF-8. str() takes
        # members of string enumerations to plain strings.
        return str.__str__(value).encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # numpy's arrays and numbers offer this; asking for it spares the import.
    to_python = getattr(value, "tolist", None)
    return _plain(to_python()) if callable(to_python) else _plain(str(value))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
