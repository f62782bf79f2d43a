"""The record's shapes as types. ``record.schema.json`` says the same for readers in other languages.

Numbers are JSON numbers: an infinite or unknown one is None. Units stand in the names, shares run from 0 to
1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    # Reports read records and need no numpy, which these modules import.
    from pytest_capacity.protocols import Json
    from pytest_capacity.stats.series import Series

VerdictName: TypeAlias = Literal["PASS", "FAIL", "INCONCLUSIVE", "MEASURED"]
Kind: TypeAlias = Literal["sustain", "search", "replay"]
State: TypeAlias = Literal["complete", "interrupted", "stopped", "preflight"]
Source: TypeAlias = Literal["marker", "call", "command line"]
Free: TypeAlias = "dict[str, Json]"
"""A map whose keys are the user's own."""
Slo: TypeAlias = "dict[str, float] | dict[str, dict[str, dict[str, float]]]"
"""Limits by name, or ``{"operations": {"rank": limits by name}}``."""


class BreachRow(TypedDict):
    """A bound shown not to hold.

    ``measured_ms`` and its limits are None for an error bound, and where the quantile lies among requests
    that failed or stayed unanswered.
    """

    bound: str
    label: str
    operation: str | None
    limit_ms: float | None
    allowed_share: float
    bad_share: float
    share_low: float
    share_high: float
    measured_ms: float | None
    low_ms: float | None
    high_ms: float | None
    margin: float
    text: str


class DoubtRow(TypedDict):
    """A reason not to trust the measurement, and what to try."""

    kind: str
    text: str
    remedy: str


class Requirement(TypedDict):
    """What was asked for.

    ``slo`` holds limits by name, ``error_rate`` always among them; or, as ``operations``, those of each.
    """

    qps: float | None
    slo: Slo
    error_rate_is_default: bool
    arrivals: str
    budget_s: float | None
    min_s: float | None
    source: Source


class Capacity(TypedDict):
    """A search's result (design.md section 6); the interval is 90 %, two-sided."""

    capacity_qps: float | None
    ci_low_qps: float | None
    ci_high_qps: float | None
    condition_number: float | None
    status: str
    load_s: float
    requests: int
    calm_qps: float | None
    saturation_qps: float | None
    cold_factor: float | None
    overloaded_qps: float | None


class BoundRow(TypedDict):
    """One bound judged over the evidence, of one operation where ``operation`` is set."""

    name: str
    label: str
    operation: str | None
    limit_ms: float | None
    allowed_share: float
    bad_share: float | None
    share_low: float | None
    share_high: float | None
    measured_ms: float | None
    low_ms: float | None
    high_ms: float | None
    verdict: VerdictName


