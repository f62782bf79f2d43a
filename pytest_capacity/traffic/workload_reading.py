"""Reading workload models: everything is checked, and what is wrong is told with its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import yaml

from pytest_capacity.traffic.bursts import Shares
from pytest_capacity.traffic.reuse import KeyClass, KeyModel
from pytest_capacity.traffic.several_keys import FURTHER_UNIT, FurtherModel
from pytest_capacity.traffic.workload import (
    STATES,
    VERSION_FIELD,
    WORKLOAD_VERSION,
    Kind,
    SessionModel,
    State,
    Workload,
)

MOST_BYTES = 4 * 2**20
MOST_REQUESTS = 10_000_000
MOST_FURTHER_KEYS = 100_000_000


class WorkloadError(ValueError):
    """A file is no workload model: what is wrong, and where in it."""


def read_workload(path: Path) -> Workload:
    """Read a model.

    Raises WorkloadError, with the file and the place in it, for what is no model, OSError for an unreadable
    file.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    try:
        return parse_workload(data)
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error}") from error


def parse_workload(data: bytes | str) -> Workload:
    """A model from its YAML; raises WorkloadError with the line, or the field, that is wrong."""
    if len(data) > MOST_BYTES:
        raise WorkloadError(f"larger than {MOST_BYTES >> 20} MiB: no workload model is")
    try:
        document = yaml.safe_load(data)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise WorkloadError(f"{line}not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WorkloadError(f"not YAML: {error}") from error
    return from_mapping(document)


def from_mapping(document: object) -> Workload:
    """A model from plain data; raises WorkloadError with the field that is wrong."""
    fields = _Fields(document, "")
    version = fields.take(VERSION_FIELD, _integer, default=0)
    if version != WORKLOAD_VERSION:
        raise WorkloadError(
            f"{VERSION_FIELD} {version}: this version reads {WORKLOAD_VERSION} only"
            if version
            else f"no workload model: it has no {VERSION_FIELD!r}"
        )
    workload = Workload(
        name=fields.take("name", _text, default=""),
        class_=fields.take("class", _text, default=None),
        cycle_s=fields.take("cycle_s", _positive),
        tick_s=fields.take("tick_s", _positive, default=None),
        window_s=fields.take("window_s", _positive),
        halvings=fields.take("halvings", _many(_two_shares)),
        kinds=fields.take("kinds", _many(_kind)),
        keys=fields.take("keys", _keys, default=None),
        sessions=fields.take("sessions", _sessions, default=None),
        further=fields.take("further", _further, default=None),
        keeps_size=fields.take("keeps_size", _link, default={}),
        notes=fields.take("notes", _many(_text), default=()),
    )
    fields.done()
    _check(workload)
    return workload


def _check(workload: Workload) -> None:
    windows = math.ceil(workload.cycle_s / workload.window_s - 1e-9)
    for index, kind in enumerate(workload.kinds):
        if len(kind.arrivals) != windows:
            raise WorkloadError(
                f"kinds[{index}].arrivals: {len(kind.arrivals)} windows; cycle_s over window_s are {windows}"
            )
    if not 2 <= workload.requests <= MOST_REQUESTS:
        raise WorkloadError(
            f"kinds: {workload.requests} requests in all; 2 to {MOST_REQUESTS:,} are possible"
        )
    if len(workload.halvings) > 64:
        raise WorkloadError("halvings: 64 at most")
    if unknown := workload.keeps_size.keys() - (
        {unit for kind in workload.kinds for unit in kind.sizes} - {FURTHER_UNIT}
    ):
        raise WorkloadError(f"keeps_size: no kind has the size {', '.join(unknown)}")
    _check_further(workload)
    if workload.keys is None and workload.sessions is None and any(k.state != "none" for k in workload.kinds):
        raise WorkloadError("kinds: a state says 'new' or 'again', but there are neither keys nor sessions")


def _check_further(workload: Workload) -> None:
    counted = [(sum(kind.arrivals), kind.sizes.get(FURTHER_UNIT, (0.0,))) for kind in workload.kinds]
    if sum(requests * grid[-1] for requests, grid in counted) > MOST_FURTHER_KEYS:
        raise WorkloadError(f"kinds: sizes of {FURTHER_UNIT}: more than {MOST_FURTHER_KEYS:,} keys in all")
    if (workload.further is not None) != any(FURTHER_UNIT in kind.sizes for kind in workload.kinds):
        raise WorkloadError(f"further: goes together with the size {FURTHER_UNIT} of kinds")
    if workload.further is not None and workload.keys is None:
        raise WorkloadError("further: there are no first keys")


def _kind(value: object, place: str) -> Kind:
    fields = _Fields(value, place)
    sizes = fields.take("sizes", _grids, default={})
    kind = Kind(
        operation=fields.take("operation", _text),
        state=cast("State", fields.take("state", _state)),
        sizes=sizes,
        whole=fields.take("whole", _many(_text), default=()),
        links=fields.take("links", _many(_correlation), default=()),
        arrivals=fields.take("arrivals", _many(_count)),
    )
    fields.done()
    if len(kind.links) != len(sizes) * (len(sizes) - 1) // 2:
        raise WorkloadError(f"{place}.links: one for each pair of sizes")
    return kind


def _keys(value: object, place: str) -> KeyModel:
    fields = _Fields(value, place)
    found = KeyModel(
        classes=fields.take("classes", _many(_key_class)),
        recent=fields.take("recent", _count),
        recent_share=fields.take("recent_share", _correlation),
        recent_depth=fields.take("recent_depth", _ascending, default=()),
    )
    fields.done()
    if not found.classes or not found.recent:
        raise WorkloadError(f"{place}: one class, and one recent key, at least")
    if found.recent_share > 0 and not found.recent_depth:
        raise WorkloadError(f"{place}.recent_depth: missing")
    return found


def _key_class(value: object, place: str) -> KeyClass:
    fields = _Fields(value, place)
    found = KeyClass(
        keys=fields.take("keys", _count),
        again=fields.take("again", _count),
        new_at=fields.take("new_at", _ascending, default=()),
        again_at=fields.take("again_at", _ascending, default=()),
        depth=fields.take("depth", _ascending, default=()),
    )
    fields.done()
    if (found.keys and not found.new_at) or (found.again and not (found.again_at and found.depth)):
        raise WorkloadError(f"{place}: quantiles are missing")
    return found


def _further(value: object, place: str) -> FurtherModel:
    fields = _Fields(value, place)
    found = FurtherModel(
        keys=fields.take("keys", _keys, default=None),
        new_share=fields.take("new_share", _share),
        new_at=fields.take("new_at", _many_shares, default=()),
    )
    fields.done()
    if found.new_share and not found.new_at:
        raise WorkloadError(f"{place}.new_at: missing")
    return found


def _sessions(value: object, place: str) -> SessionModel:
    fields = _Fields(value, place)
    found = SessionModel(
        requests=fields.take("requests", _many(_ascending)),
        gaps_s=fields.take("gaps_s", _many(_ascending)),
        begun=fields.take("begun", _ascending),
        starts=fields.take("starts", _three_shares),
        later=fields.take("later", _three_shares),
        keeps_key=fields.take("keeps_key", _share),
    )
    fields.done()
    if not found.requests or len(found.requests) != len(found.gaps_s):
        raise WorkloadError(f"{place}: requests and gaps_s need as many parts as each other, one at least")
    return found


class _Fields:
    """The fields of a mapping, taken one by one; what is left over in the end is an error."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise WorkloadError(f"{place or 'the document'}: must be a mapping with names")
        self._left, self._place = dict(value), place

    def take(self, name: str, read: Callable[[object, str], Any], **default: Any) -> Any:
        """A field, checked; ``default`` where it is absent, an error without one."""
        place = f"{self._place}.{name}" if self._place else name
        if self._left.get(name) is None:
            self._left.pop(name, None)
            if "default" not in default:
                raise WorkloadError(f"{place}: missing")
            return default["default"]
        return read(self._left.pop(name), place)

    def done(self) -> None:
        if self._left:
            names = ", ".join(sorted(self._left))
            raise WorkloadError(f"{self._place or 'the document'}: unknown {names}")


def _number(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WorkloadError(f"{place}: {value!r} must be a finite number")
    return float(value)


def _within(low: float, high: float, what: str) -> Callable[[object, str], float]:
    def read(value: object, place: str) -> float:
        number = _number(value, place)
        if not low <= number <= high:
            raise WorkloadError(f"{place}: {value!r} must be {what}")
        return number

    return read


_positive = _within(1e-9, 1e12, "positive")
_share = _within(0, 1, "between 0 and 1")
_share_or_minus = _within(-1, 0.9999, "between -1 and 1")
_correlation = _within(-1, 1, "between -1 and 1")


def _integer(value: object, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WorkloadError(f"{place}: {value!r} must be a whole number")
    return value


def _count(value: object, place: str) -> int:
    if not 0 <= _integer(value, place) <= MOST_REQUESTS:
        raise WorkloadError(f"{place}: {value!r} must be between 0 and {MOST_REQUESTS:,}")
    return _integer(value, place)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise WorkloadError(f"{place}: {value!r} must be a text")
    return value


def _state(value: object, place: str) -> str:
    if value not in STATES:
        raise WorkloadError(f"{place}: {value!r} must be one of {', '.join(STATES)}")
    return cast("str", value)


def _many(read: Callable[[object, str], Any]) -> Callable[[object, str], tuple[Any, ...]]:
    def read_all(value: object, place: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise WorkloadError(f"{place}: must be a list")
        return tuple(read(one, f"{place}[{index}]") for index, one in enumerate(value))

    return read_all


def _ascending(value: object, place: str) -> tuple[float, ...]:
    grid: Sequence[float] = _many(_within(0, 1e15, "0 or more"))(value, place)
    if not grid or any(after < before for before, after in pairwise(grid)):
        raise WorkloadError(f"{place}: quantiles must ascend, one at least")
    return tuple(grid)


def _many_shares(value: object, place: str) -> tuple[float, ...]:
    grid = _ascending(value, place)
    if grid[-1] > 1:
        raise WorkloadError(f"{place}: {grid[-1]:g} must be between 0 and 1")
    return grid


def _grids(value: object, place: str) -> dict[str, tuple[float, ...]]:
    fields = _Fields(value, place)
    return {name: fields.take(name, _ascending) for name in cast("dict[str, object]", value)}


def _two_shares(value: object, place: str) -> Shares:
    shares = _many(_share_or_minus)(value, place)
    if len(shares) != 2:
        raise WorkloadError(f"{place}: one share for few and one for many requests")
    return (shares[0], shares[1])


def _link(value: object, place: str) -> dict[str, float]:
    fields = _Fields(value, place)
    links = {unit: fields.take(unit, _correlation) for unit in cast("dict[str, object]", value)}
    if len(links) > 1:
        raise WorkloadError(f"{place}: one unit at most")
    return links


def _three_shares(value: object, place: str) -> tuple[float, float, float]:
    shares = _many(_share)(value, place)
    if len(shares) != len(STATES):
        raise WorkloadError(f"{place}: one share for each of {', '.join(STATES)}")
    return (shares[0], shares[1], shares[2])
