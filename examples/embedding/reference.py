"""The encoder once more, in plain numpy and double precision: slow, short, and easy to believe.

Also holds what both sides have to agree on: the shape, the names of the weights, and their values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Weights: TypeAlias = "dict[str, npt.NDArray[np.float32]]"
Floats: TypeAlias = "npt.NDArray[np.float64]"
Ids: TypeAlias = "npt.NDArray[np.int64]"

EPSILON = 1e-12
MASKED = -1e9


@dataclass(frozen=True)
class Shape:
    """How large an encoder is; the defaults are MiniLM-L6's, with 256 positions."""

    layers: int = 6
    width: int = 384
    heads: int = 12
    wide: int = 1536
    vocabulary: int = 30_522
    positions: int = 256
    segments: int = 2


def make_weights(shape: Shape, seed: int) -> Weights:
    """Draw every weight, biases and scales too, so that none goes unchecked for being 0 or 1."""
    rng = np.random.default_rng(seed)

    def drawn(*size: int, mean: float = 0.0, spread: float = 0.02) -> npt.NDArray[np.float32]:
        values = rng.standard_normal(size, dtype=np.float32)
        return (mean + spread * values).astype(np.float32)

    def linear(name: str, inputs: int, outputs: int) -> Weights:
        # As wide as keeps a value's size: with BERT's 0.02 the layers would hardly change what they get.
        return {
            f"{name}.weight": drawn(inputs, outputs, spread=inputs**-0.5),
            f"{name}.bias": drawn(outputs),
        }

    def norm(name: str) -> Weights:
        return {
            f"{name}.scale": drawn(shape.width, mean=1.0, spread=0.1),
            f"{name}.shift": drawn(shape.width, spread=0.1),
        }

    weights = {
        "words": drawn(shape.vocabulary, shape.width),
        "positions": drawn(shape.positions, shape.width),
        "segments": drawn(shape.segments, shape.width),
        **norm("embedding"),
    }
    for layer in range(shape.layers):
        prefix = f"layer{layer}."
        for part in ("query", "key", "value", "attention_out"):
            weights |= linear(prefix + part, shape.width, shape.width)
        weights |= linear(f"{prefix}wide", shape.width, shape.wide)
        weights |= linear(f"{prefix}narrow", shape.wide, shape.width)
        weights |= norm(f"{prefix}attention") | norm(f"{prefix}feed_forward")
    return weights


class Reference:
    """Computes what the graph has to compute."""

    def __init__(self, shape: Shape, weights: Weights) -> None:
        self._shape = shape
        self._weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def hidden(self, ids: Ids, mask: Ids, token_types: Ids) -> Floats:
        """Run all layers: one vector for each token."""
        weights = self._weights
        state = weights["words"][ids] + weights["segments"][token_types]
        state = self._norm("embedding", state + weights["positions"][: ids.shape[1]])
        for layer in range(self._shape.layers):
            prefix = f"layer{layer}."
            attended = self._linear(f"{prefix}attention_out", self._attention(prefix, state, mask))
            state = self._norm(f"{prefix}attention", state + attended)
            narrow = self._linear(f"{prefix}narrow", gelu(self._linear(f"{prefix}wide", state)))
            state = self._norm(f"{prefix}feed_forward", state + narrow)
        return state

    def embed(self, ids: Ids, mask: Ids, token_types: Ids) -> Floats:
        """Average each text's tokens without the padding, and scale to length 1."""
        hidden = self.hidden(ids, mask, token_types)
        vectors = np.stack([row[kept == 1].mean(axis=0) for row, kept in zip(hidden, mask, strict=True)])
        scaled: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return scaled

    def _attention(self, prefix: str, state: Floats, mask: Ids) -> Floats:
        size = self._shape.width // self._shape.heads
        query, key, value = (self._linear(prefix + part, state) for part in ("query", "key", "value"))
        mixed = np.empty_like(state)
        for head in range(self._shape.heads):
            columns = slice(head * size, (head + 1) * size)
            scores = query[..., columns] @ key[..., columns].transpose(0, 2, 1) / math.sqrt(size)
            scores = np.where(mask[:, None, :] == 1, scores, -np.inf)
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed[..., columns] = shares / shares.sum(axis=-1, keepdims=True) @ value[..., columns]
        return mixed

    def _linear(self, name: str, value: Floats) -> Floats:
        result: Floats = value @ self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result

    def _norm(self, name: str, value: Floats) -> Floats:
        centred = value - value.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        scale, shift = self._weights[f"{name}.scale"], self._weights[f"{name}.shift"]
        result: Floats = centred / np.sqrt(variance + EPSILON) * scale + shift
        return result


def gelu(value: Floats) -> Floats:
    """Compute GELU with the error function itself, not with the approximation by tanh."""
    error_function = np.vectorize(math.erf, otypes=[np.float64])
    result: Floats = 0.5 * value * (1 + error_function(value / math.sqrt(2)))
    return result
