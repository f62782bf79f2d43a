"""Keys of requests that have several, as a model: how many each has beside its first, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.further_keys import FurtherKeys
from pytest_capacity.traffic.grids import at_shares, quantile_grid, rounded, stratified
from pytest_capacity.traffic.pattern import Traffic
from pytest_capacity.traffic.reuse import Flags, KeyModel, draw_keys, fit_keys
from pytest_capacity.traffic.statistics import previous_of

FURTHER_UNIT = "(further keys)"
"""The unit of size that counts a request's further keys: so they go with its other sizes."""

NONE, NEW, AGAIN = range(3)
"""Indexes into ``workload.STATES``."""

NEW_POINTS = 33
SHARED_SHARE = 0.05
"""First and further keys are of one kind where this share of further ones is some request's first."""


@dataclass(frozen=True, slots=True)
class FurtherModel:
    """Which further keys requests have: a user's request, say, looks up many items.

    ``keys`` is the model of further keys; None where first keys are of the same kind: one model is then of
    all, in the order in which requests have them. ``new_share`` of the accesses to further keys are to one
    that never came before, at places among all of them, as shares, whose quantiles are ``new_at``.
    """

    keys: KeyModel | None
    new_share: float
    new_at: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Accesses:
    """All accesses to keys in order; ``is_new`` marks those to a key that never came before."""

    row: Ints
    key: Ints
    is_first: Flags
    is_new: Flags


def _accesses(traffic: Traffic) -> _Accesses:
    row, key, is_first = traffic.further_keys.accesses(traffic.key)
    return _Accesses(row, key, is_first, previous_of(key) < 0)


def of_one_kind(traffic: Traffic) -> bool:
    """Whether a request's further keys are of the kind of first ones."""
    known = np.zeros(traffic.key_count + 1, dtype=np.bool_)
    known[traffic.key] = True
    known[-1] = False
    further = traffic.further_keys.key
    return len(further) > 0 and float(known[further].mean()) >= SHARED_SHARE


def states_of(traffic: Traffic) -> Ints:
    """Of each row's first key (its session where no row has a key) whether it is there, and came before."""
    group = traffic.key if traffic.key_count else traffic.session
    is_new = previous_of(group) < 0
    if of_one_kind(traffic):
        found = _accesses(traffic)
        is_new[found.row[found.is_first]] = found.is_new[found.is_first]
    return np.where(group < 0, NONE, np.where(is_new, NEW, AGAIN)).astype(np.int64)


def further_counts(traffic: Traffic) -> Floats:
    """How many further keys each row has; NaN for rows without a key, and of operations that have none."""
    counts = np.bincount(traffic.further_keys.row, minlength=len(traffic)).astype(np.float64)
    have = np.bincount(traffic.operation, weights=counts, minlength=len(traffic.operations)) > 0
    return np.where((traffic.key >= 0) & have[traffic.operation], counts, np.nan)


def fit_all_keys(
    traffic: Traffic, state: Ints, is_kept: Flags
) -> tuple[KeyModel | None, FurtherModel | None]:
    """The model of first keys (or of all), and that of further ones, where there are any.

    ``is_kept`` marks rows whose key is that of the request before in their session.
    """
    further = traffic.further_keys.key.astype(np.int64)
    if not len(further):
        keyed = state != NONE if traffic.key_count else np.zeros(len(traffic), dtype=np.bool_)
        return fit_keys(traffic.key[keyed], (state == NEW)[keyed], is_kept[keyed]), None
    if of_one_kind(traffic):
        found = _accesses(traffic)
        model = fit_keys(found.key, found.is_new, is_kept[found.row] & found.is_first)
        return model, _further_model(None, found.is_new[~found.is_first])
    keyed = state != NONE
    first = fit_keys(traffic.key[keyed], (state == NEW)[keyed], is_kept[keyed])
    is_new = previous_of(further) < 0
    own = fit_keys(further, is_new, np.zeros(len(further), dtype=np.bool_))
    return first, _further_model(own, is_new)


def _further_model(keys: KeyModel | None, is_new: Flags) -> FurtherModel:
    places = (np.nonzero(is_new)[0] + 0.5) / len(is_new)
    return FurtherModel(
        keys=keys,
        new_share=rounded(float(is_new.mean())),
        new_at=quantile_grid(places, NEW_POINTS) if len(places) else (),
    )


def draw_all_keys(
    models: tuple[KeyModel, FurtherModel | None],
    state: Sequence[str],
    before: Ints,
    counts: Ints,
    rng: np.random.Generator,
) -> tuple[Ints, FurtherKeys]:
    """The first key of each row, -1 where its state is ``"none"``, and so many further ones of each.

    A row that comes ``"again"`` has the first key of the row that ``before`` names, where that is not -1.
    """
    first_model, further = models
    counts = np.where(np.array(state) == "none", 0, counts)
    if further is None or not counts.any():
        return draw_keys(first_model, state, before.tolist(), rng), FurtherKeys()
    row = np.repeat(np.arange(len(state)), counts).astype(np.int32)
    states = _further_states(further, len(row), rng)
    if further.keys is None:
        first, drawn = _drawn_together(first_model, (state, states), (before, counts), rng)
    else:
        first = draw_keys(first_model, state, before.tolist(), rng)
        drawn = draw_keys(further.keys, states, [-1] * len(row), rng) + int(first.max()) + 1
    return first, FurtherKeys(row, drawn.astype(np.int32))


def _drawn_together(
    model: KeyModel,
    states: tuple[Sequence[str], Sequence[str]],
    rows: tuple[Ints, Ints],
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:
    """First and further keys of one kind, each row's first before its further ones."""
    (first_state, further_state), (before, counts) = states, rows
    at = np.cumsum(counts + 1) - counts - 1
    is_first = np.zeros(len(first_state) + len(further_state), dtype=np.bool_)
    is_first[at] = True
    state = np.empty(len(is_first), dtype=object)
    state[is_first], state[~is_first] = list(first_state), list(further_state)
    follows = np.full(len(is_first), -1, dtype=np.int64)
    follows[at] = np.where(before >= 0, at[before], -1)
    drawn = draw_keys(model, state.tolist(), follows.tolist(), rng)
    return drawn[is_first], drawn[~is_first]


def _further_states(model: FurtherModel, count: int, rng: np.random.Generator) -> list[str]:
    """Which of the accesses to further keys are to new ones."""
    news = round(model.new_share * count)
    state = ["again"] * count
    if not news:
        return state
    at = np.sort((at_shares(model.new_at, stratified(news, rng)) * count).astype(np.int64))
    # No two at one place: each is moved on as far as needed, and back again from the end.
    number = np.arange(news)
    at = np.maximum.accumulate(at - number) + number
    for place in np.minimum(at, count - news + number).tolist():
        state[place] = "new"
    return state
