"""Traffic with the awkward properties of real traffic, from a seed, and bodies for the example servers.

Arrivals are Poisson at a rate that wanders over seconds and jumps up in short spells; sizes are heavy-tailed,
alike among neighbours and larger in spells; few keys are asked for often, most of them again soon.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.examples import PATHS
from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.trace import TraceRow

STEP_S = 0.1
WANDER_S, WANDER = 3.0, 0.1
"""How long the slow changes of the rate last, and their deviation as a logarithm."""

SPELL_EVERY_S, SPELL_S, SPELL_FACTOR = 2.0, 0.4, 2.0
"""Short and frequent: halves of ten minutes have hundreds each, and so nearly the same capacity."""

NEIGHBOURS, SPELL_SIZE = 0.5, 0.3
"""The correlation of a size with the one before, and how much of its spread is the rate's."""

KEYS, POPULARITY = 5_000, 0.9
AGAIN, RECENT = 0.25, 40
"""So many requests ask for one of the last few keys again."""

FEWEST_ITEMS, MOST_ITEMS = 10, 100
FEWEST_WORDS, MOST_WORDS = 5, 140

Draw = Callable[[np.random.Generator, float, int], Any]
"""A body from a size (as a standard normal deviate) and a key."""


@dataclass(frozen=True)
class Awkward:
    """Requests in columns: when, how large (as a standard normal deviate) and for whom."""

    t_s: Floats
    size: Floats
    key: Ints


def awkward(rate_qps: float, seconds: float, seed: int) -> Awkward:
    """So many seconds of traffic with that mean rate in the long run."""
    rng = np.random.default_rng([seed, 7])
    level = _level(int(np.ceil(seconds / STEP_S)), rng)
    counts = rng.poisson(rate_qps * STEP_S * level)
    begin_s = np.repeat(np.arange(len(level)) * STEP_S, counts)
    t_s = np.sort(begin_s + STEP_S * rng.random(len(begin_s)))
    t_s = t_s[t_s < seconds]
    index = np.minimum((t_s / STEP_S).astype(np.int64), len(level) - 1)
    return Awkward(t_s, _sizes(np.log(level[index]), rng), _keys(len(t_s), rng))


def _level(steps: int, rng: np.random.Generator) -> Floats:
    """The rate of each step over the mean rate."""
    keeps = np.exp(-STEP_S / WANDER_S)
    slow = _autoregressive(rng.standard_normal(steps), keeps)
    spells = np.zeros(steps, dtype=np.bool_)
    at = rng.exponential(SPELL_EVERY_S)
    while at < steps * STEP_S:
        length_s = rng.exponential(SPELL_S)
        spells[int(at / STEP_S) : int((at + length_s) / STEP_S) + 1] = True
        at += length_s + rng.exponential(SPELL_EVERY_S)
    level = np.exp(WANDER * slow - WANDER**2 / 2) * np.where(spells, SPELL_FACTOR, 1.0)
    # A step more, on average, for the one in which a spell begins.
    share = (SPELL_S + STEP_S / 2) / (SPELL_S + SPELL_EVERY_S)
    mean_level: Floats = level / (1 + (SPELL_FACTOR - 1) * share)
    return mean_level


def _sizes(rate: Floats, rng: np.random.Generator) -> Floats:
    """Standard normal deviates, each like the one before and like the rate."""
    own = _autoregressive(rng.standard_normal(len(rate)), NEIGHBOURS)
    rate = (rate - rate.mean()) / (rate.std() or 1.0) if len(rate) else rate
    sizes: Floats = SPELL_SIZE * rate + np.sqrt(1 - SPELL_SIZE**2) * own
    return sizes


def _autoregressive(noise: Floats, keeps: float) -> Floats:
    """Values of variance 1, each correlated by ``keeps`` with the one before."""
    values, last = np.empty(len(noise)), 0.0
    for place, fresh in enumerate(noise.tolist()):
        last = keeps * last + np.sqrt(1 - keeps**2) * fresh if place else fresh
        values[place] = last
    return values


