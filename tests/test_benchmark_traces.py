"""The benchmark of large traces: that its parts read what it makes, and what it says of the bar."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import traces
from pytest_capacity.traffic.columns import load_recording


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_what_is_made_is_loaded_played_and_looked_at(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"made.trace.jsonl{suffix}"

    traces.make_trace(path, 3000)

    assert traces.load(path) == "3,000 rows"
    assert traces.look(path) == "3,000 rows"
    assert "rows at" in traces.play(path)
    recording = load_recording(path)
    assert recording.key_count > 100
    assert recording.session_count > 100
    assert set(recording.operations) == {"rank", "embed"}


@pytest.mark.parametrize(("most_s", "code"), [(60.0, 0), (0.0, 1)])
def test_the_bar_decides_the_exit_code(
    most_s: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(traces, "LOAD_S", most_s)

    assert traces.main(["--rows", "2000", "--folder", str(tmp_path)]) == code
    assert ("MISSED" if code else "met   ") + " 2,000 rows load" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
