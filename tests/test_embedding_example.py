"""The sentence encoder of examples/embedding: what it computes, what it answers, and that it stops."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "embedding"
PYTHON = EXAMPLE / ".venv" / "bin" / "python"
MODEL = EXAMPLE / "model" / "model.onnx"

built = pytest.mark.skipif(
    not (PYTHON.exists() and MODEL.exists()),
    reason="needs the environment and the model of examples/embedding: make test makes both",
)


def load(name: str) -> ModuleType:
    """Import one of the example's modules that need numpy only."""
    spec = importlib.util.spec_from_file_location(f"embedding_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestTexts:
    def test_the_same_generator_writes_the_same_texts(self) -> None:
        texts = load("texts")

        once, again = ([texts.draw_text(np.random.default_rng(3)) for _ in range(2)] for _ in range(2))

        assert once == again

    def test_lengths_are_mixed_as_real_ones_are(self) -> None:
        texts = load("texts")
        rng = np.random.default_rng(3)

        words = np.array([len(texts.draw_text(rng).split()) for _ in range(500)])

        assert 5 <= words.min() < 12
        assert 100 < words.max() <= 140
        assert np.median(words) < 0.9 * words.mean()


class TestReference:
    """The judge of the graph needs to be right itself, and needs numpy only."""

    def test_padding_changes_nothing(self) -> None:
        reference = load("reference")
        shape = reference.Shape(layers=2, width=24, heads=3, wide=48, vocabulary=50, positions=40)
        encoder = reference.Reference(shape, reference.make_weights(shape, seed=5))
        rng = np.random.default_rng(3)
        ids = rng.integers(0, 50, (3, 11))
        lengths = (11, 4, 1)
        mask = (np.arange(11) < np.array(lengths)[:, None]).astype(np.int64)
        segments = np.zeros_like(ids)

        together = encoder.embed(ids, mask, segments)

        for row, length in enumerate(lengths):
            cut = (slice(row, row + 1), slice(0, length))
            alone = encoder.embed(ids[cut], mask[cut], segments[cut])
            np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1)

    def test_gelu_is_the_exact_one(self) -> None:
        gelu = load("reference").gelu(np.array([-1.0, 0.0, 0.5, 2.0]))

        np.testing.assert_allclose(gelu, [-0.15865525, 0.0, 0.34573123, 1.95449974], atol=1e-8)

    def test_the_shape_has_22_million_parameters(self) -> None:
        reference = load("reference")

        weights = reference.make_weights(reference.Shape(), seed=7)

        assert sum(weight.size for weight in weights.values()) == pytest.approx(22.5e6, rel=0.01)


@built
@pytest.mark.slow
def test_the_graph_agrees_with_the_reference() -> None:
    done = subprocess.run(
        [PYTHON, "check.py"],
        cwd=EXAMPLE,
        env=clean(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


ANSWERS = """
import json
import urllib.error
import urllib.request

import pytest


def post(url, body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url + "/embed", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_texts_get_vectors(embedding_server):
    status, several = post(embedding_server, {"texts": ["zu", "a text that is somewhat longer"]})
    _, one = post(embedding_server, {"text": "zu"})
    assert status == 200
    assert [len(vector) for vector in several["embeddings"]] == [384, 384]
    assert several["embeddings"][0] == pytest.approx(one["embeddings"][0], abs=1e-5)
    assert several["tokens"][:1] == one["tokens"]
    assert sum(x * x for x in one["embeddings"][0]) == pytest.approx(1, abs=1e-4)


TEXTS = [{"text": ""}, {"text": 1}, {"texts": []}, {"texts": ["a"] * 33}, {"text": "a", "texts": ["b"]}]


@pytest.mark.parametrize("body", [*TEXTS, {}, {"x": 1}, "a"])
def test_bad_input_is_refused(embedding_server, body):
    assert post(embedding_server, body)[0] == 422
"""

WAITS = """
import pathlib
import time


def test_waits(embedding_server):
    pathlib.Path("started").touch()
    time.sleep({seconds})
"""


@built
@pytest.mark.slow
def test_the_server_answers(tmp_path: Path) -> None:
    tests = start(tmp_path, ANSWERS)

    output, _ = tests.communicate(timeout=120)

    assert tests.returncode == 0, output


@built
@pytest.mark.slow
@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_tests(tmp_path: Path, end: signal.Signals | None) -> None:
    tests = start(tmp_path, WAITS.format(seconds=1 if end is None else 60))
    try:
        wait_for(lambda: (tmp_path / "started").exists() or tests.poll() is not None, 90)
        assert tests.poll() is None, tests.communicate()[0]
        (server,) = (pid for pid, parent, _ in processes() if parent == tests.pid)
        assert len(group(server)) >= 4, "LitServe's processes, which the rest of this test watches"

        if end is not None:
            tests.send_signal(end)
        tests.communicate(timeout=60)

        wait_for(lambda: not group(server), 20)
    finally:
        tests.kill()
        tests.communicate()


def start(folder: Path, source: str) -> subprocess.Popen[str]:
    """Run tests in a folder of their own, with the example's conftest as a plugin."""
    (folder / "test_inner.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "--basetemp=tmp"],
        cwd=folder,
        env=clean() | {"PYTHONPATH": str(EXAMPLE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def clean() -> dict[str, str]:
    """What is set up for these tests does not concern those."""
    foreign = ("PYTHON", "PYTEST", "COVERAGE", "VIRTUAL_ENV", "EMBEDDING")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def processes() -> list[tuple[int, int, int]]:
    """Number, parent and group of every process; those that ended and wait for their parent do not count."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="], capture_output=True, text=True, check=True
    )
    rows = (line.split() for line in listed.stdout.splitlines())
    return [(int(pid), int(parent), int(of)) for pid, parent, of, state in rows if not state.startswith("Z")]


def group(number: int) -> list[int]:
    """The processes of one group."""
    return [pid for pid, _, of in processes() if of == number]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Return when the condition holds, fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.1)
