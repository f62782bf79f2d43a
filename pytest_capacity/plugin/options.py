"""The plugin's options: command line over environment over ini file over default.

They change where and how a test is measured, never what it demands.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

MODES = ("enforce", "report", "smoke", "off")
INCONCLUSIVE = ("fail", "warn")
XDIST = ("error", "lock")
ENGINES = ("fast", "aiohttp")


class Settings(NamedTuple):  # a dataclass would take a millisecond of every run
    """What the options say; ``overrides`` holds those that are not at their default, by name."""

    url: str | None
    directory: Path
    json_path: Path | None
    seed: int
    mode: str
    inconclusive: str
    xdist: str
    allow_hosts: tuple[str, ...]
    engine: str
    workers: int | None
    dry_run: bool
    max_qps: float
    max_requests: int
    max_s: float
    overrides: dict[str, str]


def add_options(parser: pytest.Parser) -> None:
    """Register the command-line options and their ini twins."""
    group = parser.getgroup("capacity", "capacity: load tests of model servers (pytest-capacity)")
    group.addoption(
        "--capacity-url",
        metavar="URL",
        help="target of the tests whose capacity_target fixture is not overridden",
    )
    group.addoption(
        "--capacity-dir", metavar="DIR", help="where the JSON artifacts go, one a test (default: .capacity)"
    )
    group.addoption("--capacity-json", metavar="FILE", help="also write the records of the whole run to FILE")
    group.addoption(
        "--capacity-seed", type=int, metavar="N", help="seed of arrivals and payloads (default: a fresh one)"
    )
    group.addoption(
        "--capacity-mode",
        choices=MODES,
        help="enforce: judge (default); report: measure and end as skipped; smoke: send 20 requests and "
        "judge their replies only; off: skip",
    )
    group.addoption(
        "--capacity-inconclusive",
        choices=INCONCLUSIVE,
        help="fail (default), or warn: an inconclusive test ends as skipped",
    )
    group.addoption(
        "--capacity-xdist",
        choices=XDIST,
        help="under pytest-xdist, error (default): capacity tests fail and say so; lock: they are measured "
        "one at a time, whatever else runs beside them",
    )
    group.addoption(
        "--capacity-allow-host",
        action="append",
        metavar="GLOB",
        help="allow load on hosts other than this machine; matched against name and addresses, repeatable",
    )
    group.addoption(
        "--capacity-engine",
        choices=ENGINES,
        help="what sends the load: fast (default), from processes of its own; or aiohttp, from this one",
    )
    group.addoption(
        "--capacity-workers",
        type=int,
        metavar="N",
        help="sending processes (default: as many as the rate needs and the cores allow)",
    )
    group.addoption(
        "--capacity-dry-run",
        action="store_true",
        help="print what each test would send and for how long, and send nothing",
    )
    parser.addini("capacity_url", "see --capacity-url", type="string", default="")
    parser.addini("capacity_dir", "see --capacity-dir", type="string", default="")
    parser.addini("capacity_json", "see --capacity-json", type="string", default="")
    parser.addini("capacity_mode", "see --capacity-mode", type="string", default="")
    parser.addini("capacity_inconclusive", "see --capacity-inconclusive", type="string", default="")
    parser.addini("capacity_xdist", "see --capacity-xdist", type="string", default="")
    parser.addini("capacity_engine", "see --capacity-engine", type="string", default="")
    parser.addini("capacity_workers", "see --capacity-workers", type="string", default="")
    parser.addini("capacity_allow_host", "see --capacity-allow-host", type="args", default=[])
    parser.addini(
        "capacity_max_qps", "ceiling: requests a second of any test", type="float", default=10_000.0
    )
    parser.addini("capacity_max_requests", "ceiling: requests of any test", type="int", default=2_000_000)
    parser.addini("capacity_max_s", "ceiling: seconds of load of any test", type="float", default=3_600.0)


def read_settings(config: pytest.Config) -> Settings:
    """Read every option once; raises UsageError for a value that none of them has."""
    overrides: dict[str, str] = {}

    def text(name: str) -> str:
        """The option's value from the first place that gives one, or an empty string."""
        environment = os.environ.get(f"PYTEST_{name.upper()}", "")
        value = config.getoption(name) or environment or str(config.getini(name) or "")
        if value:
            overrides[name] = str(value)
        return str(value)

    mode = _one_of("capacity_mode", text("capacity_mode") or "enforce", MODES)
    inconclusive = _one_of("capacity_inconclusive", text("capacity_inconclusive") or "fail", INCONCLUSIVE)
    xdist = _one_of("capacity_xdist", text("capacity_xdist") or "error", XDIST)
    hosts = (
        config.getoption("capacity_allow_host") or os.environ.get("PYTEST_CAPACITY_ALLOW_HOST", "").split()
    )
    hosts = hosts or config.getini("capacity_allow_host")
    if hosts:
        overrides["capacity_allow_host"] = " ".join(hosts)
    engine = _one_of("capacity_engine", text("capacity_engine") or "fast", ENGINES)
    json_path = text("capacity_json")
    return Settings(
        url=text("capacity_url") or None,
        directory=config.rootpath / (text("capacity_dir") or ".capacity"),
        json_path=config.invocation_params.dir / json_path if json_path else None,
        seed=_seed(config, overrides),
        mode=mode,
        inconclusive=inconclusive,
        xdist=xdist,
        allow_hosts=tuple(hosts),
        engine=engine,
        workers=_workers(text("capacity_workers")),
        dry_run=bool(config.getoption("capacity_dry_run")),
        max_qps=float(config.getini("capacity_max_qps")),
        max_requests=int(config.getini("capacity_max_requests")),
        max_s=float(config.getini("capacity_max_s")),
        overrides=overrides,
    )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise pytest.UsageError(f"{name}={value!r} is none of {', '.join(allowed)}")
    return value


def _workers(given: str) -> int | None:
    if not given:
        return None
    try:
        workers = int(given)
    except ValueError:
        raise pytest.UsageError(f"capacity_workers={given!r} is no whole number") from None
    if workers < 1:
        raise pytest.UsageError(f"capacity_workers={workers} must be at least 1")
    return workers


def _seed(config: pytest.Config, overrides: dict[str, str]) -> int:
    given = config.getoption("capacity_seed")
    if given is None:
        given = os.environ.get("PYTEST_CAPACITY_SEED")
    if given is None:
        return int.from_bytes(os.urandom(4), "big") >> 1
    try:
        seed = int(given)
    except ValueError:
        raise pytest.UsageError(f"capacity_seed={given!r} is no whole number") from None
    if seed < 0:
        raise pytest.UsageError(f"capacity_seed={seed} must not be negative")
    overrides["capacity_seed"] = str(seed)
    return seed
