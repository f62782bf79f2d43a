"""What a person reads about one test: the verdict first, the evidence beside it, the remedy when in doubt.

Strings made of records, nothing printed. No line is wider than 100 columns, and the layout is plain ASCII.
"""

from __future__ import annotations

from pytest_capacity.report.table import summary_table
from pytest_capacity.report.words import (
    COLUMNS,
    interval,
    middle_shortened,
    milliseconds,
    one_line,
    per_second,
    percent,
    plain,
    seconds,
    wrapped,
)
from pytest_capacity.results.shapes import BoundRow, DoubtRow, Measurement, Record, Trace
from pytest_capacity.results.summary import deciding, found_text, headline_of

__all__ = [
    "failed_before",
    "failure_text",
    "plan_line",
    "progress_line",
    "summary_table",
    "verdict_in_words",
]

_PROGRESS_COLUMNS = 80
_NOTES_SHOWN = 3
_EXAMPLE_CHARACTERS = 200


def failure_text(record: Record, artifact: str | None = None) -> str:
    """A record's verdict with its evidence, ready to be a failure's message; the first line tells it all.

    ``artifact`` is the path of the stored record. Works for a pass as well, for those who ask to see it.
    """
    measurement = deciding(record)
    shown, _, reason = verdict_in_words(record).partition("  ")
    lines = wrapped(reason, first=f"{shown}  ")
    if record["verdict"] == "INCONCLUSIVE":
        lines += _notes(record, measurement)
        lines += _remedies(record["doubts"])
    if measurement is not None and measurement["state"] != "preflight":
        lines += _bounds(measurement)
        lines += _load(record, measurement)
        lines += _replayed(record["trace"])
        lines += failed_before(record)
        lines += _examples(measurement)
    if record["verdict"] == "FAIL":
        for doubt in record["doubts"]:
            lines += wrapped(f"doubt: {doubt['text']}", first="  ", later="    ") + _remedy(doubt)
    if artifact is not None:
        lines += _artifact(artifact)
    return "\n".join(lines)


def verdict_in_words(record: Record) -> str:
    """The verdict and its reason as one line, however long."""
    verdict = record["verdict"]
    if verdict is None:
        return f"INTERRUPTED  {one_line(headline_of(record)).removeprefix('interrupted ')}"
    return f"{verdict}  {one_line(_why_passed(record) if verdict == 'PASS' else headline_of(record))}"


def failed_before(record: Record) -> list[str]:
    """Lines that name the operations which failed before a load that was sent all the same."""
    measurement = deciding(record)
    failed = [row["text"] for row in measurement["preflight"] if row["text"]] if measurement else []
    lines: list[str] = []
    for text in failed[:_NOTES_SHOWN]:
        lines += wrapped(f"before the load: {text}", first="  ", later="    ")
    if len(failed) > _NOTES_SHOWN:
        lines.append(f"  and so failed {len(failed) - _NOTES_SHOWN} more operations")
    return lines


def progress_line(
    *,
    elapsed_s: float,
    offered_qps: float,
    achieved_qps: float,
    p99_ms: float | None,
    error_rate: float | None,
    left_s: float | None = None,
    phase: str = "",
    standing: str = "",
) -> str:
    """How a running measurement stands, in at most 80 columns.

    ``p99_ms`` and ``error_rate`` are None while nothing was answered, ``left_s`` where the end is not known.
    ``standing`` is what a search knows so far.
    """
    parts = [
        f"{phase or 't'} {seconds(elapsed_s)} s",
        f"offered {per_second(offered_qps)}",
        f"achieved {per_second(achieved_qps)}",
        f"p99 {milliseconds(p99_ms)}",
        f"errors {percent(error_rate)}",
    ]
    if left_s is not None:
        parts.append(f"{max(0.0, left_s):.0f} s left")
    if standing:
        # Where a search stands says more than how well its present probe is answered.
        parts[2] = standing
    if len("  ".join(parts)) > _PROGRESS_COLUMNS:
        # The rate offered is the one that was asked for, which the reader knows.
        del parts[1]
    return "  ".join(parts)[:_PROGRESS_COLUMNS]


