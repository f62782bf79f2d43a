"""A record in one row, and its verdict's reason in one line."""

from __future__ import annotations

from pytest_capacity.results.shapes import Measurement, Record, SummaryRow

_FAILED = ("bad_status", "bad_reply", "timeout", "connect", "disconnected")
_EVIDENCE = ("good", "late_unanswered", *_FAILED)


def summary_of(record: Record, artifact: str | None = None) -> SummaryRow:
    """The record as a row of plain JSON for the terminal and for reports of pytest-xdist.

    ``artifact`` is the stored file's path. Figures are those of the measurement that decided the verdict,
    ``seconds`` is the load of all.
    """
    measurement = deciding(record)
    capacity = record["capacity"]
    latency = measurement["latency_ms"] if measurement else None
    return {
        "nodeid": record["nodeid"],
        "test": name_of_test(record["nodeid"]),
        "verdict": record["verdict"],
        "asked_qps": record["requirement"]["qps"],
        "found_qps": capacity["capacity_qps"] if capacity else None,
        "found_low_qps": capacity["ci_low_qps"] if capacity else None,
        "found_high_qps": capacity["ci_high_qps"] if capacity else None,
        "p50_ms": latency["p50"] if latency else None,
        "p99_ms": latency["p99"] if latency else None,
        "error_rate": _error_rate(measurement) if measurement else None,
        "seconds": _seconds(record),
        "artifact": artifact,
        "attempt": record["attempt"],
        "headline": headline_of(record),
        "remedy": record["doubts"][0]["remedy"] if record["doubts"] and _undecided(record) else "",
    }


def headline_of(record: Record) -> str:
    """Why the verdict is what it is, without the verdict; empty on a pass."""
    verdict = record["verdict"]
    if verdict is None:
        return f"interrupted after {_seconds(record):.0f} s of load; no verdict"
    if verdict == "FAIL":
        return _why_failed(record)
    if verdict == "INCONCLUSIVE":
        measurement = deciding(record)
        reason = measurement["stop_reason"] if measurement else ""
        return record["doubts"][0]["text"] if record["doubts"] else reason or "no reason was recorded"
    return found_text(record) if verdict == "MEASURED" else ""


def deciding(record: Record) -> Measurement | None:
    """The measurement that made the verdict: the first with that verdict, else the last one."""
    same = [m for m in record["measurements"] if m["verdict"] == record["verdict"]]
    return next(iter(same), record["measurements"][-1] if record["measurements"] else None)


def preflight_text(measurement: Measurement) -> str:
    """What went wrong before any load, with the assurance that none was sent."""
    bad = [row["text"] for row in measurement["preflight"] if row["text"]] or [measurement["stop_reason"]]
    more = f" (and {len(bad) - 1} more operations)" if len(bad) > 1 else ""
    said = bad[0].rstrip(". ") or "the preflight failed"
    return said + more + ("" if said.endswith("No load was sent") else ". No load was sent") + "."


def found_text(record: Record) -> str:
    """The capacity found with its interval, empty where none was."""
    capacity = record["capacity"]
    if capacity is None:
        return ""
    if capacity["capacity_qps"] is None:
        return f"no capacity found ({capacity['status']})"
    low, high = capacity["ci_low_qps"], capacity["ci_high_qps"]
    limits = "" if low is None or high is None else f" (90 % interval {low:,.4g}-{high:,.4g})"
    return f"capacity {capacity['capacity_qps']:,.4g}/s{limits}, {capacity['status']}"


def name_of_test(nodeid: str) -> str:
    """The test's own name with its parameters: ``test_rank[large]``."""
    plain, bracket, parameters = nodeid.partition("[")
    return plain.rpartition("::")[2] + bracket + parameters


def _undecided(record: Record) -> bool:
    return record["verdict"] in ("INCONCLUSIVE", None)


def _why_failed(record: Record) -> str:
    measurement = deciding(record)
    if measurement and measurement["state"] == "preflight":
        return preflight_text(measurement)
    if record["breaches"]:
        text = record["breaches"][0]["text"]
        qps = measurement["qps"] if measurement else record["requirement"]["qps"]
        return text if qps is None else text.replace(": ", f" at {qps:g}/s: ", 1)
    asked = record["requirement"]["qps"]
    if record["capacity"] and asked is not None:
        return f"{found_text(record)}; {asked:g}/s required"
    return (measurement["stop_reason"] if measurement else "") or "no reason was recorded"


def _error_rate(measurement: Measurement) -> float | None:
    """The share of failed requests: of the evidence where a bound judged it, else of all that came back."""
    for bound in measurement["bounds"]:
        if bound["limit_ms"] is None and bound["bad_share"] is not None:
            return bound["bad_share"]
    outcomes = measurement["outcomes"]
    total = sum(outcomes.get(name, 0) for name in _EVIDENCE)
    return sum(outcomes.get(name, 0) for name in _FAILED) / total if total else None


def _seconds(record: Record) -> float:
    if record["measurements"]:
        return round(sum(measurement["load_s"] for measurement in record["measurements"]), 3)
    return record["capacity"]["load_s"] if record["capacity"] else 0.0
