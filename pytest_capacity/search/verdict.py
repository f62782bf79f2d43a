"""What a capacity search means for a test that made it (design.md section 5). Pure."""

from __future__ import annotations

from collections.abc import Collection

from pytest_capacity.search.doubts import Doubt
from pytest_capacity.search.found import ILL_CONDITIONED, CapacityResult
from pytest_capacity.slo import Verdict

TOO_WIDE = 0.35
"""An interval wider than a third of its lower end answers no question about sizing."""

ALLOWABLE = ("not_steady", "ill_conditioned", "generator_limited", "budget", "no_limit_found", "unattainable")
"""Statuses that a test may accept by name; what they leave open is then its author's risk."""


def judge_search(
    result: CapacityResult, require_qps: float | None, allow: Collection[str] = ()
) -> tuple[Verdict, tuple[Doubt, ...]]:
    """The verdict and the doubts to tell.

    With a requirement: PASS where the interval's lower end reaches it, FAIL where its upper end is below it;
    one below all rates that were tried and failed is open.
    Without one: MEASURED. Doubtful statuses outrank both unless ``allow`` names them.
    """
    doubts = _doubts(result, require_qps, allow)
    if result.status == "unattainable" and "unattainable" not in allow:
        is_open = require_qps is not None and require_qps < (result.ci_high_qps or 0.0)
        return (Verdict.INCONCLUSIVE if is_open else Verdict.FAIL), doubts
    if doubts:
        return Verdict.INCONCLUSIVE, doubts
    if require_qps is not None:
        return _against(require_qps, result)
    doubt = _want_of_evidence(result, allow)
    return (Verdict.INCONCLUSIVE, (doubt,)) if doubt else (Verdict.MEASURED, ())


def _doubts(result: CapacityResult, require_qps: float | None, allow: Collection[str]) -> tuple[Doubt, ...]:
    doubts = [doubt for doubt in result.doubts if doubt.kind not in allow]
    if result.status in ("not_steady", "ill_conditioned", "generator_limited") and result.status not in allow:
        reason = _status_doubt(result, None if doubts else require_qps)
        if not any(doubt.kind == reason.kind for doubt in doubts):
            doubts.append(reason)
    return tuple(doubts)


def _against(require_qps: float, result: CapacityResult) -> tuple[Verdict, tuple[Doubt, ...]]:
    if result.ci_low_qps is not None and result.ci_low_qps >= require_qps:
        return Verdict.PASS, ()
    if result.ci_high_qps is not None and result.ci_high_qps < require_qps:
        return Verdict.FAIL, ()
    return Verdict.INCONCLUSIVE, (_undecided(result, require_qps),)


def _want_of_evidence(result: CapacityResult, allow: Collection[str]) -> Doubt | None:
    low, high = result.ci_low_qps, result.ci_high_qps
    if low is None and high is None:
        return _nothing_found(result)
    too_wide = low is not None and high is not None and high > (1 + TOO_WIDE) * low
    return _too_wide(result) if too_wide and result.status == "budget" and "budget" not in allow else None


def _status_doubt(result: CapacityResult, require_qps: float | None) -> Doubt:
    """The doubt that is the status; with a requirement it tells what the interval alone says of that."""
    if result.status == "ill_conditioned":
        number = result.condition_number or 0.0
        by_interval = _against(require_qps, result)[0] if require_qps else Verdict.INCONCLUSIVE
        is_open = by_interval is Verdict.INCONCLUSIVE
        then = "" if is_open else f": by its interval {require_qps:g}/s is a {by_interval.name}"
        return Doubt(
            "ill_conditioned",
            f"the share of late requests {_hardly_depends(number)}: a single capacity says little",
            f"a bound further from the server's pauses, or allow='ill_conditioned'{then}",
        )
    if result.status == "not_steady":
        return Doubt("not_steady", "the server did not get steady in the warm-up", "a longer budget_s")
    return Doubt("generator_limited", "the load generator could not send faster", "a quieter machine")


def _hardly_depends(number: float) -> str:
    if number > ILL_CONDITIONED:
        return f"hardly depends on the rate (condition number {number:.2f})"
    return f"may hardly depend on the rate (condition number {number:.2f}, perhaps above {ILL_CONDITIONED:g})"


def _interval(result: CapacityResult) -> str:
    low = "?" if result.ci_low_qps is None else f"{result.ci_low_qps:,.4g}"
    high = "?" if result.ci_high_qps is None else f"{result.ci_high_qps:,.4g}"
    return f"{low}-{high}/s"


def _gives_less(result: CapacityResult) -> Doubt:
    return Doubt(
        "gives_less",
        f"the interval is {_interval(result)} because with more requests in flight than it needs the server "
        f"gives {result.overloaded_qps:,.4g}/s: above that, what one burst begins may not end",
        "a server that turns away what it cannot hold"
        + (f", or require_qps={result.ci_low_qps:.3g}" if result.ci_low_qps else ""),
    )


def _undecided(result: CapacityResult, require_qps: float) -> Doubt:
    if result.overloaded_qps is not None:
        return _gives_less(result)
    if result.ci_low_qps is None and result.ci_high_qps is None:
        return _nothing_found(result)
    below = f", or require_qps={result.ci_low_qps:.3g}" if result.ci_low_qps else ""
    return Doubt(
        "undecided",
        f"the interval {_interval(result)} contains {require_qps:g}/s after {result.load_s:.0f} s of load",
        f"budget_s={_more(result):.0f}{below}",
    )


def _too_wide(result: CapacityResult) -> Doubt:
    if result.overloaded_qps is not None:
        return _gives_less(result)
    return Doubt(
        "too_wide",
        f"the interval {_interval(result)} is too wide after {result.load_s:.0f} s of load",
        f"budget_s={_more(result):.0f}, or allow='budget'",
    )


def _nothing_found(result: CapacityResult) -> Doubt:
    return Doubt(
        "nothing_found",
        f"no capacity was found within {result.load_s:.0f} s of load",
        f"budget_s={_more(result):.0f}, or a min_qps nearer to the capacity",
    )


def _more(result: CapacityResult) -> float:
    """A budget that would show more: intervals shrink with the square root of the load."""
    return max(60.0, 2.5 * result.load_s)