def plan_line(min_s: float, max_s: float, min_requests: int, max_requests: int, qps: float) -> str:
    """What a measurement may cost: ``10-60 s, 2,000-12,000 requests, at most 200/s``."""
    duration = _range(seconds(min_s), seconds(max_s))
    requests = _range(f"{min_requests:,}", f"{max_requests:,}")
    return f"{duration} s, {requests} requests, at most {per_second(qps)}"


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def _why_passed(record: Record) -> str:
    measurement = deciding(record)
    if measurement is None or not measurement["bounds"]:
        return found_text(record)
    held = [f"{bound['label']} {_measured(bound)} <= {_limit(bound)}" for bound in measurement["bounds"]]
    rate = "" if measurement["qps"] is None else f"{per_second(measurement['qps'])} held: "
    cost = f"{measurement['requests']:,} requests in {seconds(measurement['load_s'])} s"
    return f"{rate}{', '.join(held)}; {cost}"


def _bounds(measurement: Measurement) -> list[str]:
    """The table of bounds; empty where none was judged."""
    rows = [(b["label"], _limit(b), _measured(b), _use(b)) for b in measurement["bounds"]]
    if not rows:
        return []
    rows.insert(0, ("bound", "limit", "measured", "allowed share"))
    widths = [max(least, *(len(row[i]) for row in rows)) for i, least in enumerate((10, 8, 18))]
    lines = []
    for label, limit, measured, use in rows:
        line = f"  {label:<{widths[0]}}   {limit:<{widths[1]}}   {measured:<{widths[2]}}  {use}"
        lines.append(middle_shortened(line.rstrip(), COLUMNS))
    return lines


def _limit(bound: BoundRow) -> str:
    return percent(bound["allowed_share"], 2) if bound["limit_ms"] is None else f"{bound['limit_ms']:g} ms"


def _measured(bound: BoundRow) -> str:
    """The bounded figure with its interval: a latency quantile, or the share of failed requests."""
    if bound["bad_share"] is None:
        return "no evidence"
    if bound["limit_ms"] is None:
        low, high = bound["share_low"], bound["share_high"]
        limits = "" if low is None or high is None else f" ({_percents(low, high)})"
        return percent(bound["bad_share"], 2) + limits
    if bound["measured_ms"] is None:
        return f"no answer {interval(bound['low_ms'], None)}".strip()
    return f"{milliseconds(bound['measured_ms'])} {interval(bound['low_ms'], bound['high_ms'])}".strip()


def _percents(low: float, high: float) -> str:
    """Two shares in percent, two digits each: ``0-0.2``, ``2.4-3.9``."""
    return f"{plain(low * 100)}-{plain(high * 100)}"


def _use(bound: BoundRow) -> str:
    """How the allowed share was used: ``ok``, ``late 3.1 % > 1 %``, or what is not decided."""
    what = "failed" if bound["limit_ms"] is None else "late"
    allowed = f"{bound['allowed_share'] * 100:.4g} %"
    share, low, high = bound["bad_share"], bound["share_low"], bound["share_high"]
    if share is None:
        return "not judged"
    if bound["verdict"] == "PASS":
        return "ok"
    if bound["verdict"] == "FAIL":
        return f"{what} {plain(share * 100)} % > {allowed}"
    limits = "" if low is None or high is None else f" ({_percents(low, high)})"
    return f"undecided: {what} {plain(share * 100)} %{limits}, {allowed} allowed"


