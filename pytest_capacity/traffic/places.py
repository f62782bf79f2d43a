"""Where in a recording the copies of it begin that are laid over each other.

Its end is followed by its beginning: intervals of it, in seconds, lie on a circle. A copy begins where what
it needs was not sent yet, as near as may be behind its even share.
"""

from __future__ import annotations

import math

import numpy as np

Interval = tuple[float, float]

LEAST_FREE_SHARE = 0.5
"""A copy begins where so much of what it needs was not sent yet; else the recording begins anew."""

ROUNDING = 1e-9
"""Rounding errors, of a number of copies and of places in a recording."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def places_of_copies(
    played: tuple[Interval, ...], number: int, cycle_s: float, copies: int, needed_s: float
) -> tuple[tuple[float, ...], int]:
    """Where each copy begins, and in which round; ``played`` is what was sent in round ``number``."""
    places = _unplayed_places(played, number, cycle_s, copies, needed_s)
    if places is not None:
        return places, number
    return _even_places(cycle_s, copies, number + 1), number + 1


def _even_places(cycle_s: float, copies: int, number: int) -> tuple[float, ...]:
    """Evenly spread places, in each round other ones, the first of the first round at the beginning."""
    apart_s = cycle_s / copies
    first_s = apart_s * (number * _GOLDEN % 1)
    return tuple(first_s + apart_s * index for index in range(copies))


def _unplayed_places(
    played: tuple[Interval, ...], number: int, cycle_s: float, copies: int, needed_s: float
) -> tuple[float, ...] | None:
    """Places as near as may be behind the even ones, from where all or most was not played in this round."""
    even = _even_places(cycle_s, copies, number)
    if copies * needed_s > cycle_s:
        # Rows come more than once whatever is done, latest where evenly spread copies go on from what was
        # sent.
        free_s = cycle_s - sum(end_s - begin_s for begin_s, end_s in played)
        if free_s < LEAST_FREE_SHARE * cycle_s:
            return None
        sent = (end_s - even[0] for begin_s, end_s in played if begin_s <= even[0] < end_s)
        moved_s = next(sent, 0.0)
        return tuple((place_s + moved_s) % cycle_s for place_s in even)
    taken, places = played, []
    for wanted_s in even:
        place_s = _next_free(taken, wanted_s, needed_s, cycle_s)
        if place_s is None:
            return None
        places.append(place_s)
        taken = united([*taken, *on_circle(place_s, needed_s, cycle_s)])
    return tuple(places)


def _next_free(
    played: tuple[Interval, ...], wanted_s: float, needed_s: float, cycle_s: float
) -> float | None:
    """The first place from ``wanted_s`` on with all that is needed unplayed, else the longest free one.

    None where even that has too little.
    """
    if not played:
        return wanted_s
    begins, ends = np.array(played).T
    places, free_s = ends % cycle_s, np.append(begins[1:], begins[0] + cycle_s) - ends
    following = int(np.searchsorted(ends, wanted_s, side="right"))
    if following == len(ends) or wanted_s < begins[following]:
        next_s = begins[0] + cycle_s if following == len(ends) else begins[following]
        places, free_s = np.append(places, wanted_s), np.append(free_s, next_s - wanted_s)
    enough = free_s >= needed_s * (1 - ROUNDING)
    if enough.any():
        far_s = (places - wanted_s) % cycle_s
        return float(places[enough][np.argmin(far_s[enough])])
    longest = int(np.argmax(free_s))
    return float(places[longest]) if free_s[longest] >= LEAST_FREE_SHARE * needed_s else None


def on_circle(place_s: float, length_s: float, cycle_s: float) -> list[Interval]:
    """An interval that may run past the recording's end, in one piece or two."""
    if length_s <= 0:
        return []
    if length_s >= cycle_s:
        return [(0.0, cycle_s)]
    end_s = place_s + length_s
    if end_s <= cycle_s:
        return [(place_s, end_s)]
    return [(place_s, cycle_s), (0.0, end_s - cycle_s)]


def united(intervals: list[Interval]) -> tuple[Interval, ...]:
    """Ascending and disjoint; what touches is one."""
    whole: list[Interval] = []
    for begin_s, end_s in sorted(intervals):
        if whole and begin_s <= whole[-1][1] + ROUNDING:
            whole[-1] = (whole[-1][0], max(whole[-1][1], end_s))
        else:
            whole.append((begin_s, end_s))
    return tuple(whole)
