"""The encoder as it serves: tokenizer, onnxruntime session, pooling; for the made model and for real ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

MODEL = Path(__file__).parent / "model"
MODEL_DIR_VARIABLE = "EMBEDDING_MODEL_DIR"
MOST_TOKENS = 256
KNOWN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})

Vectors: TypeAlias = "npt.NDArray[np.float32]"
Ids: TypeAlias = "npt.NDArray[np.int64]"


def model_dir(chosen: Path | None = None) -> Path:
    """Say which model to load: the one chosen, else the environment's, else what ``build.py`` made."""
    named = os.environ.get(MODEL_DIR_VARIABLE)
    return chosen or (Path(named) if named else MODEL)


class Encoder:
    """Turns texts into vectors of length 1, the mean of their tokens.

    The folder holds ``tokenizer.json`` and ``model.onnx``, the latter in place or in a folder ``onnx``, as
    repositories of sentence encoders do. Inputs may be ``input_ids``, ``attention_mask`` and
    ``token_type_ids``; the output is ``last_hidden_state``, or the first where none has that name.

    Raises FileNotFoundError for a folder that lacks one of the files, ValueError for a model of another kind.
    """

    def __init__(self, folder: Path) -> None:
        models = [path for path in (folder / "model.onnx", folder / "onnx" / "model.onnx") if path.is_file()]
        tokenizer = folder / "tokenizer.json"
        if not models or not tokenizer.is_file():
            lacking = " and ".join(
                ["model.onnx"] * (not models) + ["tokenizer.json"] * (not tokenizer.is_file())
            )
            hint = ": run `python build.py` first" if folder == MODEL else ""
            raise FileNotFoundError(f"{folder} lacks {lacking}{hint}")
        self._tokenizer = load_tokenizer(tokenizer)
        options = onnxruntime.SessionOptions()
        # One thread: a worker has one core, and a pool that spins between requests would starve the others.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(models[0]), options, ["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]
        if "input_ids" not in self._inputs or not KNOWN_INPUTS.issuperset(self._inputs):
            known = "input_ids, and possibly attention_mask and token_type_ids, are known"
            raise ValueError(f"{models[0]} takes {', '.join(self._inputs)}: {known}")
        outputs = {each.name: each.shape for each in self._session.get_outputs()}
        self._output = "last_hidden_state" if "last_hidden_state" in outputs else next(iter(outputs))
        shape = outputs[self._output]
        if len(shape) != 3:
            raise ValueError(f"{models[0]} gives {self._output} of shape {shape}: a vector a token is needed")

    def tokenize(self, texts: Sequence[str]) -> tuple[Ids, Ids, Ids]:
        """Cut texts into tokens, padded to the longest: ids, mask and segments."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids, mask, types = (
            np.array([getattr(each, field) for each in encoded], dtype=np.int64)
            for field in ("ids", "attention_mask", "type_ids")
        )
        return ids, mask, types

    def hidden(self, ids: Ids, mask: Ids, token_types: Ids) -> Vectors:
        """Run the model: one vector for each token, padding included."""
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": token_types}
        feeds = {name: values[name] for name in self._inputs}
        result: Vectors = self._session.run([self._output], feeds)[0]
        return result

    def embed(self, texts: Sequence[str]) -> tuple[Vectors, list[int]]:
        """Give each text's vector and how many tokens it had."""
        ids, mask, token_types = self.tokenize(texts)
        return pooled(self.hidden(ids, mask, token_types), mask), [int(count) for count in mask.sum(axis=1)]


def pooled(hidden: Vectors, mask: Ids) -> Vectors:
    """Average over the tokens that are no padding, and scale to length 1."""
    kept = mask[..., None].astype(np.float32)
    mean = (hidden * kept).sum(axis=1) / kept.sum(axis=1)
    vectors: Vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return vectors


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer and let it pad to a batch's longest text, which files in the wild may do otherwise."""
    tokenizer = Tokenizer.from_file(str(path))
    padding = tokenizer.padding or {}
    tokens = [padding["pad_token"]] if padding else ["[PAD]", "<pad>"]
    known = [token for token in tokens if tokenizer.token_to_id(token) is not None]
    if not known:
        raise ValueError(f"{path} has no token {' or '.join(tokens)} to pad with")
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(known[0]), pad_token=known[0])
    # A limit that the file states is the model's; a longer text would need positions that the model lacks.
    limit = (tokenizer.truncation or {}).get("max_length", MOST_TOKENS)
    tokenizer.enable_truncation(max_length=limit)
    return tokenizer
