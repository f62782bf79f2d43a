"""Reads of the surroundings: right where they can be had, None where not, quick, and never an error."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pytest_capacity.results import environment as module
from pytest_capacity.results.environment import (
    cgroup_cpus,
    ci_name,
    commit,
    cpu_model,
    environment,
    memory_bytes,
    usable_cores,
    versions,
)

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(directory: Path, *arguments: str) -> None:
    names = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(directory), *names, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "trunk")
    (tmp_path / "model.txt").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_the_environment_is_read_in_a_blink() -> None:
    started_at = datetime(2026, 11, 20, 21, 15, 12, tzinfo=timezone(timedelta(hours=1)))
    begin = time.perf_counter()

    found = environment(mode="enforce", overrides={"--capacity-seed": 7}, started_at=started_at)

    assert time.perf_counter() - begin < 1
    assert found["started_at"] == "2026-11-20T20:15:12Z"
    assert found["cores"] >= 1
    assert found["cpu"]
    assert found["mode"] == "enforce"
    assert found["overrides"] == {"--capacity-seed": 7}


def test_versions_name_what_measured() -> None:
    found = versions()

    assert found["pytest"] == pytest.__version__
    assert found["tdigest"]
    assert found["numpy"]


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)

    assert versions()["uvloop"] is None


@needs_git
def test_a_commit_is_found_from_any_folder_of_the_repository(repository: Path) -> None:
    (repository / "tests").mkdir()

    found = commit(repository / "tests")

    assert found is not None
    assert len(found["id"]) == 40
    assert (found["branch"], found["dirty"]) == ("trunk", False)


@needs_git
def test_a_changed_file_makes_it_dirty_and_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    (repository / "model.txt").write_text("2")
    (repository / "untracked.txt").write_text("")

    found = commit(repository)

    assert found is not None
    assert (found["branch"], found["dirty"]) == (None, True)


@needs_git
def test_no_repository_or_no_commit_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    assert commit(tmp_path / "missing") is None

    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None


def test_no_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert commit(Path.cwd()) is None


def test_a_git_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "GIT_TIMEOUT_S", 0.2)

    assert commit(Path.cwd()) is None


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({}, "0::/\n", None),
        ({"cpu.max": "garbage"}, "garbage", None),
        ({"cpu.max": "0 0"}, "", None),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4.0),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, "1:cpu:/x\n0::/a/b\n", 0.5),
        ({"cpu.max": "200000 100000"}, "0::/../../hidden\n", 2.0),
    ],
)
def test_the_tightest_quota_counts(
    tmp_path: Path, files: dict[str, str], own: str, expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)

    assert cgroup_cpus(tmp_path, tmp_path / "own") == expected


def test_the_processor_is_named_or_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor @ 2 GHz\n")

    assert cpu_model(tmp_path / "cpuinfo") == "A Processor @ 2 GHz"
    assert cpu_model(tmp_path / "missing") == (platform.machine() or "unknown")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"CI": "false"}, None),
        ({"CI": "true"}, "CI"),
        ({"CI": "true", "GITHUB_ACTIONS": "true"}, "GitHub Actions"),
        ({"JENKINS_URL": "http://ci"}, "Jenkins"),
    ],
)
def test_the_ci_system_is_named(variables: dict[str, str], expected: str | None) -> None:
    assert ci_name(variables) == expected


def test_cores_and_memory_are_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = memory_bytes()
    assert memory is None or memory > 1e8
    assert usable_cores() >= 1

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory_bytes() is None
