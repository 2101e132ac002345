"""Loads a model into a llama-server on a private endpoint and asks it one thing."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tray_app.engine.child_registry import ChildRegistry
from tray_app.engine.errors import ErrorView
from tray_app.engine.faults import read_fault
from tray_app.engine.launch import LOAD_DETAILS, Endpoint
from tray_app.engine.llama_server import free_endpoint
from tray_app.engine.process import ChildProcess, LaunchSpec

from .proof_model import ANSWER, CONTEXT, PROMPT

POLL_S = 0.01
CHECK_S = 0.05
CRASH_S = 5.0  # from a lost connection to the end of the process: it may write a core file
REQUEST_S = 1.0  # one look at /health
STOP_GRACE_S = 2.0  # an idle llama-server ends within 0.1 s
MAX_LINES = 2000  # a load with all details has 200
MAX_ANSWER_BYTES = 512 * 1024  # a vector of 8192 numbers has 170 KB
_QUESTION: dict[str, Any] = {
    "prompt": PROMPT,
    "n_predict": len(ANSWER),
    "temperature": 0.0,
    "cache_prompt": False,
    "n_probs": 1,
}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a load. Without a fault and in time there is an answer."""

    lines: tuple[str, ...]  # its output
    load_s: float | None = None  # from its start until it was ready; None: it never was
    answer: str | None = None
    fault: ErrorView | None = None  # it ended by itself
    timed_out: bool = False
    worked: bool = False  # the answer is one: at least a token, or a vector of plain numbers


@dataclass(frozen=True, slots=True)
class Trial:
    """How a model is to be tried, where it is not the smallest question to the model alone."""

    embedding: bool = False  # it is asked for a vector
    more: tuple[str, ...] = ()  # arguments for the server: `--mmproj`, `--lora`


def try_load(
    server: Path,
    model: Path,
    gpu_layers: int,
    deadline: float,
    registry: ChildRegistry | None,
    check: Callable[[], None],
    log_path: Path | None,
    trial: Trial = Trial(),
) -> Tried:
    """Start `server` with `model`, wait until it is ready, and let it answer.

    The socket lies beside the model. `deadline` is a time of `time.monotonic`; what runs then is
    killed. Its whole tree has ended when this returns. Raises OSError when it cannot be started,
    and what `check` raises.
    """
    lines: deque[str] = deque(maxlen=MAX_LINES)
    endpoint = free_endpoint(model.parent)
    words = (*_arguments(server, model, gpu_layers, endpoint), *trial.more)
    if trial.embedding:
        words = (*words, "--embedding")
    spec = LaunchSpec(words, endpoint.environment, log_path=log_path)
    started = time.monotonic()
    with ChildProcess(
        spec, on_line=lines.append, registry=registry, kind="proof", marker=endpoint.marker
    ) as child:
        watch = _Watch(child, deadline, check)
        try:
            load_s, answer, worked = _converse(child, endpoint, started, trial)
        finally:
            watch.end()
        returncode = child.poll() if answer is not None else child.wait(CRASH_S)
        if returncode is None:
            child.stop(STOP_GRACE_S)
    timed_out = watch.timed_out
    # A child that is there but answers nothing of use is judged by its (missing) answer.
    ended = returncode is not None and not timed_out and answer is None
    fault = read_fault(tuple(lines), returncode).error if ended else None
    return Tried(tuple(lines), load_s, answer, fault, timed_out, worked)


def _arguments(server: Path, model: Path, gpu_layers: int, endpoint: Endpoint) -> tuple[str, ...]:
    words = [str(server), "--model", str(model), "--ctx-size", str(CONTEXT), "--fit", "off"]
    words += ["--gpu-layers", str(gpu_layers), "--parallel", "1", "--no-warmup", "--offline"]
    words += ["--cors-origins", "localhost", "--verbosity", LOAD_DETAILS]
    if endpoint.socket_path:
        return (*words, "--host", str(endpoint.socket_path))
    return (*words, "--host", "127.0.0.1", "--port", str(endpoint.port))


class _Watch:
    """Ends a child at a deadline or a cancel, whatever its client waits for just then."""

    def __init__(self, child: ChildProcess, deadline: float, check: Callable[[], None]) -> None:
        self.timed_out = False
        self._child, self._deadline, self._check = child, deadline, check
        self._done = threading.Event()
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="proof-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop watching; raises what `check` raised."""
        self._done.set()
        self._thread.join()
        if self._raised is not None:
            raise self._raised

    def _run(self) -> None:
        while not self._done.wait(CHECK_S):
            try:
                self._check()
            except BaseException as exc:  # noqa: BLE001 - carried to the caller's thread
                self._raised = exc
            self.timed_out = time.monotonic() > self._deadline
            if self._raised is not None or self.timed_out:
                with contextlib.suppress(TimeoutError):  # who leaves the child's block is told
                    self._child.stop(grace_s=0)
                return


def _converse(
    child: ChildProcess, endpoint: Endpoint, started: float, trial: Trial
) -> tuple[float | None, str | None, bool]:
    """(seconds until it was ready, its answer, whether it is one); None for what did not come."""
    while child.poll() is None:
        status, _ = _ask(endpoint, "GET", "/health", None, REQUEST_S)
        if status == 200:
            break
        child.wait(POLL_S)
    else:
        return None, None, False
    load_s = time.monotonic() - started
    path, wish = "/completion", _QUESTION
    if trial.embedding:
        path, wish = "/embedding", {"content": PROMPT}
    # No limit of its own: the watch ends the child, and that ends the connection.
    status, body = _ask(endpoint, "POST", path, json.dumps(wish), None)
    if status is None:
        return load_s, None, False
    try:
        answer = _vector(json.loads(body)) if trial.embedding else _words(json.loads(body))
    except (ValueError, KeyError, TypeError, IndexError):
        return load_s, f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}", False
    return load_s, *answer


def _words(answer: Any) -> tuple[str, bool]:
    """What it wrote; a model whose numbers are NaN writes too, with a log probability of null."""
    told = answer.get("completion_probabilities") or [{}]
    probability = told[0].get("logprob", 0.0)
    return str(answer["content"]), answer.get("tokens_predicted", 1) > 0 and probability is not None


def _vector(answer: Any) -> tuple[str, bool]:
    """The vector of `/embedding`: one, or one for each token where the model does not pool."""
    numbers = answer[0]["embedding"][0]
    good = numbers and all(isinstance(x, int | float) for x in numbers) and any(numbers)
    return f"A vector of {len(numbers)} numbers.", bool(good)


def _ask(
    endpoint: Endpoint, method: str, path: str, body: str | None, timeout_s: float | None
) -> tuple[int | None, bytes]:
    """(HTTP status, body) of one request; (None, b"") when no answer came."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("localhost")
    try:
        connection.sock = _connected(endpoint, timeout_s)
        headers = {"Content-Type": "application/json"} if body else {}
        headers |= endpoint.headers
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_ANSWER_BYTES)
    except (OSError, HTTPException):
        return None, b""
    finally:
        connection.close()


def _connected(endpoint: Endpoint, timeout_s: float | None) -> socket.socket:
    if sys.platform == "win32" or endpoint.socket_path is None:
        return socket.create_connection(("127.0.0.1", endpoint.port or 0), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(endpoint.socket_path))
    except BaseException:
        connection.close()
        raise
    return connection
