"""What a simulated server is: plain data, from keyword arguments or YAML (design.md section 6)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml


class ServerError(ValueError):
    """A description of a server that makes no sense; the message names the field."""


@dataclass(frozen=True)
class Pause:
    """All slots stand still for ``duration_s`` at every multiple of ``every_s``.

    Each is shifted by a uniform share of plus or minus ``jitter`` times ``every_s``.
    """

    every_s: float
    duration_s: float
    jitter: float = 0.0
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"jitter"})


@dataclass(frozen=True)
class Spikes:
    """All slots stand still at the times of a Poisson process, for lengths drawn uniformly."""

    rate_hz: float
    low_s: float
    high_s: float
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"low_s"})


@dataclass(frozen=True)
class Neighbour:
    """Slow spells: batches that start in one take ``factor`` times as long; lengths are exponential."""

    on_s: float
    off_s: float
    factor: float
    may_be_zero: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Cold:
    """Work is slower at first, by 1 + (factor - 1) exp(-n / requests) after n requests have started."""

    factor: float
    requests: float
    start_s: float = 0.0
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"start_s"})


@dataclass(frozen=True)
class Overload:
    """Batches are slower while more than ``backlog`` requests wait, and for ``recover_s`` after."""

    backlog: float
    factor: float
    recover_s: float
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"backlog", "recover_s"})


Part = TypeVar("Part", Pause, Spikes, Neighbour, Cold, Overload)
_PARTS = {"pause": Pause, "spikes": Spikes, "neighbour": Neighbour, "cold": Cold, "overload": Overload}
MOST_NUMBER = 1e9
"""No time, size, count or factor of a server is larger."""
MOST_BYTES = 2**20
MOST = {
    "workers": 1_000_000,
    "batch_max": 1_000_000,
    "size.lognormal_sigma": 4.0,
    "pause.jitter": 1000.0,
    "spikes.rate_hz": 1000.0,
}
LEAST = {"pause.every_s": 0.001, "neighbour.on_s": 0.001, "neighbour.off_s": 0.001}
"""What is drawn more often would take hours to play; of sizes spread wider none is like their mean."""
EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
MOST_SPIKES_AT_ONCE = 4.0
"""With four spikes at any moment the server works 2 % of the time; with many more it never does."""
_MAY_BE_ZERO = frozenset({"batch_wait_s", "cost_base_s", "cost_item_s", "overhead_s"})


@dataclass(frozen=True)
class ServerSpec:
    """A server: slots, batches, costs and misbehaviour; every field as in design.md section 6.

    ``sizes`` is a list to draw from, uniformly with replacement; ``lognormal_sigma`` a spread around mean 1;
    with neither every size is 1. Times in seconds.
    """

    workers: int = 1
    batch_max: int = 1
    batch_wait_s: float = 0.0
    cost_base_s: float = 0.0
    cost_item_s: float = 0.0
    overhead_s: float = 0.0005
    lognormal_sigma: float | None = None
    sizes: tuple[float, ...] | None = None
    queue_max: int | None = None
    timeout_s: float = 5.0
    pause: Pause | None = None
    spikes: Spikes | None = None
    neighbour: Neighbour | None = None
    cold: Cold | None = None
    overload: Overload | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "batch_max", "queue_max"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ServerError(f"{name}={value!r} must be a whole number of at least 1")
            if value is not None and value > MOST.get(name, math.inf):
                raise ServerError(f"{name} must be at most {MOST[name]:,}")
        for name in ("batch_wait_s", "cost_base_s", "cost_item_s", "overhead_s", "timeout_s"):
            _check_number(name, getattr(self, name), may_be_zero=name in _MAY_BE_ZERO)
        self._check_load()

    def _check_load(self) -> None:
        if self.cost_base_s + self.cost_item_s <= 0:
            raise ServerError("cost_base_s and cost_item_s are both 0: the server would take any load")
        if self.cost_base_s == 0 and self.sizes is not None and not any(self.sizes):
            raise ServerError("size holds only 0 and cost_base_s is 0: the server would take any load")
        if self.pause is not None and self.pause.duration_s >= self.pause.every_s:
            raise ServerError("pause.duration_s must be below pause.every_s: the server would never work")
        if self.spikes is not None:
            low_s, high_s = self.spikes.low_s, self.spikes.high_s
            if low_s > high_s:
                raise ServerError(f"spikes.low_s={low_s!r} is above spikes.high_s={high_s!r}")
            if self.spikes.rate_hz * (low_s + high_s) / 2 > MOST_SPIKES_AT_ONCE:
                raise ServerError("spikes.rate_hz is too high for such lengths: the server would hardly work")

    @classmethod
    def of(cls, description: Mapping[str, Any]) -> ServerSpec:
        """Read a mapping such as a YAML file holds; raises ServerError naming what is wrong."""
        if not isinstance(description, Mapping):
            raise ServerError("a server is described by a mapping of fields to values")
        known = {field.name for field in fields(cls)} - {"lognormal_sigma", "sizes"} | {"size"}
        values: dict[str, Any] = {}
        for name, value in description.items():
            if name not in known:
                near = get_close_matches(str(name), known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
                raise ServerError(f"{name!r} is no field of a server{hint}")
            if value is None:
                continue
            if name == "size":
                values.update(_size(value))
            elif name in _PARTS:
                values[name] = _part(name, _PARTS[name], value)
            else:
                values[name] = value
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> ServerSpec:
        """Read a YAML file; raises ServerError with the file's name, or OSError."""
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ServerError(f"{path}: larger than {MOST_BYTES >> 20} MiB: no server's description is")
        try:
            return cls.of(_with_numbers(yaml.load(data, _NoKeyTwice)))  # noqa: S506 - a safe loader
        except yaml.MarkedYAMLError as error:
            line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
            raise ServerError(f"{path}: {line}not YAML: {error.problem or error.context}") from error
        except RecursionError as error:
            raise ServerError(f"{path}: nested too deeply") from error
        except (yaml.YAMLError, ValueError) as error:
            raise ServerError(f"{path}: {' '.join(str(error).split())}") from error


