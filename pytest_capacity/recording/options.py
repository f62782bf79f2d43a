"""What a recorder keeps, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_capacity.traffic.secrets import is_secret_name

BODIES = ("all", "json", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingOptions:
    """What a recorder keeps, redacts and samples, and its bounds.

    ``name`` is the trace's name (that of the file), ``model_class`` its "class". ``sample`` is the share of
    the traffic to keep: whole sessions where ``session_field`` or ``session_header`` tells them, else
    requests.

    Fields are named by the end of their path, without list indexes: ``user.id`` means every ``id`` in a
    ``user``, at any depth. They are looked for in JSON bodies, in forms and in the query. ``key_fields``
    (what caches are keyed by) and the session are noted as salted hashes; where such a field stands in a
    body it stays, since a replay needs it, unless it is named below too. ``drop_fields`` are left out and
    ``hash_fields`` replaced by salted hashes where they stand. The salt is random for each recording and
    stored nowhere.

    ``keep_headers`` are kept besides those of every trace (``traffic.redaction.KEPT_HEADERS``); ``ignore``
    are patterns (as a shell's) of paths that are not recorded; ``operations`` are pairs of a name and a
    pattern of paths, the first that fits counts, and the path itself is the name where none does.
    ``bodies`` is "all", "json" (bodies in which fields can be found, and so redacted) or "none". A body
    above ``max_body_bytes`` is left out, one of ``reference_bytes`` or more is stored beside the trace,
    once however often it is sent.

    ``rotate_bytes`` begins another file when one has become so large; at ``max_bytes`` in all, recording
    stops. Rows are written in the order of arrival, so a request that takes long holds back those after it:
    after ``hold_s`` it is written without what was seen of its reply. ``max_waiting_rows`` and
    ``max_waiting_bytes`` bound what is held in memory.

    Raises ValueError for what contradicts itself, and for headers that are credentials.
    """

    name: str | None = None
    model_class: str | None = None
    sample: float = 1.0
    key_fields: tuple[str, ...] = ()
    session_field: str | None = None
    session_header: str | None = None
    drop_fields: tuple[str, ...] = ()
    hash_fields: tuple[str, ...] = ()
    keep_headers: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    operations: tuple[tuple[str, str], ...] = ()
    bodies: str = "all"
    max_body_bytes: int = 2**20
    reference_bytes: int = 2**16
    rotate_bytes: int | None = None
    max_bytes: int | None = None
    hold_s: float = 60.0
    max_waiting_rows: int = 50_000
    max_waiting_bytes: int = 128 * 2**20

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_fields()

    def _check_numbers(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"sample={self.sample} must be above 0 and at most 1")
        if self.bodies not in BODIES:
            raise ValueError(f"bodies={self.bodies!r} must be one of {', '.join(BODIES)}")
        for name in ("max_body_bytes", "reference_bytes", "hold_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be 0 or more")
        for name in ("rotate_bytes", "max_bytes", "max_waiting_rows", "max_waiting_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be above 0")

    def _check_fields(self) -> None:
        fields = [*self.key_fields, *self.drop_fields, *self.hash_fields]
        if self.session_field is not None:
            fields.append(self.session_field)
        for field in fields:
            if not all(field.split(".")):
                raise ValueError(f"{field!r} is no field: write names with dots between them, as in user.id")
        for header in self.keep_headers:
            if is_secret_name(header):
                raise ValueError(
                    f"the header {header} is a credential and is never recorded; "
                    "as session_header it is kept as a salted hash"
                )
