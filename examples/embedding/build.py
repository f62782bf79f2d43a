"""Make the encoder and its tokenizer: ``python build.py`` writes ``model/``; the seed fixes the weights.

What is measured is what a text costs, and untrained weights cost what trained ones do. The tokenizer is a
real WordPiece one, trained on text that this example writes itself.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from encoder import MODEL, MOST_TOKENS
from graph import EncoderGraph
from reference import Shape, make_weights
from texts import draw_text
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TRAINING_TEXTS = 15_000

log = logging.getLogger("build")


def training_texts(rng: np.random.Generator) -> Iterator[str]:
    """Write what the tokenizer learns from."""
    return (draw_text(rng) for _ in range(TRAINING_TEXTS))


def train_tokenizer(rng: np.random.Generator, vocabulary: int) -> Tokenizer:
    """Train a WordPiece tokenizer of BERT's kind."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text, not a secret
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=vocabulary, min_frequency=1, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(rng), trainer)
    first, last = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", first), ("[SEP]", last)]
    )
    tokenizer.enable_truncation(max_length=MOST_TOKENS)
    return tokenizer


def build(folder: Path, seed: int, shape: Shape) -> int:
    """Write tokenizer and model, and return how many parameters the model has."""
    tokenizer = train_tokenizer(np.random.default_rng(seed), shape.vocabulary)
    words = tokenizer.get_vocab_size()
    if words > shape.vocabulary:
        raise ValueError(f"the tokenizer has {words} tokens, the model room for {shape.vocabulary}")
    weights = make_weights(shape, seed)
    model = EncoderGraph(shape, weights).build()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    # The model comes last and whole: a build that was interrupted leaves nothing that looks finished.
    unfinished = folder / "model.onnx.part"
    unfinished.write_bytes(model.SerializeToString())
    unfinished.replace(folder / "model.onnx")
    return sum(weight.size for weight in weights.values())


def main() -> None:
    """Read the command line, build, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL, help="folder for the model (default: model/)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    start = time.perf_counter()
    parameters = build(arguments.out, arguments.seed, Shape())
    log.info("built in %.1f s: %.1f million parameters", time.perf_counter() - start, parameters / 1e6)


if __name__ == "__main__":
    main()
