"""Recorded sessions replayed causally: through pytest, from the shell, with two probes, and wrongly."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_capacity.cli import main
from pytest_capacity.load.engines import engine_named
from pytest_capacity.measurement import Conditions
from pytest_capacity.measurement.loop import LoadRun
from pytest_capacity.measurement.recorded import load_recorded
from pytest_capacity.measurement.replaying import Replay
from pytest_capacity.measurement.sources import Came
from pytest_capacity.measurement.traced import trace_doubts, trace_facts
from pytest_capacity.protocols import Observation, Outcome, Probe
from pytest_capacity.search.replaying import warmup_s
from pytest_capacity.targets.http import HttpTarget
from pytest_capacity.traffic.scaling import Sessions
from tests.conftest import Project
from tests.replays import RATE_QPS, made_rows, write_trace
from tests.servers import Connection, Received, Server
from tests.test_replay import valid_record
from tests.test_replay_cli import LENIENT

MARKED = "\n@pytest.mark.capacity({})\ndef test_rate(): pass\n"


class Conversations:
    """A server that answers after a while, and knows when each row came and when its reply left."""

    def __init__(self, delay_s: float, fails: Callable[[int], bool] = lambda _number: False) -> None:
        self._delay_s, self._fails = delay_s, fails
        self.turns: dict[int, list[tuple[float, float, int]]] = defaultdict(list)
        """By session: when a request came, when its reply left, and the row's number."""

    def server(self) -> Server:
        return Server(self._behave)

    async def _behave(self, _: Server, connection: Connection, received: Received) -> bool:
        came_s, number = time.monotonic(), json.loads(received.body)["number"]
        await asyncio.sleep(self._delay_s)
        if received.number > 2:
            # The first two are the preflight's.
            self.turns[number // 4].append((came_s, time.monotonic(), number))
        await connection.reply(500 if received.number > 2 and self._fails(number) else 200)
        return True

    def pairs(self) -> list[tuple[float, int, int]]:
        """Of rows that follow each other in a session: seconds from reply to request, and their numbers."""
        found = []
        for turns in self.turns.values():
            ordered = sorted(turns)
            for (_, left_s, before), (came_s, _, number) in pairwise(ordered):
                if number == before + 1:
                    found.append((came_s - left_s, before, number))
        return found


def test_a_replay_waits_for_replies_and_thinks_as_long_as_the_recording(project: Project) -> None:
    rows = made_rows(2.5)
    write_trace(Path(project.pytester.path) / "a.trace.jsonl", rows)
    served = Conversations(delay_s=0.03)
    with served.server() as server:
        project.write(
            server.url,
            "\ndef test_peak(capacity_replay):\n"
            "    capacity_replay('a.trace.jsonl', p50_ms=20000, error_rate=0.3, sessions='causal')\n",
        )
        result = project.run()

    result.assert_outcomes(passed=1)
    # A session's first turn in a probe leaves as recorded: the one that the warm-up ends in begins anew.
    warm_s = warmup_s(load_recorded(Path(project.pytester.path) / "a.trace.jsonl", 0).traffic.cycle_s)
    cut = next(number for number, row in enumerate(rows) if row.t - rows[0].t >= warm_s)
    pairs = [pair for pair in served.pairs() if not pair[1] < cut <= pair[2]]
    assert len(pairs) > 50
    for waited_s, before, number in pairs:
        assert waited_s >= rows[number].t - rows[before].t - 1e-6
    found = valid_record(project)
    assert found["trace"]["sessions"] == "causal"
    assert found["trace"]["turns_after_failure"] == 0
    assert found["trace"]["requests"] == pytest.approx(sum(map(len, served.turns.values())), abs=4)
    # Latency counts from when a turn was due, after the reply and the time to think.
    (measured,) = found["measurements"]
    assert 29 < measured["latency_ms"]["p50"] < 20_000


def test_a_marked_rate_is_sent_causally(project: Project) -> None:
    write_trace(Path(project.pytester.path) / "a.trace.jsonl", made_rows(4.0))
    with Conversations(delay_s=0.0).server() as server:
        project.write(server.url, MARKED.format("QUICK, trace='a.trace.jsonl', sessions='causal'"))
        result = project.run()

    result.assert_outcomes(passed=1)
    assert valid_record(project)["trace"]["sessions"] == "causal"


def test_the_shell_replays_causally(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "a.trace.jsonl", made_rows(4.0))
    served = Conversations(delay_s=0.02)
    with served.server() as server:
        how = ["--duration-s", "2", "--trace-sessions", "causal", *LENIENT, "--json"]
        code = main(["sustain", server.url, "--trace", "a.trace.jsonl", *how])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["trace"]["sessions"] == "causal"
    assert min(waited_s for waited_s, _, _ in served.pairs()) >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("qps=60, p99_ms=50, sessions='causal'", "*sessions is given and no trace*"),
        ("qps=60, p99_ms=50, trace='a.trace.jsonl', sessions='later'", "*sessions='later' is neither *"),
        ("QUICK, trace='a.trace.jsonl', sessions='causal'", "*trace: a.trace.jsonl has no sessions, so *"),
    ],
)
def test_wrong_use_sends_nothing(project: Project, arguments: str, message: str) -> None:
    write_trace(Path(project.pytester.path) / "a.trace.jsonl", without_sessions())
    with Conversations(delay_s=0.0).server() as server:
        project.write(server.url, MARKED.format(arguments))
        result = project.run()

    assert result.ret != 0
    assert any(fnmatch(line, message) for line in [*result.outlines, *result.errlines])
    assert server.count == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qps", "60"], "--trace-sessions is given and no --trace"),
        (["--trace", "a.trace.jsonl"], "trace: a.trace.jsonl has no sessions"),
    ],
)
def test_wrong_options_exit_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "a.trace.jsonl", without_sessions())
    with Conversations(delay_s=0.0).server() as server:
        code = main(["sustain", server.url, *arguments, "--trace-sessions", "causal", *LENIENT])

    assert code == 2
    assert message in capsys.readouterr().err
    assert server.count == 0


