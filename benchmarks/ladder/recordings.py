"""The recordings of the ladder: public traces, read in place, their coarse times spread within the tick."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from pytest_capacity.protocols import Floats, Ints
from pytest_capacity.traffic.pattern import Traffic, plain_traffic
from pytest_capacity.traffic.quantised import dequantize

SPREAD_SEED, SYNTHESIS_SEED = 0, 0
IMAGE_WINDOWS, IMAGE_WINDOW_S, IMAGE_DAY_PART_S = 12, 600.0, 21_600


def retail_baskets(folder: Path) -> Traffic:
    """Baskets to be ranked, composed: the sizes of a shop's 135 invoices of a day, at Azure's arrivals.

    So few requests have no capacity of their own: it hangs on where the one basket of 616 items lies. Each
    arrival of another recording therefore has one of the baskets, drawn by chance.
    """
    items: dict[str, int] = {}
    with (folder / "online_retail_2011-12-05.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            # An invoice that begins with C takes a sale back.
            if not row["InvoiceNo"].startswith("C"):
                items[row["InvoiceNo"]] = items.get(row["InvoiceNo"], 0) + 1
    arrivals = azure_tokens(folder, "conv")
    rng = np.random.default_rng(SYNTHESIS_SEED)
    drawn = rng.choice(np.array(list(items.values()), dtype=np.float64), len(arrivals))
    return replace(arrivals, sizes={"items": drawn})


def nasa_pages(folder: Path) -> Traffic:
    """Pages asked of a web server: the page is the key, the host the session; seconds spread."""
    times, pages, hosts, sizes = [], [], [], []
    path = folder / "nasa_http_1995-07-01_rows1-6000.tsv"
    with path.open(encoding="latin-1", newline="") as file:
        rows = csv.reader(file, delimiter="\t")
        next(rows)
        for host, _, time_s, _, url, _, size, *_ in rows:
            times.append(float(time_s))
            pages.append(url)
            hosts.append(host)
            sizes.append(float(size or 0))
    return plain_traffic(
        dequantize(np.array(times), 1.0, SPREAD_SEED),
        key=_numbered(pages),
        session=_numbered(hosts),
        sizes={"bytes": np.array(sizes)},
    )


def mooncake_conversations(folder: Path) -> Traffic:
    """Conversations with a language model; the conversation, known by its blocks, is key and session."""
    rows = []
    with (folder / "mooncake_conversation_0-600s.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    owner: dict[int, int] = {}
    conversation: list[int] = []
    for number, row in enumerate(rows):
        # The first block is the same for all: the system's own prompt.
        blocks = row["hash_ids"][1:]
        known = [owner[block] for block in _known_prefix(blocks, owner)]
        conversation.append(known[-1] if known else number)
        for block in blocks:
            owner.setdefault(block, conversation[-1])
    group = _numbered(conversation)
    return plain_traffic(
        dequantize(np.array([row["timestamp"] for row in rows]) / 1000, 3.0, SPREAD_SEED),
        key=group,
        session=group,
        sizes={
            "tokens_in": np.array([float(row["input_length"]) for row in rows]),
            "tokens_out": np.array([float(row["output_length"]) for row in rows]),
        },
    )


def _known_prefix(blocks: list[int], owner: dict[int, int]) -> Iterable[int]:
    for block in blocks:
        if block not in owner:
            return
        yield block


def images(folder: Path) -> Traffic:
    """Two hours of requests with images, composed: the trace has no requests, only each window's figures.

    Arrivals are gamma renewals with each window's rate and variation, sizes the tokens of all images of a
    request, drawn from the published shares.
    """
    rng = np.random.default_rng(SYNTHESIS_SEED)
    with (folder / "servegen_mm-image_client12_dataset.json").open(encoding="utf-8") as file:
        parts = json.load(file)
    with (folder / "servegen_mm-image_client12_trace.csv").open(encoding="utf-8", newline="") as file:
        windows = [(float(row[0]), float(row[1]), float(row[2])) for row in csv.reader(file)]
    times, sizes = [], []
    for start_s, rate_qps, variation in windows[:IMAGE_WINDOWS]:
        shape = 1 / variation**2
        gaps = rng.gamma(shape, 1 / (rate_qps * shape), int(3 * rate_qps * IMAGE_WINDOW_S))
        within = np.cumsum(gaps)
        within = within[within < IMAGE_WINDOW_S]
        times.append(start_s + within)
        part = parts[str(int(start_s // IMAGE_DAY_PART_S) * IMAGE_DAY_PART_S)]
        tokens, counts = (_drawn(part[name], len(within), rng) for name in ("image_tokens", "image_count"))
        sizes.append(tokens * counts)
    return plain_traffic(np.concatenate(times), sizes={"image_tokens": np.concatenate(sizes)})


def azure_tokens(folder: Path, which: str) -> Traffic:
    """Requests to a language model in production: tokens in and out, times to 100 ns."""
    path = folder / f"azure_llm_2023_{which}_0000-1500s.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    # Python reads six digits of a second; the seventh is there.
    t_s = np.array(
        [datetime.fromisoformat(row["TIMESTAMP"][:26] + "+00:00").timestamp() for row in rows]
    ) + np.array([int(row["TIMESTAMP"][26:] or 0) * 1e-7 for row in rows])
    order = np.argsort(t_s, kind="stable")
    columns = [np.array([float(row[name]) for row in rows]) for name in ("ContextTokens", "GeneratedTokens")]
    return plain_traffic(t_s[order], sizes={"tokens_in": columns[0][order], "tokens_out": columns[1][order]})


def _numbered(values: Iterable[object]) -> Ints:
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _drawn(text: str, count: int, rng: np.random.Generator) -> Floats:
    """Values from shares that stand in the file as a Python literal."""
    shares = ast.literal_eval(text)
    values, weights = np.array(list(shares), dtype=np.float64), np.array(list(shares.values()))
    return rng.choice(values, count, p=weights / weights.sum())
