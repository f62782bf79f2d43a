"""The benchmark of the load generator: its witness, figures, bars and C programs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if not sys.platform.startswith("linux"):
    pytest.skip("the benchmark reads /proc", allow_module_level=True)

from benchmarks.loadgen.__main__ import PARTS, main
from benchmarks.loadgen.bars import BARS, Scored, bar_line
from benchmarks.loadgen.building import CannotBuild, built, compiler
from benchmarks.loadgen.engines import ENGINES, NotThereYet, make_engine
from benchmarks.loadgen.figures import (
    arrival_lateness,
    dispersion,
    grid_jitter,
    new_rate_began_s,
    quantile,
)
from benchmarks.loadgen.files import Row, read_part, write_part
from benchmarks.loadgen.jobs import TAG, Answer, Job
from benchmarks.loadgen.lab import ATTEMPTS, Lab
from benchmarks.loadgen.processes import child, processes, read_process, tree_cpu_s, tree_of
from benchmarks.loadgen.servers import ServerFailed, c_server
from benchmarks.loadgen.tables import combined, figure, noise_text, of
from benchmarks.loadgen.tlsserver import message_length
from benchmarks.loadgen.witness import (
    EVERY_S,
    Reading,
    Witnessed,
    judge_run,
    parse_stat,
    parse_switches,
    read_now,
)

pytestmark = pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset (util-linux)")
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")


ROUNDING_S = 0.01 * (os.cpu_count() or 1)
"""What /proc/stat rounds idle time to, a core."""


def quiet(seconds: int, **changes: float) -> list[Reading]:
    """Readings each second of two cores on which only the participants worked, all of one core."""
    return [replace(Reading(float(at), 100.0 + at, 40.0 + at), **changes) for at in range(seconds)]


class TestWitness:
    def test_a_run_in_which_only_the_participants_worked_is_clean(self) -> None:
        said = judge_run(quiet(6), 1.0, 5.0)

        assert said == Witnessed(0.0, 0.0, 0.0, 0.0, ())
        assert said.clean

    def test_what_others_burnt_is_busy_time_less_the_participants(self) -> None:
        readings = [replace(one, busy_s=one.busy_s + 0.2 * one.at_s) for one in quiet(6)]

        said = judge_run(readings, 1.0, 5.0)

        assert said.foreign == pytest.approx(0.2)
        assert not said.clean
        assert said.reasons[0] == "others took 20.0% of a core"

    def test_a_burst_contaminates_a_run_whose_mean_is_low(self) -> None:
        readings = [replace(one, busy_s=one.busy_s + 0.3 * (one.at_s >= 30)) for one in quiet(61)]

        said = judge_run(readings, 0.0, 60.0)

        assert said.foreign == pytest.approx(0.005)
        assert said.worst_slice == pytest.approx(0.3)
        assert said.reasons == (f"others took 30% of a core for {EVERY_S:g} s",)

    def test_what_happens_before_and_after_the_run_is_not_held_against_it(self) -> None:
        readings = [
            replace(one, busy_s=one.busy_s + 0.9 * (one.at_s >= 1) + 0.9 * (one.at_s >= 9))
            for one in quiet(11)
        ]

        assert judge_run(readings, 1.2, 7.9).clean
        assert not judge_run(readings, 0.5, 7.9).clean
        assert not judge_run(readings, 1.2, 8.5).clean

    def test_stolen_and_throttled_time_contaminate(self) -> None:
        stolen = [replace(one, steal_s=0.02 * one.at_s) for one in quiet(6)]
        throttled = [replace(one, throttled_s=0.05 * (one.at_s > 2)) for one in quiet(6)]

        assert judge_run(stolen, 1.0, 5.0).reasons == ("2.0% of a core was stolen",)
        assert judge_run(throttled, 1.0, 5.0).reasons == ("throttled by the cgroup for 50 ms",)

    @pytest.mark.parametrize(
        ("nobodys", "others", "switches", "foreign"),
        [
            (0.12, 0.0, 42_000, 0.0),  # cores going to sleep and back under our own traffic
            (0.12, 0.1, 42_000, 0.1),  # beside it a process that can be seen
            (0.12, 0.0, 1_000, 0.117),  # so few switches do not take so much: somebody is hidden
            (0.5, 0.0, 42_000, 0.374),  # nor do many take that much
            (-0.01, 0.1, 42_000, 0.09),  # rounding
            (0.2, -30.0, 0, 0.2),  # one that ended takes along what it burnt before
        ],
    )
    def test_what_our_traffic_costs_the_kernel_is_ours_and_nothing_else(
        self, nobodys: float, others: float, switches: float, foreign: float
    ) -> None:
        busy = nobodys + max(others, 0.0)
        readings = [
            replace(
                one,
                busy_s=one.busy_s + busy * one.at_s,
                others_s=100.0 + others * one.at_s,
                switches=switches * one.at_s,
            )
            for one in quiet(6)
        ]

        said = judge_run(readings, 1.0, 5.0)

        assert said.foreign == pytest.approx(foreign)
        assert said.clean == (foreign <= 0.05)

    @pytest.mark.parametrize("ends", [False, True])
    def test_a_process_that_burns_beside_us_is_seen_whether_it_ends_or_not(self, ends: bool) -> None:
        burn = "import time\nwhile time.process_time() < 0.5: pass\nprint('burnt', flush=True)\n"
        with child([sys.executable, "-c", "input()"]) as participant:
            first = read_now(participant.process.pid)
            with child([sys.executable, "-c", burn if ends else burn + "input()"]) as hog:
                assert hog.hear() == "burnt\n"
                if ends:
                    hog.process.wait(20)
                last = read_now(participant.process.pid)

        assert last.others_s - first.others_s >= 0.45
        assert last.switches > first.switches
        seen = judge_run([replace(first, switches=0.0), replace(last, switches=1e9)], first.at_s, last.at_s)
        assert seen.foreign * (last.at_s - first.at_s) >= 0.45 - ROUNDING_S

    def test_rounding_in_a_short_last_slice_is_no_burst(self) -> None:
        last = Reading(5.001, 105.021, 45.001)

        assert judge_run([*quiet(6), last], 1.0, 5.0005).clean

    def test_a_run_that_nobody_watched_is_refused(self) -> None:
        with pytest.raises(ValueError, match="was not there"):
            judge_run(quiet(3), 10.0, 12.0)

    def test_busy_time_is_all_time_but_idle_waiting_and_stolen(self) -> None:
        before = "cpu  100 0 50 1000 20 0 5 0 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n"
        after = "cpu  250 0 100 1180 40 0 9 30 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 9\n"

        busy_s, steal_s = np.subtract(parse_stat(after, 5.0), parse_stat(before, 3.0))

        # Two cores for two seconds are 400 ticks, of which 180 idle, 20 waiting for a disk, 30 stolen.
        assert busy_s == pytest.approx(1.7)
        assert steal_s == pytest.approx(0.3)

    def test_interrupts_that_the_kernel_counts_by_themselves_are_nobodys(self) -> None:
        before = "cpu  0 0 0 0 0 10 10 0\ncpu0 1\n"
        after = "cpu  0 0 0 50 0 20 30 0\ncpu0 1\n"

        assert parse_stat(after, 1.0)[0] - parse_stat(before, 0.0)[0] == pytest.approx(0.2)

    def test_switches_are_counted_from_the_line_that_tells_them(self) -> None:
        assert parse_switches("cpu  1 2 3 4\nctxt 1234\nbtime 5\n") == 1234
        assert parse_switches("cpu  1 2 3 4\n") == 0

    def test_a_tree_holds_descendants_and_their_time(self) -> None:
        with child(
            [sys.executable, "-c", "sum(range(3_000_000)); print('done', flush=True); input()"]
        ) as one:
            assert one.hear() == "done\n"
            everyone = processes()
            me = read_process(os.getpid())

            assert one.process.pid in tree_of(os.getpid(), everyone)
            assert one.process.pid not in tree_of(1 << 22, everyone)
            assert me is not None
            assert tree_cpu_s(os.getpid()) > me.cpu_s

    def test_a_child_ends_with_the_block_stopped_or_not(self) -> None:
        with child([sys.executable, "-c", "print('up', flush=True); input()"]) as one:
            assert one.hear() == "up\n"
            os.kill(one.process.pid, signal.SIGSTOP)

        assert one.process.returncode == -signal.SIGTERM


class TestFigures:
    @given(st.integers(0, 1000), st.sampled_from([0.1, 0.5, 1.0]))
    def test_a_steady_beat_has_no_dispersion(self, seed: int, window_s: float) -> None:
        times = 5 + np.arange(2000) / 100 + 0.005
        np.random.default_rng(seed).shuffle(times)

        assert dispersion(times, window_s, 5.0, 25.0) == pytest.approx(0.0)

    def test_poisson_has_a_dispersion_of_one_and_bursts_more(self) -> None:
        rng = np.random.default_rng(1)
        poisson, bursts = rng.uniform(0, 1000, 50_000), np.repeat(rng.uniform(0, 1000, 12_500), 4)

        assert dispersion(poisson, 1.0, 0.0, 1000.0) == pytest.approx(1.0, abs=0.15)
        assert dispersion(bursts, 1.0, 0.0, 1000.0) == pytest.approx(4.0, abs=0.6)

    def test_too_few_windows_have_no_dispersion(self) -> None:
        assert math.isnan(dispersion(np.arange(10.0), 6.0, 0.0, 10.0))
        assert math.isnan(dispersion(np.empty(0), 1.0, 0.0, 10.0))

    def test_lateness_at_the_server_is_matched_in_order(self) -> None:
        late_s = arrival_lateness(np.array([1.0, 2.0, 3.0]), np.array([3.25, 1.5, 2.0]))

        assert late_s.tolist() == [0.5, 0.0, 0.25]

    def test_a_lost_request_is_no_lateness(self) -> None:
        with pytest.raises(ValueError, match="2 requests arrived, 3 were meant to"):
            arrival_lateness(np.arange(3.0), np.arange(2.0))

    def test_jitter_forgives_a_wrong_rate_but_no_hiccup(self) -> None:
        beat = np.linspace(7.0, 17.1, 10_000)
        hiccup = beat.copy()
        hiccup[5_000:5_200] += 0.004

        assert quantile(grid_jitter(beat), 0.99) == pytest.approx(0.0, abs=1e-9)
        assert quantile(grid_jitter(hiccup), 0.99) == pytest.approx(0.004, rel=0.1)

    def test_a_new_rate_is_there_with_its_first_regular_arrivals(self) -> None:
        slow = np.arange(0, 1, 0.002)
        fast = np.arange(1.03, 2, 0.0002)

        assert new_rate_began_s(np.concatenate([slow, fast]), 1.0, 5000) == pytest.approx(0.03, abs=1e-9)
        assert math.isnan(new_rate_began_s(slow, 0.5, 5000))

    def test_a_quantile_is_never_below_the_true_one(self) -> None:
        assert quantile(np.array([1.0, 2.0, 3.0, 100.0]), 0.99) == 100.0
        assert math.isnan(quantile(np.empty(0), 0.5))


def a_row(contender: str, value: float | None, *, clean: bool = True) -> Row:
    return {"contender": contender, "cpu_us": value, "clean": clean, "foreign": 0.02, "steal": 0.0}


class TestScoring:
    def test_medians_are_those_of_the_clean_runs(self) -> None:
        rows = [a_row("x", 1.0), a_row("x", 90.0, clean=False), a_row("x", 3.0)]

        found = figure(rows, "cpu_us")

        assert (found.value, found.runs, found.clean) == (2.0, 3, 2)

    def test_without_a_clean_run_the_others_count_and_are_marked(self) -> None:
        found = figure([a_row("x", 5.0, clean=False)], "cpu_us")

        assert str(found) == "5*"
        assert found.scored("late_p50").outcome == "reached (no clean run)"

    @pytest.mark.parametrize(
        ("key", "value", "outcome"),
        [
            ("late_p99", 200.0, "reached"),
            ("late_p99", 200.1, "MISSED"),
            ("one_core", 0.95, "reached"),
            ("one_core", 0.94, "MISSED"),
            ("flagged_clean", 0.02, "MISSED"),
            ("https", math.nan, "not measured"),
        ],
    )
    def test_a_figure_is_held_against_its_bar(self, key: str, value: float, outcome: str) -> None:
        assert Scored(key, value, runs=5, clean=5).outcome == outcome

    def test_fewer_than_five_clean_runs_are_said(self) -> None:
        line = bar_line(Scored("late_p99", 150.0, runs=5, clean=3, case="1,000/s"))

        assert line == [
            "send lateness p99, 1,000/s", "at most 200 us", "150 us", "reached (3 clean of 5 runs)",
        ]  # fmt: skip

    def test_a_quotient_is_as_clean_as_the_less_clean_and_nothing_without_the_other(self) -> None:
        ours = figure([a_row("x", 6.0)] * 5, "cpu_us")
        theirs = figure([a_row("y", 60.0), a_row("y", 60.0, clean=False)], "cpu_us")

        assert combined("closed_aiohttp", ours, theirs).value == pytest.approx(0.1)
        assert combined("closed_aiohttp", ours, theirs).clean == 1
        assert math.isnan(combined("closed_wrk", ours, figure([], "cpu_us")).value)

    def test_what_is_not_there_takes_part_in_no_figure(self) -> None:
        assert of([{"contender": "fast", "not_there": "why"}, a_row("x", 1.0)]) == [a_row("x", 1.0)]

    def test_the_noise_of_all_runs_is_told(self) -> None:
        noise = [a_row("x", 1.0), a_row("x", 1.0, clean=False) | {"foreign": 0.8}]

        assert noise_text(noise).startswith("Noise: 1 of 2 runs contaminated.")

    def test_every_bar_says_why(self) -> None:
        assert all(bar.reason and bar.words for bar in BARS.values())


class TestRounds:
    @staticmethod
    def lab(folder: Path, **changes: object) -> Lab:
        return Lab(programs={}, scratch=folder, home=folder, engines=["aiohttp"], **changes)  # type: ignore[arg-type]

    def test_a_disturbed_run_is_repeated_and_a_bound_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = [Witnessed(0.5, 0.5, 0, 0, ("others",)), Witnessed(0, 0, 0, 0, ())]
        monkeypatch.setattr("benchmarks.loadgen.lab.judge_run", lambda *_: said.pop(0))
        monkeypatch.setattr("benchmarks.loadgen.lab.QUIET_S", 0.0)
        lab = self.lab(tmp_path)

        row = lab.watched("x", lambda: {"begin_s": 0.0, "end_s": 1.0})

        assert (row["attempts"], row["clean"]) == (2, True)
        assert [one["clean"] for one in lab.noise] == [False, True]

        said += [Witnessed(0.5, 0.5, 0, 0, ("others",))] * 9
        row = lab.watched("x", lambda: {"begin_s": 0.0, "end_s": 1.0})

        assert (row["attempts"], row["clean"], row["reasons"]) == (ATTEMPTS, False, ["others"])

    def test_contenders_take_turns_and_what_is_missing_is_asked_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("benchmarks.loadgen.lab.judge_run", lambda *_: Witnessed(0, 0, 0, 0, ()))
        asked: list[str] = []

        def run(name: str) -> Answer:
            asked.append(name)
            return {"not_there": "no"} if name == "b" else {"begin_s": 0.0, "end_s": 1.0}

        rows = self.lab(tmp_path, repeats=3).rounds(
            {"a": lambda: run("a"), "b": lambda: run("b"), "c": lambda: run("c")}, rate_qps=7
        )

        assert asked == ["a", "b", "c", "c", "a", "a", "c"]
        assert {row["rate_qps"] for row in rows} == {7}

    def test_results_survive_as_they_are_but_for_what_json_cannot_say(self, tmp_path: Path) -> None:
        assert read_part(tmp_path, "closed") is None

        write_part(tmp_path, "closed", {"rows": [{"a": math.nan, "b": (1, 2.5)}]})

        assert read_part(tmp_path, "closed") == {"rows": [{"a": None, "b": [1, 2.5]}]}
        assert [path.name for path in tmp_path.iterdir()] == ["closed.json"]

    def test_a_job_comes_through_as_it_was(self) -> None:
        job = Job("open", "fast", 80, 2.0, rate_qps=100.0, ca_file="x.pem")

        assert Job.from_json(job.to_json()) == job
        with pytest.raises(TypeError):
            Job.from_json(json.dumps({"kind": "open", "nonsense": 1}))

    def test_the_engine_that_is_there_is_made_and_an_unknown_one_refused(self) -> None:
        assert make_engine("aiohttp").name == "aiohttp"
        assert list(ENGINES) == ["fast", "aiohttp"]
        with pytest.raises(KeyError):
            make_engine("none")

    def test_an_engine_that_is_missing_is_said_to_be(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("benchmarks.loadgen.engines.PRODUCT_TABLE", "pytest_capacity.load.nowhere")

        with pytest.raises(NotThereYet, match="'fast' with 2 workers is not there yet"):
            make_engine("fast", workers=2)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return built(tmp_path_factory.mktemp("build"))


def exchange(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    return connection.recv(65536)


def a_request(tag: int, body: bytes = b"{}") -> bytes:
    return b"POST /predict/%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (tag, len(body), body)


@needs_compiler
class TestPrograms:
    def test_a_program_is_compiled_once(self, tmp_path: Path) -> None:
        first = built(tmp_path)
        made = {path: path.stat().st_mtime_ns for path in first.values()}

        assert built(tmp_path) == first
        assert {path: path.stat().st_mtime_ns for path in first.values()} == made

    def test_without_a_compiler_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("benchmarks.loadgen.building.compiler", lambda: None)

        with pytest.raises(CannotBuild, match="no C compiler"):
            built(tmp_path)

    def test_the_null_server_answers_200_bytes_and_records_arrivals(
        self, programs: dict[str, Path], tmp_path: Path
    ) -> None:
        before_s = time.monotonic()
        with c_server(programs["server"], record=tmp_path / "records", record_max=10) as server:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                replies = [exchange(connection, a_request(tag)) for tag in (7, 8, 7)]
                # In two pieces, and two in one.
                connection.sendall(a_request(8)[:20])
                replies.append(exchange(connection, a_request(8)[20:]))
            server.finish()

        assert {reply[:15] for reply in replies} == {b"HTTP/1.1 200 OK"}
        assert {len(json.dumps(json.loads(reply.partition(b"\r\n\r\n")[2]))) for reply in replies} == {200}
        assert server.counts["requests"] == server.counts["replies"] == server.counts["recorded"] == 4
        assert server.counts["connections"] == 1
        assert len(server.arrivals_s(7)) == len(server.arrivals_s(8)) == 2
        assert before_s <= server.records["arrival_ns"].min() / 1e9
        assert server.records["reply_ns"].max() / 1e9 <= time.monotonic()
        assert (server.service_s(7) >= 0).all()

    def test_the_delay_server_replies_no_sooner_than_said_and_in_order(
        self, programs: dict[str, Path], tmp_path: Path
    ) -> None:
        path = tmp_path / "records"
        with c_server(programs["server"], delay_us=5000, record=path, record_max=50) as server:
            connections = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(4)]
            for _ in range(5):
                for connection in connections:
                    connection.sendall(a_request(2))
                for connection in connections:
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            for connection in connections:
                connection.close()
            server.finish()

        assert len(server.service_s(2)) == 20
        assert server.service_s(2).min() >= 0.005
        assert (np.diff(server.records["reply_ns"]) >= 0).all()

    def test_the_burning_server_takes_the_cpu_it_should(self, programs: dict[str, Path]) -> None:
        with c_server(programs["server"], burn_us=2000) as server:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                for _ in range(50):
                    exchange(connection, a_request(0))
            server.finish()

        assert 0.1 <= server.counts["cpu_s"] < 0.2

    def test_more_requests_than_were_to_be_recorded_are_an_error(
        self, programs: dict[str, Path], tmp_path: Path
    ) -> None:
        with c_server(programs["server"], record=tmp_path / "records", record_max=1) as server:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                exchange(connection, a_request(0))
                exchange(connection, a_request(0))
            with pytest.raises(ServerFailed, match="1 requests went unrecorded"):
                server.finish()

    def test_the_server_ends_with_who_started_it(self, programs: dict[str, Path]) -> None:
        server = subprocess.Popen([programs["server"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"port ")
        server.stdin.close()

        assert server.wait(10) == 0
        server.stdout.close()

    def test_the_c_client_sends_each_row_once_and_not_too_soon(
        self, programs: dict[str, Path], tmp_path: Path
    ) -> None:
        lab = Lab(programs=programs, scratch=tmp_path, home=tmp_path, engines=[])
        core = max(os.sched_getaffinity(0))
        offsets_s = np.arange(200) / 1000
        with lab.server(record_max=300, core=core) as server:
            counts, rows = lab.run_c_client(server.port, offsets_s, tag=TAG, cores=[core])
            server.finish()

        assert counts["sent"] == counts["answered"] == len(server.arrivals_s(TAG)) == 200
        assert counts["skipped"] == counts["broken"] == 0
        assert (rows["sent_ns"] >= rows["intended_ns"]).all()
        assert (rows["done_ns"] > rows["sent_ns"]).all()
        assert np.diff(rows["intended_ns"]) == pytest.approx(1e6, abs=2)

    def test_an_engine_plays_the_schedule_it_is_given_in_a_process_of_its_own(
        self, programs: dict[str, Path], tmp_path: Path
    ) -> None:
        lab = Lab(programs=programs, scratch=tmp_path, home=tmp_path, engines=[])
        cores = sorted(os.sched_getaffinity(0))
        path = tmp_path / "columns.npz"
        with lab.server(record_max=1000, core=cores[-1]) as server:
            job = Job("open", "aiohttp", server.port, 0.5, rate_qps=100, warm_s=0.2, columns=str(path))
            answer = lab.run_engine(job, cores)
            server.finish()

        assert answer["planned"] == answer["sent"] == answer["answered"] == 50
        assert answer["told_once"]
        with np.load(path) as columns:
            late_s = arrival_lateness(columns["intended_s"], server.arrivals_s(TAG))
        # One clock for both processes: nothing arrives before it was meant to.
        assert (late_s > -1e-4).all()


@needs_compiler
@pytest.mark.slow
class TestCommand:
    def test_a_part_is_measured_written_and_shown_again(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("benchmarks.loadgen.lab.ATTEMPTS", 1)
        settings = ["--engines", "aiohttp", "--repeats", "1", "--seconds", "0.5", "--out", str(tmp_path)]

        assert main(["--part", "truth", *settings]) == 0

        printed = capsys.readouterr().out
        assert "median latency off from the server's own" in printed
        document = read_part(tmp_path, "truth")
        assert document is not None
        assert {row["contender"] for row in document["rows"]} == {"aiohttp", "C, hybrid"}

        assert main(["--part", "tables", "--out", str(tmp_path)]) == 0
        assert capsys.readouterr().out == printed

    def test_an_interruption_leaves_nothing_behind(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.loadgen", "--part", "closed", "--engines", "aiohttp",
                   "--seconds", "60", "--out", str(tmp_path)]  # fmt: skip
        built(tmp_path / "build")
        harness = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        children: set[int] = set()
        until_s = time.monotonic() + 60
        while len(children) < 2 and time.monotonic() < until_s:
            children = tree_of(harness.pid, processes()) - {harness.pid}
        harness.send_signal(signal.SIGINT)
        _, said = harness.communicate(timeout=60)

        assert harness.returncode == 130
        assert "stopped" in said
        assert len(children) >= 2
        assert not [pid for pid in children if (left := read_process(pid)) and left.parent]


class TestTls:
    def test_a_message_is_as_long_as_its_headers_say(self) -> None:
        whole = a_request(3, b"abc")

        assert message_length(whole) == len(whole)
        assert message_length(whole[:30]) == 0
        assert message_length(b"GET / HTTP/1.1\r\n\r\n") == 18


class TestParts:
    @pytest.mark.parametrize("name", PARTS)
    def test_a_part_without_a_row_reports_every_bar_as_not_measured(self, name: str) -> None:
        report = PARTS[name].report([], "fast")

        assert not report.lines
        assert report.scored
        assert {one.outcome for one in report.scored} <= {"not measured"}

    def test_every_bar_is_some_parts(self) -> None:
        assert {one.key for part in PARTS.values() for one in part.report([], "fast").scored} == set(BARS)
