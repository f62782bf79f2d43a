"""Keys as a model: some are popular and stay so, and what was used lately is likely to be used again.

Keys are put into classes by how often each came: once, twice or thrice, four to seven times, and so on.
Within a class the next key is found by its LRU stack distance (Mattson et al., 1970; as a generator: Spirn,
"Program Behavior: Models and Measurements", 1977), so that each class has the recorded recency; between the
classes lies the popularity, which a single stack would forget.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.grids import at_shares, quantile_grid
from pytest_capacity.traffic.statistics import stack_distances

Flags = npt.NDArray[np.bool_]

PLACE_POINTS, DEPTH_POINTS = 11, 33
RECENT_SHARE, MOST_RECENT = 0.01, 256
_REDRAWS, _AT_ONCE, _FITS = 8, 1024, 3


@dataclass(frozen=True, slots=True)
class KeyClass:
    """Keys that come about equally often.

    ``keys`` is how many there are, ``again`` how often one of them came after its first time.
    ``new_at`` and ``again_at`` tell when: quantiles of their places among all first, or all later, accesses,
    as shares. ``depth`` are quantiles of how many other keys of the class came since the key's last access,
    over how many there were.
    """

    keys: int
    again: int
    new_at: tuple[float, ...]
    again_at: tuple[float, ...]
    depth: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class KeyModel:
    """Classes of keys, rarest first, and what the classes leave unexplained.

    ``recent`` is how many keys that were used last are looked at together, whatever their class. Of the
    accesses to keys that came before, ``recent_share`` go to one of those, at ``recent_depth`` (quantiles),
    beyond what the classes bring about. A negative share is the part of such accesses that is drawn anew.
    """

    classes: tuple[KeyClass, ...]
    recent: int
    recent_share: float
    recent_depth: tuple[float, ...]


def fit_keys(key: Ints, is_new: Flags, is_kept: Flags) -> KeyModel | None:
    """The model of a column of keys, none of them -1; None where the column is empty.

    ``is_new`` marks first accesses, ``is_kept`` those that follow a session's key, which the model leaves to
    the sessions. What the classes alone bring about is found by drawing from them.
    """
    if not len(key):
        return None
    drawn = ~is_new & ~is_kept
    depth = stack_distances(key)
    recent = min(MOST_RECENT, max(1, round(RECENT_SHARE * int(is_new.sum()))))
    is_recent = drawn & (depth < recent)
    recent_depth = _grid(depth[is_recent].astype(np.float64), DEPTH_POINTS)
    wanted = float(is_recent.sum()) / max(int(drawn.sum()), 1)
    # Accesses that keep a session's key are drawn like the others here: only the classes are looked at.
    state = np.where(is_new, "new", "again").tolist()
    order = np.random.default_rng(0).permutation(np.nonzero(is_recent)[0])
    share, own = 0.0, drawn
    for _ in range(_FITS):
        model = KeyModel(_fit_classes(key, is_new, drawn, own), recent, 0.0, recent_depth)
        alone = stack_distances(draw_keys(model, state, [-1] * len(key), np.random.default_rng(0)))
        found = float(np.mean(alone[~is_new] < recent)) if (~is_new).any() else 0.0
        if wanted <= found:
            share = wanted / found - 1 if found else 0.0
            break
        share = (wanted - found) / (1 - found)
        # What comes again by recency alone is not to make the classes' own depths smaller.
        own = drawn.copy()
        own[order[: round(share * int(drawn.sum()))]] = False
    return replace(model, recent_share=round(share, 4))


def _fit_classes(key: Ints, is_new: Flags, drawn: Flags, own: Flags) -> tuple[KeyClass, ...]:
    """The classes; depths are those of the rows in ``own``, which are some of those in ``drawn``."""
    class_of_key = np.log2(np.maximum(np.bincount(key), 1)).astype(np.int64)
    of_row = class_of_key[key]
    new_place, again_place = _places(is_new), _places(drawn)
    classes = []
    for number in np.unique(of_row):
        rows = np.nonzero(of_row == number)[0]
        news, again = is_new[rows], drawn[rows]
        # The keys of a class become more: a depth is told as a share of those there are.
        depth = (stack_distances(key[rows]) + 0.5) / np.maximum(np.cumsum(news), 1)
        telling = own[rows] if own[rows].any() else again
        classes.append(
            KeyClass(
                keys=int(news.sum()),
                again=int(again.sum()),
                new_at=_grid(new_place[rows][news], PLACE_POINTS),
                again_at=_grid(again_place[rows][again], PLACE_POINTS),
                depth=_grid(depth[telling], DEPTH_POINTS),
            )
        )
    return tuple(classes)


def _places(marked: Flags) -> Floats:
    """The place of each marked row among all of them, as a share."""
    places: Floats = (np.cumsum(marked) - 0.5) / max(int(marked.sum()), 1)
    return places


def _grid(values: Floats, points: int) -> tuple[float, ...]:
    return quantile_grid(values, points) if len(values) else ()


def draw_keys(
    model: KeyModel, state: Sequence[str], follows: Sequence[int], rng: np.random.Generator
) -> Ints:
    """A key for each access.

    ``state`` says of each whether its key is ``"new"``, came ``"again"``, or is ``"none"``; one that comes
    again has the key of the access that ``follows`` names, where that is not -1. Where one should come again
    before any key came, it changes places with the next new one.
    """
    used = _Used(model, rng)
    state = _new_before_again(state)
    news = sum(one == "new" for one in state)
    again = sum(one == "again" for one in state)
    new_class = _class_sequence([(one.keys, one.new_at) for one in model.classes], news, rng)
    again_class = _class_sequence([(one.again, one.again_at) for one in model.classes], again, rng)
    drawn: list[int] = []
    for one, before in zip(state, follows, strict=True):
        key = drawn[before] if one == "again" and before >= 0 else -1
        if key >= 0:
            used.touch(key)
        elif one == "again":
            key = used.again(next(again_class))
        elif one == "new":
            key = used.add(next(new_class))
        drawn.append(key)
    return np.array(drawn, dtype=np.int64)


def _new_before_again(state: Sequence[str]) -> Sequence[str]:
    """The states with the first key made new, and the first that was new one that comes again."""
    first = next((place for place, one in enumerate(state) if one != "none"), None)
    if first is None or state[first] == "new":
        return state
    changed = list(state)
    if "new" in changed:
        changed[changed.index("new")] = "again"
    changed[first] = "new"
    return changed


def _class_sequence(
    shares: Sequence[tuple[int, Sequence[float]]], count: int, rng: np.random.Generator
) -> Iterator[int]:
    """The class of each of ``count`` accesses in turn: each class as often, and when, as it was recorded."""
    total = sum(many for many, _ in shares)
    if not total or not count:
        return itertools.repeat(0)
    ends = np.concatenate([[0], np.cumsum([many for many, _ in shares])]) / total
    often = np.diff(np.round(ends * count)).astype(np.int64)
    places = [
        at_shares(grid, rng.random(int(many))) for many, (_, grid) in zip(often, shares, strict=True) if many
    ]
    numbers = np.repeat(np.arange(len(shares)), often)
    order = np.argsort(np.concatenate(places), kind="stable")
    return iter(numbers[order].tolist())


class _Used:
    """The keys used so far: of each class, and over all, the one used last at the end."""

    def __init__(self, model: KeyModel, rng: np.random.Generator) -> None:
        self._stacks: list[list[int]] = [[] for _ in model.classes]
        self._depths = [_Drawing(one.depth, rng) for one in model.classes]
        self._recent: list[int] = []
        self._most_recent, self._recent_share = model.recent, model.recent_share
        self._recent_depths = _Drawing(model.recent_depth, rng)
        self._chances = _Drawing((0.0, 1.0), rng)
        self._class_of: list[int] = []

    def add(self, number: int) -> int:
        """A new key of a class."""
        key = len(self._class_of)
        self._class_of.append(number)
        self._stacks[number].append(key)
        self._put_on_top(self._recent, key)
        return key

    def touch(self, key: int) -> None:
        """Use a key that was used before, most likely not long ago."""
        self._put_on_top(self._stacks[self._class_of[key]], key)
        self._put_on_top(self._recent, key)

    def again(self, number: int) -> int:
        """Use a key that was used before: a recent one or one of a class."""
        if self._recent and self._chances.draw() < self._recent_share:
            depth = round(self._recent_depths.draw())
            key = self._recent[-1 - min(depth, len(self._recent) - 1)]
            self.touch(key)
            return key
        if not self._stacks[number]:
            filled = [other for other, stack in enumerate(self._stacks) if stack]
            number = min(filled, key=lambda other: abs(other - number))
        return self._of_class(number)

    def _of_class(self, number: int) -> int:
        stack, depths = self._stacks[number], self._depths[number]
        place = 0
        for _ in range(_REDRAWS):
            place = max(len(stack) - 1 - int(depths.draw() * len(stack)), 0)
            if stack[place] not in self._recent or self._chances.draw() >= -self._recent_share:
                break
        # Where it lies is known: to look for it in a large class would take long.
        key = stack.pop(place)
        stack.append(key)
        self._put_on_top(self._recent, key)
        return key

    def _put_on_top(self, stack: list[int], key: int) -> None:
        for place in range(len(stack) - 1, -1, -1):
            if stack[place] == key:
                del stack[place]
                break
        stack.append(key)
        if stack is self._recent:
            del stack[: -self._most_recent]


class _Drawing:
    """Values from a grid, drawn many at a time."""

    def __init__(self, grid: Sequence[float], rng: np.random.Generator) -> None:
        self._grid, self._rng = grid or (0.0,), rng
        self._drawn: list[float] = []

    def draw(self) -> float:
        """The next value."""
        if not self._drawn:
            self._drawn = at_shares(self._grid, self._rng.random(_AT_ONCE)).tolist()
        return self._drawn.pop()
