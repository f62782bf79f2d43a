"""A workload model: a small description of recorded traffic that may be shared where the recording may not.

It holds counts, quantiles and correlations: no body, no key, no session, no id, and arrivals only as counts
in the windows of its rate profile. The names of operations are in it, without queries, and of kinds with few
requests each one's sizes. As YAML it takes some tens of kilobytes at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pytest_capacity.traffic.atomic import written_whole
from pytest_capacity.traffic.bursts import Shares
from pytest_capacity.traffic.reuse import KeyClass, KeyModel
from pytest_capacity.traffic.several_keys import FurtherModel

WORKLOAD_VERSION = 1
VERSION_FIELD = "pytest_capacity_workload"

State = Literal["none", "new", "again"]
STATES: tuple[State, ...] = ("none", "new", "again")
"""Of a request's key, or of its session where no request has a key: has none, its first time, a later one."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that are alike: of one operation, with keys in one state, of about one size.

    ``sizes`` are quantile grids for each unit, ``whole`` the units that count in whole numbers, ``links`` the
    units' rank correlations (see ``grids.rank_links``). Among the units may be ``several_keys.FURTHER_UNIT``.
    ``arrivals`` counts the requests in each window of the rate profile.
    """

    operation: str
    state: State
    sizes: Mapping[str, tuple[float, ...]]
    whole: tuple[str, ...]
    links: tuple[float, ...]
    arrivals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SessionModel:
    """Sessions: quantiles of the requests in one and of the seconds between them.

    Both are given for sessions that begin in each of several equal parts of the cycle: one that begins late
    is cut off by the recording's end. ``begun`` are quantiles of when sessions begin, as shares of the cycle.
    ``starts`` and ``later`` give, for a request whose key is in each of ``STATES``, the chance that it begins
    a session or goes on with one. ``keeps_key`` is the chance that a request that goes on with a session, and
    whose key came before, has the key of the session's request before it.
    """

    requests: tuple[tuple[float, ...], ...]
    gaps_s: tuple[tuple[float, ...], ...]
    begun: tuple[float, ...]
    starts: tuple[float, float, float]
    later: tuple[float, float, float]
    keeps_key: float


@dataclass(frozen=True, slots=True)
class Workload:
    """Traffic as a model; ``halvings`` tell how it is clumped within a window (see ``bursts``).

    ``keeps_size`` names the unit, if any, in which a request is most like the one before with its key (or,
    without keys, in its session), with the rank correlation of the two. ``cycle_s`` is the length of what was
    recorded, ``tick_s`` the clock's tick where it was coarse. ``notes`` are warnings about the recording.
    """

    name: str
    class_: str | None
    cycle_s: float
    tick_s: float | None
    window_s: float
    halvings: tuple[Shares, ...]
    kinds: tuple[Kind, ...]
    keys: KeyModel | None
    sessions: SessionModel | None
    further: FurtherModel | None = None
    keeps_size: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """How many requests a cycle has."""
        return sum(sum(kind.arrivals) for kind in self.kinds)

    @property
    def rate_qps(self) -> float:
        """The mean rate that was recorded."""
        return self.requests / self.cycle_s


def write_text(path: Path, text: str) -> None:
    """Write a model's YAML, whole or not at all; raises OSError where it cannot be written."""
    with written_whole(path) as file:
        file.write(text.encode("utf-8"))


def as_text(workload: Workload) -> str:
    """The model as YAML."""
    text: str = yaml.safe_dump(as_mapping(workload), sort_keys=False, default_flow_style=None, width=110)
    return text


def as_mapping(workload: Workload) -> dict[str, Any]:
    """The model as plain data; what is absent is left out."""
    fields: dict[str, Any] = {
        VERSION_FIELD: WORKLOAD_VERSION,
        "name": workload.name,
        "class": workload.class_,
        "cycle_s": workload.cycle_s,
        "tick_s": workload.tick_s,
        "notes": list(workload.notes),
        "window_s": workload.window_s,
        "halvings": [list(shares) for shares in workload.halvings],
        "kinds": [_plain(kind) for kind in workload.kinds],
        "keeps_size": dict(workload.keeps_size),
        "keys": None if workload.keys is None else _keys_plain(workload.keys),
        "further": None if workload.further is None else _further_plain(workload.further),
        "sessions": None if workload.sessions is None else _plain(workload.sessions),
    }
    return {name: value for name, value in fields.items() if value not in (None, [], {})}


def _plain(part: Kind | KeyClass | KeyModel | SessionModel | FurtherModel) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in part.__dataclass_fields__:
        value = getattr(part, name)
        if isinstance(value, Mapping):
            value = {unit: list(grid) for unit, grid in value.items()}
        fields[name] = _as_list(value)
    return {name: value for name, value in fields.items() if value not in ([], {})}


def _keys_plain(keys: KeyModel) -> dict[str, Any]:
    fields = _plain(keys)
    fields["classes"] = [_plain(one) for one in keys.classes]
    return fields


def _further_plain(further: FurtherModel) -> dict[str, Any]:
    fields = _plain(further)
    keys = fields.pop("keys")
    return fields if keys is None else {"keys": _keys_plain(keys), **fields}


def _as_list(value: Any) -> Any:
    return [_as_list(one) for one in value] if isinstance(value, tuple) else value
