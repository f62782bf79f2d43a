"""Keeping a record small: what is shortened, how, and the note that says so. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """The most that a record may hold.

    ``text`` characters in a text, ``items`` in a list or map, ``entries`` in a map of the user's own with all
    that is nested in it, ``bins`` in a series.
    """

    text: int
    items: int
    entries: int
    probes: int
    bins: int
    measurements: int


LEVELS = (
    Limits(text=500, items=30, entries=200, probes=200, bins=120, measurements=20),
    Limits(text=300, items=20, entries=100, probes=100, bins=60, measurements=12),
    Limits(text=160, items=10, entries=50, probes=50, bins=30, measurements=8),
    Limits(text=60, items=5, entries=20, probes=20, bins=15, measurements=4),
)
"""From what a long run needs to what even a hostile server's texts cannot take past 200 kB."""

_NODEID_CHARACTERS = 1000
_KEY_CHARACTERS = 80
_CENTROIDS = 300


def trimmed(record: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """A copy of a plain record with no more entries than the limits allow, its texts as long as they are.

    What was left out is named in the notes.
    """
    cuts: list[str] = []
    measurements = record["measurements"]
    first = max(0, len(measurements) - limits.measurements)
    if first:
        cuts.append(f"the first {first} of {len(measurements)} measurements left out")
    probes = [
        {**probe, "measurement": probe["measurement"] - first}
        for probe in record["probes"]
        if probe["measurement"] >= first
    ]
    if len(probes) > limits.probes:
        cuts.append(f"{len(probes) - limits.probes} of {len(probes)} probes left out")
    generator = record["generator"]
    kept = {
        **record,
        "breaches": _few(record["breaches"], limits, "breaches", cuts),
        "doubts": _few(record["doubts"], limits, "doubts", cuts),
        "measurements": [_measurement(item, limits) for item in measurements[first:]],
        "probes": _evenly(probes, limits.probes),
        "requirement": {**record["requirement"], "slo": _slo(record["requirement"]["slo"], limits)},
        "environment": {
            **record["environment"],
            "overrides": _free(record["environment"]["overrides"], limits),
        },
        "trace": _trace(record["trace"], limits),
    }
    return {**kept, "generator": {**generator, "notes": _noted(generator["notes"], limits, cuts)}}


def clipped(record: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """A copy of a record with no text longer than the limits allow, control characters taken out."""
    short: dict[str, Any] = _clip(record, limits.text)
    return {**short, "nodeid": _identity(record["nodeid"])}


def _measurement(measurement: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    cuts: list[str] = []
    series, digest = measurement["series"], measurement["digest"]
    while series and len(series["columns"]["t_s"]) > limits.bins:
        series = _coarser(series)
    if series and series is not measurement["series"]:
        cuts.append(f"the series' bins joined to {series['bin_s']:g} s, with the slowest of their quantiles")
    if digest:
        digest = {**digest, "centroids": _joined(digest["centroids"])}
    kept = {
        **measurement,
        "slo": _slo(measurement["slo"], limits),
        "target": _free(measurement["target"], limits),
        "bounds": _few(measurement["bounds"], limits, "bounds", cuts),
        "outcomes": _greatest(measurement["outcomes"], limits.items),
        "status_counts": _greatest(measurement["status_counts"], limits.items),
        "examples": dict(list(measurement["examples"].items())[: limits.items]),
        "digest": digest,
        "series": series,
        "preflight": _few(measurement["preflight"], limits, "preflight requests", cuts),
    }
    return {**kept, "notes": _noted(measurement["notes"], limits, cuts)}


def _slo(slo: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """An SLO, of operations with no more of them than the limits allow."""
    if "operations" not in slo:
        return dict(slo)
    return {"operations": dict(islice(slo["operations"].items(), limits.items))}


def _trace(trace: Mapping[str, Any] | None, limits: Limits) -> dict[str, Any] | None:
    """The trace's row with no more warnings, scalings and names than the limits allow."""
    if trace is None:
        return None
    fidelity = trace["fidelity"]
    if fidelity is not None:
        fidelity = {**fidelity, "outside_names": fidelity["outside_names"][: limits.items]}
    return {
        **trace,
        "warnings": trace["warnings"][: limits.items],
        "scalings": trace["scalings"][-limits.items :],
        "fidelity": fidelity,
    }


def _few(items: Sequence[T], limits: Limits, what: str, cuts: list[str]) -> list[T]:
    if len(items) > limits.items:
        cuts.append(f"{len(items) - limits.items} of {len(items)} {what} left out")
    return list(items[: limits.items])


def _noted(notes: Sequence[str], limits: Limits, cuts: Sequence[str]) -> list[str]:
    """The notes that fit, and one more for all that was cut."""
    cuts = list(cuts)
    kept = _few(notes, limits, "notes", cuts)
    return [*kept, f"shortened to keep the record small: {'; '.join(cuts)}"] if cuts else kept


def _evenly(items: Sequence[T], most: int) -> list[T]:
    """So many of the items at most, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _greatest(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """The greatest counts, the others summed under ``more``."""
    if len(counts) <= most:
        return dict(counts)
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return {**dict(ranked[: most - 1]), "more": sum(count for _, count in ranked[most - 1 :])}


def _free(value: Any, limits: Limits) -> Any:
    """A map of the user's own with so many entries at most; ``...`` counts those that are missing."""
    places = iter(range(limits.entries))

    def kept(node: Any) -> Any:
        if isinstance(node, dict):
            some = islice(node.items(), limits.items)
            entries = {key: kept(item) for key, item in some if next(places, None) is not None}
            missing = len(node) - len(entries)
            return {**entries, "...": f"{missing} more"} if missing else entries
        if isinstance(node, list):
            shown = [kept(item) for item in node[: limits.items] if next(places, None) is not None]
            missing = len(node) - len(shown)
            return [*shown, f"... {missing} more"] if missing else shown
        return node

    return kept(value)


def _clip(value: Any, characters: int) -> Any:
    """The same with every text cut to so many characters, control characters taken out."""
    if isinstance(value, str):
        plain = value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
        return plain if len(plain) <= characters else plain[: characters - 3] + "..."
    if isinstance(value, Mapping):
        return {_clip(key, _KEY_CHARACTERS): _clip(item, characters) for key, item in value.items()}
    if isinstance(value, list):
        return [_clip(item, characters) for item in value]
    return value


def _identity(nodeid: str) -> str:
    """The node id, a very long one cut but still told apart from others that begin like it."""
    if len(nodeid) <= _NODEID_CHARACTERS:
        plain: str = _clip(nodeid, _NODEID_CHARACTERS)
        return plain
    digest = hashlib.sha256(nodeid.encode("utf-8", "replace")).hexdigest()[:12]
    return f"{_clip(nodeid, _NODEID_CHARACTERS)}{digest}"


def _joined(centroids: Sequence[Sequence[float]]) -> list[list[float]]:
    """The centroids, neighbours joined in pairs where there are more than a digest of ours has."""
    kept = [list(centroid) for centroid in centroids]
    while len(kept) > _CENTROIDS:
        kept = [_one_of(kept[i : i + 2]) for i in range(0, len(kept), 2)]
    return kept


def _one_of(centroids: Sequence[Sequence[float]]) -> list[float]:
    weight = sum(centroid[1] for centroid in centroids)
    return [sum(centroid[0] * centroid[1] for centroid in centroids) / weight, weight]


def _coarser(series: Mapping[str, Any]) -> dict[str, Any]:
    """The series with each two bins joined: counts added, the slower bin's quantiles, the last in flight."""
    columns = series["columns"]
    pairs = [slice(i, i + 2) for i in range(0, len(columns["t_s"]), 2)]
    joined: dict[str, list[Any]] = {"t_s": columns["t_s"][::2]}
    for name in ("planned", "sent", "answered", "bad", "failed"):
        joined[name] = [sum(columns[name][pair]) for pair in pairs]
    for name in ("p50_ms", "p99_ms"):
        joined[name] = [_slower(columns[name][pair], columns["planned"][pair]) for pair in pairs]
    joined["in_flight"] = [columns["in_flight"][pair][-1] for pair in pairs]
    return {"bin_s": series["bin_s"] * 2, "columns": joined}


def _slower(quantiles: Sequence[float | None], planned: Sequence[int]) -> float | None:
    """The greatest quantile; None, which is infinite where anything was planned, where one of them is."""
    known = [quantile for quantile, count in zip(quantiles, planned, strict=True) if count]
    finite = [quantile for quantile in known if quantile is not None]
    return max(finite) if finite and len(finite) == len(known) else None
