"""What is promised: an SLO, its bounds, and how a broken promise is named.

Only the standard library is imported here, since markers are checked while pytest collects.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

DEFAULT_ERROR_RATE = 0.01
"""The share of failed requests allowed where an SLO names none (design.md section 5)."""

QUANTILE_NAME = re.compile(r"p(\d{1,2})(?:_(\d{1,4}))?_ms")


class Verdict(str, Enum):
    """What a measurement says about a requirement."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    MEASURED = "MEASURED"
    """A capacity was found and nothing was required of it: neither a pass nor a fail."""

    def __str__(self) -> str:
        return self.value


class SLOViolation(AssertionError):
    """The server was shown not to hold its SLO; the message names every breach."""


class Inconclusive(Exception):
    """The measurement supports neither a pass nor a fail; the message says why and what to try."""


class CapacityUsageError(Exception):
    """What was asked for cannot be measured. No load was sent; the message says what to do."""


@dataclass(frozen=True)
class Bound:
    """One promise about all requests of the long run.

    A latency bound (``limit_ms`` set) allows at most ``allowed_share`` of the requests to be slower than
    ``limit_ms``, a failed one counting as infinitely slow. An error bound (``limit_ms`` None) allows at
    most ``allowed_share`` of them to fail. With an ``operation`` it is about that operation's requests only.
    """

    name: str
    allowed_share: float
    limit_ms: float | None = None
    operation: str = ""

    @property
    def quantile(self) -> float | None:
        """The latency quantile that ``limit_ms`` bounds (0.99 for p99), or None for an error bound."""
        return None if self.limit_ms is None else 1.0 - self.allowed_share

    @property
    def label(self) -> str:
        """The bound as a person writes it: ``p99.9``, ``error_rate``, ``rank p99``."""
        return f"{self.operation} {self.plain_label}" if self.operation else self.plain_label

    @property
    def plain_label(self) -> str:
        """The same without its operation."""
        return self.name if self.limit_ms is None else self.name.removesuffix("_ms").replace("_", ".")

    @property
    def limit_text(self) -> str:
        """The bound's limit with its unit: ``50 ms`` or ``1 %``."""
        return f"{self.allowed_share * 100:.4g} %" if self.limit_ms is None else f"{self.limit_ms:g} ms"


@dataclass(frozen=True)
class Breach:
    """A bound that was shown not to hold, with the evidence.

    Shares are of all requests that count as evidence. ``measured_ms`` and its interval are the bounded
    latency quantile, None for an error bound; ``inf`` where so many requests failed or stayed unanswered
    that the quantile lies among them.
    """

    bound: Bound
    bad_share: float
    share_low: float
    share_high: float
    measured_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None

    @property
    def margin(self) -> float:
        """How many times the allowed share was used: 3.1 where 3.1 % were bad and 1 % is allowed."""
        return self.bad_share / self.bound.allowed_share

    def describe(self) -> str:
        """The breach in a line: what broke, by how much, and between which limits the truth lies."""
        what = "failed" if self.bound.limit_ms is None else "late"
        return (
            f"{self.bound.label} > {self.bound.limit_text}: {self.bad_share * 100:.3g} % of requests {what} "
            f"({self.share_low * 100:.3g}-{self.share_high * 100:.3g}), "
            f"{self.bound.allowed_share * 100:.4g} % allowed"
        )


