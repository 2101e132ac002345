"""What the tests of conversion share: small models in their original form, and numbers of both."""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.unit.engine_kit import wait_until
from tray_app.engine.convert.environment import Environment
from tray_app.engine.process import ChildProcess, LaunchSpec

HERE = Path(__file__).parent
TEXT = HERE.parents[1] / "tray_app" / "engine" / "convert" / "measure.txt"
LINK = "converter"
# Torch's threads spin while they wait; beside another busy process that takes minutes.
QUIETLY = {"GOMP_SPINCOUNT": "400", "KMP_BLOCKTIME": "0"}
# What transformers 4.57.6 reads GGUF with, without what they need besides: it is there.
NEEDED_FOR_GGUF = ("gguf==0.19.0", "accelerate==1.12.0", "psutil==7.1.3")


def use(converter: Path, home: Path) -> None:
    """Let a home have the converter that all tests share."""
    (home / LINK).symlink_to(converter, target_is_directory=True)


def script(converter: Path, name: str, *words: str | Path, beside: Path | None = None) -> Any:
    """Run a program of this folder in the converter's environment; what it printed, as JSON.

    `beside`: a folder with more packages.
    """
    python = Environment(converter).python
    done = subprocess.run(
        [str(python), str(HERE / name), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **QUIETLY, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(beside or "")},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def with_gguf(converter: Path, folder: Path) -> Path:
    """A folder with the package that transformers reads GGUF with."""
    pip = [str(Environment(converter).python), "-m", "pip", "install", "-qq", "--no-input"]
    done = subprocess.run(
        [*pip, "--no-deps", "--target", str(folder), *NEEDED_FOR_GGUF],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def cosine(one: list[float], other: list[float]) -> float:
    """Of two vectors; 1 when they point the same way."""
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


def post(port: int, path: str, body: Any) -> Any:
    """One request to a llama-server of the test's own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data[:500]
        return json.loads(data)
    finally:
        connection.close()


class Served:
    """A real llama-server with one model, for the length of a block."""

    def __init__(self, server: Path, model: Path, *more: str) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        words = (str(server), "--model", str(model), "--host", "127.0.0.1", "--no-warmup")
        words += ("--port", str(self.port), "--ctx-size", "512", "--parallel", "1", *more)
        self._child = ChildProcess(LaunchSpec(words), kind="test")

    def __enter__(self) -> Served:
        self._child.__enter__()
        wait_until(self._healthy, 60)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._child.__exit__(*exc)

    def _healthy(self) -> bool:
        assert self._child.poll() is None, "llama-server ended"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def embedding(self, text: str) -> list[float]:
        """The vector of a text."""
        answer = post(self.port, "/v1/embeddings", {"input": text})
        return list(answer["data"][0]["embedding"])

    def log_probabilities(self, tokens: Iterable[int], count: int) -> dict[int, float]:
        """Of the `count` most probable tokens that could follow `tokens`."""
        wish = {"prompt": list(tokens), "n_predict": 1, "temperature": 1.0, "n_probs": count}
        answer = post(self.port, "/completion", wish)
        found = answer["completion_probabilities"][0]["top_logprobs"]
        return {each["id"]: each["logprob"] for each in found}

    def text(self, prompt: str, count: int = 12) -> str:
        """What it writes on, without chance."""
        wish = {"prompt": prompt, "n_predict": count, "temperature": 0.0, "cache_prompt": False}
        return str(post(self.port, "/completion", wish)["content"])
