"""Figures and names as people read them, in plain ASCII where the layout depends on it."""

from __future__ import annotations

import re
import textwrap

COLUMNS = 100
"""No line that we print is wider."""


def per_second(qps: float) -> str:
    """A rate with four significant digits: ``200/s``, ``12.5/s``, ``1,250/s``, ``2.5M/s``."""
    if qps >= 1e6:
        return f"{qps / 1e6:.3g}M/s"
    return f"{round(qps):,}/s" if qps >= 1000 else f"{qps:.4g}/s"


def plain(figure: float) -> str:
    """A figure with as many digits as matter: ``71``, ``8.3``, ``0.42``, ``1,204``."""
    if abs(figure) >= 99.5:
        return f"{figure:,.0f}"
    return f"{figure:.2g}"


def milliseconds(value: float | None) -> str:
    """A latency: ``71 ms``; seconds from 100,000 ms on, so that columns stay narrow; ``-`` for None."""
    if value is None:
        return "-"
    return f"{plain(value)} ms" if value < 1e5 else f"{value / 1000:,.0f} s"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share in percent: ``3.1 %``; ``< 0.1 %`` where rounding would make some into none; ``-`` for None."""
    if share is None:
        return "-"
    least = 10.0**-decimals
    if 0 < share * 100 < least / 2:
        return f"< {least:.{decimals}f} %"
    return f"{share * 100:.{decimals}f} %"


def seconds(value: float) -> str:
    """Seconds as a whole number: ``21``; one decimal below ten; hours from 100,000 s on."""
    if value >= 1e5:
        return f"{value / 3600:,.0f} h"
    return f"{value:.0f}" if value >= 9.95 or value == round(value) else f"{value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval in brackets: ``(64-80)``; an upper limit of None is infinite: ``(over 64)``."""
    if low is None:
        return ""
    return f"({plain(low)}-{plain(high)})" if high is not None else f"(over {plain(low)})"


def ascii_text(text: str) -> str:
    """Text in which every character is one column wide: what is not ASCII is written as an escape."""
    return "".join(
        c if c.isascii() and c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def one_line(text: str) -> str:
    """Text on one line, without control characters, which a server could use to rewrite the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def middle_shortened(text: str, columns: int) -> str:
    """Text of at most so many columns: the middle gives way, since tests differ at both ends."""
    if len(text) <= columns:
        return text
    if columns <= 3:
        return text[:columns]
    tail = (columns - 3) // 2
    return f"{text[: columns - 3 - tail]}...{text[len(text) - tail :] if tail else ''}"


def wrapped(text: str, *, first: str = "", later: str = "  ") -> list[str]:
    """Text broken into lines of at most ``COLUMNS``, the first and the later ones each with their indent.

    A figure stays with its unit.
    """
    joined = re.sub(r"(\d) (ms|s|%)(?!\w)", "\\1\N{NO-BREAK SPACE}\\2", one_line(text))
    lines = textwrap.wrap(
        joined,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
    )
    # An empty text still has its first words to say.
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [first.rstrip()]
