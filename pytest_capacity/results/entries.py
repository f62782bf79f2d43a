"""From measurements to the record of a test, kept on disk anew after each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

import numpy as np

from pytest_capacity.protocols import Json, Outcome, Samples, join_samples
from pytest_capacity.results.environment import commit, environment, versions
from pytest_capacity.results.measured import BoundReport, Measured, PlayedProbe
from pytest_capacity.results.record import breach_row, generator_row, make_record
from pytest_capacity.results.shapes import (
    BoundRow,
    Capacity,
    DoubtRow,
    Latency,
    Measurement,
    Model,
    ProbeRow,
    Record,
    Requirement,
    Source,
    Trace,
    VerdictName,
)
from pytest_capacity.results.store import make_artifact_directory, store_record, write_json_atomically
from pytest_capacity.slo import Verdict
from pytest_capacity.stats.digest import digest_of
from pytest_capacity.stats.series import series_of
from pytest_capacity.stats.summary import count_outcomes, count_statuses, requests_sent

_WORST_FIRST = (Verdict.FAIL, Verdict.INCONCLUSIVE, None, Verdict.PASS, Verdict.MEASURED)


class TestRecord:
    """The growing record of one test: every measurement so far, the file always complete."""

    __test__ = False  # pytest would take a class of this name in a test module for a test

    def __init__(self, nodeid: str, attempt: int, mode: str, overrides: Mapping[str, str]) -> None:
        self._nodeid, self._attempt, self._mode = nodeid, attempt, mode
        self._overrides: dict[str, Json] = dict(overrides)
        self._all: list[Measured] = []

    @property
    def attempt(self) -> int:
        """Which execution of the test it records, from 1."""
        return self._attempt

    @property
    def count(self) -> int:
        """How many measurements it holds."""
        return len(self._all)

    def add(
        self,
        measured: Measured,
        source: str,
        model: Mapping[str, object] | None,
        directory: Path,
        *,
        name: str | None = None,
    ) -> tuple[Record, Path]:
        """Join a measurement and write the file; returns the record as stored and its path.

        ``name`` is the file's name in ``directory``, by default made of the node id. Raises OSError where it
        cannot be written.
        """
        self._all.append(measured)
        record = self._make(cast("Source", source), model)
        if name is None:
            return record, store_record(directory, record)
        make_artifact_directory(directory)
        write_json_atomically(directory / name, record)
        return record, directory / name

    def _make(self, source: Source, model: Mapping[str, object] | None) -> Record:
        deciding = min(self._all, key=lambda measured: _WORST_FIRST.index(measured.verdict))
        started_at = datetime.fromisoformat(self._all[0].started_at)
        return make_record(
            nodeid=self._nodeid,
            attempt=self._attempt,
            verdict=verdict_name(deciding.verdict),
            breaches=[breach_row(breach) for breach in deciding.breaches],
            doubts=_doubt_rows(deciding),
            requirement=_requirement(deciding, source),
            capacity=_capacity(self._all),
            measurements=[measurement_row(measured) for measured in self._all],
            probes=[row for i, measured in enumerate(self._all) for row in _probe_rows(i, measured.probes)],
            generator=generator_row(
                deciding.health,
                engine=deciding.engine,
                arrivals=deciding.arrivals,
                seed=deciding.seed,
                offered_qps=deciding.offered_qps,
                achieved_qps=deciding.achieved_qps,
            ),
            environment=environment(mode=self._mode, overrides=self._overrides, started_at=started_at),
            commit=commit(Path.cwd()),
            versions=versions(),
            trace=_trace(self._all, deciding),
            model=_model(model),
            secrets={secret for measured in self._all for secret in measured.secrets},
        )


def verdict_name(verdict: Verdict | None) -> VerdictName | None:
    """The verdict as the record names it."""
    return verdict.value if verdict else None


def measurement_row(measured: Measured) -> Measurement:
    """One measurement as the record holds it; infinite and unknown figures become None later."""
    result = measured.result
    latencies = measured.latencies_ms[np.isfinite(measured.latencies_ms)]
    return {
        "kind": measured.kind,
        "state": measured.state,
        "target": measured.target,
        "qps": measured.qps,
        "slo": measured.slo.to_dict(),
        "verdict": verdict_name(measured.verdict),
        "stop_reason": measured.message or measured.stop_reason,
        "load_s": measured.load_s,
        "warmup_s": _warmup_s(measured),
        "evidence_s": measured.evidence_s,
        "requests": measured.requests,
        "evidence_requests": result.evidence_requests if result else len(measured.latencies_ms),
        "offered_qps": measured.offered_qps,
        "achieved_qps": measured.achieved_qps,
        "bad_share": result.bad_share if result else None,
        "bad_share_low": result.bad_share_low if result else None,
        "bad_share_high": result.bad_share_high if result else None,
        "bounds": [_bound_row(report) for report in measured.bounds],
        "outcomes": count_outcomes(_counted(measured)),
        "status_counts": count_statuses(_counted(measured)),
        "examples": measured.examples,
        "latency_ms": _latency(measured),
        "digest": {"unit": "ms", "count": len(latencies), "centroids": digest_of(latencies)}
        if len(latencies)
        else None,
        "series": series_of(joined(measured.probes), late_after_ms=measured.slo.largest_limit_ms)
        if measured.probes
        else None,
        "preflight": [
            {
                "operation": reply.operation,
                "status": reply.status,
                "latency_ms": reply.latency_ms,
                "text": reply.text,
            }
            for reply in measured.preflight
        ],
        "notes": [*measured.health.notes, *(result.remarks if result else ())],
    }


def _warmup_s(measured: Measured) -> float:
    if measured.capacity:
        return measured.capacity.warmup_s
    return measured.result.warmup_s if measured.result else 0.0


def _counted(measured: Measured) -> Samples:
    """The requests whose fates are counted: of a search all, whatever the rate."""
    return joined(measured.probes) if measured.kind == "search" and measured.probes else measured.samples


def joined(probes: Iterable[PlayedProbe]) -> Samples:
    """The samples of all probes in one table."""
    return join_samples([played.samples for played in probes])


def _capacity(all_measured: Sequence[Measured]) -> Capacity | None:
    """The last search's result; a test without one has none."""
    found = next((measured.capacity for measured in reversed(all_measured) if measured.capacity), None)
    if found is None:
        return None
    return {
        "capacity_qps": found.capacity_qps,
        "ci_low_qps": found.ci_low_qps,
        "ci_high_qps": found.ci_high_qps,
        "condition_number": found.condition_number,
        "calm_qps": found.calm_qps,
        "saturation_qps": found.saturation_qps,
        "cold_factor": found.cold_factor,
        "overloaded_qps": found.overloaded_qps,
        "status": found.status,
        "load_s": found.load_s,
        "requests": found.requests,
    }


