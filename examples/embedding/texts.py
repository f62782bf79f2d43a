"""Texts in a made-up language: what the tokenizer is trained on, and what the tests send.

Needs numpy only, since the tests run in another environment than the server.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

LANGUAGE_SEED = 11
WORDS = 60_000
SYLLABLES = (0.10, 0.42, 0.33, 0.15)
"""Shares of words with one to four syllables."""

ONSETS = (
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "pl", "qu", "r",
    "s", "sh", "sp", "st", "str", "t", "th", "tr", "v", "w", "y", "z", "",
)  # fmt: skip
NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "ee", "io", "oo", "ou", "é")
CODAS = ("", "", "", "ck", "l", "ll", "m", "n", "nd", "ng", "r", "rt", "s", "st", "t", "x")

MEDIAN_WORDS = 33
SPREAD = 0.65
FEWEST_WORDS, MOST_WORDS = 5, 140


@lru_cache(maxsize=1)
def lexicon() -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Make the language: its words, the commonest first, and the cumulative shares of their use.

    Shares follow Zipf's law as those of real words do, which is what gives a tokenizer common words that are
    one token each and a long tail that falls into pieces.
    """
    rng = np.random.default_rng(LANGUAGE_SEED)
    parts = (ONSETS, NUCLEI, CODAS)
    words: dict[str, None] = {}
    while len(words) < WORDS:
        syllables = int(rng.choice(len(SYLLABLES), p=SYLLABLES)) + 1
        picks = rng.random((syllables, len(parts)))
        word = (part[int(pick * len(part))] for row in picks for part, pick in zip(parts, row, strict=True))
        words["".join(word)] = None
    # Common words are short in every language.
    ranked = sorted(words, key=lambda word: len(word) + 3 * rng.random())
    weights = 1 / (np.arange(WORDS) + 2.7)
    return tuple(ranked), np.cumsum(weights / weights.sum())


def make_text(rng: np.random.Generator, words: int) -> str:
    """Write so many words, in sentences with capitals, commas and the odd number."""
    vocabulary, shares = lexicon()
    picked = np.minimum(np.searchsorted(shares, rng.random(words)), WORDS - 1)
    text: list[str] = []
    left = 0
    for place in picked:
        word = vocabulary[int(place)]
        chance = rng.random()
        if chance < 0.02:
            word = str(int(place))
        if left == 0:
            word, left = word.capitalize(), int(rng.integers(4, 20))
        left -= 1
        text.append(word + ("." if left == 0 else "," if chance > 0.94 else ""))
    return " ".join(text).rstrip(",.") + "."


def draw_text(rng: np.random.Generator) -> str:
    """Draw a text of 8 to 200 tokens: most are short, a few many times as long, as real ones are."""
    words = rng.lognormal(np.log(MEDIAN_WORDS), SPREAD)
    return make_text(rng, int(np.clip(words, FEWEST_WORDS, MOST_WORDS)))
