"""What a measurement with recorded traffic tells of it: how it was played, and what to doubt. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from pytest_capacity.measurement.replaying import Played, Replay
from pytest_capacity.measurement.sources import Source
from pytest_capacity.protocols import Floats, Json
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.slo import Bound, Verdict
from pytest_capacity.traffic.fidelity import LEAST_ROWS, MEAN_TOLERANCE, fidelity
from pytest_capacity.traffic.pattern import Traffic, plain_traffic

CHEAP_ROWS = 50_000
"""Comparing more takes seconds, which nobody wants to wait for after a measurement."""

MOST_SCALINGS, MOST_OUTSIDE = 8, 10
HELD_BACK_SHARE = 0.05
"""A capacity's own interval is about as wide."""
WHOLE = 0.9
"""So much of a recording counts as all of it."""
AT_ANY_RATE = ("size ", "operations")
"""How the statistics begin that mean the same at any rate."""


def trace_facts(
    source: Source, warnings: Sequence[str] = (), sent: int | None = None
) -> dict[str, Json] | None:
    """What the record's ``trace`` holds, with these warnings first; None where nothing recorded was sent.

    ``sent`` requests left. Where that is not known they are those that were to leave until the load loop
    looked whether their probe had ended: some more leave while it ends, and a few may be kept back.
    """
    if not isinstance(source, Replay):
        return None
    evidence = [played for played in source.played if _is_evidence(played)]
    rows = [played.rows for played in source.played]
    facts = source.recorded.facts
    return {
        **facts,
        "warnings": [*warnings, *cast("list[Json]", facts["warnings"])],
        "mode": source.mode,
        "scalings": _scalings(evidence),
        **_sessions(source),
        "requests": sum(played.requests for played in source.played) if sent is None else sent,
        "distinct_rows": len(np.unique(np.concatenate(rows))) if rows else 0,
        "loops": sum(played.loops for played in source.played),
        "rows_seen_share": _mean_share((played.rows_seen, len(played.rows)) for played in evidence),
        "keys_seen_share": _mean_share((played.keys_seen, played.keyed) for played in evidence),
        "fidelity": _fidelity(source, evidence),
    }


def _sessions(source: Replay) -> dict[str, Json]:
    """How sessions were replayed, and which of their turns were not sent for that."""
    if not source.causal:
        timed = "as timed" if source.recorded.traffic.session_count else None
        return {"sessions": timed, "turns_after_failure": None, "turns_held_back": None}
    opened = [played for played in source.played if played.probe.kind == "open"]
    held_back = (played.scheduled - len(played.rows) - played.over for played in opened)
    return {
        "sessions": "causal",
        "turns_after_failure": sum(played.over for played in opened),
        "turns_held_back": sum(max(0, count) for count in held_back),
    }


def _is_evidence(played: Played) -> bool:
    probe = played.probe
    return probe.kind == "open" and probe.settle_s < probe.max_s and len(played.rows) > 0


def _scalings(evidence: Sequence[Played]) -> list[Json]:
    """The last few ways in which the recording was scaled, each once."""
    found: dict[str, Json] = {}
    for played in evidence:
        scaling = played.scaling
        text = scaling.describe()
        found.pop(text, None)
        found[text] = {
            "kind": scaling.kind,
            "factor": scaling.factor,
            "copies": scaling.copies,
            "last_share": scaling.last_share,
            "text": text,
        }
    return list(found.values())[-MOST_SCALINGS:]


def _mean_share(shares: Iterable[tuple[float, int]]) -> float | None:
    pairs = list(shares)
    total = sum(count for _, count in pairs)
    return sum(share * count for share, count in pairs) / total if total else None


