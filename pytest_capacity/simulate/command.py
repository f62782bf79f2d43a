"""What ``pytest-capacity simulate`` answers: controllers played on a described server, or its truth."""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pytest_capacity.protocols import Json
from pytest_capacity.search.capacity import CapacitySearch
from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.found import CapacityResult
from pytest_capacity.search.sustain import Sustain
from pytest_capacity.search.verdict import judge_search
from pytest_capacity.simulate.arriving import Arriving, constant, poisson, read_times, replayed
from pytest_capacity.simulate.drive import Controller, Drive
from pytest_capacity.simulate.server import SimulatedServer
from pytest_capacity.simulate.spec import ServerSpec
from pytest_capacity.simulate.truth import bad_shares, find_truth
from pytest_capacity.slo import SLO, Verdict

BUDGET_S, TOLERANCE, SECONDS, SEEDS = 60.0, 0.08, 5000.0, "0"
MOST_SEEDS = 10_000
MOST_BUDGET_S = 100_000.0
MOST_REQUESTS = 20_000_000
"""They take half a minute and some gigabytes."""

Answer = tuple[Json, list[str]]
"""One JSON document, and the same in lines for people."""

_FOUND = ("capacity_qps", "ci_low_qps", "ci_high_qps", "condition_number", "status", "load_s", "requests")
_OPTIONS_OF = {
    "a search": {"budget_s", "tolerance", "min_qps", "max_qps", "require_qps"},
    "--sustain-qps": {"budget_s"},
    "--at-qps": {"seconds"},
    "--truth": set[str](),
}


@dataclass(frozen=True)
class Setting:
    """What is simulated: a server, its arrivals for a seed, and the SLO that it is judged by."""

    spec: ServerSpec
    slo: SLO
    make_arrivals: Callable[[int], Arriving]

    def play(self, controller: Controller, seed: int, extend: Callable[[], bool]) -> None:
        """Play a controller to its end."""
        limit_ms = self.slo.largest_limit_ms
        limit_s = None if limit_ms is None else limit_ms / 1000
        Drive(SimulatedServer(self.spec, seed), self.make_arrivals(seed), limit_s).play(controller, extend)


def answer(options: argparse.Namespace, slo: SLO) -> Answer:
    """Simulate what the command line asks for; nothing in the document is NaN or infinite.

    Raises ValueError for a server, seeds or options that make no sense, OSError for an unreadable file.
    """
    kind = _kind(options)
    _check_options(options, kind)
    seeds = read_seeds(SEEDS if options.seeds is None else options.seeds)
    setting = Setting(ServerSpec.load(options.server), slo, _arrivals(options))
    if kind == "a search":
        return _search(setting, options, seeds)
    if kind == "--sustain-qps":
        return _sustain(setting, options, seeds)
    if len(seeds) > 1:
        raise ValueError(f"--seeds {options.seeds}: {kind} takes one seed")
    if kind == "--at-qps":
        return _long_run(setting, options, seeds[0])
    return _truth(setting, seeds[0])