class Latency(TypedDict):
    """Latencies in ms; ``mean`` and ``max`` of the answered, quantiles with failures as infinite."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None


class Digest(TypedDict):
    """A t-digest of ``count`` finite latencies as ``[mean, weight]``, ascending."""

    unit: Literal["ms"]
    count: int
    centroids: list[list[float]]


class PreflightRow(TypedDict):
    """The one request of an operation before any load; ``text`` is empty where the reply was good."""

    operation: str
    status: int | None
    latency_ms: float | None
    text: str


class Measurement(TypedDict):
    """One measurement of a test: how it ended, what it showed, and the evidence."""

    kind: Kind
    state: State
    target: Free
    qps: float | None
    slo: Slo
    verdict: VerdictName | None
    stop_reason: str
    load_s: float
    warmup_s: float
    evidence_s: float
    requests: int
    evidence_requests: int
    offered_qps: float | None
    achieved_qps: float | None
    bad_share: float | None
    bad_share_low: float | None
    bad_share_high: float | None
    bounds: list[BoundRow]
    outcomes: dict[str, int]
    status_counts: dict[str, int]
    examples: dict[str, str]
    latency_ms: Latency
    digest: Digest | None
    series: Series | None
    preflight: list[PreflightRow]
    notes: list[str]


class ProbeRow(TypedDict):
    """One piece of load; ``measurement`` is the index of the measurement it belongs to."""

    measurement: int
    id: int
    kind: Literal["open", "closed", "drain"]
    role: str
    rate_qps: float | None
    concurrency: int | None
    start_s: float
    end_s: float
    settle_s: float
    planned: int
    sent: int
    bad: int
    failed: int


class Generator(TypedDict):
    """How well the load generator did its work; lateness is sent minus intended time."""

    engine: str
    arrivals: str
    seed: int | None
    max_in_flight: int
    late_p50_ms: float | None
    late_p99_ms: float | None
    late_max_ms: float | None
    offered_qps: float | None
    achieved_qps: float | None
    not_sent: int
    loop_stall_ms: float | None
    cpu_s: float | None
    wall_s: float | None
    gc_collections: int
    workers: int
    connection_waits: int
    late_share: float | None
    spin_s: float | None
    throttled_s: float | None
    steal_share: float | None
    foreign_share: float | None
    notes: list[str]


class Environment(TypedDict):
    """Where and how the test ran; ``overrides`` are options given on the command line or by variables."""

    started_at: str
    python: str
    implementation: str
    platform: str
    cpu: str
    cores: int
    cgroup_cpus: float | None
    memory_bytes: int | None
    ci: str | None
    mode: str
    overrides: Free


class Commit(TypedDict):
    """The commit under test; ``dirty`` where tracked files differ from it."""

    id: str
    branch: str | None
    dirty: bool


class Versions(TypedDict):
    """Versions of what measured; None where a package is not installed."""

    pytest_capacity: str | None
    pytest: str | None
    python: str | None
    aiohttp: str | None
    numpy: str | None
    tdigest: str | None
    uvloop: str | None


Model = TypedDict("Model", {"name": "str | None", "class": "str | None", "size": "float | str | None"})
"""The model under test as the marker's ``model`` names it."""


class ScalingRow(TypedDict):
    """How a recording was brought to a rate, ``factor`` times the recorded one."""

    kind: Literal["recorded", "superposed", "thinned", "compressed"]
    factor: float
    copies: int
    last_share: float
    text: str


class Fidelity(TypedDict):
    """What was sent against the whole recording: how many statistics could be judged, which were apart."""

    judged: int
    outside: int
    outside_names: list[str]


_Classed = TypedDict("_Classed", {"class": "str | None"})


class Trace(_Classed):
    """Recorded traffic, or a model of some, and how it was played; no body, key or session."""

    file: str
    kind: Literal["recording", "workload"]
    name: str
    source: str | None
    clock: str | None
    sampling: float | None
    resolution_s: float | None
    spread_within_s: float | None
    composed: bool
    rows: int
    cycle_s: float
    recorded_qps: float
    warnings: list[str]
    mode: Literal["superpose", "compress"]
    scalings: list[ScalingRow]
    sessions: str | None
    turns_after_failure: int | None
    turns_held_back: int | None
    requests: int
    distinct_rows: int
    loops: int
    rows_seen_share: float | None
    keys_seen_share: float | None
    fidelity: Fidelity | None


class Record(TypedDict):
    """One test's record; ``verdict`` is None where the test was interrupted."""

    schema: int
    nodeid: str
    attempt: int
    verdict: VerdictName | None
    breaches: list[BreachRow]
    doubts: list[DoubtRow]
    requirement: Requirement
    capacity: Capacity | None
    measurements: list[Measurement]
    probes: list[ProbeRow]
    generator: Generator
    environment: Environment
    commit: Commit | None
    versions: Versions
    trace: Trace | None
    model: Model | None


class SummaryRow(TypedDict):
    """One test in the terminal's table: plain JSON, small enough for a report of pytest-xdist.

    ``headline`` is the verdict's reason without the verdict, ``remedy`` what to try, both empty on a pass.
    """

    nodeid: str
    test: str
    verdict: VerdictName | None
    asked_qps: float | None
    found_qps: float | None
    found_low_qps: float | None
    found_high_qps: float | None
    p50_ms: float | None
    p99_ms: float | None
    error_rate: float | None
    seconds: float
    artifact: str | None
    attempt: int
    headline: str
    remedy: str
