"""A recording in figures: how fast, how bursty, how large, which operations, keys and sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_capacity.protocols import Floats, Ints, Json
from pytest_capacity.traffic.columns import Recording
from pytest_capacity.traffic.quantised import doubts_on_times, find_resolution_ns, is_quantised
from pytest_capacity.traffic.statistics import index_of_dispersion, lru_hit_shares, stack_distances
from pytest_capacity.traffic.trace import TraceRow

WINDOWS_S = (1, 10, 60)
"""Windows in which the index of dispersion is told."""

_CACHES = (10, 100, 1000, 10_000, 100_000)
_MANY_OPERATIONS = 200
_TICKS = 3


@dataclass(frozen=True)
class PrefixReuse:
    """How far prompts begin with blocks known from before: blocks, distinct ones, and the share reused."""

    blocks: int
    distinct: int
    hit_share: float | None


def describe(recording: Recording, prefixes: PrefixReuse | None = None) -> dict[str, Json]:
    """All that ``inspect`` tells, as one JSON document; nothing in it is NaN or infinite.

    ``dispersion`` is the variance over the mean of the counts in windows of so many seconds: 1 for Poisson
    arrivals, more for bursts; null where the trace is shorter than ten windows.
    """
    header, t_s = recording.header, recording.t_s - recording.t_s[0]
    span_s, resolution_s = recording.span_s, _resolution_s(recording)
    dispersion = {str(window_s): index_of_dispersion(t_s, span_s, window_s) for window_s in WINDOWS_S}
    document: dict[str, Json] = {
        "name": header.name,
        "rows": len(recording),
        "span_s": span_s,
        "mean_qps": len(recording) / span_s if span_s > 0 else None,
        "peak_qps_1s": int(_occupied(t_s).max()),
        "dispersion": dispersion,
        "gaps": _gaps(t_s),
        "sizes": {name: _column(values) for name, values in sorted(recording.sizes.items())},
        "operations": _operations(recording),
        "keys": _keys(recording.further_keys.after(recording.key), recording.key_count),
        "sessions": _sessions(recording),
        "clock": header.clock,
        "resolution_s": resolution_s,
        "sampling": header.sampling,
        "start": header.start,
        "source": header.source,
        "warnings": _warnings(recording, resolution_s, dispersion),
    }
    if prefixes is not None:
        document["prefixes"] = {
            "blocks": prefixes.blocks,
            "distinct": prefixes.distinct,
            "hit_share": prefixes.hit_share,
        }
    return document


def _occupied(places: Floats) -> Ints:
    """How many arrivals each unit that has any holds: a trace may span years."""
    return np.unique(places.astype(np.int64), return_counts=True)[1].astype(np.int64)


def prefix_reuse(rows: Iterable[TraceRow]) -> PrefixReuse:
    """What an unbounded prefix cache would have had: each prompt's blocks up to the first unknown one."""
    seen: set[int | str] = set()
    blocks = hits = 0
    for row in rows:
        blocks += len(row.prefix)
        for block in row.prefix:
            if block not in seen:
                break
            hits += 1
        seen.update(row.prefix)
    return PrefixReuse(blocks, len(seen), hits / blocks if blocks else None)


def _resolution_s(recording: Recording) -> float | None:
    """The clock's step that the header tells, or a longer one that the times show."""
    times_ns = np.round((recording.t_s - recording.t_s[0]) * 1e9).astype(np.int64)
    shown_ns = find_resolution_ns(times_ns, 1)
    told_s = recording.header.resolution_s
    if shown_ns <= 1:
        return told_s
    return max(shown_ns / 1e9, told_s or 0.0)