def read_seeds(text: str) -> list[int]:
    """The seeds in a text such as ``3``, ``0-11`` or ``1,4,7-9``; raises ValueError where it is none."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < first + MOST_SEEDS:
            raise ValueError(f"--seeds {text}: give seeds like 3, 0-11 or 1,4,7-9")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def _kind(options: argparse.Namespace) -> str:
    if options.truth:
        return "--truth"
    if options.at_qps is not None:
        return "--at-qps"
    return "a search" if options.sustain_qps is None else "--sustain-qps"


def _check_options(options: argparse.Namespace, kind: str) -> None:
    for name in sorted(set[str]().union(*_OPTIONS_OF.values())):
        if getattr(options, name) is not None and name not in _OPTIONS_OF[kind]:
            raise ValueError(f"--{name.replace('_', '-')} has no meaning with {kind}")
    for name in ("at_qps", "seconds", "budget_s"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} must be positive")
    if options.budget_s is not None and options.budget_s > MOST_BUDGET_S:
        raise ValueError(f"--budget-s {options.budget_s:g}: at most {MOST_BUDGET_S:,.0f}")
    if options.at_qps is not None:
        _check_count("--at-qps", options.at_qps, "--seconds", options.seconds or SECONDS)
    if options.sustain_qps is not None:
        _check_count("--sustain-qps", options.sustain_qps, "--budget-s", options.budget_s or BUDGET_S)


def _check_count(rate_name: str, rate_qps: float, time_name: str, seconds: float) -> None:
    if rate_qps * seconds > MOST_REQUESTS:
        raise ValueError(
            f"{rate_name} {rate_qps:g} and {time_name} {seconds:g} are {rate_qps * seconds:.3g} requests; "
            f"at most {MOST_REQUESTS:,} are simulated"
        )


def _arrivals(options: argparse.Namespace) -> Callable[[int], Arriving]:
    """Arrivals by their seed, independent of what the server draws under the same one.

    The server's streams are spawned from the seed, so that none of them is the seed's own.
    """
    if options.trace is not None:
        times_s = read_times(options.trace)
        try:
            replayed(times_s)
        except ValueError as error:
            raise ValueError(f"{options.trace}: {error}") from error
        return lambda _seed: replayed(times_s)
    return poisson if options.arrivals != "constant" else lambda _seed: constant()


def _search(setting: Setting, options: argparse.Namespace, seeds: list[int]) -> Answer:
    document: list[dict[str, Any]] = []
    lines = []
    for seed in seeds:
        search = CapacitySearch(
            setting.slo,
            budget_s=options.budget_s or BUDGET_S,
            tolerance=TOLERANCE if options.tolerance is None else options.tolerance,
            min_qps=options.min_qps,
            max_qps=options.max_qps,
            require_qps=options.require_qps,
            seed=seed,
        )
        setting.play(search, seed, search.extend)
        found = search.result()
        verdict, doubts = judge_search(found, options.require_qps)
        fields = asdict(found)
        document.append(
            {"seed": seed, "verdict": verdict.value}
            | {name: _finite(fields[name]) for name in _FOUND}
            | {"doubts": [doubt.text for doubt in doubts]}
        )
        lines.append(_line(seed, found, verdict if options.require_qps else None, doubts))
    return document, [*lines, _summary(document)]


def _line(seed: int, found: CapacityResult, verdict: Verdict | None, doubts: Iterable[Doubt]) -> str:
    said = f"seed {seed}: {f'{verdict.value}, ' if verdict else ''}{_rate(found.capacity_qps)}"
    said += f" ({_rate(found.ci_low_qps)} to {_rate(found.ci_high_qps)}), {found.status}, "
    said += f"{found.load_s:.4g} s, {found.requests:,} requests"
    return "; ".join([said, *(doubt.text for doubt in doubts)])


def _summary(document: list[dict[str, Any]]) -> str:
    known = [found["capacity_qps"] for found in document if found["capacity_qps"] is not None]
    load_s = statistics.fmean(found["load_s"] for found in document)
    capacity = "no capacity found"
    if known:
        capacity = f"median {_rate(statistics.median(known))} ({_rate(min(known))} to {_rate(max(known))})"
    statuses = _tally(found["status"] for found in document)
    return f"{len(document)} searched: {capacity}; {statuses}; {load_s:.4g} s of load each"


def _sustain(setting: Setting, options: argparse.Namespace, seeds: list[int]) -> Answer:
    document: list[dict[str, Json]] = []
    lines = []
    for seed in seeds:
        sustain = Sustain(setting.slo, options.sustain_qps, budget_s=options.budget_s or BUDGET_S, seed=seed)
        setting.play(sustain, seed, sustain.extend)
        result = sustain.result()
        verdict = result.verdict.value if result.verdict else None
        document.append(
            {"seed": seed, "verdict": verdict, "load_s": result.load_s, "requests": result.requests}
        )
        said = f"seed {seed}: {verdict}, {result.load_s:.4g} s, {result.requests:,} requests"
        lines.append("; ".join([said, *(doubt.text for doubt in result.doubts)]))
    return document, [*lines, f"{len(seeds)} tried: {_tally(str(one['verdict']) for one in document)}"]


def _long_run(setting: Setting, options: argparse.Namespace, seed: int) -> Answer:
    seconds, arrivals = options.seconds or SECONDS, setting.make_arrivals(seed)
    shares, requests = bad_shares(
        setting.spec, setting.slo, options.at_qps, seconds, arrivals=arrivals, seed=seed
    )
    if not requests:
        raise ValueError(f"no request came in --seconds {seconds:g} at {options.at_qps:g}/s: nothing to tell")
    # Who fails is late under every bound, who is late under a large one is so under a small one too: what
    # is bad under any bound is bad under the strictest.
    bad = float(shares.max())
    line = f"{bad * 100:.4g} % of {requests:,} requests bad at {options.at_qps:g}/s"
    return {"bad_fraction": bad, "requests": requests}, [line]


def _truth(setting: Setting, seed: int) -> Answer:
    truth = find_truth(setting.spec, setting.slo, setting.make_arrivals, seed=seed)
    capacity, number = _finite(truth.capacity_qps), _finite(truth.condition_number)
    line = "no rate keeps the SLO"
    if truth.capacity_qps is not None:
        line = f"capacity {_rate(truth.capacity_qps)}, condition number {truth.condition_number or 0:.3g}"
    return {"capacity_qps": capacity, "condition_number": number}, [line]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rate(value: float | None) -> str:
    return "?" if value is None else f"{value:,.4g}/s"


def _tally(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common())