class _NoKeyTwice(yaml.SafeLoader):
    """YAML lets the last of two equal keys win; here the second is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _with_numbers(value: Any) -> Any:
    """What YAML 1.1 reads as text, such as 1e-3, as the numbers that it was meant to be."""
    if isinstance(value, dict):
        return {name: _with_numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _size(value: object) -> dict[str, object]:
    if isinstance(value, Mapping):
        if set(value) != {"lognormal_sigma"}:
            raise ServerError("size takes {lognormal_sigma: s} or a list of numbers")
        _check_number("size.lognormal_sigma", value["lognormal_sigma"], may_be_zero=True)
        return {"lognormal_sigma": float(value["lognormal_sigma"])}
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        for item in value:
            _check_number("size", item, may_be_zero=True)
        return {"sizes": tuple(float(item) for item in value)}
    raise ServerError(f"size={value!r} must be {{lognormal_sigma: s}} or a list of numbers")


def _part(name: str, kind: type[Part], value: object) -> Part:
    names = {field.name for field in fields(kind)}
    if not isinstance(value, Mapping) or not set(value) <= names:
        raise ServerError(
            f"{name} takes {{{', '.join(field.name for field in fields(kind))}}}, not {value!r}"
        )
    for field_name, number in value.items():
        _check_number(f"{name}.{field_name}", number, may_be_zero=field_name in kind.may_be_zero)
    try:
        return kind(**value)
    except TypeError as error:
        missing = ", ".join(sorted(_required(kind) - set(value)))
        raise ServerError(f"{name} needs {missing}") from error


def _required(kind: type[Any]) -> set[str]:
    return {field.name for field in fields(kind) if field.name not in ("jitter", "start_s")}


def _check_number(name: str, value: object, *, may_be_zero: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ServerError(f"{name}={value!r} must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ServerError(f"{name}={value!r} must be a number, and finite")
    if value < 0 or (value == 0 and not may_be_zero):
        raise ServerError(f"{name}={value!r} must be {'at least 0' if may_be_zero else 'positive'}")
    if value < LEAST.get(name, 0.0):
        raise ServerError(f"{name}={value!r} must be at least {LEAST[name]:g}")
    if value > MOST.get(name, MOST_NUMBER):
        raise ServerError(f"{name} must be at most {MOST.get(name, MOST_NUMBER):,g}")
