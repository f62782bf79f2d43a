"""Where a test ran: machine, commit and versions. Thin reads that are quick and never raise.

What cannot be read is named ``unknown`` or left None: a record without a processor's name is worth more than
a test that fails for want of one. No host name, user or path is read.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

from pytest_capacity.protocols import Json
from pytest_capacity.results.shapes import Commit, Environment, Versions

GIT_TIMEOUT_S = 2.0
"""A repository on a stalled network drive must not hold up a test."""

_UNKNOWN = "unknown"
_CPUINFO_BYTES = 8192
_CI_VARIABLES = {
    "GITHUB_ACTIONS": "GitHub Actions",
    "GITLAB_CI": "GitLab CI",
    "JENKINS_URL": "Jenkins",
    "BUILDKITE": "Buildkite",
    "CIRCLECI": "CircleCI",
    "TF_BUILD": "Azure Pipelines",
    "BITBUCKET_BUILD_NUMBER": "Bitbucket Pipelines",
    "CODEBUILD_BUILD_ID": "AWS CodeBuild",
    "TEAMCITY_VERSION": "TeamCity",
    "TRAVIS": "Travis CI",
    "DRONE": "Drone",
    "CI": "CI",
}


def environment(
    *, mode: str, overrides: Mapping[str, Json] | None = None, started_at: datetime | None = None
) -> Environment:
    """Machine and interpreter as the record holds them.

    ``overrides`` are options that were given on the command line or by environment variables, by name.
    ``started_at`` is an aware time, by default now.
    """
    started_at = (started_at or datetime.now(timezone.utc)).astimezone(timezone.utc)
    return {
        "started_at": started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "cgroup_cpus": cgroup_cpus(),
        "memory_bytes": memory_bytes(),
        "ci": ci_name(os.environ),
        "mode": mode,
        "overrides": dict(overrides or {}),
    }


def commit(directory: Path | str) -> Commit | None:
    """The commit checked out at ``directory``; None without git, a repository or a commit."""
    command = ["git", "--no-optional-locks", "-C", str(directory)]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    answer = _output(command, GIT_TIMEOUT_S)
    lines = answer.splitlines()
    header = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# ") and " " in line[2:])
    identity, branch = header.get("branch.oid", ""), header.get("branch.head")
    if not identity or identity == "(initial)":
        return None
    return {
        "id": identity,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("#") for line in lines),
    }


def versions() -> Versions:
    """Versions of the packages that measured; None for one that is not installed."""
    return {
        "pytest_capacity": _version("pytest-capacity"),
        "pytest": _version("pytest"),
        "python": platform.python_version(),
        "aiohttp": _version("aiohttp"),
        "numpy": _version("numpy"),
        "tdigest": _version("tdigest"),
        "uvloop": _version("uvloop"),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, its architecture where the system tells no more."""
    if sys.platform == "darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"], 1.0).strip()
        return name or platform.machine() or _UNKNOWN
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in {"model name", "hardware", "cpu model"} and value.strip():
            return value.strip()
    return platform.machine() or _UNKNOWN


def usable_cores() -> int:
    """The number of CPUs on which this process may run, before any quota."""
    count = getattr(os, "process_cpu_count", os.cpu_count)
    if not hasattr(os, "process_cpu_count") and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return count() or 1


def cgroup_cpus(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs granted by the tightest quota from this process's control group upwards; None without a quota."""
    groups = [line[3:].lstrip("/") for line in _read(own).splitlines() if line.startswith("0::")]
    # A container without a cgroup namespace names a path that it cannot see; its own group is then the root.
    directories = [root, *(directory for group in groups for directory in _upwards(root, group))]
    quotas = [_quota(_read(directory / "cpu.max")) for directory in directories]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_bytes() -> int | None:
    """The machine's memory in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def ci_name(variables: Mapping[str, str]) -> str | None:
    """The CI system that set these environment variables; None outside of one."""
    for variable, name in _CI_VARIABLES.items():
        if variables.get(variable, "").lower() not in {"", "false", "0"}:
            return name
    return None


def _upwards(root: Path, group: str) -> list[Path]:
    parts = [part for part in group.split("/") if part and part != ".."]
    return [root.joinpath(*parts[:length]) for length in range(1, len(parts) + 1)]


def _quota(text: str) -> float | None:
    """CPUs of a ``cpu.max``: ``150000 100000`` are 1.5, ``max 100000`` is no quota."""
    try:
        quota_us, period_us = (float(part) for part in text.split())
    except ValueError:
        return None
    return quota_us / period_us if 0 < quota_us < float("inf") and period_us > 0 else None


def _read(path: Path) -> str:
    """A file's beginning; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_CPUINFO_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _output(command: list[str], timeout_s: float) -> str:
    """What a command prints; empty where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603 - fixed commands; only git's directory comes from outside
            command, capture_output=True, timeout=timeout_s, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