def _trace(all_measured: Sequence[Measured], deciding: Measured) -> Trace | None:
    """What the deciding measurement replayed; where it did not, what the last one did that replayed."""
    traces = [measured.trace for measured in (deciding, *reversed(all_measured)) if measured.trace]
    return cast("Trace", dict(traces[0])) if traces else None


def _requirement(measured: Measured, source: Source) -> Requirement:
    return {
        "qps": measured.qps,
        "slo": measured.slo.to_dict(),
        "error_rate_is_default": measured.slo.error_rate_is_default,
        "arrivals": measured.arrivals,
        "budget_s": measured.budget_s,
        "min_s": measured.min_s,
        "source": source,
    }


def _doubt_rows(measured: Measured) -> list[DoubtRow]:
    return [{"kind": doubt.kind, "text": doubt.text, "remedy": doubt.remedy} for doubt in measured.doubts]


def _bound_row(report: BoundReport) -> BoundRow:
    breach = report.breach
    return {
        "name": breach.bound.name,
        "label": breach.bound.label,
        "operation": breach.bound.operation or None,
        "limit_ms": breach.bound.limit_ms,
        "allowed_share": breach.bound.allowed_share,
        "bad_share": breach.bad_share,
        "share_low": breach.share_low,
        "share_high": breach.share_high,
        "measured_ms": breach.measured_ms,
        "low_ms": breach.low_ms,
        "high_ms": breach.high_ms,
        "verdict": report.verdict.value,
    }


def _latency(measured: Measured) -> Latency:
    answered = measured.latencies_ms[np.isfinite(measured.latencies_ms)]
    return {
        "mean": float(answered.mean()) if len(answered) else None,
        "p50": measured.p50_ms,
        "p90": measured.p90_ms,
        "p95": measured.p95_ms,
        "p99": measured.p99_ms,
        "p99_9": measured.p99_9_ms,
        "max": float(answered[-1]) if len(answered) else None,
    }


def _probe_rows(measurement: int, probes: Iterable[PlayedProbe]) -> Iterable[ProbeRow]:
    for played in probes:
        samples, probe = played.samples, played.probe
        failed = np.isin(samples.outcome, [outcome for outcome in Outcome if outcome.failed])
        late = samples.outcome == Outcome.LATE_UNANSWERED
        yield {
            "measurement": measurement,
            "id": probe.id,
            "kind": probe.kind,
            "role": played.role,
            "rate_qps": probe.rate_qps,
            "concurrency": probe.concurrency,
            "start_s": played.start_s,
            "end_s": played.end_s,
            "settle_s": min(probe.settle_s, played.end_s - played.start_s),
            "planned": len(samples),
            "sent": requests_sent(samples),
            "bad": int((failed | late | (samples.done_s - samples.intended_s > played.late_after_s)).sum()),
            "failed": int(failed.sum()),
        }


def _model(model: Mapping[str, object] | None) -> Model | None:
    if model is None:
        return None
    return cast("Model", {key: model.get(key) for key in ("name", "class", "size")})
