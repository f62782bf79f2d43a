"""The ranker: its feature tables, how a query becomes a matrix, and how a matrix is scored.

Training and serving build features with the same function, so that they cannot drift apart.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

try:
    import lightgbm
except OSError as error:  # the wheel links against the system's OpenMP runtime and does not bring it
    sys.exit(
        f"lightgbm cannot load the OpenMP runtime ({error}): install libgomp1 (Debian, Ubuntu), "
        "libgomp (Fedora) or libomp (Homebrew)"
    )

MODEL = Path(__file__).parent / "model"
TASTES = 8
USER_COLUMNS = 16
ITEM_COLUMNS = 36
CROSSED_COLUMNS = TASTES + 4
COLUMNS = USER_COLUMNS + ITEM_COLUMNS + CROSSED_COLUMNS
PRICE, POPULARITY = TASTES, TASTES + 1
"""The first columns after the tastes, in both tables: what a user likes to pay and an item costs; how much
a user follows the crowd and an item is sought."""

Table = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Store:
    """The feature store of this example: one row for each user and item, in memory.

    An unknown user or item gets the table's last row, its mean: a ranker has to answer for newcomers too.
    """

    users: Table
    items: Table

    def user_row(self, user: str) -> Table:
        """Look up a user by a name such as ``u17``."""
        number = user.removeprefix("u")
        known = number.isascii() and number.isdigit() and len(number) < 10
        row: Table = self.users[min(int(number), len(self.users) - 1) if known else -1]
        return row

    def item_rows(self, items: list[int]) -> Table:
        """Look up items by their numbers."""
        last = len(self.items) - 1
        rows = np.array([item if 0 <= item < last else last for item in items])
        found: Table = self.items[rows]
        return found

    def save(self, path: Path) -> None:
        """Write both tables to one file."""
        np.savez(path, users=self.users, items=self.items)

    @classmethod
    def load(cls, path: Path) -> Store:
        """Read what `save` wrote."""
        with np.load(path) as tables:
            return cls(users=tables["users"], items=tables["items"])


def features(user: Table, items: Table) -> Table:
    """One row of features for each candidate: the user's, the item's, and what they have in common."""
    matrix: Table = np.empty((len(items), COLUMNS), dtype=np.float32)
    matrix[:, :USER_COLUMNS] = user
    matrix[:, USER_COLUMNS:-CROSSED_COLUMNS] = items
    crossed = matrix[:, -CROSSED_COLUMNS:]
    np.multiply(items[:, :TASTES], user[:TASTES], out=crossed[:, :TASTES])
    crossed[:, TASTES] = crossed[:, :TASTES].sum(axis=1)
    crossed[:, TASTES + 1] = np.abs(items[:, PRICE] - user[PRICE])
    crossed[:, TASTES + 2] = items[:, POPULARITY] * user[POPULARITY]
    # How an item stands out among the candidates: the only feature that depends on the whole list.
    crossed[:, TASTES + 3] = items[:, POPULARITY] - items[:, POPULARITY].mean()
    return matrix


class Ranker:
    """A trained model with its feature store, ready to answer."""

    def __init__(self, folder: Path = MODEL) -> None:
        missing = [name for name in ("ranker.txt", "store.npz") if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {' and '.join(missing)}: run `python train.py` first")
        self._store = Store.load(folder / "store.npz")
        self._model = lightgbm.Booster(model_file=str(folder / "ranker.txt"))

    def rank(self, user: str, items: list[int]) -> tuple[list[int], list[float]]:
        """Order the items for the user, best first, with their scores."""
        matrix = features(self._store.user_row(user), self._store.item_rows(items))
        # One thread: a request is a few hundred microseconds of work, less than it costs to wake a team of
        # threads, and requests that each want every core are what ruins the p99 under load.
        scores = np.asarray(self._model.predict(matrix, num_threads=1))
        order = np.argsort(-scores, kind="stable")
        return [items[place] for place in order], [float(score) for score in scores[order]]
