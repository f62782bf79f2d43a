"""Recorded times as whole nanoseconds: seven fractional digits and large epochs keep all they have."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Literal

from pytest_capacity.traffic.lines import TraceError

Unit = Literal["iso", "s", "ms", "us", "ns", "min"]

UNITS_NS: dict[str, int] = {"min": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

ABSOLUTE_FROM_NS = 10**8 * 10**9
"""Three years. A larger time is one since 1970, a smaller one since the recording's start."""

_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d):(\d\d)(?:[.,](\d{1,12}))? ?(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?",
    re.IGNORECASE,
)
_CLF = re.compile(r"(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d):(\d\d) ([+-]\d{4})")
_NUMBER = re.compile(r"(\d{1,19})(?:\.(\d*))?")
_NOT_FINITE = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "-infinity"})
_DAYLIGHT_SAVING_S = 3600


class Clock:
    """Reads one column's times and remembers how fine they were and in which zone.

    ``digits_ns`` is the finest step that their digits can tell, None before the first. ``zone_s`` is the zone
    of the first in seconds east of UTC, None for a wall clock of an unnamed zone.
    """

    def __init__(self, unit: Unit | None = None, *, mixed_zones: bool = False) -> None:
        self.unit = unit
        self.digits_ns: int | None = None
        self.zone_s: int | None = None
        self.daylight_saving = False
        self._mixed_zones = mixed_zones
        self._first_line: int | None = None

    def read(self, value: object, line: int) -> int | None:
        """A time in nanoseconds, since 1970 or since a start of its own; None where it is none.

        Raises TraceError for a negative or infinite time, for NaN, and for a zone other than that of the
        times before. Zones an hour apart are daylight saving, and let through.
        """
        text = value.strip() if isinstance(value, str) else _plain(value)
        if self.unit is None and text:
            self.unit = guess_unit(text)
        if self.unit == "iso":
            return self._read_wall_clock(text, line)
        return self._read_number(text, line) if text else None

    def _read_number(self, text: str, line: int) -> int | None:
        unit_ns = UNITS_NS[self.unit or "s"]
        match = _NUMBER.fullmatch(text)
        if match:
            whole, fraction = match[1], (match[2] or "").rstrip("0") if "." in text else ""
            digits = len(match[2] or "")
            self._saw(unit_ns / 10.0**digits)
            time_ns = int(whole) * unit_ns
            if fraction:
                time_ns += round(int(fraction) * unit_ns / 10 ** len(fraction))
            return time_ns
        try:
            number = Decimal(text)
        except InvalidOperation:
            return None
        if not number.is_finite():
            raise TraceError(f"the time is {text}", line=line)
        if number < 0:
            raise TraceError(f"the time {text} is negative", line=line)
        self._saw(unit_ns * 10.0 ** min(int(number.as_tuple().exponent), 0))
        return round(number * unit_ns)

    def _read_wall_clock(self, text: str, line: int) -> int | None:
        if text.lower() in _NOT_FINITE:
            raise TraceError(f"the time is {text}", line=line)
        try:
            parts = _wall_clock(text)
        except ValueError:
            return None
        if parts is None:
            return None
        second_s, fraction, zone_s = parts
        self._saw(1e9 / 10 ** len(fraction))
        self._check_zone(zone_s, line)
        return (second_s - (zone_s or 0)) * 10**9 + int(fraction[:9].ljust(9, "0"))

    def _saw(self, step_ns: float) -> None:
        step = max(1, round(step_ns))
        if self.digits_ns is None or step < self.digits_ns:
            self.digits_ns = step

    def _check_zone(self, zone_s: int | None, line: int) -> None:
        if self._first_line is None:
            self._first_line, self.zone_s = line, zone_s
        if zone_s == self.zone_s:
            return
        if zone_s is None or self.zone_s is None:
            raise TraceError(
                f"mixed time zones: {_zone_name(zone_s)} here, {_zone_name(self.zone_s)} on line "
                f"{self._first_line}",
                line=line,
            )
        if abs(zone_s - self.zone_s) == _DAYLIGHT_SAVING_S:
            self.daylight_saving = True
        elif not self._mixed_zones:
            raise TraceError(
                f"mixed time zones: {_zone_name(zone_s)} here, {_zone_name(self.zone_s)} on line "
                f"{self._first_line}; --mixed-zones takes each time by its own",
                line=line,
            )


def guess_unit(text: str) -> Unit:
    """The unit of a column by its first value: ISO 8601, else by its magnitude as a time since 1970."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return "iso" if _ISO.fullmatch(text) or _CLF.fullmatch(text) else "s"
    number = int(match[1])
    for unit, least in (("ns", 10**17), ("us", 10**14), ("ms", 10**11)):
        if number >= least:
            return unit  # type: ignore[return-value] # the literal's members
    return "s"


def iso_text(time_ns: int, *, zone: str) -> str:
    """A time since 1970 in ISO 8601, with microseconds where it has them; ``zone`` is appended."""
    moment = datetime.fromtimestamp(time_ns // 10**9, timezone.utc).replace(
        microsecond=time_ns % 10**9 // 1000, tzinfo=None
    )
    return moment.isoformat() + zone


def _plain(value: object) -> str:
    """A JSON value as the text that a CSV file would hold; empty for what is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if isinstance(value, float) and math.isfinite(value) and value >= 0:
        return format(Decimal(repr(value)), "f")
    return str(value)


def _wall_clock(text: str) -> tuple[int, str, int | None] | None:
    """Seconds since 1970 as the clock showed them, digits behind, and the zone; None where it is none.

    Raises ValueError for a date that is in no calendar.
    """
    if match := _ISO.fullmatch(text):
        zone = _zone_s(match[4]) if match[4] else None
        return _iso_minute(match[1]) + int(match[2]), match[3] or "", zone
    if match := _CLF.fullmatch(text):
        return _clf_minute(match[1]) + int(match[2]), "", _zone_s(match[3])
    return None


@lru_cache(maxsize=1024)
def _iso_minute(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())


@lru_cache(maxsize=1024)
def _clf_minute(text: str) -> int:
    # Not strptime's %b, which follows the locale.
    months = "JanFebMarAprMayJunJulAugSepOctNovDec"
    month = months.index(text[3:6]) // 3 + 1
    moment = datetime(
        int(text[7:11]), month, int(text[:2]), int(text[12:14]), int(text[15:17]), tzinfo=timezone.utc
    )
    return int(moment.timestamp())


@lru_cache(maxsize=64)
def _zone_s(text: str) -> int:
    if text[0] not in "+-":
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if text[0] == "-" else seconds


def _zone_name(zone_s: int | None) -> str:
    if zone_s is None:
        return "no zone"
    return f"UTC{'-' if zone_s < 0 else '+'}{abs(zone_s) // 3600:02}:{abs(zone_s) // 60 % 60:02}"
