"""Engine states for tests of the tray, and a stand-in engine that shows any of them.

The states are made from the engine's own value classes, so that a change of the contract
breaks these tests. The real engine is used by `tests/e2e/test_tray.py`.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tray_app.engine.downloads.values import Download, DownloadState
from tray_app.engine.errors import ErrorView
from tray_app.engine.values import (
    GatewayStatus,
    Job,
    JobState,
    Memory,
    Model,
    ModelKind,
    ModelState,
    ModelStatus,
    RuntimeStatus,
    ServerState,
    Snapshot,
    to_json,
)

TOKEN = "token-of-the-stand-in"


def model(name: str, **changes: Any) -> Model:
    """A chat model called `name`."""
    path = Path("/models") / f"{name[:40]}.gguf"
    base = Model(
        id=f"herd/{name}",
        name=name,
        publisher="herd",
        path=path,
        folder=path.parent,
        size_bytes=1 << 30,
        shard_count=1,
        modified_at=0.0,
        quantization="Q4_K_M",
        kind=ModelKind.CHAT,
    )
    return replace(base, **changes)


def status(name: str, state: ModelState, **changes: Any) -> ModelStatus:
    """The status of the model that `model(name)` makes."""
    return ModelStatus(f"herd/{name}", state, **changes)


def failure(message: str = "It needs 9 GB.", remedy: str = "Choose a smaller one.") -> ErrorView:
    return ErrorView("model_failed", message, remedy)


def job(state: JobState, **changes: Any) -> Job:
    """A build of llama.cpp."""
    base = Job("job-1", "build_runtime", "Building llama.cpp", state, total=100, unit="steps")
    return replace(base, **changes)


def download(state: DownloadState, **changes: Any) -> Download:
    """A download of a gigabyte."""
    base = Download("download-1", "herd/Woolly-GGUF", "Woolly Q4_K_M", state, total_bytes=10**9)
    return replace(base, **changes)


def snapshot(*models: Model, active: str | None = None, **changes: Any) -> dict[str, Any]:
    """A snapshot as the control API sends it; `active` is the name of a model."""
    base = Snapshot(
        seq=1,
        version="0.0.0",
        pid=1,
        started_at=0.0,
        home=Path("/home"),
        mode="tray",
        server_state=ServerState.STOPPED,
        status_text="No model chosen",
        active_model_id=f"herd/{active}" if active else None,
        recent_model_ids=(),
        gateway=GatewayStatus(),
        runtime=RuntimeStatus(),
        models=models,
        statuses=(),
        folders=(),
        left_out=(),
        scanning=False,
        jobs=(),
        downloads=(),
        memory=Memory(1, 1, 1, 0),
        notices=(),
        settings={"ui": {"close_to_tray": True}},
    )
    return dict(to_json(replace(base, **changes)))


class StandInEngine:
    """The control API over a state that the test sets. Its process is one that only sleeps."""

    def __init__(self, home: Path) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failures: dict[str, dict[str, str]] = {}  # by command
        self._home = home
        self._snapshot = snapshot()
        self._streams: list[queue.SimpleQueue[tuple[int, str, Any] | None]] = []
        self._lock = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        )
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                """No access log among the test's output."""

            def do_GET(self) -> None:
                assert self.headers["Authorization"] == f"Bearer {TOKEN}"
                if self.path.startswith("/api/events"):
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.end_headers()
                    engine._stream(self)
                elif self.path == "/api/ping":
                    engine._answer(self, True)
                else:
                    engine._answer(self, engine._snapshot)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                engine._call(self, body["name"], body["args"])

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # The default looks every 0.5 s whether it should stop.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self._runtime_file = home / "runtime.json"
        row = {
            "pid": self.process.pid,
            "create_time": 0.0,
            "control_port": self._server.server_port,
            "token": TOKEN,
            "version": "0.0.0",
            "started_at": 0.0,
        }
        self._runtime_file.write_text(json.dumps(row), encoding="utf-8")

    def show(self, state: Mapping[str, Any], event: str = "LibraryChanged") -> None:
        """Let the engine be in `state` and say so."""
        with self._lock:
            self._snapshot = {**state, "seq": self._snapshot["seq"] + 1}
        self.emit(event, {})

    def emit(self, event: str, values: Any) -> None:
        """Send one event to all who listen."""
        with self._lock:
            for stream in self._streams:
                stream.put((self._snapshot["seq"], event, values))

    def listeners(self) -> int:
        """How many event streams are open."""
        with self._lock:
            return len(self._streams)

    def stop(self, say_so: bool = False) -> None:
        """End as an engine does: `say_so` announces it, otherwise it is a crash."""
        self._runtime_file.unlink(missing_ok=True)
        if say_so:
            self.emit("EngineStopping", {})
        with self._lock:
            streams, self._streams = self._streams, []
        for stream in streams:
            stream.put(None)
        self._server.shutdown()
        self._server.server_close()
        self.process.kill()
        with self.process:
            """Reaped, and its pipe is closed."""

    def _answer(self, handler: BaseHTTPRequestHandler, value: Any, ok: bool = True) -> None:
        data = json.dumps({"ok": ok, "value" if ok else "error": value}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _call(self, handler: BaseHTTPRequestHandler, name: str, args: dict[str, Any]) -> None:
        self.calls.append((name, args))
        if name in self.failures:
            self._answer(handler, self.failures[name], ok=False)
            return
        self._answer(handler, None)
        if name == "show_window":
            self.emit("WindowRequested", args)
        elif name == "shutdown":
            threading.Thread(target=self.stop, args=(True,), daemon=True).start()

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        mine: queue.SimpleQueue[tuple[int, str, Any] | None] = queue.SimpleQueue()
        with self._lock:
            self._streams.append(mine)
        handler.wfile.write(b": ping\n\n")
        while (item := mine.get()) is not None:
            seq, event, values = item
            text = f"id: {seq}\nevent: {event}\ndata: {json.dumps(values)}\n\n"
            handler.wfile.write(text.encode())


@contextmanager
def stand_in_engine(home: Path) -> Iterator[StandInEngine]:
    """A stand-in engine for the tray of `home`."""
    engine = StandInEngine(home)
    try:
        yield engine
    finally:
        if engine.process.returncode is None:
            engine.stop()
