"""Train the ranker on a made-up shop: ``python train.py`` writes ``model/``; the seed fixes everything.

The shop has users with tastes and items with qualities. A query is a user and the candidates that an
earlier stage retrieved, as many as it happened to find; what the user clicked and bought are the labels.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

# `ranker` comes before lightgbm: it says which package to install where the OpenMP runtime is missing.
from ranker import (
    COLUMNS,
    ITEM_COLUMNS,
    MODEL,
    POPULARITY,
    PRICE,
    TASTES,
    USER_COLUMNS,
    Store,
    Table,
    features,
)

import lightgbm  # isort: skip

USERS = 5_000
ITEMS = 20_000
QUERIES = 1_200
HELD_OUT = 300
TREES = 300
LEAVES = 63

log = logging.getLogger("train")


def make_store(rng: np.random.Generator) -> Store:
    """Make users and items; each table ends with its mean, for those it does not know."""
    users = rng.normal(size=(USERS, USER_COLUMNS)).astype(np.float32)
    items = rng.normal(size=(ITEMS, ITEM_COLUMNS)).astype(np.float32)
    users[:, POPULARITY] = rng.beta(2, 3, size=USERS)
    # A few items are sought by everybody, most by nearly nobody.
    items[:, POPULARITY] = np.log1p(rng.pareto(1.2, size=ITEMS))
    users, items = (np.vstack([table, table.mean(axis=0)]).astype(np.float32) for table in (users, items))
    return Store(users=users, items=items)


def appeal(user: Table, items: Table) -> npt.NDArray[np.float64]:
    """What the user would think of each item: the truth that the model has to find."""
    taste = items[:, :TASTES] @ user[:TASTES] / np.sqrt(TASTES)
    price = np.abs(items[:, PRICE] - user[PRICE])
    quality = np.tanh(items[:, 10]) * (items[:, 11] > 0)
    return np.asarray(1.4 * taste - 0.7 * price + 1.2 * user[POPULARITY] * items[:, POPULARITY] + quality)


def make_queries(
    rng: np.random.Generator, store: Store, count: int
) -> tuple[Table, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Make all candidates' features and labels (0 ignored, 1 clicked, 2 bought), and each query's length."""
    lengths = np.clip(rng.lognormal(np.log(30), 0.6, size=count), 10, 100).astype(np.int32)
    # Retrieval offers what is sought more often than what is not.
    weight = np.exp(0.7 * store.items[:-1, POPULARITY])
    candidates = rng.choice(ITEMS, size=int(lengths.sum()), p=weight / weight.sum())
    matrix = np.empty((len(candidates), COLUMNS), dtype=np.float32)
    labels = np.empty(len(candidates), dtype=np.int32)
    ends = np.cumsum(lengths)
    for start, end in zip(ends - lengths, ends, strict=True):
        user, items = store.users[rng.integers(USERS)], store.items[candidates[start:end]]
        liking = appeal(user, items) + rng.normal(scale=0.5, size=end - start)
        clicked = rng.random(end - start) < 1 / (1 + np.exp(1.5 - liking))
        bought = clicked & (rng.random(end - start) < 1 / (1 + np.exp(2.5 - liking)))
        matrix[start:end] = features(user, items)
        labels[start:end] = clicked.astype(np.int32) + bought
    return matrix, labels, lengths


def train(folder: Path, seed: int) -> float:
    """Train, save, and return the NDCG@10 on queries that the training did not see."""
    rng = np.random.default_rng(seed)
    store = make_store(rng)
    matrix, labels, lengths = make_queries(rng, store, QUERIES)
    seen = lightgbm.Dataset(matrix, labels, group=lengths, free_raw_data=False)
    matrix, labels, lengths = make_queries(rng, store, HELD_OUT)
    unseen = lightgbm.Dataset(matrix, labels, group=lengths, reference=seen)
    scores: dict[str, dict[str, list[float]]] = {}
    model = lightgbm.train(
        {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "num_leaves": LEAVES,
            "learning_rate": 0.05,
            "min_data_in_leaf": 20,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,  # else LightGBM times both ways first, and the choice is not repeatable
            # Threads wait for one another at every node: on a busy machine two took twenty times as long.
            "num_threads": 1,
            "verbosity": -1,
        },
        seen,
        num_boost_round=TREES,
        valid_sets=[unseen],
        valid_names=["held out"],
        callbacks=[
            lightgbm.record_evaluation(scores),
            lambda env: (
                log.info("  %d of %d trees", env.iteration + 1, TREES)
                if (env.iteration + 1) % 100 == 0
                else None
            ),
        ],
    )
    folder.mkdir(parents=True, exist_ok=True)
    store.save(folder / "store.npz")
    # The model comes last and whole: a training that was interrupted leaves nothing that looks finished.
    unfinished = folder / "ranker.txt.part"
    model.save_model(unfinished)
    unfinished.replace(folder / "ranker.txt")
    return scores["held out"]["ndcg@10"][-1]


def main() -> None:
    """Read the command line, train, and say how well it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL, help="folder for the model (default: model/)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    start = time.perf_counter()
    ndcg = train(arguments.out, arguments.seed)
    log.info("trained in %.1f s, NDCG@10 %.3f on unseen queries", time.perf_counter() - start, ndcg)


if __name__ == "__main__":
    main()