def without_sessions() -> list[Any]:
    rows = made_rows(4.0)
    for row in rows:
        row.session = None
    return rows


class TwoProbes:
    """A controller that plays two open probes, the first longer than it is let, and keeps what it is told."""

    def __init__(self, rate_qps: float, seconds: float) -> None:
        self._probes = [
            Probe(0, "open", rate_qps=rate_qps, max_s=10 * seconds),
            Probe(1, "open", rate_qps=rate_qps, max_s=seconds),
        ]
        self._seconds, self._begun_s = seconds, 0.0
        self.told: list[Observation] = []
        self.halted: str | None = None

    def ask(self) -> Probe | None:
        now_s = self.told[-1].now_s if self.told else 0.0
        if self.halted is not None or now_s > 2 * self._seconds:
            return None
        return self._probes[0] if now_s <= self._seconds else self._probes[1]

    def tell(self, observation: Observation) -> None:
        self.told.append(observation)

    def extend(self) -> bool:
        return False

    def halt(self, reason: str) -> None:
        self.halted = reason

    def left_s(self) -> float:
        return 2 * self._seconds

    def standing(self) -> str:
        return ""


@pytest.mark.parametrize(("name", "workers"), [("aiohttp", None), ("fast", 1), ("fast", 2)])
def test_each_probe_s_requests_are_told_once_in_order_and_those_that_wait_at_its_end_never(
    tmp_path: Path, name: str, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 0.3 s of waiting are in the air and behind it when the first probe ends."""
    path = write_trace(tmp_path / "a.trace.jsonl", made_rows(20.0))
    conditions = Conditions(
        engine=engine_named(name, workers), seed=0, trace=load_recorded(path, 0), sessions="causal"
    )
    served = Conversations(delay_s=0.3)
    controller = TwoProbes(rate_qps=2.5 * RATE_QPS, seconds=1.5)
    with served.server() as server:
        target = HttpTarget(server.url, timeout_s=10)
        load = LoadRun(target, conditions, largest_limit_ms=5000.0, qps=2.5 * RATE_QPS)
        end, due = load.source.end, list[int]()

        def note_due(played_s: float, sent: int, came: Came | None = None) -> None:
            due.append(0 if came is None else int(np.count_nonzero(~np.isnan(came.due_s))))
            end(played_s, sent, came)

        monkeypatch.setattr(load.source, "end", note_due)
        with load:
            load.play(controller)

    assert controller.halted is None
    sent = sum(map(len, served.turns.values()))
    told: dict[int, list[float]] = defaultdict(list)
    for observation in controller.told:
        told[observation.probe_id] += observation.intended_s.tolist()
        assert set(observation.outcome.tolist()) <= {Outcome.GOOD}
    assert sum(map(len, told.values())) == sent
    for intended_s in told.values():
        assert intended_s == sorted(intended_s)
    assert max(told[0]) < load.probes[1].start_s <= min(told[1])
    for log in load.probes:
        last = [o for o in controller.told if o.probe_id == log.probe.id][-1]
        assert last.planned == last.sent == len(told[log.probe.id])
        assert last.health.not_sent == 0
    facts: Any = trace_facts(load.source)
    assert facts["turns_held_back"] > 5
    assert facts["requests"] == sum(due)
    assert trace_facts(load.source, (), sent) == facts | {"requests": sent}
    # Those that leave while a probe ends were not yet due: the more of them, the busier the machine.
    assert sum(due) == pytest.approx(sent, rel=0.2)
    (doubt,) = trace_doubts(load.source, None)
    assert doubt.kind == "sessions_held_back"
    assert trace_doubts(load.source, None, most_qps=RATE_QPS) == ()


class OneProbe(TwoProbes):
    """A controller that keeps two requests in flight."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1.0, seconds)
        self._probes = 2 * [Probe(0, "closed", concurrency=2, max_s=10 * seconds)]


@pytest.mark.parametrize("sessions", ["timed", "causal"])
def test_a_closed_loop_sends_when_a_reply_comes_however_slow_the_recording(
    tmp_path: Path, sessions: Sessions
) -> None:
    """Of a recording of two requests a second some hundreds are sent within three, and all are its own."""
    path = write_trace(tmp_path / "a.trace.jsonl", made_rows(60.0, rate_qps=2.0))
    conditions = Conditions(
        engine=engine_named("fast", 1), seed=0, trace=load_recorded(path, 0), sessions=sessions
    )
    served = Conversations(delay_s=0.0)
    controller = OneProbe(seconds=1.5)
    with (
        served.server() as server,
        LoadRun(HttpTarget(server.url), conditions, largest_limit_ms=500.0, qps=RATE_QPS) as load,
    ):
        load.play(controller)

    told_s = np.concatenate([observation.intended_s for observation in controller.told])
    assert np.count_nonzero(told_s < 1.5) > 50
    assert np.count_nonzero(told_s > 1.5) > 50
    sent = sum(map(len, served.turns.values()))
    assert load.probes[0].tally.sent == len(load.table.between(load.base_s, np.inf)) == sent


def test_the_turns_after_a_failed_reply_are_counted_and_not_sent(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "a.trace.jsonl", made_rows(20.0))
    conditions = Conditions(
        engine=engine_named("fast", 1), seed=0, trace=load_recorded(path, 0), sessions="causal"
    )
    served = Conversations(delay_s=0.0, fails=lambda number: number % 8 == 1)
    with (
        served.server() as server,
        LoadRun(HttpTarget(server.url), conditions, largest_limit_ms=500.0, qps=RATE_QPS) as load,
    ):
        load.play(TwoProbes(rate_qps=RATE_QPS, seconds=1.5))

    facts: Any = trace_facts(load.source)
    # Of every second session the third and fourth turn, but where a probe began behind the failing one.
    assert facts["turns_after_failure"] > 10
    for session, turns in served.turns.items():
        numbers = [number % 4 for _, _, number in sorted(turns)]
        assert session % 2 or 1 not in numbers or numbers[-1] == 1


def test_a_causal_source_gives_turns_early_enough_for_any_server(tmp_path: Path) -> None:
    """Recorded replies took a second: with a faster server turns are due before they were recorded."""
    rows = made_rows(20.0)
    for row in rows:
        number = int(str(row.id)[1:])
        row.session, row.seen = f"session-{number % 20}", {"latency_s": 0.4}
    recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl", rows), 0)
    rng = np.random.default_rng(0)
    source = Replay(HttpTarget("http://127.0.0.1:1/"), recorded, "superpose", 0, rng, sessions="causal")
    session: Any = Session()
    source.draw(Probe(0, "open", recorded.traffic.rate_qps, max_s=20.0))
    pieces = [source.take(session, until_s) for until_s in (0.5, 3.0, 20.0)]
    source.close()

    offsets_s = np.concatenate([piece.offsets_s for piece in pieces])
    assert np.all(np.diff(offsets_s) >= 0)
    assert len(offsets_s) == len(rows)
    free_s: dict[int, float] = {}
    for piece in pieces:
        assert piece.turns is not None
        for at_s, number, think_s in zip(
            piece.offsets_s.tolist(), piece.turns.session.tolist(), piece.turns.think_s.tolist(), strict=True
        ):
            # A server that answers at once: each turn is due at its earliest.
            assert at_s == pytest.approx(free_s.get(number, at_s) + think_s)
            free_s[number] = at_s
    # Ten or so turns a session, each 0.4 s sooner.
    assert offsets_s[-1] < 17


def test_a_probe_that_is_made_longer_goes_on_with_other_sessions(tmp_path: Path) -> None:
    """What came of both parts is known at its end: here every third request, and five were never to come."""
    recorded = load_recorded(write_trace(tmp_path / "a.trace.jsonl", made_rows(60.0)), 0)
    rng = np.random.default_rng(0)
    source = Replay(HttpTarget("http://127.0.0.1:1/"), recorded, "superpose", 0, rng, sessions="causal")
    session: Any = Session()
    source.draw(Probe(0, "open", RATE_QPS, max_s=5.0))
    first = source.take(session, 5.0)
    source.draw(Probe(0, "open", RATE_QPS, max_s=10.0), 5.0)
    second = source.take(session, 10.0)
    given = np.concatenate([first.offsets_s, second.offsets_s])
    due_s = np.where(np.arange(len(given)) % 3 == 0, given, np.nan)
    source.end(10.0, 0, Came(due_s, over=5))
    source.close()

    assert first.turns is not None
    assert second.turns is not None
    assert first.offsets_s[-1] < 5.0 <= second.offsets_s[0]
    assert set(first.turns.session.tolist()).isdisjoint(second.turns.session.tolist())
    facts: Any = trace_facts(source)
    came = int((~np.isnan(due_s)).sum())
    assert facts["requests"] == facts["distinct_rows"] == came
    assert (facts["turns_after_failure"], facts["turns_held_back"]) == (5, len(given) - came - 5)
    (doubt,) = trace_doubts(source, None)
    assert doubt.text.startswith(f"{came:,} of {len(given):,} recorded requests came due in their time")


class Session:
    """Takes what is added, as an engine's session does."""

    def __init__(self) -> None:
        self.count = 2

    def add(self, requests: list[Any]) -> int:
        self.count += len(requests)
        return self.count - len(requests)