def _fidelity(source: Replay, evidence: Sequence[Played]) -> dict[str, Json] | None:
    """How many statistics of what was sent could be compared with the whole recording, and which are apart.

    Of a part of it, or at another rate, only those that mean the same for any. None where that is dear, or
    says nothing.
    """
    traffic = source.recorded.traffic
    played = evidence[-1] if evidence else None
    if played is None or source.recorded.is_model or max(len(traffic), len(played.rows)) > CHEAP_ROWS:
        return None
    is_whole = len(played.rows) >= WHOLE * len(traffic) and abs(played.scaling.factor - 1) <= MEAN_TOLERANCE
    if len(played.rows) < LEAST_ROWS:
        return None
    sent = sent_traffic(traffic, played, played.offsets_s, is_whole=is_whole)
    if sent is None:
        return None
    vector = fidelity(traffic, sent)
    if not is_whole:
        vector = tuple(one for one in vector if one.name.startswith(AT_ANY_RATE))
    judged = [one for one in vector if one.ok is not None]
    outside: list[Any] = [
        f"{one.name}: {'none' if one.measure is None else f'{one.measure:.3g}'}, tolerance {one.tolerance:g}"
        for one in judged
        if not one.ok
    ]
    return {"judged": len(judged), "outside": len(outside), "outside_names": outside[:MOST_OUTSIDE]}


def sent_traffic(traffic: Traffic, played: Played, offsets_s: Floats, *, is_whole: bool) -> Traffic | None:
    """What was sent of a recording, each of its rows so many seconds after the stretch began.

    Of the whole recording it is told in the recording's own time. None where all was sent at one moment.
    """
    # A replay may begin anywhere in the recording, and go on over its end.
    t_s = (played.begin_s + offsets_s) % traffic.cycle_s if is_whole else offsets_s
    order = np.argsort(t_s, kind="stable")
    t_s, rows = t_s[order], played.rows[order]
    if not len(rows) or not t_s[-1] > t_s[0]:
        return None
    return plain_traffic(
        t_s,
        operation=traffic.operation[rows],
        operations=traffic.operations,
        key=traffic.key[rows],
        session=traffic.session[rows],
        sizes={name: column[rows] for name, column in traffic.sizes.items()},
    )


def trace_doubts(source: Source, trouble: str | None, most_qps: float = float("inf")) -> tuple[Doubt, ...]:
    """Reasons not to trust what recorded traffic showed, the load's own trouble with it first.

    What is claimed is claimed of rates up to ``most_qps``.
    """
    if not isinstance(source, Replay):
        return ()
    doubts = (*_held_back(source, most_qps), *source.recorded.doubts)
    if trouble is None:
        return doubts
    return (Doubt("trace_not_sendable", f"the load ended early: {trouble}", "what the message says"), *doubts)


def _held_back(source: Replay, most_qps: float) -> list[Doubt]:
    """The doubt that sessions waited for the server so long that the rate was not what is claimed."""
    evidence = [
        played
        for played in source.played
        if _is_evidence(played) and (played.probe.rate_qps or 0.0) <= most_qps * (1 + HELD_BACK_SHARE)
    ]
    scheduled, came = (
        sum(played.scheduled for played in evidence),
        sum(len(played.rows) for played in evidence),
    )
    if not source.causal or came >= (1 - HELD_BACK_SHARE) * scheduled:
        return []
    return [
        Doubt(
            "sessions_held_back",
            f"{came:,} of {scheduled:,} recorded requests came due in their time: sessions waited for "
            "replies, or ended with a bad one",
            "a longer run, a lower rate, or sessions='timed'",
        )
    ]


def verdict_with(
    verdict: Verdict | None, doubts: Sequence[Doubt], breached: Iterable[Bound]
) -> Verdict | None:
    """The verdict once these doubts are heard: they outrank a pass, and a breach that one can explain."""
    if verdict in (Verdict.PASS, Verdict.MEASURED):
        return Verdict.INCONCLUSIVE if doubts else verdict
    if verdict is Verdict.FAIL and any("latency" in doubt.explains for doubt in doubts):
        # Errors are no matter of when requests come.
        errors = any(bound.limit_ms is None for bound in breached)
        return verdict if errors else Verdict.INCONCLUSIVE
    return verdict