class SLO:
    """Bounds on latency quantiles and on the error rate, all of which must hold in the long run.

    ``p99_ms=50`` allows 1 % of the requests to be slower than 50 ms. Any quantile can be bounded by its
    name: ``p97_ms``, ``p99_9_ms`` (99.9 %), ``p99_95_ms``. ``error_rate`` is the share of requests, above 0
    and below 1, that may fail; where it is not given, 1 % applies and ``error_rate_is_default`` is True.

    Raises TypeError for an unknown name and ValueError for a value that no measurement could judge.
    """

    __slots__ = ("bounds", "error_rate", "error_rate_is_default")

    bounds: tuple[Bound, ...]
    error_rate: float
    error_rate_is_default: bool

    def __init__(
        self,
        *,
        p50_ms: float | None = None,
        p90_ms: float | None = None,
        p95_ms: float | None = None,
        p99_ms: float | None = None,
        p99_9_ms: float | None = None,
        error_rate: float | None = None,
        **other_quantiles_ms: float,
    ) -> None:
        named = {"p50_ms": p50_ms, "p90_ms": p90_ms, "p95_ms": p95_ms, "p99_ms": p99_ms, "p99_9_ms": p99_9_ms}
        limits = {name: limit for name, limit in named.items() if limit is not None}
        for name, limit in other_quantiles_ms.items():
            if not QUANTILE_NAME.fullmatch(name):
                raise TypeError(f"unknown bound {name!r}{_did_you_mean(name)}")
            limits[name] = limit
        if not limits and error_rate is None:
            raise ValueError("an SLO needs at least one bound, such as p99_ms=50 or error_rate=0.01")
        self.error_rate_is_default = error_rate is None
        self.error_rate = DEFAULT_ERROR_RATE if error_rate is None else _share("error_rate", error_rate)
        latency = sorted((_latency_bound(name, limit) for name, limit in limits.items()), key=_by_share)
        self.bounds = (*latency, Bound("error_rate", self.error_rate))
        _check_order(latency)

    @property
    def latency_bounds(self) -> tuple[Bound, ...]:
        """The bounds on latency, from the lowest quantile to the highest."""
        return tuple(bound for bound in self.bounds if bound.limit_ms is not None)

    @property
    def largest_limit_ms(self) -> float | None:
        """The age at which a request is late under every latency bound; None where there is none."""
        return max((bound.limit_ms for bound in self.bounds if bound.limit_ms is not None), default=None)

    def to_dict(self) -> dict[str, float]:
        """The SLO's own arguments, the error rate always among them."""
        limits = {bound.name: bound.limit_ms for bound in self.bounds if bound.limit_ms is not None}
        return {**limits, "error_rate": self.error_rate}

    def describe(self) -> str:
        """The SLO as a person says it: ``p99 <= 50 ms, errors <= 1 %``."""
        parts = [f"{bound.plain_label} <= {bound.limit_text}" for bound in self.latency_bounds]
        default = " (default)" if self.error_rate_is_default else ""
        return ", ".join([*parts, f"errors <= {self.error_rate * 100:.4g} %{default}"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SLO) and self.bounds == other.bounds

    def __hash__(self) -> int:
        return hash(self.bounds)

    def __repr__(self) -> str:
        return f"SLO({', '.join(f'{name}={value:g}' for name, value in self.to_dict().items())})"

    def of_operation(self, operation: str) -> SLO:
        """The same bounds about one operation's requests."""
        theirs = SLO(**self.to_dict())
        theirs.bounds = tuple(replace(bound, operation=operation) for bound in self.bounds)
        theirs.error_rate_is_default = self.error_rate_is_default
        return theirs


class OperationSLOs:
    """An SLO for each of several operations, judged by that operation's requests alone.

    Operations without one are sent and not judged. Raises TypeError or ValueError for what holds no SLOs.
    """

    __slots__ = ("by_operation",)

    by_operation: Mapping[str, SLO]

    def __init__(self, by_operation: Mapping[str, SLO]) -> None:
        if not by_operation:
            raise ValueError("slo={} names no operation; write slo={'rank': SLO(p99_ms=50)}")
        for name, slo in by_operation.items():
            if not isinstance(name, str) or not name or not isinstance(slo, SLO):
                raise TypeError(
                    f"slo must hold an SLO by operation, as in {{'rank': SLO(p99_ms=50)}}: {name!r}"
                )
        self.by_operation = {name: slo.of_operation(name) for name, slo in by_operation.items()}

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Every operation's bounds, each naming its operation."""
        return tuple(bound for slo in self.by_operation.values() for bound in slo.bounds)

    @property
    def largest_limit_ms(self) -> float | None:
        """The age at which a request is late under every latency bound; None where one has none."""
        limits = [slo.largest_limit_ms for slo in self.by_operation.values()]
        known = [limit for limit in limits if limit is not None]
        return max(known) if len(known) == len(limits) else None

    @property
    def error_rate_is_default(self) -> bool:
        """Whether the default error rate applies to any of them."""
        return any(slo.error_rate_is_default for slo in self.by_operation.values())

    def to_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """Every SLO's own arguments, by operation."""
        return {"operations": {name: slo.to_dict() for name, slo in self.by_operation.items()}}

    def describe(self) -> str:
        """All of them as a person says it: ``rank: p99 <= 50 ms, errors <= 1 %; embed: ...``."""
        return "; ".join(f"{name}: {slo.describe()}" for name, slo in self.by_operation.items())

    def __repr__(self) -> str:
        return f"OperationSLOs({dict(self.by_operation)!r})"


AnySLO: TypeAlias = "SLO | OperationSLOs"


def slo_from_arguments(arguments: Mapping[str, object]) -> SLO:
    """Make an SLO of a marker's or a command's arguments; those that are None are left out.

    Raises TypeError and ValueError as SLO does, and TypeError for a value that is no number.
    """
    given: dict[str, float] = {}
    for name, value in arguments.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, not {value!r}")
        given[name] = float(value)
    return SLO(**given)


def _by_share(bound: Bound) -> float:
    return -bound.allowed_share


def _latency_bound(name: str, limit_ms: float) -> Bound:
    match = QUANTILE_NAME.fullmatch(name)
    if match is None:
        raise TypeError(f"unknown bound {name!r}")
    percent = f"{match[1]}.{match[2] or '0'}"
    # The decimal digits give the share exactly; 1 - 0.999 would carry a rounding error into every test.
    allowed_share = round(100 - float(percent), 6) / 100
    if not 0 < allowed_share < 1:
        raise ValueError(f"{name} bounds no quantile between 0 and 100")
    if not (isinstance(limit_ms, (int, float)) and math.isfinite(limit_ms) and limit_ms > 0):
        raise ValueError(f"{name}={limit_ms!r} must be a positive number of milliseconds")
    return Bound(name, round(allowed_share, 8), float(limit_ms))


def _share(name: str, value: float) -> float:
    if value == 0:
        raise ValueError(
            f"{name}=0 can never be shown: no finite test excludes rarer failures; try {name}=0.001"
        )
    if not 0 < value < 1:
        raise ValueError(f"{name}={value!r} must be a share above 0 and below 1 (0.01 is 1 %)")
    return float(value)


def _check_order(latency: list[Bound]) -> None:
    for low, high in itertools.pairwise(latency):
        if low.limit_ms is not None and high.limit_ms is not None and low.limit_ms > high.limit_ms:
            raise ValueError(
                f"{low.name}={low.limit_ms:g} is looser than {high.name}={high.limit_ms:g}: a lower quantile "
                "is never slower than a higher one, so one of the two says nothing"
            )


def _did_you_mean(name: str) -> str:
    digits = re.fullmatch(r"p(\d{2})(\d*[1-9])(_ms)?", name)
    if digits:
        return f"; did you mean 'p{digits[1]}_{digits[2]}_ms'?"
    bare = re.fullmatch(r"p(\d{1,2}(?:_\d+)?)(?:ms|_s)?", name)
    return (
        f"; did you mean 'p{bare[1]}_ms'?" if bare else "; bounds are named like p99_ms, p99_9_ms, error_rate"
    )
