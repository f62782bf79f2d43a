"""The recorder's benchmark: what it compares, and that it sees a server through record and replay."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recorder
from benchmarks.recorder import Seen, added_ms
from benchmarks.replayed import Replayed, compared, paired, replay
from pytest_capacity.measurement.recorded import load_recorded
from pytest_capacity.measurement.replaying import Played
from pytest_capacity.measurement.run import rows_of
from pytest_capacity.protocols import Outcome, Probe, Samples
from pytest_capacity.slo import Verdict
from pytest_capacity.traffic.scaling import draw, start
from tests import servers
from tests.replays import made_rows, write_trace

LIMIT_S = 0.05


def replayed(tmp_path: Path, late_s: float = 0.0, latency_s: float = 0.01) -> Replayed:
    """A whole recording of 60 s, each request sent so much too late at random and answered so soon."""
    recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl", made_rows(60.0)), seed=0)
    traffic = recorded.traffic
    stretch = draw(traffic, start(traffic), traffic.rate_qps, traffic.cycle_s)
    count = len(stretch.schedule.request_index)
    played = Played(
        probe=Probe(0, "open", traffic.rate_qps),
        scaling=stretch.scaling,
        begin_s=0.0,
        offsets_s=stretch.schedule.offsets_s,
        rows=stretch.schedule.request_index,
        requests=count,
        loops=0,
        rows_seen=0.0,
        keyed=0,
        keys_seen=0.0,
        scheduled=count,
        over=0,
    )
    intended_s = 3.0 + stretch.schedule.offsets_s
    sent_s = intended_s + late_s * np.random.default_rng(0).random(count)
    zero = np.zeros(count, dtype=np.int64)
    samples = Samples(
        row=np.arange(count),
        intended_s=intended_s,
        sent_s=sent_s,
        first_byte_s=sent_s,
        done_s=intended_s + latency_s,
        outcome=zero.astype(np.uint8),
        status=zero.astype(np.uint16),
        operation=zero.astype(np.uint16),
        bytes_received=zero,
    )
    return Replayed(traffic, played, samples, LIMIT_S, Verdict.PASS)


def test_what_leaves_on_time_is_the_recording(tmp_path: Path) -> None:
    vector = compared(replayed(tmp_path))

    assert [one.name for one in vector if one.ok is False] == []
    assert vector[-1].name.startswith("sender")
    assert vector[-1].ok


def test_what_leaves_late_is_seen_in_the_gaps_and_the_sender(tmp_path: Path) -> None:
    vector = {one.name: one for one in compared(replayed(tmp_path, late_s=0.1))}

    assert vector["sender: p99 lateness over the SLO's bound"].ok is False
    assert vector["sender: p99 lateness over the SLO's bound"].measure == pytest.approx(
        0.099 / 0.05, rel=0.01
    )
    assert vector["gaps between arrivals: KS distance"].measure
    assert vector["operations: total variation of the mix"].measure == 0


def test_replies_count_as_in_time_from_when_they_were_due(tmp_path: Path) -> None:
    quick, slow = replayed(tmp_path), replayed(tmp_path, latency_s=0.06)

    assert (quick.in_time, slow.in_time) == (1.0, 0.0)
    quick.samples.outcome[:240] = Outcome.TIMEOUT
    assert quick.in_time == pytest.approx(1 - 240 / 2400)
    assert quick.unanswered == 240


def test_a_request_that_is_known_on_one_side_only_is_left_out_at_the_end_and_refused_elsewhere(
    tmp_path: Path,
) -> None:
    whole = replayed(tmp_path)
    count = len(whole.samples)

    for known in (np.arange(count) < count - 1, np.ones(count, dtype=np.bool_)):
        played, samples = paired(
            replace(whole.played, rows=whole.played.rows[:-2], offsets_s=whole.played.offsets_s[:-2]),
            rows_of(whole.samples, known),
        )
        assert len(played.rows) == len(played.offsets_s) == len(samples) == count - 2
    with pytest.raises(SystemExit, match="others were sent"):
        paired(whole.played, rows_of(whole.samples, np.arange(count) != 7))


def test_lost_requests_are_counted_and_the_rest_makes_the_figures() -> None:
    seen = Seen()

    seen.add([3.0, None, 1.0, 2.0])
    seen.count([None, 5.0])

    assert (seen.sent, seen.lost, seen.medians_ms) == (6, 2, [2.0])


def test_what_is_added_is_the_median_request_by_request() -> None:
    assert added_ms([10.0, 1.0, None, 5.0, 7.0], [10.5, 1.4, 3.0, None, 9.0]) == pytest.approx(0.5)


@pytest.mark.slow
def test_a_replay_sends_the_whole_recording(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "a.trace.jsonl", made_rows(8.0, rate_qps=60.0))
    with servers.healthy() as server:
        sent = replay(path, server.url, limit_ms=5_000.0, seed=0)

    rows = sent.played.rows.tolist()
    assert len(sent.samples) == len(rows) == len(set(rows))
    assert 470 <= len(rows) <= 480
    assert sent.in_time == 1.0
    assert {one.name for one in compared(sent) if one.ok is False} <= {"gaps between arrivals: KS distance"}


@pytest.mark.slow
def test_the_benchmark_records_compares_and_replays(capsys: pytest.CaptureFixture[str]) -> None:
    # Whether the machine is quick enough for the bounds is not the matter here.
    recorder.main(["--rounds", "1", "--seconds", "1", "--rate", "80", "--replay", "--replay-s", "6"])

    out = capsys.readouterr().out
    assert re.search(r"^direct +median +[\d.]+ ms +p99 +[\d.]+ ms +lost 0 of \d+$", out, re.MULTILINE)
    assert re.search(r"^recorded +median .* lost 0 of \d+$", out, re.MULTILINE)
    assert re.search(r"^recorded +\d+ rows, 0 missing", out, re.MULTILINE)
    assert re.search(r"^recorded +(\d+) of \1 awkward requests in 6 s, 0 lost$", out, re.MULTILINE)
    assert re.search(r"^replayed +\d+ requests, [\d.]+% answered in time", out, re.MULTILINE)
    assert re.search(r"^(ok|OUT|\?) +sender: p99 lateness over the SLO.s bound", out, re.MULTILINE)
