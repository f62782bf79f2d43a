"""The importers on recorded traffic itself, read in place; it is not part of the project."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from pytest_capacity.traffic.columns import load_recording
from pytest_capacity.traffic.inspecting import describe, prefix_reuse
from pytest_capacity.traffic.quantised import dequantize
from pytest_capacity.traffic.trace import TraceError
from tests.imported import TRACES, imported_to, needs_traces

pytestmark = needs_traces


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "a.trace.jsonl.gz"


@pytest.mark.parametrize(("name", "rows"), [("code", 4827), ("conv", 7869)])
def test_azures_llm_traces_keep_every_digit(out: Path, name: str, rows: int) -> None:
    source = TRACES / f"azure_llm_2023_{name}_0000-1500s.csv"

    result = imported_to(out, source)

    with source.open(newline="") as file:
        table = list(csv.DictReader(file))
    starts = [datetime.fromisoformat(row["TIMESTAMP"][:-1]) for row in table]
    expected = [(start - starts[0]).total_seconds() for start in starts]
    assert len(result.rows) == len(table) == rows
    np.testing.assert_allclose(result.times, expected, atol=1e-9)
    assert [row.size["tokens_in"] for row in result.rows] == [int(row["ContextTokens"]) for row in table]
    # Ten millionths are written, millionths are meant: the last digit is always 0.
    assert result.found.header.resolution_s == 1e-6
    assert result.found.warnings == ()


def test_azures_functions_arrive_before_they_end(out: Path) -> None:
    result = imported_to(out, TRACES / "azure_functions_2021_first199.csv")

    assert len(result.rows) == 199
    assert result.found.header.clock == "arrival"
    assert result.found.header.resolution_s == 0.001
    assert max(row.seen["latency_s"] for row in result.rows if isinstance(row.seen["latency_s"], float)) > 50
    assert len(load_recording(out).operations) > 10


def test_mooncakes_ticks_of_three_seconds_are_found_and_spread(out: Path) -> None:
    source = TRACES / "mooncake_conversation_0-600s.jsonl"

    result = imported_to(out, source)

    times_ms = [json.loads(line)["timestamp"] for line in source.read_text().splitlines()]
    expected = [(time_ms - times_ms[0]) / 1000 for time_ms in times_ms]
    recording = load_recording(out)
    assert result.times == expected
    assert recording.header.resolution_s == pytest.approx(3.0, abs=0.01)
    assert "times are quantised to 3 s: a replay spreads them within the tick" in result.found.warnings
    raw, spread = recording.t_s, dequantize(recording.t_s, 3.0, seed=1)
    assert np.bincount(raw.astype(int)).max() > 1.5 * np.bincount(spread.astype(int)).max()
    reuse = prefix_reuse(result.rows)
    assert reuse.hit_share is not None
    assert 0.2 < reuse.hit_share < 0.5


def test_mooncakes_synthetic_arrivals_are_poisson_and_in_milliseconds(out: Path) -> None:
    result = imported_to(out, TRACES / "mooncake_synthetic_0-200s.jsonl")

    document = describe(load_recording(out))
    assert result.found.header.resolution_s == 0.001
    assert result.found.warnings == ()
    assert document["dispersion"]["1"] == pytest.approx(1, abs=0.25)  # type: ignore[index,call-overload]


def test_nasas_keys_have_the_skew_that_an_lru_cache_likes(out: Path) -> None:
    result = imported_to(out, TRACES / "nasa_http_1995-07-01_rows1-6000.tsv", plain_keys=False)

    document = describe(load_recording(out))
    assert len(result.rows) == 6000
    assert result.found.header.resolution_s == 1.0
    # 65 % was found for the whole file by a simulation of its own.
    assert document["keys"]["lru_hit_share"]["100"] == pytest.approx(0.65, abs=0.02)  # type: ignore[index,call-overload]
    assert "unicomp6" not in "".join(str(row) for row in result.rows)


def test_retails_lines_are_invoices_of_a_minutes_resolution(out: Path) -> None:
    result = imported_to(out, TRACES / "online_retail_2011-12-05.csv")

    assert result.found.header.resolution_s == 60.0
    assert len(result.rows) + result.found.dropped["negative size pieces"] >= 151
    assert all(row.size["items"] >= 1 for row in result.rows)


def test_open_bandits_rows_are_a_sample(out: Path) -> None:
    result = imported_to(out, TRACES / "open_bandit_bts_men_rows1-1500.csv")

    assert len(result.rows) == 1500
    assert result.found.header.sampling is None
    assert result.found.header.start == "2019-11-24T00:01:03.979311Z"


@pytest.mark.parametrize(
    "name", ["servegen_mm-image_client12_dataset.json", "servegen_mm-image_client12_trace.csv"]
)
def test_servegens_distributions_are_no_requests_and_their_literals_stay_text(out: Path, name: str) -> None:
    with pytest.raises(TraceError, match="line 1: which"):
        imported_to(out, TRACES / name)

    assert not out.exists()
