"""Recorded times keep their digits, and what is no time, or of another zone, is told from what is."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_capacity.traffic.times import Clock, Unit, guess_unit, iso_text
from pytest_capacity.traffic.trace import TraceError

S = 10**9


@pytest.mark.parametrize(
    ("unit", "value", "time_ns", "digits_ns"),
    [
        ("iso", "1970-01-01T00:00:01Z", S, S),
        ("iso", "1970-01-01 00:00:01.0000001", S + 100, 100),
        ("iso", "1970-01-01T02:00:01+02:00", S, S),
        ("iso", "1970-01-01T00:00:01.123456789Z", S + 123456789, 1),
        ("iso", "1970-01-01T00:00:01,5 UTC", S + S // 2, S // 10),
        ("iso", "01/Jan/1970:00:00:01 +0000", S, S),
        ("iso", "31/Dec/1969:19:00:01 -0500", S, S),
        ("s", "1.5", 3 * S // 2, S // 10),
        ("s", 1.5, 3 * S // 2, S // 10),
        ("s", "804571201", 804571201 * S, S),
        ("s", "1700000000.123456789", 1700000000123456789, 1),
        ("s", 1e-7, 100, 100),
        ("s", "1e3", 1000 * S, S),
        ("ms", "27482", 27482 * 10**6, 10**6),
        ("ms", 27482, 27482 * 10**6, 10**6),
        ("us", "100000", 10**8, 1000),
        ("ns", "1781024939842000000", 1781024939842000000, 1),
        ("min", "2", 120 * S, 60 * S),
        (None, "2023-11-16 18:17:03.9799600", 1700158623979960000, 100),
        (None, "1700158623979", 1700158623979 * 10**6, 10**6),
        (None, "12.25", 12 * S + S // 4, S // 100),
    ],
)
def test_a_time_is_read_to_the_nanosecond(
    unit: Unit | None, value: object, time_ns: int, digits_ns: int
) -> None:
    clock = Clock(unit)

    assert clock.read(value, 2) == time_ns
    assert clock.digits_ns == digits_ns


@pytest.mark.parametrize(
    "value", ["", "-", "yesterday", "12:00", None, [], True, "2023-13-45T00:00:00Z", "1.2.3"]
)
@pytest.mark.parametrize("unit", ["iso", "s", "ms"])
def test_what_is_no_time_is_none(unit: Unit, value: object) -> None:
    assert Clock(unit).read(value, 2) is None


@pytest.mark.parametrize("unit", ["iso", "s", "ms"])
@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-Infinity"])
def test_a_time_that_is_not_finite_is_an_error_with_its_line(unit: Unit, value: str) -> None:
    with pytest.raises(TraceError, match="line 7: the time is"):
        Clock(unit).read(value, 7)


@pytest.mark.parametrize("value", ["-1", -0.5, "-1e3"])
def test_a_negative_time_is_an_error_with_its_line(value: object) -> None:
    with pytest.raises(TraceError, match=r"line 7: the time .* is negative"):
        Clock("s").read(value, 7)


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("2024-03-01T10:00:00Z", "2024-03-01T10:00:01", "no zone here, UTC.00:00 on line 2"),
        ("2024-03-01T10:00:00", "2024-03-01T10:00:01+02:00", "UTC.02:00 here, no zone on line 2"),
        ("2024-03-01T10:00:00+00:00", "2024-03-01T12:00:00+02:00", "--mixed-zones"),
        ("01/Mar/2024:10:00:00 +0000", "01/Mar/2024:04:30:00 -0530", "UTC-05:30 here"),
    ],
)
def test_mixed_time_zones_are_an_error_with_both_lines(first: str, second: str, complaint: str) -> None:
    clock = Clock("iso")
    clock.read(first, 2)

    with pytest.raises(TraceError, match=rf"line 3: mixed time zones: .*{complaint}"):
        clock.read(second, 3)


def test_zones_an_hour_apart_are_daylight_saving() -> None:
    clock = Clock("iso")

    assert clock.read("2024-10-27T02:59:59+02:00", 2) == clock.read("2024-10-27T01:59:59+01:00", 3)
    assert clock.daylight_saving


def test_zones_may_be_mixed_on_request() -> None:
    clock = Clock("iso", mixed_zones=True)

    assert clock.read("2024-03-01T10:00:00Z", 2) == clock.read("2024-03-01T15:30:00+05:30", 3)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("5", "s"),
        ("1325560.25", "s"),
        ("1700000000", "s"),
        ("1700000000123", "ms"),
        ("1700000000123456", "us"),
        ("1700000000123456789", "ns"),
        ("2024-01-01T00:00:00Z", "iso"),
        ("17/May/2015:10:05:03 +0000", "iso"),
    ],
)
def test_a_unit_is_guessed_by_form_and_magnitude(text: str, unit: Unit) -> None:
    assert guess_unit(text) == unit


@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))  # noqa: DTZ001 - wall clocks
def test_a_wall_clock_is_read_as_it_is_written(moment: datetime) -> None:
    time_ns = Clock("iso").read(moment.isoformat(), 1)

    assert time_ns is not None
    assert time_ns // 1000 == round(moment.replace(tzinfo=timezone.utc).timestamp() * 1e6)
    assert iso_text(time_ns, zone="") == moment.isoformat()
