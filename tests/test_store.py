"""Where records lie, and that they are there whole or not at all."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.results import store
from pytest_capacity.results.store import (
    artifact_path,
    make_artifact_directory,
    read_record,
    store_record,
    write_json_atomically,
)
from tests.records import failed_record

unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


@pytest.mark.parametrize(
    ("nodeid", "attempt", "expected"),
    [
        (
            "tests/test_capacity.py::test_sustains_200_per_second",
            1,
            r"test_capacity/test_sustains_200_per_second-[0-9a-f]{7}\.json",
        ),
        ("test_a.py::TestB::test_c[large-0.5]", 1, r"test_a/test_c-large-0\.5-[0-9a-f]{7}\.json"),
        ("test_a.py::test_c[a::b/c]", 2, r"test_a/test_c-a-b-c-[0-9a-f]{7}\.attempt2\.json"),
        ("test_a.py::test_c[../../etc]", 1, r"test_a/test_c-.-.-etc-[0-9a-f]{7}\.json"),
        ("../..::..", 1, r"test/test-[0-9a-f]{7}\.json"),
        ("test_ä.py::test_漢", 1, r"test_/test_-[0-9a-f]{7}\.json"),
        ("sustain-20261120-201512", 1, r"sustain-20261120-201512-[0-9a-f]{7}\.json"),
    ],
)
def test_a_record_s_place_is_named_after_its_test(nodeid: str, attempt: int, expected: str) -> None:
    path = artifact_path(".capacity", nodeid, attempt)

    assert re.fullmatch(expected, path.relative_to(".capacity").as_posix())


def test_the_place_is_the_same_in_every_run_and_another_for_every_test() -> None:
    assert artifact_path("d", "a/test_x.py::test_y") == artifact_path(Path("d"), "a/test_x.py::test_y")
    assert artifact_path("d", "a/test_x.py::test_y") != artifact_path("d", "b/test_x.py::test_y")


@given(st.text(max_size=400), st.integers(1, 99))
def test_any_node_id_gives_a_short_safe_path_inside(nodeid: str, attempt: int) -> None:
    path = artifact_path("base", nodeid, attempt)
    inside = path.relative_to("base")

    assert len(inside.parts) <= 2
    assert len(str(inside)) <= 110
    for part in inside.parts:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", part)
        assert ".." not in part


def test_a_record_is_read_back_as_it_was_stored(tmp_path: Path) -> None:
    record = failed_record()

    path = store_record(tmp_path / "new" / ".capacity", record)

    assert read_record(path) == record
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert (tmp_path / "new" / ".capacity" / ".gitignore").read_text().endswith("*\n")


def test_a_directory_that_was_there_is_left_as_it_is(tmp_path: Path) -> None:
    make_artifact_directory(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_and_has_the_usual_rights(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    mask = os.umask(0o022)
    try:
        write_json_atomically(path, {"a": "ä\udcff"})
        write_json_atomically(path, {"a": 2})
    finally:
        os.umask(mask)

    assert json.loads(path.read_text()) == {"a": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "b.json"
    write_json_atomically(path, {"a": 1})

    def fail(_descriptor: int) -> None:
        raise error

    monkeypatch.setattr(store.os, "fsync", fail)  # type: ignore[attr-defined]

    with pytest.raises((KeyboardInterrupt, OSError)):
        write_json_atomically(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_no_nan_is_ever_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomically(tmp_path / "b.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = "cannot write the artifact .*file.*; choose another directory with --capacity-dir"

    with pytest.raises(OSError, match=message):
        make_artifact_directory(tmp_path / "file")
    with pytest.raises(OSError, match=message):
        make_artifact_directory(tmp_path / "file" / "below")
    with pytest.raises(OSError, match=message):
        write_json_atomically(tmp_path / "file" / "b.json", {})


@unprivileged
def test_a_directory_without_the_right_to_write_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="--capacity-dir"):
            store_record(tmp_path, failed_record())
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no capacity record"),
        ("{", "is no capacity record"),
        ("\xff", "is no capacity record"),
        ("[1]", "no schema version"),
        ('{"schema": 1}', "no schema version and node id"),
        (
            '{"schema": 2, "nodeid": "x"}',
            "newer pytest-capacity: its schema is 2, this version reads up to 1",
        ),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(ValueError, match=f"x.json .*{message}"):
        read_record(path)


def test_a_missing_record_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "missing.json")