def _gaps(t_s: Floats) -> dict[str, Json]:
    gaps = np.diff(t_s)
    if not len(gaps):
        return {"mean_s": None, "p50_s": None, "p99_s": None, "max_s": None, "cv": None, "zero_share": None}
    p50_s, p99_s, max_s = (float(value) for value in np.percentile(gaps, [50, 99, 100]))
    mean_s = float(gaps.mean())
    return {
        "mean_s": mean_s,
        "p50_s": p50_s,
        "p99_s": p99_s,
        "max_s": max_s,
        "cv": float(gaps.std() / mean_s) if mean_s > 0 else None,
        "zero_share": float(np.mean(gaps == 0)),
    }


def _column(values: Floats) -> dict[str, Json]:
    known = values[np.isfinite(values)]
    p50, p99, most = (float(value) for value in np.percentile(known, [50, 99, 100]))
    return {"rows": len(known), "mean": float(known.mean()), "p50": p50, "p99": p99, "max": most}


def _operations(recording: Recording) -> dict[str, Json]:
    counts = np.bincount(recording.operation, minlength=len(recording.operations))
    ranked = np.argsort(-counts, kind="stable")
    return {recording.operations[index]: int(counts[index]) for index in ranked}


def _keys(known: Ints, distinct: int) -> dict[str, Json]:
    """The skew of keys, and the share of look-ups that LRU caches of so many entries would answer."""
    if not len(known):
        return {"distinct": 0, "top_share": None, "lru_hit_share": {}}
    counts = np.bincount(known, minlength=distinct)
    capacities = [capacity for capacity in _CACHES if capacity < distinct] + [distinct]
    shares = lru_hit_shares(stack_distances(known), capacities)
    return {
        "distinct": distinct,
        "top_share": float(counts.max() / len(known)),
        "lru_hit_share": {str(capacity): share for capacity, share in zip(capacities, shares, strict=True)},
    }


def _sessions(recording: Recording) -> dict[str, Json]:
    known = recording.session[recording.session >= 0]
    if not len(known):
        return {"distinct": 0, "requests_mean": None, "requests_max": None}
    counts = np.bincount(known, minlength=recording.session_count)
    return {
        "distinct": recording.session_count,
        "requests_mean": float(counts.mean()),
        "requests_max": int(counts.max()),
    }


def _warnings(
    recording: Recording, resolution_s: float | None, dispersion: Mapping[str, float | None]
) -> list[str]:
    """What to know before trusting these figures; what the importer found stands first."""
    header = recording.header
    found = _told(header.extra.get("warnings"))
    if resolution_s is not None and is_quantised(recording.t_s, resolution_s):
        _add(found, f"times are quantised to {resolution_s:g} s: a replay spreads them within the tick")
        windows = [name for name, value in dispersion.items() if value is not None]
        short = [name for name in windows if float(name) < _TICKS * resolution_s]
        if short:
            _add(found, f"dispersion at {', '.join(short)} s is the clock's: below three ticks")
    if header.clock == "completion":
        _add(found, "times are of completion, not of arrival")
    if header.sampling is None:
        _add(found, "a sample of unknown share: burstiness, sessions and cache reuse are thinned away")
    elif header.sampling < 1:
        share = f"{header.sampling * 100:g} %"
        _add(found, f"a sample of {share}: burstiness, sessions and cache reuse are thinned away")
    times_ns = np.round(recording.t_s * 1e9).astype(np.int64)
    for doubt in doubts_on_times(times_ns, np.full(len(times_ns), -1, dtype=np.int64)):
        if not any(one.startswith("arrivals not credible") for one in found):
            _add(found, doubt)
    if len(recording.operations) > _MANY_OPERATIONS:
        _add(found, f"{len(recording.operations):,} operations: --op-col, or paths with ids in them?")
    return found


def _told(warnings: Any) -> list[str]:
    return [one for one in warnings if isinstance(one, str)] if isinstance(warnings, list) else []


def _add(found: list[str], text: str) -> None:
    """Add a warning unless the importer told the same, perhaps with other figures."""
    subject = text.partition(":")[0]
    if not any(one.partition(":")[0] == subject for one in found):
        found.append(text)