def _keys(count: int, rng: np.random.Generator) -> Ints:
    shares = np.arange(1, KEYS + 1) ** -POPULARITY
    key = rng.choice(KEYS, count, p=shares / shares.sum()).astype(np.int64)
    back = rng.integers(1, RECENT + 1, count)
    for place in np.flatnonzero((rng.random(count) < AGAIN) & (back <= np.arange(count))).tolist():
        key[place] = key[place - back[place]]
    return key


@dataclass(frozen=True)
class Bodies:
    """The bodies of an example: drawn for awkward traffic, or made of a row that has sizes only.

    ``record_options`` tell the recorder what is the request's key.
    """

    draw: Draw
    body_for: Callable[[TraceRow], Any]
    record_options: tuple[str, ...]


def bodies_of(name: str, example: ModuleType) -> Bodies:
    """What the clients of an example server send, like those of the example's own tests."""
    return _ranking(example) if name == "ranking" else _embedding(example)


def requests_of(name: str, traffic: Awkward, draw: Draw, seed: int) -> list[bytes]:
    """Each request of the traffic as it goes over the wire."""
    rng = np.random.default_rng([seed, 8])
    pairs = zip(traffic.size.tolist(), traffic.key.tolist(), strict=True)
    return [post(PATHS[name], draw(rng, size, key)) for size, key in pairs]


def post(path: str, body: object) -> bytes:
    """A POST of compact JSON, as HTTP/1.1."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def _ranking(example: ModuleType) -> Bodies:
    """Users and their candidates: the cost grows with the list."""

    def draw(rng: np.random.Generator, size: float, key: int) -> dict[str, Any]:
        length = int(np.clip(np.exp(np.log(30) + 0.6 * size), FEWEST_ITEMS, MOST_ITEMS))
        items = example.ITEMS * rng.random(length) ** 2
        return {"user": f"u{key}", "items": items.astype(int).tolist()}

    def body_for(row: TraceRow) -> dict[str, Any]:
        rng, key = _of_row(row)
        items = (example.ITEMS * rng.random(MOST_ITEMS) ** 2).astype(int).tolist()
        frame = len('{"user":"","items":[]}') + len(f"u{key}") - 1
        lengths = np.cumsum([len(str(item)) + 1 for item in items])
        count = 1 + int(np.argmin(np.abs(frame + lengths - row.size["bytes"])))
        return {"user": f"u{key}", "items": items[:count]}

    return Bodies(draw, body_for, ("--key-field", "user"))


def _embedding(example: ModuleType) -> Bodies:
    """Texts: the cost grows with their length, and none comes twice."""
    # What the example's module imports lies beside it.
    make_text = import_module(example.draw_text.__module__).make_text

    def written(rng: np.random.Generator, words: int) -> str:
        return str(make_text(rng, words))

    def draw(rng: np.random.Generator, size: float, key: int) -> dict[str, Any]:
        del key
        words = int(np.clip(np.exp(np.log(33) + 0.65 * size), FEWEST_WORDS, MOST_WORDS))
        return {"text": written(rng, words)}

    def body_for(row: TraceRow) -> dict[str, Any]:
        rng, _ = _of_row(row)
        wanted = max(1, int(row.size["bytes"]) - len('{"text":""}'))
        text = written(rng, 1 + wanted // 4).encode()
        while len(text) < wanted:
            text += b" " + written(rng, 1 + wanted // 4).encode()
        return {"text": text[:wanted].decode("utf-8", "ignore")}

    return Bodies(draw, body_for, ())


def _of_row(row: TraceRow) -> tuple[np.random.Generator, int]:
    """Randomness of a row's own, and its key's number: the same row has the same body each time."""
    key = int(row.keys[0].lstrip("k")) if row.keys else 0
    return np.random.default_rng([int(row.id or 0), 9]), key
