"""Check the encoder against the reference: ``python check.py``; exits with 1 where they differ.

A graph can be right at the shape that it was tried at and wrong at others, so a small encoder is compared at
many batch sizes, lengths and paddings, and the built one at a few. Then what serving adds: a batch, padded to
its longest text, must give the vectors that its texts give one by one.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from encoder import MODEL, MOST_TOKENS, Encoder, pooled
from graph import EncoderGraph
from onnx import numpy_helper
from reference import Ids, Reference, Shape, Weights, make_weights
from texts import draw_text

# Single against double precision through all layers, on values of size 1. Rounding gave at most 3e-6 and 1e-7
# in our runs; GELU by tanh gives ten times what is allowed, a forgotten mask a thousand times.
HIDDEN_WITHIN = 2e-5
VECTORS_WITHIN = 2e-6

TINY = Shape(layers=2, width=24, heads=3, wide=48, vocabulary=50, positions=40)
TINY_SIZES = [(1, 1), (1, 2), (1, 40), (2, 7), (3, 40), (5, 13), (8, 24)]
FULL_SIZES = [(1, 8), (1, 256), (2, 33), (4, 70)]

log = logging.getLogger("check")


def batch(rng: np.random.Generator, shape: Shape, size: tuple[int, int]) -> tuple[Ids, Ids, Ids]:
    """Draw tokens and segments; the first row is full, the others are padded to it."""
    rows, length = size
    kept = np.concatenate([[length], rng.integers(1, length + 1, rows - 1)])
    mask = (np.arange(length) < kept[:, None]).astype(np.int64)
    return rng.integers(0, shape.vocabulary, size), mask, rng.integers(0, shape.segments, size)


def weights_of(model: Path, shape: Shape) -> Weights:
    """Read the weights back from a built model, whichever seed made them."""
    stored = {each.name: each for each in onnx.load(model).graph.initializer}
    return {name: numpy_helper.to_array(stored[name]) for name in make_weights(shape, seed=0)}


def differences(
    encoder: Encoder,
    reference: Reference,
    shape: Shape,
    sizes: Sequence[tuple[int, int]],
    *,
    segments: bool = True,
) -> Iterator[tuple[str, float, float]]:
    """Compare tokens (those that are no padding) and texts at each size."""
    rng = np.random.default_rng(3)
    for size in sizes:
        ids, mask, token_types = batch(rng, shape, size)
        token_types *= segments
        got, wanted = encoder.hidden(ids, mask, token_types), reference.hidden(ids, mask, token_types)
        yield (
            f"{size[0]} x {size[1]}, {int(mask.size - mask.sum())} of padding",
            float(np.abs(got - wanted)[mask == 1].max()),
            float(np.abs(pooled(got, mask) - reference.embed(ids, mask, token_types)).max()),
        )


def check_tiny(tokenizer: Path) -> Iterator[tuple[str, float, float]]:
    """Compare small encoders, saved and loaded as real ones are, in both forms that exports come in."""
    weights = make_weights(TINY, seed=5)
    graph = [EncoderGraph(TINY, weights) for _ in range(2)]
    forms = {
        "model.onnx": graph[0].build(),
        "onnx/model.onnx": graph[1].build(token_types=False, output="token_embeddings"),
    }
    for place, model in forms.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / place
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(model.SerializeToString())
            shutil.copy(tokenizer, folder)
            encoder = Encoder(Path(folder))
            for size, tokens, texts in differences(
                encoder, Reference(TINY, weights), TINY, TINY_SIZES, segments=place == "model.onnx"
            ):
                yield f"tiny {place} {size}", tokens, texts


def check_texts(encoder: Encoder) -> Iterator[tuple[str, float, float]]:
    """Compare texts in one padded batch with the same texts one by one."""
    rng = np.random.default_rng(4)
    for count in (2, 7):
        texts = [draw_text(rng) for _ in range(count)]
        together, counts = encoder.embed(texts)
        alone = np.concatenate([encoder.embed([text])[0] for text in texts])
        yield f"texts of {min(counts)} to {max(counts)} tokens", 0.0, float(np.abs(together - alone).max())


def check_lengths(encoder: Encoder) -> bool:
    """See that texts have the lengths that the README names, and that none exceeds the model."""
    rng = np.random.default_rng(5)
    counts = np.array([int(encoder.tokenize([draw_text(rng)])[1].sum()) for _ in range(1000)])
    longest = encoder.tokenize(["word " * 5000])[0].shape[1]
    median = np.median(counts)
    log.info("tokens: %d to %d, median %.0f; longest kept %d", counts.min(), counts.max(), median, longest)
    return bool(counts.min() >= 7 and counts.max() <= 230 and 35 < median < 60 and longest == MOST_TOKENS)


def main() -> int:
    """Run all comparisons and say the worst of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="what build.py made (default: model/)")
    folder: Path = parser.parse_args().model
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    encoder, shape = Encoder(folder), Shape()
    reference = Reference(shape, weights_of(folder / "model.onnx", shape))
    compared = [
        *check_tiny(folder / "tokenizer.json"),
        *(
            (f"built {size}", tokens, texts)
            for size, tokens, texts in differences(encoder, reference, shape, FULL_SIZES)
        ),
        *check_texts(encoder),
    ]
    good = check_lengths(encoder)
    for name, tokens, texts in compared:
        # Written so that a NaN fails.
        fits = tokens <= HIDDEN_WITHIN and texts <= VECTORS_WITHIN
        good &= fits
        log.info("%-55s tokens %.1e  texts %.1e  %s", name, tokens, texts, "ok" if fits else "DIFFERS")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