def _load(record: Record, measurement: Measurement) -> list[str]:
    """What load there was and how punctually it left."""
    lines = []
    if record["capacity"] is not None and record["verdict"] in ("PASS", "INCONCLUSIVE"):
        lines += wrapped(found_text(record), first="  ", later="    ")
    offered, achieved = measurement["offered_qps"], measurement["achieved_qps"]
    if offered is not None and achieved is not None:
        late = record["generator"]["late_p99_ms"]
        punctual = "" if late is None else f"; sent within {_lateness(late)} ms of schedule (p99)"
        text = (
            f"offered {offered:,.1f}/s, achieved {achieved:,.1f}/s for {seconds(measurement['load_s'])} s, "
            f"{measurement['requests']:,} requests{punctual}"
        )
        lines += wrapped(text, first="  ", later="    ")
    ended, reason = measurement["state"], measurement["stop_reason"]
    if ended in ("stopped", "interrupted") and reason and reason not in headline_of(record):
        lines += wrapped(f"{ended}: {reason}", first="  ", later="    ")
    return lines


def _replayed(trace: Trace | None) -> list[str]:
    """What recorded traffic was sent, how it was scaled, and what of it had been sent before."""
    if trace is None:
        return []
    parts = [f"replayed {trace['file']}"]
    if trace["scalings"]:
        parts.append(trace["scalings"][-1]["text"])
    parts += _arrivals_known(trace)
    if trace["loops"]:
        parts.append(f"began anew {trace['loops']} times" if trace["loops"] > 1 else "began anew once")
    if trace["sessions"] == "causal":
        parts.append("turns after replies")
    if trace["turns_after_failure"]:
        parts.append(f"{trace['turns_after_failure']:,} turns not sent after a bad reply")
    for what in ("rows", "keys"):
        share = trace["rows_seen_share"] if what == "rows" else trace["keys_seen_share"]
        if share:
            parts.append(f"{percent(share, 0)} of its {what} were sent before")
    return wrapped("; ".join(parts), first="  ", later="    ")


def _arrivals_known(trace: Trace) -> list[str]:
    """Why requests may not arrive as they did."""
    parts = []
    if trace["spread_within_s"] and trace["kind"] == "recording":
        parts.append(f"arrivals spread within the clock's tick of {trace['spread_within_s']:g} s")
    if trace["clock"] not in (None, "arrival"):
        parts.append(f"by times of {trace['clock']}")
    if trace["composed"]:
        parts.append("composed of one file's arrivals and another's requests")
    return parts


def _lateness(late_ms: float) -> str:
    """Lateness to a tenth of a millisecond, rounded up in favour of the doubt."""
    return f"{max(0.1, late_ms):.1f}" if late_ms < 10 else plain(late_ms)


def _examples(measurement: Measurement) -> list[str]:
    """One line for each kind of bad outcome: how many, and one of them in words."""
    lines: list[str] = []
    for outcome, said in measurement["examples"].items():
        count = measurement["outcomes"].get(outcome)
        number = "" if count is None else f"{count:,} x "
        example = one_line(said)[:_EXAMPLE_CHARACTERS]
        lines += wrapped(f"{outcome}: {number}{example}", first="  ", later="    ")
    return lines


def _notes(record: Record, measurement: Measurement | None) -> list[str]:
    """Remarks that may explain a doubt; the generator's may stand in the measurement as well."""
    notes = dict.fromkeys([*(measurement["notes"] if measurement else []), *record["generator"]["notes"]])
    lines: list[str] = []
    for note in list(notes)[:_NOTES_SHOWN]:
        lines += wrapped(note, first="  ", later="    ")
    return lines


def _remedies(doubts: list[DoubtRow]) -> list[str]:
    """The first doubt is in the first line already; every other with its remedy."""
    lines = _remedy(doubts[0]) if doubts else []
    for doubt in doubts[1:]:
        lines += wrapped(f"also: {doubt['text']}", first="  ", later="    ") + _remedy(doubt)
    return lines


def _remedy(doubt: DoubtRow) -> list[str]:
    return wrapped(f"try: {doubt['remedy']}", first="  ", later="    ") if doubt["remedy"] else []


def _artifact(path: str) -> list[str]:
    """The path in one piece where any line can hold it, so that it can be copied."""
    line = f"  artifact {path}"
    if len(line) <= COLUMNS:
        return [line]
    return ["  artifact", *(path[i : i + COLUMNS] for i in range(0, len(path), COLUMNS))]
