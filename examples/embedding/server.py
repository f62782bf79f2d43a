"""The server: ``python server.py --port 8000`` answers POST /embed and GET /health.

LitServe runs as several processes: this one, which starts and watches the others; one that answers HTTP; one
worker or more with the model; one that holds the queue between them, and Python's own that cleans up.
"""

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import litserve
from encoder import MODEL_DIR_VARIABLE, Encoder, Vectors, model_dir
from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_TEXTS = 32
STOP_WITHIN_S = 4.0

Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class Query(BaseModel):
    """One text or several."""

    model_config = ConfigDict(extra="forbid")

    text: Text | None = None
    texts: Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Query":
        if (self.text is None) == (self.texts is None):
            raise ValueError("either 'text' or 'texts' is required")
        return self


class Embeddings(BaseModel):
    """A vector of length 1 for each text, in the same order, and how many tokens it had."""

    embeddings: list[list[float]]
    tokens: list[int]


# LitServe takes the annotations below as they stand, so this module does without `from __future__ import
# annotations`: as strings, FastAPI could not find what they name.
class EmbeddingAPI(litserve.LitAPI):
    """What one worker does. FastAPI has checked the request by then, and answered 422 where it is wrong."""

    def setup(self, device: Any) -> None:  # noqa: ARG002 - there is only the CPU
        self._encoder = Encoder(model_dir())
        # The first runs allocate; a worker that says it is ready should be.
        for length in (1, 40, 400):
            self._encoder.embed(["warm " * length])

    def decode_request(self, request: Query) -> list[str]:
        return [request.text] if request.text is not None else request.texts or []

    # No batching across requests: texts of mixed lengths would be padded to the longest, and on a core of its
    # own a worker gains nothing from a batch that it does not lose again to the padding.
    def predict(self, texts: list[str]) -> tuple[Vectors, list[int]]:
        return self._encoder.embed(texts)

    def encode_response(self, output: tuple[Vectors, list[int]]) -> Embeddings:
        vectors, tokens = output
        # Single precision holds seven digits; the rest would be noise to send.
        return Embeddings(embeddings=vectors.astype(float).round(7).tolist(), tokens=tokens)


def stop_on_sigterm() -> None:
    """Let `kill` and `docker stop` do what Ctrl-C does: only that makes LitServe stop its processes too."""
    first = os.getpid()

    def stop(*_: object) -> None:
        # Processes forked from this one inherit the handler. They need to end, not to show a traceback.
        if os.getpid() == first:
            raise KeyboardInterrupt
        sys.exit()

    signal.signal(signal.SIGTERM, stop)


def stop_with_stdin() -> None:
    """Stop when whoever started this process is gone, however it ended: a pipe tells even after a SIGKILL."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_WITHIN_S)
    # Still here: this process waits for another, which leaves none of them a chance to clean up.
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Read the command line and serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1, help="processes with a model each (default: 1)")
    parser.add_argument(
        "--model-dir",
        type=Path,
        help=f"folder with model.onnx and tokenizer.json (default: ${MODEL_DIR_VARIABLE}, else model/)",
    )
    parser.add_argument(
        "--with-stdin",
        action="store_true",
        help="stop when standard input ends; needs a process group of its own",
    )
    arguments = parser.parse_args()
    if arguments.model_dir:
        os.environ[MODEL_DIR_VARIABLE] = str(arguments.model_dir.resolve())
    # One text needs no pool of threads, which would want the cores that the workers use.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    stop_on_sigterm()
    if arguments.with_stdin:
        threading.Thread(target=stop_with_stdin, daemon=True).start()
    api = EmbeddingAPI(api_path="/embed")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=arguments.workers)
    server.uvicorn_graceful_timeout = 2
    server.run(
        host="127.0.0.1",
        port=arguments.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
