"""What a test demands, read from its marker's or a call's arguments; standard library only."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pytest_capacity.slo import QUANTILE_NAME, SLO, AnySLO, OperationSLOs, slo_from_arguments

ARRIVALS = ("poisson", "constant")
TRACE_MODES = ("superpose", "compress")
MODEL_KEYS = ("name", "class", "size")
SESSIONS = ("timed", "causal")
TICKS = ("spread", "kept")
_TRACED = ("trace", "trace_mode", "trace_ticks", "sessions")


@dataclass(frozen=True)
class Demand:
    """The SLO and the rate that a test requires, and how it is to be measured.

    With a ``trace``, as it was written, recorded traffic is sent at that rate.
    """

    slo: AnySLO
    qps: float
    arrivals: str = "poisson"
    budget_s: float = 60.0
    min_s: float = 10.0
    max_in_flight: int | None = None
    model: Mapping[str, object] | None = None
    trace: str | None = None
    trace_mode: str = "superpose"
    trace_ticks: str = "spread"
    sessions: str = "timed"


@dataclass(frozen=True)
class ReplayDemand:
    """The SLO that recorded traffic must keep, at ``qps`` or at ``rate`` times the recorded rate."""

    slo: AnySLO
    trace: str
    qps: float | None = None
    rate: float = 1.0
    duration_s: float | None = None
    trace_mode: str = "superpose"
    trace_ticks: str = "spread"
    sessions: str = "timed"
    arrivals: str = "poisson"
    max_in_flight: int | None = None
    model: Mapping[str, object] | None = None


def read_marker(arguments: Mapping[str, object]) -> Demand | ReplayDemand:
    """Check a marker's arguments: with a trace and no ``qps`` it demands a replay.

    Raises TypeError or ValueError; the message says what is wrong and what was probably meant.
    """
    if arguments.get("trace") is not None and arguments.get("qps") is None:
        return read_replay_demand(arguments)
    return read_demand(arguments)


def read_demand(arguments: Mapping[str, object]) -> Demand:
    """Check the arguments of a sustain measurement.

    Raises TypeError or ValueError; the message says what is wrong and what was probably meant.
    """
    known = {"qps", "slo", "arrivals", "budget_s", "min_s", "max_in_flight", "model", "error_rate", *_TRACED}
    bounds = _bounds(arguments, known)
    if arguments.get("qps") is None:
        raise TypeError("qps is required: the rate, in requests a second, that must be sustained")
    qps = _positive("qps", arguments["qps"])
    return Demand(
        slo=_read_slo(arguments.get("slo"), {**bounds, "error_rate": arguments.get("error_rate")}),
        qps=qps,
        arrivals=_read_arrivals(arguments),
        budget_s=_positive("budget_s", arguments.get("budget_s", 60.0)),
        min_s=_positive("min_s", arguments.get("min_s", 10.0)),
        max_in_flight=_read_in_flight(arguments.get("max_in_flight")),
        model=_read_model(arguments.get("model")),
        trace=_read_trace(arguments),
        trace_mode=_read_choice(arguments, "trace_mode", TRACE_MODES),
        trace_ticks=_read_choice(arguments, "trace_ticks", TICKS),
        sessions=_read_choice(arguments, "sessions", SESSIONS),
    )


def read_replay_demand(arguments: Mapping[str, object]) -> ReplayDemand:
    """Check a replay's arguments.

    Raises TypeError or ValueError; the message says what is wrong and what was probably meant.
    """
    known = {"slo", "qps", "rate", "duration_s", "max_in_flight", "model", "error_rate", *_TRACED}
    bounds = _bounds(arguments, known)
    trace = _read_trace(arguments)
    if trace is None:
        raise TypeError("trace is required: the path of recorded traffic")
    if arguments.get("qps") is not None and arguments.get("rate") is not None:
        raise TypeError("qps and rate are given: say how fast to replay in one of the two")
    numbers = ("qps", "rate", "duration_s")
    qps, rate, duration_s = (
        None if arguments.get(name) is None else _positive(name, arguments[name]) for name in numbers
    )
    return ReplayDemand(
        slo=_read_slo(arguments.get("slo"), {**bounds, "error_rate": arguments.get("error_rate")}),
        trace=trace,
        qps=qps,
        rate=1.0 if rate is None else rate,
        duration_s=duration_s,
        trace_mode=_read_choice(arguments, "trace_mode", TRACE_MODES),
        trace_ticks=_read_choice(arguments, "trace_ticks", TICKS),
        sessions=_read_choice(arguments, "sessions", SESSIONS),
        max_in_flight=_read_in_flight(arguments.get("max_in_flight")),
        model=_read_model(arguments.get("model")),
    )


@dataclass(frozen=True)
class SearchDemand:
    """What a search is to find, what is required of it, and how it is to be measured."""

    slo: SLO
    require_qps: float | None = None
    allow: tuple[str, ...] = ()
    min_qps: float | None = None
    max_qps: float | None = None
    budget_s: float = 60.0
    tolerance: float = 0.08
    arrivals: str = "poisson"
    max_in_flight: int | None = None
    model: Mapping[str, object] | None = None
    trace: str | None = None
    trace_mode: str = "superpose"
    trace_ticks: str = "spread"
    sessions: str = "timed"


def read_search_demand(arguments: Mapping[str, object]) -> SearchDemand:
    """Check a search's arguments.

    Raises TypeError or ValueError; the message says what is wrong and what was probably meant.
    """
    rates = ("require_qps", "min_qps", "max_qps")
    known = {
        "slo",
        "allow",
        "budget_s",
        "tolerance",
        "arrivals",
        "max_in_flight",
        "model",
        "error_rate",
        *rates,
        *_TRACED,
    }
    bounds = _bounds(arguments, known)
    given = {name: arguments[name] for name in rates if arguments.get(name) is not None}
    low, high = (_positive(name, given[name]) if name in given else None for name in ("min_qps", "max_qps"))
    if low is not None and high is not None and low > high:
        raise ValueError(f"min_qps={low:g} is above max_qps={high:g}")
    slo = _read_slo(arguments.get("slo"), {**bounds, "error_rate": arguments.get("error_rate")})
    if not isinstance(slo, SLO):
        raise TypeError("a search takes one SLO: judge operations by sustain() or replay(), at a rate")
    return SearchDemand(
        slo=slo,
        require_qps=_positive("require_qps", given["require_qps"]) if "require_qps" in given else None,
        allow=_read_allow(arguments.get("allow")),
        min_qps=low,
        max_qps=high,
        budget_s=_positive("budget_s", arguments.get("budget_s", 60.0)),
        tolerance=_positive("tolerance", arguments.get("tolerance", 0.08)),
        arrivals=_read_arrivals(arguments),
        max_in_flight=_read_in_flight(arguments.get("max_in_flight")),
        model=_read_model(arguments.get("model")),
        trace=_read_trace(arguments),
        trace_mode=_read_choice(arguments, "trace_mode", TRACE_MODES),
        trace_ticks=_read_choice(arguments, "trace_ticks", TICKS),
        sessions=_read_choice(arguments, "sessions", SESSIONS),
    )


def _read_allow(value: object) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    statuses = tuple(value) if isinstance(value, Iterable) else (value,)
    if not all(isinstance(status, str) for status in statuses):
        raise TypeError(f"allow={value!r} must name statuses, such as 'budget'")
    return statuses


def _bounds(arguments: Mapping[str, object], known: set[str]) -> dict[str, object]:
    bounds = {name: value for name, value in arguments.items() if QUANTILE_NAME.fullmatch(name)}
    unknown = [name for name in arguments if name not in known and name not in bounds]
    if unknown:
        raise TypeError("; ".join(_unknown(name, known) for name in unknown))
    return bounds


def _read_arrivals(arguments: Mapping[str, object]) -> str:
    value = arguments.get("arrivals")
    if value is None:
        return "poisson"
    if value not in ARRIVALS:
        raise ValueError(f"arrivals={value!r} is neither 'poisson' nor 'constant'")
    if arguments.get("trace") is not None:
        raise TypeError("trace and arrivals are given: requests arrive as they were recorded")
    return str(value)


def _read_trace(arguments: Mapping[str, object]) -> str | None:
    value = arguments.get("trace")
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise TypeError(f"trace={value!r} must be a path of recorded traffic, such as 'peak.trace.jsonl.gz'")
    return os.fsdecode(value)


def _read_choice(arguments: Mapping[str, object], name: str, choices: tuple[str, ...]) -> str:
    """One of the ways to send a trace, the first unless given."""
    value = arguments.get(name)
    if value is None:
        return choices[0]
    if value not in choices:
        raise ValueError(f"{name}={value!r} is neither {choices[0]!r} nor {choices[1]!r}")
    if arguments.get("trace") is None:
        raise TypeError(f"{name} is given and no trace")
    return str(value)


def _read_slo(slo: object, bounds: Mapping[str, object]) -> AnySLO:
    given = [name for name, value in bounds.items() if value is not None]
    if slo is None:
        return slo_from_arguments(bounds)
    if given:
        raise TypeError(f"slo and {given[0]} are given: say all bounds in one of the two")
    if isinstance(slo, Mapping):
        return OperationSLOs(slo)
    if not isinstance(slo, SLO):
        raise TypeError(f"slo must be an SLO, such as SLO(p99_ms=50), or one by operation, not {slo!r}")
    return slo


def _unknown(name: str, known: set[str]) -> str:
    if name.startswith("p") and any(digit in name for digit in "0123456789"):
        try:
            slo_from_arguments({name: 1.0})
        except TypeError as error:
            return str(error).replace("unknown bound", "unknown argument")
    close = difflib.get_close_matches(name, [*known, "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms"], n=1)
    return f"unknown argument {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")


def _positive(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r} must be positive and finite")
    return float(value)


def _read_in_flight(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"max_in_flight={value!r} must be a whole number of at least 1")
    return value


def _read_model(value: object) -> Mapping[str, object] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not set(value) <= set(MODEL_KEYS) or "name" not in value:
        raise TypeError(f"model={value!r} must be a dict with 'name' and perhaps 'class' and 'size'")
    if not all(isinstance(part, (str, int, float)) for part in value.values()):
        raise TypeError(f"model={value!r} must hold text and numbers only")
    return value
